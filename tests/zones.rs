//! A layout's memory: one policy for each zone, and what a VMM keeps about each region.

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};

use memory_model::layout::{GuestLayout, Platform, Zone};
use memory_model::mmap::{Error, HugePageSize, HugePages, MmapRegion, NumaPolicy, Prefault, Protection};
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, RegionKind,
    guest_memory,
};

const MIB: u64 = 1 << 20;
const HUGE: u64 = 2 * MIB;

/// Two zones around a hole at 32 MiB, of which the first has a range on either side of it, and firmware in the hole.
fn layout() -> GuestLayout {
    GuestLayout::builder(Platform::Bare)
        .hole("devices", GuestAddress(32 * MIB), 32 * MIB)
        .zone(Zone::new("node0", 48 * MIB).node(0).alignment(HUGE))
        .zone(Zone::new("node1", 16 * MIB).node(1).alignment(HUGE))
        .zone(Zone::new("firmware", MIB).kind(RegionKind::Rom).at(GuestAddress(63 * MIB)))
        .build()
        .unwrap()
}

fn names_and_starts(mem: &GuestMemoryMmap) -> Vec<(&str, u64, u64)> {
    mem.regions().map(|region| (region.name(), region.start_addr().0 / MIB, region.len() / MIB)).collect()
}

#[test]
fn each_range_is_a_region_with_its_zones_name_kind_and_node() {
    let mem = GuestMemoryMmap::builder(&layout()).build().unwrap();
    let expected = [("node0", 0, 32), ("firmware", 63, 1), ("node0", 64, 16), ("node1", 80, 16)];
    assert_eq!(names_and_starts(&mem), expected);
    let nodes: Vec<_> = mem.regions().map(GuestRegionMmap::numa_node).collect();
    assert_eq!(nodes, [Some(0), None, Some(0), Some(1)]);
    let kinds: Vec<_> = mem.regions().map(GuestMemoryRegion::kind).collect();
    assert_eq!(kinds, [RegionKind::Ram, RegionKind::Rom, RegionKind::Ram, RegionKind::Ram]);
    // All of it is memory, and crosses from zone to zone.
    mem.write_slice(&[7; 64], GuestAddress(80 * MIB - 32)).unwrap();
    assert!(mem.write_slice(&[7; 64], GuestAddress(32 * MIB - 32)).is_err());
}

#[test]
fn a_zones_memfd_is_one_and_has_its_ranges_one_behind_the_other() {
    let mem = GuestMemoryMmap::builder(&layout()).zone("node0", |mapping| mapping.memfd("node0")).build().unwrap();
    let files: Vec<_> =
        mem.regions().filter(|region| region.name() == "node0").filter_map(|r| r.file_offset()).collect();
    let [low, high] = files[..] else { panic!("{mem}") };
    assert_eq!((low.start(), high.start()), (0, 32 * MIB));
    assert_eq!(low.file().metadata().unwrap().ino(), high.file().metadata().unwrap().ino());
    assert_eq!(low.file().metadata().unwrap().len(), 48 * MIB);
    mem.write_slice(b"hi", GuestAddress(64 * MIB + 8)).unwrap();
    let mut read = [0; 2];
    low.file().read_exact_at(&mut read, 32 * MIB + 8).unwrap();
    assert_eq!(&read, b"hi");
    assert!(mem.regions().filter(|region| region.name() != "node0").all(|region| region.file_offset().is_none()));
}

#[test]
fn a_zones_file_is_mapped_from_its_offset_on_and_must_have_all_of_the_zone() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(48 * MIB + 0x1_0000).unwrap();
    let at = |file: &File, start| FileOffset::new(file.try_clone().unwrap(), start);
    let build = |start| {
        let file = at(&file, start);
        GuestMemoryMmap::builder(&layout()).zone("node0", |mapping| mapping.file(file)).build()
    };
    let mem = build(0x1_0000).unwrap();
    mem.write_obj(9_u8, GuestAddress(80 * MIB - 1)).unwrap(); // the zone's last byte
    let mut read = [0; 1];
    file.read_exact_at(&mut read, 48 * MIB + 0xffff).unwrap();
    assert_eq!(read, [9]);
    let past = build(0x2_0000).unwrap_err();
    assert!(matches!(past, Error::PastEndOfFile { start: 0x2_0000, .. }), "{past}");
}

#[test]
fn host_addresses_are_as_aligned_as_guest_addresses() {
    let layout = GuestLayout::builder(Platform::Bare)
        .base(GuestAddress(MIB))
        .zone(Zone::new("odd", 8 * MIB).alignment(MIB))
        .build()
        .unwrap();
    let mem = GuestMemoryMmap::builder(&layout).every_zone(|mapping| mapping.alignment(1 << 21)).build().unwrap();
    let host = mem.get_host_address(GuestAddress(MIB)).unwrap();
    assert_eq!(host.addr() as u64 % HUGE, MIB);
}

#[test]
fn policies_are_of_zones_that_there_are_and_one_each() {
    let layout = layout();
    let unknown = GuestMemoryMmap::builder(&layout).zone("node2", |mapping| mapping).build();
    assert!(matches!(unknown, Err(Error::Zone(name)) if name == "node2"));
    let twice = GuestMemoryMmap::builder(&layout).zone("node0", |mapping| mapping).zone("node0", |mapping| mapping);
    assert!(matches!(twice.build(), Err(Error::Zone(name)) if name == "node0"));
    let refused = GuestMemoryMmap::builder(&layout).zone("node1", |m| m.numa(NumaPolicy::Bind(vec![])).memfd("gone"));
    assert!(matches!(refused.build(), Err(Error::NoNode)));
    // A range that does not fit huge pages is told from the guest's side.
    let odd = GuestLayout::builder(Platform::Bare).base(GuestAddress(MIB)).zone(Zone::new("odd", 2 * MIB)).build();
    let odd = odd.unwrap();
    let huge = HugePages::Hugetlb(HugePageSize::MIB_2);
    let refused = GuestMemoryMmap::builder(&odd).every_zone(|m| m.huge_pages(huge)).build().unwrap_err();
    let expected = matches!(refused, Error::HugePages { what: "the guest address", value: MIB, page_size: HUGE });
    assert!(expected, "{refused}");
}

#[test]
fn progress_is_that_of_all_zones_that_are_prefaulted() {
    let two = Prefault::Parallel { threads: NonZeroUsize::new(2).unwrap() };
    let layout = layout();
    let builder = || GuestMemoryMmap::builder(&layout).zone("node0", |mapping| mapping.prefault(two));
    let mut seen = Vec::new();
    let built = builder().zone("node1", |mapping| mapping.prefault(Prefault::Populate)).build_with_progress(|now| {
        assert_eq!(now.total, 64 * MIB);
        seen.push(now.done);
        ControlFlow::Continue(())
    });
    built.unwrap();
    assert!(seen.is_sorted() && seen.first() == Some(&0) && seen.last() == Some(&(64 * MIB)), "{seen:?}");
    // In the second range.
    let cancelled = builder().build_with_progress(|now| match now.done {
        ..0x200_0001 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(matches!(cancelled, Err(Error::Cancelled { done: 0x200_0001.., total: 0x300_0000 })));
}

#[test]
fn a_memorys_range_is_prefaulted_across_regions_and_only_if_all_of_it_is_memory() {
    // Of small pages: of larger ones the host makes more than was asked for.
    let layout = layout();
    let mem = GuestMemoryMmap::builder(&layout).every_zone(|mapping| mapping.huge_pages(HugePages::Never));
    let mem = mem.build().unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let hole = mem.prefault(GuestAddress(0), 64 * MIB, Prefault::Populate, go_on).unwrap_err();
    assert!(matches!(hole, Error::Hole { hole: GuestAddress(0x200_0000), .. }), "{hole}");
    assert!(matches!(
        mem.prefault(GuestAddress(80 * MIB), u64::MAX, Prefault::Populate, go_on),
        Err(Error::Hole { hole: GuestAddress(0x600_0000), .. })
    ));
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return memory_model_test_support::skip!("emulated: madvise has no effect");
    }
    let resident = || mem.usage().unwrap().iter().map(memory_model::mmap::Usage::resident).collect::<Vec<_>>();
    assert_eq!(resident(), [0; 4]);
    let log = mem.start_tracking(4096).unwrap();
    mem.prefault(GuestAddress(80 * MIB - 0x8001), 0x1_0002, Prefault::Populate, go_on).unwrap();
    // Whole pages around the bytes.
    let page = rustix::param::page_size() as u64;
    let pages = |bytes: u64| bytes.div_ceil(page) * page;
    assert_eq!(resident(), [0, 0, pages(0x8001), pages(0x8001)]);
    assert!(log.harvest().is_empty(), "no byte was written");
}

#[test]
fn firmware_is_loaded_then_protected() {
    let mem = GuestMemoryMmap::builder(&layout()).build().unwrap();
    let start = GuestAddress(63 * MIB);
    mem.write_slice(b"firmware", start).unwrap();
    let region = mem.find_region(start).unwrap();
    region.protect(Protection::ReadOnly).unwrap();
    assert!(region.is_read_only());
    let refused = mem.write_slice(b"mischief", start).unwrap_err();
    assert!(matches!(refused, guest_memory::Error::ReadOnly { addr, completed: 0 } if addr == start), "{refused}");
    assert_eq!(mem.read_obj::<[u8; 8]>(start).unwrap(), *b"firmware");
    assert!(mem.to_string().lines().any(|row| row.contains("ROM   r ") && row.ends_with("firmware")), "{mem}");
    region.protect(Protection::ReadWrite).unwrap();
    mem.write_slice(b"update..", start).unwrap();
}

#[test]
fn a_region_keeps_a_slots_number_and_a_guest_memfd() {
    let region = GuestRegionMmap::new(MmapRegion::new(0x1000).unwrap(), GuestAddress(0)).unwrap();
    assert_eq!((region.slot(), region.guest_memfd().is_none(), region.name()), (None, true, ""));
    for slot in [Some(0), Some(u32::MAX), None] {
        region.set_slot(slot);
        assert_eq!(region.slot(), slot);
    }
    let file = FileOffset::new(tempfile::tempfile().unwrap(), 0x4000);
    region.set_guest_memfd(file.clone()).unwrap();
    assert_eq!(region.guest_memfd().map(FileOffset::start), Some(0x4000));
    assert!(region.set_guest_memfd(file).is_err(), "it has one");
}
