//! What a view keeps, and for how long.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memory_model::buffers::{PinnedRef, PinnedSlice};
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, FileOffset, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, IoAddress, MmapRegion,
};

use crate::ground::{at, memory, page, region};

/// Whether this process maps the file.
fn is_mapped(file: &tempfile::NamedTempFile) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains(file.path().to_str().unwrap())
}

/// A page of a file of its own.
fn mapped(number: usize) -> Option<(tempfile::NamedTempFile, Arc<GuestRegionMmap>)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(page() as u64).unwrap();
    let region = MmapRegion::from_file(FileOffset::new(file.reopen().unwrap(), 0), page()).unwrap();
    if fs::read_to_string("/proc/self/maps").is_err() {
        memory_model_test_support::skip!("no /proc/self/maps");
        return None;
    }
    assert!(is_mapped(&file));
    Some((file, Arc::new(GuestRegionMmap::new(region, at(number * page())).unwrap())))
}

#[test]
fn what_is_pinned_stays_mapped_until_its_last_view_is_gone_and_nothing_else_does() {
    let map = GuestMemoryAtomic::new(memory(&[(0, 1)]));
    let (Some((file, pinned)), Some((other_file, other))) = (mapped(1), mapped(2)) else { return };
    map.insert_region(pinned).unwrap();
    map.insert_region(other).unwrap();
    let view = PinnedSlice::new(&*map.memory(), IoAddress(at(page() + 8).0), 64, Access::ReadWrite).unwrap();
    let value = view.get_ref::<u64>(16).unwrap();
    let part = view.clone().subslice(40, 8).unwrap();
    let removed = map.remove_region(at(page()), page() as u64).unwrap();
    // Three views.
    assert_eq!(Arc::strong_count(&removed), 4);
    drop(removed);
    drop(map.remove_region(at(2 * page()), page() as u64).unwrap());
    assert_eq!((is_mapped(&file), is_mapped(&other_file)), (true, false));
    assert!(map.memory().read_obj::<u8>(at(page())).is_err());
    // Also if the map is gone.
    drop(map);
    view.write_obj(1_u8, 0).unwrap();
    drop(view);
    value.store(0x0202_0202_0202_0202, Ordering::Release).unwrap();
    drop(value);
    part.write_slice(&[3; 8], 0).unwrap();
    assert!(is_mapped(&file));
    let content = fs::read(file.path()).unwrap();
    assert_eq!((content[8], &content[24..32], &content[48..56]), (1, &[2; 8][..], &[3; 8][..]));
    drop(part);
    assert!(!is_mapped(&file));
}

#[test]
fn a_view_that_is_not_made_keeps_nothing() {
    let mem = memory(&[(0, 1)]);
    let before = Arc::strong_count(&mem.arc_regions()[0]);
    PinnedSlice::physical(&mem, at(8), page(), Access::Read).unwrap_err();
    PinnedRef::<u32>::physical(&mem, at(1), Access::Read).unwrap_err();
    assert_eq!(Arc::strong_count(&mem.arc_regions()[0]), before);
}

/// What is written by a view after its region has gone from the map is nobody's; what is there instead is untouched.
#[test]
fn another_region_at_the_same_place_is_another() {
    let map = GuestMemoryAtomic::new(memory(&[(0, 1)]));
    let view = PinnedRef::<u32>::new(&*map.memory(), IoAddress(at(0).0), Access::ReadWrite).unwrap();
    view.store(1, Ordering::Release).unwrap();
    drop(map.remove_region(at(0), page() as u64).unwrap());
    map.insert_region(region(0, 1)).unwrap();
    view.store(2, Ordering::Release).unwrap();
    let mem = map.memory();
    assert_eq!((mem.read_obj::<u32>(at(0)).unwrap(), view.load(Ordering::Acquire).unwrap()), (0, 2));
    assert!(!view.is_current(&*mem));
    let again = PinnedRef::<u32>::new(&*mem, IoAddress(at(0).0), Access::ReadWrite).unwrap();
    again.store(3, Ordering::Release).unwrap();
    assert_eq!((mem.read_obj::<u32>(at(0)).unwrap(), view.load(Ordering::Acquire).unwrap()), (3, 2));
}

#[test]
fn views_are_sent_and_shared() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<PinnedSlice>();
    check::<PinnedRef<u64>>();
}

/// Threads count by views that they are sent, or share, while the regions of these come and go: no count is lost, and none is
/// to be found in a region that has come instead.
#[test]
fn views_go_from_thread_to_thread_while_the_map_changes() {
    const ROUNDS: usize = 200;
    let map = GuestMemoryAtomic::new(memory(&[(0, 1)]));
    let shared = PinnedRef::<u64>::new(&*map.memory(), IoAddress(at(8).0), Access::ReadWrite).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (shared, over, changing) = (&shared, &over, &map);
        let count = |value: &PinnedRef<u64>| {
            let mut held = value.load(Ordering::Relaxed).unwrap();
            while let Err(now) = value.compare_exchange(held, held + 1, Ordering::SeqCst, Ordering::SeqCst).unwrap() {
                held = now;
            }
        };
        let counters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut counted = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        count(shared);
                        counted += 1;
                    }
                    counted
                })
            })
            .collect();
        let (sender, receiver) = std::sync::mpsc::channel::<(PinnedRef<u64>, u64)>();
        let last = scope.spawn(move || {
            // What it is sent is of a region that has gone, or is about to.
            for (value, round) in receiver {
                assert_eq!(value.load(Ordering::Acquire).unwrap(), round);
                count(&value);
                assert_eq!(value.load(Ordering::Acquire).unwrap(), round + 1);
            }
        });
        for round in 0..ROUNDS as u64 {
            changing.insert_region(region(1, 1)).unwrap();
            let value =
                PinnedRef::<u64>::new(&*changing.memory(), IoAddress(at(page() + 8).0), Access::ReadWrite).unwrap();
            assert_eq!(value.load(Ordering::Acquire).unwrap(), 0, "a region that was there before");
            value.store(round, Ordering::Release).unwrap();
            sender.send((value, round)).unwrap();
            drop(changing.remove_region(at(page()), page() as u64).unwrap());
        }
        drop(sender);
        last.join().unwrap();
        over.store(true, Ordering::Relaxed);
        let counted: u64 = counters.into_iter().map(|counter| counter.join().unwrap()).sum();
        assert_eq!(shared.load(Ordering::Acquire).unwrap(), counted);
    });
    assert_eq!(map.memory().read_obj::<u64>(at(8)).unwrap(), shared.load(Ordering::Acquire).unwrap());
}

/// The views of a memory that is not in a `GuestMemoryAtomic`, too.
#[test]
fn a_view_outlives_the_memory_that_it_was_found_in() {
    let mem: GuestMemoryMmap = memory(&[(0, 2)]);
    let view = PinnedSlice::physical(&mem, at(4), page(), Access::ReadWrite).unwrap();
    let region = Arc::downgrade(&mem.arc_regions()[0]);
    drop(mem);
    view.write_obj(7_u64, 4).unwrap();
    assert_eq!(region.upgrade().unwrap().len(), 2 * page() as u64);
    assert_eq!(view.read_obj::<u64>(4).unwrap(), 7);
    drop(view);
    assert!(region.upgrade().is_none());
}
