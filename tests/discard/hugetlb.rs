//! Pages of the hugetlb pool, which are given back whole.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use memory_model::mmap::{HugePageSize, HugePages, MmapRegion, MmapRegionBuilder};
use memory_model::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress, VolatileMemory};
use rustix::fs::FlockOperation;

use super::kernel::Areas;
use super::{contents, userfault};

const HUGE: usize = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

fn count(what: &str) -> Option<usize> {
    fs::read_to_string(format!("{POOL}{what}")).ok()?.trim().parse().ok()
}

/// More pages in the pool, as long as it lives; other tests wait for it meanwhile.
struct Pool {
    before: usize,
    _lock: File,
}

impl Pool {
    fn with(pages: usize) -> Option<Self> {
        if std::env::var_os("CROSS_RUNNER").is_some() {
            memory_model_test_support::skip!("emulated: madvise has no effect");
            return None;
        }
        let lock = File::open(format!("{POOL}nr_hugepages")).ok()?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).ok()?;
        let before = count("nr_hugepages")?;
        let pool = Self { before, _lock: lock };
        let wanted = (before + pages).to_string();
        if fs::write(format!("{POOL}nr_hugepages"), wanted).is_err() || count("free_hugepages")? < pages {
            memory_model_test_support::skip!("no hugetlb pages: {pages} wanted");
            return None;
        }
        Some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if fs::write(format!("{POOL}nr_hugepages"), self.before.to_string()).is_err() {
            eprintln!("the pool had {} pages before", self.before);
        }
    }
}

/// Bytes of the pool that a mapping has, which are no part of what is otherwise resident.
fn resident(region: &MmapRegion) -> usize {
    let areas = Areas::of(region);
    areas.bytes("Private_Hugetlb") + areas.bytes("Shared_Hugetlb")
}

#[test]
fn huge_pages_are_given_back_whole_to_the_pool() {
    let kinds: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
        |mapping| mapping,
        MmapRegionBuilder::shared,
        |mapping| mapping.memfd("huge"),
        |mapping| mapping.memfd("huge").private(),
    ];
    let Some(_pool) = Pool::with(8) else { return };
    for (number, kind) in kinds.into_iter().enumerate() {
        let mapping = MmapRegion::builder(4 * HUGE).huge_pages(HugePages::Hugetlb(HugePageSize::MIB_2));
        let region = kind(mapping).build().unwrap();
        region.as_volatile_slice().fill(0xa5, region.len(), 0).unwrap();
        let blocks = || region.file_offset().map(|at| at.file().metadata().unwrap().blocks());
        let before = blocks();
        assert_eq!(resident(&region), 4 * HUGE, "{number}");
        // All of the second, and parts of the first and the third.
        assert_eq!(region.discard(HUGE - 4096, 2 * HUGE).unwrap(), HUGE, "{number}");
        assert_eq!(resident(&region), 3 * HUGE, "{number}");
        if let (Some(before), Some(after), 2) = (before, blocks(), number) {
            assert_eq!((before - after) * 512, HUGE as u64, "a hole in the file");
        }
        // None is whole.
        assert_eq!(region.discard(1, 2 * HUGE - 2).unwrap(), 0, "{number}");
        assert_eq!(region.discard(2 * HUGE + 4096, HUGE).unwrap(), 0, "{number}");
        let bytes = contents(&region);
        let zeroes = HUGE..2 * HUGE;
        let right = |(offset, byte): (usize, &u8)| *byte == if zeroes.contains(&offset) { 0 } else { 0xa5 };
        assert!(bytes.iter().enumerate().all(right), "{number}");
        let Some(events) = userfault::watch(&region) else { continue };
        assert_eq!(region.discard(2 * HUGE - 1, HUGE + 2).unwrap(), HUGE, "{number}");
        let (start, end) = (2 * HUGE as u64, 3 * HUGE as u64);
        assert_eq!(userfault::next(&events), Some(userfault::Event::Removed(start, end)), "{number}");
        // The one before was made again when it was read.
        assert_eq!(resident(&region), 3 * HUGE, "{number}");
    }
}

#[test]
fn huge_pages_of_a_private_file_read_zero() {
    let Some(_pool) = Pool::with(8) else { return };
    let builder = || MmapRegion::builder(2 * HUGE).huge_pages(HugePages::Hugetlb(HugePageSize::MIB_2));
    let shared = builder().memfd("huge").build().unwrap();
    shared.as_volatile_slice().fill(7, shared.len(), 0).unwrap();
    let file = || shared.file_offset().unwrap().clone();
    let region = builder().file(file()).private().build().unwrap();
    region.as_volatile_slice().fill(0xa5, HUGE, HUGE).unwrap();
    assert_eq!(region.discard(1, 2 * HUGE - 1).unwrap(), HUGE);
    let bytes = contents(&region);
    assert!(bytes.iter().enumerate().all(|(offset, byte)| *byte == if offset < HUGE { 7 } else { 0 }));
    drop(region);
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    let region = GuestRegionMmap::new(builder().file(file()).private().build().unwrap(), GuestAddress(0)).unwrap();
    region.unplug(MemoryRegionAddress(0), HUGE as u64).unwrap();
    assert!(region.read_obj::<u8>(MemoryRegionAddress(0)).is_err());
    region.plug(MemoryRegionAddress(0), HUGE as u64).unwrap();
    let read = |offset: usize| region.read_obj::<u8>(MemoryRegionAddress(offset as u64)).unwrap();
    assert_eq!([read(0), read(HUGE - 1), read(HUGE)], [0, 0, 7]);
}
