//! Which guest memory was written, and the switch for it.
//!
//! | type            | what it is                                                                            |
//! |-----------------|---------------------------------------------------------------------------------------|
//! | [`Tracker`]     | a region's switch: where its writes are marked, if anywhere                           |
//! | [`DirtyBitmap`] | a bit for each page, marked by any number of threads, harvested by one                |
//! | [`Harvest`]     | pages taken from it, which it gets back unless they are dealt with                    |
//! | [`LogBitmap`]   | a bitmap in memory that is shared with another process, which harvests it: vhost-user |
//! | [`DirtyRange`]  | bytes that were written: whole pages, coalesced                                       |
//!
//! Writes are marked after the data is there, in whichever bitmaps are attached at that moment; so a slice that was made
//! before tracking began marks, too. While none is, a write pays a load and a predicted branch.
//!
//! # What a harvest promises
//!
//! A page that was marked before the harvest began is in it, and what was written to it before is there to be read. A write
//! that runs meanwhile is in this harvest or in the next. For this, a thread that marks needs no barrier, as the one that
//! harvests has all of them pass one (membarrier(2)). Where a seccomp filter denies that, each mark has its own barrier. If the
//! filter comes after the first bitmap or region, the first call that finds this waits for 50 ms, once, and so does the first
//! use of each [`Tracker`] that is older.
//!
//! # After fork
//!
//! A child process has the thread that called fork(2), and no other. Marks that others were making at that moment are over in
//! the child (`pthread_atfork`; a child of a raw `clone` system call does not know this). Marks, harvests, `attach`, `detach` and
//! `replace` work there. They do not work on a tracker that another thread was attaching to, detaching from or harvesting at the
//! fork: its lock stays taken. The same holds for a `GuestMemoryAtomic` that another thread was
//! updating; and a removal waits for the guard of a reader that another thread had. So a process that forks and goes on using
//! its memory in the child does it while no other thread changes maps or logs.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

#[cfg(feature = "alloc")]
pub(crate) mod barrier;
#[cfg(all(feature = "alloc", not(loom)))]
mod barrier_linux;
#[cfg(all(feature = "alloc", loom))]
pub(crate) mod barrier_loom;
#[cfg(feature = "alloc")]
mod bitmap;
#[cfg(feature = "std")]
mod fork;
#[cfg(feature = "std")]
pub(crate) mod grace;
#[cfg(feature = "alloc")]
mod harvest;
#[cfg(feature = "std")]
mod log;
#[cfg(feature = "alloc")]
mod range;
#[cfg(feature = "std")]
mod sink;
#[cfg(feature = "std")]
mod switchboard;
mod tracker;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, loom))]
mod refused_loom_tests;

#[cfg(feature = "alloc")]
pub use bitmap::{DirtyBitmap, Error};
#[cfg(feature = "alloc")]
pub use harvest::Harvest;
#[cfg(feature = "std")]
pub use log::LogBitmap;
#[cfg(feature = "alloc")]
pub use range::{DirtyRange, union};
#[cfg(feature = "std")]
pub use sink::Sink;
pub use tracker::Tracker;
