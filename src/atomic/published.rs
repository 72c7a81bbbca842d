//! The present map, and who uses which.
//!
//! A reader says in a seat of its own which map it is about to use, looks whether that is still the present one, and says
//! when it is done: two stores, which nobody else waits for. Whoever puts another map in the place of one runs a barrier
//! (`dirty/barrier.rs`) and looks at all seats: who has named the old map there may use it, who names it later finds that
//! it is not the present one. So it is kept until those are done. Where nobody looks, nothing is kept.

#![expect(unsafe_code, reason = "a map is used while another is put in its place")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{mem, ptr};

use crate::dirty::{barrier, grace};
use crate::sync::{self, AtomicPtr, AtomicUsize, Mutex, MutexGuard, Ordering, fence, per_thread, thread};

/// A map that is looked at while another is put in its place.
pub(super) struct Published<M> {
    /// # Invariants
    ///
    /// 1. It is from [`Arc::into_raw`], and owns one of the counts.
    /// 2. When another is stored, that count goes to `retired`, and is given up only when all uses are over that were under
    ///    way then: in a seat, or under a guard of [`grace`].
    current: AtomicPtr<Numbered<M>>,
    seats: Mutex<Vec<Arc<Seat>>>,
    /// Maps that were current, and may be used still. By its type all this goes to other threads only where an `Arc<M>` may.
    retired: Mutex<Vec<Retired<M>>>,
}

/// A map and its number.
#[repr(align(64))] // so that whoever counts the `Arc`s does not disturb those who look
struct Numbered<M> {
    generation: u64,
    map: M,
}

struct Retired<M> {
    map: sync::Arc<Numbered<M>>,
    /// Those of whom it is not known that they have let it go.
    readers: Vec<Arc<Seat>>,
    snapshots: Vec<grace::Use>,
}

impl<M> Retired<M> {
    fn is_used(&mut self) -> bool {
        let map = sync::Arc::as_ptr(&self.map).addr();
        self.readers.retain(|seat| seat.map.load(Ordering::Acquire) == map);
        self.snapshots.retain(|one| !one.is_over());
        !(self.readers.is_empty() && self.snapshots.is_empty())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M> Published<M> {
    pub(super) fn new(generation: u64, map: M) -> Self {
        barrier::prepare();
        Self {
            current: AtomicPtr::new(sync::Arc::into_raw(sync::Arc::new(Numbered { generation, map })).cast_mut()),
            seats: Mutex::default(),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// The present map, for as long as it is wanted.
    pub(super) fn snapshot(&self) -> MemorySnapshot<M> {
        let _guard = grace::enter();
        // Acquire: what it points to was written before. Pairs with `publish`.
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: from `into_raw` (invariant 1); the count is not given up while the guard lives (invariant 2).
        unsafe { sync::Arc::increment_strong_count(current) };
        // SAFETY: from `into_raw`, and one count more was just made for this.
        MemorySnapshot(unsafe { sync::Arc::from_raw(current) })
    }

    /// Puts another map in the place of the present one. One at a time.
    pub(super) fn publish(&self, generation: u64, map: M) {
        let new = sync::Arc::new(Numbered { generation, map });
        // AcqRel: the new map is written before, and the old one was. Pairs with the loads of `current`.
        let old = self.current.swap(sync::Arc::into_raw(new).cast_mut(), Ordering::AcqRel);
        // SAFETY: the count that was `current`'s (invariant 1), which has another's now; it goes to `retired` (2).
        let map = unsafe { sync::Arc::from_raw(old) };
        // From here on, who has not named the old map yet finds the new one.
        barrier::all_threads(&[]);
        let mut retired = Retired { map, readers: lock(&self.seats).clone(), snapshots: grace::under_way() };
        retired.is_used();
        lock(&self.retired).push(retired);
    }

    /// Gives up the maps that were current before and that nobody uses any more, but for one: that is answered, unless
    /// somebody has a snapshot of it.
    pub(super) fn take_unused(&self) -> Option<M> {
        let mut last = None;
        // Those before are dropped here, without a lock.
        for one in self.unused() {
            last = Some(one);
        }
        sync::Arc::try_unwrap(last?).ok().map(|numbered| numbered.map)
    }

    /// Those of the maps that were current before that nobody uses any more, but for snapshots.
    fn unused(&self) -> Vec<sync::Arc<Numbered<M>>> {
        let mut unused = Vec::new();
        let mut retired = lock(&self.retired);
        for mut one in mem::take(&mut *retired) {
            if one.is_used() {
                retired.push(one);
            } else {
                unused.push(one.map);
            }
        }
        unused
    }

    /// Gives up all maps that were current before, when nobody uses them any more.
    pub(super) fn give_up(&self) {
        let mut waited = 0;
        loop {
            drop(self.unused());
            if lock(&self.retired).is_empty() {
                return;
            }
            if waited < 100 || cfg!(loom) {
                waited += 1;
                thread::yield_now();
            } else {
                // Somebody has a long batch, or does not run at the moment.
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Whether a guard lives that was made by the thread.
    pub(super) fn is_read_by(&self, thread: usize) -> bool {
        lock(&self.seats).iter().any(|seat| seat.is_used_by(thread, 0))
    }

    /// The guards that live.
    pub(super) fn guards(&self) -> Held {
        Held { seats: lock(&self.seats).clone(), but: 0 }
    }

    /// The guards that live of maps that were current before.
    pub(super) fn older_guards(&self) -> Held {
        Held { but: self.current.load(Ordering::Relaxed).addr(), ..self.guards() }
    }
}

/// Guards, of whichever threads.
#[derive(Clone)]
pub(super) struct Held {
    seats: Vec<Arc<Seat>>,
    /// The address of the map whose guards are not among them, or 0.
    but: usize,
}

impl Held {
    /// Whether the thread has one of them.
    pub(super) fn is_by(&self, thread: usize) -> bool {
        self.seats.iter().any(|seat| seat.is_used_by(thread, self.but))
    }
}

impl<M> Drop for Published<M> {
    fn drop(&mut self) {
        // SAFETY: from `into_raw`, with a count (invariant 1); nobody can look any more.
        drop(unsafe { sync::Arc::from_raw(self.current.load(Ordering::Relaxed)) });
    }
}

/// A map as it was at a look, for as long as it is wanted: from
/// [`GuestMemoryAtomic::memory`](super::GuestMemoryAtomic::memory). A clone is as cheap as an `Arc`'s.
///
/// What it has stays mapped, and nobody waits for it: also what is removed from the map meanwhile, and no longer the guest's.
///
/// ```
/// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
///
/// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
/// let before = map.memory();
/// let removed = map.remove_region(GuestAddress(0), 0x1000)?;
/// drop(removed);
/// before.write_obj(1_u8, GuestAddress(0))?;
/// assert!(map.memory().write_obj(1_u8, GuestAddress(0)).is_err());
/// assert!(before.generation() < map.memory().generation());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemorySnapshot<M>(sync::Arc<Numbered<M>>);

impl<M> MemorySnapshot<M> {
    /// The map's number: that of the [memory](crate::GuestMemory::generation), or one of its own if that cannot say. Another
    /// map has another, and one that was made later a larger one. Whoever keeps what was found in a map, as translated
    /// addresses, keeps this with it: at another look that finds the same number, all of it holds.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }
}

impl<M> Deref for MemorySnapshot<M> {
    type Target = M;

    #[inline]
    fn deref(&self) -> &M {
        &self.0.map
    }
}

impl<M> Clone for MemorySnapshot<M> {
    fn clone(&self) -> Self {
        Self(sync::Arc::clone(&self.0))
    }
}

impl<M: fmt::Debug> fmt::Debug for MemorySnapshot<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map.fmt(f)
    }
}

/// Where a reader says that it looks.
#[derive(Default)]
#[repr(align(64))] // written at each look, by one thread
struct Seat {
    /// The address of the map that is used; 0 if none is.
    map: AtomicUsize,
    /// The [thread](here) that uses it, or did.
    thread: AtomicUsize,
}

impl Seat {
    /// Whether the thread uses a map, another one than that at the address `but`.
    fn is_used_by(&self, thread: usize, but: usize) -> bool {
        // Acquire: pairs with the fence in `sit_elsewhere`.
        let map = self.map.load(Ordering::Acquire);
        map != 0 && map != but && self.thread.load(Ordering::Relaxed) == thread
    }

    #[cold]
    fn sit_elsewhere(&self, thread: usize) {
        self.thread.store(thread, Ordering::Relaxed);
        // Release: who sees a map that this thread uses sees that it is this thread.
        fence(Ordering::Release);
    }
}

/// The thread, as long as it runs: an address of its own, not 0.
#[inline(always)]
pub(super) fn here() -> usize {
    per_thread! {
        HERE: u8 = 0
    }
    HERE.with(|here| ptr::from_ref(here).addr())
}

/// A thread's own way to a map that changes: from [`GuestMemoryAtomic::reader`](super::GuestMemoryAtomic::reader).
///
/// To look costs two stores to memory that no other thread writes. As long as it does not look, it keeps nothing: no old
/// map, and no region of one. It may go from thread to thread, and outlive the [`GuestMemoryAtomic`](super::GuestMemoryAtomic)s,
/// after which the map stays as it is.
///
/// ```
/// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
///
/// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
/// let mut reader = map.reader();
/// let device = std::thread::spawn(move || {
///     for _ in 0..3 {
///         let mem = reader.read(); // for each batch
///         for at in [0, 8, 16] {
///             mem.write_obj(at, GuestAddress(at))?;
///         }
///     }
///     Ok::<_, memory_model::guest_memory::Error>(())
/// });
/// device.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader<M> {
    published: Arc<Published<M>>,
    /// # Invariants
    ///
    /// It is one of the `published`'s seats, and no other reader's.
    seat: Arc<Seat>,
}

impl<M> Reader<M> {
    pub(super) fn new(published: &Arc<Published<M>>) -> Self {
        let seat = Arc::new(Seat::default());
        lock(&published.seats).push(Arc::clone(&seat));
        Self { published: Arc::clone(published), seat }
    }

    /// The present map, until the guard is dropped. Never waits.
    ///
    /// Whoever removes a region waits for the guard: it is for a batch of requests, not for good. For that there are
    /// snapshots ([`GuestMemoryAtomic::memory`](super::GuestMemoryAtomic::memory)).
    #[inline(always)]
    pub fn read(&mut self) -> MemoryGuard<'_, M> {
        let (seat, thread) = (&*self.seat, here());
        if seat.thread.load(Ordering::Relaxed) != thread {
            seat.sit_elsewhere(thread);
        }
        let present = &self.published.current;
        let mut named = present.load(Ordering::Relaxed).addr();
        let found = loop {
            #[cfg(test)]
            tests::overtake();
            // Nobody else writes it. If a guard was forgotten, it is as if it were dropped now. Release, as when it is dropped:
            // also who sees this and not that.
            seat.map.store(named, Ordering::Release);
            // Pairs with `publish`: that sees this, or what it has published is found below.
            barrier::own();
            // Acquire: what it points to was written before. Pairs with `publish`.
            let found = present.load(Ordering::Acquire);
            if found.addr() == named {
                break found;
            }
            named = found.addr();
        };
        // SAFETY: from `into_raw` (invariant 1), and named in the seat before it was last seen as the present one; so it is not
        // given up while the seat names it (2): until the guard is dropped, or the reader, which the guard borrows, looks again.
        let map = unsafe { &*found };
        MemoryGuard { map, seat, thread: PhantomData }
    }
}

impl<M> Drop for Reader<M> {
    fn drop(&mut self) {
        lock(&self.published.seats).retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        // If a guard was forgotten, nobody waits for it any more.
        self.seat.map.store(0, Ordering::Release);
    }
}

impl<M> fmt::Debug for Reader<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// The map as it was when a [`Reader`] looked, until this is dropped. It stays in its thread.
#[must_use = "the map may change as soon as it is dropped"]
pub struct MemoryGuard<'a, M> {
    map: &'a Numbered<M>,
    seat: &'a Seat,
    /// So that a thread that would wait for itself is found out.
    thread: PhantomData<*const ()>,
}

impl<M> Deref for MemoryGuard<'_, M> {
    type Target = M;

    #[inline(always)]
    fn deref(&self) -> &M {
        &self.map.map
    }
}

impl<M> MemoryGuard<'_, M> {
    /// The map's number: see [`MemorySnapshot::generation`].
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.map.generation
    }
}

impl<M> Drop for MemoryGuard<'_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: what was used was used before. Pairs with the load in `is_used`.
        self.seat.map.store(0, Ordering::Release);
    }
}

impl<M: fmt::Debug> fmt::Debug for MemoryGuard<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.map.map.fmt(f)
    }
}

#[cfg(test)]
#[path = "published_tests.rs"]
mod tests;
