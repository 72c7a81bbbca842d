use super::details::Details;
use super::options::Sharing;
use super::{FileOffset, MmapRegion};
use crate::bytes::forward_bytes;
use crate::dirty::Tracker;
use crate::guest_memory::{Error, RegionError};
use crate::{
    Address, GuestAddress, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress, RegionKind, VolatileMemory,
};

/// A mapping at a guest address: a region of [`GuestMemoryMmap`](super::GuestMemoryMmap).
///
/// It reads and writes by offset ([`MemoryRegionAddress`]) and, as far as it reaches, by [`GuestAddress`]. The mapping is
/// no longer to be had by itself, as what is written past the region is not tracked.
#[derive(Debug)]
#[repr(C, align(64))] // what an access needs of it is the first cache line
pub struct GuestRegionMmap {
    /// Its base is the region's first address.
    pub(super) tracker: Tracker,
    pub(super) mapping: MmapRegion,
    pub(super) details: Details,
}

impl GuestRegionMmap {
    /// The region whose first byte, at guest address `start`, is the mapping's first.
    ///
    /// # Errors
    ///
    /// [`RegionError::Wraps`] if it would go past the end of the address space.
    pub fn new(mapping: MmapRegion, start: GuestAddress) -> Result<Self, RegionError> {
        let len = mapping.len() as u64;
        match start.checked_add(len.saturating_sub(1)) {
            Some(_) => Ok(Self { tracker: Tracker::new(start.0), mapping, details: Details::new() }),
            None => Err(RegionError::Wraps { start, len }),
        }
    }

    /// All of the region.
    #[inline]
    pub(super) fn whole(&self) -> GuestSlice<'_> {
        let slice = GuestSlice::new(self.mapping.as_slice(), Some(&self.tracker), self.start_addr());
        slice.read_only(&self.mapping.read_only)
    }
}

/// An offset as the slice's index. One too large for the host is past the end of every slice, as `usize::MAX` is.
#[inline(always)]
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The error of an access by offset, for a caller who gave a guest address.
#[cold]
#[inline(never)]
fn by_address(error: Error, addr: GuestAddress) -> Error {
    match error {
        Error::OutOfBounds { .. } => Error::InvalidGuestAddress(addr),
        other => other,
    }
}

forward_bytes! {
    impl Bytes<GuestAddress> for GuestRegionMmap {
        // Below the start the difference wraps to past the end: the region ends at or below the last address.
        |self, addr| *self, MemoryRegionAddress(addr.0.wrapping_sub(self.tracker.base()));
        |error| by_address(error, addr)
    }
}

impl GuestMemoryRegion for GuestRegionMmap {
    #[inline(always)]
    fn len(&self) -> GuestUsize {
        self.mapping.len() as u64
    }

    #[inline(always)]
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.tracker.base())
    }

    #[inline]
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        self.whole().subslice(index(offset.0), count)
    }

    #[inline(always)]
    fn find_slice(&self, offset: MemoryRegionAddress, count: usize) -> Option<GuestSlice<'_>> {
        self.whole().find_subslice(index(offset.0), count)
    }

    fn kind(&self) -> RegionKind {
        self.details.kind
    }

    fn tracker(&self) -> Option<&Tracker> {
        Some(&self.tracker)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        // What a private mapping holds is not what others would see in the file.
        self.mapping.file_offset().filter(|_| self.mapping.sharing == Sharing::Shared)
    }
}

// No larger than three cache lines.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<GuestRegionMmap>() <= 192);
