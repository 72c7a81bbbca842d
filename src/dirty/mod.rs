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
//! harvests has all of them pass one (membarrier(2); a seccomp filter must allow it, or be there before the first bitmap
//! is).

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

#[cfg(feature = "alloc")]
#[cfg_attr(loom, path = "barrier_loom.rs")]
pub(crate) mod barrier;
#[cfg(feature = "alloc")]
mod bitmap;
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
