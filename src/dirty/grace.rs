//! When nobody uses any more what was taken away.
//!
//! A thread that marks says so in a place of its own, and nobody else waits for it or makes it wait. Whoever has taken
//! something away runs a barrier, and waits until each thread that was marking then has finished.
//!
//! After fork(2) the child has one thread. The turns of all others are ended there (`fork.rs`), and no lock is involved that
//! one of them could have had.

#![expect(unsafe_code, reason = "places are in a list that grows without a lock")]

use std::cell::Cell;
use std::{iter, ptr};

use super::{Tracker, barrier};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering, global, per_thread, thread};

/// A thread's place. They are kept for other threads when theirs ends: there are as many as there were threads at once.
#[derive(Default)]
#[repr(align(64))] // written at each mark, by one thread
struct Place {
    /// Odd while the thread marks.
    turns: AtomicU64,
    taken: AtomicBool,
    /// The place that was made before.
    next: Option<&'static Place>,
}

global! {
    /// The place that was made last: null, or one that is never freed.
    PLACES: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut())
}

/// All places.
fn places() -> impl Iterator<Item = &'static Place> {
    // Acquire: pairs with `add_place`.
    let last = PLACES.load(Ordering::Acquire);
    // SAFETY: null, or a leaked box, to which nobody has a unique reference since it is here.
    let mut next = unsafe { last.as_ref() };
    iter::from_fn(move || {
        let place = next?;
        next = place.next;
        Some(place)
    })
}

/// Makes a place, which is taken.
fn add_place() -> &'static Place {
    let new = Box::into_raw(Box::new(Place { taken: AtomicBool::new(true), ..Place::default() }));
    let mut last = PLACES.load(Ordering::Relaxed);
    loop {
        // SAFETY: null, or a place that is never freed.
        let next = unsafe { last.as_ref() };
        // SAFETY: it was made here, and is in no list yet.
        unsafe { (*new).next = next };
        // AcqRel: pairs with `places`, and with itself.
        match PLACES.compare_exchange(last, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as in `places`.
            Ok(_) => return unsafe { &*new },
            Err(other) => last = other,
        }
    }
}

/// Ends the turns of all threads but this one, which do not exist in this process: in the child, after fork(2).
#[cfg(all(target_os = "linux", not(any(miri, loom))))]
pub(super) fn end_turns_of_others() {
    let mine = MINE.try_with(Cell::get).ok().flatten();
    for place in places().filter(|place| !mine.is_some_and(|mine| ptr::eq(mine, *place))) {
        let turn = place.turns.load(Ordering::Relaxed);
        place.turns.store(turn.wrapping_add(turn & 1), Ordering::Relaxed);
        place.taken.store(false, Ordering::Release);
    }
}

per_thread! {
    MINE: Cell<Option<&'static Place>> = Cell::new(None)
}

per_thread! {
    /// Frees the place when the thread ends.
    OWNER: Owner = Owner
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        if let Ok(Some(place)) = MINE.try_with(Cell::take) {
            place.taken.store(false, Ordering::Release);
        }
    }
}

/// While it lives, what was there when it was made is not freed.
pub(crate) struct Guard {
    place: &'static Place,
    /// The place's turns when this is over.
    after: u64,
    /// Whether the place is another thread's after that.
    lent: bool,
}

/// Begins to use what may be taken away.
#[inline(always)]
pub(crate) fn enter() -> Guard {
    let (place, lent) = MINE.with(Cell::get).map_or_else(take_place, |place| (place, false));
    // Nobody else writes it. It is odd already in a mark within a mark: of a signal's handler, or of whoever provides the
    // memory of a log. That of the outermost ends the turn.
    let turn = place.turns.load(Ordering::Relaxed);
    // Release, as in `Guard::drop`: also who sees this and not that sees the use before as over.
    place.turns.store(turn | 1, Ordering::Release);
    // Pairs with `wait`: it sees the turn, or this thread sees what was done before it.
    barrier::own();
    Guard { place, after: turn.wrapping_add((!turn & 1) << 1), lent }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: what was used was used before. Pairs with the load in `wait`.
        self.place.turns.store(self.after, Ordering::Release);
        if self.lent {
            self.place.taken.store(false, Ordering::Release);
        }
    }
}

/// Takes a place that is free, or makes one; answers whether it is lent for one mark only.
#[cold]
fn take_place() -> (&'static Place, bool) {
    super::fork::prepare();
    // Acquire: the turns that the thread before has written.
    let place = places().find(|place| !place.taken.swap(true, Ordering::Acquire)).unwrap_or_else(add_place);
    // A thread that ends may still mark, in the destructor of another thread-local value, when nothing of its own would
    // free the place any more.
    let lent = OWNER.try_with(|_| ()).is_err();
    if !lent {
        MINE.with(|mine| mine.set(Some(place)));
    }
    (place, lent)
}

/// A use that was under way when it was looked for.
pub(crate) struct Use {
    place: &'static Place,
    turn: u64,
}

impl Use {
    pub(crate) fn is_over(&self) -> bool {
        self.place.turns.load(Ordering::Acquire) != self.turn
    }
}

/// The uses that are under way, for whoever has taken something away and run [`barrier::all_threads`]. Those who come later
/// do not find it any more.
pub(crate) fn under_way() -> Vec<Use> {
    let uses = places().map(|place| Use { place, turn: place.turns.load(Ordering::Acquire) });
    uses.filter(|one| one.turn & 1 == 1).collect()
}

/// Waits until nobody uses what was taken away before from these trackers.
pub(super) fn wait(trackers: &[&Tracker]) {
    barrier::all_threads(trackers);
    for one in under_way() {
        while !one.is_over() {
            thread::yield_now();
        }
    }
}
