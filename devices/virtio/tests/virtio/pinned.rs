//! Rings that are pinned: which are, what that keeps, what is marked, and what happens if the map changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memory_model::atomic::RegionMap;
use memory_model::dirty::DirtyRange;
use memory_model::guest_memory::{Error, new_generation};
use memory_model::io_memory::{Access, Fragment};
use memory_model::mmap::Protection;
use memory_model::{
    AtomicAccess, Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollection, GuestRegionMmap, GuestSlice, IoAddress, IoMemory, MemoryRegionAddress, MmapRegion,
    fault_recovery,
};
use memory_model_virtio::ring::Part;
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, QueueError};

use crate::common::{DATA, END, QUEUE, memory, segment};

/// As large as a page of any host.
const PAGE: u64 = 0x1_0000;

fn config(at: u64) -> QueueConfig {
    QueueConfig::contiguous(IoAddress(at), 8).unwrap()
}

/// A region of `len` bytes.
fn region(start: u64, len: u64) -> Arc<GuestRegionMmap> {
    Arc::new(GuestRegionMmap::new(MmapRegion::new(len as usize).unwrap(), GuestAddress(start)).unwrap())
}

fn memory_of(regions: &[&Arc<GuestRegionMmap>]) -> GuestMemoryMmap {
    GuestMemoryMmap::from_arc_regions(regions.iter().map(|&region| Arc::clone(region)).collect()).unwrap()
}

/// One buffer goes to the device and comes back; all steps of the queue are taken.
fn turn<I: IoMemory>(queue: &mut Queue, driver: &mut DriverQueue, mem: &I) {
    queue.disable_notifications(mem).unwrap();
    let head = driver.add(mem, &[segment(DATA, 3)], &[segment(DATA + 8, 5)]).unwrap();
    driver.publish(mem).unwrap();
    let chain = queue.pop(mem).unwrap().unwrap();
    assert_eq!((chain.head(), chain.readable().len(), chain.writable().len()), (head, 3, 5));
    queue.add_used(mem, head, 5).unwrap();
    let used = driver.pop_used(mem).unwrap().unwrap();
    assert_eq!((used.head, used.len), (head, 5));
    assert!(!queue.enable_notifications(mem).unwrap());
    assert!(queue.needs_notification(mem).unwrap());
    assert!(queue.pop(mem).unwrap().is_none());
}

/// What lies where it is, counting how often it is asked to read or write by itself.
struct Counting {
    region: GuestRegionMmap,
    calls: AtomicUsize,
    has_bytes: bool,
}

impl Counting {
    fn memory(has_bytes: bool) -> GuestRegionCollection<Self> {
        let region = GuestRegionMmap::new(MmapRegion::new(END as usize).unwrap(), GuestAddress(0)).unwrap();
        GuestRegionCollection::from_regions(vec![Self { region, calls: AtomicUsize::new(0), has_bytes }]).unwrap()
    }

    fn counted(&self) -> &GuestRegionMmap {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.region
    }
}

impl Bytes<MemoryRegionAddress> for Counting {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.counted().write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.counted().read(buf, addr)
    }
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T, Error> {
        self.counted().load(addr, order)
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<(), Error> {
        self.counted().store(val, addr, order)
    }
}

impl GuestMemoryRegion for Counting {
    fn len(&self) -> u64 {
        self.region.len()
    }
    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        if self.has_bytes { self.region.get_slice(offset, count) } else { Err(Error::NoHostMemory(GuestAddress(0))) }
    }
}

/// How often the device's half of a turn has a region read or write by its own code.
fn calls(mem: &GuestRegionCollection<Counting>, config: QueueConfig, is_pinned: bool) -> usize {
    let (mut driver, mut queue) = (DriverQueue::new(mem, config).unwrap(), Queue::new(config).unwrap());
    if is_pinned {
        queue.pin(mem);
    }
    let head = driver.add(mem, &[segment(DATA, 3)], &[segment(DATA + 8, 5)]).unwrap();
    driver.publish(mem).unwrap();
    let calls = || mem.regions().map(|region| region.calls.load(Ordering::Relaxed)).sum::<usize>();
    let before = calls();
    queue.disable_notifications(mem).unwrap();
    assert_eq!(queue.pop(mem).unwrap().unwrap().head(), head);
    queue.add_used(mem, head, 5).unwrap();
    queue.enable_notifications(mem).unwrap();
    queue.needs_notification(mem).unwrap();
    let calls = calls() - before;
    assert!(driver.pop_used(mem).unwrap().is_some());
    calls
}

#[test]
fn what_is_pinned_is_accessed_without_asking_the_memory() {
    // Flags twice, `avail.idx` twice, an entry of each ring, two descriptors, `used.idx`, the driver's flags.
    let (flags, event_idx) = (config(QUEUE), QueueConfig { event_idx: true, ..config(QUEUE) });
    assert_eq!(calls(&Counting::memory(true), flags, false), 10);
    assert_eq!(calls(&Counting::memory(true), flags, true), 0);
    // With event index the last fields, and one flag less.
    assert_eq!(calls(&Counting::memory(true), event_idx, false), 9);
    assert_eq!(calls(&Counting::memory(true), event_idx, true), 0);
    // And by asking it where it has no bytes in the host, as if nothing were pinned.
    assert_eq!(calls(&Counting::memory(false), flags, true), 10);
}

#[test]
fn regions_are_kept_as_long_as_something_in_them_is_pinned() {
    let ring = region(0, PAGE);
    let mem = memory_of(&[&ring, &region(DATA, PAGE)]);
    let mut queue = Queue::new(config(QUEUE)).unwrap();
    let before = Arc::strong_count(&ring);
    let kept = || Arc::strong_count(&ring) - before;
    queue.pin(&mem);
    assert_eq!(kept(), 3, "the table and both rings");
    queue.pin(&mem);
    queue.pin(&mem.clone());
    assert_eq!(kept(), 3);
    queue.unpin();
    assert_eq!(kept(), 0);
    queue.pin(&mem);
    queue.reset();
    assert_eq!(kept(), 0);
    // In another memory they may lie elsewhere, or be pinned no more.
    queue.pin(&mem);
    queue.pin(&memory());
    assert_eq!(kept(), 0);
    queue.pin(&mem);
    queue.pin(&memory_of(&[&region(DATA, PAGE)]));
    assert_eq!(kept(), 0);
    queue.pin(&mem);
    queue.pin(&Mute(mem.clone()));
    assert_eq!(kept(), 0);
}

/// A memory that cannot say its number.
struct Mute(GuestMemoryMmap);

impl GuestMemory for Mute {
    type Region = GuestRegionMmap;
    fn num_regions(&self) -> usize {
        self.0.num_regions()
    }
    fn find_region(&self, addr: GuestAddress) -> Option<&GuestRegionMmap> {
        self.0.find_region(addr)
    }
    fn regions(&self) -> impl Iterator<Item = &GuestRegionMmap> {
        self.0.regions()
    }
}

impl RegionMap for Mute {
    fn arc_regions(&self) -> &[Arc<GuestRegionMmap>] {
        self.0.arc_regions()
    }
}

#[test]
fn in_a_memory_without_a_number_nothing_is_pinned() {
    let ring = region(0, PAGE);
    let mem = Mute(memory_of(&[&ring, &region(DATA, PAGE)]));
    let mut queue = Queue::new(config(QUEUE)).unwrap();
    let mut driver = DriverQueue::new(&mem, config(QUEUE)).unwrap();
    let before = Arc::strong_count(&ring);
    queue.pin(&mem);
    assert_eq!(Arc::strong_count(&ring), before);
    turn(&mut queue, &mut driver, &mem);
}

/// The region with the rings is taken away and another is put at its place: whatever is pinned of the first, the queue is
/// where the guest has it.
#[test]
fn another_region_at_the_same_address_has_the_queue_from_then_on() {
    for pins_again in [false, true] {
        let map = GuestMemoryAtomic::new(memory_of(&[&region(0, PAGE), &region(DATA, PAGE)]));
        let mut reader = map.reader();
        let [mut queue, mut other] = [(); 2].map(|()| Queue::new(config(QUEUE)).unwrap());
        queue.pin(&*reader.read());
        other.pin(&*reader.read());
        let old = map.remove_region(GuestAddress(0), PAGE).unwrap();
        assert_eq!(Arc::strong_count(&old), 7, "pinned, and nobody else has it");
        // There is nothing at all.
        let gone = other.enable_notifications(&*reader.read()).unwrap_err();
        assert!(matches!(gone, QueueError::Memory { part: Part::UsedRing, .. }), "{gone}");
        drop(other);

        // What it would find there makes no sense.
        old.fill(0xff, PAGE as usize, GuestAddress(0)).unwrap();
        map.insert_region(region(0, PAGE)).unwrap();
        let mem = reader.read();
        let mut driver = DriverQueue::new(&*mem, config(QUEUE)).unwrap();
        if pins_again {
            queue.pin(&*mem);
        }
        for _ in 0..20 {
            turn(&mut queue, &mut driver, &*mem);
        }
        assert_eq!(mem.read_obj::<u16>(GuestAddress(config(QUEUE).used.0 + 2)).unwrap().to_le(), 20);
        // Until it is pinned again, the old one is kept, and as it was.
        assert_eq!(Arc::strong_count(&old), if pins_again { 1 } else { 4 });
        let mut bytes = vec![0; PAGE as usize];
        old.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0xff), "the old region was written");
    }
}

/// The same, while the queue goes on: the new region has what the old one had, as after a migration of that memory.
#[test]
fn a_queue_goes_on_in_a_copy_of_its_region() {
    let map = GuestMemoryAtomic::new(memory_of(&[&region(0, PAGE), &region(DATA, PAGE)]));
    let mut reader = map.reader();
    let mut queue = Queue::new(config(QUEUE)).unwrap();
    let mut driver = DriverQueue::new(&*reader.read(), config(QUEUE)).unwrap();
    for round in 0..10 {
        if round % 3 != 1 {
            queue.pin(&*reader.read());
        }
        for _ in 0..3 {
            turn(&mut queue, &mut driver, &*reader.read());
        }
        let old = map.remove_region(GuestAddress(0), PAGE).unwrap();
        let (new, mut bytes) = (region(0, PAGE), vec![0; PAGE as usize]);
        old.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        new.write_slice(&bytes, GuestAddress(0)).unwrap();
        // What the old one holds is wrong from now on.
        old.fill(0xff, PAGE as usize, GuestAddress(0)).unwrap();
        map.insert_region(new).unwrap();
    }
    assert_eq!((queue.next_avail(), queue.next_used()), (30, 30));
}

#[test]
fn parts_in_two_regions_are_looked_up_and_the_others_are_pinned() {
    let config = config(QUEUE);
    let seams = [
        (config.desc.0 + 16, 2),
        (config.avail.0 + 2, 2),
        (config.avail.0 + 4 + 2 * 8, 2),
        (config.used.0 + 4, 2),
        (config.used.0, 3),
        (config.avail.0, 3),
        (config.desc.0, 3),
    ];
    for (seam, pinned) in seams {
        let (lower, upper) = (region(0, seam), region(seam, PAGE - seam));
        let mem = memory_of(&[&lower, &upper, &region(DATA, PAGE)]);
        let mut queue = Queue::new(config).unwrap();
        let mut driver = DriverQueue::new(&mem, config).unwrap();
        let counts = || Arc::strong_count(&lower) + Arc::strong_count(&upper);
        let before = counts();
        queue.pin(&mem);
        assert_eq!(counts() - before, pinned, "seam at {seam:#x}");
        for _ in 0..20 {
            turn(&mut queue, &mut driver, &mem);
        }
    }
}

#[test]
fn a_used_ring_that_is_read_only_is_not_pinned_and_breaks_as_ever() {
    if !fault_recovery::is_installed() {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    let config = QueueConfig { used: IoAddress(2 * PAGE), ..config(QUEUE) };
    let rom = region(2 * PAGE, PAGE);
    let mem = memory_of(&[&region(0, 2 * PAGE), &rom]);
    let before = Arc::strong_count(&rom);
    let reasons = [false, true].map(|is_pinned| {
        rom.protect(Protection::ReadOnly).unwrap();
        let mut queue = Queue::new(config).unwrap();
        if is_pinned {
            queue.pin(&mem);
            assert_eq!(Arc::strong_count(&rom), before);
        }
        let first = queue.add_used(&mem, 1, 2).unwrap_err().to_string();
        // It becomes so later.
        rom.protect(Protection::ReadWrite).unwrap();
        let mut queue = Queue::new(config).unwrap();
        if is_pinned {
            queue.pin(&mem);
            assert_eq!(Arc::strong_count(&rom), before + 1);
        }
        queue.add_used(&mem, 1, 2).unwrap();
        rom.protect(Protection::ReadOnly).unwrap();
        [first, queue.add_used(&mem, 1, 2).unwrap_err().to_string()]
    });
    assert_eq!(reasons[0], reasons[1]);
    assert!(reasons[0][0].contains("read-only"), "{}", reasons[0][0]);
}

/// Every part, in a page that has gone: the reason is the same, pinned or not, also for a device behind an IOMMU.
#[test]
fn errors_are_the_memorys() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let ranges = [(GuestAddress(0), END as usize, None), (GuestAddress(END), PAGE as usize, Some(at))];
    let mem = GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap();
    if !fault_recovery::is_installed() {
        memory_model_test_support::skip!("no fault recovery on this target");
        return;
    }
    let bad = IoAddress(END);
    let parts = [
        QueueConfig { desc: bad, ..config(QUEUE) },
        QueueConfig { avail: bad, ..config(QUEUE) },
        QueueConfig { used: bad, ..config(QUEUE) },
        QueueConfig { event_idx: true, avail: bad, ..config(QUEUE) },
        QueueConfig { event_idx: true, used: bad, ..config(QUEUE) },
    ];
    for config in parts {
        assert_eq!(reasons(&mem, config, &file, false), reasons(&mem, config, &file, true), "{config:?}");
        let shifted = Shifted { mem: mem.clone(), by: 0x40_0000, generation: new_generation() };
        let up = |addr: IoAddress| IoAddress(addr.0 + shifted.by);
        let config = QueueConfig { desc: up(config.desc), avail: up(config.avail), used: up(config.used), ..config };
        assert_eq!(reasons(&shifted, config, &file, false), reasons(&shifted, config, &file, true), "{config:?}");
    }
}

/// What each step answers when the file's page has gone.
fn reasons<I>(mem: &I, config: QueueConfig, file: &std::fs::File, is_pinned: bool) -> [String; 5]
where
    I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
{
    file.set_len(PAGE).unwrap();
    let mut driver = DriverQueue::new(mem, config).unwrap();
    driver.add(mem, &[segment(DATA, 3)], &[]).unwrap();
    driver.publish(mem).unwrap();
    let step = |step: &dyn Fn(&mut Queue) -> Result<(), QueueError>| {
        file.set_len(PAGE).unwrap();
        let mut queue = Queue::resume(config, 0, u16::MAX).unwrap();
        if is_pinned {
            queue.pin(mem);
        }
        file.set_len(0).unwrap();
        format!("{:?}", step(&mut queue))
    };
    [
        step(&|queue| queue.pop(mem).map(drop)),
        step(&|queue| queue.add_used(mem, 0, 1)),
        step(&|queue| queue.needs_notification(mem).map(drop)),
        step(&|queue| queue.enable_notifications(mem).map(drop)),
        step(&|queue| queue.disable_notifications(mem)),
    ]
}

/// An IOMMU that shifts all addresses by as much.
struct Shifted {
    mem: GuestMemoryMmap,
    by: u64,
    generation: u64,
}

impl Shifted {
    fn at(&self, addr: IoAddress) -> GuestAddress {
        GuestAddress(addr.0.wrapping_sub(self.by))
    }

    /// An error in the addresses of the device.
    fn error(&self, error: Error) -> Error {
        let up = |addr: GuestAddress| GuestAddress(addr.0.wrapping_add(self.by));
        match error {
            Error::Fault { addr, completed } => Error::Fault { addr: up(addr), completed },
            Error::InvalidGuestAddress(addr) => Error::InvalidGuestAddress(up(addr)),
            other => other,
        }
    }
}

impl Bytes<IoAddress> for Shifted {
    type E = Error;
    fn write(&self, buf: &[u8], addr: IoAddress) -> Result<usize, Error> {
        self.mem.write(buf, self.at(addr)).map_err(|error| self.error(error))
    }
    fn read(&self, buf: &mut [u8], addr: IoAddress) -> Result<usize, Error> {
        self.mem.read(buf, self.at(addr)).map_err(|error| self.error(error))
    }
    fn load<T: AtomicAccess>(&self, addr: IoAddress, order: Ordering) -> Result<T, Error> {
        self.mem.load(self.at(addr), order).map_err(|error| self.error(error))
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: IoAddress, order: Ordering) -> Result<(), Error> {
        self.mem.store(val, self.at(addr), order).map_err(|error| self.error(error))
    }
}

impl IoMemory for Shifted {
    type Physical = GuestMemoryMmap;
    fn physical(&self) -> &GuestMemoryMmap {
        &self.mem
    }
    fn io_generation(&self) -> Option<u64> {
        Some(self.generation)
    }
    fn translate(&self, addr: IoAddress, len: usize, _: Access) -> impl Iterator<Item = Result<Fragment, Error>> {
        (len > 0).then_some(Ok(Fragment { addr: self.at(addr), len })).into_iter()
    }
}

/// The guest's IOMMU moves the queue; the map of regions is the same.
#[test]
fn a_translation_that_changes_is_followed() {
    let mut mem = Shifted { mem: memory(), by: 0x10_0000, generation: new_generation() };
    let mut queue = Queue::new(config(0x10_1000)).unwrap();
    let mut driver = DriverQueue::new(&mem, config(0x10_1000)).unwrap();
    queue.pin(&mem);
    let before = Arc::strong_count(&mem.mem.arc_regions()[0]);
    turn(&mut queue, &mut driver, &mem);
    // The used ring, where the device and the guest have it.
    let idx =
        |mem: &GuestMemoryMmap, at: u64| mem.read_obj::<u16>(GuestAddress(config(at).used.0 + 2)).unwrap().to_le();
    assert_eq!(idx(&mem.mem, 0x1000), 1);
    let mut bytes = vec![0; 0x1000];
    mem.mem.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
    mem.mem.write_slice(&bytes, GuestAddress(0x5000)).unwrap();
    (mem.by, mem.generation) = (0x10_0000 - 0x4000, new_generation());
    turn(&mut queue, &mut driver, &mem);
    assert_eq!((idx(&mem.mem, 0x1000), idx(&mem.mem, 0x5000)), (1, 2));
    queue.pin(&mem);
    turn(&mut queue, &mut driver, &mem);
    assert_eq!((idx(&mem.mem, 0x1000), idx(&mem.mem, 0x5000)), (1, 3));
    assert_eq!(Arc::strong_count(&mem.mem.arc_regions()[0]), before);
}

/// Tracking begins after the rings were pinned.
#[test]
fn what_is_written_to_pinned_rings_is_marked_as_dirty() {
    let config = QueueConfig { used: IoAddress(0x8000), ..config(QUEUE) };
    let dirty = [false, true].map(|is_pinned| {
        let mem = memory();
        let (mut queue, mut driver) = (Queue::new(config).unwrap(), DriverQueue::new(&mem, config).unwrap());
        if is_pinned {
            queue.pin(&mem);
        }
        driver.add(&mem, &[segment(DATA, 3)], &[segment(DATA + 8, 5)]).unwrap();
        driver.publish(&mem).unwrap();
        let log = mem.start_tracking(4096).unwrap();
        let dirty = |step: &mut dyn FnMut() -> Result<(), QueueError>| -> Vec<DirtyRange> {
            step().unwrap();
            let harvest = log.harvest();
            let ranges = harvest.ranges().collect();
            harvest.commit();
            ranges
        };
        [
            dirty(&mut || queue.disable_notifications(&mem)),
            dirty(&mut || queue.pop(&mem).map(drop)),
            dirty(&mut || queue.add_used(&mem, 0, 5)),
            dirty(&mut || queue.enable_notifications(&mem).map(drop)),
            dirty(&mut || queue.needs_notification(&mem).map(drop)),
        ]
    });
    assert_eq!(dirty[0], dirty[1]);
    let page = || vec![DirtyRange { start: 0x8000, len: 4096 }];
    assert_eq!(dirty[1], [page(), vec![], page(), page(), vec![]]);
}
