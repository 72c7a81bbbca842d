//! What VIRTIO 1.2 says, clause by clause, and what happens to those who do not keep to it.
//!
//! | module       | what it shows                                                                            |
//! |--------------|------------------------------------------------------------------------------------------|
//! | [`chains`]   | 2.7.4 to 2.7.5: which chains there are, and which break the queue                        |
//! | [`rings`]    | 2.7.1, 2.7.6, 2.7.8: where the rings are, and how their indices run                      |
//! | [`notify`]   | 2.7.7, 2.7.10: notification suppression, over wrapping indices, and no lost wake-up      |
//! | [`requests`] | 5.2.6: what a disk's requests do                                                         |
//! | [`disk`]     | 5.2.3, 5.2.4: features and configuration; where a disk's data lies; what cannot be done  |
//! | [`data`]     | how a disk's data moves: pieces, dirty marks, memory of any kind                         |
//! | [`batches`]  | large and slow requests are published before all that are available are taken          |
//! | [`journal`]  | who is told of requests, and at which step                                               |
//! | [`resubmit`] | requests that an earlier process took, done again                                        |
//! | [`corrupt`]  | ten thousand corrupt rings                                                               |
//! | [`faults`]   | pages that cannot be accessed                                                            |
//! | [`pinned`]   | rings that are pinned: what is kept, what is marked, and what if the map changes         |
//! | `refused`    | a system that forbids `io_uring` (feature `io-uring`)                                    |
//! | `worker`     | many requests under way at a time (feature `io-uring`)                                   |
//!
//! Those of the rings run with pinned ones, too: see the target `pinned`.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which are to stop where they fail")]
#![expect(clippy::cast_possible_truncation, reason = "numbers that the tests choose, and random ones cut to size")]
#![expect(clippy::doc_markdown, reason = "quotes the specification as it is")]

/// Whether the queues of the tests are pinned.
const PINNED: bool = false;

mod batches;
mod chains;
mod common;
mod corrupt;
mod corruption;
mod data;
mod disk;
mod faults;
mod journal;
mod notify;
mod pinned;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod raw;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod refused;
mod requests;
mod resubmit;
mod rings;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(dead_code, reason = "shared with other tests, which need all of it")]
#[path = "../../../../tests/making/seccomp.rs"]
mod seccomp;
mod server;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod worker;
