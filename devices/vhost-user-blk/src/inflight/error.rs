use std::io;

use memory_model::{mmap, volatile_memory};

use super::region::MAX_QUEUES;

/// Why an inflight region cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A region is of at least one queue, with at least one descriptor.
    #[error(
        "an inflight region of {num_queues} queues of {queue_size} descriptors is none: there is at least one of each"
    )]
    Empty {
        /// The number of queues.
        num_queues: u16,
        /// The number of descriptors of each.
        queue_size: u16,
    },
    /// There are more queues than the protocol can name.
    #[error("an inflight region of {0} queues: vhost-user has at most {MAX_QUEUES}")]
    Queues(u16),
    /// The region is of more, or larger, queues than the device has.
    #[error(
        "an inflight region of {num_queues} queues of {queue_size} descriptors: this device has at most {max_queues} queues \
         of at most {max_queue_size}"
    )]
    TooMany {
        /// The number of queues.
        num_queues: u16,
        /// The number of descriptors of each.
        queue_size: u16,
        /// The number of queues that the device has.
        max_queues: u16,
        /// The number of descriptors that a queue may have.
        max_queue_size: u16,
    },
    /// The region has no room for its queues.
    #[error(
        "an inflight region of {size:#x} bytes is too small: {num_queues} queues of {queue_size} descriptors need {needed:#x}"
    )]
    TooSmall {
        /// The region's size in bytes.
        size: u64,
        /// The number of bytes that it must have at least.
        needed: u64,
        /// The number of queues.
        num_queues: u16,
        /// The number of descriptors of each.
        queue_size: u16,
    },
    /// The file ends before the region does.
    #[error(
        "an inflight region of {size:#x} bytes at offset {offset:#x} goes past the end of its file, at {file_len:#x}"
    )]
    PastEndOfFile {
        /// Where the region begins in the file.
        offset: u64,
        /// The region's size in bytes.
        size: u64,
        /// The file's length in bytes.
        file_len: u64,
    },
    /// The region is shared memory: a file that has a length.
    #[error("the inflight region's descriptor is neither a memfd nor another regular file")]
    NotAFile,
    /// The region's file cannot be looked at, or had twice.
    #[error("the inflight region's file: {0}")]
    File(#[source] io::Error),
    /// The region cannot be made or mapped, because its offset in the file is not that of a page, for one.
    #[error("the inflight region cannot be mapped: {0}")]
    Map(#[from] mmap::Error),
    /// A ring is larger than the region's queues.
    #[error("a ring of {ring_size} entries does not fit an inflight region of {queue_size} descriptors")]
    RingSize {
        /// The ring's size.
        ring_size: u16,
        /// The number of descriptors that the region has for each queue.
        queue_size: u16,
    },
    /// The part was written by somebody who knows more, or by nobody.
    #[error(
        "the inflight region has version {version} and features {features:#x}: known are version 1 and no features"
    )]
    Version {
        /// `version`.
        version: u16,
        /// `features`.
        features: u64,
    },
    /// The part is of a queue of another size.
    #[error("the inflight region says that it has {desc_num} descriptors: {ring_size} are needed, {queue_size} fit")]
    DescNum {
        /// `desc_num`.
        desc_num: u16,
        /// The ring's size.
        ring_size: u16,
        /// The number of descriptors that there is room for.
        queue_size: u16,
    },
    /// The part is of another ring, or the ring was reset and the part was not.
    #[error(
        "the inflight region ends at used index {recorded}, and the ring at {used_idx}: a batch of more than {ring_size} entries"
    )]
    UsedIndex {
        /// `used_idx`, in the region.
        recorded: u16,
        /// The used ring's index.
        used_idx: u16,
        /// The ring's size.
        ring_size: u16,
    },
    /// The last batch names a descriptor that is not in the ring's table.
    #[error("the inflight region's last batch names descriptor {head} of {ring_size}")]
    Batch {
        /// The descriptor's index.
        head: u16,
        /// The ring's size.
        ring_size: u16,
    },
    /// The region is not there any more: its file was truncated.
    #[error("the inflight region cannot be accessed: {0}")]
    Access(#[from] volatile_memory::Error),
}
