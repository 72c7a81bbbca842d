//! Memory that is read and never written: a write is an error that says where, not the end of the process.
//!
//! | module       | what it shows                                                                  |
//! |--------------|--------------------------------------------------------------------------------|
//! | [`every`]    | every operation, through all that wraps memory                                 |
//! | [`crossing`] | writes that begin in RAM and run into ROM: how much of them is done, and marked |
//! | [`copies`]   | copies to, from, into and inside ROM, in both directions                       |
//! | [`streams`]  | sources keep what was not stored                                               |
//! | [`slices`]   | slices from before the memory was protected, and a provider's own              |
//! | [`threads`]  | many threads at once                                                           |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "rom/copies.rs"]
mod copies;
#[path = "rom/crossing.rs"]
mod crossing;
#[path = "rom/every.rs"]
mod every;
#[path = "rom/ground.rs"]
mod ground;
#[path = "marks/mod.rs"]
mod marks;
#[path = "rom/slices.rs"]
mod slices;
#[path = "rom/streams.rs"]
mod streams;
#[path = "rom/threads.rs"]
mod threads;
