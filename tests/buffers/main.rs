//! Buffers of many pieces of guest memory: what they are made of, what moves, what is left and what is marked as dirty.
//!
//! | module        | what it shows                                                                          |
//! |---------------|----------------------------------------------------------------------------------------|
//! | [`made`]      | what buffers are made of, and what they are refused                                    |
//! | [`model`]     | random buffers over random memories, cut, filled and written out, beside a flat model  |
//! | [`transfers`] | each call by its ends: of files, of what is there, of the pieces that a call takes     |
//! | [`messages`]  | datagrams, whole and cut                                                               |
//! | [`faults`]    | pages that cannot be accessed                                                          |
//! | [`owned`]     | buffers that outlive the map                                                           |
//! | [`short`]     | short transfers: what they cost, and what they mark                                    |
//! | [`direct`]    | files that are open with `O_DIRECT`                                                    |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod direct;
mod faults;
mod ground;
mod made;
mod messages;
mod model;
mod owned;
mod raw;
mod short;
mod transfers;
