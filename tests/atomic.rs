//! A map that changes while it is used.
//!
//! | module        | what it shows                                                                       |
//! |---------------|-------------------------------------------------------------------------------------|
//! | [`model`]     | random changes, with listeners that refuse, against a plain list                    |
//! | [`listeners`] | order, replay, refusal, panics, and what listeners may do                           |
//! | [`readers`]   | what guards and snapshots keep, what is waited for, and what would wait for itself  |
//! | [`waits`]     | threads that would wait for themselves, or for each other                           |
//! | [`threads`]   | reads on several threads while the map changes                                      |
//! | [`slots`]     | slot numbers, against a plain set                                                   |
//! | [`mapped`]    | what is mapped, by the kernel's own list                                            |

#![cfg(feature = "std")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "atomic/listeners.rs"]
mod listeners;
#[cfg(all(feature = "mmap", target_os = "linux"))]
#[path = "atomic/mapped.rs"]
mod mapped;
#[path = "atomic/model.rs"]
mod model;
#[path = "atomic/ram.rs"]
mod ram;
#[path = "atomic/readers.rs"]
mod readers;
#[path = "atomic/recorder.rs"]
mod recorder;
#[path = "atomic/slots.rs"]
mod slots;
#[path = "atomic/threads.rs"]
mod threads;
#[path = "atomic/waits.rs"]
mod waits;
