//! Accesses that stop at a page that is not there mark the bytes that they wrote before, if they tell how many those are;
//! else all that they could reach.

use std::fs::File;
use std::io::{Seek, Write};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use memory_model::guest_memory::Error;
use memory_model::{
    Address, Bytes, DataInit, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, IoAddress, MemoryRegionAddress, MmapRegion, fault_recovery,
};

use crate::ground::{Bits, completed};

/// Where the guest's memory begins.
const BASE: u64 = 0x7000_0000;

/// Memory of two regions, a page and three, of one file that ends after two pages.
struct Ground {
    mem: GuestMemoryMmap,
    /// The first byte that is not there.
    edge: u64,
    page: u64,
    file: File,
}

impl Ground {
    /// `None` where a page that is not there ends the process.
    fn new() -> Option<Self> {
        let page = rustix::param::page_size() as u64;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * page).unwrap();
        let region = |start: u64, len: u64| {
            let at = FileOffset::new(file.try_clone().unwrap(), start);
            let mapping = MmapRegion::from_file(at, usize::try_from(len).unwrap()).unwrap();
            GuestRegionMmap::new(mapping, GuestAddress(BASE + start)).unwrap()
        };
        let mem = GuestMemoryMmap::from_regions(vec![region(0, page), region(page, 3 * page)]).unwrap();
        if !fault_recovery::is_installed() {
            memory_model_test_support::skip!("no fault recovery on this target");
            return None;
        }
        file.set_len(2 * page).unwrap();
        Some(Self { mem, edge: BASE + 2 * page, page, file })
    }

    /// Does `write`, and checks that so many bytes from `start` are marked: by each byte, and by pages of a log, clean ones
    /// and dirty ones.
    fn check(&self, what: &str, start: u64, count: usize, write: impl Fn()) {
        let expected = if count == 0 { vec![] } else { vec![(start, count as u64)] };
        let bits = Bits::new(&self.mem, BASE);
        write();
        assert_eq!(bits.take(), expected, "{what}, {start:#x}, the edge is {:#x}", self.edge);
        drop(bits);
        let log = self.mem.start_tracking(4096).unwrap();
        for _ in 0..2 {
            write();
            let harvest = log.harvest();
            let first = start & !0xfff;
            let end = (start + count as u64).next_multiple_of(0x1000);
            let pages = if count == 0 { vec![] } else { vec![(first, end - first)] };
            assert_eq!(harvest.ranges().map(|range| (range.start, range.len)).collect::<Vec<_>>(), pages, "{what}");
            drop(harvest); // and once more, with these dirty
        }
    }

    /// All that writes at offsets, around the edge.
    fn check_all<A: Address, M: Bytes<A, E = Error>>(&self, name: &str, mem: &M, at: impl Fn(u64) -> A) {
        let starts = [self.page + 1, 300, 65, 64, 63, 17, 8, 7, 3, 1, 0].map(|before| self.edge - before);
        for start in starts.into_iter().chain([self.edge + 3]) {
            for len in [1, 2, 5, 8, 9, 31, 64, 65, 200, 5000] {
                let good = usize::try_from(self.edge.saturating_sub(start)).unwrap().min(len);
                let data = vec![7; len];
                let stops = |result: Result<(), Error>| {
                    if good == len {
                        result.unwrap();
                    } else {
                        assert_eq!(completed(result), good, "{name}");
                    }
                };
                self.check(name, start, good, || assert_eq!(mem.write(&data, at(start)).unwrap_or(0), good));
                self.check(name, start, good, || stops(mem.write_slice(&data, at(start))));
                self.check(name, start, good, || stops(mem.fill(1, len, at(start))));
            }
            self.check_object(name, mem, at(start), start, 1_u16);
            self.check_object(name, mem, at(start), start, 1_u64);
            self.check_object(name, mem, at(start), start, 1_u128);
            self.check_object(name, mem, at(start), start, [1_u8; 3]);
            self.check_object(name, mem, at(start), start, [1_u32; 9]);
        }
        self.check(name, self.edge - 8, 8, || mem.store(1_u64, at(self.edge - 8), Relaxed).unwrap());
        self.check(name, self.edge, 0, || assert!(mem.store(1_u64, at(self.edge), Relaxed).is_err()));
        let swap = || assert!(mem.compare_exchange(0_u32, 1, at(self.edge), SeqCst, Relaxed).is_err());
        self.check(name, self.edge, 0, swap);
        self.check(name, self.edge, 0, || assert!(mem.read(&mut [0; 9], at(self.edge)).is_err()));
        self.check(name, self.edge, 0, || assert_eq!(completed(mem.read_slice(&mut [0; 9], at(self.edge - 4))), 4));
        self.check(name, self.edge, 0, || assert!(mem.read_obj::<u64>(at(self.edge - 4)).is_err()));
        self.check(name, self.edge, 0, || assert!(mem.load::<u64>(at(self.edge), SeqCst).is_err()));
    }

    fn check_object<A: Address, M: Bytes<A, E = Error>, T: DataInit>(
        &self,
        name: &str,
        mem: &M,
        at: A,
        start: u64,
        value: T,
    ) {
        let good = usize::try_from(self.edge.saturating_sub(start)).unwrap().min(size_of::<T>());
        self.check(&format!("{name}: {} bytes", size_of::<T>()), start, good, || match mem.write_obj(value, at) {
            Ok(()) => assert_eq!(good, size_of::<T>()),
            error => assert_eq!(completed(error), good),
        });
    }
}

#[test]
fn through_all_that_wraps_memory() {
    let Some(ground) = Ground::new() else { return };
    ground.check_all("memory", &ground.mem, GuestAddress);
    ground.check_all("reference", &&ground.mem, GuestAddress);
    ground.check_all("device", &ground.mem, IoAddress);
    let region = ground.mem.find_region(GuestAddress(BASE + ground.page)).unwrap();
    let start = BASE + ground.page;
    // From one byte before the region nothing is written.
    let at = |addr: u64| MemoryRegionAddress(addr.checked_sub(start).unwrap_or(u64::MAX));
    let inside =
        Ground { mem: ground.mem.clone(), page: ground.page - 1, file: ground.file.try_clone().unwrap(), ..ground };
    inside.check_all("region by offset", region, at);
    inside.check_all("region", region, GuestAddress);
    let slice = region.get_slice(MemoryRegionAddress(0), usize::try_from(3 * (inside.page + 1)).unwrap()).unwrap();
    inside.check_all("slice", &slice, |addr| usize::try_from(addr - start).unwrap());
}

#[test]
fn bits_of_a_slice() {
    let Some(ground) = Ground::new() else { return };
    let page = usize::try_from(ground.page).unwrap();
    let slice = ground.mem.get_slice(GuestAddress(BASE + ground.page), 3 * page).unwrap();
    ground.check("fetch_or", ground.edge - 4, 4, || assert!(slice.fetch_or(1_u32, page - 4, SeqCst).is_ok()));
    ground.check("fetch_or", ground.edge, 0, || assert!(slice.fetch_or(1_u32, page, SeqCst).is_err()));
}

/// What was copied before the fault is marked, whichever side it is at; a copy that goes downwards has written anything.
#[test]
fn copies() {
    let Some(ground) = Ground::new() else { return };
    let (mem, edge) = (&ground.mem, ground.edge);
    let copy = |src, dst, len| completed(mem.copy(GuestAddress(src), GuestAddress(dst), len));
    let cover = |start: u64, good: usize, reach: usize, what: &str, copy: &dyn Fn()| {
        let bits = Bits::new(mem, BASE);
        copy();
        let marked = bits.take();
        let [(first, len)] = marked[..] else { panic!("{what}: {marked:x?}") };
        assert_eq!(first, start, "{what}");
        assert!((good as u64..=reach as u64).contains(&len), "{what}: {len:#x}");
    };
    cover(edge - 100, 100, 200, "to the edge", &|| assert_eq!(copy(BASE, edge - 100, 200), 100));
    cover(BASE, 100, 200, "from the edge", &|| assert_eq!(copy(edge - 100, BASE, 200), 100));
    cover(edge - 100, 100, 200, "downwards to the edge", &|| assert_eq!(copy(edge - 150, edge - 100, 200), 100));
    cover(edge - 150, 100, 200, "upwards from the edge", &|| assert_eq!(copy(edge - 100, edge - 150, 200), 100));
    let page = usize::try_from(ground.page).unwrap();
    let slice = |at, len| mem.get_slice(GuestAddress(at), len).unwrap();
    let (low, high) = (slice(BASE, page), slice(edge - 64, page));
    cover(edge - 64, 64, page, "a slice to the edge", &|| assert_eq!(completed(low.copy_to_guest_slice(high)), 64));
    cover(BASE, 64, page, "a slice from the edge", &|| assert_eq!(completed(high.copy_to_guest_slice(low)), 64));
}

/// The kernel reads from a file to memory that is there only at first.
#[test]
fn streams() {
    let Some(ground) = Ground::new() else { return };
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&[9; 300]).unwrap();
    let bits = Bits::new(&ground.mem, BASE);
    for exact in [false, true] {
        let start = ground.edge - 100;
        source.rewind().unwrap();
        if exact {
            assert_eq!(completed(ground.mem.write_all_from(GuestAddress(start), &mut source, 200)), 100);
        } else {
            assert_eq!(ground.mem.write_from(GuestAddress(start), &mut source, 200).unwrap(), 100);
        }
        assert_eq!(source.stream_position().unwrap(), 100);
        let marked = bits.take();
        assert_eq!((marked[0].0, marked.len()), (start, 1));
        assert!((100..=200).contains(&marked[0].1), "{marked:?}");
        let mut buffer = &[9_u8; 300][..];
        let written = ground.mem.write_all_from(GuestAddress(start), &mut buffer, 200);
        assert_eq!(completed(written), 100);
        let marked = bits.take();
        assert_eq!((marked[0].0, marked.len()), (start, 1));
        assert!((100..=200).contains(&marked[0].1), "{marked:?}");
    }
    assert!(ground.mem.read_all_into(GuestAddress(ground.edge - 8), &mut Vec::new(), 16).is_err());
    assert_eq!(bits.take(), []);
}

/// What is refused as the region is read-only was not written. Where it is refused by the page, and where by the library.
#[test]
fn read_only_memory_is_never_dirty() {
    use memory_model::mmap::Protection;

    let mem = crate::ground::memory(&[(BASE, 0x1_0000), (BASE + 0x1_0000, 0x1_0000)]);
    let region = mem.find_region(GuestAddress(BASE + 0x1_0000)).unwrap();
    region.protect(Protection::ReadOnly).unwrap();
    let bits = Bits::new(&mem, BASE);
    let log = mem.start_tracking(4096).unwrap();
    let at = GuestAddress(BASE + 0x1_0000);
    assert!(mem.write(&[1; 9], at).is_err());
    assert!(mem.write_slice(&[1; 9], at).is_err());
    assert!(mem.write_obj(1_u64, at).is_err());
    assert!(mem.fill(1, 0x8000, at).is_err());
    assert!(mem.store(1_u8, at, SeqCst).is_err());
    assert!(mem.compare_exchange(0_u8, 1, at, SeqCst, Relaxed).is_err());
    assert!(mem.write_from(at, &mut &[1_u8; 9][..], 9).is_err());
    assert!(mem.copy(GuestAddress(BASE), at, 100).is_err());
    assert!(mem.discard(at, 0x1_0000).is_err());
    assert_eq!(bits.take(), []);
    assert!(log.harvest().is_empty());
    // Up to it, it is written.
    assert!(mem.write_slice(&[1; 9], GuestAddress(at.0 - 4)).is_err());
    assert_eq!(bits.take(), [(at.0 - 4, 4)]);
    assert!(mem.copy(GuestAddress(BASE), GuestAddress(at.0 - 50), 100).is_err());
    assert_eq!(bits.take(), [(at.0 - 50, 50)]);
}
