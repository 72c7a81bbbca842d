//! How a disk's data moves: in whichever pieces, in memory of any kind, marked where it lands; and nothing of it where a part
//! is nowhere.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory_model::dirty::{DirtyBitmap, Sink};
use memory_model::guest_memory::Error;
use memory_model::{
    AtomicAccess, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap,
    GuestSlice, IoAddress, MemoryRegionAddress, MmapRegion,
};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_IOERR, S_OK, T_IN, T_OUT};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};

use crate::common::{DATA, END, QUEUE, memory, segment};
use crate::requests::{BUFFER, HEADER, Machine, STATUS};

/// Bytes of which no two sectors are the same.
fn content() -> Vec<u8> {
    (0..64_u32 * 512).map(|byte| (byte % 509) as u8 ^ (byte / 512) as u8).collect()
}

/// `count` pieces of `len` bytes that do not follow each other.
fn pieces(count: u64, len: u32) -> Vec<Segment> {
    (0..count).map(|number| segment(BUFFER + number * (u64::from(len) + 3), len)).collect()
}

/// A machine whose queue has room for many pieces.
fn machine(content: &[u8], options: BlockOptions) -> Machine {
    let mut machine = Machine::with(memory(), content, options);
    let config = QueueConfig::contiguous(IoAddress(QUEUE), 64).unwrap().with_features(machine.disk.features());
    (machine.driver, machine.queue) = (DriverQueue::new(&machine.mem, config).unwrap(), Queue::new(config).unwrap());
    machine
}

#[test]
fn data_may_be_in_many_pieces() {
    let content = content();
    for (count, len) in [(1, 8192), (2, 256), (15, 512), (16, 256), (17, 512), (40, 256)] {
        let mut machine = machine(&content, BlockOptions::default());
        let (data, len) = (pieces(count, len), count as u32 * len);
        let read = &content[3 * 512..3 * 512 + len as usize];
        assert_eq!(machine.request(RequestHeader::new(T_IN, 3), &[], &data), (S_OK, len + 1));
        let back: Vec<_> = data.iter().flat_map(|piece| machine.buffer(piece.addr.0, piece.len as usize)).collect();
        assert_eq!(back, read, "{count} pieces");
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 30), &data, &[]), (S_OK, 1));
        let mut expected = content.clone();
        expected[30 * 512..30 * 512 + len as usize].copy_from_slice(read);
        assert_eq!(machine.content(), expected, "{count} pieces");
    }
}

#[test]
fn data_that_was_read_is_marked_where_it_is() {
    let mut machine = machine(&[7; 1100], BlockOptions { read_only: true, ..BlockOptions::default() });
    let bitmap = Arc::new(DirtyBitmap::new(END, 1).unwrap());
    let region = machine.mem.find_region(GuestAddress(0)).unwrap();
    region.tracker().unwrap().attach(Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0 });
    let data = [segment(BUFFER + 5, 700), segment(BUFFER + 2000, 836)];
    assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &data), (S_OK, 1537));
    assert_eq!(machine.buffer(BUFFER + 2000, 836), [[7; 400].as_slice(), &[0; 436]].concat());
    let harvest = bitmap.harvest();
    let marked: BTreeSet<_> = harvest.ranges().flat_map(|range| range.start..range.start + range.len).collect();
    let written = data.iter().flat_map(|piece| piece.addr.0..piece.addr.0 + u64::from(piece.len));
    assert!(marked.range(BUFFER..).copied().eq(written), "padding, too, and nothing else");
    assert!(marked.contains(&STATUS));
}

#[test]
fn where_a_piece_is_nowhere_no_data_moves() {
    let content = content();
    let mut machine = machine(&content, BlockOptions::default());
    for hole in [segment(END, 512), segment(END - 500, 512), segment(u64::MAX - 511, 512)] {
        for data in [[segment(BUFFER, 512), hole], [hole, segment(BUFFER, 512)]] {
            machine.mem.fill(0xab, 512, GuestAddress(BUFFER)).unwrap();
            assert_eq!(machine.request(RequestHeader::new(T_IN, 1), &[], &data), (S_IOERR, 0));
            assert_eq!(machine.buffer(BUFFER, 512), [0xab; 512]);
            assert_eq!(machine.request(RequestHeader::new(T_OUT, 1), &data, &[]), (S_IOERR, 1));
            assert_eq!(machine.content(), content);
        }
    }
}

/// RAM, or what only its own methods reach.
struct Region {
    ram: GuestRegionMmap,
    has_host: bool,
}

impl Bytes<MemoryRegionAddress> for Region {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram.write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram.read(buf, addr)
    }
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T, Error> {
        self.ram.load(addr, order)
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<(), Error> {
        self.ram.store(val, addr, order)
    }
}

impl GuestMemoryRegion for Region {
    fn len(&self) -> u64 {
        self.ram.len()
    }
    fn start_addr(&self) -> GuestAddress {
        self.ram.start_addr()
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        let slice = self.ram.get_slice(offset, count)?;
        if self.has_host { Ok(slice) } else { Err(Error::NoHostMemory(slice.addr())) }
    }
}

#[test]
fn memory_without_host_addresses_is_served_all_the_same() {
    let content = content();
    let seam = DATA + 0x8000;
    // All of it, the data alone, and what lies behind the seam.
    for (first, second) in [(false, false), (true, false), (false, true)] {
        let region = |(start, size, has_host)| {
            let ram = GuestRegionMmap::new(MmapRegion::new(size).unwrap(), GuestAddress(start)).unwrap();
            Region { ram, has_host }
        };
        let regions = [(0, DATA as usize, first), (DATA, 0x8000, first), (seam, 0x8000, second)].map(region);
        let mem = GuestRegionCollection::from_regions(regions.into()).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let disk = Block::new(file.try_clone().unwrap(), BlockOptions::default()).unwrap();
        let config = QueueConfig::contiguous(IoAddress(QUEUE), 16).unwrap();
        let (mut driver, mut queue) = (DriverQueue::new(&mem, config).unwrap(), Queue::new(config).unwrap());
        let mut request = |kind, sector, readable: &[Segment], writable: &[Segment]| {
            mem.write_obj(RequestHeader::new(kind, sector), GuestAddress(HEADER)).unwrap();
            let readable = [&[segment(HEADER, 16)], readable].concat();
            driver.add(&mem, &readable, &[writable, &[segment(STATUS, 1)]].concat()).unwrap();
            driver.publish(&mem).unwrap();
            assert_eq!(disk.process_queue(&mut queue, &mem).unwrap().requests, 1);
            (mem.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), driver.pop_used(&mem).unwrap().unwrap().len)
        };
        let data = [segment(BUFFER, 100), segment(seam - 200, 900), segment(seam + 0x2000, 24)];
        assert_eq!(request(T_IN, 5, &[], &data), (S_OK, 1025));
        let mut back = vec![0; 900];
        mem.read_slice(&mut back, GuestAddress(seam - 200)).unwrap();
        assert_eq!(back, content[5 * 512 + 100..5 * 512 + 1000]);
        assert_eq!(request(T_OUT, 40, &data, &[]), (S_OK, 1));
        let mut written = vec![0; content.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        let mut expected = content.clone();
        expected.copy_within(5 * 512..7 * 512, 40 * 512);
        assert_eq!(written, expected);
        assert_eq!(request(T_IN, 0, &[], &[segment(seam + 0x8000 - 500, 512)]), (S_IOERR, 0));
    }
}
