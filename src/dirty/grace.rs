//! When nobody uses any more what was taken away.
//!
//! A thread that marks says so in a place of its own, and nobody else waits for it or makes it wait. Whoever has taken
//! something away runs a barrier, and waits until each thread that was marking then has finished.

use std::cell::Cell;
use std::sync::PoisonError;

use super::barrier;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, global, per_thread, thread};

/// A thread's place. They are kept for other threads when theirs ends: there are as many as there were threads at once.
#[derive(Default)]
#[repr(align(64))] // written at each mark, by one thread
struct Place {
    /// Odd while the thread marks.
    turns: AtomicU64,
    taken: AtomicBool,
}

global! {
    /// All places.
    PLACES: Mutex<Vec<&'static Place>> = Mutex::new(Vec::new())
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
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    // Acquire: the turns that the thread before has written.
    let free = |place: &&&Place| !place.taken.swap(true, Ordering::Acquire);
    let place = places.iter().find(free).copied().unwrap_or_else(|| {
        let place: &'static Place = Box::leak(Box::default());
        place.taken.store(true, Ordering::Relaxed);
        places.push(place);
        place
    });
    drop(places);
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
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let uses = places.iter().map(|&place| Use { place, turn: place.turns.load(Ordering::Acquire) });
    uses.filter(|one| one.turn & 1 == 1).collect()
}

/// Waits until nobody uses what was taken away before. Answers whether it is so: as [`barrier::all_threads`].
pub(super) fn wait() -> bool {
    let sure = barrier::all_threads();
    for one in under_way() {
        while !one.is_over() {
            thread::yield_now();
        }
    }
    sure
}
