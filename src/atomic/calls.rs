//! Calls of users' code that all have to be made, also if one panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{mem, thread};

/// Panic of the first call that panicked.
#[derive(Default)]
pub(super) struct Calls(Option<Box<dyn Any + Send>>);

impl Calls {
    /// Makes a call, and goes on if it panics.
    pub(super) fn call(&mut self, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            match self.0 {
                None => self.0 = Some(panic),
                // Its destructor is the user's, too, and may panic.
                Some(_) => mem::forget(panic),
            }
        }
    }

    /// Goes on with the first panic; unless this thread is panicking already, as a second one would end the process.
    pub(super) fn finish(self) {
        match self.0 {
            Some(panic) if thread::panicking() => mem::forget(panic),
            Some(panic) => resume_unwind(panic),
            None => {}
        }
    }
}
