//! Discard: pages given back to the host, as a balloon and free page reporting want it.

#![expect(unsafe_code, reason = "tells the kernel to forget pages")]

use rustix::io::Errno;
use rustix::mm::{Advice, MlockFlags};

use super::build::refused;
use super::guest_region::index;
use super::options::Sharing;
use super::pieces::pieces;
use super::{Error, GuestMemoryMmap, GuestRegionMmap, Lock, MmapRegion, Step};
use crate::{Address, GuestAddress, GuestUsize, MemoryRegionAddress, VolatileMemory};

impl MmapRegion {
    /// Gives whole pages back to the host, and returns the number of bytes that were discarded. They read as zero
    /// afterwards.
    ///
    /// The range of `len` bytes from `offset` is rounded inwards to whole pages: of the host, or of the hugetlb pool. All
    /// other bytes keep their contents. The result is 0 if there is no whole page in the range, or if `len` is 0. A range
    /// of 0 bytes is valid at every offset.
    ///
    /// The policies of the mapping stay in force: NUMA policy, locks, advice, protection.
    ///
    /// | mapping | system call | contents afterwards |
    /// |---|---|---|
    /// | private, anonymous | `MADV_DONTNEED` | zero |
    /// | shared: memfd, file, anonymous | `MADV_REMOVE`, `MADV_DONTNEED` | zero, in all mappings; **a hole in the file** |
    /// | private, of a file | `MADV_DONTNEED`, mremap(2) or a write | zero |
    /// | the same, with [`Discarded::File`](super::Discarded::File) | `MADV_DONTNEED` | the file's bytes |
    ///
    /// # Private mappings of a file
    ///
    /// `MADV_DONTNEED` alone would show the file again, so anonymous memory with the same policies replaces the pages. The
    /// kernel replaces them in one step: concurrent accesses find the old contents, for a moment the file's, or zeros, and
    /// never fault.
    ///
    /// * Adjacent ranges become one mapping. All regions of a process together get at most 8,192 such ranges, which need
    ///   up to 16,384 of the 65,530 mappings that a process may have (`vm.max_map_count`). Ranges that were
    ///   [unplugged](GuestRegionMmap::unplug) count, but are not limited.
    /// * Beyond that number, zeros are written into private copies of the pages. **Such pages stay in the host's memory**,
    ///   at one page each. They count in the result, as their contents are gone. Pages that touch a range still join it.
    /// * The same is done where the kernel or a seccomp filter refuses to map (mmap(2), munlock(2), mprotect(2),
    ///   madvise(2), mbind(2), mremap(2)): on Linux before 5.7, or without room in `RLIMIT_AS` for as many addresses as
    ///   the mapping has; for borrowed mappings; and for files in the hugetlb pool, unless they have no pages at all.
    /// * The first discard maps as many addresses again, without pages. A later `mlockall(MCL_CURRENT)` would populate them: call
    ///   it before.
    /// * What others have set by address is lost in these ranges: protection, guards (`MADV_GUARD_INSTALL`), registration
    ///   with a userfaultfd. `/proc/PID/maps` does not name the file there.
    ///
    /// # Userfaultfd
    ///
    /// A userfaultfd that is registered for the range receives `UFFD_EVENT_REMOVE`, twice for a shared mapping. This method
    /// returns after another thread has read the events. Pages that `UFFDIO_POISON` marked can be accessed again. See
    /// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html),
    /// [ioctl_userfaultfd(2)](https://man7.org/linux/man-pages/man2/ioctl_userfaultfd.2.html).
    ///
    /// ```
    /// use memory_model::{Bytes, VolatileMemory, mmap::MmapRegion};
    ///
    /// let region = MmapRegion::builder(0x10_0000).memfd("guest").build()?;
    /// region.as_volatile_slice().fill(7, 0x10_0000, 0)?;
    /// assert!(region.discard(1, 0x8_0000)? < 0x8_0000, "neither the first page nor the last is whole in the range");
    /// assert_eq!(region.as_volatile_slice().read_obj::<u8>(0)?, 7);
    /// # if std::env::var_os("CROSS_RUNNER").is_none() {
    /// assert_eq!(region.as_volatile_slice().read_obj::<u8>(0x4_0000)?, 0);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] and [`Error::ReadOnly`]: nothing was done. [`Error::Refused`] if the kernel refuses a step, for
    /// example because the file system has no holes: some pages may be discarded and others not. After [`Step::Zero`],
    /// which is a page that cannot be written, pages of a private mapping may show the file.
    pub fn discard(&self, offset: usize, len: usize) -> Result<usize, Error> {
        let Some((start, len)) = self.whole_pages(offset, len)? else { return Ok(0) };
        self.give_back(start, len, false)?;
        Ok(len)
    }

    /// The whole pages among `len` bytes from `offset`, as an offset and a length; `None` if there is none.
    fn whole_pages(&self, offset: usize, len: usize) -> Result<Option<(usize, usize)>, Error> {
        if len == 0 {
            return Ok(None);
        }
        let bounds = |_| Error::OutOfBounds { offset: offset as u64, len: len as u64, size: self.size as u64 };
        let bytes = self.get_slice(offset, len).map_err(bounds)?;
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        // Host addresses, as a borrowed mapping may begin anywhere.
        let before = bytes.as_ptr().addr().wrapping_neg() % self.page;
        let whole = len.saturating_sub(before) / self.page * self.page;
        Ok((whole > 0).then_some((offset.saturating_add(before), whole)))
    }

    /// Gives back `len` bytes from `offset`, which are whole pages of the mapping. `closed` says that nobody may access
    /// them.
    pub(super) fn give_back(&self, offset: usize, len: usize, closed: bool) -> Result<(), Error> {
        let start = self.start.as_ptr().wrapping_add(offset).cast();
        let refused = |step| move |errno| refused(step, len, errno);
        let advise = |advice| {
            // SAFETY: the pages are this mapping's, whose bytes anybody may change who has it, and are accessed through
            // slices only, for which the guest may change them, too.
            unsafe { rustix::mm::madvise(start, len, advice) }
        };
        // Where all that the process maps is locked (mlockall), `MADV_DONTNEED` is invalid. Returns whether it was.
        let unmap = || match advise(Advice::LinuxDontNeed) {
            Err(Errno::INVAL) => advise(Advice::LinuxDontneedLocked).map(|()| true),
            answer => answer.map(|()| false),
        };
        if self.sharing == Sharing::Private {
            // Also of pages that are mapped anew below: it tells a userfaultfd.
            let lock = if unmap().map_err(refused(Step::Discard))? { Lock::OnFault } else { self.lock };
            if !self.shows_file()? {
                return Ok(());
            }
            return self.hide_file(offset..offset.saturating_add(len), closed, lock);
        }
        let remove = || {
            let removed = advise(Advice::LinuxRemove);
            if removed != Err(Errno::INVAL) {
                // A hole leaves markers of userfaultfd (UFFDIO_POISON) in the page table. Where this is refused, access to
                // such a page stays an error.
                match unmap() {
                    Ok(_) | Err(_) => {}
                }
            }
            removed
        };
        // `MADV_REMOVE` is invalid where memory is locked, and no advice removes locked pages of shared memory. They are
        // locked again as they are touched, as private ones are after `MADV_DONTNEED_LOCKED`.
        match remove() {
            Err(Errno::INVAL) => {
                // SAFETY: whether pages are locked changes no byte of them.
                unsafe { rustix::mm::munlock(start, len) }.map_err(refused(Step::Lock))?;
                let removed = remove();
                // What is invalid still had another reason, and was not locked unless we have locked it.
                if removed != Err(Errno::INVAL) || self.lock != Lock::None {
                    // SAFETY: as above.
                    unsafe { rustix::mm::mlock_with(start, len, MlockFlags::ONFAULT) }.map_err(refused(Step::Lock))?;
                }
                removed
            }
            answer => answer,
        }
        .map_err(refused(Step::Discard))
    }

    /// Whether a discarded page would show a file, and should not.
    fn shows_file(&self) -> Result<bool, Error> {
        let Some(at) = self.file.as_ref().filter(|_| self.hides_file) else { return Ok(false) };
        if !self.is_hugetlb {
            return Ok(true);
        }
        // A private mapping makes no pages in a file of hugetlbfs. One without any, as a new memfd, reads as zero.
        let status = rustix::fs::fstat(at.file()).map_err(|errno| refused(Step::FileLength, self.size, errno))?;
        Ok(status.st_blocks != 0)
    }
}

impl GuestRegionMmap {
    /// Discards whole pages as [`MmapRegion::discard`] does, marks them as dirty, and returns the number of bytes.
    /// [Unplugged](Self::unplug) pages are skipped and do not count. The range is rounded inwards to whole pages, and the
    /// result may be 0.
    ///
    /// # Errors
    ///
    /// As for [`MmapRegion::discard`], whatever a guest chooses as the length.
    pub fn discard(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<GuestUsize, Error> {
        let (offset, len) = (index(offset.0), index(len));
        let Some((start, len)) = self.mapping.whole_pages(offset, len)? else { return Ok(0) };
        let mut given_back: u64 = 0;
        for part in self.unplugged().outside(start..start.saturating_add(len)) {
            let answer = self.mapping.give_back(part.start, part.len(), false);
            // Also where only some of them may be gone.
            self.tracker.mark(self.tracker.base().wrapping_add(part.start as u64), part.len());
            answer?;
            given_back = given_back.saturating_add(part.len() as u64);
        }
        Ok(given_back)
    }
}

impl GuestMemoryMmap {
    /// Discards the whole pages among `len` bytes at `addr`, in one region or in adjacent ones, and returns the number of
    /// bytes. They are marked as dirty. See [`MmapRegion::discard`]: the range is rounded inwards to whole pages in each
    /// region, and the result may be 0.
    ///
    /// ```
    /// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};
    ///
    /// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(1 << 20), 1 << 20)])?;
    /// mem.fill(7, 2 << 20, GuestAddress(0))?;
    /// assert_eq!(mem.discard(GuestAddress(0x8_0000), 0x10_0000)?, 0x10_0000);
    /// assert!(mem.discard(GuestAddress(0x8_0000), u64::MAX).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Hole`] or [`Error::Wraps`] if not all of it is memory, and [`Error::ReadOnly`]: then nothing was done.
    /// [`Error::Discard`] if the kernel refuses.
    pub fn discard(&self, addr: GuestAddress, len: GuestUsize) -> Result<GuestUsize, Error> {
        self.discard_ranges([(addr, len)])
    }

    /// As [`discard`](Self::discard), for many ranges: pairs of an address and a length in bytes, in any order, that may
    /// overlap. They are sorted and merged, checked as a whole, and then given back with one system call for each that
    /// remains and region that it is in (several for memory that is not private and anonymous). What free page reporting needs (VIRTIO 1.2, 5.5.6.7).
    ///
    /// # Errors
    ///
    /// As for [`discard`](Self::discard).
    pub fn discard_ranges(
        &self,
        ranges: impl IntoIterator<Item = (GuestAddress, GuestUsize)>,
    ) -> Result<GuestUsize, Error> {
        let mut given_back: u64 = 0;
        let pieces = pieces(self, merge(ranges)?)?;
        if pieces.iter().any(|piece| piece.region.mapping.is_read_only()) {
            return Err(Error::ReadOnly);
        }
        for piece in &pieces {
            match piece.region.discard(piece.offset, piece.len) {
                Ok(len) => given_back = given_back.saturating_add(len),
                Err(error) => {
                    let addr = GuestAddress(piece.region.tracker.base().wrapping_add(piece.offset.0));
                    return Err(Error::Discard { addr, given_back, source: Box::new(error) });
                }
            }
        }
        Ok(given_back)
    }

    /// As [`discard_ranges`](Self::discard_ranges), for pages of `page_size` bytes that are told by their numbers, as a
    /// balloon's are (VIRTIO 1.2, 5.5.6: of 4096 bytes, whatever the guest's pages are). Where the host's pages are
    /// larger, a page is discarded if all of its parts are listed. The result may be 0.
    ///
    /// ```
    /// use memory_model::{GuestAddress, GuestMemoryMmap};
    ///
    /// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)])?;
    /// let inflate: Vec<u32> = (0..2048).rev().collect(); // as the driver happened to find them
    /// assert_eq!(mem.discard_pages(inflate.iter().copied().map(u64::from), 4096)?, 8 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`discard`](Self::discard), and [`Error::PageNumber`].
    pub fn discard_pages(
        &self,
        numbers: impl IntoIterator<Item = u64>,
        page_size: GuestUsize,
    ) -> Result<GuestUsize, Error> {
        let range = |number: u64| match number.checked_mul(page_size) {
            Some(addr) => Ok((GuestAddress(addr), page_size)),
            None => Err(Error::PageNumber { number, page_size }),
        };
        self.discard_ranges(numbers.into_iter().map(range).collect::<Result<Vec<_>, _>>()?)
    }
}

/// Ranges, sorted; those that overlap or touch are one.
fn merge(
    ranges: impl IntoIterator<Item = (GuestAddress, GuestUsize)>,
) -> Result<Vec<(GuestAddress, GuestUsize)>, Error> {
    let mut ranges: Vec<_> = ranges.into_iter().filter(|&(_, len)| len > 0).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(GuestAddress, GuestUsize)> = Vec::new();
    for (addr, len) in ranges {
        if addr.checked_add(len - 1).is_none() {
            return Err(Error::Wraps { addr, len });
        }
        match merged.last_mut() {
            // It begins in the one before or right behind, and does not end before that.
            Some((first, before)) if addr.0 - first.0 <= *before => {
                *before = (*before).max((addr.0 - first.0).saturating_add(len));
            }
            _ => merged.push((addr, len)),
        }
    }
    Ok(merged)
}
