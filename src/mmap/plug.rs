//! Parts of a region that are memory, or only room for it: as virtio-mem plugs and unplugs them.

use std::ops::Range;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::build::refused;
use super::guest_region::index;
use super::options::Sharing;
use super::protect::Stuck;
use super::ranges::Ranges;
use super::{Error, GuestRegionMmap, MmapRegion, Protection, Step};
use crate::guest_memory::{PlugState, RegionRange};
use crate::{GuestMemoryRegion, GuestUsize, MemoryRegionAddress};

/// Parts of it may be unplugged: room for memory that a guest is given, or gives back, while it runs (VIRTIO 1.2, 5.15). Of
/// a region that others mirror, by [`GuestMemoryAtomic::unplug`](crate::GuestMemoryAtomic::unplug), which tells them.
///
/// ```
/// use memory_model::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress, MmapRegion, guest_memory};
///
/// let room = MmapRegion::builder(8 << 20).memfd("virtio-mem").build()?;
/// let room = GuestRegionMmap::new(room, GuestAddress(0x1_0000_0000))?;
/// # if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) || std::env::var_os("CROSS_RUNNER").is_some() {
/// #     return Ok(());
/// # }
/// room.unplug(MemoryRegionAddress(0), 8 << 20)?;
/// room.plug(MemoryRegionAddress(0x20_0000), 0x20_0000)?; // a block of 2 MiB
/// room.write_obj(7_u8, MemoryRegionAddress(0x3f_ffff))?;
/// let past = room.write_slice(b"ab", MemoryRegionAddress(0x3f_ffff)).unwrap_err();
/// let wanted = GuestAddress(0x1_0040_0000);
/// assert!(matches!(past, guest_memory::Error::Fault { addr, completed: 1 } if addr == wanted));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl GuestRegionMmap {
    /// Gives `len` bytes from `offset` back to the host, and lets nobody access them: what they held is gone, of shared
    /// memory for all who map it, and **in the file**. What is unplugged already stays so. No bytes are none to unplug, at
    /// any offset.
    ///
    /// From then on an access is [`Fault`](crate::guest_memory::Error::Fault) at the first byte that is unplugged, through
    /// whatever has the region, also slices from before; a system call that is given such bytes answers EFAULT, and so does
    /// a hypervisor whose guest touches them. One that runs meanwhile is done or faults. Those that go on by other ways must
    /// have ended: devices with a mapping of their own (VFIO), peers, I/O that the kernel has taken pages for.
    ///
    /// A private mapping of a file gets anonymous memory in the file's place, as [`MmapRegion::discard`] describes. Where the
    /// kernel refuses to map it, the part is filled with zeros instead, which stay in memory; a write by another thread at
    /// that moment may then remain.
    ///
    /// Accesses to what is plugged pay nothing for it: the protection of the pages refuses the others. Each part that differs
    /// from its neighbours is a mapping to the kernel, of which it has at most `vm.max_map_count`.
    ///
    /// Nothing is marked as dirty, as there is nothing to read. What was marked before stays marked: who copies what a log
    /// has, asks [`is_plugged`](Self::is_plugged), or takes the fault for an answer; and tells the other side what is
    /// unplugged.
    ///
    /// # Errors
    ///
    /// Nothing was done: [`Error::OutOfBounds`]; [`Error::PartOfPage`] (a page is the host's, or a huge one of the hugetlb
    /// pool; the last one ends with the region); [`Error::Unrecovered`]; [`Error::ReadOnly`]; [`Error::Borrowed`].
    ///
    /// [`Error::Refused`] by the kernel: all is plugged as before. If it was of [`Step::Discard`], [`Step::Zero`] or [`Step::Lock`], some
    /// pages may be gone, and all are marked as dirty. [`Error::NotUndone`]: if the kernel refuses that, too.
    pub fn unplug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), Error> {
        let Some(range) = self.checked(offset, len, PlugState::Unplugged)? else { return Ok(()) };
        let mut unplugged = self.unplugged_alone();
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        self.withdraw(&mut unplugged, range)
    }

    /// Lets `len` bytes from `offset` be accessed again, as the region's [protection](Self::protect) is by then. What was
    /// unplugged reads as zero and is marked as dirty. (In a private mapping of a file with
    /// [`Discarded::File`](super::Discarded::File) it reads as the file.) What is plugged
    /// already stays as it is. No bytes are none to plug, at any offset.
    ///
    /// # Errors
    ///
    /// Nothing was done: [`Error::OutOfBounds`], [`Error::PartOfPage`], [`Error::Borrowed`]; [`Error::Refused`] by the
    /// kernel. [`Error::NotUndone`]: some is plugged, as [`unplugged_ranges`](Self::unplugged_ranges) tells.
    pub fn plug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), Error> {
        let Some(range) = self.checked(offset, len, PlugState::Plugged)? else { return Ok(()) };
        let mut unplugged = self.unplugged_alone();
        let parts: Vec<_> = unplugged.inside(range).collect();
        let (plugged, answer) = match self.mapping.open(parts.iter().cloned()) {
            Ok(()) => (parts, Ok(())),
            Err(stuck) => (stuck.parts.clone(), Err(stuck.error())),
        };
        for part in plugged {
            unplugged.remove(&part);
            self.mark(&part);
        }
        answer
    }

    /// What is unplugged, ascending; ranges that touch are one. Others may change it at any time.
    pub fn unplugged_ranges(&self) -> Vec<RegionRange> {
        self.unplugged().iter().map(|part| self.region_range(part)).collect()
    }

    /// What is not unplugged: where there is something to copy, or for a device to reach.
    pub fn plugged_ranges(&self) -> Vec<RegionRange> {
        self.unplugged().outside(0..self.mapping.size).map(|part| self.region_range(part)).collect()
    }

    /// Whether all of `len` bytes from `offset` are in the region, and none is unplugged.
    pub fn is_plugged(&self, offset: MemoryRegionAddress, len: GuestUsize) -> bool {
        let Ok(range) = self.range(offset, len) else { return false };
        self.unplugged().inside(range).next().is_none()
    }

    /// Lets the memory be read only, or written again: see [`MmapRegion::protect`]. What is unplugged is not accessible
    /// either way; it is as told last, when it is plugged.
    ///
    /// # Errors
    ///
    /// As for [`MmapRegion::protect`]; [`Error::NotUndone`] if parts stay as they were to be.
    pub fn protect(&self, protection: Protection) -> Result<(), Error> {
        let len = self.mapping.own_len("another protection")?;
        let unplugged = self.unplugged_alone();
        self.mapping.protect_parts(protection, unplugged.outside(0..len))
    }

    /// As [`unplug`](Self::unplug), of what was plugged and nobody wanted: also where it is read-only, as it holds nothing.
    pub(crate) fn take_back(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), Error> {
        let Some(range) = self.checked(offset, len, PlugState::Unplugged)? else { return Ok(()) };
        self.withdraw(&mut self.unplugged_alone(), range)
    }

    /// What plugging or unplugging a range would change, if it can be.
    pub(crate) fn changes(
        &self,
        offset: MemoryRegionAddress,
        len: GuestUsize,
        to: PlugState,
    ) -> Result<Vec<RegionRange>, Error> {
        let Some(range) = self.checked(offset, len, to)? else { return Ok(Vec::new()) };
        let unplugged = self.unplugged();
        if to == PlugState::Plugged {
            return Ok(unplugged.inside(range).map(|part| self.region_range(part)).collect());
        }
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        Ok(unplugged.outside(range).map(|part| self.region_range(part)).collect())
    }

    /// What is unplugged, which nobody changes meanwhile.
    pub(super) fn unplugged(&self) -> RwLockReadGuard<'_, Ranges> {
        self.details.unplugged.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn unplugged_alone(&self) -> RwLockWriteGuard<'_, Ranges> {
        self.details.unplugged.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range of bytes of the region.
    fn range(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<Range<usize>, Error> {
        let size = self.len();
        match offset.0.checked_add(len) {
            Some(end) if end <= size => Ok(index(offset.0)..index(end)),
            _ => Err(Error::OutOfBounds { offset: offset.0, len, size }),
        }
    }

    /// A range, as whole pages that can be plugged or unplugged; `None` if it has no byte.
    fn checked(
        &self,
        offset: MemoryRegionAddress,
        len: GuestUsize,
        to: PlugState,
    ) -> Result<Option<Range<usize>>, Error> {
        if len == 0 {
            return Ok(None);
        }
        let range = self.range(offset, len)?;
        let (size, page) = (self.mapping.size, self.mapping.page);
        let whole = self.mapping.own_len("unplugged parts")?;
        // Of its last page a mapping may have a part only.
        let end = if range.end == size { whole } else { range.end };
        if range.start % page != 0 || end % page != 0 {
            return Err(Error::PartOfPage { offset: offset.0, len, page_size: page as u64 });
        }
        if to == PlugState::Unplugged && !crate::access::recovers() {
            return Err(Error::Unrecovered);
        }
        Ok(Some(range.start..end))
    }

    /// Unplugs what is plugged of whole pages. First nobody can access them any more, so that none is made again once it is
    /// given back.
    fn withdraw(&self, unplugged: &mut Ranges, range: Range<usize>) -> Result<(), Error> {
        let parts: Vec<_> = unplugged.outside(range).collect();
        if let Err(stuck) = self.mapping.close(parts.iter().cloned()) {
            for part in &stuck.parts {
                unplugged.insert(part.clone());
            }
            return Err(stuck.error());
        }
        let Err(cause) = parts.iter().try_for_each(|part| self.mapping.give_back_closed(part)) else {
            for part in parts {
                unplugged.insert(part);
            }
            return Ok(());
        };
        let mut stuck = Stuck { cause, undo: None, parts: Vec::new() };
        for part in parts {
            match self.mapping.open(std::iter::once(part.clone())) {
                // Some of its pages may be gone.
                Ok(()) => self.mark(&part),
                Err(undo) => {
                    unplugged.insert(part.clone());
                    stuck.undo = Some(undo.cause);
                    stuck.parts.push(part);
                }
            }
        }
        Err(stuck.error())
    }

    /// Marks pages that hold something else now.
    fn mark(&self, part: &Range<usize>) {
        let RegionRange { offset, len } = self.region_range(part.clone());
        self.tracker.mark(self.tracker.base().wrapping_add(offset.0), index(len));
    }

    /// Whole pages, as far as they are of the region.
    fn region_range(&self, part: Range<usize>) -> RegionRange {
        let end = part.end.min(self.mapping.size);
        RegionRange { offset: MemoryRegionAddress(part.start as u64), len: end.saturating_sub(part.start) as u64 }
    }
}

impl MmapRegion {
    /// Gives back whole pages that nobody may access.
    fn give_back_closed(&self, part: &Range<usize>) -> Result<(), Error> {
        let given_back = self.give_back(part.start, part.len(), true);
        let (Err(Error::Refused { step: Step::Discard, source, .. }), Some(at)) = (&given_back, self.file_offset())
        else {
            return given_back;
        };
        // A hole in a file that is mapped privately would be in the file of others.
        if self.sharing == Sharing::Private || Errno::from_io_error(source) != Some(Errno::ACCESS) {
            return given_back;
        }
        // Before Linux 6.7 `MADV_REMOVE` is for pages that may be written.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (start, len) = (at.start().saturating_add(part.start as u64), part.len() as u64);
        rustix::fs::fallocate(at.file(), flags, start, len).map_err(|errno| refused(Step::Discard, part.len(), errno))
    }
}
