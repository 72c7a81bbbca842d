//! Dirty tracking: no page that was written is lost, and none is found that was not.
//!
//! | module        | what it shows                                                                             |
//! |---------------|-------------------------------------------------------------------------------------------|
//! | [`bitmap`]    | a bitmap does what a plain list of pages does                                             |
//! | [`ranges`]    | unions and chunks                                                                         |
//! | [`model`]     | random writes of a memory under several logs and shared bitmaps at once                   |
//! | [`every`]     | each operation marks just the bytes that it wrote, through all that wraps memory          |
//! | [`faults`]    | accesses that stop at a page that is not there mark what they did                         |
//! | [`forked`]    | a child process, forked while another thread marked, changes logs                         |
//! | [`custom`]    | regions that others provide, with a tracker and without                                   |
//! | [`shared`]    | bitmaps that another process harvests: their bits, and their ends                         |
//! | [`harvests`]  | a harvest is a transaction                                                                |
//! | [`lost`]      | writes that race with harvests are in one of them; and that this is no matter of course   |
//! | [`migration`] | what is harvested makes a second memory the same, byte for byte                         |
//! | [`complete`]  | no public method that can write is forgotten                                              |
//! | [`refused`]   | tracking goes on, and loses nothing, where a filter denies the barrier of harvests        |
//! | [`switching`] | tracking that begins and ends, and bitmaps that come and go, while others write           |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "dirty/bitmap.rs"]
mod bitmap;
#[cfg(target_pointer_width = "64")]
#[expect(dead_code, reason = "shared with the tests of making")]
#[path = "making/child.rs"]
mod child;
#[path = "dirty/complete.rs"]
mod complete;
#[path = "dirty/custom.rs"]
mod custom;
#[path = "dirty/every.rs"]
mod every;
#[cfg(feature = "fault-recovery")]
#[path = "dirty/faults.rs"]
mod faults;
#[path = "dirty/forked.rs"]
mod forked;
#[path = "dirty/ground.rs"]
mod ground;
#[path = "dirty/harvests.rs"]
mod harvests;
#[path = "dirty/lost.rs"]
mod lost;
#[path = "dirty/migration.rs"]
mod migration;
#[path = "dirty/model.rs"]
mod model;
#[path = "dirty/ranges.rs"]
mod ranges;
#[cfg(target_pointer_width = "64")]
#[expect(dead_code, reason = "shared with the tests of making")]
#[path = "making/raw.rs"]
mod raw;
#[cfg(target_pointer_width = "64")]
#[path = "dirty/refused.rs"]
mod refused;
#[cfg(target_pointer_width = "64")]
#[expect(dead_code, reason = "shared with the tests of making")]
#[path = "making/seccomp.rs"]
mod seccomp;
#[path = "dirty/shared.rs"]
mod shared;
#[path = "dirty/switching.rs"]
mod switching;
