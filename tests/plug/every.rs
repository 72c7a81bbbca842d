//! Every operation, by position: whatever the addresses and the wrapper are, and whenever they were made.

use std::fmt::Debug;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use memory_model::guest_memory::Error;
use memory_model::stream::FileAt;
use memory_model::{
    Address, AtomicAccess, Bytes, DataInit, GuestMemory, GuestMemoryAtomic, IoAddress, IoMemory, Le64,
    MemoryRegionAddress, ReadVolatile,
};

use crate::ground::{
    BASE, Guest, PAGES, UNPLUGGED, at, check_exact, check_some, data, fault, good, page, pages, pattern, recovers,
};

/// Memory that a test accesses by position.
struct View<'a, M, At> {
    name: &'a str,
    guest: &'a Guest,
    mem: &'a M,
    /// The address of a position.
    at: At,
    /// The positions that it has.
    has: Range<usize>,
}

impl<M, At, A: Address> View<'_, M, At>
where
    M: Bytes<A, E = Error>,
    At: Fn(usize) -> A,
{
    /// Accesses what is unplugged, and what lies beside it, in every way.
    fn check(&self) {
        let page = page();
        let edges = UNPLUGGED.into_iter().flat_map(|number| [number * page, (number + 1) * page]);
        for edge in edges {
            for start in [1, 8, 40].map(|before| edge - before).into_iter().chain([edge, edge + 24]) {
                for len in [1, 8, 33, page + 24] {
                    self.check_runs(start, len);
                }
                self.check_value::<u8>(start);
                self.check_value::<u64>(start);
                self.check_value::<u128>(start);
                self.check_value::<Le64>(start);
                self.check_value::<[u8; 3]>(start);
                self.check_value::<[u8; 40]>(start);
            }
            for start in [edge - 16, edge - 8, edge, edge + 8] {
                self.check_atomic::<u8>(start);
                self.check_atomic::<u16>(start);
                self.check_atomic::<u32>(start);
                self.check_atomic::<u64>(start);
            }
        }
        self.guest.check(0, &[], self.name);
    }

    fn has(&self, start: usize, len: usize) -> bool {
        self.has.contains(&start) && start + len <= self.has.end
    }

    /// Checks what was written, and what is marked.
    fn check_written(&self, start: usize, done: usize, what: &str) {
        self.guest.check_marked(start, done, what);
        self.guest.check(start, &data(done), what);
        self.guest.track();
    }

    fn check_runs(&self, start: usize, len: usize) {
        if !self.has(start, len) {
            return;
        }
        let (at, done, what) = (|| (self.at)(start), good(start, len), format!("{}: {len} at {start:#x}", self.name));
        self.guest.track();
        check_some(self.mem.write(&data(len), at()), start, len, &what);
        self.check_written(start, done, &what);
        check_exact(self.mem.write_slice(&data(len), at()), start, len, &what);
        self.check_written(start, done, &what);
        check_exact(self.mem.fill(0xff, len, at()), start, len, &what);
        self.guest.check(start, &vec![0xff; done], &what);
        self.guest.track();
        let mut buf = vec![0; len];
        check_some(self.mem.read(&mut buf, at()), start, len, &what);
        assert!(buf[..done] == pattern(start..start + done) && buf[done..].iter().all(|&byte| byte == 0), "{what}");
        buf.fill(0);
        check_exact(self.mem.read_slice(&mut buf, at()), start, len, &what);
        assert!(buf[..done] == pattern(start..start + done) && buf[done..].iter().all(|&byte| byte == 0), "{what}");
        self.check_streams(start, len, &what);
    }

    /// To and from a file, by its cursor and by position, and bytes of this process.
    fn check_streams(&self, start: usize, len: usize, what: &str) {
        let file = file(&data(len));
        self.check_source(start, len, what, || {
            (&file).rewind().unwrap();
            &file
        });
        self.check_source(start, len, what, || FileAt::new(&file, 0));
        let bytes = data(len);
        self.check_source(start, len, what, || &bytes[..]);
        let sink = || {
            file.set_len(0).unwrap();
            (&file).rewind().unwrap();
        };
        let check_sink = |done: usize| {
            let mut bytes = Vec::new();
            (&file).rewind().unwrap();
            (&file).read_to_end(&mut bytes).unwrap();
            assert!(bytes == pattern(start..start + done), "{what}: what came to the file");
        };
        let done = good(start, len);
        sink();
        check_some(self.mem.read_into((self.at)(start), &mut &file, len), start, len, what);
        check_sink(done);
        sink();
        check_exact(self.mem.read_all_into((self.at)(start), &mut FileAt::new(&file, 0), len), start, len, what);
        check_sink(done);
    }

    fn check_source<S: ReadVolatile>(&self, start: usize, len: usize, what: &str, mut source: impl FnMut() -> S) {
        let (at, done) = (|| (self.at)(start), good(start, len));
        self.guest.track();
        check_some(self.mem.write_from(at(), &mut source(), len), start, len, what);
        self.guest.check(start, &data(done), what);
        check_exact(self.mem.write_all_from(at(), &mut source(), len), start, len, what);
        self.guest.check(start, &data(done), what);
        self.guest.track();
    }

    fn check_value<T: DataInit + PartialEq + Debug>(&self, start: usize) {
        let (at, len) = (|| (self.at)(start), size_of::<T>());
        if !self.has(start, len) {
            return;
        }
        let what = format!("{}: a value of {len} at {start:#x}", self.name);
        self.guest.track();
        check_exact(self.mem.write_obj(value::<T>(&data(len)), at()), start, len, &what);
        self.check_written(start, good(start, len), &what);
        if let Some(read) = check_exact(self.mem.read_obj::<T>(at()), start, len, &what) {
            assert_eq!(read, value(&pattern(start..start + len)), "{what}");
        }
    }

    fn check_atomic<T: AtomicAccess + DataInit + PartialEq + Debug>(&self, start: usize) {
        let (at, len) = (|| (self.at)(start), size_of::<T>());
        if !self.has(start, len) {
            return;
        }
        let (held, new) = (value::<T>(&pattern(start..start + len)), value::<T>(&data(len)));
        let what = format!("{}: an atomic of {len} at {start:#x}", self.name);
        if let Some(read) = check_exact(self.mem.load::<T>(at(), SeqCst), start, len, &what) {
            assert_eq!(read, held, "{what}");
        }
        self.guest.track();
        let exchanged = self.mem.compare_exchange(held, new, at(), SeqCst, SeqCst);
        if let Some(exchanged) = check_exact(exchanged, start, len, &what) {
            assert_eq!(exchanged, Ok(held), "{what}");
        }
        self.check_written(start, good(start, len), &what);
        check_exact(self.mem.store(new, at(), SeqCst), start, len, &what);
        self.check_written(start, good(start, len), &what);
    }
}

/// The value of these bytes.
fn value<T: DataInit>(bytes: &[u8]) -> T {
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(bytes);
    value
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// All positions of a guest.
fn whole() -> Range<usize> {
    0..2 * PAGES * page()
}

#[test]
fn regions() {
    if !recovers() {
        return;
    }
    let guest = Guest::new();
    for number in 0..2 {
        let has = number * PAGES * page()..(number + 1) * PAGES * page();
        let start = has.start;
        let by_offset = |position| MemoryRegionAddress((position - start) as u64);
        let mem = guest.region(number);
        View { name: "by offset", guest: &guest, mem, at: by_offset, has: has.clone() }.check();
        View { name: "by address", guest: &guest, mem, at, has }.check();
    }
}

#[test]
fn collections_and_maps() {
    if !recovers() {
        return;
    }
    let guest = Guest::new();
    View { name: "the collection", guest: &guest, mem: &guest.mem, at, has: whole() }.check();
    View { name: "an Arc", guest: &guest, mem: &Arc::new(guest.mem.clone()), at, has: whole() }.check();
    let map = GuestMemoryAtomic::new(guest.mem.clone());
    View { name: "a guard", guest: &guest, mem: &*map.reader().read(), at, has: whole() }.check();
}

#[test]
fn memory_as_a_device_sees_it() {
    fn through<I: IoMemory>(guest: &Guest, mem: &I) {
        let at = |position| IoAddress(BASE + position as u64);
        View { name: "IoMemory", guest, mem, at, has: whole() }.check();
    }
    if recovers() {
        let guest = Guest::new();
        through(&guest, &guest.mem);
    }
}

#[test]
fn slices_from_before() {
    if !recovers() {
        return;
    }
    let guest = Guest::plugged();
    let (first, second) = (guest.region(0), guest.region(1));
    let slices = [0, 1].map(|number| guest.mem.get_slice(at(number * PAGES * page()), PAGES * page()).unwrap());
    first.unplug(MemoryRegionAddress(pages(1)), pages(1)).unwrap();
    first.unplug(MemoryRegionAddress(pages(3)), pages(1)).unwrap();
    second.unplug(MemoryRegionAddress(0), pages(1)).unwrap();
    for (number, slice) in slices.iter().enumerate() {
        let start = number * PAGES * page();
        let has = start..start + PAGES * page();
        View { name: "GuestSlice", guest: &guest, mem: slice, at: |position| position - start, has }.check();
    }
    // And what they are when it is plugged again.
    first.plug(MemoryRegionAddress(pages(1)), pages(1)).unwrap();
    slices[0].write_obj(7_u8, page()).unwrap();
    assert_eq!(guest.mem.read_obj::<u8>(at(page())).unwrap(), 7);
}

#[test]
fn bits_and_zeroes() {
    if !recovers() {
        return;
    }
    let guest = Guest::new();
    let slice = guest.mem.get_slice(at(0), PAGES * page()).unwrap();
    guest.track();
    assert_eq!(fault(slice.fetch_or(1_u32, page() + 4, SeqCst)), (page() + 4, 0));
    guest.check_marked(0, 0, "fetch_or");
    slice.fill(0, page(), 0).unwrap();
    assert_eq!(fault(slice.is_zero()), (page(), page()));
    slice.write_obj(1_u8, page() - 1).unwrap();
    assert!(!slice.is_zero().unwrap());
}

#[test]
fn copies_in_both_directions() {
    if !recovers() {
        return;
    }
    let (guest, page) = (Guest::new(), page());
    // From, to, and how much: out of what is unplugged, into it, over it; and over themselves.
    let (clear, hole, last) = (2 * page, page, 5 * page);
    for (src, dst, len) in [
        (clear + 8, hole - 40, 100),
        (hole - 40, clear + 8, 100),
        (clear, hole + 16, 8),
        (hole + 16, clear, 8),
        (hole - 40, 3 * page - 100, 200),
        (3 * page - 100, hole - 40, 200),
        (hole - 300, hole - 200, 250),
        (hole - 200, hole - 300, 250),
        (last - 50, last + 8, 40),
        (hole - 1, clear, 1),
        (clear, hole - 1, 2),
    ] {
        let done = good(src, len).min(good(dst, len));
        let copied = guest.mem.copy(at(src), at(dst), len);
        let what = format!("{len} from {src:#x} to {dst:#x}");
        if done == len {
            copied.unwrap();
        } else {
            let bad = if good(src, len) == done { src } else { dst } + done;
            assert_eq!(fault(copied), (bad, done), "{what}");
        }
        guest.check(dst, &pattern(src..src + done), &what);
    }
}
