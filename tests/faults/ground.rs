//! Memory with an edge: a mapped file of known bytes, which cannot be accessed from a page on. The file tells what it holds
//! without the mapping.

#![expect(unsafe_code, reason = "makes a file in memory, and takes permissions of pages away")]

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use memory_model::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory};
use memory_model::{VolatileSlice, guest_memory, volatile_memory};
use rustix::mm::MprotectFlags;

/// What an access has answered: the bytes done, or the first bad address and the bytes done before it.
pub(crate) type Outcome = Result<usize, (usize, usize)>;

/// Why memory cannot be accessed beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// The file ends there: SIGBUS.
    Truncated,
    /// One page has no permissions; those after it are good: SIGSEGV.
    Hole,
    /// One page can only be read; those after it are good: SIGSEGV for writes.
    ReadOnly,
}

/// What cannot be read.
pub(crate) const UNREADABLE: [Bad; 2] = [Bad::Truncated, Bad::Hole];
/// What cannot be written.
pub(crate) const UNWRITABLE: [Bad; 3] = [Bad::Truncated, Bad::Hole, Bad::ReadOnly];

/// The longest of the lengths that are all tried.
pub(crate) const LONGEST: usize = 300;
/// How far from the edge bytes are looked at.
const REACH: usize = LONGEST + 128;

/// The size of a page.
pub(crate) fn page() -> usize {
    rustix::param::page_size()
}

/// A file, and what of it a mapping can reach.
pub(crate) struct Backing {
    pub(crate) file: File,
    pub(crate) bad: Bad,
    /// The offset of the first bad byte, where a page begins.
    pub(crate) edge: usize,
    pub(crate) len: usize,
}

impl Backing {
    /// `pages` of the pattern, of which the one at `bad_page` will be bad: all are there until `spoil` is called.
    fn new(bad: Bad, pages: usize, bad_page: usize) -> Self {
        let len = pages * page();
        let file = memfd(len);
        file.write_all_at(pattern(0..len), 0).unwrap();
        Self { file, bad, edge: bad_page * page(), len }
    }

    /// Maps `len` bytes from `start`. A page of them that is to have other permissions gets them.
    fn map(&self, start: usize, len: usize) -> MmapRegion {
        let at = FileOffset::new(self.file.try_clone().unwrap(), start as u64);
        let region = MmapRegion::from_file(at, len).unwrap();
        if (start..start + len).contains(&self.edge) {
            let bad_page = region.as_volatile_slice().subslice(self.edge - start, page()).unwrap();
            match self.bad {
                Bad::Truncated => {}
                Bad::Hole => protect(&bad_page, MprotectFlags::empty()),
                Bad::ReadOnly => protect(&bad_page, MprotectFlags::READ),
            }
        }
        region
    }

    /// Shrinks the file that is to be shrunk, once it is mapped.
    fn spoil(&self) {
        if self.bad == Bad::Truncated {
            self.file.set_len(self.edge as u64).unwrap();
        }
    }

    /// How many of `len` bytes from `start` come before the edge.
    pub(crate) fn good(&self, start: usize, len: usize) -> usize {
        self.edge.saturating_sub(start).min(len)
    }

    /// How many of `len` bytes from `start` can be read before one that cannot.
    pub(crate) fn readable(&self, start: usize, len: usize) -> usize {
        if self.bad == Bad::ReadOnly { len } else { self.good(start, len) }
    }

    /// The bytes of the file that an access around the edge could touch.
    pub(crate) fn window(&self) -> Range<usize> {
        self.edge.saturating_sub(REACH)..(self.edge + REACH).min(self.all().end)
    }

    /// All of the file's bytes.
    pub(crate) fn all(&self) -> Range<usize> {
        0..if self.bad == Bad::Truncated { self.edge } else { self.len }
    }

    /// Makes bytes of the file the pattern again.
    pub(crate) fn reset(&self, window: Range<usize>) {
        self.file.write_all_at(pattern(window.clone()), window.start as u64).unwrap();
    }

    /// Checks that bytes of the file are the pattern, but for `written` at `start`.
    pub(crate) fn check(&self, window: Range<usize>, start: usize, written: &[u8], what: &dyn Fn() -> String) {
        let mut expected = pattern(window.clone()).to_vec();
        if !written.is_empty() {
            let at = start - window.start;
            expected[at..at + written.len()].copy_from_slice(written);
        }
        let mut found = vec![0; window.len()];
        self.file.read_exact_at(&mut found, window.start as u64).unwrap();
        if found != expected {
            let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected).unwrap();
            panic!("{}: the byte at edge {:+} is {:#x}", what(), offset(window.start + wrong, self.edge), found[wrong]);
        }
    }

    /// Checks that nothing beyond the edge was written: that it is zero when the file has it again.
    pub(crate) fn check_beyond(&self) {
        if self.bad == Bad::Truncated {
            self.file.set_len(self.len as u64).unwrap();
            let mut beyond = vec![1; self.len - self.edge];
            self.file.read_exact_at(&mut beyond, self.edge as u64).unwrap();
            assert!(beyond.iter().all(|&byte| byte == 0), "bytes beyond the end of the file were written");
            self.file.set_len(self.edge as u64).unwrap();
        }
    }
}

/// A mapping with an edge.
pub(crate) struct Ground {
    backing: Backing,
    region: MmapRegion,
}

impl Ground {
    /// Four pages, of which the third is bad.
    pub(crate) fn new(bad: Bad) -> Self {
        Self::with(bad, 4, 2)
    }

    /// `pages`, of which the one at `bad_page` is bad.
    pub(crate) fn with(bad: Bad, pages: usize, bad_page: usize) -> Self {
        let backing = Backing::new(bad, pages, bad_page);
        let region = backing.map(0, backing.len);
        backing.spoil();
        Self { backing, region }
    }

    /// All of it.
    pub(crate) fn slice(&self) -> VolatileSlice<'_> {
        self.region.as_volatile_slice()
    }

    /// The `len` bytes from `start`.
    pub(crate) fn part(&self, start: usize, len: usize) -> VolatileSlice<'_> {
        self.region.get_slice(start, len).unwrap()
    }
}

impl Deref for Ground {
    type Target = Backing;
    fn deref(&self) -> &Backing {
        &self.backing
    }
}

/// The guest address of a guest's first byte.
pub(crate) const BASE: u64 = 0x7_4000_0000;

/// A guest's memory with an edge: regions that touch, all of one file.
pub(crate) struct Guest {
    backing: Backing,
    pub(crate) mem: GuestMemoryMmap,
}

impl Guest {
    /// Regions of so many pages, of which the one at `bad_page` is bad.
    pub(crate) fn new(bad: Bad, regions: &[usize], bad_page: usize) -> Self {
        let backing = Backing::new(bad, regions.iter().sum(), bad_page);
        let mut start = 0;
        let regions = regions.iter().map(|pages| {
            let len = pages * page();
            let region = GuestRegionMmap::new(backing.map(start, len), at(start)).unwrap();
            start += len;
            region
        });
        let mem = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        backing.spoil();
        Self { backing, mem }
    }
}

impl Deref for Guest {
    type Target = Backing;
    fn deref(&self) -> &Backing {
        &self.backing
    }
}

/// A guest's address of a position.
pub(crate) fn at(position: usize) -> GuestAddress {
    GuestAddress(BASE + position as u64)
}

/// A file in memory of `len` zeros.
pub(crate) fn memfd(len: usize) -> File {
    // SAFETY: the name is a string that ends with NUL.
    let fd = unsafe { libc::memfd_create(c"ground".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor, which nobody else has.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64).unwrap();
    file
}

/// A pipe: the end to read from, and the one to write to.
pub(crate) fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors to the array.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: new descriptors, which nobody else has.
    let [read, write] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    (read, write)
}

/// Changes the permissions of whole pages.
fn protect(pages: &VolatileSlice<'_>, flags: MprotectFlags) {
    // SAFETY: pages of a mapping, to which there are no references: only slices, whose faults are errors.
    unsafe { rustix::mm::mprotect(pages.as_ptr().cast(), pages.len(), flags) }.unwrap();
}

/// The bytes that a file holds at first, by their offset: from 1 to 127, and aligned to nothing.
pub(crate) fn pattern(range: Range<usize>) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    &PATTERN.get_or_init(|| (1..=127).cycle().take(2 << 20).collect())[range]
}

/// The bytes that are written: from 128 to 254.
pub(crate) fn data(len: usize) -> &'static [u8] {
    static DATA: OnceLock<Vec<u8>> = OnceLock::new();
    &DATA.get_or_init(|| (128..=254).cycle().take(1 << 20).collect())[..len]
}

/// Every length up to the longest, and for each every start from which it ends just before the edge, reaches over it, or
/// begins just behind it.
pub(crate) fn around(edge: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=LONGEST).flat_map(move |len| (edge - len - 1..=edge + 1).map(move |start| (start, len)))
}

/// The answer of an access that must be whole.
pub(crate) fn exact(start: usize, len: usize, good: usize) -> Outcome {
    if good == len { Ok(len) } else { Err((start + good, good)) }
}

/// The answer of an access of which some is enough.
pub(crate) fn some(start: usize, good: usize) -> Outcome {
    if good > 0 { Ok(good) } else { Err((start, 0)) }
}

/// A slice's fault.
pub(crate) fn told(error: volatile_memory::Error) -> (usize, usize) {
    match error {
        volatile_memory::Error::Fault { addr, completed } => (addr, completed),
        other => panic!("not a fault: {other}"),
    }
}

/// A guest's fault, by its position.
pub(crate) fn told_by_guest(error: guest_memory::Error) -> (usize, usize) {
    match error {
        guest_memory::Error::Fault { addr, completed } => (usize::try_from(addr.0 - BASE).unwrap(), completed),
        other => panic!("not a fault: {other}"),
    }
}

/// `position` as seen from the edge.
pub(crate) fn offset(position: usize, edge: usize) -> isize {
    isize::try_from(position).unwrap() - isize::try_from(edge).unwrap()
}
