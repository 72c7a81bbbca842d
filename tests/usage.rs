//! What memory uses, as the kernel says, is what was done to it.

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;
use std::time::Instant;
use std::{env, fs};

use memory_model::mmap::{HugePageSize, HugePages, MmapRegionBuilder, Usage, UsageSource};
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory};

/// Whether what the kernel says is the kernel's; says why not.
fn kernel_answers() -> bool {
    if env::var_os("CROSS_RUNNER").is_some() {
        memory_model_test_support::skip!("emulated: usage is not the kernel's");
    } else if !Path::new("/proc/self/smaps").exists() {
        memory_model_test_support::skip!("no /proc/self/smaps");
    } else {
        return true;
    }
    false
}

fn page_size() -> usize {
    rustix::param::page_size()
}

/// So many pages, as bytes.
fn pages(count: usize) -> u64 {
    (count * page_size()) as u64
}

/// Memory of so many small pages.
fn small(count: usize) -> MmapRegionBuilder {
    MmapRegion::builder(count * page_size()).huge_pages(HugePages::Never)
}

fn touch(region: &MmapRegion, page: usize) {
    region.as_volatile_slice().write_obj(1u8, page * page_size()).unwrap();
}

/// What smaps says is resident, swapped, huge and shared.
fn by_smaps(usage: Usage) -> [u64; 4] {
    assert_eq!(usage.source(), UsageSource::Smaps);
    [usage.resident(), usage.swapped().unwrap(), usage.huge().unwrap(), usage.shared().unwrap()]
}

#[test]
fn what_is_touched_is_resident_and_nothing_else() {
    if !kernel_answers() {
        return;
    }
    let region = small(100).build().unwrap();
    for already in 0..10 {
        assert_eq!(by_smaps(region.usage().unwrap()), [pages(already), 0, 0, 0]);
        // Here and there: 50, 59 .. 95, then 4 .. 31.
        touch(&region, (already * 9 + 50) % 100);
    }
    region.discard(0, 50 * page_size()).unwrap();
    assert_eq!(by_smaps(region.usage().unwrap())[0], pages(6));
    region.discard(0, 100 * page_size()).unwrap();
    assert_eq!(by_smaps(region.usage().unwrap()), [0; 4]);
}

#[test]
fn a_page_is_shared_once_it_is_mapped_twice() {
    if !kernel_answers() {
        return;
    }
    let one = small(8).memfd("usage").build().unwrap();
    let two = small(8).file(one.file_offset().unwrap().clone()).build().unwrap();
    for page in 0..4 {
        touch(&one, page);
    }
    // They are in memory, but not yet in the second mapping.
    assert_eq!(by_smaps(one.usage().unwrap()), [pages(4), 0, 0, 0]);
    assert_eq!(by_smaps(two.usage().unwrap()), [0; 4]);
    for page in 3..6 {
        touch(&two, page);
    }
    assert_eq!(by_smaps(one.usage().unwrap()), [pages(4), 0, 0, pages(1)]);
    assert_eq!(by_smaps(two.usage().unwrap()), [pages(3), 0, 0, pages(1)]);
    drop(two);
    assert_eq!(by_smaps(one.usage().unwrap()), [pages(4), 0, 0, 0]);
}

#[test]
fn each_region_has_its_own_and_the_total_is_their_sum() {
    if !kernel_answers() {
        return;
    }
    let region = |start, size: usize| GuestRegionMmap::new(small(size).build().unwrap(), GuestAddress(start)).unwrap();
    // Mapped in another order than that of their addresses.
    let regions = vec![region(0x8000_0000, 7), region(0, 5), region(0x4000_0000, 6)];
    let mem = GuestMemoryMmap::from_regions(regions).unwrap();
    for (start, count) in [(0, 1), (0x4000_0000, 2), (0x8000_0000, 3)] {
        for page in 0..count {
            mem.write_obj(1u8, GuestAddress(start + pages(page))).unwrap();
        }
    }
    let usages = mem.usage().unwrap();
    assert_eq!(usages.iter().copied().map(by_smaps).collect::<Vec<_>>(), [1, 2, 3].map(|n| [pages(n), 0, 0, 0]));
    for (region, usage) in mem.regions().zip(&usages) {
        assert_eq!(region.usage().unwrap(), *usage);
    }
    assert_eq!(by_smaps(usages.into_iter().sum()), [pages(6), 0, 0, 0]);
    assert_eq!(GuestMemoryMmap::from_regions(vec![]).unwrap().usage().unwrap(), []);
}

#[test]
fn without_guard_pages_neighbours_are_told_apart() {
    if !kernel_answers() {
        return;
    }
    // Mapped one after the other, they are one area to the kernel as a rule: then smaps cannot answer.
    let regions: Vec<_> = (0..16).map(|_| small(20).guard_pages(false).build().unwrap()).collect();
    for (count, region) in regions.iter().enumerate() {
        (0..count).for_each(|page| touch(region, page));
    }
    let usages: Vec<_> = regions.iter().map(|region| region.usage().unwrap()).collect();
    let alone = usages.iter().filter(|usage| usage.source() == UsageSource::Smaps).count();
    eprintln!("{alone} of {} mappings are areas by themselves", usages.len());
    for (count, usage) in usages.iter().enumerate() {
        assert_eq!(usage.resident(), pages(count), "{usage:?}");
    }
}

#[test]
fn transparent_huge_pages_are_huge() {
    if !kernel_answers() {
        return;
    }
    let thp = Path::new("/sys/kernel/mm/transparent_hugepage");
    let enabled = fs::read_to_string(thp.join("enabled")).unwrap_or_default();
    let size = fs::read_to_string(thp.join("hpage_pmd_size")).unwrap_or_default();
    let (false, Ok(size)) = (enabled.contains("[never]") || enabled.is_empty(), size.trim().parse::<usize>()) else {
        memory_model_test_support::skip!("no transparent huge pages");
        return;
    };
    let region = MmapRegion::builder(8 * size).huge_pages(HugePages::Transparent).build().unwrap();
    (0..8).for_each(|page| region.as_volatile_slice().write_obj(1u8, page * size).unwrap());
    let [resident, _, huge, _] = by_smaps(region.usage().unwrap());
    // Where memory is in pieces some are small.
    assert!(huge > 0 && huge <= resident && resident <= 8 * size as u64, "{huge:#x} of {resident:#x}");
    assert_eq!(huge % size as u64, 0);
    eprintln!("{} of 8 pages are huge", huge / size as u64);
}

#[test]
fn hugetlb_pages_are_resident_and_huge() {
    if !kernel_answers() {
        return;
    }
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    if free.trim().parse::<u32>().unwrap_or(0) < 2 {
        memory_model_test_support::skip!("no hugetlb pages: the pool has no two free ones of 2 MiB");
        return;
    }
    let size = HugePageSize::MIB_2.bytes();
    let builder = || MmapRegion::builder(2 << 21).huge_pages(HugePages::Hugetlb(HugePageSize::MIB_2)).memfd("usage");
    let Ok(region) = builder().build() else {
        memory_model_test_support::skip!("no hugetlb pages: another process took them");
        return;
    };
    assert_eq!(by_smaps(region.usage().unwrap()), [0; 4]);
    region.as_volatile_slice().write_obj(1u8, 2 << 20).unwrap();
    assert_eq!(by_smaps(region.usage().unwrap()), [size, 0, size, 0]);
    let again = MmapRegion::from_file(region.file_offset().unwrap().clone(), 2 << 21).unwrap();
    again.as_volatile_slice().write_obj(1u8, 2 << 20).unwrap();
    assert_eq!(by_smaps(region.usage().unwrap()), [size, 0, size, size]);
}

#[test]
fn a_thousand_regions_are_asked_for_at_once() {
    if !kernel_answers() {
        return;
    }
    let region = |i: u64| {
        let mapping = small(2).build().unwrap();
        GuestRegionMmap::new(mapping, GuestAddress(i * 0x10_0000)).unwrap()
    };
    let mem = GuestMemoryMmap::from_regions((0..1024).map(region).collect()).unwrap();
    for i in (0..1024).step_by(2) {
        mem.write_obj(1u8, GuestAddress(i * 0x10_0000)).unwrap();
    }
    let before = Instant::now();
    let usages = mem.usage().unwrap();
    eprintln!("1024 regions in {:.1} ms", before.elapsed().as_secs_f64() * 1e3);
    for (i, usage) in usages.into_iter().enumerate() {
        assert_eq!(by_smaps(usage), [pages((i + 1) % 2), 0, 0, 0], "region {i}");
    }
}
