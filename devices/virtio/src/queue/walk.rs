//! From a head to the segments of its chain: the only place that reads descriptors.

use memory_model::{Address, IoAddress, IoMemory};

use super::place::Place;
use super::{QueueError, Segment};
use crate::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, Part, Rings};

/// What a chain may have in total (VIRTIO 1.2, 2.7.5.2).
const MAX_BYTES: u64 = 1 << 32;

/// A chain whose segments have been collected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// As a word, like the others: one that is written in part and read whole waits for the write.
    pub(super) head: usize,
    /// The number of device-readable segments, which come first.
    pub(super) readable: usize,
    pub(super) readable_bytes: u64,
    pub(super) writable_bytes: u64,
}

/// The table that the walk is in.
struct Table<'a, I> {
    place: Place<'a, I>,
    len: u32,
}

/// Collects the segments of the chain at `head` of the queue's table, in as many steps as the queue has entries and one more.
#[inline]
pub(super) fn walk<I: IoMemory>(
    rings: &Rings,
    table: Place<'_, I>,
    head: u16,
    segments: &mut Vec<Segment>,
) -> Result<Walked, QueueError> {
    let size = rings.size();
    if head >= size {
        return Err(QueueError::Head { head, size });
    }
    segments.clear();
    let (mut readable, mut readable_bytes, mut bytes) = (0_usize, 0, 0_u64);
    let mut table = Table { place: table, len: u32::from(size) };
    let mut index = head;
    loop {
        // One fetch: the driver cannot change this copy.
        let descriptor = fetch(&table, head, index)?;
        let flags = descriptor.flags.to_native();
        if flags & DESC_F_INDIRECT != 0 {
            // The write flag says nothing here, and is ignored (VIRTIO 1.2, 2.7.5.3.2).
            if !rings.config().indirect {
                return Err(QueueError::IndirectNotNegotiated { head });
            }
            table = enter(&table, head, &descriptor)?;
            index = 0;
            continue;
        }
        if segments.len() >= usize::from(size) {
            return Err(QueueError::ChainTooLong { head, size });
        }
        let segment = check(head, &descriptor)?;
        // Neither wraps: there are no more than 2^15 segments of less than 2^32 bytes.
        bytes = bytes.wrapping_add(u64::from(segment.len));
        if flags & DESC_F_WRITE == 0 {
            if readable != segments.len() {
                return Err(QueueError::ReadableAfterWritable { head });
            }
            readable = readable.wrapping_add(1);
            readable_bytes = bytes;
        }
        segments.push(segment);
        if flags & DESC_F_NEXT == 0 {
            if bytes > MAX_BYTES {
                return Err(QueueError::TooManyBytes { head });
            }
            let writable_bytes = bytes.wrapping_sub(readable_bytes);
            return Ok(Walked { head: usize::from(head), readable, readable_bytes, writable_bytes });
        }
        index = descriptor.next.to_native();
    }
}

/// Reads a descriptor of a table.
#[inline]
fn fetch<I: IoMemory>(table: &Table<'_, I>, head: u16, index: u16) -> Result<Descriptor, QueueError> {
    if u32::from(index) >= table.len {
        return Err(QueueError::Next { head, next: index, len: table.len });
    }
    // Inside the table, the last byte of which was found to be below 2^64.
    let addr = IoAddress(table.place.base.0.wrapping_add(u64::from(index) << 4));
    table.place.read_obj(addr)
}

/// The table that an indirect descriptor stands for (VIRTIO 1.2, 2.7.5.3).
fn enter<'a, I: IoMemory>(from: &Table<'a, I>, head: u16, descriptor: &Descriptor) -> Result<Table<'a, I>, QueueError> {
    let (base, len) = (IoAddress(descriptor.addr.to_native()), descriptor.len.to_native());
    if from.place.part == Part::IndirectTable {
        return Err(QueueError::IndirectNested { head });
    }
    if descriptor.flags.to_native() & DESC_F_NEXT != 0 {
        return Err(QueueError::IndirectNext { head });
    }
    if len == 0 || len % 16 != 0 {
        return Err(QueueError::IndirectLength { head, len });
    }
    let segment = check(head, descriptor)?;
    let place = Place::new(Part::IndirectTable, base, from.place.mem, None);
    Ok(Table { place, len: segment.len >> 4 })
}

/// The bytes of a descriptor: at least one, and none past the end of the address space.
#[inline]
fn check(head: u16, descriptor: &Descriptor) -> Result<Segment, QueueError> {
    let (addr, len) = (IoAddress(descriptor.addr.to_native()), descriptor.len.to_native());
    let beyond_first = len.checked_sub(1).ok_or(QueueError::ZeroLength { head, addr })?;
    match addr.checked_add(u64::from(beyond_first)) {
        Some(_) => Ok(Segment { addr, len }),
        None => Err(QueueError::AddressOverflow { head, addr, len }),
    }
}
