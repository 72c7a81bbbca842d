//! What else is done to a region of which parts are unplugged.

use std::fs;
use std::ops::ControlFlow;

use memory_model::mmap::{HugePages, MmapRegionBuilder, Prefault, Protection, UsageSource};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
    VolatileMemory, guest_memory,
};

use crate::ground::{has_kernel, offset, page, pages, part, recovers};
use crate::marks::Marks;

const START: u64 = 0x9000_0000;

const KINDS: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
    |mapping| mapping,
    MmapRegionBuilder::shared,
    |mapping| mapping.memfd("plug: others"),
    |mapping| mapping.memfd("plug: others").private(),
];

/// A memory of one region of each kind, of so many small pages.
fn memories(count: usize) -> impl Iterator<Item = GuestMemoryMmap> {
    KINDS.into_iter().map(move |kind| {
        let mapping = kind(MmapRegion::builder(count * page()).huge_pages(HugePages::Never)).build().unwrap();
        GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap()]).unwrap()
    })
}

fn only(mem: &GuestMemoryMmap) -> &GuestRegionMmap {
    mem.regions().next().unwrap()
}

/// Whether each page can be read, and written.
fn access(region: &GuestRegionMmap, count: usize) -> Vec<&'static str> {
    let page = |number| {
        let read = region.read_obj::<u8>(offset(number));
        let write = region.write_obj(*read.as_ref().unwrap_or(&0), offset(number));
        match (read, write) {
            (Ok(_), Ok(())) => "rw",
            (Ok(_), Err(guest_memory::Error::ReadOnly { .. })) => "r",
            (Err(guest_memory::Error::Fault { .. }), Err(_)) => "",
            other => panic!("{other:?}"),
        }
    };
    (0..count).map(page).collect()
}

#[test]
fn protection_does_not_reach_what_is_unplugged_until_it_is_plugged() {
    if !recovers() {
        return;
    }
    for mem in memories(6) {
        let region = only(&mem);
        region.fill(7, 6 * page(), offset(0)).unwrap();
        region.unplug(offset(1), pages(2)).unwrap();
        region.unplug(offset(4), pages(1)).unwrap();
        region.protect(Protection::ReadOnly).unwrap();
        assert_eq!(access(region, 6), ["r", "", "", "r", "", "r"]);
        region.plug(offset(1), pages(1)).unwrap();
        assert_eq!(access(region, 6), ["r", "r", "", "r", "", "r"]);
        region.protect(Protection::ReadWrite).unwrap();
        assert_eq!(access(region, 6), ["rw", "rw", "", "rw", "", "rw"]);
        region.plug(offset(4), pages(1)).unwrap();
        assert_eq!(access(region, 6), ["rw", "rw", "", "rw", "rw", "rw"]);
        region.protect(Protection::ReadOnly).unwrap();
        region.plug(offset(0), pages(6)).unwrap();
        assert_eq!(access(region, 6), ["r"; 6]);
        assert_eq!(region.read_obj::<u8>(offset(3)).unwrap(), 7);
    }
}

#[test]
fn what_is_unplugged_has_no_pages_to_discard() {
    if !recovers() || !has_kernel() {
        return;
    }
    for mem in memories(8) {
        let (region, marks) = (only(&mem), Marks::of(&mem));
        region.fill(7, 8 * page(), offset(0)).unwrap();
        region.unplug(offset(2), pages(2)).unwrap();
        region.unplug(offset(6), pages(2)).unwrap();
        marks.take();
        assert_eq!(region.discard(offset(2), pages(2)).unwrap(), 0);
        assert_eq!(mem.discard(GuestAddress(START + pages(6)), pages(2)).unwrap(), 0);
        assert_eq!(marks.take(), [None]);
        // One page before it, one behind; neither is whole in the range on the outside.
        assert_eq!(region.discard(MemoryRegionAddress(1), pages(6) - 2).unwrap(), pages(2));
        assert_eq!(marks.take(), [Some(START + pages(1)..=START + pages(5) - 1)]);
        let byte = |number| region.read_obj::<u8>(offset(number)).ok();
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(byte), [Some(7), Some(0), None, None, Some(0), Some(7), None]);
        assert_eq!(mem.discard_pages(0..0, 4096).unwrap(), 0);
        assert_eq!(mem.discard(GuestAddress(START), pages(8)).unwrap(), pages(4));
        assert_eq!(region.unplugged_ranges(), [part(2..4), part(6..8)]);
    }
}

#[test]
fn a_prefault_leaves_out_what_is_unplugged() {
    if !recovers() || !has_kernel() {
        return;
    }
    for mem in memories(8) {
        let region = only(&mem);
        region.unplug(offset(1), pages(3)).unwrap();
        region.unplug(offset(7), pages(1)).unwrap();
        let mut last = (0, 0);
        let prefaulted = mem.prefault(GuestAddress(START), pages(8), Prefault::Populate, |progress| {
            last = (progress.done, progress.total);
            ControlFlow::Continue(())
        });
        prefaulted.unwrap();
        assert_eq!(last, (pages(4), pages(4)));
        assert_eq!(region.usage().unwrap().resident(), pages(4));
        mem.prefault(GuestAddress(START + pages(1)), pages(3), Prefault::Populate, |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(region.usage().unwrap().resident(), pages(4));
    }
}

#[test]
fn usage_is_known_to_the_page_beside_guard_pages() {
    if !recovers() || !has_kernel() {
        return;
    }
    for mem in memories(4) {
        let region = only(&mem);
        region.fill(7, 4 * page(), offset(0)).unwrap();
        region.unplug(offset(0), pages(1)).unwrap();
        region.unplug(offset(3), pages(1)).unwrap();
        let usage = region.usage().unwrap();
        assert_eq!((usage.resident(), usage.source()), (pages(2), UsageSource::Smaps));
        region.unplug(offset(0), pages(4)).unwrap();
        let usage = region.usage().unwrap();
        assert_eq!((usage.resident(), usage.source()), (0, UsageSource::Smaps));
    }
    // Nothing else sets this one apart from its guards: unplugged at an end it is one area with them.
    let mapping = MmapRegion::builder(4 * page()).dump(true).build().unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
    for number in [0, 3, 1] {
        region.unplug(offset(number), pages(1)).unwrap();
        assert_eq!(region.usage().unwrap().source(), UsageSource::Smaps);
    }
    region.write_obj(1_u8, offset(2)).unwrap();
    assert_eq!(region.usage().unwrap().resident(), pages(1));
}

#[test]
fn guard_pages_stay() {
    if !recovers() || !has_kernel() {
        return;
    }
    let mapping = MmapRegion::new(4 * page()).unwrap();
    let start = mapping.as_volatile_slice().as_ptr().addr();
    let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
    region.unplug(offset(0), pages(4)).unwrap();
    region.plug(offset(0), pages(4)).unwrap();
    region.protect(Protection::ReadOnly).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let access_at = |at: usize| {
        let line = maps.lines().find(|line| {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16).unwrap());
            (from..to).contains(&at)
        });
        line.map(|line| line.split(' ').nth(1).unwrap())
    };
    let found = [start - page(), start, start + 3 * page(), start + 4 * page()].map(access_at);
    assert_eq!(found, [Some("---p"), Some("r--p"), Some("r--p"), Some("---p")]);
}

#[test]
fn a_table_says_how_much_is_unplugged() {
    if !recovers() {
        return;
    }
    for mem in memories(8) {
        assert!(!mem.to_string().contains("unplugged"), "{mem}");
        let region = only(&mem);
        region.unplug(offset(1), pages(1)).unwrap();
        region.unplug(offset(4), pages(3)).unwrap();
        let wanted = format!(" rw, {} KiB unplugged ", pages(4) / 1024);
        assert!(mem.to_string().contains(&wanted), "{mem}");
        region.plug(offset(0), pages(8)).unwrap();
        assert!(!mem.to_string().contains("unplugged"), "{mem}");
    }
}

#[test]
fn clones_of_a_memory_have_the_same_regions() {
    if !recovers() {
        return;
    }
    let mem = memories(4).next().unwrap();
    let clone = mem.clone();
    only(&mem).unplug(offset(0), pages(1)).unwrap();
    assert!(clone.read_obj::<u8>(GuestAddress(START)).is_err());
    drop(mem);
    only(&clone).plug(offset(0), pages(1)).unwrap();
    assert_eq!(clone.read_obj::<u8>(GuestAddress(START)).unwrap(), 0);
}
