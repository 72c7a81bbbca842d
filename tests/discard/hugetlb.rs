//! Pages of the hugetlb pool, which are given back whole.

use std::fs;

use memory_model::mmap::{HugePageSize, HugePages, MmapRegion, MmapRegionBuilder};
use memory_model::{Bytes, VolatileMemory};

use super::contents;

const HUGE: usize = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

fn count(what: &str) -> Option<usize> {
    fs::read_to_string(format!("{POOL}{what}")).ok()?.trim().parse().ok()
}

/// More pages in the pool, as long as it lives.
struct Pool {
    before: usize,
}

impl Pool {
    fn with(pages: usize) -> Option<Self> {
        if std::env::var_os("CROSS_RUNNER").is_some() {
            eprintln!("skipped: emulated");
            return None;
        }
        let before = count("nr_hugepages")?;
        let pool = Self { before };
        let wanted = (before + pages).to_string();
        if fs::write(format!("{POOL}nr_hugepages"), wanted).is_err() || count("free_hugepages")? < pages {
            eprintln!("skipped: this host gives no {pages} huge pages");
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
        let free = count("free_hugepages").unwrap();
        // All of the second, and parts of the first and the third.
        assert_eq!(region.discard(HUGE - 4096, 2 * HUGE).unwrap(), HUGE, "{number}");
        assert_eq!(count("free_hugepages").unwrap(), free + 1, "{number}");
        // None is whole.
        assert_eq!(region.discard(1, 2 * HUGE - 2).unwrap(), 0, "{number}");
        assert_eq!(region.discard(2 * HUGE + 4096, HUGE).unwrap(), 0, "{number}");
        let bytes = contents(&region);
        let zeroes = HUGE..2 * HUGE;
        let right = |(offset, byte): (usize, &u8)| *byte == if zeroes.contains(&offset) { 0 } else { 0xa5 };
        assert!(bytes.iter().enumerate().all(right), "{number}");
    }
}
