//! Regions that others provide: with a tracker of their own, and with none.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use memory_model::atomic::MapError;
use memory_model::buffers::{GuestBuffers, PinnedSlice};
use memory_model::dirty::{self, DirtyRange, LogBitmap, Tracker};
use memory_model::guest_memory::{DirtyLog, Error};
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap,
    GuestSlice, GuestUsize, MemoryRegionAddress, MmapRegion, RegionKind, VolatileMemory, VolatileSlice,
};

use crate::ground::{Bits, range};

/// A region of two methods and no host addresses, in bytes that it locks.
struct Locked {
    start: GuestAddress,
    bytes: Mutex<Vec<u8>>,
    tracker: Option<Tracker>,
}

impl Locked {
    fn new(start: u64, len: usize, is_tracked: bool) -> Self {
        let tracker = is_tracked.then(|| Tracker::new(start));
        Self { start: GuestAddress(start), bytes: Mutex::new(vec![0; len]), tracker }
    }

    /// Calls `access` with all bytes, as a slice whose writes are marked.
    fn with<T>(&self, access: impl FnOnce(&GuestSlice<'_>, usize) -> T, addr: MemoryRegionAddress) -> T {
        let mut bytes = self.bytes.lock().unwrap();
        let slice = VolatileSlice::from(&mut bytes[..]);
        let at = usize::try_from(addr.0).unwrap_or(usize::MAX);
        access(&GuestSlice::new(slice, self.tracker.as_ref(), self.start), at)
    }
}

impl Bytes<MemoryRegionAddress> for Locked {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.with(|slice, at| slice.write(buf, at), addr)
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.with(|slice, at| slice.read(buf, at), addr)
    }
}

impl GuestMemoryRegion for Locked {
    fn len(&self) -> GuestUsize {
        self.bytes.lock().unwrap().len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn tracker(&self) -> Option<&Tracker> {
        self.tracker.as_ref()
    }

    fn is_untracked(&self) -> bool {
        self.tracker.is_none()
    }
}

/// A region of host memory that hands out slices, and may say so.
struct Ram {
    start: GuestAddress,
    mapping: MmapRegion,
    tracker: Tracker,
}

impl Ram {
    fn new(start: u64, len: usize) -> Self {
        Self { start: GuestAddress(start), mapping: MmapRegion::new(len).unwrap(), tracker: Tracker::new(start) }
    }

    fn whole(&self) -> GuestSlice<'_> {
        GuestSlice::new(self.mapping.as_volatile_slice(), Some(&self.tracker), self.start)
    }
}

impl Bytes<MemoryRegionAddress> for Ram {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.whole().write(buf, usize::try_from(addr.0).unwrap_or(usize::MAX))
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.whole().read(buf, usize::try_from(addr.0).unwrap_or(usize::MAX))
    }
}

impl GuestMemoryRegion for Ram {
    fn len(&self) -> GuestUsize {
        self.mapping.len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn tracker(&self) -> Option<&Tracker> {
        Some(&self.tracker)
    }

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        self.whole().subslice(usize::try_from(offset.0).unwrap_or(usize::MAX), count)
    }
}

fn memory() -> GuestRegionCollection<Locked> {
    let regions = vec![
        Locked::new(0x1000, 0x1000, true),
        Locked::new(0x2000, 0x1800, false),
        Locked::new(0x3800, 0x1800, true),
        Locked::new(0x8000, 0x1000, true),
    ];
    GuestRegionCollection::from_regions(regions).unwrap()
}

#[test]
fn regions_that_are_declared_untracked_are_not_tracked() {
    let mem = memory();
    let log = mem.start_tracking(0x1000).unwrap();
    let bits = Bits::new(&mem, 0x1000);
    let starts: Vec<_> = log.bitmaps().map(|(start, bitmap)| (start.0, bitmap.len())).collect();
    assert_eq!(starts, [(0x1000, 0x1000), (0x3800, 0x1800), (0x8000, 0x1000)]);
    mem.fill(1, 0x4000, GuestAddress(0x1000)).unwrap();
    assert_eq!(bits.take(), [(0x1000, 0x1000), (0x3800, 0x1800)]);
    let found = |expected: &[DirtyRange]| {
        let harvest = log.harvest();
        assert_eq!(harvest.ranges().collect::<Vec<_>>(), expected);
        harvest.commit();
    };
    found(&[range(0x1000, 0x1000), range(0x3800, 0x1800)]);
    mem.write_obj(1_u64, GuestAddress(0x1ffc)).unwrap();
    assert_eq!(bits.take(), [(0x1ffc, 4)]);
    mem.copy(GuestAddress(0x1000), GuestAddress(0x3700), 0x400).unwrap();
    assert_eq!(bits.take(), [(0x3800, 0x300)]);
    mem.copy(GuestAddress(0x1f00), GuestAddress(0x1e00), 0x800).unwrap();
    assert_eq!(bits.take(), [(0x1e00, 0x200)]);
    mem.write_all_from(GuestAddress(0x4ff0), &mut &[1_u8; 16][..], 16).unwrap();
    assert_eq!(bits.take(), [(0x4ff0, 0x10)]);
    assert!(mem.write_slice(&[1; 32], GuestAddress(0x4ff0)).is_err());
    assert_eq!(bits.take(), [(0x4ff0, 0x10)]);
    found(&[range(0x1000, 0x1000), range(0x3800, 0x1800)]);
    mem.read_slice(&mut [0; 0x4000], GuestAddress(0x1000)).unwrap();
    assert_eq!(bits.take(), []);
    found(&[]);
}

#[test]
fn shared_bitmaps_and_writes_to_the_region_itself() {
    let mem = memory();
    let memory = Arc::new(MmapRegion::new(2).unwrap());
    let log = Arc::new(LogBitmap::new(Arc::clone(&memory)));
    let byte = |at| memory.as_volatile_slice().read_obj::<u8>(at).unwrap();
    mem.attach(&log).unwrap();
    mem.fill(1, 0x4000, GuestAddress(0x1000)).unwrap();
    assert_eq!((byte(0), byte(1)), (0b0001_1010, 0));
    mem.find_region(GuestAddress(0x8000)).unwrap().write_obj(1_u8, MemoryRegionAddress(0xfff)).unwrap();
    assert_eq!((byte(0), byte(1)), (0b0001_1010, 1));
    mem.detach(&log);
    mem.fill(1, 0x1000, GuestAddress(0x2000)).unwrap();
    assert_eq!((byte(0), byte(1)), (0b0001_1010, 1));
}

#[test]
fn slices_of_a_region_of_ones_own() {
    let mem = GuestRegionCollection::from_regions(vec![Ram::new(0x1000, 0x3000), Ram::new(0x4000, 0x1000)]).unwrap();
    let slice = mem.get_slice(GuestAddress(0x1800), 0x1000).unwrap();
    let log = mem.start_tracking(0x1000).unwrap();
    let bits = Bits::new(&mem, 0x1000);
    slice.write_obj(1_u32, 0x7fe).unwrap();
    assert_eq!(bits.take(), [(0x1ffe, 4)]);
    mem.copy(GuestAddress(0x1000), GuestAddress(0x3ff8), 16).unwrap();
    assert_eq!(bits.take(), [(0x3ff8, 16)]);
    mem.write_obj(1_u64, GuestAddress(0x3ffe)).unwrap();
    assert_eq!(bits.take(), [(0x3ffe, 8)]);
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0x1000, 0x4000)]);
}

/// The base of a tracker is the region's first address. Where a provider errs, wrong pages are marked, and nothing worse.
#[test]
fn a_tracker_with_a_wrong_base() {
    for base in [0, 0x800, 0x2000, 0x5000, u64::MAX] {
        let region = Locked { tracker: Some(Tracker::new(base)), ..Locked::new(0x1000, 0x3000, false) };
        let mem = GuestRegionCollection::from_regions(vec![region]).unwrap();
        let log = mem.start_tracking(0x1000).unwrap();
        for addr in [0x1000, 0x2000, 0x3ff8] {
            mem.write_obj(1_u64, GuestAddress(addr)).unwrap();
            mem.write_obj(1_u64, GuestAddress(addr)).unwrap();
        }
        mem.fill(1, 0x3000, GuestAddress(0x1000)).unwrap();
        let harvest = log.harvest();
        assert!(harvest.ranges().all(|range| range.start >= 0x1000 && range.start + range.len <= 0x4000));
        drop(harvest);
        log.harvest().commit();
        assert!(log.harvest().is_empty());
    }
}

/// Neither has slices, so only the lengths tell.
#[test]
fn tracking_refuses_two_regions_of_different_lengths_with_one_tracker() {
    struct Half(u64, u64, Arc<Tracker>);
    impl Bytes<MemoryRegionAddress> for Half {
        type E = Error;
        fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
            let mut bytes = vec![0; 0x10_0000];
            let slice = GuestSlice::new(VolatileSlice::from(&mut bytes[..]), Some(&self.2), GuestAddress(self.0));
            slice.write(buf, usize::try_from(addr.0).unwrap_or(usize::MAX))
        }
        fn read(&self, _: &mut [u8], _: MemoryRegionAddress) -> Result<usize, Error> {
            Ok(0)
        }
    }
    impl GuestMemoryRegion for Half {
        fn len(&self) -> GuestUsize {
            self.1
        }
        fn start_addr(&self) -> GuestAddress {
            GuestAddress(self.0)
        }
        fn tracker(&self) -> Option<&Tracker> {
            Some(&self.2)
        }
    }
    for lens in [(0x1000, 0x10_0000), (0x10_0000, 0x1000)] {
        let tracker = Arc::new(Tracker::new(0));
        let regions = vec![Half(0, lens.0, Arc::clone(&tracker)), Half(0x20_0000, lens.1, tracker)];
        let mem = GuestRegionCollection::from_regions(regions).unwrap();
        let expected = dirty::Error::OtherTracker { region: (0, lens.1 - 1) };
        assert_eq!(mem.start_tracking(0x1000).unwrap_err(), expected);
        for addr in [0, lens.0 - 1, 0x20_0000, 0x20_0000 + lens.1 - 1] {
            mem.write_obj(1_u8, GuestAddress(addr)).unwrap();
        }
    }
}

/// The memory of the example `custom_region`, used for more than its own purpose.
#[path = "../../examples/custom_region.rs"]
#[expect(dead_code, reason = "its program and its device's inside")]
mod example;

#[test]
fn ram_beside_registers_is_ram_and_reports_its_dirty_pages() {
    let mem = example::memory(0x10_0000).unwrap();
    let kinds: Vec<_> = mem.regions().map(GuestMemoryRegion::kind).collect();
    assert_eq!(kinds, [RegionKind::Ram, RegionKind::Device]);
    let slice = mem.get_slice(GuestAddress(0x7000), 8).unwrap();
    let mut log = mem.start_tracking(0x1000).unwrap();
    let shared = Arc::new(MmapRegion::new(32).unwrap());
    let shared_log = Arc::new(LogBitmap::new(Arc::clone(&shared)));
    mem.attach(&shared_log).unwrap();
    let harvest = |log: &DirtyLog<_>| {
        let harvest = log.harvest();
        let ranges: Vec<_> = harvest.ranges().collect();
        harvest.commit();
        ranges
    };
    mem.write_obj(1_u64, GuestAddress(0x1ffc)).unwrap();
    mem.store(1_u32, GuestAddress(0x5000), Ordering::Release).unwrap();
    slice.write_obj(1_u8, 0).unwrap();
    mem.write_obj(1_u32, example::REGISTERS).unwrap();
    assert_eq!(harvest(&log), [range(0x1000, 0x2000), range(0x5000, 0x1000), range(0x7000, 0x1000)]);
    assert_eq!(shared.as_volatile_slice().read_obj::<u8>(0).unwrap(), 0b1010_0110);
    // It is one memory for buffers, too.
    let mut buffers = GuestBuffers::physical(&mem, [(GuestAddress(0x9000), 0x10)], Access::Write).unwrap();
    assert_eq!(buffers.as_iovecs().len(), 1);
    buffers.complete(0x10).unwrap();
    let pinned = PinnedSlice::physical(&mem, GuestAddress(0xb000), 8, Access::ReadWrite).unwrap();
    pinned.write_obj(1_u64, 0).unwrap();
    assert_eq!(harvest(&log), [range(0x9000, 0x1000), range(0xb000, 0x1000)]);
    let register = GuestBuffers::physical(&mem, [(example::REGISTERS, 8)], Access::Write);
    assert!(matches!(register, Err(Error::NoHostMemory(example::REGISTERS))));
    mem.replace(&shared_log, &Arc::new(LogBitmap::new(shared))).unwrap();
    log.follow(&mem).unwrap();
}

/// A region of four methods of its own.
struct Minimal(GuestAddress);

impl Bytes<MemoryRegionAddress> for Minimal {
    type E = Error;
    fn write(&self, buf: &[u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Ok(buf.len())
    }
    fn read(&self, buf: &mut [u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Ok(buf.len())
    }
}

impl GuestMemoryRegion for Minimal {
    fn len(&self) -> GuestUsize {
        0x1000
    }
    fn start_addr(&self) -> GuestAddress {
        self.0
    }
}

/// Either a region that is tracked, or one that was forgotten, or one that hands out slices of another tracker.
enum Any {
    Ram(Ram),
    Minimal(Minimal),
    /// Its own tracker is not that of its slices.
    Torn(Ram, Tracker),
}

impl Any {
    fn ram(&self) -> &Ram {
        match self {
            Self::Ram(ram) | Self::Torn(ram, _) => ram,
            Self::Minimal(_) => panic!("it has no memory"),
        }
    }
}

impl Bytes<MemoryRegionAddress> for Any {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram().write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram().read(buf, addr)
    }
}

impl GuestMemoryRegion for Any {
    fn len(&self) -> GuestUsize {
        0x1000
    }
    fn start_addr(&self) -> GuestAddress {
        match self {
            Self::Ram(ram) | Self::Torn(ram, _) => ram.start,
            Self::Minimal(minimal) => minimal.0,
        }
    }
    fn tracker(&self) -> Option<&Tracker> {
        match self {
            Self::Ram(ram) => Some(&ram.tracker),
            Self::Minimal(_) => None,
            Self::Torn(_, tracker) => Some(tracker),
        }
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        match self {
            Self::Ram(ram) | Self::Torn(ram, _) => ram.get_slice(offset, count),
            Self::Minimal(minimal) => minimal.get_slice(offset, count),
        }
    }
}

#[test]
fn tracking_names_a_region_without_a_tracker() {
    let ram = GuestRegionCollection::from_regions(vec![Any::Ram(Ram::new(0x1000, 0x1000))]).unwrap();
    let minimal = Any::Minimal(Minimal(GuestAddress(0x8000)));
    let torn = Any::Torn(Ram::new(0x8000, 0x1000), Tracker::new(0x8000));
    let ends = (0x8000, 0x8fff);
    for (region, expected) in
        [(minimal, dirty::Error::NoTracker { region: ends }), (torn, dirty::Error::OtherTracker { region: ends })]
    {
        assert!(expected.to_string().contains("0x8000..=0x8fff"), "{expected}");
        let region = Arc::new(region);
        let mem = ram.insert_region(Arc::clone(&region)).unwrap();
        assert_eq!(mem.start_tracking(0x1000).unwrap_err(), expected);
        assert_eq!(DirtyLog::new([&region], 0x1000).unwrap_err(), expected);

        let memory = Arc::new(MmapRegion::new(2).unwrap());
        let (old, new) = ([(); 2]).map(|()| Arc::new(LogBitmap::new(Arc::clone(&memory)))).into();
        assert_eq!(mem.attach(&old).unwrap_err(), expected);
        mem.write_obj(1_u8, GuestAddress(0x1000)).unwrap();
        assert_eq!(memory.as_volatile_slice().read_obj::<u8>(0).unwrap(), 0, "attached to none");
        ram.attach(&old).unwrap();
        assert_eq!(mem.replace(&old, &new).unwrap_err(), expected);
        mem.detach(&old);
        mem.write_obj(1_u8, GuestAddress(0x1000)).unwrap();
        assert_eq!(memory.as_volatile_slice().read_obj::<u8>(0).unwrap(), 0, "detached from all");

        // A map that changes is not published with such a region, and the log goes on as before.
        let map = GuestMemoryAtomic::new(ram.clone());
        let mut log = map.memory().start_tracking(0x1000).unwrap();
        let refused = map.update(|mem| -> Result<_, MapError> {
            let new = mem.insert_region(Arc::clone(&region))?;
            log.follow(&new).map_err(|error| MapError::Abandoned(error.into()))?;
            Ok(new)
        });
        assert!(refused.unwrap_err().to_string().contains("0x8000..=0x8fff"));
        assert_eq!(map.memory().num_regions(), 1);
        map.memory().write_obj(1_u8, GuestAddress(0x1000)).unwrap();
        assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0x1000, 0x1000)]);
    }
}

/// A part of another region, which it shares with that region's tracker.
struct Window {
    ram: Arc<GuestRegionMmap>,
    delta: u64,
    len: u64,
}

impl Bytes<MemoryRegionAddress> for Window {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram.write(buf, MemoryRegionAddress(addr.0 + self.delta))
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.ram.read(buf, MemoryRegionAddress(addr.0 + self.delta))
    }
}

impl GuestMemoryRegion for Window {
    fn len(&self) -> GuestUsize {
        self.len
    }
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.ram.start_addr().0 + self.delta)
    }
    fn tracker(&self) -> Option<&Tracker> {
        self.ram.tracker()
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        self.ram.get_slice(MemoryRegionAddress(offset.0 + self.delta), count)
    }
}

#[test]
fn tracking_refuses_a_region_that_shares_the_tracker_of_a_larger_one() {
    let ram = Arc::new(GuestRegionMmap::new(MmapRegion::new(0x4000).unwrap(), GuestAddress(0x10_000)).unwrap());
    let window = |delta, len| Arc::new(Window { ram: Arc::clone(&ram), delta, len });
    // It starts elsewhere: its pages would have wrong offsets.
    let region = (0x13_000, 0x13_fff);
    let high = window(0x3000, 0x1000);
    assert_eq!(DirtyLog::new([&high], 0x1000).unwrap_err(), dirty::Error::OtherTracker { region });
    // It ends elsewhere: pages beyond the length of the first would be lost.
    let low = DirtyLog::new([&window(0, 0x3000)], 0x1000).unwrap();
    let region = (0x10_000, 0x13_fff);
    assert_eq!(DirtyLog::new([&ram], 0x1000).unwrap_err(), dirty::Error::OtherTracker { region });
    // What was there before goes on.
    ram.write_obj(1_u8, MemoryRegionAddress(0x2000)).unwrap();
    assert_eq!(low.harvest().ranges().collect::<Vec<_>>(), [range(0x12_000, 0x1000)]);
}
