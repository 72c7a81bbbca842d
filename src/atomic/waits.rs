//! Which thread waits for which while maps are changed, so that a wait that would never end is an error.
//!
//! A thread waits for the thread that changes a map, or for those that hold guards of one. Both are looked up in what those
//! threads write anyway; here is only who waits. All waits begin under one lock: of the threads that would wait for each
//! other, the last one finds the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MapError;
use super::published::Held;

/// The threads that wait.
static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

struct Waiting {
    thread: usize,
    resource: Resource,
}

/// What a thread waits for.
#[derive(Clone)]
pub(super) enum Resource {
    /// The lock of a map's changes: its owner.
    Lock(Arc<AtomicUsize>),
    /// The end of guards.
    Guards(Held),
}

impl Resource {
    fn is_held_by(&self, thread: usize) -> bool {
        match self {
            // The threads that matter wait, and so have stored this before they have taken the lock of `WAITING`.
            Self::Lock(owner) => owner.load(Ordering::Relaxed) == thread,
            Self::Guards(held) => held.is_by(thread),
        }
    }
}

/// Keeps others from beginning to wait.
pub(super) struct Beginning(MutexGuard<'static, Vec<Waiting>>);

/// Begins a wait of this `thread`: nobody else begins one until this is dropped, or until the wait is [noted](Beginning::note).
pub(super) fn begin() -> Beginning {
    Beginning(WAITING.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Beginning {
    /// Checks that `resource` is not held by a thread that waits for `thread`, itself or by way of others.
    pub(super) fn check(&self, thread: usize, resource: &Resource) -> Result<(), MapError> {
        let mut left: Vec<&Waiting> = self.0.iter().collect();
        let mut waited_for = vec![resource];
        while let Some(resource) = waited_for.pop() {
            let (holders, others) = left.into_iter().partition(|one| resource.is_held_by(one.thread));
            left = others;
            let holders: Vec<&Waiting> = holders;
            if holders.iter().any(|one| one.resource.is_held_by(thread)) {
                return Err(MapError::Deadlock);
            }
            waited_for.extend(holders.into_iter().map(|one| &one.resource));
        }
        Ok(())
    }

    /// Notes that `thread` waits, until what this returns is dropped.
    pub(super) fn note(mut self, thread: usize, resource: Resource) -> Wait {
        self.0.push(Waiting { thread, resource });
        Wait(thread)
    }
}

/// A wait, until it is dropped.
#[must_use = "the wait is over as soon as it is dropped"]
pub(super) struct Wait(usize);

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        // The last of this thread's: a wait may begin within another, in the destructor of a region.
        if let Some(at) = waiting.iter().rposition(|one| one.thread == self.0) {
            waiting.remove(at);
        }
    }
}
