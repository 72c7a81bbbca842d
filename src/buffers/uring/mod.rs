//! Positioned transfers of a file's, many at a time: by `io_uring`, or one by one where there is none.
//!
//! | type           | what it is                                                       |
//! |----------------|------------------------------------------------------------------|
//! | [`FileEngine`] | a file, and the requests that are under way on it                |
//! | [`Completion`] | one that is done: its token, what came of it, and its buffers    |
//! | [`Refused`]    | one that was not taken, with its buffers                         |
//!
//! # Who has the memory meanwhile
//!
//! A request takes [owned buffers](GuestBuffers::owned), and keeps them until the kernel has said that it is done. They keep
//! their regions. So whatever happens, the kernel reads and writes memory that is still there:
//!
//! * a region is removed from the map: it stays mapped until the request is done;
//! * pages of it are unplugged or protected, or their file is truncated: the request ends with an error
//!   ([`Error::Fault`], [`Error::ReadOnly`]), which names the guest address;
//! * the engine is dropped: it cancels what is under way, and waits until the kernel is done with all of it. What cannot be
//!   cancelled, as a transfer from a disk, is waited for, however long that takes;
//! * the engine is forgotten ([`std::mem::forget`]), or the kernel does not let it wait: all that belongs to what was under
//!   way is never freed;
//! * a panic somewhere in between: as if dropped;
//! * the process forks: an engine is its maker's. In the child, dropping it does nothing but close the child's copy of the
//!   file, and all else ends the child (SIGSEGV), as the queues are not there.
//!
//! # The descriptor
//!
//! [`FileEngine::as_fd`](FileEngine#method.as_fd) is an eventfd(2), with `io_uring` and without, and never the ring's own, by which
//! the queues could be mapped and changed. It is level-triggered: readable from the first completion on until
//! [`next_completion`](FileEngine::next_completion) has returned `None`. That call, and no other, clears it, before it looks for
//! completions for the last time; users only poll it. With an edge-triggered poll the same holds: call `next_completion` until it
//! returns `None` after each event. The descriptor may be readable without a completion: when the kernel has done a part of a
//! request, or wakes the user of a completion that was handed out already.
//!
//! # What is marked as dirty
//!
//! Of a read that has filled its buffers, these; before its [`Completion`] is handed out. Of one that ends short, or fails,
//! everything that the kernel had: its count says where the file has ended, not what was touched. (With `O_DIRECT` a whole
//! block arrives; a file system of another machine's may write more than it says; and what failed may have gone halfway.)

mod calls;
mod engine;
mod event;
mod request;
mod ring;
mod table;
#[cfg(all(test, feature = "mmap"))]
mod tests;

pub use engine::{Completion, FileEngine, Refusal, Refused};

#[cfg(doc)]
use super::GuestBuffers;
#[cfg(doc)]
use crate::guest_memory::Error;
