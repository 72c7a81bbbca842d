//! A harvest is a transaction: what was taken is put back unless it is committed, whatever else is harvested meanwhile.

use std::sync::Arc;

use memory_model::dirty::{DirtyBitmap, Error};
use memory_model::guest_memory::DirtyLog;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::ground::{memory, range};

const PAGE: u64 = 4096;

type Log = DirtyLog<GuestRegionMmap>;

/// Which pages are in a harvest, by their numbers.
fn pages(ranges: impl Iterator<Item = memory_model::dirty::DirtyRange>) -> Vec<u64> {
    ranges.flat_map(|range| range.start / PAGE..(range.start + range.len).div_ceil(PAGE)).collect()
}

/// Which pages a log has, which keeps them.
fn peek(log: &Log) -> Vec<u64> {
    pages(log.harvest().ranges())
}

fn touch(mem: &GuestMemoryMmap, page: u64) {
    mem.write_obj(1_u8, GuestAddress(page * PAGE)).unwrap();
}

#[test]
fn a_bitmaps_harvests_have_each_page_once_and_come_back_in_any_order() {
    for (first_commits, second_commits, first_ends_first) in
        (0..8).map(|bits| (bits & 1 == 1, bits & 2 == 2, bits & 4 == 4))
    {
        let bitmap = DirtyBitmap::new(600 * PAGE, PAGE).unwrap();
        bitmap.mark(3 * PAGE, 1);
        bitmap.mark(599 * PAGE, 1);
        let first = bitmap.harvest();
        bitmap.mark(4 * PAGE, 1);
        bitmap.mark(599 * PAGE, 1);
        let second = bitmap.harvest();
        bitmap.mark(5 * PAGE, 1);
        assert_eq!(pages(first.ranges()), [3, 599]);
        assert_eq!(pages(second.ranges()), [4, 599]);
        let end = |harvest: memory_model::dirty::Harvest<'_>, commits| {
            if commits {
                harvest.commit();
            } else {
                drop(harvest);
            }
        };
        if first_ends_first {
            end(first, first_commits);
            end(second, second_commits);
        } else {
            end(second, second_commits);
            end(first, first_commits);
        }
        let mut left = vec![5];
        left.extend(
            [(first_commits, [3, 599]), (second_commits, [4, 599])].iter().filter(|(is, _)| !is).flat_map(|x| x.1),
        );
        left.sort_unstable();
        left.dedup();
        assert_eq!(pages(bitmap.harvest().ranges()), left);
    }
}

#[test]
fn what_is_put_back_comes_again_with_what_is_new() {
    let mem = memory(&[(0, 1000 << 12)]);
    let log = mem.start_tracking(PAGE).unwrap();
    (0..1000).step_by(7).for_each(|page| touch(&mem, page));
    let mut expected: Vec<_> = (0..1000).step_by(7).collect();
    for round in 0..5 {
        let harvest = log.harvest();
        assert_eq!(pages(harvest.ranges()), expected, "round {round}");
        touch(&mem, round * 100 + 1);
        drop(harvest);
        expected.push(round * 100 + 1);
        expected.sort_unstable();
        expected.dedup();
    }
    log.harvest().commit();
    assert!(log.harvest().is_empty());
    touch(&mem, 9);
    assert_eq!(peek(&log), [9]);
}

#[test]
fn logs_do_not_take_pages_from_each_other() {
    let mem = memory(&[(0, 100 << 12)]);
    let snapshot = mem.start_tracking(PAGE).unwrap();
    touch(&mem, 1);
    let migration = mem.start_tracking(4 * PAGE).unwrap();
    touch(&mem, 9);
    let (first, second) = (snapshot.harvest(), migration.harvest());
    assert_eq!(pages(first.ranges()), [1, 9]);
    assert_eq!(pages(second.ranges()), [8, 9, 10, 11], "what was written before is in none");
    touch(&mem, 50);
    first.commit();
    assert_eq!(peek(&snapshot), [50]);
    drop(second);
    assert_eq!(peek(&migration), [8, 9, 10, 11, 48, 49, 50, 51]);
    // One that ends, with pages that it has not harvested, takes none with it; and a third begins with none.
    touch(&mem, 2);
    snapshot.stop_tracking();
    let third = mem.start_tracking(PAGE).unwrap();
    assert!(peek(&third).is_empty());
    assert_eq!(peek(&migration), [0, 1, 2, 3, 8, 9, 10, 11, 48, 49, 50, 51]);
    touch(&mem, 3);
    assert_eq!(peek(&third), [3]);
    migration.harvest().commit();
    assert_eq!(peek(&third), [3]);
    third.harvest().commit();
    assert!(peek(&migration).is_empty());
}

#[test]
fn two_harvests_of_a_log_at_once() {
    let mem = memory(&[(0, 100 << 12)]);
    let (log, other) = (mem.start_tracking(PAGE).unwrap(), mem.start_tracking(PAGE).unwrap());
    touch(&mem, 1);
    let first = log.harvest();
    touch(&mem, 1);
    touch(&mem, 2);
    let second = log.harvest();
    assert_eq!((pages(first.ranges()), pages(second.ranges())), (vec![1], vec![1, 2]));
    drop(first);
    second.commit();
    assert_eq!(peek(&log), [1]);
    assert_eq!(peek(&other), [1, 2]);
}

#[test]
fn what_a_stopped_log_had_is_not_in_the_next() {
    let mem = memory(&[(0, 100 << 12)]);
    let log = mem.start_tracking(PAGE).unwrap();
    touch(&mem, 1);
    drop(log);
    touch(&mem, 2);
    let log = mem.start_tracking(PAGE).unwrap();
    assert!(peek(&log).is_empty());
    touch(&mem, 1);
    assert_eq!(peek(&log), [1]);
}

#[test]
fn pages_of_the_hypervisors_join_ours_and_are_put_back_with_them() {
    let mem = memory(&[(0x10_0000, 100 << 12), (0x40_0000, 70 << 12)]);
    let (log, other) = (mem.start_tracking(PAGE).unwrap(), mem.start_tracking(PAGE).unwrap());
    mem.write_obj(1_u8, GuestAddress(0x10_0000)).unwrap();
    let merge = || {
        for (start, bitmap) in log.bitmaps() {
            let words = if start.0 == 0x10_0000 { [0b110, 1 << 35] } else { [1 << 63, u64::MAX] };
            bitmap.merge(0, &words, PAGE).unwrap();
        }
    };
    merge();
    let expected =
        [range(0x10_0000, 3 * PAGE), range(0x10_0000 + 99 * PAGE, PAGE), range(0x40_0000 + 63 * PAGE, 7 * PAGE)];
    let harvest = log.harvest();
    assert_eq!(harvest.ranges().collect::<Vec<_>>(), expected);
    drop(harvest);
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), expected);
    assert_eq!(other.harvest().ranges().collect::<Vec<_>>(), [range(0x10_0000, PAGE)]);
    log.harvest().commit();
    assert!(log.harvest().is_empty());
    merge();
    assert_eq!(log.harvest().ranges().map(|range| range.len / PAGE).sum::<u64>(), 10);
}

#[test]
fn pages_are_of_4096_bytes_or_more() {
    let mem = memory(&[(0, 1 << 20)]);
    for page_size in [0, 1, 2048, 4095, 4097, 3 << 12, u64::MAX] {
        assert_eq!(mem.start_tracking(page_size).unwrap_err(), Error::PageSize(page_size));
    }
    let log = mem.start_tracking(1 << 63).unwrap();
    touch(&mem, 5);
    assert_eq!(log.page_size(), 1 << 63);
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0, 1 << 20)]);
    assert!(!format!("{log:?}, {:?}", log.harvest()).is_empty());
}

/// Ranges that touch across the seam of two regions, of which the upper one ends at 2^64.
#[test]
fn the_last_byte_of_all_is_in_a_harvest() {
    let base = 0_u64.wrapping_sub(0x8000);
    let mem = memory(&[(base, 0x3000), (base + 0x3000, 0x5000)]);
    for page_size in [PAGE, 2 * PAGE] {
        let log = mem.start_tracking(page_size).unwrap();
        mem.fill(1, 0x8000, GuestAddress(base)).unwrap();
        let harvest = log.harvest();
        assert_eq!(harvest.ranges().collect::<Vec<_>>(), [range(base, 0x8000)]);
        harvest.commit();
        mem.write_obj(1_u8, GuestAddress(u64::MAX)).unwrap();
        assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0_u64.wrapping_sub(PAGE), PAGE)]);
    }
}

/// Pages of a log are counted from the start of a region, and cut by its end.
#[test]
fn regions_that_begin_and_end_in_the_middle_of_a_page() {
    let mem = memory(&[(0x800, 0x1801), (0x2001, 0x1234), (0x10_0000, 0x1)]);
    let log = mem.start_tracking(PAGE).unwrap();
    mem.write_obj(1_u8, GuestAddress(0x2000)).unwrap();
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0x1800, 0x801)]);
    mem.write_obj(1_u8, GuestAddress(0x2001)).unwrap();
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0x1800, 0x1801)]);
    mem.write_obj(1_u8, GuestAddress(0x3234)).unwrap();
    mem.write_obj(1_u8, GuestAddress(0x10_0000)).unwrap();
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), [range(0x1800, 0x1a35), range(0x10_0000, 1)]);
}

#[test]
fn a_log_follows_a_memory_whose_regions_come_and_go() {
    let mem = memory(&[(0, 10 << 12)]);
    let mut log = mem.start_tracking(PAGE).unwrap();
    touch(&mem, 1);
    let new = GuestRegionMmap::new(MmapRegion::new(10 << 12).unwrap(), GuestAddress(20 * PAGE)).unwrap();
    let larger = mem.insert_region(Arc::new(new)).unwrap();
    touch(&larger, 21);
    assert_eq!(peek(&log), [1], "not yet");
    log.follow(&larger).unwrap();
    assert_eq!(peek(&log), [1]);
    touch(&larger, 22);
    touch(&mem, 2);
    assert_eq!(peek(&log), [1, 2, 22]);
    let (upper, lower) = larger.remove_region(GuestAddress(0), 10 << 12).unwrap();
    log.follow(&upper).unwrap();
    assert_eq!(peek(&log), [22]);
    lower.write_obj(1_u8, GuestAddress(0)).unwrap();
    assert_eq!(peek(&log), [22]);
    log.follow(&larger).unwrap();
    assert_eq!(peek(&log), [22], "what it had is forgotten");
    touch(&mem, 3);
    assert_eq!(peek(&log), [3, 22]);
    log.follow(&GuestMemoryMmap::new()).unwrap();
    assert!(log.harvest().is_empty());
    assert_eq!(larger.num_regions(), 2);
}

/// A clone has the same regions, and a memory that is dropped leaves the log what it has.
#[test]
fn a_log_is_of_regions_whoever_has_them() {
    let mem = memory(&[(0, 10 << 12)]);
    let clone = mem.clone();
    let log = clone.start_tracking(PAGE).unwrap();
    touch(&mem, 7);
    drop((mem, clone));
    assert_eq!(peek(&log), [7]);
}
