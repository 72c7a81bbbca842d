//! VIRTIO 1.2, 2.7.1, 2.7.6 and 2.7.8: the rings and their indices; what is fetched, and how often.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use memory_model::guest_memory::Error;
use memory_model::{
    AtomicAccess, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollection,
    GuestRegionMmap, IoAddress, Le16, MemoryRegionAddress, MmapRegion,
};
use memory_model_virtio::ring::{DESC_F_INDIRECT, DESC_F_NEXT, Part};
use memory_model_virtio::{ConfigError, DriverQueue, Queue, QueueConfig, QueueError};

use crate::common::{DATA, END, QUEUE, Ring, memory, pinned, segment};

/// 2.7: "Queue Size value is always a power of 2. The maximum Queue Size value is 32768."
#[test]
fn the_size_is_a_power_of_two_up_to_32768() {
    for size in 0..=u16::MAX {
        let made = QueueConfig::contiguous(IoAddress(0), size);
        assert_eq!(made.is_ok(), size.is_power_of_two(), "size {size}");
    }
    let good = QueueConfig::contiguous(IoAddress(0), 4).unwrap();
    for size in [0, 3, 5, 65535] {
        assert_eq!(Queue::new(QueueConfig { size, ..good }).unwrap_err(), ConfigError::Size(size));
    }
}

/// 2.7.1: "The driver MUST ensure that the physical address of the first byte of each virtqueue part is a multiple of the
/// specified alignment value in the above table."
#[test]
fn each_part_is_aligned() {
    let good = QueueConfig::contiguous(IoAddress(QUEUE), 4).unwrap();
    let moved = |addr: IoAddress, by| IoAddress(addr.0 + by);
    for by in 1..16 {
        let error = Queue::new(QueueConfig { desc: moved(good.desc, by), ..good }).unwrap_err();
        assert!(matches!(error, ConfigError::Misaligned { part: Part::DescriptorTable, align: 16, .. }), "{error}");
        let avail = Queue::new(QueueConfig { avail: moved(good.avail, by), ..good });
        assert_eq!(avail.is_ok(), by % 2 == 0);
        let used = Queue::new(QueueConfig { used: moved(good.used, by), ..good });
        assert_eq!(used.is_ok(), by % 4 == 0);
    }
}

#[test]
fn each_part_ends_below_2_to_the_64() {
    let good = QueueConfig::contiguous(IoAddress(QUEUE), 8).unwrap();
    // 128, 22 and 70 bytes: the last place for each, and the next.
    assert!(Queue::new(QueueConfig { desc: IoAddress(u64::MAX - 127), ..good }).is_ok());
    assert!(Queue::new(QueueConfig { desc: IoAddress(u64::MAX - 111), ..good }).is_err());
    assert!(Queue::new(QueueConfig { avail: IoAddress(u64::MAX - 21), ..good }).is_ok());
    assert!(Queue::new(QueueConfig { avail: IoAddress(u64::MAX - 19), ..good }).is_err());
    assert!(Queue::new(QueueConfig { used: IoAddress(u64::MAX - 71), ..good }).is_ok());
    assert!(Queue::new(QueueConfig { used: IoAddress(u64::MAX - 67), ..good }).is_err());
    for base in (0..=0x200).map(|down| IoAddress(u64::MAX - down)) {
        assert_eq!(
            QueueConfig::contiguous(base, 8).is_ok(),
            base.0 % 16 == 0 && u64::MAX - base.0 >= 128 + 22 + 2 + 69
        );
    }
}

#[test]
fn rings_outside_memory_break() {
    let good = QueueConfig::contiguous(IoAddress(QUEUE), 8).unwrap();
    let outside = IoAddress(END);
    let part_of = |config: QueueConfig, step: fn(&mut Queue, &GuestMemoryMmap) -> Result<(), QueueError>| {
        let mut ring = Ring::with(good);
        ring.chain(&[segment(DATA, 1)], &[]);
        ring.offer(0);
        match step(&mut pinned(Queue::new(config).unwrap(), &ring.mem), &ring.mem) {
            Err(QueueError::Memory { part, .. }) => part,
            other => panic!("{other:?}"),
        }
    };
    let pop = |queue: &mut Queue, mem: &_| queue.pop(mem).map(drop);
    let add = |queue: &mut Queue, mem: &_| queue.add_used(mem, 0, 0);
    assert_eq!(part_of(QueueConfig { avail: outside, ..good }, pop), Part::AvailableRing);
    assert_eq!(part_of(QueueConfig { desc: outside, ..good }, pop), Part::DescriptorTable);
    assert_eq!(part_of(QueueConfig { used: outside, ..good }, add), Part::UsedRing);
    // `avail.idx` is the last that there is.
    let at_the_end = QueueConfig { avail: IoAddress(END - 4), ..good };
    let mem = memory();
    mem.write_obj(Le16::new(1), GuestAddress(END - 2)).unwrap();
    assert!(pinned(Queue::new(at_the_end).unwrap(), &mem).pop(&mem).is_err());
}

/// 2.7.6.1: "A driver MUST NOT decrement the available idx on a virtqueue".
#[test]
fn an_avail_idx_that_goes_back_breaks() {
    let mut ring = Ring::new();
    ring.chain(&[segment(DATA, 1)], &[]);
    let mut queue = ring.queue();
    for _ in 0..2 {
        ring.offer(0);
        queue.pop(&ring.mem).unwrap().unwrap();
    }
    queue.add_used(&ring.mem, 0, 0).unwrap();
    ring.set_avail_idx(1);
    let error = queue.pop(&ring.mem).unwrap_err();
    assert!(matches!(error, QueueError::AvailIndex { idx: 1, next_avail: 2, room: 7 }), "{error}");
}

/// 2.7.13: there are no more buffers than descriptors, those in flight among them.
#[test]
fn an_avail_idx_beyond_the_free_entries_breaks() {
    let mut ring = Ring::new();
    ring.chain(&[segment(DATA, 1)], &[]);
    ring.set_avail_idx(9);
    let error = ring.queue().pop(&ring.mem).unwrap_err();
    assert!(matches!(error, QueueError::AvailIndex { idx: 9, next_avail: 0, room: 8 }), "{error}");

    ring.set_avail_idx(8);
    let mut queue = ring.queue();
    for _ in 0..8 {
        queue.pop(&ring.mem).unwrap().unwrap();
    }
    assert!(queue.pop(&ring.mem).unwrap().is_none());
    queue.add_used(&ring.mem, 0, 0).unwrap();
    ring.set_avail_idx(9);
    queue.pop(&ring.mem).unwrap().unwrap();
    ring.set_avail_idx(10);
    let error = queue.pop(&ring.mem).unwrap_err();
    assert!(matches!(error, QueueError::AvailIndex { idx: 10, next_avail: 9, room: 0 }), "{error}");
}

/// 2.7.8: "Each entry in the ring is a pair: id indicates the head entry of the descriptor chain describing the buffer,
/// and len the total of bytes written into the buffer." They may be used in any order.
#[test]
fn used_buffers_are_told_by_head_and_length_in_any_order() {
    let mut ring = Ring::new();
    ring.chain(&[segment(DATA, 1); 1], &[]);
    ring.descriptor(6, segment(DATA, 1), 0, 0);
    ring.offer(0);
    ring.offer(6);
    let mut queue = ring.queue();
    let heads = [(); 2].map(|()| queue.pop(&ring.mem).unwrap().unwrap().head());
    assert_eq!(heads, [0, 6]);
    queue.add_used(&ring.mem, 6, 0x1234_5678).unwrap();
    assert_eq!((ring.used_idx(), ring.used(0)), (1, (6, 0x1234_5678)));
    queue.add_used(&ring.mem, 0, 0).unwrap();
    assert_eq!((ring.used_idx(), ring.used(1)), (2, (0, 0)));
}

#[test]
fn a_broken_queue_keeps_its_first_reason_and_touches_nothing_until_reset() {
    let mut ring = Ring::new();
    ring.descriptor(0, segment(DATA, 0), 0, 0);
    ring.descriptor(1, segment(DATA, 1), 0, 0);
    ring.offer(0);
    ring.offer(1);
    let mut queue = ring.queue();
    let reason = queue.pop(&ring.mem).unwrap_err().to_string();
    let before = ring.snapshot();
    for _ in 0..2 {
        assert_eq!(queue.pop(&ring.mem).unwrap_err().to_string(), reason);
        assert_eq!(queue.add_used(&ring.mem, 1, 1).unwrap_err().to_string(), reason);
        assert_eq!(queue.enable_notifications(&ring.mem).unwrap_err().to_string(), reason);
        assert_eq!(queue.disable_notifications(&ring.mem).unwrap_err().to_string(), reason);
        assert_eq!(queue.needs_notification(&ring.mem).unwrap_err().to_string(), reason);
        assert_eq!(queue.mark_broken(QueueError::Unanswerable { head: 1 }).to_string(), reason);
    }
    assert_eq!(ring.snapshot(), before);

    queue.reset();
    let mut queue = pinned(queue, &ring.mem);
    assert!(queue.broken().is_none());
    ring.descriptor(0, segment(DATA, 1), 0, 0);
    assert_eq!(queue.pop(&ring.mem).unwrap().unwrap().head(), 0);
}

#[test]
fn a_queue_resumes_from_its_indices() {
    let mut ring = Ring::new();
    ring.chain(&[segment(DATA, 1)], &[]);
    let mut queue = pinned(Queue::resume(ring.config, 65535, 65534).unwrap(), &ring.mem);
    ring.idx = 65535;
    ring.offer(0);
    assert_eq!(queue.pop(&ring.mem).unwrap().unwrap().head(), 0);
    assert!(queue.pop(&ring.mem).unwrap().is_none());
    assert_eq!((queue.next_avail(), queue.next_used()), (0, 65534));
    queue.add_used(&ring.mem, 0, 3).unwrap();
    assert_eq!((ring.used(65534 % 8), ring.used_idx()), ((0, 3), 65535));

    assert!(Queue::resume(ring.config, 3, 65531).is_ok());
    let error = Queue::resume(ring.config, 4, 65531).unwrap_err();
    assert_eq!(error, ConfigError::InFlight { next_avail: 4, next_used: 65531, size: 8 });
    assert!(Queue::resume(ring.config, 0, 1).is_err());
}

/// The largest queue: 32768 entries in flight at once, twice, so that the indices wrap.
#[test]
fn the_largest_queue_can_be_full() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let config = QueueConfig::contiguous(IoAddress(0), 32768).unwrap();
    let mut driver = DriverQueue::new(&mem, config).unwrap();
    let mut queue = pinned(Queue::new(config).unwrap(), &mem);
    for _ in 0..3 {
        while driver.free() > 0 {
            driver.add(&mem, &[segment(DATA, 1)], &[]).unwrap();
        }
        assert!(driver.add(&mem, &[segment(DATA, 1)], &[]).is_err());
        driver.publish(&mem).unwrap();
        let mut heads = Vec::new();
        while let Some(chain) = queue.pop(&mem).unwrap() {
            heads.push(chain.head());
        }
        assert_eq!(heads.len(), 32768);
        heads.iter().rev().for_each(|&head| queue.add_used(&mem, head, 7).unwrap());
        for &head in heads.iter().rev() {
            let used = driver.pop_used(&mem).unwrap().unwrap();
            assert_eq!((used.head, used.len), (head, 7));
        }
        assert!(driver.pop_used(&mem).unwrap().is_none());
    }
}

/// Memory that counts how often each byte is read.
struct Counting {
    region: GuestRegionMmap,
    reads: Mutex<HashMap<u64, u32>>,
}

impl Counting {
    fn count(&self, addr: MemoryRegionAddress, len: usize) {
        let mut reads = self.reads.lock().unwrap();
        (addr.0..addr.0 + len as u64).for_each(|byte| *reads.entry(byte).or_default() += 1);
    }
}

impl Bytes<MemoryRegionAddress> for Counting {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.region.write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.count(addr, buf.len());
        self.region.read(buf, addr)
    }
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T, Error> {
        self.count(addr, size_of::<T>());
        self.region.load(addr, order)
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<(), Error> {
        self.region.store(val, addr, order)
    }
}

impl GuestMemoryRegion for Counting {
    fn len(&self) -> u64 {
        self.region.len()
    }
    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }
}

/// What is fetched twice can be changed in between, by a guest that has checked what the device checks. Not even memory
/// of another kind makes a difference.
#[test]
fn every_byte_is_fetched_once() {
    let ring = Ring::new();
    ring.descriptor(3, segment(DATA, 1), DESC_F_NEXT, 4);
    ring.descriptor(4, segment(DATA + 0x1000, 32), DESC_F_INDIRECT, 0);
    ring.table_descriptor(DATA + 0x1000, 0, segment(DATA, 2), DESC_F_NEXT, 1);
    ring.table_descriptor(DATA + 0x1000, 1, segment(DATA, 3), 0, 0);
    let mut ring = ring;
    ring.offer(3);

    let region = GuestRegionMmap::new(MmapRegion::new(END as usize).unwrap(), GuestAddress(0)).unwrap();
    let mut bytes = vec![0; END as usize];
    ring.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    region.write_slice(&bytes, MemoryRegionAddress(0)).unwrap();
    let mem = GuestRegionCollection::from_regions(vec![Counting { region, reads: Mutex::default() }]).unwrap();

    let mut queue = ring.queue();
    let chain = queue.pop(&mem).unwrap().unwrap();
    assert_eq!(chain.readable().len(), 6);
    // Whatever happens to the descriptors now, the chain stays as it was checked.
    mem.fill(0xff, 0x1000, GuestAddress(QUEUE)).unwrap();
    assert_eq!(chain.readable().segments(), [segment(DATA, 1), segment(DATA, 2), segment(DATA, 3)]);
    let region = mem.regions().next().unwrap();
    let reads = region.reads.lock().unwrap();
    // avail.idx, one entry of its ring, four descriptors.
    assert_eq!(reads.len(), 2 + 2 + 4 * 16);
    assert!(reads.values().all(|&times| times == 1), "{reads:?}");
}
