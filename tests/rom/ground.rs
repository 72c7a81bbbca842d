//! A guest with a page of ROM between two pages of RAM, of known bytes.

use std::io::Write;
use std::ops::Range;

use memory_model::guest_memory::Error;
use memory_model::mmap::Protection;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory,
};

use crate::marks::Marks;

/// The guest address of a guest's first byte.
pub(crate) const BASE: u64 = 0x7_4000_0000;

/// When the memory is made read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// When its file is mapped.
    Mapped,
    /// Before it has a guest address.
    Mapping,
    /// When it is the guest's.
    Region,
}

pub(crate) const MADE: [Made; 3] = [Made::Mapped, Made::Mapping, Made::Region];

pub(crate) struct Guest {
    pub(crate) mem: GuestMemoryMmap,
    /// The size of a page, and of each region.
    pub(crate) page: usize,
    marks: Marks,
}

impl Guest {
    pub(crate) fn new(made: Made) -> Self {
        let page = rustix::param::page_size();
        let regions = (0..3).map(|number| {
            let contents = pattern(number * page..(number + 1) * page);
            let mapping = if number == 1 && made == Made::Mapped {
                mapped(&contents)
            } else {
                let mapping = MmapRegion::new(page).unwrap();
                mapping.as_volatile_slice().write_slice(&contents, 0).unwrap();
                mapping
            };
            if number == 1 && made == Made::Mapping {
                mapping.protect(Protection::ReadOnly).unwrap();
            }
            GuestRegionMmap::new(mapping, at(number * page)).unwrap()
        });
        let mem = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        let marks = Marks::of(&mem);
        let guest = Self { mem, page, marks };
        if made == Made::Region {
            guest.rom().protect(Protection::ReadOnly).unwrap();
        }
        assert!(guest.rom().is_read_only());
        guest
    }

    pub(crate) fn rom(&self) -> &GuestRegionMmap {
        self.mem.find_region(at(self.page)).unwrap()
    }

    /// Where the ROM is.
    pub(crate) fn rom_range(&self) -> Range<usize> {
        self.page..2 * self.page
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; 3 * self.page];
        self.mem.read_slice(&mut contents, at(0)).unwrap();
        contents
    }

    /// Checks that all is as it was at first, but for `written` at a position; and makes it so again.
    pub(crate) fn check(&self, position: usize, written: &[u8], what: &str) {
        let mut expected = pattern(0..3 * self.page);
        expected[position..position + written.len()].copy_from_slice(written);
        assert!(self.contents() == expected, "{what}: other bytes were written");
        let before = pattern(position..position + written.len());
        self.mem.write_slice(&before, at(position)).unwrap();
    }

    /// Forgets what was marked before.
    pub(crate) fn track(&self) {
        self.marks.take();
    }

    /// Checks that so much from a position was marked, which is in one region, and nothing else.
    pub(crate) fn check_marked(&self, position: usize, len: usize, what: &str) {
        let spans: Vec<_> = self.marks.take().into_iter().flatten().collect();
        let expected: Vec<_> = (len > 0).then(|| at(position).0..=at(position + len - 1).0).into_iter().collect();
        assert_eq!(spans, expected, "{what}: marked as dirty");
    }
}

/// A file of these bytes, mapped to be read only.
fn mapped(contents: &[u8]) -> MmapRegion {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents).unwrap();
    let builder = MmapRegion::builder(contents.len()).file(FileOffset::new(file, 0));
    builder.protection(Protection::ReadOnly).build().unwrap()
}

/// A guest's address of a position.
pub(crate) fn at(position: usize) -> GuestAddress {
    GuestAddress(BASE + position as u64)
}

/// The bytes that memory holds at first, by their position: from 1 to 127.
pub(crate) fn pattern(range: Range<usize>) -> Vec<u8> {
    range.map(|position| u8::try_from(position % 127 + 1).unwrap()).collect()
}

/// The bytes that are written: from 128 to 254.
pub(crate) fn data(len: usize) -> Vec<u8> {
    (128..=254).cycle().take(len).collect()
}

/// Where a write was refused, and how many bytes before it were done.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T, Error>) -> (usize, usize) {
    match result {
        Err(Error::ReadOnly { addr, completed }) => (usize::try_from(addr.0 - BASE).unwrap(), completed),
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// The answer to a write of `len` bytes at a position of which `done` are done.
pub(crate) fn exact(position: usize, len: usize, done: usize) -> Result<(), (usize, usize)> {
    if done == len { Ok(()) } else { Err((position + done, done)) }
}

/// As [`exact`], of a result.
#[track_caller]
pub(crate) fn told(result: Result<(), Error>) -> Result<(), (usize, usize)> {
    if result.is_ok() { Ok(()) } else { Err(refused(result)) }
}
