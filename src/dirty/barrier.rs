//! A barrier that one thread makes all other threads pass, so that those need none on their fast path.
//!
//! A thread that marks pages looks at bits and switches right after it has written the data. The processor may do this
//! before the data has left its store buffer. A fence in between would cost more than the rest of a mark. So the other side,
//! which is rare, has the kernel run a fence in every thread: membarrier(2). Where the kernel cannot, each mark has its own
//! fence.
//!
//! # When membarrier is refused later
//!
//! A seccomp filter that is installed after [`prepare`] may deny the call. The mode then changes from [`KERNEL`] to
//! [`EACH`], in [`all_threads`] and nowhere else. A fence of the calling thread is not enough at that moment: another thread
//! may have read the old mode, or a switch that was set under it, and has its store still pending. So `all_threads` changes
//! what such threads read first, and then waits until no store and no load from before is pending (`kernel::drain`). See
//! `docs/decisions/0016-a-refused-barrier-is-waited-for.md`.

use core::sync::atomic::compiler_fence;

use super::Tracker;
use crate::sync::{Ordering, fence};

#[cfg(not(loom))]
use super::barrier_linux as kernel;
#[cfg(loom)]
use super::barrier_loom as kernel;

/// Nobody has asked the kernel yet: each thread has its own barriers.
pub(super) const UNKNOWN: u8 = 0;
/// Each thread has its own barriers, for good.
pub(super) const EACH: u8 = 1;
/// The kernel runs the barriers of all threads.
pub(super) const KERNEL: u8 = 2;
/// As [`EACH`], while some threads may still go by [`KERNEL`].
const CHANGING: u8 = 3;

/// Asks the kernel for its barrier. To be called before anything is marked that is harvested or taken away. Costs a system
/// call once.
pub(crate) fn prepare() {
    if kernel::mode() == UNKNOWN {
        let mode = if kernel::register() { KERNEL } else { EACH };
        // If another thread was faster, its answer holds.
        kernel::change_mode(UNKNOWN, mode);
    }
}

/// Returns whether each thread has its own barriers.
#[inline(always)]
pub(super) fn is_each_ones_own() -> bool {
    kernel::mode() != KERNEL
}

/// The barrier of a thread that marks: mostly of the compiler.
#[inline(always)]
pub(crate) fn own() {
    // The mode is read after the data is written: one from before could be that of before a change.
    compiler_fence(Ordering::SeqCst);
    if is_each_ones_own() {
        fence(Ordering::SeqCst);
    } else {
        implied();
    }
}

/// As [`own`], where [`all_threads`] has switched the tracker on in the mode in which each thread has its own barriers.
#[inline(always)]
pub(crate) fn implied() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    kernel::implied();
}

/// Makes all threads pass a barrier. When it returns, the stores that a thread made before its [`own`] barrier are visible, or
/// the thread sees after that barrier all stores that were made before this call.
///
/// `trackers` are those whose switches this call publishes, or whose marks it relies on. If the kernel refuses, each of them
/// is switched to marks with barriers, once; the call then takes 50 ms.
pub(crate) fn all_threads(trackers: &[&Tracker]) {
    fence(Ordering::SeqCst);
    if kernel::mode() == KERNEL {
        if kernel::run() {
            return;
        }
        // Before the trackers are switched: nobody publishes a switch for the old mode after that (`Switchboard::publish`).
        kernel::change_mode(KERNEL, CHANGING);
    }
    let is_changing = kernel::mode() == CHANGING;
    // All of them, also after the first that was not.
    let unsettled = trackers.iter().filter(|tracker| tracker.fence_marks()).count();
    if is_changing || unsettled > 0 {
        fence(Ordering::SeqCst);
        kernel::drain();
        for tracker in trackers {
            tracker.settle();
        }
        kernel::change_mode(CHANGING, EACH);
    }
}
