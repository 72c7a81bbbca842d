#![expect(unsafe_code, reason = "maps and unmaps memory, and hands out slices of it")]

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::builder::Sharing;
use super::{Error, FileOffset, MmapRegionBuilder};
use crate::{VolatileMemory, VolatileSlice, volatile_memory};

/// A mapping of memory into this process, readable and writable, that is unmapped when it is dropped.
///
/// It has no guest address yet: see [`GuestRegionMmap`](super::GuestRegionMmap). Its pages are made when they are first
/// touched, and are then zero or the file's.
pub struct MmapRegion {
    /// # Invariant
    /// `size` bytes from `start` are a mapping of this value's own, until it is dropped, and `size <= isize::MAX`.
    start: NonNull<u8>,
    size: usize,
    file: Option<FileOffset>,
    read_only: AtomicBool,
}

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

    /// The file that is mapped, and where in it the mapping begins; `None` for anonymous memory.
    pub fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    /// Whether it can be read and not written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    pub(super) fn map(builder: MmapRegionBuilder) -> Result<Self, Error> {
        #[cfg(feature = "fault-recovery")]
        let fault_recovery = builder.fault_recovery;
        let MmapRegionBuilder { size, file, sharing, .. } = builder;
        if size == 0 {
            return Err(Error::Empty);
        }
        if isize::try_from(size).is_err() {
            return Err(Error::TooLarge { size });
        }
        #[cfg(feature = "fault-recovery")]
        if fault_recovery {
            crate::fault_recovery::install().map_err(Error::FaultRecovery)?;
        }
        let usual = if file.is_some() { Sharing::Shared } else { Sharing::Private };
        let sharing = match sharing.unwrap_or(usual) {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        // A guest is given more than it will touch: what it does touch is accounted for then.
        let flags = sharing | MapFlags::NORESERVE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let mapped = match &file {
            Some(at) => {
                check_file(at, size)?;
                // SAFETY: at an address of the kernel's choice, so no other mapping is replaced.
                unsafe { rustix::mm::mmap(ptr::null_mut(), size, access, flags, at.file(), at.start()) }
            }
            // SAFETY: as above.
            None => unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), size, access, flags) },
        };
        let start = mapped.map_err(|errno| Error::Map { size, source: errno.into() })?;
        // The kernel maps nothing at address 0 unless asked to; rustix has made MAP_FAILED an error.
        let start = NonNull::new(start.cast()).ok_or(Error::Empty)?;
        Ok(Self { start, size, file, read_only: AtomicBool::new(false) })
    }

    /// All of it, for the region that takes it over.
    #[inline(always)]
    pub(super) fn as_slice(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping has `size` bytes and lives as long as the borrow of `self` (invariant). Nothing makes a
        // reference to its bytes, and all accesses are made through slices.
        unsafe { VolatileSlice::new(self.start.as_ptr(), self.size) }
    }
}

/// Whether a file has all of the `size` bytes that are to be mapped, from a whole page on.
fn check_file(at: &FileOffset, size: usize) -> Result<(), Error> {
    let (start, page_size) = (at.start(), rustix::param::page_size());
    if start % page_size as u64 != 0 {
        return Err(Error::MisalignedFileOffset { start, page_size });
    }
    let metadata = at.file().metadata().map_err(Error::FileLength)?;
    // A device's length is its driver's business.
    if metadata.is_file() && start.checked_add(size as u64).is_none_or(|end| end > metadata.len()) {
        return Err(Error::PastEndOfFile { start, size, file_len: metadata.len() });
    }
    Ok(())
}

impl Drop for MmapRegion {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own (invariant), and the slices borrowed from it are gone.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of our own failed: {unmapped:?}");
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
