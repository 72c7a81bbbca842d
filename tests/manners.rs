//! What other handlers, other faults and other signals see of fault recovery: nothing. Each case is a process of its own:
//! this test once more, as a child.
//!
//! | module       | what it shows                                                                     |
//! |--------------|-----------------------------------------------------------------------------------|
//! | [`handlers`] | handlers before ours and after                                                    |
//! | [`deaths`]   | what ends a process without us ends it with us, in the same way                   |
//! | [`signals`]  | signals that are no faults, handlers that replace ours, and circles of handlers   |
//! | [`places`]   | threads without an alternate stack, processes after fork(2), recovery left out    |

#![cfg(all(feature = "fault-recovery", feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "manners/child.rs"]
mod child;
#[path = "manners/deaths.rs"]
mod deaths;
#[path = "manners/handlers.rs"]
mod handlers;
#[path = "manners/places.rs"]
mod places;
#[path = "manners/raw.rs"]
mod raw;
#[path = "manners/signals.rs"]
mod signals;
