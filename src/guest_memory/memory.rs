use core::fmt;

use super::region::slice_of;
use super::{Error, GuestAddress, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress, copy};
use crate::Address;
use crate::bytes::advance;

/// All of a guest's physical memory.
///
/// Whoever implements it says which regions there are and finds one by address; that is all. Reading and writing is
/// [`Bytes<GuestAddress>`](crate::Bytes), which every `GuestMemory` has: it crosses from region to region, where they
/// touch, and calls each region's own methods.
///
/// [`GuestRegionCollection`](super::GuestRegionCollection) is the implementation to use where there is no reason for
/// another. `&M`, `Arc<M>` and `Box<M>` are memories, too.
///
/// Empty memory is legal. Regions do not overlap, and [`regions`](Self::regions) gives them by ascending address.
pub trait GuestMemory {
    /// The type of the regions: an `enum` where they are of several kinds.
    type Region: GuestMemoryRegion;

    /// The number of regions.
    fn num_regions(&self) -> usize;

    /// The region that has `addr`.
    fn find_region(&self, addr: GuestAddress) -> Option<&Self::Region>;

    /// All regions, by ascending address.
    fn regions(&self) -> impl Iterator<Item = &Self::Region>;

    /// A number that only this map of regions has in this process: two memories that answer the same have the same regions at
    /// the same addresses. `None` if the memory cannot say, as is provided.
    ///
    /// Whoever keeps what was found in a memory, as an address in the host, keeps this with it: what was found in one holds
    /// in another of the same number. A memory that answers a number takes a [new one](super::new_generation) for each set of
    /// regions.
    #[inline]
    fn generation(&self) -> Option<u64> {
        None
    }

    /// The last guest address, inclusive; `None` if there is no memory.
    fn last_addr(&self) -> Option<GuestAddress> {
        self.regions().map(GuestMemoryRegion::last_addr).max()
    }

    /// The number of bytes in all regions; `u64::MAX` if there are that many or more.
    fn total_len(&self) -> GuestUsize {
        self.regions().fold(0, |sum: GuestUsize, region| sum.saturating_add(region.len()))
    }

    /// Whether there is memory at `addr`.
    fn address_in_range(&self, addr: GuestAddress) -> bool {
        self.find_region(addr).is_some()
    }

    /// `addr`, if there is memory.
    fn check_address(&self, addr: GuestAddress) -> Option<GuestAddress> {
        self.address_in_range(addr).then_some(addr)
    }

    /// Whether there is memory at each of the `len` bytes from `addr`, in one region or several that touch. Always true
    /// for no bytes. Costs a lookup per region in the range.
    fn check_range(&self, addr: GuestAddress, len: usize) -> bool {
        pieces(self, addr, len).map(|(_, _, piece)| piece).sum::<usize>() == len
    }

    /// The address `offset` bytes above `base`, if there is memory.
    fn checked_offset(&self, base: GuestAddress, offset: usize) -> Option<GuestAddress> {
        self.check_address(base.checked_add(u64::try_from(offset).ok()?)?)
    }

    /// The region that has `addr`, and the offset in it.
    #[inline]
    fn to_region_addr(&self, addr: GuestAddress) -> Option<(&Self::Region, MemoryRegionAddress)> {
        let region = self.find_region(addr)?;
        Some((region, MemoryRegionAddress(addr.checked_offset_from(region.start_addr())?)))
    }

    /// A region that may have `addr`, and the offset where it would be: past the region's end, if that has it not. `None`
    /// if there is no guess.
    ///
    /// Accesses ask this first, so that the usual case is short enough to be inlined, and go on with
    /// [`to_region_addr`](Self::to_region_addr) where the guess was wrong.
    #[inline(always)]
    fn guess_region_addr(&self, addr: GuestAddress) -> Option<(&Self::Region, MemoryRegionAddress)> {
        self.to_region_addr(addr)
    }

    /// The `count` bytes at `addr`, which lie in one region, as a slice of host memory. No byte is had everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidGuestAddress`]; [`Error::PartialBuffer`] if the region ends before `count`, even if another
    /// follows: see [`get_slices`](Self::get_slices); [`Error::NoHostMemory`].
    fn get_slice(&self, addr: GuestAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        if count == 0 {
            return Ok(GuestSlice::empty(addr));
        }
        let (region, offset) = self.to_region_addr(addr).ok_or(Error::InvalidGuestAddress(addr))?;
        slice_of(region, offset, count)
    }

    /// The `count` bytes at `addr` as slices of host memory, one for each region, in order.
    ///
    /// The first error is the last item: [`Error::InvalidGuestAddress`] if there is no memory at `addr`,
    /// [`Error::PartialBuffer`] where it ends before `count`, [`Error::NoHostMemory`].
    fn get_slices(&self, addr: GuestAddress, count: usize) -> GuestSlices<'_, Self> {
        GuestSlices { memory: self, addr, count, completed: 0 }
    }

    /// The host address of the byte at `addr`. It is valid as long as the region lives; what is written through it is
    /// not tracked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidGuestAddress`]; [`Error::NoHostMemory`].
    fn get_host_address(&self, addr: GuestAddress) -> Result<*mut u8, Error> {
        let (region, offset) = self.to_region_addr(addr).ok_or(Error::InvalidGuestAddress(addr))?;
        region.get_host_address(offset)
    }

    /// Copies `len` bytes from `src` to `dst`, inside the guest. The two may overlap, and cross regions.
    ///
    /// Upwards, unless `dst` lies inside the source, then downwards. It may tear, but for 1, 2, 4 or 8 bytes that are
    /// naturally aligned at both ends.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidGuestAddress`] if there is no memory at `src` or at `dst`; [`Error::PartialBuffer`] if it ends
    /// before `len` at either: what both have was copied. [`Error::Fault`], and [`Error::ReadOnly`] at `dst`: the bytes
    /// before it were copied; but if the page went away during a downward copy, `completed` is 0, and what `dst` holds is
    /// unspecified.
    fn copy(&self, src: GuestAddress, dst: GuestAddress, len: usize) -> Result<(), Error> {
        copy::copy(self, src, dst, len)
    }
}

macro_rules! memory_behind {
    ($($(#[$cfg:meta])* $Pointer:ty),*) => {$(
        $(#[$cfg])*
        impl<M: GuestMemory + ?Sized> GuestMemory for $Pointer {
            type Region = M::Region;
            #[inline]
            fn num_regions(&self) -> usize {
                (**self).num_regions()
            }
            #[inline]
            fn find_region(&self, addr: GuestAddress) -> Option<&Self::Region> {
                (**self).find_region(addr)
            }
            #[inline]
            fn regions(&self) -> impl Iterator<Item = &Self::Region> {
                (**self).regions()
            }
            #[inline(always)]
            fn generation(&self) -> Option<u64> {
                (**self).generation()
            }
            fn last_addr(&self) -> Option<GuestAddress> {
                (**self).last_addr()
            }
            fn total_len(&self) -> GuestUsize {
                (**self).total_len()
            }
            fn address_in_range(&self, addr: GuestAddress) -> bool {
                (**self).address_in_range(addr)
            }
            fn check_address(&self, addr: GuestAddress) -> Option<GuestAddress> {
                (**self).check_address(addr)
            }
            fn check_range(&self, addr: GuestAddress, len: usize) -> bool {
                (**self).check_range(addr, len)
            }
            fn checked_offset(&self, base: GuestAddress, offset: usize) -> Option<GuestAddress> {
                (**self).checked_offset(base, offset)
            }
            #[inline]
            fn to_region_addr(&self, addr: GuestAddress) -> Option<(&Self::Region, MemoryRegionAddress)> {
                (**self).to_region_addr(addr)
            }
            #[inline(always)]
            fn guess_region_addr(&self, addr: GuestAddress) -> Option<(&Self::Region, MemoryRegionAddress)> {
                (**self).guess_region_addr(addr)
            }
            #[inline]
            fn get_slice(&self, addr: GuestAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
                (**self).get_slice(addr, count)
            }
            fn get_host_address(&self, addr: GuestAddress) -> Result<*mut u8, Error> {
                (**self).get_host_address(addr)
            }
            fn copy(&self, src: GuestAddress, dst: GuestAddress, len: usize) -> Result<(), Error> {
                (**self).copy(src, dst, len)
            }
        }
    )*};
}
memory_behind!(
    &M,
    #[cfg(feature = "alloc")]
    alloc::sync::Arc<M>,
    #[cfg(feature = "alloc")]
    alloc::boxed::Box<M>
);

/// The slices of a range of guest memory, from [`GuestMemory::get_slices`].
pub struct GuestSlices<'a, M: ?Sized> {
    memory: &'a M,
    addr: GuestAddress,
    count: usize,
    completed: usize,
}

impl<'a, M: GuestMemory + ?Sized> Iterator for GuestSlices<'a, M> {
    type Item = Result<GuestSlice<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.count.checked_sub(self.completed).filter(|&left| left > 0)?;
        let found = match advance(self.addr, self.completed) {
            Some(addr) => piece(self.memory, addr, left),
            None => None,
        };
        let slice = match found {
            Some((region, offset, len)) => slice_of(region, offset, len),
            None if self.completed == 0 => Err(Error::InvalidGuestAddress(self.addr)),
            None => Err(Error::PartialBuffer { expected: self.count, completed: self.completed }),
        };
        // At least one byte, or the last item.
        self.completed = match &slice {
            Ok(slice) => self.completed.saturating_add(slice.len()),
            Err(_) => self.count,
        };
        Some(slice)
    }
}

impl<M: ?Sized> core::iter::FusedIterator for GuestSlices<'_, M> where Self: Iterator {}

impl<M: ?Sized> fmt::Debug for GuestSlices<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, count, completed, .. } = self;
        write!(f, "GuestSlices({count:#x} bytes from {addr}, {completed:#x} given)")
    }
}

/// The part of `len` bytes at `addr` that one region has: the region, the offset, and at least one byte.
#[inline]
pub(super) fn piece<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    len: usize,
) -> Option<(&M::Region, MemoryRegionAddress, usize)> {
    let (region, offset) = memory.to_region_addr(addr)?;
    let left = region.len().checked_sub(offset.0)?;
    let piece = usize::try_from(left).unwrap_or(usize::MAX).min(len);
    (piece > 0).then_some((region, offset, piece))
}

/// The pieces of `len` bytes at `addr`, in order, up to the first hole.
pub(super) fn pieces<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    len: usize,
) -> impl Iterator<Item = (&M::Region, MemoryRegionAddress, usize)> {
    let mut next = Some(addr);
    let mut left = len;
    core::iter::from_fn(move || {
        let found = piece(memory, next?, left)?;
        left = left.saturating_sub(found.2);
        next = advance(next?, found.2);
        Some(found)
    })
}
