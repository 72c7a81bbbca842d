use std::sync::Arc;

use memory_model::{IoAddress, guest_memory};

use crate::ring::Part;

/// Why a queue is broken: what the driver, or who resumed the queue, did that leaves no sense in the ring.
///
/// After one of these the queue does nothing more until it is reset; a transport sets `DEVICE_NEEDS_RESET` (VIRTIO 1.2,
/// 2.1.2).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// `avail.idx` went back, or ahead by more than there are free entries (VIRTIO 1.2, 2.7.6.1 and 2.7.13).
    #[error("avail.idx is {idx}, but from {next_avail} on there is room for {room} entries")]
    AvailIndex {
        /// `avail.idx`, as the driver wrote it.
        idx: u16,
        /// The index of the entry that comes next.
        next_avail: u16,
        /// The queue's size less the buffers in flight.
        room: u16,
    },
    /// An available entry, or whoever has a chain taken again, names a descriptor that is not in the table (VIRTIO 1.2,
    /// 2.7.6).
    #[error("a chain is to begin at descriptor {head} of {size}")]
    Head {
        /// The descriptor's index.
        head: u16,
        /// The queue's size.
        size: u16,
    },
    /// More chains are to be taken again than can have been under way: not the driver's fault.
    #[error("{count} chains are to be taken again, but no more than {room} can have been under way")]
    RetakenCount {
        /// How many chains.
        count: usize,
        /// How many are in flight, of which the device does not know.
        room: usize,
    },
    /// A chain is to be taken again twice: not the driver's fault.
    #[error("the chain at {head} is to be taken again twice")]
    RetakenTwice {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor is chained to one that is not in its table (VIRTIO 1.2, 2.7.5).
    #[error("the chain at {head} goes on at descriptor {next} of a table of {len}")]
    Next {
        /// The chain's head.
        head: u16,
        /// The index of the descriptor that is not there.
        next: u16,
        /// The number of descriptors in the table.
        len: u32,
    },
    /// A chain has more descriptors than the queue, or is a loop (VIRTIO 1.2, 2.7.5.2 and 2.7.5.3.1).
    #[error("the chain at {head} has more than the queue's {size} descriptors, or is a loop")]
    ChainTooLong {
        /// The chain's head.
        head: u16,
        /// The queue's size.
        size: u16,
    },
    /// A chain has more than 2^32 bytes (VIRTIO 1.2, 2.7.5.2).
    #[error("the chain at {head} has more than 2^32 bytes")]
    TooManyBytes {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor has no bytes: a buffer element has at least one (VIRTIO 1.2, 2.7.13.1).
    #[error("the chain at {head} has a buffer of 0 bytes at {addr}")]
    ZeroLength {
        /// The chain's head.
        head: u16,
        /// The descriptor's address.
        addr: IoAddress,
    },
    /// A buffer goes past the end of the address space.
    #[error("the chain at {head} has a buffer of {len:#x} bytes at {addr}, which goes past 2^64")]
    AddressOverflow {
        /// The chain's head.
        head: u16,
        /// The descriptor's address.
        addr: IoAddress,
        /// The descriptor's length, in bytes.
        len: u32,
    },
    /// A device-readable descriptor follows a device-writable one (VIRTIO 1.2, 2.7.4.2).
    #[error("the chain at {head} has a device-readable buffer after a device-writable one")]
    ReadableAfterWritable {
        /// The chain's head.
        head: u16,
    },
    /// An indirect descriptor, but the feature was not negotiated (VIRTIO 1.2, 2.7.5.3.1).
    #[error("the chain at {head} has an indirect table, which was not negotiated")]
    IndirectNotNegotiated {
        /// The chain's head.
        head: u16,
    },
    /// An indirect descriptor inside an indirect table (VIRTIO 1.2, 2.7.5.3.1).
    #[error("the chain at {head} has an indirect table inside an indirect table")]
    IndirectNested {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor is both indirect and chained on (VIRTIO 1.2, 2.7.5.3.1).
    #[error("the chain at {head} goes on after an indirect table")]
    IndirectNext {
        /// The chain's head.
        head: u16,
    },
    /// An indirect table's length is 0 or no multiple of 16 (VIRTIO 1.2, 2.7.5.3).
    #[error("the chain at {head} has an indirect table of {len:#x} bytes, which must be a multiple of 16 and not 0")]
    IndirectLength {
        /// The chain's head.
        head: u16,
        /// The table's length, in bytes.
        len: u32,
    },
    /// A request that the device cannot answer: the chain has no device-writable byte where the answer goes.
    #[error("the request at {head} has no device-writable byte for its answer")]
    Unanswerable {
        /// The chain's head.
        head: u16,
    },
    /// A request that the device cannot answer: there is no memory where the answer goes.
    #[error("the answer to the request at {head} cannot be written: {source}")]
    AnswerLost {
        /// The chain's head.
        head: u16,
        /// What the memory said.
        source: Arc<guest_memory::Error>,
    },
    /// A part of the queue cannot be accessed.
    #[error("the {part} cannot be accessed at {addr}: {source}")]
    Memory {
        /// Which part.
        part: Part,
        /// The address of the access.
        addr: IoAddress,
        /// What the memory said.
        source: Arc<guest_memory::Error>,
    },
}

/// Turns an error of an access to `part` at `addr` into the queue's.
#[inline]
pub(super) fn memory(part: Part, addr: IoAddress) -> impl FnOnce(guest_memory::Error) -> QueueError {
    move |source| QueueError::Memory { part, addr, source: Arc::new(source) }
}
