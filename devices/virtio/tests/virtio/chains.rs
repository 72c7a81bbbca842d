//! VIRTIO 1.2, 2.7.4 to 2.7.5: chains of descriptors.

use memory_model::{Bytes, GuestAddress, IoAddress, Le16, Le32};
use memory_model_virtio::QueueError;
use memory_model_virtio::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Part};

use crate::common::{DATA, END, Ring, pop, segment};

/// Where the tests' indirect table lies.
const TABLE: u64 = DATA;

/// Asserts that an expression is of a pattern, and shows it if not.
macro_rules! assert_is {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {{
        let value = $value;
        assert!(matches!(value, $pattern $(if $guard)?), "{value:?} is not {}", stringify!($pattern));
    }};
}

#[test]
fn a_chain_goes_on_at_next_while_the_flag_says_so() {
    let mut ring = Ring::new();
    ring.descriptor(5, segment(DATA, 1), DESC_F_NEXT, 2);
    ring.descriptor(2, segment(DATA + 0x100, 2), DESC_F_NEXT, 7);
    ring.descriptor(7, segment(DATA + 0x200, 3), DESC_F_NEXT | DESC_F_WRITE, 0);
    ring.descriptor(0, segment(DATA + 0x300, 4), DESC_F_WRITE, 5); // `next` without the flag says nothing
    ring.offer(5);
    let mut queue = ring.queue();
    let chain = queue.pop(&ring.mem).unwrap().unwrap();
    assert_eq!(chain.head(), 5);
    assert_eq!(chain.readable().segments(), [segment(DATA, 1), segment(DATA + 0x100, 2)]);
    assert_eq!(chain.writable().segments(), [segment(DATA + 0x200, 3), segment(DATA + 0x300, 4)]);
    assert_eq!((chain.readable().len(), chain.writable().len()), (3, 7));
    assert!(queue.pop(&ring.mem).unwrap().is_none());
}

/// 2.7.4.1: "The device MUST NOT make assumptions about the particular arrangement of descriptors."
#[test]
fn a_value_may_be_divided_between_descriptors() {
    let mut ring = Ring::new();
    let places = [segment(DATA, 1), segment(DATA + 0x100, 2), segment(DATA + 0x200, 5)];
    ring.chain(&places, &places);
    ring.offer(0);
    for (place, bytes) in places.iter().zip([&[1][..], &[2, 3], &[4, 5, 6, 7, 8]]) {
        ring.mem.write_slice(bytes, GuestAddress(place.addr.0)).unwrap();
    }
    let mut queue = ring.queue();
    let chain = queue.pop(&ring.mem).unwrap().unwrap();
    let read = || chain.reader(&ring.mem).read_obj::<[u8; 8]>().unwrap();
    assert_eq!(read(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut reader = chain.reader(&ring.mem);
    reader.skip(2).unwrap();
    assert_eq!(reader.read_obj::<Le16>().unwrap(), 0x0403);
    assert_eq!(reader.read_obj::<u8>().unwrap(), 5);
    assert!(reader.read_obj::<Le32>().is_err(), "there are three");
    assert_eq!((reader.bytes_read(), reader.remaining()), (5, 3));

    let (_, mut writer) = chain.writer(&ring.mem).split_at(1).unwrap();
    writer.write_obj(Le32::new(0x6666_6666)).unwrap();
    assert_eq!(read(), [1, 0x66, 0x66, 0x66, 0x66, 6, 7, 8]);
    chain.writer(&ring.mem).fill(0x77, 2).unwrap();
    let (_, mut writer) = chain.writer(&ring.mem).split_at(7).unwrap();
    assert!(writer.fill(0x88, 2).is_err(), "past the end, so nothing is touched");
    assert_eq!(read(), [0x77, 0x77, 0x66, 0x66, 0x66, 6, 7, 8]);
    let (mut copy, mut reader) = (Vec::new(), chain.reader(&ring.mem));
    reader.skip(1).unwrap();
    reader.read_all_into(&mut copy, 6).unwrap();
    assert_eq!(copy, [0x77, 0x66, 0x66, 0x66, 6, 7]);
    let (_, mut writer) = chain.writer(&ring.mem).split_at(2).unwrap();
    writer.write_all_from(&mut &copy[..], 6).unwrap();
    assert_eq!(read(), [0x77, 0x77, 0x77, 0x66, 0x66, 0x66, 6, 7]);
    assert_eq!((writer.bytes_written(), writer.remaining()), (6, 0));
}

/// 2.7.4.2: "The driver MUST place any device-writable descriptor elements after any device-readable descriptor
/// elements."
#[test]
fn readable_after_writable_breaks() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(DATA, 1), DESC_F_WRITE | DESC_F_NEXT, 1);
    ring.descriptor(1, segment(DATA, 1), 0, 0);
    assert_is!(ring.break_at(0), QueueError::ReadableAfterWritable { head: 0 });
}

/// 2.7.5.2: "this implies that loops in the descriptor chain are forbidden!"
#[test]
fn loops_break() {
    let mut ring = Ring::new();
    ring.descriptor(3, segment(DATA, 1), DESC_F_NEXT, 3);
    assert_is!(ring.break_at(3), QueueError::ChainTooLong { head: 3, size: 8 });
    let mut ring = Ring::new();
    for slot in 0..8 {
        ring.descriptor(slot, segment(DATA, 1), DESC_F_NEXT, (slot + 1) % 8);
    }
    assert_is!(ring.break_at(0), QueueError::ChainTooLong { head: 0, size: 8 });
}

/// 2.7.5: "this is the maximum possible descriptor chain length".
#[test]
fn a_chain_may_have_as_many_descriptors_as_the_queue() {
    let mut ring = Ring::new();
    let places: Vec<_> = (0..8).map(|slot| segment(DATA + slot, 1)).collect();
    ring.chain(&places, &[]);
    ring.offer(0);
    assert_eq!(pop(&mut ring.queue(), &ring.mem), (places, vec![]));
}

/// 2.7.5.2: "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total".
#[test]
fn a_chain_has_at_most_2_to_the_32_bytes() {
    let mut ring = Ring::new();
    ring.chain(&[segment(0, u32::MAX)], &[segment(0, 1)]);
    ring.offer(0);
    let mut queue = ring.queue();
    let chain = queue.pop(&ring.mem).unwrap().unwrap();
    assert_eq!(chain.readable().len() + chain.writable().len(), 1 << 32);
    let mut ring = Ring::new();
    ring.chain(&[segment(0, u32::MAX)], &[segment(0, 2)]);
    assert_is!(ring.break_at(0), QueueError::TooManyBytes { head: 0 });
}

/// 2.7.13.1: "each has at least one element"; QEMU refuses such buffers, too.
#[test]
fn a_buffer_of_no_bytes_breaks() {
    let mut ring = Ring::new();
    ring.chain(&[segment(DATA, 1), segment(DATA, 0)], &[segment(DATA, 1)]);
    assert_is!(ring.break_at(0), QueueError::ZeroLength { head: 0, addr: IoAddress(DATA) });
}

#[test]
fn a_buffer_may_end_at_2_to_the_64_and_not_beyond() {
    let mut ring = Ring::new();
    ring.chain(&[segment(u64::MAX - 15, 16)], &[]);
    ring.offer(0);
    assert_eq!(pop(&mut ring.queue(), &ring.mem).0, [segment(u64::MAX - 15, 16)]);
    let mut ring = Ring::new();
    ring.chain(&[segment(u64::MAX - 15, 17)], &[]);
    assert_is!(ring.break_at(0), QueueError::AddressOverflow { head: 0, len: 17, .. });
}

/// That there is no memory is the request's problem, and shows when it is accessed.
#[test]
fn a_buffer_need_not_be_in_memory() {
    let mut ring = Ring::new();
    ring.chain(&[segment(END, 16)], &[]);
    ring.offer(0);
    let mut queue = ring.queue();
    let chain = queue.pop(&ring.mem).unwrap().unwrap();
    assert!(chain.reader(&ring.mem).read_obj::<u64>().is_err());
    assert!(queue.broken().is_none());
}

#[test]
fn indices_outside_the_table_break() {
    let mut ring = Ring::new();
    assert_is!(ring.break_at(8), QueueError::Head { head: 8, size: 8 });
    let mut ring = Ring::new();
    assert_is!(ring.break_at(u16::MAX), QueueError::Head { head: u16::MAX, size: 8 });
    let mut ring = Ring::new();
    ring.descriptor(1, segment(DATA, 1), DESC_F_NEXT, 8);
    assert_is!(ring.break_at(1), QueueError::Next { head: 1, next: 8, len: 8 });
}

/// 2.7.5.3: "The first indirect descriptor is located at start of the indirect descriptor table (index 0), additional
/// indirect descriptors are chained by next."
#[test]
fn an_indirect_table_is_followed_from_its_start() {
    let mut ring = Ring::new();
    // 2.7.5.3.2: "The device MUST ignore the write-only flag in the descriptor that refers to an indirect table."
    for flags in [DESC_F_INDIRECT, DESC_F_INDIRECT | DESC_F_WRITE] {
        ring.descriptor(4, segment(TABLE, 48), flags, 0);
        ring.table_descriptor(TABLE, 0, segment(DATA, 1), DESC_F_NEXT, 2);
        ring.table_descriptor(TABLE, 2, segment(DATA, 2), DESC_F_NEXT | DESC_F_WRITE, 1);
        ring.table_descriptor(TABLE, 1, segment(DATA, 3), DESC_F_WRITE, 0);
        ring.set_avail_idx(0);
        ring.offer(4);
        let segments = pop(&mut ring.queue(), &ring.mem);
        assert_eq!(segments, (vec![segment(DATA, 1)], vec![segment(DATA, 2), segment(DATA, 3)]));
    }
}

/// 2.7.5.3.2: "The device MUST handle the case of zero or more normal chained descriptors followed by a single
/// descriptor with flags&VIRTQ_DESC_F_INDIRECT."
#[test]
fn an_indirect_table_may_follow_normal_descriptors() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(DATA, 1), DESC_F_NEXT, 1);
    ring.descriptor(1, segment(DATA, 2), DESC_F_NEXT, 2);
    ring.descriptor(2, segment(TABLE, 16), DESC_F_INDIRECT, 0);
    ring.table_descriptor(TABLE, 0, segment(DATA, 3), 0, 0);
    ring.offer(0);
    let expected = vec![segment(DATA, 1), segment(DATA, 2), segment(DATA, 3)];
    assert_eq!(pop(&mut ring.queue(), &ring.mem), (expected, vec![]));
}

/// 2.7.5.3.1: "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag unless the VIRTIO_F_INDIRECT_DESC feature was
/// negotiated."
#[test]
fn an_indirect_table_that_was_not_negotiated_breaks() {
    let mut ring = Ring::new();
    ring.config.indirect = false;
    ring.descriptor(0, segment(TABLE, 16), DESC_F_INDIRECT, 0);
    assert_is!(ring.break_at(0), QueueError::IndirectNotNegotiated { head: 0 });
}

/// 2.7.5.3.1: "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect descriptor".
#[test]
fn a_nested_indirect_table_breaks() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(TABLE, 16), DESC_F_INDIRECT, 0);
    ring.table_descriptor(TABLE, 0, segment(TABLE, 16), DESC_F_INDIRECT, 0); // itself: it would have no end
    assert_is!(ring.break_at(0), QueueError::IndirectNested { head: 0 });
}

/// 2.7.5.3.1: "A driver MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags."
#[test]
fn an_indirect_table_with_a_next_breaks() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(TABLE, 16), DESC_F_INDIRECT | DESC_F_NEXT, 1);
    assert_is!(ring.break_at(0), QueueError::IndirectNext { head: 0 });
}

#[test]
fn an_indirect_table_has_whole_descriptors_and_at_least_one() {
    for len in [0, 1, 15, 17, u32::MAX] {
        let mut ring = Ring::new();
        ring.descriptor(0, segment(TABLE, len), DESC_F_INDIRECT, 0);
        assert_is!(ring.break_at(0), QueueError::IndirectLength { head: 0, len: l } if l == len);
    }
}

/// 2.7.5.3.1: "A driver MUST NOT create a descriptor chain longer than the Queue Size of the device." The table may have
/// more than that, as long as the chain does not.
#[test]
fn a_chain_in_a_table_is_no_longer_than_the_queue() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(TABLE, 160), DESC_F_INDIRECT, 0);
    for slot in 0..9 {
        ring.table_descriptor(TABLE, slot, segment(DATA, 1), DESC_F_NEXT, slot + 1);
    }
    ring.table_descriptor(TABLE, 7, segment(DATA, 1), 0, 0);
    ring.offer(0);
    assert_eq!(pop(&mut ring.queue(), &ring.mem).0.len(), 8);

    ring.set_avail_idx(0);
    ring.table_descriptor(TABLE, 7, segment(DATA, 1), DESC_F_NEXT, 8);
    ring.table_descriptor(TABLE, 8, segment(DATA, 1), 0, 0);
    assert_is!(ring.break_at(0), QueueError::ChainTooLong { head: 0, size: 8 });
    ring.set_avail_idx(0);
    ring.table_descriptor(TABLE, 7, segment(DATA, 1), DESC_F_NEXT, 0);
    assert_is!(ring.break_at(0), QueueError::ChainTooLong { head: 0, size: 8 });
}

#[test]
fn a_next_outside_the_indirect_table_breaks() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(TABLE, 32), DESC_F_INDIRECT, 0);
    ring.table_descriptor(TABLE, 0, segment(DATA, 1), DESC_F_NEXT, 2); // inside the queue's table, but not in this
    ring.table_descriptor(TABLE, 2, segment(DATA, 1), 0, 0);
    assert_is!(ring.break_at(0), QueueError::Next { head: 0, next: 2, len: 2 });
}

#[test]
fn an_indirect_table_outside_memory_breaks() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(END, 16), DESC_F_INDIRECT, 0);
    let at_end = IoAddress(END);
    assert_is!(ring.break_at(0), QueueError::Memory { part: Part::IndirectTable, addr, .. } if addr == at_end);
    let mut ring = Ring::new();
    ring.descriptor(0, segment(u64::MAX - 15, 32), DESC_F_INDIRECT, 0);
    assert_is!(ring.break_at(0), QueueError::AddressOverflow { head: 0, len: 32, .. });
}
