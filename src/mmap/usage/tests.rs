//! Each source by itself, and against the other.

use std::io::Cursor;

use rustix::mm::Advice;

use super::*;
use crate::mmap::HugePages;
use crate::{Bytes, VolatileMemory};

/// Three areas: of small pages, of hugetlb pages, and of pages of all kinds. With lines of other kernels, and a file whose
/// name is not UTF-8.
const SMAPS: &[u8] = b"\
00010000-00014000 rw-p 00000000 00:00 0          [anon: Rss: 1 kB]
Size:                 16 kB
KernelPageSize:        4 kB
Name:           [anon:dalvik]
Rss:                   8 kB
Swap:                  4 kB
SwapPss:               1 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac zz
40000000-40400000 rw-s 00000000 00:0f 1103       /dev/hugepages/\xff Rss: 4 kB (deleted)
KernelPageSize:     2048 kB
Rss:                   0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    2048 kB
ffffffff80000000-ffffffffc0000000 rw-p 00000000 00:00 0
KernelPageSize:        4 kB
Rss:               10240 kB
Pss:                   9 kB
Shared_Clean:          1 kB
Shared_Dirty:          2 kB
Private_Clean:         4 kB
Private_Dirty:         8 kB
AnonHugePages:      2048 kB
ShmemPmdMapped:     4096 kB
FilePmdMapped:      6144 kB
NewMember:             x kB?
";

fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

fn usage(resident: u64, swapped: u64, huge: u64, shared: u64) -> Usage {
    Usage { resident, details: Some(Details { swapped, huge, shared }) }
}

const MIB: u64 = 1 << 20;

#[test]
fn the_fields_of_smaps_are_added_up() {
    // In another order than theirs.
    let spans =
        [span(0xffff_ffff_8000_0000, 0xffff_ffff_c000_0000), span(0x1_0000, 0x1_4000), span(0x4000_0000, 0x4040_0000)];
    let counted = smaps::count(&spans, SMAPS).unwrap();
    let expected =
        [usage(10 * MIB, 0, 12 * MIB, 3 << 10), usage(8 << 10, 4 << 10, 0, 0), usage(4 * MIB, 0, 4 * MIB, 2 * MIB)];
    assert_eq!(counted, expected.map(Some));
}

#[test]
fn an_area_ends_at_a_whole_page() {
    let counted = smaps::count(&[span(0x1_0000, 0x1_3001), span(0x4000_0000, 0x4020_0001)], SMAPS).unwrap();
    assert_eq!(counted, [usage(8 << 10, 4 << 10, 0, 0), usage(4 * MIB, 0, 4 * MIB, 2 * MIB)].map(Some));
}

#[test]
fn areas_that_a_span_only_touches_do_not_count() {
    for (start, end) in [
        // Inside an area, at its start, at its end.
        (0x1_1000, 0x1_2000),
        (0x1_0000, 0x1_3000),
        (0x1_1000, 0x1_4000),
        // Past it, before it, around it: not all there.
        (0x1_0000, 0x1_5000),
        (0xf000, 0x1_4000),
        (0xf000, 0x1_5000),
        // Nowhere.
        (0x1000, 0x2000),
        (0x5000_0000, 0x5000_1000),
    ] {
        let spans = [span(start, end), span(0x4000_0000, 0x4040_0000)];
        let counted = smaps::count(&spans, SMAPS).unwrap();
        assert!(counted[0].is_none() && counted[1].is_some(), "{start:#x}..{end:#x}: {counted:?}");
    }
}

#[test]
fn a_span_may_have_several_areas_but_no_hole() {
    let areas = b"1000-2000 r\nRss: 1 kB\n2000-5000 w\nRss: 2 kB\n6000-7000 r\nRss: 4 kB\n";
    let spans = [span(0x1000, 0x5000), span(0x6000, 0x7000)];
    let counted = smaps::count(&spans, &areas[..]).unwrap();
    assert_eq!(counted, [Some(usage(3 << 10, 0, 0, 0)), Some(usage(4 << 10, 0, 0, 0))]);
    assert_eq!(smaps::count(&[span(0x1000, 0x7000)], &areas[..]).unwrap(), [None]);
    // With nothing between them.
    let spans = [span(0x1000, 0x2000), span(0x2000, 0x5000)];
    let counted = smaps::count(&spans, &areas[..]).unwrap();
    assert_eq!(counted, [Some(usage(1 << 10, 0, 0, 0)), Some(usage(2 << 10, 0, 0, 0))]);
    // An area across two spans is neither's, but keeps none from the next.
    let spans = [span(0x2000, 0x3000), span(0x3000, 0x5000), span(0x6000, 0x7000)];
    assert_eq!(smaps::count(&spans, &areas[..]).unwrap(), [None, None, Some(usage(4 << 10, 0, 0, 0))]);
}

#[test]
fn an_area_without_pages_is_everybodys() {
    // As an unplugged part is one area with the guard pages beside it, and they with the next mapping's.
    let areas = b"1000-2000 r\nRss: 1 kB\n2000-6000 -\nRss: 0 kB\n6000-7000 r\nRss: 4 kB\n7000-9000 -\nSwap: 4 kB\n";
    let spans = [span(0x1000, 0x3000), span(0x3000, 0x4000), span(0x5000, 0x7000), span(0x8000, 0x9000)];
    let counted = smaps::count(&spans, &areas[..]).unwrap();
    assert_eq!(counted, [Some(usage(1 << 10, 0, 0, 0)), Some(usage(0, 0, 0, 0)), Some(usage(4 << 10, 0, 0, 0)), None]);
}

#[test]
fn what_is_not_smaps_is_an_error() {
    for text in [
        "Rss: 4 kB\n",                               // of no area
        "\n",                                        // nothing
        "1000-2000 r\nRss: -4 kB\n",                 // not a number
        "1000-2000 r\nRss: 18446744073709551615 kB", // too large
        "1000-xyz r\n",
        "10000000000000000-20000000000000000 r\n",
        "12345 (name) S 1 2 3\n", // another file
    ] {
        let error = smaps::count(&[span(0x1000, 0x2000)], text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text:?}");
    }
    assert_eq!(smaps::count(&[span(0x1000, 0x2000)], &b""[..]).unwrap(), [None]);
}

#[test]
fn a_sum_knows_what_all_of_its_parts_know() {
    let by_smaps = usage(1, 2, 3, 4);
    let by_mincore = Usage { resident: 5, details: None };
    assert_eq!([by_smaps, by_smaps].into_iter().sum::<Usage>(), usage(2, 4, 6, 8));
    for parts in [[by_smaps, by_mincore], [by_mincore, by_smaps]] {
        let total: Usage = parts.into_iter().sum();
        assert_eq!((total.resident(), total.source()), (6, UsageSource::Mincore));
        assert_eq!((total.swapped(), total.huge(), total.shared()), (None, None, None));
    }
    assert_eq!([].into_iter().sum::<Usage>(), usage(0, 0, 0, 0));
}

/// Whether what the kernel says is the kernel's; says why not.
fn kernel_answers() -> bool {
    let emulated = std::env::var_os("CROSS_RUNNER").is_some();
    if emulated {
        memory_model_test_support::skip!("emulated: usage is not the kernel's");
    } else if !std::path::Path::new("/proc/self/smaps").exists() {
        memory_model_test_support::skip!("no /proc/self/smaps");
    } else {
        return true;
    }
    false
}

/// Memory of so many pages, small ones, that lies apart from all other.
fn pages(count: usize) -> MmapRegion {
    MmapRegion::builder(count * page_size()).huge_pages(HugePages::Never).build().unwrap()
}

fn page_size() -> usize {
    rustix::param::page_size()
}

fn touch(region: &MmapRegion, page: usize) {
    region.as_volatile_slice().write_obj(1u8, page * page_size()).unwrap();
}

fn no_smaps() -> io::Result<Cursor<Vec<u8>>> {
    Err(io::ErrorKind::NotFound.into())
}

#[test]
fn both_sources_count_the_same_pages() {
    if !kernel_answers() {
        return;
    }
    // More than mincore(2) is asked for at a time, touched at the seams and at the ends.
    let region = pages(3 * (16 << 10) + 5);
    let touched = [0, 1, (16 << 10) - 1, 16 << 10, (32 << 10) - 1, 3 * (16 << 10), 3 * (16 << 10) + 4];
    for (already, page) in touched.into_iter().enumerate() {
        let expected = (already * page_size()) as u64;
        let by_smaps = account(&[&region], open_smaps()).unwrap()[0];
        assert_eq!(by_smaps, usage(expected, 0, 0, 0));
        let by_mincore = account(&[&region], no_smaps()).unwrap()[0];
        assert_eq!(by_mincore, Usage { resident: expected, details: None });
        touch(&region, page);
    }
}

#[test]
fn without_smaps_mincore_answers() {
    if !kernel_answers() {
        return;
    }
    let (one, two) = (pages(4), pages(9));
    touch(&one, 3);
    touch(&two, 0);
    touch(&two, 8);
    let expected = [1, 2].map(|pages| Usage { resident: (pages * page_size()) as u64, details: None });
    assert_eq!(account(&[&one, &two], no_smaps()).unwrap(), expected);
    // Likewise if it is something else, breaks off, or has not got them.
    for text in ["", "nonsense\n", "1000-2000 r\nRss: 4 kB\n"] {
        assert_eq!(account(&[&one, &two], Ok(text.as_bytes())).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn part_of_an_area_is_left_to_mincore() {
    if !kernel_answers() {
        return;
    }
    let region = pages(10);
    for page in [0, 4, 5, 6] {
        touch(&region, page);
    }
    let (front, back) = region.as_slice().split_at(5 * page_size()).unwrap();
    let spans = [front, back].map(Span::of);
    assert_eq!(smaps::count(&spans, open_smaps().unwrap()).unwrap(), [None, None]);
    assert_eq!(mincore::resident(front).unwrap(), 2 * page_size() as u64);
    assert_eq!(mincore::resident(back).unwrap(), 2 * page_size() as u64);
    let whole = [Span::of(region.as_slice())];
    assert_eq!(smaps::count(&whole, open_smaps().unwrap()).unwrap(), [Some(usage(4 * page_size() as u64, 0, 0, 0))]);
}

#[test]
#[expect(unsafe_code, reason = "advice about part of a mapping makes several areas of it")]
fn a_mapping_of_several_areas_is_added_up() {
    if !kernel_answers() {
        return;
    }
    let region = pages(12);
    for page in [0, 4, 5, 11] {
        touch(&region, page);
    }
    let areas =
        || smaps::count(&[Span::of(region.get_slice(0, 4 * page_size()).unwrap())], open_smaps().unwrap()).unwrap();
    assert_eq!(areas(), [None]);
    let middle = region.get_slice(4 * page_size(), 4 * page_size()).unwrap();
    // SAFETY: what core dumps leave out has no influence on the memory.
    let advised = unsafe { rustix::mm::madvise(middle.as_ptr().cast(), middle.len(), Advice::LinuxDoDump) };
    advised.unwrap();
    assert_eq!(areas(), [Some(usage(page_size() as u64, 0, 0, 0))], "the first area of three");
    assert_eq!(account(&[&region], open_smaps()).unwrap(), [usage(4 * page_size() as u64, 0, 0, 0)]);
}

#[test]
fn the_page_of_zeros_counts_with_mincore_only() {
    if !kernel_answers() {
        return;
    }
    let region = pages(3);
    assert_eq!(region.as_volatile_slice().read_obj::<u8>(page_size()).unwrap(), 0);
    assert_eq!(account(&[&region], open_smaps()).unwrap(), [usage(0, 0, 0, 0)]);
    assert_eq!(account(&[&region], no_smaps()).unwrap()[0].resident(), page_size() as u64);
}

#[test]
fn of_a_file_mincore_counts_what_is_cached() {
    if !kernel_answers() {
        return;
    }
    let region = MmapRegion::builder(8 * page_size()).memfd("usage").build().unwrap();
    let file = region.file_offset().unwrap().file();
    std::os::unix::fs::FileExt::write_all_at(file, b"cached", 3 * page_size() as u64).unwrap();
    assert_eq!(account(&[&region], open_smaps()).unwrap(), [usage(0, 0, 0, 0)]);
    // The page cache may hold a larger folio around the page that was written: shmem_enabled.
    let cached = account(&[&region], no_smaps()).unwrap()[0].resident();
    assert!((page_size() as u64..=region.len() as u64).contains(&cached), "{cached:#x}");
}

#[test]
fn pages_count_as_a_whole() {
    if !kernel_answers() {
        return;
    }
    let region = pages(4);
    for page in [0, 1, 2] {
        touch(&region, page);
    }
    let page = page_size() as u64;
    for (offset, count, expected) in [(1, 1, page), (page_size() - 1, 2, 2 * page), (1, 4 * page_size() - 2, 3 * page)]
    {
        let part = region.get_slice(offset, count).unwrap();
        assert_eq!(mincore::resident(part).unwrap(), expected, "{count} bytes from {offset}");
    }
    let almost = region.get_slice(1, 4 * page_size() - 2).unwrap();
    let counted = smaps::count(&[Span::of(almost)], open_smaps().unwrap()).unwrap();
    assert_eq!(counted, [Some(usage(3 * page, 0, 0, 0))]);
}
