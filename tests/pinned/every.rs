//! Every operation on a view, beside the same on a slice that is looked up, in a guest that is the same: what it answers, what
//! it leaves behind, and what it marks as dirty.

use std::fmt::Debug;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

use memory_model::buffers::PinnedSlice;
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{
    AtomicAccess, Be64, Bytes, DataInit, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, Le16, MemoryRegionAddress,
};

use crate::ground::{at, memory, page, recovers};
use crate::marks::Marks;

/// Where a view begins, and how far from the end of memory it ends.
const START: usize = 40;
const REST: usize = 24;
const PAGES: usize = 4;

/// A guest of four pages, of which the third may be unplugged.
fn guest(has_hole: bool) -> GuestMemoryMmap {
    let mem = memory(&[(0, PAGES)]);
    let bytes: Vec<u8> = (0..PAGES * page()).map(|position| (position % 251) as u8).collect();
    mem.write_slice(&bytes, at(0)).unwrap();
    if has_hole {
        mem.arc_regions()[0].unplug(MemoryRegionAddress(2 * page() as u64), page() as u64).unwrap();
    }
    mem
}

/// Everything that is plugged.
fn contents(mem: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * page()];
    for (number, bytes) in bytes.chunks_mut(page()).enumerate() {
        if mem.arc_regions()[0].is_plugged(MemoryRegionAddress((number * page()) as u64), page() as u64) {
            mem.read_slice(bytes, at(number * page())).unwrap();
        }
    }
    bytes
}

/// What an operation answers, in words.
fn told(result: impl Debug) -> String {
    format!("{result:?}")
}

/// Does everything at an offset, each with `after` it.
fn all(view: &impl Bytes<usize, E = Error>, offset: usize, len: usize, after: &mut dyn FnMut(String)) {
    let data: Vec<u8> = (0..len).map(|number| number as u8 ^ 0xa5).collect();
    after(told(view.write(&data, offset)));
    after(told(view.write_slice(&data, offset)));
    after(told(view.fill(0x77, len, offset)));
    after(told(view.write_from(offset, &mut &data[..], len)));
    after(told(view.write_all_from(offset, &mut &data[..], len)));
    after(told(view.write_all_from(offset, &mut &data[..len / 2], len)));
    let mut buf = vec![0; len];
    let answer = told(view.read(&mut buf, offset));
    after(format!("{answer} {buf:?}"));
    buf.fill(0);
    let answer = told(view.read_slice(&mut buf, offset));
    after(format!("{answer} {buf:?}"));
    let mut sink = Vec::new();
    let answer = told(view.read_into(offset, &mut sink, len));
    after(format!("{answer} {sink:?}"));
    sink.clear();
    let answer = told(view.read_all_into(offset, &mut sink, len));
    after(format!("{answer} {sink:?}"));
    value(view, 0xa1_u8, offset, after);
    value(view, Le16::new(0xb2b1), offset, after);
    value(view, 0xc4c3_c2c1_u32, offset, after);
    value(view, [1_u8, 2, 3], offset, after);
    value(view, 0x1817_1615_1413_1211_u64, offset, after);
    value(view, [9_u8; 40], offset, after);
    value(view, [0_u8; 0], offset, after);
    for order in [Relaxed, Acquire, Release, SeqCst] {
        atomic(view, 0x11_u8, offset, order, after);
        atomic(view, Le16::new(0x2221), offset, order, after);
        atomic(view, 0x4443_4241_i32, offset, order, after);
        atomic(view, Be64::new(0x8887_8685_8483_8281), offset, order, after);
    }
}

fn value<T: DataInit + Debug>(
    view: &impl Bytes<usize, E = Error>,
    value: T,
    offset: usize,
    after: &mut dyn FnMut(String),
) {
    after(told(view.read_obj::<T>(offset)));
    after(told(view.write_obj(value, offset)));
    after(told(view.read_obj::<T>(offset)));
}

fn atomic<T: AtomicAccess + Debug>(
    view: &impl Bytes<usize, E = Error>,
    value: T,
    offset: usize,
    order: Ordering,
    after: &mut dyn FnMut(String),
) {
    after(told(view.load::<T>(offset, order)));
    after(told(view.store(value, offset, order)));
    after(told(view.compare_exchange(T::zeroed(), value, offset, order, order)));
    after(told(view.compare_exchange(value, T::zeroed(), offset, order, order)));
    after(told(view.load::<T>(offset, order)));
}

fn check(has_hole: bool) {
    let guests = [guest(has_hole), guest(has_hole)];
    let len = PAGES * page() - START - REST;
    let slice = guests[0].get_slice(at(START), len).unwrap();
    let view = PinnedSlice::physical(&guests[1], at(START), len, Access::ReadWrite).unwrap();
    // Tracking begins after it was pinned.
    let marks = [Marks::of(&guests[0]), Marks::of(&guests[1])];
    let edges = [0, page() - START, 2 * page() - START, 3 * page() - START, len];
    let offsets = edges.into_iter().flat_map(|edge| {
        [0, 1, 2, 4, 7, 8].into_iter().flat_map(move |by| [edge.checked_sub(by), edge.checked_add(by)])
    });
    let mut offsets: Vec<_> = offsets.flatten().chain([usize::MAX, usize::MAX - 7]).collect();
    offsets.sort_unstable();
    offsets.dedup();
    for offset in offsets {
        for len in [0, 1, 8, 33] {
            let (mut wanted, mut found) = (Vec::new(), Vec::new());
            all(&slice, offset, len, &mut |answer| wanted.push((answer, marks[0].take())));
            all(&view, offset, len, &mut |answer| found.push((answer, marks[1].take())));
            for (number, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(found, wanted, "step {number} of {len} bytes at {offset:#x}");
            }
            assert_eq!(found.len(), wanted.len());
            assert!(contents(&guests[1]) == contents(&guests[0]), "{len} bytes at {offset:#x}");
        }
    }
    // It did mark, and no more after tracking is over.
    view.write_obj(1_u8, 0).unwrap();
    assert_eq!(marks[1].take(), [Some(at(START).0..=at(START).0)]);
}

#[test]
fn every_operation_is_as_one_on_a_slice() {
    check(false);
}

#[test]
fn every_operation_is_as_one_on_a_slice_also_where_a_page_is_unplugged() {
    if recovers() && std::env::var_os("CROSS_RUNNER").is_none() {
        check(true);
    }
}

#[test]
fn a_view_is_for_what_it_was_pinned_for() {
    let mem = guest(false);
    let before = contents(&mem);
    let pin = |access| PinnedSlice::physical(&mem, at(8), 16, access).unwrap();
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Unsupported)), "{result:?}");
    let writes = |view: &PinnedSlice, check: &dyn Fn(Result<(), Error>)| {
        check(view.write(&[1], 0).map(drop));
        check(view.write_slice(&[1], 0));
        check(view.fill(1, 1, 0));
        check(view.write_obj(1_u8, 0));
        check(view.store(1_u8, 0, SeqCst));
        check(view.write_from(0, &mut &[1_u8][..], 1).map(drop));
        check(view.write_all_from(0, &mut &[1_u8][..], 1));
    };
    let reads = |view: &PinnedSlice, check: &dyn Fn(Result<(), Error>)| {
        check(view.read(&mut [0], 0).map(drop));
        check(view.read_slice(&mut [0], 0));
        check(view.read_obj::<u8>(0).map(drop));
        check(view.load::<u8>(0, SeqCst).map(drop));
        check(view.read_into(0, &mut Vec::new(), 1).map(drop));
        check(view.read_all_into(0, &mut Vec::new(), 1));
    };
    let exchange = |view: &PinnedSlice| view.compare_exchange(1_u8, 1, 0, SeqCst, SeqCst).map(drop);
    let allowed = |result: Result<(), Error>| result.unwrap();

    let view = pin(Access::Read);
    writes(&view, &refused);
    reads(&view, &allowed);
    refused(exchange(&view));
    assert!(contents(&mem) == before, "nothing was written");
    let view = pin(Access::Write);
    writes(&view, &allowed);
    reads(&view, &refused);
    refused(exchange(&view));
    assert!(matches!(view.get_ref::<u8>(0), Err(Error::Unsupported)));
    let view = pin(Access::ReadWrite);
    writes(&view, &allowed);
    reads(&view, &allowed);
    allowed(exchange(&view));
    // A part, and a copy, are for nothing else.
    refused(pin(Access::Read).subslice(0, 8).unwrap().clone().write_obj(1_u8, 0));
    assert_eq!(mem.arc_regions()[0].len(), (PAGES * page()) as u64);
}
