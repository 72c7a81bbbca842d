//! Values that are checked when they are pinned: how they are accessed, marked, and refused.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use memory_model::buffers::{PinnedRef, PinnedSlice};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::mmap::Protection;
use memory_model::{
    AtomicAccess, Be32, Bytes, DataInit, GuestRegionCollection, IoAddress, Le16, Le64, MemoryRegionAddress,
};

use crate::ground::{Own, at, memory, page, recovers};
use crate::marks::Marks;

#[test]
fn a_value_is_where_it_was_pinned_and_nowhere_else() {
    fn check<T: AtomicAccess + PartialEq + std::fmt::Debug>(one: T, other: T) {
        let mem = memory(&[(0, 1)]);
        for position in [64, page() - 8] {
            mem.fill(0xee, page(), at(0)).unwrap();
            let value = PinnedRef::<T>::new(&mem, IoAddress(at(position).0), Access::ReadWrite).unwrap();
            assert_eq!((value.addr(), value.as_pinned_slice().len()), (at(position), size_of::<T>()));
            let there = || mem.read_obj::<T>(at(position)).unwrap();
            value.write(one).unwrap();
            assert_eq!((value.read().unwrap(), value.load(Acquire).unwrap(), there()), (one, one, one));
            for order in [Relaxed, Release, SeqCst, Acquire] {
                value.store(other, order).unwrap();
                assert_eq!((value.read().unwrap(), value.load(order).unwrap(), there()), (other, other, other));
                assert_eq!(value.compare_exchange(one, one, order, order).unwrap(), Err(other));
                assert_eq!(value.compare_exchange(other, one, order, order).unwrap(), Ok(other));
                assert_eq!(there(), one);
            }
            // By another way.
            mem.write_obj(other, at(position)).unwrap();
            assert_eq!((value.read().unwrap(), value.clone().load(Relaxed).unwrap()), (other, other));
            for beside in [position - 1, position + size_of::<T>()].into_iter().filter(|&beside| beside < page()) {
                assert_eq!(mem.read_obj::<u8>(at(beside)).unwrap(), 0xee);
            }
        }
    }
    check(1_u8, 0xfe);
    check(Le16::new(1), Le16::new(0xfedc));
    check(Be32::new(1), Be32::new(0xfedc_ba98));
    check(1_i64, -2);
    check(Le64::new(1), Le64::new(u64::MAX - 1));
}

#[test]
fn values_that_a_machine_accesses_at_once_are_aligned_and_others_need_not_be() {
    fn pin<T: DataInit>(view: &PinnedSlice, offset: usize) -> Result<PinnedRef<T>, Error> {
        view.get_ref(offset)
    }
    let mem = memory(&[(0, 1)]);
    let view = PinnedSlice::physical(&mem, at(8), 40, Access::ReadWrite).unwrap();
    for offset in 0..32_usize {
        assert!(pin::<u8>(&view, offset).is_ok());
        for (is_ok, align) in [
            (pin::<u16>(&view, offset).is_ok(), 2),
            (pin::<[u8; 4]>(&view, offset).is_ok(), 4),
            (pin::<Le64>(&view, offset).is_ok(), 8),
        ] {
            assert_eq!(is_ok, offset % align == 0, "at {offset}");
        }
        match pin::<u32>(&view, offset) {
            Err(Error::Misaligned { addr, align: 4 }) => assert_eq!(addr, at(8 + offset)),
            other => assert!(other.is_ok() && offset % 4 == 0),
        }
        // In any widths.
        let odd = pin::<[u8; 7]>(&view, offset).unwrap();
        odd.write([offset as u8; 7]).unwrap();
        assert_eq!(mem.read_obj::<[u8; 7]>(at(8 + offset)).unwrap(), [offset as u8; 7]);
        assert_eq!(odd.read().unwrap(), [offset as u8; 7]);
    }
    assert!(matches!(pin::<u64>(&view, 40), Err(Error::OutOfBounds { offset: 40, len: 40 })));
    assert!(matches!(pin::<[u8; 9]>(&view, 32), Err(Error::PartialBuffer { expected: 9, completed: 8 })));
    let large = pin::<[u8; 40]>(&view, 0).unwrap();
    large.write([5; 40]).unwrap();
    assert_eq!(large.read().unwrap(), [5; 40]);
}

/// Before tracking began, and after; with no tracker at all.
#[test]
fn what_is_written_is_marked_if_it_is_tracked_when_it_is_written() {
    let mem = memory(&[(0, 2)]);
    let value = PinnedRef::<Le16>::new(&mem, IoAddress(at(0x802).0), Access::Write).unwrap();
    value.store(Le16::new(1), Release).unwrap();
    let marks = Marks::of(&mem);
    let span = [Some(at(0x802).0..=at(0x803).0)];
    assert_eq!(marks.take(), [None]);
    value.store(Le16::new(2), Release).unwrap();
    assert_eq!(marks.take(), span);
    value.write(Le16::new(3)).unwrap();
    assert_eq!(marks.take(), span);
    value.compare_exchange(Le16::new(3), Le16::new(4), SeqCst, SeqCst).unwrap().unwrap();
    assert_eq!(marks.take(), span);
    value.compare_exchange(Le16::new(3), Le16::new(4), SeqCst, SeqCst).unwrap().unwrap_err();
    value.load(Acquire).unwrap();
    value.read().unwrap();
    assert_eq!(marks.take(), [None]);
    // A log of pages, too, which the library keeps by itself.
    let log = mem.start_tracking(page() as u64).unwrap();
    value.store(Le16::new(5), Release).unwrap();
    let pages: Vec<_> = log.harvest().ranges().map(|range| (range.start, range.len)).collect();
    assert_eq!(pages, [(at(0).0, page() as u64)]);
    log.stop_tracking();

    let mem = GuestRegionCollection::from_regions(vec![Own::new(0, true)]).unwrap();
    let value = PinnedRef::<u16>::physical(&mem, at(6), Access::ReadWrite).unwrap();
    value.store(7, Release).unwrap();
    assert_eq!((value.load(Acquire).unwrap(), mem.read_obj::<u16>(at(6)).unwrap()), (7, 7));
    value.write(8).unwrap();
    assert_eq!(value.compare_exchange(8, 9, SeqCst, SeqCst).unwrap(), Ok(8));
}

/// Every access to a page that is not there is an error that names it, and good again when it is.
#[test]
fn a_page_that_is_unplugged_is_a_fault_until_it_is_plugged() {
    if !recovers() {
        return;
    }
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return memory_model_test_support::skip!("emulated: madvise has no effect");
    }
    let (mem, page) = (memory(&[(0, 3)]), page());
    let value = PinnedRef::<u64>::physical(&mem, at(page + 16), Access::ReadWrite).unwrap();
    let long = PinnedRef::<[u8; 48]>::physical(&mem, at(page - 24), Access::ReadWrite).unwrap();
    let view = PinnedSlice::physical(&mem, at(0), 3 * page, Access::ReadWrite).unwrap();
    let second = (MemoryRegionAddress(page as u64), page as u64);
    value.store(7, Release).unwrap();
    let marks = Marks::of(&mem);
    for _ in 0..2 {
        mem.arc_regions()[0].unplug(second.0, second.1).unwrap();
        marks.take();
        let faults = |result: Result<(), Error>, bad: usize, done: usize| match result {
            Err(Error::Fault { addr, completed }) => assert_eq!((addr, completed), (at(bad), done)),
            other => panic!("{other:?}"),
        };
        faults(value.load(Acquire).map(drop), page + 16, 0);
        faults(value.read().map(drop), page + 16, 0);
        faults(value.store(1, Release), page + 16, 0);
        faults(value.write(1), page + 16, 0);
        faults(value.compare_exchange(7, 1, SeqCst, SeqCst).map(drop), page + 16, 0);
        faults(view.store(1_u16, page + 6, Release), page + 6, 0);
        faults(view.load::<u16>(2 * page - 2, Acquire).map(drop), 2 * page - 2, 0);
        faults(long.read().map(drop), page, 24);
        assert_eq!(marks.take(), [None]);
        // What comes before the page is written, and marked.
        faults(long.write([9; 48]), page, 24);
        faults(view.write_obj([9_u8; 32], page - 24), page, 24);
        assert_eq!(marks.take(), [Some(at(page - 24).0..=at(page - 1).0)]);
        assert_eq!(mem.read_obj::<[u8; 24]>(at(page - 24)).unwrap(), [9; 24]);
        mem.arc_regions()[0].plug(second.0, second.1).unwrap();
        assert_eq!((value.load(Acquire).unwrap(), long.read().unwrap()[24..].to_vec()), (0, vec![0; 24]));
        value.store(7, Release).unwrap();
        assert_eq!(mem.read_obj::<u64>(at(page + 16)).unwrap(), 7);
    }
}

#[test]
fn what_becomes_read_only_refuses_writes_and_says_so() {
    if !recovers() {
        return;
    }
    let mem = memory(&[(0, 1)]);
    let value = PinnedRef::<u32>::physical(&mem, at(32), Access::ReadWrite).unwrap();
    let view = PinnedSlice::physical(&mem, at(8), 64, Access::Write).unwrap();
    value.store(7, Release).unwrap();
    let marks = Marks::of(&mem);
    let refused = |result: Result<(), Error>, position| match result {
        Err(Error::ReadOnly { addr, completed: 0 }) => assert_eq!(addr, at(position)),
        other => panic!("{other:?}"),
    };
    mem.arc_regions()[0].protect(Protection::ReadOnly).unwrap();
    refused(value.store(1, Release), 32);
    refused(value.write(1), 32);
    refused(value.compare_exchange(7, 1, SeqCst, SeqCst).map(drop), 32);
    refused(view.store(1_u16, 4, Release), 12);
    refused(view.write_obj(1_u16, 3), 11);
    refused(view.write_slice(&[1; 8], 2), 10);
    assert_eq!((value.load(Acquire).unwrap(), marks.take()), (7, vec![None]));
    mem.arc_regions()[0].protect(Protection::ReadWrite).unwrap();
    value.store(8, Release).unwrap();
    assert_eq!(mem.read_obj::<u32>(at(32)).unwrap(), 8);
}

#[test]
fn a_value_that_is_only_to_be_read_is_not_written() {
    let mem = memory(&[(0, 1)]);
    let value = PinnedRef::<u32>::physical(&mem, at(32), Access::Read).unwrap();
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Unsupported)), "{result:?}");
    refused(value.store(1, Release));
    refused(value.write(1));
    refused(value.compare_exchange(0, 1, SeqCst, SeqCst).map(drop));
    assert_eq!((value.load(Acquire).unwrap(), value.read().unwrap()), (0, 0));
}
