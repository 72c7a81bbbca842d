//! Atomics and locks: the real ones or, with `--cfg loom`, those of loom, which runs a model's threads in every order that
//! the memory model allows. See the models beside the code (`loom_tests.rs`), and how they are run in `.ci/run`.

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(all(not(loom), feature = "std"))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

/// A variable of the process.
#[cfg(feature = "std")]
macro_rules! global {
    ($(#[$attr:meta])* $name:ident: $type:ty = $init:expr) => {
        #[cfg(loom)]
        loom::lazy_static! { $(#[$attr])* static ref $name: $type = $init; }
        #[cfg(not(loom))]
        $(#[$attr])*
        static $name: $type = $init;
    };
}

/// A variable of each thread.
#[cfg(feature = "std")]
macro_rules! per_thread {
    ($(#[$attr:meta])* $name:ident: $type:ty = $init:expr) => {
        #[cfg(loom)]
        loom::thread_local! { $(#[$attr])* static $name: $type = $init; }
        #[cfg(not(loom))]
        std::thread_local! { $(#[$attr])* static $name: $type = const { $init }; }
    };
}

/// Between an access that is `SeqCst` and another, where their order is what matters: loom takes them for no more than
/// acquiring and releasing.
#[inline(always)]
pub(crate) fn in_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

#[cfg(feature = "std")]
pub(crate) use {global, per_thread};

/// How models are run.
#[cfg(all(test, loom))]
pub(crate) mod models {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::string::String;

    use crate::dirty::barrier_loom::WITHOUT;

    /// Runs a model, in threads that cannot be interrupted more than so many times.
    pub(crate) fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(model);
    }

    /// Sees a model fail in which whoever marks or looks has no barrier: for such a reason. In a process of its own, as loom
    /// ends it.
    ///
    /// `test` is the name of the test that calls this.
    pub(crate) fn fails_without_barrier(test: &str, why: &str, model: impl Fn() + Sync + Send + 'static) {
        fails_without(|| WITHOUT.set(true), test, why, model);
    }

    /// As [`fails_without_barrier`], without what `leave_out` leaves out.
    pub(crate) fn fails_without(
        leave_out: impl FnOnce(),
        test: &str,
        why: &str,
        model: impl Fn() + Sync + Send + 'static,
    ) {
        const CHILD: &str = "WITHOUT_BARRIER";
        if env::var_os(CHILD).is_some() {
            leave_out();
            return check(3, model);
        }
        let mut child = Command::new(env::current_exe().unwrap());
        let ended = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        // What is used after its end is freed memory, also for the process: it may end before loom has noticed (SIGABRT, SIGBUS,
        // SIGSEGV).
        let crashed = matches!(ended.status.signal(), Some(6 | 7 | 11));
        assert!(crashed || !ended.status.success() && said.contains(why), "without it nothing happens: {said}");
    }
}
