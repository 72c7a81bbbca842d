//! One change of a map, from asking the listeners to telling them.

use std::cmp::Ordering::{Greater, Less};
use std::iter::Peekable;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::listener::Listeners;
use super::map::generation_of;
use super::published::{Published, here};
use super::waits::{self, Resource};
use super::{GuestMemoryAtomic, ListenerId, MapError, MapListener, RegionMap};
use crate::guest_memory::{GuestMemoryRegion, GuestRegionCollection};
use crate::{GuestAddress, GuestUsize};

/// What those who change a map have, one at a time.
pub(super) struct Writer<M: RegionMap> {
    published: Arc<Published<M>>,
    listeners: Mutex<Listeners<M::Region>>,
    /// The [thread](here) that has the lock, or 0.
    owner: Arc<AtomicUsize>,
}

impl<M: RegionMap> Writer<M> {
    pub(super) fn new(published: Arc<Published<M>>) -> Self {
        Self { published, listeners: Mutex::new(Listeners::new()), owner: Arc::default() }
    }

    pub(super) fn lock(&self) -> Result<Locked<'_, M::Region>, MapError> {
        let thread = here();
        // Relaxed: only this thread stores this number.
        if self.owner.load(Ordering::Relaxed) == thread {
            return Err(MapError::Nested);
        }
        // Also for changes that do not wait for guards: whoever has the lock may be waiting for this one.
        if self.published.is_read_by(thread) {
            return Err(MapError::GuardHeld);
        }
        // What a listener has left behind that panicked is whole: see `Accepted`.
        let listeners = match self.listeners.try_lock() {
            Ok(listeners) => listeners,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let resource = Resource::Lock(Arc::clone(&self.owner));
                let beginning = waits::begin();
                beginning.check(thread, &resource)?;
                let _wait = beginning.note(thread, resource);
                self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        self.owner.store(thread, Ordering::Relaxed);
        Ok(Locked { owner: &self.owner, listeners })
    }
}

impl<M: RegionMap> Drop for Writer<M> {
    fn drop(&mut self) {
        let listeners = self.listeners.get_mut().unwrap_or_else(PoisonError::into_inner);
        listeners.removed(self.published.snapshot().arc_regions());
    }
}

pub(super) struct Locked<'a, R> {
    owner: &'a AtomicUsize,
    pub(super) listeners: MutexGuard<'a, Listeners<R>>,
}

impl<R> Drop for Locked<'_, R> {
    fn drop(&mut self) {
        self.owner.store(0, Ordering::Relaxed);
    }
}

impl<M: RegionMap> GuestMemoryAtomic<M> {
    /// Puts the memory that `change` makes of the present one in its place, in one step. What is in one and not in the other
    /// is added and removed:
    ///
    /// 1. each listener is asked whether it takes what is new; if one refuses, nothing has changed;
    /// 2. the new memory is published;
    /// 3. if something was removed: when the last guard is dropped that may have it, each listener is told. It stays mapped
    ///    if there are snapshots that have it.
    ///
    /// Where nothing is added or removed, nothing happens.
    ///
    /// ```
    /// use memory_model::atomic::MapError;
    /// use memory_model::{GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap};
    ///
    /// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
    /// let dimms = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)])?;
    /// // Both, or none.
    /// let before = map.generation();
    /// map.update(|mem| dimms.arc_regions().iter().try_fold(mem.clone(), |mem, dimm| mem.insert_region(dimm.clone())))?;
    /// assert_eq!(map.memory().num_regions(), 3);
    /// assert_ne!(map.generation(), before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `change`; [`MapError::Replaced`]; [`MapError::Refused`]; [`MapError::Nested`]; [`MapError::GuardHeld`], also
    /// if `change`, or a listener in `added`, has made a guard that is not dropped yet; [`MapError::Deadlock`]. Nothing has changed then.
    ///
    /// # Panics
    ///
    /// If `change` or a listener panics. All other listeners are still called.
    pub fn update<E: Into<MapError>>(&self, change: impl FnOnce(&M) -> Result<M, E>) -> Result<(), MapError> {
        self.change(|memory, _| Ok((change(memory).map_err(Into::into)?, ())))
    }

    /// `change` makes a new memory of the present one, perhaps of what is left of an older one.
    fn change<T>(&self, change: impl FnOnce(&M, Option<M>) -> Result<(M, T), MapError>) -> Result<T, MapError> {
        let mut locked = self.writer.lock()?;
        let old = self.published.snapshot();
        let (new, answer) = change(&old, self.published.take_unused())?;
        let (added, removed) = differences(old.arc_regions(), new.arc_regions());
        check_places(&added, &removed)?;
        if added.is_empty() && removed.is_empty() {
            return Ok(answer);
        }
        let accepted = locked.listeners.added(&added)?;
        let (generation, thread) = (generation_of(&new), here());
        // Of the old map, by `change` or a listener: it would be waited for, now or by another thread's change.
        if self.published.is_read_by(thread) {
            return Err(MapError::GuardHeld);
        }
        // The next change gives up the old map, which has nothing that the new one has not.
        if removed.is_empty() {
            self.published.publish(generation, new);
            accepted.keep();
            return Ok(answer);
        }
        // Before publishing, as there is no way back then. Threads that begin to wait afterwards find this one waiting.
        let beginning = waits::begin();
        beginning.check(thread, &Resource::Guards(self.published.guards()))?;
        self.published.publish(generation, new);
        let wait = beginning.note(thread, Resource::Guards(self.published.older_guards()));
        accepted.keep();
        // Or it would keep what is removed.
        drop(old);
        self.published.give_up();
        drop(wait);
        locked.listeners.removed(&removed);
        Ok(answer)
    }

    /// Tells a listener of all regions, and from now on of each change.
    ///
    /// # Errors
    ///
    /// [`MapError::Refused`] if it does not take one: it is told that those are gone that it took, and dropped.
    /// [`MapError::Nested`]; [`MapError::GuardHeld`].
    pub fn register(&self, listener: Box<dyn MapListener<M::Region>>) -> Result<ListenerId, MapError> {
        self.writer.lock()?.listeners.register(listener, self.memory().arc_regions())
    }

    /// Tells a listener that all regions are gone, and no more; and answers it.
    ///
    /// # Errors
    ///
    /// [`MapError::NoListener`]; [`MapError::Nested`]; [`MapError::GuardHeld`].
    pub fn unregister(&self, id: ListenerId) -> Result<Box<dyn MapListener<M::Region>>, MapError> {
        self.writer.lock()?.listeners.unregister(id, self.memory().arc_regions())
    }
}

impl<R: GuestMemoryRegion> GuestMemoryAtomic<GuestRegionCollection<R>> {
    /// Adds a region. Does not wait for readers: those that look afterwards find it.
    ///
    /// # Errors
    ///
    /// [`MapError::Region`] as for [`GuestRegionCollection::insert_region`]; else as for [`update`](Self::update).
    pub fn insert_region(&self, region: Arc<R>) -> Result<(), MapError> {
        self.change(|memory, older| Ok((memory.insert_region_reusing(older.unwrap_or_default(), region)?, ())))
    }

    /// Removes the region of `size` bytes at `base`, and answers it. When this returns, no guard has it, and no listener;
    /// snapshots may, and [buffers](crate::buffers) that are pinned or owned. If [`Arc::strong_count`] is 1, nobody has, and
    /// to drop it unmaps it.
    ///
    /// # Errors
    ///
    /// [`MapError::Region`] as for [`GuestRegionCollection::remove_region`]: a region can only be removed as a whole. Else
    /// as for [`update`](Self::update).
    pub fn remove_region(&self, base: GuestAddress, size: GuestUsize) -> Result<Arc<R>, MapError> {
        self.change(|memory, _| Ok(memory.remove_region(base, size)?))
    }
}

type Regions<R> = Vec<Arc<R>>;

/// What is in `new` and not in `old`, and the other way round; by ascending address, as these are.
fn differences<R: GuestMemoryRegion>(old: &[Arc<R>], new: &[Arc<R>]) -> (Regions<R>, Regions<R>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let take = |from: &mut Peekable<std::slice::Iter<'_, Arc<R>>>, to: &mut Regions<R>| to.extend(from.next().cloned());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return (added, removed),
            (Some(_), None) => take(&mut old, &mut removed),
            (None, Some(_)) => take(&mut new, &mut added),
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {
                old.next();
                new.next();
            }
            (Some(before), Some(after)) => {
                let order = before.start_addr().cmp(&after.start_addr());
                if order != Greater {
                    take(&mut old, &mut removed);
                }
                if order != Less {
                    take(&mut new, &mut added);
                }
            }
        }
    }
}

/// That nothing that is added lies where something is that is removed.
fn check_places<R: GuestMemoryRegion>(added: &[Arc<R>], removed: &[Arc<R>]) -> Result<(), MapError> {
    for new in added {
        let above = removed.partition_point(|old| old.last_addr() < new.start_addr());
        if let Some(old) = removed.get(above).filter(|old| old.start_addr() <= new.last_addr()) {
            let ends = |region: &Arc<R>| (region.start_addr(), region.last_addr());
            return Err(MapError::Replaced { new: ends(new), old: ends(old) });
        }
    }
    Ok(())
}
