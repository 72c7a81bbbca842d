//! Pages are freed, read as zero when they are plugged again, and are marked then: whatever the memory is made of.

use std::os::unix::fs::{FileExt, MetadataExt};

use memory_model::mmap::{Discarded, Error, HugePages, Lock, MmapRegionBuilder, Step};
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    MmapRegion,
};

use crate::ground::{has_kernel, offset, page, pages, part, recovers};
use crate::marks::Marks;

const COUNT: usize = 32;
const START: u64 = 0x8000_0000;

/// A way of mapping memory, and whether what was unplugged is the file's bytes again, and not zero.
pub(crate) type Backing = (&'static str, bool, fn(MmapRegionBuilder) -> MmapRegionBuilder);

pub(crate) const BACKINGS: [Backing; 13] = [
    ("anonymous, private", false, |mapping| mapping),
    ("anonymous, shared", false, MmapRegionBuilder::shared),
    ("memfd, shared", false, |mapping| mapping.memfd("plug")),
    ("memfd, private", false, |mapping| mapping.memfd("plug").private()),
    ("file, shared", false, |mapping| mapping.file(file())),
    ("file, private", false, |mapping| mapping.file(file()).private()),
    ("file, private, shown again", true, |mapping| mapping.file(file()).private().discarded(Discarded::File)),
    ("private, locked", false, |mapping| mapping.lock(Lock::Now)),
    ("private, locked on fault", false, |mapping| mapping.lock(Lock::OnFault)),
    ("memfd, locked", false, |mapping| mapping.memfd("plug").lock(Lock::Now)),
    ("shared, locked on fault", false, |mapping| mapping.shared().lock(Lock::OnFault)),
    ("reserved", false, |mapping| mapping.reserve(true)),
    ("without guard pages", false, |mapping| mapping.guard_pages(false)),
];

/// What a file has at an offset.
fn files_byte(offset: usize) -> u8 {
    u8::try_from(offset % 251).unwrap() | 1
}

fn file() -> FileOffset {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<_> = (0..COUNT * page()).map(files_byte).collect();
    file.write_all_at(&bytes, 0).unwrap();
    FileOffset::new(file, 0)
}

/// A region of so many bytes, if the host has such memory, and may lock as much.
fn region(backing: &Backing, size: usize) -> Option<GuestRegionMmap> {
    match backing.2(MmapRegion::builder(size).huge_pages(HugePages::Never)).build() {
        Ok(mapping) => Some(GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap()),
        Err(error) => {
            memory_model_test_support::skip!("host limit: {}: {error}", backing.0);
            None
        }
    }
}

/// Unplugs, unless it is a file whose file system has no holes.
fn unplug(region: &GuestRegionMmap, at: usize, count: usize, what: &str) -> bool {
    match region.unplug(offset(at), pages(count)) {
        Ok(()) => true,
        Err(Error::Refused { step: Step::Discard, source, .. })
            if what == "file, shared" && source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            memory_model_test_support::skip!("file system without holes: {what}: {source}");
            assert_eq!(region.unplugged_ranges(), []);
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn pages_are_freed_and_read_as_zero_again() {
    if !recovers() || !has_kernel() {
        return;
    }
    for backing in &BACKINGS {
        let (what, is_the_files, _) = *backing;
        let Some(region) = region(backing, COUNT * page()) else { continue };
        region.fill(0xa5, COUNT * page(), MemoryRegionAddress(0)).unwrap();
        // The bytes on disk or in memory of its file.
        let blocks = || Some(region.file_offset()?.file().metadata().unwrap().blocks() * 512);
        let resident = || region.usage().unwrap().resident();
        let (blocks_before, resident_before) = (blocks(), resident());
        if !unplug(&region, 8, 8, what) {
            continue;
        }
        unplug(&region, 20, 1, what);
        unplug(&region, 0, 1, what);
        unplug(&region, COUNT - 1, 1, what);
        assert_eq!(region.unplugged_ranges(), [part(0..1), part(8..16), part(20..21), part(31..32)], "{what}");
        assert_eq!(region.plugged_ranges(), [part(1..8), part(16..20), part(21..31)], "{what}");
        // A file system may let other pages of its file go, too.
        let (left, wanted) = (resident(), resident_before - pages(11));
        assert!(left == wanted || what == "file, shared" && left < wanted, "{what}: {:?}", region.usage());
        if let (Some(before), Some(after), false) = (blocks_before, blocks(), what.contains("private")) {
            assert_eq!(before - after, pages(11), "{what}: blocks of the file");
        }
        // More than was unplugged, and less.
        region.plug(offset(0), pages(10)).unwrap();
        region.plug(offset(15), pages(COUNT - 15)).unwrap();
        assert_eq!(region.unplugged_ranges(), [part(10..15)], "{what}");
        region.plug(offset(0), pages(COUNT)).unwrap();
        assert_eq!((region.unplugged_ranges(), region.plugged_ranges()), (vec![], vec![part(0..COUNT)]), "{what}");
        let mut bytes = vec![0; COUNT * page()];
        region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
        let wanted = |(at, byte): (usize, &u8)| {
            let was_unplugged = matches!(at / page(), 0 | 8..16 | 20 | 31);
            let wanted = if !was_unplugged {
                0xa5
            } else if is_the_files {
                files_byte(at)
            } else {
                0
            };
            *byte == wanted
        };
        assert!(bytes.iter().enumerate().all(wanted), "{what}");
        // It is memory as any other.
        region.fill(1, COUNT * page(), MemoryRegionAddress(0)).unwrap();
        assert_eq!(resident(), resident_before, "{what}");
    }
}

#[test]
fn nothing_is_left_of_the_mapping() {
    if !recovers() || !has_kernel() {
        return;
    }
    let areas = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("plug: maps").count();
    let mapping = MmapRegion::builder(COUNT * page()).memfd("plug: maps").build().unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
    region.unplug(offset(3), pages(4)).unwrap();
    assert_eq!(areas(), 3);
    region.plug(offset(3), pages(4)).unwrap();
    assert_eq!(areas(), 1);
    region.unplug(offset(3), pages(4)).unwrap();
    drop(region);
    assert_eq!(areas(), 0);
}

#[test]
fn a_page_that_is_mapped_in_part_ends_with_the_region() {
    if !recovers() {
        return;
    }
    let size = 3 * page() + 5;
    for backing in &BACKINGS[..4] {
        let Some(region) = region(backing, size) else { continue };
        region.fill(7, size, MemoryRegionAddress(0)).unwrap();
        let error = region.unplug(offset(2), pages(1) + 4).unwrap_err();
        assert!(matches!(error, Error::PartOfPage { .. }), "{error}");
        region.unplug(offset(2), pages(1) + 5).unwrap();
        let ranges = region.unplugged_ranges();
        assert_eq!(
            ranges.iter().map(|range| (range.offset, range.len)).collect::<Vec<_>>(),
            [(offset(2), pages(1) + 5)]
        );
        assert!(region.read_obj::<u8>(MemoryRegionAddress(pages(3) + 4)).is_err());
        region.plug(offset(3), 5).unwrap();
        assert_eq!(region.unplugged_ranges(), [part(2..3)]);
        region.write_obj(7_u8, MemoryRegionAddress(pages(3) + 4)).unwrap();
    }
}

#[test]
fn what_is_plugged_is_marked_and_what_is_unplugged_is_not() {
    if !recovers() {
        return;
    }
    let region = crate::ground::region(START, COUNT);
    let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let region = &mem.arc_regions()[0];
    let log = mem.start_tracking(4096).unwrap();
    let marks = Marks::of(&mem);
    let told = || {
        let harvest = log.harvest();
        let ranges: Vec<_> = harvest.ranges().map(|range| (range.start, range.len)).collect();
        harvest.commit();
        ranges
    };
    region.write_obj(1_u8, offset(9)).unwrap();
    marks.take();
    region.unplug(offset(8), pages(4)).unwrap();
    region.unplug(offset(20), pages(1)).unwrap();
    assert_eq!(marks.take(), [None]);
    // What was written before stays marked: who copies it has to ask.
    assert_eq!(told(), [(START + pages(9) / 4096 * 4096, 4096)]);
    assert!(!region.is_plugged(offset(9), 1));
    region.plug(offset(0), pages(9)).unwrap();
    assert_eq!(marks.take(), [Some(START + pages(8)..=START + pages(9) - 1)]);
    region.plug(offset(0), pages(9)).unwrap();
    assert_eq!(marks.take(), [None]);
    region.plug(offset(0), pages(COUNT)).unwrap();
    assert_eq!(told(), [(START + pages(8), pages(4)), (START + pages(20), pages(1))]);
}
