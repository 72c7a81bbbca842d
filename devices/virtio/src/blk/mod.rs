//! A virtio block device over a file (VIRTIO 1.2, 5.2).
//!
//! | type               | what it is                                                               |
//! |--------------------|--------------------------------------------------------------------------|
//! | [`Block`]          | the device: features, configuration space, requests of a queue           |
//! | `Worker`           | many of a queue's requests under way at a time (feature `io-uring`)      |
//! | [`BlockOptions`]   | what whoever makes one may choose                                        |
//! | [`Journal`]        | who is told of each request, and of its [`Outcome`]                      |
//! | [`RequestHeader`]  | how a request begins                                                     |
//! | [`Range`]          | a range of sectors to be discarded or zeroed                             |
//!
//! Constants have the specification's names without `VIRTIO_BLK_`.
//!
//! A request is what a chain's bytes say, however they are divided into descriptors (VIRTIO 1.2, 2.7.4.1): the first 16
//! device-readable bytes are the header, the last device-writable byte is the status, the rest is data. Data moves
//! between the file and guest memory without a buffer in between, all of its pieces with one system call as far as one takes
//! as many, and none of it if a piece is nowhere. Memory without host addresses is read and written by its own methods. A
//! request of up to 16 pieces of data needs no allocation.
//!
//! What is wrong with a request is the request's problem: its status is [`S_IOERR`] or [`S_UNSUPP`], and the queue goes
//! on. Only where there is no place for the status is the queue broken.

mod budget;
mod config;
mod device;
mod file;
mod format;
mod journal;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod transfer;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod worker;

pub use config::{F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_SIZE_MAX, F_WRITE_ZEROES};
pub use device::{Block, BlockOptions, Processed};
pub use format::{
    RANGE_F_UNMAP, Range, RequestHeader, S_IOERR, S_OK, S_UNSUPP, SECTOR_SIZE, T_DISCARD, T_FLUSH, T_GET_ID, T_IN,
    T_OUT, T_WRITE_ZEROES,
};
pub use journal::{Journal, Outcome};
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use worker::{Worker, WorkerError};
