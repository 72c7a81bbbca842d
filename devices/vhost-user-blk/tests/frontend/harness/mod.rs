//! The front-end: a small VMM that is to the daemon what QEMU is, or worse.
//!
//! | module     | what it is                                                                   |
//! |------------|------------------------------------------------------------------------------|
//! | [`daemon`] | the daemon's process, and what is seen of it from outside                    |
//! | [`wire`]   | messages, good and bad                                                       |
//! | [`ram`]    | guest memory in files                                                        |
//! | [`event`]  | notifications                                                                |
//! | [`queue`]  | a disk's queue as a guest drives it                                          |
//! | [`guest`]  | a whole session, in the order in which QEMU does it                          |

pub(crate) mod daemon;
pub(crate) mod event;
pub(crate) mod guest;
pub(crate) mod queue;
pub(crate) mod ram;
pub(crate) mod wire;

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it is time to end, for a thread that works until then: when the other end is dropped, in a panic, too.
pub(crate) struct Until<'a>(pub(crate) &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
