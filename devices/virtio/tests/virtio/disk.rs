//! VIRTIO 1.2, 5.2.3 and 5.2.4: what a driver learns of a disk. Then: memory of several regions, requests that cannot be
//! read or answered, read-only and truncated files, and guests that never stop.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use memory_model::guest_memory::Error;
use memory_model::{
    AtomicAccess, Bytes, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap,
    IoAddress, Le16, MemoryRegionAddress, MmapRegion,
};
use memory_model_virtio::blk::{
    Block, BlockOptions, F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_SIZE_MAX, F_WRITE_ZEROES, Range,
    RequestHeader, S_IOERR, S_OK, T_DISCARD, T_IN, T_OUT, T_WRITE_ZEROES,
};
use memory_model_virtio::ring::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use memory_model_virtio::{Queue, QueueConfig, QueueError};

use crate::common::{DATA, END, QUEUE, Ring, memory, segment};
use crate::requests::{BUFFER, HEADER, Machine, STATUS};

fn disk(len: u64, options: BlockOptions) -> Block {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    Block::new(file, options).unwrap()
}

fn config<const N: usize>(disk: &Block, offset: u64) -> [u8; N] {
    let mut bytes = [0xee; N];
    disk.read_config(offset, &mut bytes);
    bytes
}

#[test]
fn features_are_those_of_the_disk() {
    let always = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
    let options = BlockOptions::default();
    assert_eq!(disk(512, options).features(), always | F_DISCARD | F_WRITE_ZEROES);
    assert_eq!(disk(512, BlockOptions { read_only: true, ..options }).features(), always | F_RO);
    assert_ne!(disk(512, BlockOptions { num_queues: 2, ..options }).features() & F_MQ, 0);
    let file = tempfile::tempfile().unwrap();
    assert!(Block::new(file, BlockOptions { num_queues: 0, ..options }).is_err());
}

#[test]
fn configuration_space_is_read_by_offset() {
    let disk = disk(0x1234 * 512, BlockOptions { num_queues: 3, max_queue_size: 128, ..BlockOptions::default() });
    assert_eq!(disk.capacity(), 0x1234);
    assert_eq!(config(&disk, 0), [0x34, 0x12, 0, 0, 0, 0, 0, 0]); // capacity
    assert_eq!(config(&disk, 1), [0x12]);
    assert_eq!(config(&disk, 8), [0, 0, 0x10, 0]); // size_max
    assert_eq!(config(&disk, 12), [126, 0, 0, 0]); // seg_max
    assert_eq!(config(&disk, 20), [0, 2, 0, 0]); // blk_size
    assert_eq!(config(&disk, 32), [0, 0]); // writeback, unused0
    assert_eq!(config(&disk, 34), [3, 0]); // num_queues
    assert_eq!(config(&disk, 36), [0, 0, 0x40, 0]); // max_discard_sectors
    assert_eq!(config(&disk, 40), [16, 0, 0, 0]); // max_discard_seg
    assert_eq!(config(&disk, 44), [1, 0, 0, 0]); // discard_sector_alignment
    assert_eq!(config(&disk, 48), [0, 0x80, 0, 0]); // max_write_zeroes_sectors
    assert_eq!(config(&disk, 52), [16, 0, 0, 0]); // max_write_zeroes_seg
    assert_eq!(config(&disk, 56), [1, 0, 0, 0]); // write_zeroes_may_unmap, unused1
    for offset in [60, 70, 72, 1000, u64::MAX] {
        assert_eq!(config(&disk, offset), [0; 16]);
    }
}

#[test]
fn a_read_only_disk_fills_up_its_last_sector() {
    let options = BlockOptions { read_only: true, ..BlockOptions::default() };
    let mut machine = Machine::with(memory(), &[0x11; 1000], options);
    assert_eq!(machine.disk.capacity(), 2);
    machine.mem.fill(0xee, 1024, GuestAddress(BUFFER)).unwrap();
    let answer =
        machine.request(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, 1000), segment(BUFFER + 1000, 24)]);
    assert_eq!(answer, (S_OK, 1025));
    assert_eq!(machine.buffer(BUFFER, 1024), [[0x11; 1000].as_slice(), &[0; 24]].concat());
    assert_eq!(machine.request(RequestHeader::new(T_IN, 2), &[], &[segment(BUFFER, 512)]).0, S_IOERR);
    // The file was truncated behind the disk's back: the sector is not there, rather than zero.
    machine.file.set_len(700).unwrap();
    assert_eq!(machine.request(RequestHeader::new(T_IN, 1), &[], &[segment(BUFFER, 512)]).0, S_IOERR);
    assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, 512)]).0, S_OK);

    let file = tempfile::tempfile().unwrap();
    file.set_len(1000).unwrap();
    assert!(Block::new(file, BlockOptions::default()).is_err(), "where would a write to the rest go?");
}

/// 5.2.6.2: "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write request if the VIRTIO_BLK_F_RO feature if
/// offered, and MUST NOT write any data."
#[test]
fn nothing_is_written_to_a_read_only_disk() {
    let options = BlockOptions { read_only: true, ..BlockOptions::default() };
    let mut machine = Machine::with(memory(), &[0x11; 1024], options);
    assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[segment(BUFFER, 512)], &[]), (S_IOERR, 1));
    machine.mem.write_obj(Range::new(0, 1, 0), GuestAddress(BUFFER)).unwrap();
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        assert_eq!(machine.request(RequestHeader::new(kind, 0), &[segment(BUFFER, 16)], &[]), (S_IOERR, 1));
    }
    assert_eq!(machine.content(), [0x11; 1024]);
}

/// Two regions that touch at `DATA + 0x8000`, the queue in a third, a hole behind.
fn regions() -> GuestMemoryMmap {
    let ranges = [(0, 0x1_0000), (DATA, 0x8000), (DATA + 0x8000, 0x8000), (END, 0x1000)];
    GuestMemoryMmap::from_ranges(&ranges.map(|(start, size)| (GuestAddress(start), size))).unwrap()
}

#[test]
fn requests_cross_regions_that_touch() {
    let content: Vec<u8> = (0..8192_u32).map(|byte| (byte % 251) as u8).collect();
    let mut machine = Machine::with(regions(), &content, BlockOptions::default());
    let seam = DATA + 0x8000;
    for before in [1, 7, 512, 1000] {
        let data = [segment(seam - before, 2048)];
        assert_eq!(machine.request(RequestHeader::new(T_IN, 3), &[], &data), (S_OK, 2049));
        assert_eq!(machine.buffer(seam - before, 2048), content[3 * 512..7 * 512]);
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 9), &data, &[]), (S_OK, 1));
        assert_eq!(machine.content()[9 * 512..13 * 512], content[3 * 512..7 * 512]);
    }
    // The header, too.
    machine.mem.write_obj(RequestHeader::new(T_IN, 0), GuestAddress(seam - 5)).unwrap();
    assert_eq!(machine.submit(&[segment(seam - 5, 16)], &[segment(BUFFER, 512), segment(STATUS, 1)]), 513);
    assert_eq!(machine.buffer(BUFFER, 512), content[..512]);
}

#[test]
fn buffers_in_holes_are_errors_and_the_queue_goes_on() {
    let mut machine = Machine::with(regions(), &[0x11; 8192], BlockOptions::default());
    let hole = DATA + 0x1_0000;
    for data in [segment(hole, 512), segment(hole - 1, 512), segment(END - 1, 512), segment(u64::MAX - 511, 512)] {
        assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &[data]), (S_IOERR, 0));
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[data], &[]), (S_IOERR, 1));
    }
    for header in [segment(hole, 16), segment(hole - 15, 16)] {
        assert_eq!(machine.submit(&[header], &[segment(STATUS, 1)]), 1);
        assert_eq!(machine.buffer(STATUS, 1), [S_IOERR]);
    }
    assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, 512)]), (S_OK, 513));
    assert!(machine.queue.broken().is_none());
}

#[test]
fn a_header_that_is_too_short_is_an_error() {
    let mut machine = Machine::new();
    assert_eq!(machine.submit(&[segment(HEADER, 15)], &[segment(STATUS, 1)]), 1);
    assert_eq!(machine.buffer(STATUS, 1), [S_IOERR]);
    machine.mem.write_obj(0_u8, GuestAddress(STATUS)).unwrap();
    assert_eq!(machine.submit(&[], &[segment(STATUS, 1)]), 1);
    assert_eq!(machine.buffer(STATUS, 1), [S_IOERR]);
}

/// Nothing can be told to the driver then, who would wait for ever.
#[test]
fn a_request_without_a_place_for_its_status_breaks_the_queue() {
    let mut machine = Machine::new();
    machine.mem.write_obj(RequestHeader::new(T_OUT, 0), GuestAddress(HEADER)).unwrap();
    let head = machine.driver.add(&machine.mem, &[segment(HEADER, 16), segment(BUFFER, 512)], &[]).unwrap();
    machine.driver.publish(&machine.mem).unwrap();
    let before = machine.content();
    let error = machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
    assert!(matches!(error, QueueError::Unanswerable { head: h } if h == head), "{error}");
    assert_eq!(machine.content(), before, "nor is it done");
    assert!(machine.disk.process_queue(&mut machine.queue, &machine.mem).is_err());

    let mut machine = Machine::new();
    machine.driver.add(&machine.mem, &[segment(HEADER, 16)], &[segment(END, 1)]).unwrap();
    machine.driver.publish(&machine.mem).unwrap();
    let error = machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
    assert!(matches!(error, QueueError::AnswerLost { head: 0, .. }), "{error}");
}

/// What the host refuses is an error of the request: here a file that is open for reading only.
#[test]
fn errors_of_the_file_are_errors_of_the_request() {
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().write_all_at(&[0x11; 1024], 0).unwrap();
    let mut machine = Machine::new();
    machine.disk = Block::new(std::fs::File::open(path.path()).unwrap(), BlockOptions::default()).unwrap();
    assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[segment(BUFFER, 512)], &[]), (S_IOERR, 1));
    machine.mem.write_obj(Range::new(0, 1, 0), GuestAddress(BUFFER)).unwrap();
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        assert_eq!(machine.request(RequestHeader::new(kind, 0), &[segment(BUFFER, 16)], &[]), (S_IOERR, 1));
    }
    assert_eq!(machine.request(RequestHeader::new(T_IN, 1), &[], &[segment(BUFFER, 512)]), (S_OK, 513));
}

/// Memory of a guest that makes a new request for each that is answered, at the same time.
struct Restless {
    region: GuestRegionMmap,
    config: QueueConfig,
}

impl Bytes<MemoryRegionAddress> for Restless {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.region.write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.region.read(buf, addr)
    }
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T, Error> {
        self.region.load(addr, order)
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<(), Error> {
        self.region.store(val, addr, order)?;
        if addr.0 == self.config.used.0 + 2 {
            let used: Le16 = self.region.load(addr, order)?;
            let avail = used.to_native().wrapping_add(self.config.size);
            self.region.store(Le16::new(avail), MemoryRegionAddress(self.config.avail.0 + 2), order)?;
        }
        Ok(())
    }
}

impl GuestMemoryRegion for Restless {
    fn len(&self) -> u64 {
        self.region.len()
    }
    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }
}

#[test]
fn a_guest_that_never_stops_cannot_keep_the_device() {
    let mut ring = Ring::with(QueueConfig::contiguous(IoAddress(QUEUE), 8).unwrap());
    ring.chain(&[segment(HEADER, 16)], &[segment(BUFFER, 513)]);
    ring.offer(0);
    let mut bytes = vec![0; END as usize];
    ring.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    let region = GuestRegionMmap::new(MmapRegion::new(END as usize).unwrap(), GuestAddress(0)).unwrap();
    region.write_slice(&bytes, MemoryRegionAddress(0)).unwrap();
    let mem = GuestRegionCollection::from_regions(vec![Restless { region, config: ring.config }]).unwrap();

    let (disk, mut queue) = (disk(512, BlockOptions::default()), Queue::new(ring.config).unwrap());
    for _ in 0..3 {
        let processed = disk.process_queue(&mut queue, &mem).unwrap();
        assert_eq!((processed.requests, processed.failed, processed.more), (8, 0, true));
    }
}
