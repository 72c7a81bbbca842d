//! What a [barrier](super::barrier) needs of the system, in a model: a fence on both sides, as loom has no membarrier(2).
//!
//! A model may [refuse](refuse) the barrier from some point on. From then on there is no fence on the side of those who mark,
//! as in the real program, and the wait for pending stores is modeled by what ends it: a [`tick`] of each thread.

use core::cell::Cell;

use super::barrier::{EACH, KERNEL};
use crate::sync::{AtomicU8, AtomicU64, Ordering, fence, global, thread};

std::thread_local! {
    /// That a model does without the barriers of whoever marks or looks, to see it fail. All threads of a model are one.
    pub(crate) static WITHOUT: Cell<bool> = const { Cell::new(false) };
    /// Whether each thread has its own barriers from the start.
    pub(crate) static EACH_ONES_OWN: Cell<bool> = const { Cell::new(false) };
    /// Whether the model refuses the barrier. Others have no mode that changes, which would cost them many more orders.
    static REFUSES: Cell<bool> = const { Cell::new(false) };
    /// Whether the mode changes without a wait, to see a model fail.
    pub(crate) static WITHOUT_DRAIN: Cell<bool> = const { Cell::new(false) };
}

global! {
    MODE: AtomicU8 = AtomicU8::new(KERNEL)
}

global! {
    /// How many waits for pending stores have begun.
    DRAINS: AtomicU64 = AtomicU64::new(0)
}

global! {
    /// The last of them that the other thread has passed a barrier in.
    PASSED: AtomicU64 = AtomicU64::new(0)
}

/// Begins a model in which membarrier(2) is refused from now on.
#[cfg(test)]
pub(crate) fn refuse() {
    REFUSES.set(true);
}

/// Ends it.
#[cfg(test)]
pub(crate) fn allow() {
    REFUSES.set(false);
}

/// A point at which the other thread of the model has no pending stores: as by a timer interrupt, or as it has ended.
#[cfg(test)]
pub(crate) fn tick() {
    // Another access to what others read would order this thread: the fence comes first.
    fence(Ordering::SeqCst);
    let drain = DRAINS.load(Ordering::SeqCst);
    fence(Ordering::SeqCst);
    PASSED.store(drain, Ordering::SeqCst);
}

/// The last [`tick`] of the other thread.
#[cfg(test)]
pub(crate) fn end() {
    fence(Ordering::SeqCst);
    PASSED.store(u64::MAX, Ordering::SeqCst);
}

pub(super) fn mode() -> u8 {
    match (EACH_ONES_OWN.get(), REFUSES.get()) {
        (true, _) => EACH,
        (false, false) => KERNEL,
        (false, true) => MODE.load(Ordering::Relaxed),
    }
}

pub(super) fn change_mode(from: u8, to: u8) {
    match MODE.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) | Err(_) => {}
    }
}

pub(super) fn register() -> bool {
    true
}

pub(super) fn run() -> bool {
    !REFUSES.get()
}

pub(super) fn implied() {
    if !EACH_ONES_OWN.get() && !REFUSES.get() && !WITHOUT.get() {
        fence(Ordering::SeqCst);
    }
}

pub(super) fn drain() {
    if WITHOUT_DRAIN.get() {
        return;
    }
    let this = DRAINS.fetch_add(1, Ordering::SeqCst) + 1;
    while PASSED.load(Ordering::SeqCst) < this {
        thread::yield_now();
    }
    fence(Ordering::SeqCst);
}
