use super::{Error, GuestAddress, GuestSlice, GuestUsize, MemoryRegionAddress, RegionKind};
#[cfg(feature = "std")]
use crate::FileOffset;
use crate::dirty::Tracker;
use crate::{Address, Bytes};

/// A contiguous range of guest-physical memory.
///
/// Its bytes are accessed by offset, through its own [`Bytes<MemoryRegionAddress>`](Bytes): those methods are the ones
/// that the whole memory calls, so a region may be RAM, or run code at each access.
///
/// Whoever implements it gives `len`, `start_addr` and, of `Bytes`, `read` and `write`; and [`get_slice`] where there is
/// host memory behind it. A region begins with a `start_addr` and a `len` that never change, is not empty, and ends at
/// or below address 2^64 - 1. A request that begins past its end is [`Error::OutOfBounds`].
///
/// A region whose pages may be tracked gives [`tracker`](Self::tracker), too; one that is no memory gives
/// [`is_untracked`](Self::is_untracked). An `enum` of regions, or a wrapper around one, forwards all methods by
/// [`forward_region!`](crate::forward_region).
///
/// [`get_slice`]: Self::get_slice
pub trait GuestMemoryRegion: Bytes<MemoryRegionAddress, E = Error> {
    /// The length in bytes.
    fn len(&self) -> GuestUsize;

    /// The first guest address.
    fn start_addr(&self) -> GuestAddress;

    /// What it is to the guest. Unless the implementation says otherwise, a device: its own code answers each access.
    fn kind(&self) -> RegionKind {
        RegionKind::Device
    }

    /// Returns the switch for dirty tracking of this region. All writes mark through it, those of the [slices](Self::get_slice)
    /// too. A region has one tracker, whose base is the address of its slice at offset 0. Regions of different starts or lengths
    /// never share one. The default is `None`: tracking of a memory with such a region is an error, unless the region is
    /// [untracked](Self::is_untracked).
    fn tracker(&self) -> Option<&Tracker> {
        None
    }

    /// Declares that no write to this region has to be tracked, so that it needs no [`tracker`](Self::tracker). The default is
    /// `false`.
    ///
    /// To be returned as `true` where there are no bytes that a copy of the guest's memory has to have: the registers of a
    /// device, whose state the device saves by itself. Not decided by [`kind`](Self::kind), which has a default: memory of a
    /// device, such as a frame buffer, is copied, and its writes are tracked.
    fn is_untracked(&self) -> bool {
        false
    }

    /// Whether there is no byte in it, which no region of a memory is.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last guest address, inclusive.
    fn last_addr(&self) -> GuestAddress {
        GuestAddress(self.start_addr().0.saturating_add(self.len().saturating_sub(1)))
    }

    /// Whether `addr` is an offset in this region.
    fn address_in_range(&self, addr: MemoryRegionAddress) -> bool {
        addr.0 < self.len()
    }

    /// `addr`, if it is an offset in this region.
    fn check_address(&self, addr: MemoryRegionAddress) -> Option<MemoryRegionAddress> {
        self.address_in_range(addr).then_some(addr)
    }

    /// The offset `offset` bytes above `base`, if it is in this region.
    fn checked_offset(&self, base: MemoryRegionAddress, offset: usize) -> Option<MemoryRegionAddress> {
        self.check_address(base.checked_add(u64::try_from(offset).ok()?)?)
    }

    /// The offset of a guest address in this region; `None` if it lies elsewhere.
    fn to_region_addr(&self, addr: GuestAddress) -> Option<MemoryRegionAddress> {
        self.check_address(MemoryRegionAddress(addr.checked_offset_from(self.start_addr())?))
    }

    /// The `count` bytes from `offset` as a slice of host memory. No byte is had everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::NoHostMemory`] if there is none behind this region, as is provided; [`Error::OutOfBounds`] if `offset`
    /// lies outside; [`Error::PartialBuffer`] if the region ends before `count`. A memory that gets more or fewer bytes than
    /// `count` makes an error of them.
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        let _ = count;
        Err(Error::NoHostMemory(self.start_addr().checked_add(offset.0).unwrap_or(self.start_addr())))
    }

    /// As [`get_slice`](Self::get_slice), without a reason if there is none. Asked first where many slices are wanted: an
    /// implementation that is short enough to be inlined saves a call for each.
    #[inline(always)]
    fn find_slice(&self, offset: MemoryRegionAddress, count: usize) -> Option<GuestSlice<'_>> {
        self.get_slice(offset, count).ok()
    }

    /// The host address of the byte at `addr`. It is valid as long as the region lives; what is written through it is
    /// not tracked.
    ///
    /// # Errors
    ///
    /// As for [`get_slice`](Self::get_slice) of that byte.
    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8, Error> {
        slice_of(self, addr, 1).map(|slice| slice.as_ptr())
    }

    /// Returns the file that holds the region's bytes, and the position of the first one. Other processes that map it see
    /// the same memory. `None` for anonymous memory, and for private mappings of a file: what is written or discarded
    /// there does not change the file.
    #[cfg(feature = "std")]
    fn file_offset(&self) -> Option<&FileOffset> {
        None
    }
}

/// Returns the `count` bytes from `offset` of a region, as [`get_slice`](GuestMemoryRegion::get_slice) does. A slice of another
/// length is an error.
#[inline(always)]
pub(crate) fn slice_of<R: GuestMemoryRegion + ?Sized>(
    region: &R,
    offset: MemoryRegionAddress,
    count: usize,
) -> Result<GuestSlice<'_>, Error> {
    match region.find_slice(offset, count) {
        Some(slice) if slice.len() == count => Ok(slice),
        _ => why_not(region, offset, count),
    }
}

/// Returns the error of a region that has not returned the slice, or the slice if it does so now.
#[cold]
#[inline(never)]
fn why_not<R: GuestMemoryRegion + ?Sized>(
    region: &R,
    offset: MemoryRegionAddress,
    count: usize,
) -> Result<GuestSlice<'_>, Error> {
    match region.get_slice(offset, count) {
        Ok(slice) if slice.len() != count => Err(wrong_length(count, slice.len())),
        found => found,
    }
}

/// The error of an implementation that returns `found` bytes where `expected` were asked for.
#[cold]
pub(crate) fn wrong_length(expected: usize, found: usize) -> Error {
    if found > expected {
        Error::Overrun { expected, claimed: found }
    } else {
        Error::PartialBuffer { expected, completed: found }
    }
}
