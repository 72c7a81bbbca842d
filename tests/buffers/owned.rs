//! Buffers that outlive the map: what they have stays as it is, and no longer than they want it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use memory_model::buffers::GuestBuffers;
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, IoAddress,
    MmapRegion,
};

use crate::ground::data;
use crate::raw::memfd;

/// The host's lists of mappings, which not each has.
fn has_maps() -> bool {
    let has = fs::read_to_string("/proc/self/maps").is_ok();
    if !has {
        memory_model_test_support::skip!("no /proc/self/maps");
    }
    has
}

fn is_mapped(file: &tempfile::NamedTempFile) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(file.path().to_str().unwrap())
}

/// A region of a file of its own.
fn region(start: u64) -> (tempfile::NamedTempFile, Arc<GuestRegionMmap>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(0x2000).unwrap();
    let mapping = MmapRegion::from_file(FileOffset::new(file.reopen().unwrap(), 0), 0x2000).unwrap();
    assert!(is_mapped(&file));
    (file, Arc::new(GuestRegionMmap::new(mapping, GuestAddress(start)).unwrap()))
}

#[test]
fn regions_are_kept_until_the_buffers_are_gone() {
    if !has_maps() {
        return;
    }
    let map = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let files: Vec<_> = [0, 0x2000, 0x10_0000].map(region).into_iter().collect();
    for (_, region) in &files {
        map.insert_region(Arc::clone(region)).unwrap();
    }
    let files: Vec<_> = files.into_iter().map(|(file, _)| file).collect();
    // Of two of them, one by several pieces.
    let ranges = [(IoAddress(0x10), 8), (IoAddress(0x1ffc), 8), (IoAddress(0x20), 8)];
    let mut buffers = GuestBuffers::owned(&*map.memory(), ranges, Access::Write).unwrap();
    for start in [0, 0x2000, 0x10_0000] {
        drop(map.remove_region(GuestAddress(start), 0x2000).unwrap());
    }
    assert_eq!(map.memory().num_regions(), 0);
    assert_eq!(files.iter().map(is_mapped).collect::<Vec<_>>(), [true, true, false]);
    let src = memfd(0);
    src.write_all_at(&data(24), 0).unwrap();
    // Anywhere, at any time.
    let buffers = thread::spawn(move || {
        buffers.preadv_exact(&src, 0).unwrap();
        buffers
    });
    let buffers = buffers.join().unwrap();
    let mut found = [0; 12];
    files[0].as_file().read_exact_at(&mut found[..4], 0x1ffc).unwrap();
    files[1].as_file().read_exact_at(&mut found[4..8], 0).unwrap();
    files[0].as_file().read_exact_at(&mut found[8..], 0x20).unwrap();
    assert_eq!(found[..], data(24)[8..20]);
    assert_eq!(files.iter().map(is_mapped).collect::<Vec<_>>(), [true, true, false]);
    drop(buffers);
    assert_eq!(files.iter().map(is_mapped).collect::<Vec<_>>(), [false; 3]);
}

/// Each part keeps the regions, and the last lets them go.
#[test]
fn parts() {
    if !has_maps() {
        return;
    }
    let map = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let (file, region) = region(0);
    map.insert_region(region).unwrap();
    let made = GuestBuffers::owned(&*map.memory(), [(IoAddress(0), 8), (IoAddress(16), 8)], Access::ReadWrite);
    let (first, rest) = made.unwrap().split_at(12).unwrap();
    drop(map.remove_region(GuestAddress(0), 0x2000).unwrap());
    first.write_slice(&data(12), 0).unwrap();
    drop(first);
    assert!(is_mapped(&file));
    let mut found = [1; 4];
    rest.read_slice(&mut found, 0).unwrap();
    assert_eq!(found, [0; 4]);
    let mut rest = rest;
    rest.truncate(2);
    rest.advance(2);
    assert!(is_mapped(&file), "as long as there are buffers, also of no bytes");
    drop(rest);
    assert!(!is_mapped(&file));
}

/// What has landed in a region after it was removed is marked there: its tracker lives as long.
#[test]
fn what_lands_late_is_marked() {
    let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap());
    let log = map.memory().start_tracking(4096).unwrap();
    let mut buffers = GuestBuffers::owned(&*map.memory(), [(IoAddress(0x1000), 8)], Access::Write).unwrap();
    assert_eq!(buffers.as_iovecs().len(), 1);
    drop(map.remove_region(GuestAddress(0), 0x4000).unwrap());
    assert!(log.harvest().is_empty());
    drop(buffers);
    assert_eq!(log.harvest().ranges().map(|range| range.start).collect::<Vec<_>>(), [0x1000]);
}

/// Buffers that fail to be made keep nothing.
#[test]
fn nothing_is_kept_by_an_error() {
    let region = Arc::new(GuestRegionMmap::new(MmapRegion::new(0x1000).unwrap(), GuestAddress(0)).unwrap());
    let mem = GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&region)]).unwrap();
    let before = Arc::strong_count(&region);
    assert!(GuestBuffers::owned(&mem, [(IoAddress(0), 8), (IoAddress(0xfff), 2)], Access::Write).is_err());
    assert_eq!(Arc::strong_count(&region), before);
    let ranges = (0..100).map(|number| (IoAddress(number * 16), 8));
    let buffers = GuestBuffers::owned(&mem, ranges, Access::Write).unwrap();
    assert_eq!(Arc::strong_count(&region), before + 1, "once for all pieces");
    drop(buffers);
    assert_eq!(Arc::strong_count(&region), before);
    mem.write_obj(1_u8, GuestAddress(0)).unwrap();
}
