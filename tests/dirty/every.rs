//! Each operation marks the bytes that it wrote, and no other: through all that wraps memory, with each kind of bitmap
//! attached, and with a log whose pages are clean or dirty already.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst};

use memory_model::dirty::{DirtyBitmap, Sink};
use memory_model::guest_memory::Error;
use memory_model::{
    Address, AtomicAccess, Bytes, DataInit, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, IoAddress,
    Le32, MemoryRegionAddress, ReadVolatile, VolatileSlice,
};

use crate::ground::{Bits, completed, joined, memory};

/// Two regions that touch, of which the first has three pages; then a hole, then a third.
fn ground() -> GuestMemoryMmap {
    memory(&[(0x1000, 0x3000), (0x4000, 0x2000), (0x7000, 0x1000)])
}

/// The bytes of some pieces: sorted, and those that touch are one.
fn bytes(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let wide = |&(start, len): &(u64, u64)| u128::from(start)..u128::from(start) + u128::from(len);
    joined(pieces.iter().map(wide).collect()).iter().map(|range| (range.start, range.len)).collect()
}

/// The pages with any of these bytes.
fn pages(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let whole =
        |&(start, len): &(u64, u64)| (start & !0xfff, ((start + len).div_ceil(0x1000) << 12) - (start & !0xfff));
    bytes(&pieces.iter().filter(|(_, len)| *len > 0).map(whole).collect::<Vec<_>>())
}

/// What an operation is called, the operation, and the bytes that it writes, as starts and lengths.
type Check<'a> = &'a mut dyn FnMut(&str, &dyn Fn(), &[(u64, u64)]);

/// Does all of `ops` on memory under bitmaps of all kinds, and checks what is marked.
fn check(mem: &GuestMemoryMmap, what: &str, ops: &dyn Fn(Check<'_>)) {
    let bits = Bits::new(mem, 0x1000);
    ops(&mut |name, op, expected| {
        op();
        assert_eq!(bits.take(), bytes(expected), "{what}: {name}");
    });
    let log = mem.start_tracking(0x1000).unwrap();
    let take = || {
        let harvest = log.harvest();
        let found: Vec<_> = harvest.ranges().map(|range| (range.start, range.len)).collect();
        harvest.commit();
        found
    };
    ops(&mut |name, op, expected| {
        op();
        assert_eq!((bits.take(), take()), (bytes(expected), pages(expected)), "{what}, both: {name}");
    });
    drop(bits);
    ops(&mut |name, op, expected| {
        op();
        op(); // finds the pages dirty
        assert_eq!(take(), pages(expected), "{what}, log: {name}");
        op();
        assert_eq!(take(), pages(expected), "{what}, log again: {name}");
    });
}

/// What `Bytes` does from `start` up to `end`, where there is no more memory.
fn each<A: Address, M: Bytes<A, E = Error>>(
    mem: &M,
    at: impl Fn(u64) -> A,
    (start, end): (u64, u64),
    check: Check<'_>,
) {
    let starts = [0, 1, 0x1ffc, 0x2000, 0x3ffd, 0x4000].into_iter().chain([end - 40, end - 5, end - 1]);
    for s in starts.filter(|s| (start..end).contains(s)).chain([start, start + 3]) {
        for len in [0, 1, 2, 5, 8, 40, 300, 0x1001] {
            let (data, done) = (vec![7; len], (len as u64).min(end - s));
            let expected = [(s, done)];
            let whole = done == len as u64;
            let exact = |result: Result<(), Error>| {
                if whole {
                    result.unwrap();
                } else {
                    assert_eq!(completed(result) as u64, done);
                }
            };
            check(
                &format!("write {len} at {s:#x}"),
                &|| assert_eq!(mem.write(&data, at(s)).unwrap() as u64, done),
                &expected,
            );
            check(&format!("write_slice {len} at {s:#x}"), &|| exact(mem.write_slice(&data, at(s))), &expected);
            check("fill", &|| exact(mem.fill(3, len, at(s))), &expected);
            check(
                "write_from",
                &|| assert_eq!(mem.write_from(at(s), &mut &data[..], len).unwrap() as u64, done),
                &expected,
            );
            check("write_all_from", &|| exact(mem.write_all_from(at(s), &mut &data[..], len)), &expected);
            // Reads.
            let mut buf = data.clone();
            assert_eq!(mem.read(&mut buf, at(s)).unwrap() as u64, done);
            exact(mem.read_slice(&mut buf, at(s)));
            check("reads", &|| exact(mem.read_slice(&mut data.clone(), at(s))), &[]);
            check("read", &|| assert!(mem.read(&mut data.clone(), at(s)).is_ok()), &[]);
            check("read_into", &|| assert!(mem.read_into(at(s), &mut Vec::new(), len).is_ok()), &[]);
            check("read_all_into", &|| exact(mem.read_all_into(at(s), &mut Vec::new(), len)), &[]);
        }
        objects::<A, M>(mem, &at, s, end, check);
    }
    for s in (0..4)
        .map(|i| start + 8 + 8 * i)
        .chain([start + 0xff0, start + 0x1000, start + 0x1ff8])
        .filter(|s| (start..end).contains(s))
    {
        atomics::<A, M, u8>(mem, at(s), s, 9, check);
        atomics::<A, M, u16>(mem, at(s), s, 9, check);
        atomics::<A, M, u32>(mem, at(s), s, 9, check);
        atomics::<A, M, u64>(mem, at(s), s, 9, check);
        atomics::<A, M, Le32>(mem, at(s), s, Le32::from(9), check);
    }
    check("a store that is not aligned", &|| drop(mem.store(1_u32, at(start + 1), Release).unwrap_err()), &[]);
    let swap = || drop(mem.compare_exchange(0_u32, 1, at(start + 1), SeqCst, Relaxed).unwrap_err());
    check("a compare_exchange that is not aligned", &swap, &[]);
    let outside = at(end);
    check("write outside", &|| drop(mem.write(&[1], outside).unwrap_err()), &[]);
    check("write_slice outside", &|| drop(mem.write_slice(&[1], outside).unwrap_err()), &[]);
    check("write_obj outside", &|| drop(mem.write_obj(1_u64, outside).unwrap_err()), &[]);
    check("fill outside", &|| drop(mem.fill(1, 9, outside).unwrap_err()), &[]);
    check("store outside", &|| drop(mem.store(1_u8, outside, SeqCst).unwrap_err()), &[]);
    sources(mem, &at, start + 0x10, check);
}

fn objects<A: Address, M: Bytes<A, E = Error>>(mem: &M, at: &impl Fn(u64) -> A, s: u64, end: u64, check: Check<'_>) {
    fn one<A: Address, M: Bytes<A, E = Error>, T: DataInit>(
        mem: &M,
        at: A,
        value: T,
        s: u64,
        end: u64,
        check: Check<'_>,
    ) {
        let (len, done) = (size_of::<T>() as u64, (size_of::<T>() as u64).min(end - s));
        let write = || match mem.write_obj(value, at) {
            Ok(()) => assert_eq!(done, len),
            error => assert_eq!(completed(error) as u64, done),
        };
        check(&format!("write_obj of {len} bytes"), &write, &[(s, done)]);
        check(&format!("read_obj of {len} bytes"), &|| assert_eq!(mem.read_obj::<T>(at).is_ok(), done == len), &[]);
    }
    one(mem, at(s), 1_u8, s, end, check);
    one(mem, at(s), 1_u16, s, end, check);
    one(mem, at(s), 1_u32, s, end, check);
    one(mem, at(s), 1_u64, s, end, check);
    one(mem, at(s), 1_u128, s, end, check);
    one(mem, at(s), [1_u8; 3], s, end, check);
    one(mem, at(s), [1_u8; 33], s, end, check);
    one(mem, at(s), [1_u64; 65], s, end, check);
    one(mem, at(s), [0_u8; 0], s, end, check);
}

fn atomics<A: Address, M: Bytes<A, E = Error>, T: AtomicAccess + PartialEq + std::fmt::Debug>(
    mem: &M,
    at: A,
    s: u64,
    nine: T,
    check: Check<'_>,
) {
    let len = size_of::<T>() as u64;
    check("store", &|| mem.store(nine, at, Release).unwrap(), &[(s, len)]);
    check("load", &|| assert_eq!(mem.load::<T>(at, SeqCst).unwrap(), nine), &[]);
    let swap = || assert_eq!(mem.compare_exchange(nine, nine, at, AcqRel, Relaxed).unwrap(), Ok(nine));
    check("compare_exchange", &swap, &[(s, len)]);
    let other: T = T::zeroed();
    let fail = || assert_eq!(mem.compare_exchange(other, other, at, AcqRel, Relaxed).unwrap(), Err(nine));
    check("compare_exchange that fails", &fail, &[]);
}

/// A source that gives so many bytes, in steps of 5, and then does that.
struct Source {
    left: usize,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    End,
    Interrupt,
    Fail,
    Lie,
    Panic,
}

impl ReadVolatile for Source {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        if self.left > 0 {
            let len = self.left.min(5).min(buf.len());
            self.left -= len;
            buf.fill(1, len, 0).unwrap();
            return Ok(len);
        }
        // Who fails may have written before.
        buf.fill(2, buf.len().min(3), 0).unwrap();
        match self.then {
            Then::End => Ok(0),
            Then::Interrupt => {
                self.then = Then::End;
                Err(io::ErrorKind::Interrupted.into())
            }
            Then::Fail => Err(io::ErrorKind::ConnectionReset.into()),
            Then::Lie => Ok(buf.len() + 1),
            Then::Panic => std::panic::resume_unwind(Box::new("a source")),
        }
    }
}

/// Sources that end before enough has come, of which some may have written what they do not account for.
fn sources<A: Address, M: Bytes<A, E = Error>>(mem: &M, at: &impl Fn(u64) -> A, s: u64, check: Check<'_>) {
    for (left, then) in [0, 1, 5, 17]
        .into_iter()
        .flat_map(|left| [Then::End, Then::Interrupt, Then::Fail, Then::Lie, Then::Panic].map(move |then| (left, then)))
    {
        // It may use all that it is given.
        let reach = 64_u64;
        let all = || {
            let fill = || mem.write_all_from(at(s), &mut Source { left, then }, 64).is_err();
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fill)).unwrap_or(true));
        };
        check(&format!("write_all_from {left} bytes, {then:?}"), &all, &[(s, reach)]);
        let some = || {
            let read = || mem.write_from(at(s), &mut Source { left, then }, 64).ok();
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).ok().flatten();
            assert_eq!(read.is_some(), left > 0 || matches!(then, Then::End), "{left} bytes, {then:?}");
        };
        check(&format!("write_from {left} bytes, {then:?}"), &some, &[(s, reach)]);
    }
}

#[test]
fn a_memory() {
    let mem = ground();
    check(&mem, "memory", &|check| each(&mem, GuestAddress, (0x1000, 0x6000), check));
}

#[test]
fn a_memory_behind_pointers() {
    let mem = ground();
    let shared = Arc::new(mem.clone());
    check(&mem, "&memory", &|check| each(&&mem, GuestAddress, (0x1000, 0x6000), check));
    check(&mem, "Arc", &|check| each(&shared, GuestAddress, (0x1000, 0x6000), check));
    check(&mem, "Box", &|check| each(&Box::new(mem.clone()), GuestAddress, (0x1000, 0x6000), check));
}

#[test]
fn a_memory_as_a_device_sees_it() {
    let mem = ground();
    check(&mem, "IoMemory", &|check| each(&mem, IoAddress, (0x1000, 0x6000), check));
    check(&mem, "Arc<IoMemory>", &|check| each(&Arc::new(mem.clone()), IoAddress, (0x1000, 0x6000), check));
}

#[test]
fn a_region() {
    let mem = ground();
    let region = mem.find_region(GuestAddress(0x1000)).unwrap();
    check(&mem, "region", &|check| each(region, GuestAddress, (0x1000, 0x4000), check));
    let offset = |addr| MemoryRegionAddress(addr - 0x1000);
    check(&mem, "region by offset", &|check| each(region, offset, (0x1000, 0x4000), check));
}

/// Of a region that begins in the middle of a page: the pages of a log are counted from there.
#[test]
fn a_region_that_begins_anywhere() {
    let mem = memory(&[(0x1000, 0x10), (0x1234, 0x2004)]);
    let bits = Bits::new(&mem, 0x1000);
    each(&mem, GuestAddress, (0x1234, 0x3238), &mut |name, op, expected| {
        op();
        assert_eq!(bits.take(), bytes(expected), "{name}");
    });
}

#[test]
fn slices_that_were_made_before() {
    let mem = ground();
    let slice = mem.get_slice(GuestAddress(0x1108), 0x2df8).unwrap();
    let offset = |addr: u64| usize::try_from(addr - 0x1108).unwrap();
    check(&mem, "slice", &|check| each(&slice, offset, (0x1108, 0x3f00), check));
    let part = slice.subslice(8, 0x1000).unwrap();
    let offset = |addr: u64| usize::try_from(addr - 0x1110).unwrap();
    check(&mem, "part of a slice", &|check| each(&part, offset, (0x1110, 0x2110), check));
    let slices: Vec<_> = mem.get_slices(GuestAddress(0x1000), 0x5000).map(Result::unwrap).collect();
    let offset = |addr: u64| usize::try_from(addr - 0x4000).unwrap();
    check(&mem, "second of some slices", &|check| each(&slices[1], offset, (0x4000, 0x6000), check));
}

#[test]
fn what_only_slices_do() {
    let mem = ground();
    let slice = |at, len| mem.get_slice(GuestAddress(at), len).unwrap();
    let (low, high) = (slice(0x1000, 0x3000), slice(0x4000, 0x2000));
    check(&mem, "slices", &|check| {
        check("fetch_or", &|| assert!(low.fetch_or(1_u8, 0x1001, SeqCst).is_ok()), &[(0x2001, 1)]);
        check("fetch_or", &|| assert!(low.fetch_or(1_u64, 0x1008, Relaxed).is_ok()), &[(0x2008, 8)]);
        check("fetch_or outside", &|| assert!(low.fetch_or(1_u64, 0x3000, Relaxed).is_err()), &[]);
        check("fetch_or unaligned", &|| assert!(low.fetch_or(1_u64, 3, Relaxed).is_err()), &[]);
        let copy = || assert_eq!(low.copy_to_guest_slice(high).unwrap(), 0x2000);
        check("copy of a longer one", &copy, &[(0x4000, 0x2000)]);
        check("copy of a shorter one", &|| assert!(high.copy_to_guest_slice(low).is_ok()), &[(0x1000, 0x2000)]);
        let (a, b) = (slice(0x1ff0, 0x40), slice(0x2000, 0x40));
        check("copy upwards", &|| assert!(b.copy_to_guest_slice(a).is_ok()), &[(0x1ff0, 0x40)]);
        check("copy downwards", &|| assert!(a.copy_to_guest_slice(b).is_ok()), &[(0x2000, 0x40)]);
        check("copy to itself", &|| assert!(a.copy_to_guest_slice(a).is_ok()), &[(0x1ff0, 0x40)]);
        check("is_zero", &|| assert!(low.is_zero().is_ok()), &[]);
        check("as_ptr", &|| assert!(!low.as_ptr().is_null()), &[]);
    });
}

#[test]
fn copies_inside_the_guest() {
    let mem = ground();
    let copy = |src, dst, len| mem.copy(GuestAddress(src), GuestAddress(dst), len);
    check(&mem, "copy", &|check| {
        check("nothing", &|| copy(0x1000, 0x2000, 0).unwrap(), &[]);
        check("in a region", &|| copy(0x1000, 0x2001, 0x800).unwrap(), &[(0x2001, 0x800)]);
        check("over a seam", &|| copy(0x1000, 0x3ff0, 0x20).unwrap(), &[(0x3ff0, 0x20)]);
        check("from over a seam", &|| copy(0x3ff0, 0x1100, 0x20).unwrap(), &[(0x1100, 0x20)]);
        check("downwards over a seam", &|| copy(0x3e00, 0x3f00, 0x200).unwrap(), &[(0x3f00, 0x200)]);
        check("upwards over a seam", &|| copy(0x3f00, 0x3e00, 0x300).unwrap(), &[(0x3e00, 0x300)]);
        check("to a hole", &|| assert_eq!(completed(copy(0x1000, 0x5ff0, 0x20)), 0x10), &[(0x5ff0, 0x10)]);
        check("from a hole", &|| assert_eq!(completed(copy(0x5ff0, 0x1000, 0x20)), 0x10), &[(0x1000, 0x10)]);
        check("in a hole", &|| assert_eq!(completed(copy(0x1000, 0x6000, 0x20)), 0), &[]);
        check("out of a hole", &|| assert_eq!(completed(copy(0x6000, 0x1000, 0x20)), 0), &[]);
        check("eight bytes", &|| copy(0x1000, 0x2000, 8).unwrap(), &[(0x2000, 8)]);
    });
}

#[test]
fn what_is_given_back_is_dirty() {
    let (host, mem) = (rustix::param::page_size() as u64, &memory(&[(0x1_0000, 0x4_0000), (0x5_0000, 0x4_0000)]));
    let (bits, log) = (Bits::new(mem, 0x1_0000), mem.start_tracking(0x1000).unwrap());
    let found = || {
        let harvest = log.harvest();
        let ranges: Vec<_> = harvest.ranges().map(|range| (range.start, range.len)).collect();
        harvest.commit();
        assert_eq!(bits.take(), ranges);
        ranges
    };
    mem.fill(7, 0x8_0000, GuestAddress(0x1_0000)).unwrap();
    assert_eq!(found(), [(0x1_0000, 0x8_0000)]);
    assert_eq!(mem.discard(GuestAddress(0x1_0001), 0x4_0000).unwrap(), 0x4_0000 - host);
    assert_eq!(found(), [(0x1_0000 + host, 0x4_0000 - host)]);
    assert_eq!(mem.discard(GuestAddress(0x1_0001), host).unwrap(), 0);
    assert_eq!(found(), []);
    let region = mem.find_region(GuestAddress(0x5_0000)).unwrap();
    assert_eq!(region.discard(MemoryRegionAddress(0x2_0000), 0x2_0000).unwrap(), 0x2_0000);
    assert_eq!(found(), [(0x7_0000, 0x2_0000)]);
    // All parts of a host's page, in any order.
    let numbers = (0..0x10_u64).rev().map(|part| 0x30 + part);
    assert_eq!(mem.discard_pages(numbers, 0x1000).unwrap(), 0x1_0000);
    assert_eq!(found(), [(0x3_0000, 0x1_0000)]);
    let ranges = [(GuestAddress(0x8_0000), 0x1_0000), (GuestAddress(0x1_0000), 0x1_0000)];
    assert_eq!(mem.discard_ranges(ranges).unwrap(), 0x2_0000);
    assert_eq!(found(), [(0x1_0000, 0x1_0000), (0x8_0000, 0x1_0000)]);
    assert!(mem.discard(GuestAddress(0x8_0000), 0x2_0000).is_err(), "a hole");
    assert_eq!(found(), []);
}

#[test]
fn looking_at_memory_marks_nothing() {
    let mem = ground();
    let log = mem.start_tracking(0x1000).unwrap();
    let bits = Bits::new(&mem, 0x1000);
    assert!(mem.check_range(GuestAddress(0x1000), 0x5000));
    assert!(mem.get_host_address(GuestAddress(0x1000)).is_ok());
    assert_eq!(mem.get_slices(GuestAddress(0x1000), 0x5000).count(), 2);
    let region = mem.find_region(GuestAddress(0x7000)).unwrap();
    assert!(region.get_host_address(MemoryRegionAddress(0)).is_ok());
    assert!(log.harvest().is_empty() && bits.take().is_empty());
}

/// A bitmap of the caller's own may be of a window of memory: what lies beside it is left out.
#[test]
fn a_bitmap_of_a_part_of_memory() {
    let mem = ground();
    let bitmap = Arc::new(DirtyBitmap::new(0x1000, 1).unwrap());
    let tracker = mem.find_region(GuestAddress(0x1000)).unwrap().tracker().unwrap();
    let sink = Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0x1800 };
    tracker.attach(sink.clone());
    let marked = |start, len| {
        mem.fill(1, len, GuestAddress(start)).unwrap();
        let harvest = bitmap.harvest();
        let found: Vec<_> = harvest.ranges().map(|range| (range.start, range.len)).collect();
        harvest.commit();
        found
    };
    assert_eq!(marked(0x1000, 0x100), []);
    assert_eq!(marked(0x1700, 0x100), []);
    assert_eq!(marked(0x1700, 0x101), [(0, 1)]);
    assert_eq!(marked(0x1900, 0x10), [(0x100, 0x10)]);
    assert_eq!(marked(0x27f0, 0x100), [(0xff0, 0x10)]);
    assert_eq!(marked(0x2800, 0x100), []);
    assert_eq!(marked(0x1000, 0x3000), [(0, 0x1000)]);
    // The same bitmap is detached, whatever its base is said to be.
    tracker.detach(&Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0 });
    assert_eq!(marked(0x1000, 0x3000), []);
    assert_eq!(Arc::strong_count(&bitmap), 2, "of the sink here, and this");
    drop(sink);
}
