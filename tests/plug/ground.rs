//! A guest of two regions that touch, with parts of both unplugged, and known bytes elsewhere.

use std::ops::Range;
use std::sync::OnceLock;

use memory_model::guest_memory::{Error, RegionRange};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

use crate::marks::Marks;

/// The guest address of a guest's first byte.
pub(crate) const BASE: u64 = 0x7_4000_0000;

/// Pages of each region.
pub(crate) const PAGES: usize = 4;

/// The pages that are unplugged, of both: inside one, at the end of one and the start of the other.
pub(crate) const UNPLUGGED: [usize; 3] = [1, 3, 4];

pub(crate) fn page() -> usize {
    rustix::param::page_size()
}

/// So many pages, in bytes.
pub(crate) fn pages(count: usize) -> u64 {
    (count * page()) as u64
}

/// The offset of a page.
pub(crate) fn offset(number: usize) -> MemoryRegionAddress {
    MemoryRegionAddress(pages(number))
}

/// A part of a region, in pages.
pub(crate) fn part(range: Range<usize>) -> RegionRange {
    RegionRange { offset: offset(range.start), len: pages(range.len()) }
}

/// Whether an access to what is unplugged is an error here, and not the end of the process; says so if not.
pub(crate) fn recovers() -> bool {
    let does = cfg!(all(feature = "fault-recovery", any(target_arch = "x86_64", target_arch = "aarch64")));
    if !does {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
    does
}

/// Whether madvise reaches the kernel, which an emulator keeps from it; says so if not.
pub(crate) fn has_kernel() -> bool {
    let emulated = std::env::var_os("CROSS_RUNNER").is_some();
    if emulated {
        memory_model_test_support::skip!("emulated: madvise has no effect");
    }
    !emulated
}

/// Memory of so many pages at an address.
pub(crate) fn region(start: u64, count: usize) -> GuestRegionMmap {
    GuestRegionMmap::new(MmapRegion::new(count * page()).unwrap(), GuestAddress(start)).unwrap()
}

pub(crate) struct Guest {
    pub(crate) mem: GuestMemoryMmap,
    marks: Marks,
}

impl Guest {
    /// One whose pages of [`UNPLUGGED`] are.
    pub(crate) fn new() -> Self {
        let guest = Self::plugged();
        for number in UNPLUGGED {
            guest.region(number / PAGES).unplug(offset(number % PAGES), pages(1)).unwrap();
        }
        guest
    }

    /// One of which everything is plugged.
    pub(crate) fn plugged() -> Self {
        let regions = (0..2).map(|number| region(BASE + pages(number * PAGES), PAGES)).collect();
        let mem = GuestMemoryMmap::from_regions(regions).unwrap();
        mem.write_slice(&pattern(0..2 * PAGES * page()), at(0)).unwrap();
        let marks = Marks::of(&mem);
        Self { mem, marks }
    }

    pub(crate) fn region(&self, number: usize) -> &GuestRegionMmap {
        self.mem.regions().nth(number).unwrap()
    }

    /// Checks that all is as it was at first, but for `written` at a position; and makes it so again.
    #[track_caller]
    pub(crate) fn check(&self, position: usize, written: &[u8], what: &str) {
        for number in (0..2 * PAGES).filter(|number| !UNPLUGGED.contains(number)) {
            let range = number * page()..(number + 1) * page();
            let mut expected = pattern(range.clone());
            let (from, to) = (position.max(range.start), (position + written.len()).min(range.end));
            if from < to {
                expected[from - range.start..to - range.start]
                    .copy_from_slice(&written[from - position..to - position]);
            }
            let mut bytes = vec![0; page()];
            self.mem.read_slice(&mut bytes, at(range.start)).unwrap();
            assert!(bytes == expected, "{what}: other bytes of page {number} were written");
        }
        self.mem.write_slice(&pattern(position..position + written.len()), at(position)).unwrap();
    }

    /// Forgets what was marked before.
    pub(crate) fn track(&self) {
        self.marks.take();
    }

    /// Checks that so much from a position was marked, and nothing else.
    #[track_caller]
    pub(crate) fn check_marked(&self, position: usize, len: usize, what: &str) {
        let spans: Vec<_> = self.marks.take().into_iter().flatten().collect();
        let middle = PAGES * page();
        let parts = [position..(position + len).min(middle.max(position)), position.max(middle)..position + len];
        let expected: Vec<_> = parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| at(part.start).0..=at(part.end - 1).0)
            .collect();
        assert_eq!(spans, expected, "{what}: marked as dirty");
    }
}

/// A guest's address of a position.
pub(crate) fn at(position: usize) -> GuestAddress {
    GuestAddress(BASE + position as u64)
}

/// The bytes that memory holds at first, by their position: from 1 to 127.
pub(crate) fn pattern(range: Range<usize>) -> Vec<u8> {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let byte = |position| u8::try_from(position % 127 + 1).unwrap();
    ALL.get_or_init(|| (0..2 * PAGES * page()).map(byte).collect())[range].to_vec()
}

/// The bytes that are written: from 128 to 254.
pub(crate) fn data(len: usize) -> Vec<u8> {
    (128..=254).cycle().take(len).collect()
}

/// How many of `len` bytes from a position come before the first that is unplugged.
pub(crate) fn good(position: usize, len: usize) -> usize {
    (position..position + len).position(|at| UNPLUGGED.contains(&(at / page()))).unwrap_or(len)
}

/// Where an access has met what is unplugged, and how many bytes before that were done.
#[track_caller]
pub(crate) fn fault<T>(result: Result<T, Error>) -> (usize, usize) {
    match result {
        Err(Error::Fault { addr, completed }) => (usize::try_from(addr.0 - BASE).unwrap(), completed),
        Err(other) => panic!("no fault: {other}"),
        Ok(_) => panic!("no fault"),
    }
}

/// The answer to an access of `len` bytes at a position, which does all or ends with an error.
#[track_caller]
pub(crate) fn check_exact<T>(result: Result<T, Error>, position: usize, len: usize, what: &str) -> Option<T> {
    let good = good(position, len);
    match result {
        Ok(value) => {
            assert_eq!(good, len, "{what}: no fault");
            Some(value)
        }
        error => {
            assert_eq!(fault(error), (position + good, good), "{what}");
            None
        }
    }
}

/// The answer to an access of `len` bytes at a position, which does what it can.
#[track_caller]
pub(crate) fn check_some(result: Result<usize, Error>, position: usize, len: usize, what: &str) {
    match good(position, len) {
        0 => assert_eq!(fault(result), (position, 0), "{what}"),
        good => assert_eq!(result.unwrap(), good, "{what}"),
    }
}
