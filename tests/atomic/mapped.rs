//! What is mapped, by the kernel's own list.

use std::fs;
use std::sync::Arc;

use memory_model::buffers::PinnedSlice;
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, IoAddress,
    MmapRegion,
};

/// Whether this process maps the file.
fn is_mapped(file: &tempfile::NamedTempFile) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains(file.path().to_str().unwrap())
}

/// A region of a file of its own.
fn mapped(start: u64) -> Option<(tempfile::NamedTempFile, Arc<GuestRegionMmap>)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(0x2000).unwrap();
    let region = MmapRegion::from_file(FileOffset::new(file.reopen().unwrap(), 0), 0x2000).unwrap();
    if fs::read_to_string("/proc/self/maps").is_err() {
        memory_model_test_support::skip!("no /proc/self/maps");
        return None;
    }
    assert!(is_mapped(&file));
    Some((file, Arc::new(GuestRegionMmap::new(region, GuestAddress(start)).unwrap())))
}

fn map() -> GuestMemoryAtomic<GuestMemoryMmap> {
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap())
}

#[test]
fn an_idle_reader_keeps_nothing_mapped() {
    let map = map();
    let Some((file, region)) = mapped(0x1000) else { return };
    map.insert_region(region).unwrap();
    let mut reader = map.reader();
    reader.read().write_obj(7_u8, GuestAddress(0x2fff)).unwrap();
    drop(map.remove_region(GuestAddress(0x1000), 0x2000).unwrap());
    assert!(!is_mapped(&file));
    assert!(reader.read().write_obj(7_u8, GuestAddress(0x2fff)).is_err());
    assert_eq!(fs::read(file.path()).unwrap()[0x1fff], 7);
}

#[test]
fn what_is_unplugged_is_mapped_until_its_last_snapshot_is_gone() {
    let map = map();
    let Some((file, region)) = mapped(0x1000) else { return };
    map.insert_region(region).unwrap();
    let snapshot = map.memory();
    let region = map.remove_region(GuestAddress(0x1000), 0x2000).unwrap();
    assert!(Arc::strong_count(&region) > 1);
    drop(region);
    // Also while other maps come and go.
    map.insert_region(mapped(0x10_0000).unwrap().1).unwrap();
    snapshot.write_obj(7_u8, GuestAddress(0x1000)).unwrap();
    assert!(is_mapped(&file));
    let other = snapshot.clone();
    drop(snapshot);
    assert!(is_mapped(&file));
    drop(other);
    assert!(!is_mapped(&file));
}

#[test]
fn regions_come_and_go_around_others_and_none_is_split() {
    let map = map();
    let Some((file, region)) = mapped(0x4000) else { return };
    map.insert_region(region).unwrap();
    for (start, size) in [(0x4000, 0x1000), (0x5000, 0x1000), (0x4800, 0x1000), (0x4000, 0x4000)] {
        let refused = map.remove_region(GuestAddress(start), size).unwrap_err().to_string();
        assert!(refused.ends_with("are not exactly the region 0x4000..=0x5fff: it can only be removed as a whole"));
    }
    // Up to its edges on both sides.
    let (below, above) = (mapped(0x2000).unwrap(), mapped(0x6000).unwrap());
    map.insert_region(below.1).unwrap();
    map.insert_region(above.1).unwrap();
    map.memory().write_slice(&vec![7; 0x6000], GuestAddress(0x2000)).unwrap();
    drop(map.remove_region(GuestAddress(0x4000), 0x2000).unwrap());
    assert!(!is_mapped(&file) && is_mapped(&below.0) && is_mapped(&above.0));
    assert!(!map.memory().check_range(GuestAddress(0x2000), 0x6000));
    drop(map);
    assert!(!is_mapped(&below.0) && !is_mapped(&above.0));
}

/// Also if it is the change itself, or a listener, that keeps them.
#[test]
fn views_that_an_update_pins_are_not_waited_for() {
    let map = map();
    let Some((_file, region)) = mapped(0x1000) else { return };
    map.insert_region(region).unwrap();
    let mut pinned = None;
    map.update(|mem| {
        pinned = Some(PinnedSlice::new(mem, IoAddress(0x1000), 0x1000, Access::ReadWrite).unwrap());
        mem.remove_region(GuestAddress(0x1000), 0x2000).map(|(mem, _)| mem)
    })
    .unwrap();
    pinned.unwrap().write_obj(7_u8, 0).unwrap();
}
