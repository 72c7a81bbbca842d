//! Where memory lies: aligned, between guards, and with nothing left around it.

use libc::SIGSEGV;
use memory_model::VolatileMemory;
use memory_model::mmap::{HugePages, MmapRegion};

use super::child::in_child;
use super::kernel::{belongings, mapped_bytes, mapping_at};
use super::{BACKINGS, has_kernel, page, raw, start};

#[test]
fn the_host_address_is_aligned() {
    for alignment in (0..=30).map(|log2| 1 << log2) {
        for backing in BACKINGS {
            let region = backing.builder(3 * page() + 5).alignment(alignment).build().unwrap();
            assert_eq!(start(&region) % alignment.max(page()), 0, "{} to {alignment:#x}", backing.name);
        }
    }
}

/// As huge pages want it.
#[test]
fn large_memory_is_aligned_by_itself() {
    let huge = page() * (page() / 8);
    for size in [huge - page() + 1, huge, huge + 1, 3 * huge] {
        for guards in [true, false] {
            let regions = [(); 4].map(|()| MmapRegion::builder(size).guard_pages(guards).build().unwrap());
            assert!(regions.iter().all(|region| start(region) % huge == 0), "{size:#x}: {regions:?}");
        }
    }
    // Unless told otherwise: by chance only.
    let mut small = (0..64).map(|_| MmapRegion::builder(huge).alignment(page()).build().unwrap()).collect::<Vec<_>>();
    small.retain(|region| start(region) % huge != 0);
    assert!(!small.is_empty());
}

#[test]
fn a_page_without_access_lies_on_each_side() {
    if !has_kernel() {
        return;
    }
    // Alone in its process: another test's guard could lie next to memory that has none.
    in_child!(a_page_without_access_lies_on_each_side, {
        for backing in BACKINGS {
            for size in [1, page(), 3 * page() + 5, 16 << 20] {
                // So that no other region's guard is next to it.
                let region = backing.builder(size).alignment(64 << 20).build().unwrap();
                let end = (start(&region) + size).next_multiple_of(page());
                for guard in [start(&region) - page(), end] {
                    let mapping = mapping_at(guard).unwrap();
                    assert_eq!(mapping.access, "---p", "{}: {size:#x}", backing.name);
                    assert!(mapping.range.end >= guard + page(), "{}: {mapping:x?}", backing.name);
                }
                let region = backing.builder(size).alignment(64 << 20).guard_pages(false).build().unwrap();
                let end = (start(&region) + size).next_multiple_of(page());
                for beyond in [start(&region) - 1, end] {
                    let mapping = mapping_at(beyond);
                    let is_guard = mapping
                        .as_ref()
                        .is_some_and(|mapping| mapping.access == "---p" && mapping.range.len() == page());
                    assert!(!is_guard, "{}: {size:#x}: {mapping:x?}", backing.name);
                }
            }
        }
    });
}

#[test]
fn whoever_touches_a_guard_dies() {
    let hows = ["the first byte", "the last byte", "the byte before", "the byte behind", "the last of the guard"];
    let ended = in_child!(whoever_touches_a_guard_dies, &hows, |how| {
        let region = MmapRegion::builder(3 * page()).memfd("making").build().unwrap();
        let first = region.as_volatile_slice().as_ptr();
        raw::touch(match how {
            "the first byte" => first,
            "the last byte" => first.wrapping_add(3 * page() - 1),
            "the byte before" => first.wrapping_sub(1),
            "the byte behind" => first.wrapping_add(3 * page()),
            _ => first.wrapping_add(4 * page() - 1),
        });
        eprintln!("survived");
    });
    for (ended, how) in ended.iter().zip(hows) {
        let inside = ["the first byte", "the last byte"].contains(&how);
        assert_eq!(ended.said.contains("survived"), inside, "{how}: {ended:?}");
        assert_eq!(ended.signal(), (!inside).then_some(SIGSEGV), "{how}: {ended:?}");
    }
}

#[test]
fn no_more_is_mapped_than_the_memory_and_its_guards() {
    if !has_kernel() {
        return;
    }
    in_child!(no_more_is_mapped_than_the_memory_and_its_guards, {
        let gib_1 = if cfg!(target_pointer_width = "64") { 1 << 30 } else { 1 << 26 };
        for (backing, guards) in BACKINGS.iter().flat_map(|backing| [(backing, true), (backing, false)]) {
            for (size, alignment) in [(1, 0), (3 * page() - 5, 0), (5 << 20, 0), (page(), gib_1), (4 << 20, gib_1)] {
                let builder = backing.builder(size).alignment(alignment).guard_pages(guards);
                // What the first brings with it stays.
                drop(builder.clone().build().unwrap());
                let (before, bytes) = (belongings(), mapped_bytes());
                let region = builder.clone().build().unwrap();
                let own = size.next_multiple_of(page()) + if guards { 2 * page() } else { 0 };
                assert_eq!(mapped_bytes(), bytes + own, "{}: {size:#x} to {alignment:#x}", backing.name);
                drop(region);
                assert_eq!(belongings(), before, "{}: {size:#x} to {alignment:#x}", backing.name);
            }
        }
    });
}

#[test]
fn guards_are_small_whatever_the_pages() {
    if !has_kernel() {
        return;
    }
    let region = MmapRegion::builder(4 << 20).huge_pages(HugePages::Transparent).alignment(8 << 20).build();
    let Ok(region) = region else { return memory_model_test_support::skip!("no transparent huge pages") };
    assert_eq!(mapping_at(start(&region) - 1).unwrap().access, "---p");
    assert_eq!(mapping_at(start(&region) + region.len()).unwrap().access, "---p");
}
