//! Pages of the hugetlb pool, which are plugged and unplugged whole.

use std::fs::{self, File};

use memory_model::mmap::{Error, HugePageSize, HugePages, MmapRegion, MmapRegionBuilder};
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress};
use rustix::fs::FlockOperation;

use crate::ground::{page, recovers};
use crate::marks::Marks;

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

#[test]
fn huge_pages_are_unplugged_whole() {
    let kinds: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
        |mapping| mapping,
        MmapRegionBuilder::shared,
        |mapping| mapping.memfd("plug: huge"),
        |mapping| mapping.memfd("plug: huge").private(),
    ];
    if !recovers() {
        return;
    }
    let Some(_pool) = Pool::with(8) else { return };
    for (number, kind) in kinds.into_iter().enumerate() {
        let mapping = MmapRegion::builder(4 * HUGE).huge_pages(HugePages::Hugetlb(HugePageSize::MIB_2));
        let region = GuestRegionMmap::new(kind(mapping).build().unwrap(), GuestAddress(0)).unwrap();
        let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let (region, at) = (&mem.arc_regions()[0], |number: usize| MemoryRegionAddress((number * HUGE) as u64));
        region.fill(0xa5, 4 * HUGE, at(0)).unwrap();
        let marks = Marks::of(&mem);
        let resident = || region.usage().unwrap().resident();
        assert_eq!(resident(), 4 * HUGE as u64, "{number}");
        // A page of the host is none of the mapping's.
        for (offset, len) in [(page(), HUGE), (HUGE, page()), (HUGE / 2, HUGE / 2)] {
            let error = region.unplug(MemoryRegionAddress(offset as u64), len as u64).unwrap_err();
            assert!(matches!(error, Error::PartOfPage { page_size, .. } if page_size == HUGE as u64), "{error}");
        }
        region.unplug(at(1), 2 * HUGE as u64).unwrap();
        assert_eq!((resident(), marks.take()), (2 * HUGE as u64, vec![None]), "{number}");
        let bytes = || [0, 1, 2, 3].map(|number| region.read_obj::<u8>(at(number)).ok());
        assert_eq!(bytes(), [Some(0xa5), None, None, Some(0xa5)], "{number}");
        assert_eq!(region.discard(at(1), 2 * HUGE as u64).unwrap(), 0, "{number}");
        region.plug(at(2), 2 * HUGE as u64).unwrap();
        assert_eq!(bytes(), [Some(0xa5), None, Some(0), Some(0xa5)], "{number}");
        assert_eq!(marks.take(), [Some(2 * HUGE as u64..=3 * HUGE as u64 - 1)], "{number}");
    }
}
