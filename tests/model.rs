//! Random sequences of all operations, on random layouts with holes, compared with a plain map from address to byte:
//! every answer, every error, what the other end got, and every byte.
//!
//! Each memory of the library, each way to provide one's own, and each wrapper keeps the same contract.
#![cfg(feature = "std")]

#[path = "model/mod.rs"]
mod model;

use std::sync::Arc;

use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestSlice, MemoryRegionAddress,
    VolatileSlice,
};
#[cfg(all(feature = "mmap", unix))]
use memory_model::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use proptest::array::{uniform2, uniform6};
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use model::layout::{Kind, Layout, Span};
use model::memory::{CustomRegion, ListMemory, MixedRegion};
use model::op::Op;
use model::oracle::{Model, initial};
use model::outcome::{Answer, Failure, Outcome};
use model::raw::Case;
use model::stream::{Data, Pace, Then};
use model::value::{Atom, Shape};

/// Thousands of sequences for each memory, unless the environment says how many.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 2000 }, failure_persistence: None, ..default }
}

fn case() -> impl Strategy<Value = Case> {
    // In words, as drawing bytes costs more than making the calls.
    let region = uniform2(any::<u32>()).prop_map(|words| words.map(u32::to_le_bytes).concat());
    let op = uniform6(any::<u32>()).prop_map(|words| words.map(u32::to_le_bytes).concat());
    (any::<u8>(), vec(region, 0..=8), vec(op, 1..=40)).prop_map(|(base, regions, ops)| Case::new(base, &regions, &ops))
}

/// Runs the same random cases on each of some memories.
macro_rules! contract {
    ($($(#[$attribute:meta])* $memory:ident($case:ident) $test:block)*) => {
        proptest! {
            #![proptest_config(config())]
            $($(#[$attribute])* #[test] fn $memory($case in case()) $test)*
        }
    };
}

contract! {
    #[cfg(all(feature = "mmap", unix))]
    mmap(case) {
        let layout = case.layout.of(Kind::Ram);
        play(&mmap_memory(&layout), &layout, &case.ops, Op::run);
    }
    #[cfg(all(feature = "mmap", unix))]
    mmap_behind_a_reference(case) {
        let layout = case.layout.of(Kind::Ram);
        play(&&mmap_memory(&layout), &layout, &case.ops, Op::run);
    }
    #[cfg(all(feature = "mmap", unix))]
    mmap_as_a_device_sees_it(case) {
        let layout = case.layout.of(Kind::Ram);
        play(&mmap_memory(&layout), &layout, &case.ops, Op::run_io);
    }
    custom(case) {
        let layout = case.layout.of(Kind::Custom);
        play(&custom_memory(&layout), &layout, &case.ops, Op::run);
    }
    custom_behind_an_arc(case) {
        let layout = case.layout.of(Kind::Custom);
        play(&Arc::new(custom_memory(&layout)), &layout, &case.ops, Op::run);
    }
    mixed_regions(case) {
        let layout = mixed_layout(&case.layout);
        play(&mixed_memory(&layout), &layout, &case.ops, Op::run);
    }
    list_of_mixed_regions(case) {
        let layout = mixed_layout(&case.layout);
        play(&list_memory(&layout), &layout, &case.ops, Op::run);
    }
    list_behind_a_box_as_a_device_sees_it(case) {
        let layout = mixed_layout(&case.layout);
        play(&Box::new(list_memory(&layout)), &layout, &case.ops, Op::run_io);
    }
    #[cfg(all(feature = "mmap", unix))]
    one_mmap_region(case) {
        let layout = one_region(&case.layout);
        for &span in &layout.spans {
            let region = mmap_region(span);
            play_bytes(&region, &layout, 0, &case.ops, GuestAddress);
        }
    }
    #[cfg(all(feature = "mmap", unix))]
    one_mmap_region_by_offset(case) {
        let (layout, ops) = from_zero(&case);
        for &span in &layout.spans {
            play_bytes(&mmap_region(span), &layout, 0, &ops, MemoryRegionAddress);
        }
    }
    one_custom_region_by_offset(case) {
        let (layout, ops) = from_zero(&case);
        let layout = layout.of(Kind::Custom);
        // Atomics that refuse do so wherever they are, before there is a question of memory. And what is taken from a
        // source before there turns out to be no room for it is lost: a memory does not ask a region for more than it
        // has.
        let model = Model::new(&layout);
        let ops: Vec<_> = ops.into_iter().filter(|op| !op.is_atomic() && op.has_room_for_source(&model)).collect();
        for &span in &layout.spans {
            play_bytes(&CustomRegion::new(span), &layout, 0, &ops, MemoryRegionAddress);
        }
    }
    volatile_slice(case) {
        let (layout, ops) = from_zero(&case);
        for &span in &layout.spans {
            on_slice(span, |slice, skew| play_bytes(&slice, &layout, skew, &ops, index));
        }
    }
    guest_slice(case) {
        let (layout, ops) = from_zero(&case);
        for &span in &layout.spans {
            on_slice(span, |slice, skew| {
                let slice = GuestSlice::new(slice, None, GuestAddress(0));
                play_bytes(&slice, &layout, skew, &ops, index);
            });
        }
    }
}

/// The largest layout whose contents are compared after each operation, in bytes. Larger ones are at the end.
const SMALL: usize = 1000;

/// Makes all calls on a guest's memory, and compares what comes of them.
fn play<M: GuestMemory>(memory: &M, layout: &Layout, ops: &[Op], run: impl Fn(&Op, &M) -> Outcome) {
    compare_places(memory, layout);
    for region in memory.regions() {
        let bytes: Vec<u8> = (0..region.len()).map(|offset| initial(region.start_addr().0 + offset)).collect();
        region.write_slice(&bytes, MemoryRegionAddress(0)).expect("a region has its own bytes");
    }
    let contents = || {
        let read = |region: &M::Region| {
            let mut bytes = vec![0; usize::try_from(region.len()).expect("regions of a test are small")];
            region.read_slice(&mut bytes, MemoryRegionAddress(0)).expect("a region has its own bytes");
            bytes
        };
        memory.regions().map(read).collect::<Vec<_>>()
    };
    compare(Model::new(layout), ops, |op| Some(run(op, memory)), contents);
}

/// Makes the calls of `Bytes` on the memory of just one span, by the kind of address that `at` makes.
fn play_bytes<A: memory_model::Address, M: Bytes<A>>(
    memory: &M,
    layout: &Layout,
    skew: usize,
    ops: &[Op],
    at: impl Fn(u64) -> A,
) where
    Failure: From<M::E>,
    M::E: std::fmt::Debug,
{
    let span = layout.spans[0];
    let bytes: Vec<u8> = (0..span.len as u64).map(|offset| initial(span.start + offset)).collect();
    memory.write_slice(&bytes, at(span.start)).expect("memory has its own bytes");
    let contents = || {
        let mut bytes = vec![0; span.len];
        memory.read_slice(&mut bytes, at(span.start)).expect("memory has its own bytes");
        vec![bytes]
    };
    compare(Model::skewed(layout, skew), ops, |op| op.run_bytes(memory, &at), contents);
}

/// Compares what comes of each operation that `run` can do, and the bytes after it.
fn compare(mut model: Model, ops: &[Op], run: impl Fn(&Op) -> Option<Outcome>, contents: impl Fn() -> Vec<Vec<u8>>) {
    let small = model.contents().iter().map(|bytes| bytes.len()).sum::<usize>() <= SMALL;
    for (number, op) in ops.iter().enumerate() {
        let Some(outcome) = run(op) else { continue };
        assert_eq!(outcome, op.predict(&mut model), "operation {number} (left: memory, right: model): {op:?}");
        if small || number + 1 == ops.len() {
            assert_eq!(contents(), model.contents(), "after operation {number} (left: memory, right: model): {op:?}");
        }
    }
}

/// Compares what a memory says about its regions with where they are.
fn compare_places<M: GuestMemory>(memory: &M, layout: &Layout) {
    let spans = &layout.spans;
    assert_eq!(memory.num_regions(), spans.len());
    let places = memory.regions().map(|region| (region.start_addr().0, region.len()));
    assert!(places.eq(spans.iter().map(|span| (span.start, span.len as u64))), "regions are given in order");
    let last = spans.last().map(|span| GuestAddress(span.start + (span.len as u64 - 1)));
    assert_eq!(memory.last_addr(), last);
    assert_eq!(memory.total_len(), spans.iter().map(|span| span.len as u64).sum::<u64>());
    for addr in layout.edges().into_iter().flat_map(|edge| [edge.wrapping_sub(1), edge]) {
        let span = spans.iter().find(|span| addr >= span.start && addr - span.start < span.len as u64);
        let addr = GuestAddress(addr);
        assert_eq!(memory.find_region(addr).map(|region| region.start_addr().0), span.map(|span| span.start));
        assert_eq!(memory.address_in_range(addr), span.is_some());
        assert_eq!(memory.check_address(addr), span.map(|_| addr));
        let place = memory.to_region_addr(addr).map(|(region, offset)| (region.start_addr().0, offset.0));
        assert_eq!(place, span.map(|span| (span.start, addr.0 - span.start)));
    }
}

#[cfg(all(feature = "mmap", unix))]
fn mmap_region(span: Span) -> GuestRegionMmap {
    let mapping = MmapRegion::new(span.len).expect("small mappings can be had");
    GuestRegionMmap::new(mapping, GuestAddress(span.start)).expect("layouts fit the address space")
}

/// Half of the regions at once, the others one by one, all in order of rank.
#[cfg(all(feature = "mmap", unix))]
fn mmap_memory(layout: &Layout) -> GuestMemoryMmap {
    let mut spans = layout.by_rank();
    let later = spans.split_off(spans.len() / 2);
    let first = spans.into_iter().map(mmap_region).collect();
    let first = GuestMemoryMmap::from_regions(first).expect("layouts have no overlaps");
    later.into_iter().fold(first, |memory, span| {
        memory.insert_region(Arc::new(mmap_region(span))).expect("layouts have no overlaps")
    })
}

fn custom_memory(layout: &Layout) -> GuestRegionCollection<CustomRegion> {
    let regions = layout.by_rank().into_iter().map(CustomRegion::new).collect();
    GuestRegionCollection::from_regions(regions).expect("layouts have no overlaps")
}

/// The layout as it is. Without mappings there is just the one kind of region.
fn mixed_layout(layout: &Layout) -> Layout {
    if cfg!(all(feature = "mmap", unix)) { layout.clone() } else { layout.of(Kind::Custom) }
}

fn mixed_regions_of(layout: &Layout) -> Vec<MixedRegion> {
    let region = |span: Span| match span.kind {
        #[cfg(all(feature = "mmap", unix))]
        Kind::Ram => MixedRegion::Ram(mmap_region(span)),
        _ => MixedRegion::Custom(CustomRegion::new(span)),
    };
    layout.by_rank().into_iter().map(region).collect()
}

fn mixed_memory(layout: &Layout) -> GuestRegionCollection<MixedRegion> {
    GuestRegionCollection::from_regions(mixed_regions_of(layout)).expect("layouts have no overlaps")
}

fn list_memory(layout: &Layout) -> ListMemory {
    ListMemory::new(mixed_regions_of(layout))
}

/// The region of highest rank, if there is one, and it alone, as RAM.
fn one_region(layout: &Layout) -> Layout {
    let span = layout.by_rank().pop().map(|span| Span { kind: Kind::Ram, ..span });
    Layout { spans: span.into_iter().collect() }
}

/// The region of highest rank moved to address 0, and the operations with it.
fn from_zero(case: &Case) -> (Layout, Vec<Op>) {
    let mut layout = one_region(&case.layout);
    let start = layout.spans.first().map_or(0, |span| span.start);
    for span in &mut layout.spans {
        span.start = 0;
    }
    // An address that the host's own size cannot tell becomes the largest that it can.
    let largest = u64::try_from(usize::MAX).unwrap_or(u64::MAX);
    let moved = |op: &Op| op.clone().map_addrs(|addr| addr.wrapping_sub(start).min(largest));
    (layout, case.ops.iter().map(moved).collect())
}

fn index(addr: u64) -> usize {
    usize::try_from(addr).unwrap_or(usize::MAX)
}

/// Calls `test` with a slice as long as the span, and how far it begins above a multiple of 8: anything, by rank.
fn on_slice(span: Span, test: impl FnOnce(VolatileSlice<'_>, usize)) {
    let mut words = vec![0_u64; span.len / 8 + 2];
    let whole = VolatileSlice::from(words.as_mut_slice().as_mut_bytes());
    let slice = whole.subslice(usize::from(span.rank % 8), span.len).expect("the buffer is larger");
    test(slice, slice.as_ptr().addr() % 8);
}

// Sequences that are spelled out, with their outcomes: what others have got wrong, and what holds the model itself to
// the contract.

const fn span(start: u64, len: usize) -> Span {
    Span { start, len, kind: Kind::Ram, rank: 0 }
}

/// Makes each call on each kind of memory, and compares what comes of it with the outcome beside it.
fn spelled_out(spans: &[Span], calls: &[(Op, Outcome)]) {
    let layout = Layout { spans: spans.to_vec() };
    let (ops, outcomes): (Vec<_>, Vec<_>) = calls.iter().map(|(op, outcome)| (op.clone(), outcome)).unzip();
    let mut model = Model::new(&layout);
    for (op, outcome) in ops.iter().zip(outcomes) {
        assert_eq!(op.predict(&mut model), *outcome, "(left: the model, right: the contract): {op:?}");
    }
    on_all_memories(&layout, &ops);
}

/// Compares each kind of memory, and each wrapper, with the model.
fn on_all_memories(layout: &Layout, ops: &[Op]) {
    #[cfg(all(feature = "mmap", unix))]
    {
        let ram = layout.of(Kind::Ram);
        play(&mmap_memory(&ram), &ram, ops, Op::run);
        play(&&mmap_memory(&ram), &ram, ops, Op::run_io);
    }
    let custom = layout.of(Kind::Custom);
    play(&custom_memory(&custom), &custom, ops, Op::run);
    play(&Arc::new(custom_memory(&custom)), &custom, ops, Op::run_io);
    // RAM and custom regions in turn.
    let mut mixed = mixed_layout(layout);
    mixed.spans.iter_mut().skip(1).step_by(2).for_each(|span| span.kind = Kind::Custom);
    play(&mixed_memory(&mixed), &mixed, ops, Op::run);
    play(&Box::new(list_memory(&mixed)), &mixed, ops, Op::run);
    play(&list_memory(&mixed), &mixed, ops, |op, memory| op.run_io(&memory));
}

fn done(result: Result<Answer, Failure>) -> Outcome {
    Outcome::of(result)
}

fn partial(expected: usize, completed: usize) -> Failure {
    Failure::Partial { expected, completed }
}

#[test]
fn a_short_read_of_a_stream_at_a_boundary_ends_it() {
    // Two regions that touch. Five bytes to the boundary, of which the source gives three: nothing beyond it is
    // touched. What is given is the stream's, in order.
    let src = Pace { seed: 10, per_call: Some(3), ..Pace::STEADY };
    let five = Pace { seed: 20, per_call: Some(5), ..Pace::STEADY };
    let read = |outcome, bytes: &[u8]| Outcome { result: Ok(outcome), other_end: bytes.to_vec() };
    spelled_out(
        &[span(0x1000, 16), span(0x1010, 16)],
        &[
            (Op::WriteFrom { addr: 0x100b, src, count: 12 }, read(Answer::Count(3), &[10, 11, 12])),
            (
                Op::WriteFrom { addr: 0x100b, src: five, count: 12 },
                read(Answer::Count(10), &(20..30).collect::<Vec<_>>()),
            ),
            (Op::WriteAllFrom { addr: 0x100b, src, count: 8 }, read(Answer::Done, &(10..18).collect::<Vec<_>>())),
            (Op::ReadInto { addr: 0x100b, dst: src, count: 12 }, read(Answer::Count(3), &[10, 11, 12])),
            (Op::ReadAllInto { addr: 0x100b, dst: src, count: 8 }, read(Answer::Done, &(10..18).collect::<Vec<_>>())),
        ],
    );
}

#[test]
fn an_error_of_a_stream_tells_only_if_nothing_came_before_it() {
    let fails = |limit| Pace { limit, then: Then::Fail(std::io::ErrorKind::WouldBlock), ..Pace::STEADY };
    let lies = Pace { per_call: Some(4), limit: 8, then: Then::Lie(1), ..Pace::STEADY };
    let interrupted = Pace { interrupted: true, per_call: Some(2), ..Pace::STEADY };
    let moved = |result, count| Outcome { result, other_end: (1..=count).collect() };
    let would_block = || Err(Failure::Io(std::io::ErrorKind::WouldBlock));
    let addr = 0x1000;
    spelled_out(
        &[span(0x1000, 8), span(0x1008, 8)],
        &[
            (Op::WriteFrom { addr, src: fails(0), count: 9 }, moved(would_block(), 0)),
            (Op::WriteFrom { addr, src: fails(8), count: 9 }, moved(Ok(Answer::Count(8)), 8)),
            (Op::WriteAllFrom { addr, src: fails(8), count: 9 }, moved(would_block(), 8)),
            (Op::WriteAllFrom { addr, src: lies, count: 9 }, moved(Err(Failure::Overrun(1)), 8)),
            (
                Op::WriteFrom { addr, src: interrupted, count: 2 },
                moved(Err(Failure::Io(std::io::ErrorKind::Interrupted)), 0),
            ),
            (Op::WriteAllFrom { addr, src: interrupted, count: 10 }, moved(Ok(Answer::Done), 10)),
            (Op::WriteAllFrom { addr, src: interrupted, count: 17 }, moved(Err(partial(17, 16)), 16)),
        ],
    );
}

#[test]
fn nothing_wraps_at_the_end_of_the_address_space() {
    let addr = u64::MAX - 3;
    let last = Data { seed: 7, len: 4 };
    spelled_out(
        &[span(0, 16), span(u64::MAX - 15, 16)],
        &[
            (Op::CheckRange { addr, len: 16 }, done(Ok(Answer::Is(false)))),
            (Op::CheckRange { addr, len: 4 }, done(Ok(Answer::Is(true)))),
            (Op::CheckRange { addr, len: usize::MAX }, done(Ok(Answer::Is(false)))),
            (Op::CheckedOffset { base: addr, offset: 3 }, done(Ok(Answer::Address(Some(u64::MAX))))),
            (Op::CheckedOffset { base: addr, offset: 4 }, done(Ok(Answer::Address(None)))),
            (Op::WriteSlice { addr, data: last }, done(Ok(Answer::Done))),
            (Op::WriteSlice { addr, data: Data { len: 5, ..last } }, done(Err(partial(5, 4)))),
            (Op::Write { addr, data: Data { len: 50, ..last } }, done(Ok(Answer::Count(4)))),
            (Op::ReadObj { addr, shape: Shape::U64 }, done(Err(partial(8, 4)))),
            (Op::Fill { addr, byte: 1, len: usize::MAX }, done(Err(partial(usize::MAX, 4)))),
            (Op::Copy { src: addr, dst: 0, len: 5 }, done(Err(partial(5, 4)))),
            (Op::Copy { src: 0, dst: addr, len: 5 }, done(Err(partial(5, 4)))),
        ],
    );
    // An atomic access at the last address of all.
    let order = std::sync::atomic::Ordering::SeqCst;
    let load = |addr, atom| Op::Load { addr, atom, order };
    on_all_memories(
        &Layout { spans: vec![span(u64::MAX - 15, 16)] },
        &[load(u64::MAX, Atom::U16), load(u64::MAX, Atom::U8), load(u64::MAX - 7, Atom::U64), load(0, Atom::U8)],
    );
}

#[test]
fn nothing_is_done_for_no_bytes_wherever_they_are() {
    let none = Data { seed: 0, len: 0 };
    for addr in [0, 0x1000, 0x1fff, 0x2000, u64::MAX] {
        spelled_out(
            &[span(0x1000, 0x1000)],
            &[
                (Op::Write { addr, data: none }, done(Ok(Answer::Count(0)))),
                (Op::Read { addr, len: 0 }, done(Ok(Answer::Count(0)))),
                (Op::WriteSlice { addr, data: none }, done(Ok(Answer::Done))),
                (Op::ReadSlice { addr, len: 0 }, done(Ok(Answer::Done))),
                (Op::WriteObj { addr, shape: Shape::Empty, value: [0; 16] }, done(Ok(Answer::Done))),
                (Op::ReadObj { addr, shape: Shape::Empty }, done(Ok(Answer::Value(Vec::new())))),
                (Op::Fill { addr, byte: 1, len: 0 }, done(Ok(Answer::Done))),
                (Op::WriteFrom { addr, src: Pace::STEADY, count: 0 }, done(Ok(Answer::Count(0)))),
                (Op::WriteAllFrom { addr, src: Pace::STEADY, count: 0 }, done(Ok(Answer::Done))),
                (Op::ReadInto { addr, dst: Pace::STEADY, count: 0 }, done(Ok(Answer::Count(0)))),
                (Op::ReadAllInto { addr, dst: Pace::STEADY, count: 0 }, done(Ok(Answer::Done))),
                (Op::Copy { src: addr, dst: !addr, len: 0 }, done(Ok(Answer::Done))),
                (Op::GetSlice { addr, count: 0 }, done(Ok(Answer::Slices(vec![(addr, Vec::new())], None)))),
                (Op::GetSlices { addr, count: 0 }, done(Ok(Answer::Slices(Vec::new(), None)))),
                (Op::CheckRange { addr, len: 0 }, done(Ok(Answer::Is(true)))),
            ],
        );
    }
}

#[test]
fn a_hole_stops_what_comes_to_it() {
    let data = Data { seed: 40, len: 8 };
    let mut seen: Vec<u8> = (40..46).collect();
    seen.extend([model::op::UNREAD; 2]);
    let addr = 0x1006;
    spelled_out(
        // Two that touch, a hole of one byte, and another.
        &[span(0x1003, 5), span(0x1008, 4), span(0x100d, 7)],
        &[
            (Op::Write { addr, data }, done(Ok(Answer::Count(6)))),
            (Op::WriteSlice { addr, data }, done(Err(partial(8, 6)))),
            (Op::Read { addr, len: 8 }, Outcome { result: Ok(Answer::Count(6)), other_end: seen.clone() }),
            (Op::ReadSlice { addr, len: 8 }, Outcome { result: Err(partial(8, 6)), other_end: seen }),
            (Op::Fill { addr, byte: 9, len: 7 }, done(Err(partial(7, 6)))),
            (Op::WriteObj { addr, shape: Shape::U64, value: [3; 16] }, done(Err(partial(8, 6)))),
            (Op::WriteObj { addr, shape: Shape::U32, value: [4; 16] }, done(Ok(Answer::Done))),
            (Op::ReadObj { addr, shape: Shape::U32 }, done(Ok(Answer::Value(vec![4; 4])))),
            (Op::WriteSlice { addr: 0x100c, data }, done(Err(Failure::Nowhere(0x100c)))),
            (Op::ReadObj { addr: 0x1002, shape: Shape::U16 }, done(Err(Failure::Nowhere(0x1002)))),
            (Op::CheckRange { addr, len: 6 }, done(Ok(Answer::Is(true)))),
            (Op::CheckRange { addr, len: 7 }, done(Ok(Answer::Is(false)))),
            (Op::CheckedOffset { base: 0, offset: 0x100c }, done(Ok(Answer::Address(None)))),
            (Op::Copy { src: 0x100c, dst: 0x1003, len: 1 }, done(Err(Failure::Nowhere(0x100c)))),
            (Op::Copy { src: 0x1003, dst: 0x100c, len: 1 }, done(Err(Failure::Nowhere(0x100c)))),
        ],
    );
}

#[test]
fn copies_that_overlap_and_cross_regions() {
    let value = |bytes: &[u8]| done(Ok(Answer::Value(bytes.to_vec())));
    let copy = |src, dst, len| (Op::Copy { src, dst, len }, done(Ok(Answer::Done)));
    let data = Data { seed: 1, len: 16 };
    let addr = 0x1000;
    let read = || Op::ReadObj { addr, shape: Shape::Sixteen };
    spelled_out(
        &[span(0x1000, 5), span(0x1005, 3), span(0x1008, 8)],
        &[
            (Op::WriteSlice { addr, data }, done(Ok(Answer::Done))),
            copy(0x1000, 0x1003, 12),
            (read(), value(&[1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16])),
            copy(0x1003, 0x1001, 12),
            (read(), value(&[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 11, 12, 16])),
            copy(0x1002, 0x1002, 14),
            // As far as both have memory: three bytes, of the eight.
            (Op::Copy { src: 0x1001, dst: 0x100d, len: 8 }, done(Err(partial(8, 3)))),
            (read(), value(&[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3])),
        ],
    );
    // In chunks, where there is no host memory.
    let far = |src, dst| Op::Copy { src, dst, len: 2000 };
    on_all_memories(
        &Layout { spans: vec![span(0x1001, 1500), span(0x1001 + 1500, 1500)] },
        &[far(0x1001, 0x1002), far(0x1100, 0x1001), far(0x1001, 0x1001 + 999), far(0x1001 + 513, 0x1001)],
    );
}

#[cfg(all(feature = "mmap", unix))]
#[test]
fn atomics_are_aligned_in_host_memory_and_stay_in_a_region() {
    let order = std::sync::atomic::Ordering::AcqRel; // none for a load or a store: acts as SeqCst
    let misaligned = |addr, align| done(Err(Failure::Misaligned { addr, align }));
    let exchange = |addr, current, new| {
        let (current, new) = (model::op::Current::This([current; 8]), [new; 8]);
        Op::CompareExchange { addr, atom: Atom::U16, current, new, orders: (order, order) }
    };
    let found = |found| done(Ok(Answer::Found(found)));
    // The first byte of a region is where a page begins, whatever its guest address.
    let layout = Layout { spans: vec![span(0x1003, 10), span(0x100d, 8)] };
    let calls = [
        (Op::Store { addr: 0x1003, atom: Atom::U64, value: [7; 8], order }, done(Ok(Answer::Done))),
        (Op::Load { addr: 0x1003, atom: Atom::Be64, order }, done(Ok(Answer::Value(vec![7; 8])))),
        (Op::Load { addr: 0x1004, atom: Atom::Le16, order }, misaligned(0x1004, 2)),
        (Op::Store { addr: 0x1008, atom: Atom::U32, value: [1; 8], order }, misaligned(0x1008, 4)),
        // Aligned, and half of it in the next region.
        (Op::Load { addr: 0x100b, atom: Atom::U32, order }, done(Err(partial(4, 0)))),
        (Op::Store { addr: 0x100b, atom: Atom::U64, value: [1; 8], order }, done(Err(partial(8, 0)))),
        (exchange(0x1003, 7, 9), found(Ok(vec![7; 2]))),
        (exchange(0x1003, 7, 8), found(Err(vec![9; 2]))),
        (exchange(0x1002, 7, 8), done(Err(Failure::Nowhere(0x1002)))),
    ];
    let mut model = Model::new(&layout);
    let ops = calls.map(|(op, outcome)| {
        assert_eq!(op.predict(&mut model), outcome, "(left: the model, right: the contract): {op:?}");
        op
    });
    play(&mmap_memory(&layout), &layout, &ops, Op::run);
    play(&Arc::new(mmap_memory(&layout)), &layout, &ops, Op::run_io);
}

#[test]
fn memory_of_one_kind_ends_where_another_begins_for_host_addresses() {
    let mut layout = Layout { spans: vec![span(0x1000, 8), span(0x1008, 8)] };
    layout.spans[1].kind = Kind::Custom;
    let layout = mixed_layout(&layout);
    let ops = [
        Op::GetSlices { addr: 0x1004, count: 8 },
        Op::GetSlice { addr: 0x1004, count: 8 },
        Op::GetSlice { addr: 0x1009, count: 1 },
        Op::Load { addr: 0x1008, atom: Atom::U8, order: std::sync::atomic::Ordering::SeqCst },
        Op::Copy { src: 0x1002, dst: 0x1005, len: 11 },
    ];
    play(&mixed_memory(&layout), &layout, &ops, Op::run);
    play(&list_memory(&layout), &layout, &ops, Op::run);
}
