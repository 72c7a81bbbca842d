//! Random operations on random segments over random memory, compared with a plain list of bytes: every answer, every error,
//! every byte, every dirty mark, and how far it came.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use memory_model::buffers::{GuestBuffers, Reader, Segment, Writer};
use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, DataInit, GuestMemory, GuestMemoryRegion, GuestRegionCollection, Le16, Le32, Le64, MemoryRegionAddress,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{Device, Marks, Slow, memory, segment};
use crate::model::{Contents, End, Model};

/// How many addresses the random regions and segments are about.
const SPACE: u64 = 300;

#[derive(Clone, Debug)]
enum Op {
    Slice(usize),
    Some(usize),
    Object(u8),
    /// A stream of so many bytes that fails at its end, or ends there.
    Stream(u64, usize, bool),
    Fill(u64),
    Skip(u64),
    Split(u64, bool),
    Buffers(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..60_usize).prop_map(Op::Slice),
        2 => (0..60_usize).prop_map(Op::Some),
        3 => (0..5_u8).prop_map(Op::Object),
        3 => (0..60_u64, 0..60_usize, any::<bool>()).prop_map(|(count, len, fails)| Op::Stream(count, len, fails)),
        2 => (0..60_u64).prop_map(Op::Fill),
        2 => (0..40_u64).prop_map(Op::Skip),
        1 => (0..100_u64, any::<bool>()).prop_map(|(mid, second)| Op::Split(mid, second)),
        3 => (0..60_u64).prop_map(Op::Buffers),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    /// Regions, each with its address and length: some touch, between others are holes.
    spans: Vec<(u64, usize)>,
    segments: Vec<Segment>,
    ops: Vec<Op>,
}

/// At the start of the address space, in the middle, or up to its last byte.
fn case() -> impl Strategy<Value = Case> {
    let base = prop_oneof![Just(0), Just(0x7000_0000), Just(u64::MAX - (SPACE - 1))];
    let gap = prop_oneof![2 => Just(0_u64), 1 => 1..20_u64];
    let spans = vec((gap, 1..100_usize), 1..8);
    let place = (0..SPACE + 10, prop_oneof![1 => Just(0_u32), 9 => 1..60_u32]);
    (base, spans, vec(place, 0..12), vec(op(), 1..30)).prop_map(|(base, spans, places, ops)| {
        let mut next = 0;
        let mut regions = vec![];
        for (gap, len) in spans {
            let start = next + gap;
            let len = len.min(usize::try_from(SPACE.saturating_sub(start)).unwrap());
            if len > 0 {
                regions.push((base + start, len));
            }
            next = start + len as u64;
        }
        let segments = places.into_iter().map(|(offset, len)| segment(base.saturating_add(offset), len)).collect();
        Case { spans: regions, segments, ops }
    })
}

/// Thousands of sequences, unless the environment says how many.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 1000 }, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_reader_of_mapped_memory(case in case()) {
        reads(&memory(&case.spans), &case, true);
    }

    #[test]
    fn a_reader_of_memory_without_host_addresses(case in case()) {
        reads(&devices(&case.spans), &case, false);
    }

    #[test]
    fn a_writer_of_mapped_memory(case in case()) {
        let mem = memory(&case.spans);
        let marks = Marks::of(&mem);
        let written = writes(&mem, &case, true);
        // A stream that fails, or is interrupted, may have written anything that it was given.
        let marked = marks.take();
        prop_assert!(written.is_subset(&marked), "written, and not marked");
        let streams = case.ops.iter().any(|op| matches!(op, Op::Stream(..)));
        prop_assert!(streams || written == marked, "marked, and not written");
    }

    #[test]
    fn a_writer_of_memory_without_host_addresses(case in case()) {
        writes(&devices(&case.spans), &case, false);
    }
}

fn devices(spans: &[(u64, usize)]) -> GuestRegionCollection<Device> {
    GuestRegionCollection::from_regions(spans.iter().map(|&(start, len)| Device::new(start, len)).collect()).unwrap()
}

/// All bytes.
fn contents(mem: &impl GuestMemory) -> Contents {
    let mut all = Contents::new();
    for region in mem.regions() {
        let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
        region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
        all.extend((region.start_addr().0..=u64::MAX).zip(bytes));
    }
    all
}

/// Some bytes that follow each other.
fn fresh(seed: &mut u8, count: usize) -> Vec<u8> {
    let next = |_| {
        *seed = seed.wrapping_add(1);
        *seed
    };
    (0..count).map(next).collect()
}

/// What an access answers, beside what was predicted.
fn check<T>(result: Result<T, Error>, end: Option<&End>, op: &Op) -> Option<T> {
    match result {
        Ok(value) => {
            assert_eq!(end, None, "{op:?} succeeds");
            Some(value)
        }
        Err(error) => {
            assert_eq!(Some(&End::from(error)), end, "{op:?}");
            None
        }
    }
}

/// Whether buffers are as predicted: there, if all bytes are in memory, at `whole`, and have host addresses.
fn check_buffers(result: &Result<GuestBuffers<'_>, Error>, whole: Option<&Vec<u64>>, has_host: bool) {
    match result {
        Ok(buffers) => {
            let len = whole.map(Vec::len).expect("only if all is there");
            assert!(buffers.len() == len && (has_host || len == 0));
        }
        Err(Error::NoHostMemory(_)) => assert!(!has_host),
        Err(error) => assert!(whole.is_none(), "{error}"),
    }
}

fn read_object<M: GuestMemory>(reader: &mut Reader<'_, M>, kind: u8) -> Result<Vec<u8>, Error> {
    match kind {
        0 => reader.read_obj::<u8>().map(|value| vec![value]),
        1 => reader.read_obj::<u16>().map(|value| value.as_slice().to_vec()),
        2 => reader.read_obj::<u32>().map(|value| value.as_slice().to_vec()),
        3 => reader.read_obj::<u64>().map(|value| value.as_slice().to_vec()),
        _ => reader.read_obj::<[u8; 24]>().map(|value| value.to_vec()),
    }
}

fn write_object<M: GuestMemory>(writer: &mut Writer<'_, M>, kind: u8, bytes: &[u8]) -> Result<(), Error> {
    let byte = |index: usize| bytes[index];
    match kind {
        0 => writer.write_obj(bytes[0]),
        1 => writer.write_obj(Le16::new(u16::from_le_bytes(std::array::from_fn(byte)))),
        2 => writer.write_obj(Le32::new(u32::from_le_bytes(std::array::from_fn(byte)))),
        3 => writer.write_obj(Le64::new(u64::from_le_bytes(std::array::from_fn(byte)))),
        _ => writer.write_obj::<[u8; 24]>(std::array::from_fn(byte)),
    }
}

/// The size of a value, in bytes.
fn sized(kind: u8) -> u64 {
    if kind > 3 { 24 } else { 1 << kind }
}

/// Plays a case on a reader.
#[expect(clippy::too_many_lines, reason = "an arm for each operation")]
fn reads<M: GuestMemory>(mem: &M, case: &Case, has_host: bool) {
    let mut seed = 0;
    for region in mem.regions() {
        let bytes = fresh(&mut seed, usize::try_from(region.len()).unwrap());
        region.write_slice(&bytes, MemoryRegionAddress(0)).unwrap();
    }
    let all = contents(mem);
    let values = |places: &[u64]| places.iter().map(|at| all[at]).collect::<Vec<_>>();
    let (mut model, mut reader) = (Model::new(&case.segments), Reader::new(mem, &case.segments));
    for op in &case.ops {
        match *op {
            Op::Slice(len) => {
                let (moved, end) = model.exact(&all, len as u64);
                let mut buf = vec![0; len];
                check(reader.read_slice(&mut buf), end.as_ref(), op);
                assert_eq!(buf[..moved.len()], values(&moved));
            }
            Op::Some(len) => {
                let mut buf = vec![0; len];
                let read = reader.read(&mut buf).ok();
                assert_eq!(read.map(|count| buf[..count].to_vec()), model.some(&all, len).as_deref().map(values));
            }
            Op::Object(kind) => {
                let (moved, end) = model.exact(&all, sized(kind));
                if let Some(read) = check(read_object(&mut reader, kind), end.as_ref(), op) {
                    assert_eq!(read, values(&moved));
                }
            }
            Op::Stream(count, len, fails) => {
                let (moved, end) = model.stream(&all, count, len, fails);
                let mut sink = Slow::new(vec![0; len], fails);
                check(reader.read_all_into(&mut sink, count), end.as_ref(), op);
                assert_eq!(sink.moved(), values(&moved));
            }
            Op::Fill(count) | Op::Skip(count) => {
                let end = model.skip(count);
                check(reader.skip(count), end.as_ref(), op);
            }
            Op::Split(mid, second) if mid <= model.remaining() => {
                let (first, rest) = reader.split_at(mid).unwrap();
                assert_eq!((rest.bytes_read(), first.remaining()), (0, mid));
                reader = if second { rest } else { first };
                model.split(mid, second);
            }
            Op::Split(mid, _) => {
                let whole = Reader::new(mem, &case.segments);
                let (mid, len) = (whole.remaining() + 1 + mid, whole.remaining());
                check(whole.split_at(mid), Some(&End::Outside { offset: mid, len }), op);
            }
            Op::Buffers(count) => {
                let before = (reader.bytes_read(), reader.remaining());
                let (mut then, buffers) = (model.clone(), reader.buffers(count));
                let whole = then.whole(&all, count);
                check_buffers(&buffers, whole.as_ref(), has_host);
                if let (Ok(buffers), Some(moved)) = (buffers, whole) {
                    let mut buf = vec![0; moved.len()];
                    buffers.read_slice(&mut buf, 0).unwrap();
                    assert_eq!(buf, values(&moved));
                    model = then;
                } else {
                    assert_eq!((reader.bytes_read(), reader.remaining()), before);
                }
            }
        }
        assert_eq!((reader.bytes_read(), reader.remaining()), (model.done(), model.remaining()), "after {op:?}");
    }
}

/// Plays a case on a writer, and answers where it has written.
#[expect(clippy::too_many_lines, reason = "an arm for each operation")]
fn writes<M: GuestMemory>(mem: &M, case: &Case, has_host: bool) -> BTreeSet<u64> {
    let there = contents(mem);
    let mut all = there.clone();
    let (mut seed, mut written) = (0, BTreeSet::new());
    let (mut model, mut writer) = (Model::new(&case.segments), Writer::new(mem, &case.segments));
    for op in &case.ops {
        let mut wrote = |places: Vec<u64>, bytes: &[u8]| {
            written.extend(places.iter().copied());
            all.extend(places.into_iter().zip(bytes.iter().copied()));
        };
        match *op {
            Op::Slice(len) => {
                let ((moved, end), buf) = (model.exact(&there, len as u64), fresh(&mut seed, len));
                check(writer.write_slice(&buf), end.as_ref(), op);
                wrote(moved, &buf);
            }
            Op::Some(len) => {
                let (moved, buf) = (model.some(&there, len), fresh(&mut seed, len));
                assert_eq!(writer.write(&buf).ok(), moved.as_deref().map(<[u64]>::len));
                wrote(moved.unwrap_or_default(), &buf);
            }
            Op::Object(kind) => {
                let ((moved, end), buf) = (model.exact(&there, sized(kind)), fresh(&mut seed, 24));
                check(write_object(&mut writer, kind, &buf), end.as_ref(), op);
                wrote(moved, &buf);
            }
            Op::Stream(count, len, fails) => {
                let (moved, end) = model.stream(&there, count, len, fails);
                let mut source = Slow::new(fresh(&mut seed, len), fails);
                check(writer.write_all_from(&mut source, count), end.as_ref(), op);
                assert_eq!(source.moved().len(), moved.len(), "nothing that was taken is lost");
                wrote(moved, &source.bytes);
            }
            Op::Fill(count) | Op::Skip(count) => {
                let (moved, end) = model.exact(&there, count);
                check(writer.fill(0xf1, count), end.as_ref(), op);
                wrote(moved, &[0xf1; 60]);
            }
            Op::Split(mid, second) if mid <= model.remaining() => {
                let (first, rest) = writer.split_at(mid).unwrap();
                assert_eq!((rest.bytes_written(), first.remaining()), (0, mid));
                writer = if second { rest } else { first };
                model.split(mid, second);
            }
            Op::Split(mid, _) => {
                let whole = Writer::new(mem, &case.segments);
                let (mid, len) = (whole.remaining() + 1 + mid, whole.remaining());
                check(whole.split_at(mid), Some(&End::Outside { offset: mid, len }), op);
            }
            Op::Buffers(count) => {
                let (mut then, buffers) = (model.clone(), writer.buffers(count));
                let whole = then.whole(&there, count);
                check_buffers(&buffers, whole.as_ref(), has_host);
                if let (Ok(buffers), Some(moved)) = (buffers, whole) {
                    let buf = fresh(&mut seed, moved.len());
                    buffers.write_slice(&buf, 0).unwrap();
                    wrote(moved, &buf);
                    model = then;
                }
            }
        }
        assert_eq!((writer.bytes_written(), writer.remaining()), (model.done(), model.remaining()), "after {op:?}");
    }
    assert_eq!(contents(mem), all);
    written
}
