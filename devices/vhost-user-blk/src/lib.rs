//! A vhost-user back-end that serves a file to a guest as a virtio disk.
//!
//! | module         | the question it answers                                                                    |
//! |----------------|--------------------------------------------------------------------------------------------|
//! | [`options`]    | what may be chosen on the command line?                                                    |
//! | [`daemon`]     | whom is it for now, and when does it end?                                                  |
//! | [`connection`] | is a message handled, refused, or the end?                                                 |
//! | `channel`      | what is done with the way to the front-end?                                                |
//! | [`session`]    | what has a front-end set up: features, memory, rings, log? What does each message do?      |
//! | `ring`         | what does a ring's thread do, and how is it started, stopped and woken?                    |
//! | [`inflight`]   | which requests were under way when the last process died?                                  |
//! | [`image`]      | may this process use the file?                                                             |
//! | [`stats`]      | how many requests, how many bytes, how long did they take?                                 |
//!
//! The framing of messages is the crate `vhost`'s; memory, queues and the device are `memory_model`'s and
//! `memory_model_virtio`'s.
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod channel;
pub mod connection;
pub mod daemon;
pub mod error;
pub mod hangup;
pub mod image;
pub mod inflight;
pub mod options;
mod ring;
pub mod session;
pub mod stats;

pub use error::Error;
