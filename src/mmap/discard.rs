//! Pages given back to the host, as a balloon and free page reporting want it.

#![expect(unsafe_code, reason = "tells the kernel to forget pages")]

use rustix::mm::{Advice, MlockFlags};

use super::guest_region::index;
use super::options::Sharing;
use super::pieces::pieces;
use super::{Error, GuestMemoryMmap, GuestRegionMmap, Lock, MmapRegion, Step};
use crate::{Address, GuestAddress, GuestUsize, MemoryRegionAddress, VolatileMemory};

impl MmapRegion {
    /// Gives back to the host the whole pages among `len` bytes from `offset`, and answers how many bytes that were. What
    /// they held is gone: they read as zero, or as the file, where that is mapped privately.
    ///
    /// A page is the host's, or a huge one of the hugetlb pool. Bytes of pages that are not whole in the range stay as
    /// they are. Whatever was said of the mapping (its NUMA policy, its locks, its advice) holds for the pages that come
    /// in their place.
    ///
    /// | memory | by | then |
    /// |---|---|---|
    /// | private | `MADV_DONTNEED` | zero, or the file's bytes |
    /// | shared: a memfd, a file, anonymous | `MADV_REMOVE` | zero, for all who map it; **a hole in the file** |
    ///
    /// Either is told to a userfaultfd that is registered for the range and wants to know (`UFFD_EVENT_REMOVE`): the call
    /// then returns when the event has been read, which must be done by another thread. `FALLOC_FL_PUNCH_HOLE` on the
    /// file would do the same as `MADV_REMOVE` and not tell it.
    ///
    /// No bytes are none to give back, at any offset. Sources:
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
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`]; [`Error::Refused`] by a file system that has no holes, for instance:
    /// then some pages may be gone, and others not.
    pub fn discard(&self, offset: usize, len: usize) -> Result<usize, Error> {
        let Some((start, len)) = self.whole_pages(offset, len)? else { return Ok(0) };
        self.give_back(start, len)?;
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

    /// Gives back `len` bytes from `offset`, which are whole pages of the mapping.
    pub(super) fn give_back(&self, offset: usize, len: usize) -> Result<(), Error> {
        let start = self.start.as_ptr().wrapping_add(offset).cast();
        let refused = |step| move |errno: rustix::io::Errno| Error::Refused { step, size: len, source: errno.into() };
        let advise = |advice| {
            // SAFETY: the pages are this mapping's, whose bytes anybody may change who has it, and are accessed through
            // slices only, for which the guest may change them, too.
            unsafe { rustix::mm::madvise(start, len, advice) }
        };
        match self.sharing {
            // Where all that the process maps is locked (mlockall), `MADV_DONTNEED` is invalid.
            Sharing::Private => match advise(Advice::LinuxDontNeed) {
                Err(rustix::io::Errno::INVAL) => advise(Advice::LinuxDontneedLocked),
                answer => answer,
            }
            .map_err(refused(Step::Discard)),
            // So is `MADV_REMOVE`, and no advice removes locked pages of shared memory. They are locked again as they are
            // touched, as private ones are after `MADV_DONTNEED_LOCKED`.
            Sharing::Shared => match advise(Advice::LinuxRemove) {
                Err(rustix::io::Errno::INVAL) => {
                    // SAFETY: whether pages are locked changes no byte of them.
                    unsafe { rustix::mm::munlock(start, len) }.map_err(refused(Step::Lock))?;
                    let removed = advise(Advice::LinuxRemove);
                    // What is invalid still had another reason, and was not locked unless we have locked it.
                    if removed != Err(rustix::io::Errno::INVAL) || self.lock != Lock::None {
                        // SAFETY: as above.
                        unsafe { rustix::mm::mlock_with(start, len, MlockFlags::ONFAULT) }
                            .map_err(refused(Step::Lock))?;
                    }
                    removed
                }
                answer => answer,
            }
            .map_err(refused(Step::Discard)),
        }
    }
}

impl GuestRegionMmap {
    /// As [`MmapRegion::discard`], for bytes from an offset; and pages that were given back are marked as dirty. What is
    /// [unplugged](Self::unplug) has none to give back, and does not count.
    ///
    /// # Errors
    ///
    /// As for [`MmapRegion::discard`], whatever a guest chooses as the length.
    pub fn discard(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<GuestUsize, Error> {
        let (offset, len) = (index(offset.0), index(len));
        let Some((start, len)) = self.mapping.whole_pages(offset, len)? else { return Ok(0) };
        let mut given_back: u64 = 0;
        for part in self.unplugged().outside(start..start.saturating_add(len)) {
            let answer = self.mapping.give_back(part.start, part.len());
            // Also where only some of them may be gone.
            self.tracker.mark(self.tracker.base().wrapping_add(part.start as u64), part.len());
            answer?;
            given_back = given_back.saturating_add(part.len() as u64);
        }
        Ok(given_back)
    }
}

impl GuestMemoryMmap {
    /// Gives back to the host the whole pages among `len` bytes at `addr`, in one region or several that touch, and
    /// answers how many bytes that were: see [`MmapRegion::discard`]. They are marked as dirty.
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
    /// remains and region that it is in. What free page reporting needs (VIRTIO 1.2, 5.5.6.7).
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
    /// larger, those are given back of which all parts are named.
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
