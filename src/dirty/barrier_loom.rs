//! The [barrier](super::barrier) in a model: a fence on both sides, as loom knows no membarrier(2).

use core::cell::Cell;

use crate::sync::{Ordering, fence};

std::thread_local! {
    /// That a model does without the barriers of whoever marks or looks, to see it fail. All threads of a model are one.
    pub(crate) static WITHOUT: Cell<bool> = const { Cell::new(false) };
    /// What [`is_each_ones_own`] answers.
    pub(crate) static EACH_ONES_OWN: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn prepare() {}

pub(super) fn is_each_ones_own() -> bool {
    EACH_ONES_OWN.get()
}

pub(crate) fn own() {
    if !WITHOUT.get() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) fn implied() {
    if !is_each_ones_own() {
        own();
    }
}

pub(crate) fn all_threads() -> bool {
    fence(Ordering::SeqCst);
    true
}
