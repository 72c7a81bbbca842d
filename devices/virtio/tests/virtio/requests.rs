//! VIRTIO 1.2, 5.2.6: what each request of a disk does, and how it is answered.

use std::fs::File;
use std::os::unix::fs::FileExt;

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
use memory_model_virtio::blk::{
    Block, BlockOptions, RANGE_F_UNMAP, Range, RequestHeader, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID,
    T_IN, T_OUT, T_WRITE_ZEROES,
};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};
use zerocopy::IntoBytes;

use crate::common::{DATA, END, QUEUE, memory, segment};

/// Where the tests' requests have their parts.
pub(crate) const HEADER: u64 = DATA;
pub(crate) const STATUS: u64 = DATA + 0x10;
pub(crate) const BUFFER: u64 = DATA + 0x1000;

/// A disk, its queue, and the guest.
pub(crate) struct Machine {
    pub(crate) mem: GuestMemoryMmap,
    pub(crate) disk: Block,
    pub(crate) file: File,
    pub(crate) queue: Queue,
    pub(crate) driver: DriverQueue,
}

impl Machine {
    /// A disk of 64 sectors, whose bytes are each their sector's number.
    pub(crate) fn new() -> Self {
        let content: Vec<u8> = (0..64).flat_map(|sector| [sector; 512]).collect();
        Self::with(memory(), &content, BlockOptions { id: *b"a disk of 64 sectors", ..BlockOptions::default() })
    }

    pub(crate) fn with(mem: GuestMemoryMmap, content: &[u8], options: BlockOptions) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        let disk = Block::new(file.try_clone().unwrap(), options).unwrap();
        let config = QueueConfig::contiguous(IoAddress(QUEUE), 16).unwrap().with_features(disk.features());
        let driver = DriverQueue::new(&mem, config).unwrap();
        Self { mem, disk, file, queue: Queue::new(config).unwrap(), driver }
    }

    /// Makes the device answer a request, and answers the number of bytes written.
    pub(crate) fn submit(&mut self, readable: &[Segment], writable: &[Segment]) -> u32 {
        let head = self.driver.add(&self.mem, readable, writable).unwrap();
        self.driver.publish(&self.mem).unwrap();
        let processed = self.disk.process_queue(&mut self.queue, &self.mem).unwrap();
        assert_eq!((processed.requests, processed.more), (1, false));
        let used = self.driver.pop_used(&self.mem).unwrap().unwrap();
        assert_eq!(used.head, head);
        used.len
    }

    /// Makes a request whose header, data and status are where the tests have them; answers status and bytes written.
    pub(crate) fn request(&mut self, header: RequestHeader, readable: &[Segment], writable: &[Segment]) -> (u8, u32) {
        self.mem.write_obj(header, GuestAddress(HEADER)).unwrap();
        self.mem.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        let readable = [&[segment(HEADER, 16)], readable].concat();
        let writable = [writable, &[segment(STATUS, 1)]].concat();
        let written = self.submit(&readable, &writable);
        (self.mem.read_obj(GuestAddress(STATUS)).unwrap(), written)
    }

    /// A discard or write-zeroes request; answers its status.
    fn ranges(&mut self, kind: u32, ranges: &[Range]) -> u8 {
        self.mem.write_slice(ranges.as_bytes(), GuestAddress(BUFFER)).unwrap();
        let (status, written) =
            self.request(RequestHeader::new(kind, 0), &[segment(BUFFER, ranges.as_bytes().len() as u32)], &[]);
        assert_eq!(written, 1);
        status
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    pub(crate) fn buffer(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }
}

#[test]
fn in_populates_data_with_the_contents_of_sectors() {
    let mut machine = Machine::new();
    let answer = machine.request(RequestHeader::new(T_IN, 5), &[], &[segment(BUFFER, 1024)]);
    assert_eq!(answer, (S_OK, 1025)); // the status included
    assert_eq!(machine.buffer(BUFFER, 1024), [[5; 512], [6; 512]].concat());
    assert_eq!(machine.buffer(BUFFER + 1024, 1), [0]);
}

#[test]
fn out_writes_the_contents_of_data() {
    let mut machine = Machine::new();
    let mut expected = machine.content();
    machine.mem.fill(0xab, 1024, GuestAddress(BUFFER)).unwrap();
    expected[63 * 512 - 512..].fill(0xab);
    let answer = machine.request(RequestHeader::new(T_OUT, 62), &[segment(BUFFER, 1024)], &[]);
    assert_eq!(answer, (S_OK, 1));
    assert_eq!(machine.content(), expected);
}

/// 2.7.4.1: the device makes nothing of the division into descriptors.
#[test]
fn framing_does_not_matter() {
    let mut machine = Machine::new();
    // A header in three parts, data in odd ones, the last of which has the status, too.
    machine.mem.write_obj(RequestHeader::new(T_IN, 9), GuestAddress(HEADER)).unwrap();
    let header = [segment(HEADER, 1), segment(HEADER + 1, 9), segment(HEADER + 10, 6)];
    let data = [segment(BUFFER, 511), segment(BUFFER + 0x1000, 2), segment(BUFFER + 0x2000, 512)];
    assert_eq!(machine.submit(&header, &data), 1025);
    assert_eq!(machine.buffer(BUFFER, 512), [[9; 511].as_slice(), &[0]].concat());
    assert_eq!(machine.buffer(BUFFER + 0x1000, 3), [9, 10, 0]);
    assert_eq!(machine.buffer(BUFFER + 0x2000, 513), [[10; 511].as_slice(), &[S_OK, 0]].concat());

    // Header and data in one descriptor.
    machine.mem.write_obj(RequestHeader::new(T_OUT, 0), GuestAddress(BUFFER)).unwrap();
    machine.mem.fill(0x77, 512, GuestAddress(BUFFER + 16)).unwrap();
    assert_eq!(machine.submit(&[segment(BUFFER, 528)], &[segment(STATUS, 1)]), 1);
    assert_eq!(machine.content()[..1024], [[0x77; 512], [1; 512]].concat());
}

#[test]
fn a_request_may_be_in_an_indirect_table() {
    let mut machine = Machine::new();
    machine.mem.write_obj(RequestHeader::new(T_IN, 63), GuestAddress(HEADER)).unwrap();
    let data = [segment(BUFFER, 512), segment(STATUS, 1)];
    let table = IoAddress(DATA + 0x100);
    machine.driver.add_indirect(&machine.mem, table, &[segment(HEADER, 16)], &data).unwrap();
    assert!(machine.driver.publish(&machine.mem).unwrap());
    let processed = machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap();
    assert_eq!((processed.requests, processed.failed, processed.notify), (1, 0, true));
    assert_eq!(machine.driver.pop_used(&machine.mem).unwrap().unwrap().len, 513);
    assert_eq!(machine.buffer(BUFFER, 512), [63; 512]);
}

#[test]
fn several_requests_are_answered_at_once() {
    let mut machine = Machine::new();
    let (mem, driver) = (&machine.mem, &mut machine.driver);
    for (number, sector) in (0..5_u64).zip([4, 64, 2, 1, 0]) {
        let place = DATA + 0x1000 * number;
        mem.write_obj(RequestHeader::new(T_IN, sector), GuestAddress(place)).unwrap();
        driver.add(mem, &[segment(place, 16)], &[segment(place + 0x100, 513)]).unwrap();
    }
    assert!(driver.publish(mem).unwrap());
    let processed = machine.disk.process_queue(&mut machine.queue, mem).unwrap();
    assert_eq!((processed.requests, processed.failed, processed.notify), (5, 1, true));
    for (number, (first, status)) in (0..).zip([(4, S_OK), (0, S_IOERR), (2, S_OK), (1, S_OK), (0, S_OK)]) {
        let place = DATA + 0x1000 * number + 0x100;
        assert_eq!((machine.buffer(place, 1), machine.buffer(place + 512, 1)), (vec![first], vec![status]));
    }
}

/// 5.2.6.1: "A driver MUST NOT submit a request which would cause a read or write beyond capacity."
#[test]
fn sectors_beyond_capacity_are_an_error() {
    let mut machine = Machine::new();
    let before = machine.content();
    for sector in [63, 64, 1 << 32, u64::MAX / 512, u64::MAX / 512 + 1, u64::MAX - 1, u64::MAX] {
        let (status, written) = machine.request(RequestHeader::new(T_IN, sector), &[], &[segment(BUFFER, 1024)]);
        assert_eq!((status, written), (S_IOERR, 0), "nothing of the data was written, so nothing counts");
        let (status, _) = machine.request(RequestHeader::new(T_OUT, sector), &[segment(BUFFER, 1024)], &[]);
        assert_eq!(status, S_IOERR);
    }
    assert_eq!(machine.buffer(BUFFER, 1024), [0; 1024]);
    assert_eq!(machine.content(), before);
}

/// 5.2.6.1: "The length of data MUST be a multiple of 512 bytes for VIRTIO_BLK_T_IN and VIRTIO_BLK_T_OUT requests."
#[test]
fn data_that_is_no_whole_sectors_is_an_error() {
    let mut machine = Machine::new();
    let before = machine.content();
    for len in [1, 511, 513, 1000] {
        assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, len)]).0, S_IOERR);
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[segment(BUFFER, len)], &[]).0, S_IOERR);
    }
    assert_eq!(machine.content(), before);
    for kind in [T_IN, T_OUT] {
        assert_eq!(machine.request(RequestHeader::new(kind, 64), &[], &[]), (S_OK, 1), "no sectors are none too many");
    }
}

#[test]
fn flush_is_answered() {
    let mut machine = Machine::new();
    assert_eq!(machine.request(RequestHeader::new(T_FLUSH, 0), &[], &[]), (S_OK, 1));
    machine.disk.set_features(machine.disk.features());
    assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[segment(BUFFER, 512)], &[]), (S_OK, 1));
    assert_eq!(machine.request(RequestHeader::new(T_FLUSH, 0), &[], &[]), (S_OK, 1));
}

/// 5.2.6.1: "The length of data MUST be 20 bytes for VIRTIO_BLK_T_GET_ID requests."
#[test]
fn get_id_reads_20_bytes() {
    let mut machine = Machine::new();
    let get_id = RequestHeader::new(T_GET_ID, 0);
    assert_eq!(machine.request(get_id, &[], &[segment(BUFFER, 20)]), (S_OK, 21));
    assert_eq!(machine.buffer(BUFFER, 21), b"a disk of 64 sectors\0");
    assert_eq!(machine.request(get_id, &[], &[segment(BUFFER, 19)]).0, S_IOERR);
    assert_eq!(machine.request(get_id, &[], &[segment(BUFFER, 30)]), (S_OK, 20));
}

/// 5.2.6.2: "After a write zeroes command is completed, reads of the specified ranges of sectors MUST return zeroes. This
/// is true independent of whether unmap was set or clear."
#[test]
fn write_zeroes_makes_ranges_zero_and_nothing_else() {
    for flags in [0, RANGE_F_UNMAP] {
        let mut machine = Machine::new();
        let mut expected = machine.content();
        let ranges = [Range::new(3, 2, flags), Range::new(63, 1, flags), Range::new(7, 0, flags)];
        assert_eq!(machine.ranges(T_WRITE_ZEROES, &ranges), S_OK);
        expected[3 * 512..5 * 512].fill(0);
        expected[63 * 512..].fill(0);
        assert_eq!(machine.content(), expected, "and the file is as long as it was");
    }
}

#[test]
fn discard_leaves_other_sectors_alone() {
    let mut machine = Machine::new();
    let before = machine.content();
    assert_eq!(machine.ranges(T_DISCARD, &[Range::new(8, 16, 0)]), S_OK);
    let after = machine.content();
    assert_eq!((&after[..8 * 512], &after[24 * 512..]), (&before[..8 * 512], &before[24 * 512..]));
}

/// 5.2.6.2: "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard, secure erase and write zeroes
/// commands if any unknown flag is set. Furthermore, the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for
/// discard commands if the unmap flag is set."
#[test]
fn unknown_flags_are_unsupported() {
    let mut machine = Machine::new();
    let before = machine.content();
    for flags in [2, 3, 1 << 31] {
        assert_eq!(machine.ranges(T_WRITE_ZEROES, &[Range::new(0, 1, 0), Range::new(1, 1, flags)]), S_UNSUPP);
        assert_eq!(machine.ranges(T_DISCARD, &[Range::new(0, 1, 0), Range::new(1, 1, flags)]), S_UNSUPP);
    }
    assert_eq!(machine.ranges(T_DISCARD, &[Range::new(0, 1, RANGE_F_UNMAP)]), S_UNSUPP);
    assert_eq!(machine.content(), before, "nothing was done, not even the range that is good");
}

/// 5.2.6.1: no more segments than `max_discard_seg` and `max_write_zeroes_seg`, nor sectors, nor beyond capacity, and
/// whole segments.
#[test]
fn ranges_beyond_the_limits_are_an_error() {
    let mut machine = Machine::new();
    let before = machine.content();
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        let zero = Range::new(0, 1, 0);
        for bad in [Range::new(64, 1, 0), Range::new(0, 65, 0), Range::new(u64::MAX, 1, 0), Range::new(1, u32::MAX, 0)]
        {
            assert_eq!(machine.ranges(kind, &[zero, bad]), S_IOERR);
        }
        assert_eq!(machine.ranges(kind, &[zero; 17]), S_IOERR);
        for len in [15, 17, 0x2000] {
            let answer = machine.request(RequestHeader::new(kind, 0), &[segment(BUFFER, len)], &[]);
            assert_eq!(answer, (S_IOERR, 1), "{len} bytes");
        }
        assert_eq!(machine.request(RequestHeader::new(kind, 0), &[], &[]), (S_IOERR, 1), "there is at least one");
        assert_eq!(machine.request(RequestHeader::new(kind, 0), &[segment(END, 16)], &[]), (S_IOERR, 1));
    }
    assert_eq!(machine.content(), before);
    assert_eq!(machine.ranges(T_WRITE_ZEROES, &[Range::new(0, 1, 0); 16]), S_OK);
}

/// 5.2.6: `VIRTIO_BLK_S_UNSUPP` "for a request unsupported by device". 10 and 14 to 26 are what other devices know.
#[test]
fn other_types_are_unsupported() {
    let mut machine = Machine::new();
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 16, 18, 26, 1 << 31, u32::MAX] {
        assert_eq!(machine.request(RequestHeader::new(kind, 0), &[], &[]), (S_UNSUPP, 1), "type {kind}");
    }
}
