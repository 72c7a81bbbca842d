//! A front-end that is not QEMU: what the daemon does for one that keeps to the protocol, and to one that does not.
//!
//! Each test starts the real daemon, as a process of its own.
//!
//! | module       | what it shows                                                                              |
//! |--------------|--------------------------------------------------------------------------------------------|
//! | [`harness`]  | the front-end                                                                              |
//! | [`basics`]   | what is offered, and what each request does                                                |
//! | [`rings`]    | how rings are started, stopped, moved and told of changes                                  |
//! | [`memory`]   | the memory table as a live map                                                             |
//! | [`changes`]  | acknowledged changes hold for all requests made available afterwards                       |
//! | [`refused`]  | memory that cannot be, and rings that are nowhere                                          |
//! | [`log`]      | what is marked in migration's log, and when                                                |
//! | [`inflight`] | requests outlive the daemon that has taken them                                            |
//! | [`records`]  | where that is recorded: what is accepted, and what is not                                  |
//! | [`manners`]  | how the daemon begins and ends, and with whom it shares its image                          |
//! | [`hostile`]  | messages that no front-end should send                                                     |
//! | [`corrupt`]  | rings that make no sense, and memory that goes away                                        |
//! | [`fuzz`]     | messages at random                                                                         |
//! | [`wedged`]   | events that block whoever uses them                                                        |
#![expect(clippy::unwrap_used, reason = "helpers of tests, which are to stop where they fail")]
#![expect(clippy::cast_possible_truncation, reason = "numbers that the tests choose, and random ones cut to size")]
#![expect(clippy::host_endian_bytes, reason = "counters are in the machine's byte order")]

/// Whether the queues of the tests of the queue are pinned: there is none here.
const PINNED: bool = false;

mod basics;
mod changes;
#[expect(dead_code, reason = "shared with tests of the queue, which need all of it")]
#[path = "../../../virtio/tests/virtio/common.rs"]
mod common;
mod corrupt;
#[expect(dead_code, reason = "shared with tests of the queue, which need all of it")]
#[path = "../../../virtio/tests/virtio/corruption.rs"]
mod corruption;
mod fuzz;
mod harness;
mod hostile;
mod inflight;
mod log;
mod manners;
mod memory;
mod records;
mod refused;
mod rings;
mod wedged;
