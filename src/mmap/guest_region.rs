use super::{FileOffset, MmapRegion};
use crate::bytes::forward_bytes;
use crate::dirty::Tracker;
use crate::guest_memory::{Error, RegionError};
use crate::{Address, GuestAddress, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress, VolatileMemory};

/// A mapping at a guest address: a region of [`GuestMemoryMmap`](super::GuestMemoryMmap).
///
/// It reads and writes by offset ([`MemoryRegionAddress`]) and, as far as it reaches, by [`GuestAddress`]. The mapping is
/// no longer to be had by itself, as what is written past the region is not tracked.
#[derive(Debug)]
pub struct GuestRegionMmap {
    mapping: MmapRegion,
    start: GuestAddress,
    tracker: Tracker,
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
            Some(_) => Ok(Self { mapping, start, tracker: Tracker::new() }),
            None => Err(RegionError::Wraps { start, len }),
        }
    }

    /// The region's switch for dirty tracking.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// All of the region.
    #[inline]
    fn whole(&self) -> GuestSlice<'_> {
        GuestSlice::new(self.mapping.as_slice(), Some(&self.tracker), self.start)
    }
}

/// An offset as the slice's index. One too large for the host is past the end of every slice, as `usize::MAX` is.
#[inline]
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

forward_bytes! {
    impl Bytes<MemoryRegionAddress> for GuestRegionMmap {
        |self, addr| self.whole(), index(addr.0);
        |error| match error {
            Error::OutOfBounds { len, .. } => Error::OutOfBounds { offset: addr.0, len },
            other => other,
        }
    }
}

forward_bytes! {
    impl Bytes<GuestAddress> for GuestRegionMmap {
        // Below the start the difference wraps to past the end: the region ends at or below the last address.
        |self, addr| self.whole(), index(addr.0.wrapping_sub(self.start.0));
        |error| match error {
            Error::OutOfBounds { .. } => Error::InvalidGuestAddress(addr),
            other => other,
        }
    }
}

impl GuestMemoryRegion for GuestRegionMmap {
    #[inline]
    fn len(&self) -> GuestUsize {
        self.mapping.len() as u64
    }

    #[inline]
    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        self.whole().subslice(index(offset.0), count)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.mapping.file_offset()
    }
}
