#![expect(unsafe_code, reason = "hands out slices of mapped memory")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use super::options::Sharing;
use super::overlay::Overlay;
use super::place::Place;
use super::{Error, FileOffset, HugePageSize, Lock, MmapRegionBuilder};
use crate::{VolatileMemory, VolatileSlice, volatile_memory};

/// A mapping of memory into this process that is unmapped when it is dropped, unless it is borrowed.
///
/// It has no guest address yet: see [`GuestRegionMmap`](super::GuestRegionMmap). Its pages are made when they are first
/// touched, unless its [`builder`](Self::builder) is told otherwise, and are then zero or the file's.
#[repr(C)] // what an access needs comes first
pub struct MmapRegion {
    /// # Invariant
    /// `size` bytes from `start` are a mapping that exists as long as this value, and `size <= isize::MAX`. It is in
    /// `place`, if that is some; else somebody else keeps it.
    pub(super) start: NonNull<u8>,
    pub(super) size: usize,
    pub(super) read_only: AtomicBool,
    pub(super) lock: Lock,
    pub(super) sharing: Sharing,
    /// Whether it is a private mapping of a file whose bytes must not show where pages were discarded.
    pub(super) hides_file: bool,
    /// Whether its pages are of the hugetlb pool.
    pub(super) is_hugetlb: bool,
    pub(super) place: Option<Place>,
    pub(super) file: Option<FileOffset>,
    /// The size of a page in bytes: the host's, or a huge one.
    pub(super) page: usize,
    /// What is mapped there instead.
    pub(super) overlay: Option<Box<Overlay>>,
}

#[expect(clippy::non_send_fields_in_send_ty, reason = "the pointers, which belong to no thread")]
// SAFETY: the mapping belongs to no thread, and is accessed through slices only, which may be used from all.
unsafe impl Send for MmapRegion {}
// SAFETY: as for `Send`.
unsafe impl Sync for MmapRegion {}

impl MmapRegion {
    /// Anonymous memory of `size` bytes, private to this process, all zero.
    ///
    /// # Errors
    ///
    /// As for [`MmapRegionBuilder::build`].
    pub fn new(size: usize) -> Result<Self, Error> {
        Self::builder(size).build()
    }

    /// The `size` bytes of a file from a position on, shared with all who map it.
    ///
    /// # Errors
    ///
    /// As for [`MmapRegionBuilder::build`].
    pub fn from_file(file: FileOffset, size: usize) -> Result<Self, Error> {
        Self::builder(size).file(file).build()
    }

    /// A mapping of `size` bytes, to be described further.
    pub fn builder(size: usize) -> MmapRegionBuilder {
        MmapRegionBuilder::new(size)
    }

    /// The `size` bytes of private anonymous memory at `start` that somebody else has mapped, and will unmap. What is
    /// mapped otherwise is described by [`MmapRegionBuilder::from_raw`].
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::TooLarge`], `Error::FaultRecovery`.
    ///
    /// # Safety
    ///
    /// The bytes are mapped, readable and writable, as long as the value lives. No reference to them exists in that
    /// time: whoever has the value may write them at any time, as may a guest.
    pub unsafe fn from_raw(start: NonNull<u8>, size: usize) -> Result<Self, Error> {
        // SAFETY: the caller vouches for the mapping, which is what a builder that was told nothing describes.
        unsafe { Self::builder(size).from_raw(start) }
    }

    /// Returns the file that is mapped, and the position where the mapping begins; `None` for anonymous memory. A private
    /// mapping holds other bytes than its file where it was written or discarded.
    pub fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    /// Whether it can be read and not written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    pub(super) fn set_read_only(&self, on: bool) {
        self.read_only.store(on, Ordering::Relaxed);
    }

    /// The size of the pages in the hugetlb pool that it is made of; `None` for other memory.
    pub fn hugetlb(&self) -> Option<HugePageSize> {
        HugePageSize::new(self.page as u64).filter(|_| self.is_hugetlb)
    }

    /// All of it, for the region that takes it over.
    #[inline(always)]
    pub(super) fn as_slice(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping has `size` bytes and lives as long as the borrow of `self` (invariant). Nothing makes a
        // reference to its bytes, and all accesses are made through slices.
        unsafe { VolatileSlice::new(self.start.as_ptr(), self.size) }
    }
}

// SAFETY: `subslice` answers as the contract wants, from the mapping's place and size, which do not change.
unsafe impl VolatileMemory for MmapRegion {
    fn len(&self) -> usize {
        self.size
    }
    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        self.as_slice().subslice(offset, count)
    }
}

impl fmt::Debug for MmapRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmapRegion({:p}, {:#x} bytes", self.start, self.size)?;
        if let Some(at) = &self.file {
            write!(f, ", {:?} from {:#x}", at.file(), at.start())?;
        }
        f.write_str(")")
    }
}
