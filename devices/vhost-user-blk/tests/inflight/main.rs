//! The inflight region: the vhost-user specification's, "Inflight I/O tracking", byte for byte and store by store.
//!
//! | module      | what it shows                                                                             |
//! |-------------|-------------------------------------------------------------------------------------------|
//! | [`region`]  | which regions there are, which are refused, and why                                       |
//! | [`layout`]  | what lies where, and in which order it is written                                         |
//! | [`crash`]   | a process that dies after any store: no request is lost, none is done twice               |
//! | [`disk`]    | the same of a disk and its queue, on real memory                                          |
//! | [`hostile`] | regions that hold anything, and such as are taken away                                    |
#![expect(clippy::unwrap_used, reason = "helpers of tests, which are to stop where they fail")]
#![expect(clippy::host_endian_bytes, reason = "the region is in the host's byte order")]
#![expect(clippy::cast_possible_truncation, reason = "numbers that the tests choose")]

mod crash;
mod disk;
mod fused;
mod hostile;
mod layout;
mod region;
