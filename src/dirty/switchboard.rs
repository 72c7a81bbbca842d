//! What a tracker marks in, and how that changes while others mark.

#![expect(unsafe_code, reason = "what is attached may be taken away while others mark")]

use std::ptr;
use std::sync::{Arc, OnceLock, PoisonError};

use super::sink::mark_from;
use super::tracker::PAGE_SHIFT;
use super::{DirtyBitmap, Error, Harvest, Sink, Tracker, barrier, grace};
use crate::sync::{AtomicBool, AtomicPtr, Mutex, MutexGuard, Ordering};

/// What a tracker marks in.
#[derive(Debug)]
pub(super) struct Switchboard {
    base: u64,
    /// The region's own bitmap, shared by its logs.
    bitmap: OnceLock<DirtyBitmap>,
    /// The logs, each with the pages that were taken from the own bitmap and that it has not harvested yet. Locked by
    /// whoever takes from the own bitmap, or changes what is attached.
    logs: Mutex<Vec<Arc<DirtyBitmap>>>,
    /// Null, or a box that is this board's until it is replaced; then it is freed after a grace period.
    sinks: AtomicPtr<Vec<Sink>>,
    /// Whether all marks have barriers of their own, and no thread goes by an older switch. Once set, it stays.
    settled: AtomicBool,
}

impl Switchboard {
    /// Of a tracker whose marks have barriers of their own already, or not.
    pub(super) fn new(base: u64, settled: bool) -> Self {
        let sinks = AtomicPtr::new(ptr::null_mut());
        let settled = AtomicBool::new(settled);
        Self { base, bitmap: OnceLock::new(), logs: Mutex::default(), sinks, settled }
    }

    fn logs(&self) -> MutexGuard<'_, Vec<Arc<DirtyBitmap>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks wherever there is something to be marked in. Without a log, that the own bitmap is marked, too, does no harm:
    /// the next log begins with what is there.
    pub(super) fn mark(&self, start: u64, len: u64) {
        if let Some(bitmap) = self.bitmap.get() {
            mark_from(bitmap, self.base, start, len);
        }
        if self.sinks.load(Ordering::Relaxed).is_null() {
            return;
        }
        let _guard = grace::enter();
        // Acquire: what it points to was written before. Pairs with `Retired::replace`.
        let sinks = self.sinks.load(Ordering::Acquire);
        // SAFETY: null, or a box that is freed only when all guards are gone that were there when it was replaced
        // (`Retired`), and this was read under one.
        for sink in unsafe { sinks.as_ref() }.into_iter().flatten() {
            sink.mark(start, len);
        }
    }

    /// Takes what is dirty in the own bitmap, and gives it to all logs but the one that it answers it to.
    fn take(&self, logs: &[Arc<DirtyBitmap>], to: Option<&Arc<DirtyBitmap>>) -> Vec<(u64, u64)> {
        let words = self.bitmap.get().map(Harvest::take_bits).unwrap_or_default();
        for log in logs.iter().filter(|log| to.is_none_or(|to| !Arc::ptr_eq(log, to))) {
            for &(word, bits) in &words {
                log.mark_word(word, bits);
            }
        }
        words
    }

    /// Has the tracker mark in what is attached now.
    fn publish(&self, tracker: &Tracker, logs: &[Arc<DirtyBitmap>]) {
        let sinks = !self.sinks.load(Ordering::Acquire).is_null();
        let own = self.bitmap.get().filter(|_| !logs.is_empty());
        let alone = own.filter(|_| !sinks && !barrier::is_each_ones_own());
        // SAFETY: the board has one bitmap for ever, made with such pages, and lives as long as the tracker.
        unsafe { tracker.switch(sinks || own.is_some(), alone) };
    }
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        let sinks = self.sinks.load(Ordering::Relaxed);
        if !sinks.is_null() {
            // SAFETY: the box is this board's, and nobody can mark by it any more.
            drop(unsafe { Box::from_raw(sinks) });
        }
    }
}

impl Tracker {
    /// Marks writes in one more bitmap. When it returns, every write is marked there whose data was not there before. A
    /// bitmap that is attached already is so once, with the new base.
    pub fn attach(&self, sink: Sink) {
        Self::attach_all([(self, sink)]);
    }

    /// As [`attach`](Self::attach), for many trackers, in one go.
    pub fn attach_all<'a>(sinks: impl IntoIterator<Item = (&'a Self, Sink)>) {
        let mut retired = Retired::default();
        for (tracker, sink) in sinks {
            retired.replace(tracker, |sinks| {
                sinks.retain(|other| !other.is(&sink));
                sinks.push(sink);
            });
        }
    }

    /// Marks no more writes in a bitmap. When it returns, nobody touches the bitmap on account of this tracker.
    pub fn detach(&self, sink: &Sink) {
        Self::detach_all([(self, sink)]);
    }

    /// As [`detach`](Self::detach), for many trackers, in one go.
    pub fn detach_all<'a>(sinks: impl IntoIterator<Item = (&'a Self, &'a Sink)>) {
        let mut retired = Retired::default();
        for (tracker, sink) in sinks {
            retired.replace(tracker, |sinks| sinks.retain(|other| !other.is(sink)));
        }
    }

    /// Marks writes in one bitmap instead of another, each write in at least one of them.
    pub fn replace(&self, old: &Sink, new: Sink) {
        Self::replace_all([(self, old, new)]);
    }

    /// As [`replace`](Self::replace), for many trackers, in one go.
    pub fn replace_all<'a>(sinks: impl IntoIterator<Item = (&'a Self, &'a Sink, Sink)>) {
        let mut retired = Retired::default();
        for (tracker, old, new) in sinks {
            retired.replace(tracker, |sinks| {
                sinks.retain(|other| !other.is(old) && !other.is(&new));
                sinks.push(new);
            });
        }
    }

    /// Begins logs, each of a tracker whose memory has as many bytes as the bitmap says. What was written before is in none.
    /// A log of another length than the tracker's first one is an error: the tracker belongs to another region.
    pub(crate) fn start_logs<'a>(logs: impl IntoIterator<Item = (&'a Self, Arc<DirtyBitmap>)>) -> Result<(), Error> {
        let mut started = Vec::new();
        for (tracker, log) in logs {
            let board = tracker.board_or_new();
            let mut logs = board.logs();
            let made = match board.bitmap.get() {
                Some(bitmap) if bitmap.len() == log.len() => Ok(()),
                Some(_) => {
                    let last = tracker.base().wrapping_add(log.len()).wrapping_sub(1);
                    Err(Error::OtherTracker { region: (tracker.base(), last) })
                }
                // Nobody else sets it, under the lock.
                None => DirtyBitmap::new(log.len(), 1 << PAGE_SHIFT).map(|bitmap| drop(board.bitmap.set(bitmap))),
            };
            if let Err(error) = made {
                drop(logs);
                Self::stop_logs(started.iter().map(|(tracker, log): &(&Self, Arc<_>)| (*tracker, log)));
                return Err(error);
            }
            // What is there belongs to the logs before, or to nobody.
            board.take(&logs, None);
            logs.push(Arc::clone(&log));
            board.publish(tracker, &logs);
            started.push((tracker, log));
        }
        barrier::all_threads(&started.iter().map(|(tracker, _)| *tracker).collect::<Vec<_>>());
        Ok(())
    }

    /// Ends logs.
    pub(crate) fn stop_logs<'a>(logs: impl IntoIterator<Item = (&'a Self, &'a Arc<DirtyBitmap>)>) {
        for (tracker, log) in logs {
            let Some(board) = tracker.board() else { continue };
            let mut logs = board.logs();
            logs.retain(|other| !Arc::ptr_eq(other, log));
            board.publish(tracker, &logs);
        }
    }

    /// Switches to marks with barriers of their own, as the mode says. Returns whether some threads may still go by an older
    /// switch: until they have passed a barrier, and [`settle`](Self::settle) was called.
    pub(super) fn fence_marks(&self) -> bool {
        // Acquire: pairs with `settle`.
        let board = self.board().filter(|board| !board.settled.load(Ordering::Acquire));
        if let Some(board) = board {
            board.publish(self, &board.logs());
        }
        board.is_some()
    }

    /// All threads have passed a barrier since [`fence_marks`](Self::fence_marks).
    pub(super) fn settle(&self) {
        if let Some(board) = self.board() {
            // Release: pairs with `fence_marks`.
            board.settled.store(true, Ordering::Release);
        }
    }

    /// Takes what is dirty for a log, without a barrier: words by their numbers, ascending, with their bits.
    pub(crate) fn take_for(&self, log: &Arc<DirtyBitmap>) -> Vec<(u64, u64)> {
        self.board().map(|board| board.take(&board.logs(), Some(log))).unwrap_or_default()
    }
}

/// What boards had before, to be freed when nobody uses it any more.
#[derive(Default)]
struct Retired<'a> {
    sinks: Vec<*mut Vec<Sink>>,
    /// Those that have others now.
    trackers: Vec<&'a Tracker>,
}

impl<'a> Retired<'a> {
    /// Gives a tracker other sinks.
    fn replace(&mut self, tracker: &'a Tracker, change: impl FnOnce(&mut Vec<Sink>)) {
        let board = tracker.board_or_new();
        let logs = board.logs();
        let old = board.sinks.load(Ordering::Acquire);
        // SAFETY: null, or a box that only who has the lock replaces, as is done here.
        let mut sinks = unsafe { old.as_ref() }.cloned().unwrap_or_default();
        change(&mut sinks);
        let new = if sinks.is_empty() { ptr::null_mut() } else { Box::into_raw(Box::new(sinks)) };
        // SeqCst: before the barrier in `grace::wait`.
        board.sinks.store(new, Ordering::SeqCst);
        board.publish(tracker, &logs);
        if !old.is_null() {
            self.sinks.push(old);
        }
        self.trackers.push(tracker);
    }
}

impl Drop for Retired<'_> {
    /// Also where there is nothing to free: who attaches wants to be seen.
    fn drop(&mut self) {
        grace::wait(&self.trackers);
        for sinks in self.sinks.drain(..) {
            // SAFETY: a box that was a board's, which has another since, and that all who found it there have let go.
            drop(unsafe { Box::from_raw(sinks) });
        }
    }
}
