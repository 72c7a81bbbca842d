//! Buffers that keep the regions that they have bytes of.

#![expect(unsafe_code, reason = "bytes that are kept by a count of their region's outlive every borrow of it")]

use std::any::Any;
use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

use super::GuestBuffers;
use crate::atomic::RegionMap;
use crate::bytes::advance;
use crate::guest_memory::{Error, slice_of};
use crate::io_memory::{Access, Fragment, fragments};
use crate::{Address, GuestAddress, GuestMemoryRegion, GuestSlice, IoAddress, IoMemory, MemoryRegionAddress};

/// Who keeps the bytes that buffers have: each region once.
#[derive(Clone, Default)]
pub(super) struct Owners(SmallVec<[Arc<dyn Any + Send + Sync>; 2]>);

impl Owners {
    /// Keeps a region, if it is not kept already.
    fn keep<R: Any + Send + Sync>(&mut self, region: &Arc<R>) {
        let addr = Arc::as_ptr(region).addr();
        if !self.0.iter().any(|owner| Arc::as_ptr(owner).addr() == addr) {
            self.0.push(Arc::<R>::clone(region));
        }
    }
}

impl GuestBuffers<'static> {
    /// As [`new`](Self::new), and owned: the buffers keep the regions that they have bytes of, which stay mapped for as long,
    /// also when they are removed from the map. Each region costs a count of its `Arc`, and another when they are dropped.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn owned<I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>>(
        mem: &I,
        ranges: impl IntoIterator<Item = (IoAddress, usize)>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut buffers = Self::empty(access);
        for (addr, len) in ranges {
            for fragment in fragments(mem, addr, len, access) {
                buffers.push_owned(mem.physical(), fragment?)?;
            }
        }
        Ok(buffers)
    }

    /// Appends the bytes of guest-physical memory, and keeps their regions.
    fn push_owned<M: RegionMap<Region: Send + Sync + 'static>>(
        &mut self,
        mem: &M,
        range: Fragment,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < range.len {
            let left = range.len.saturating_sub(done);
            let region = advance(range.addr, done).and_then(|addr| Some((mem.find_arc_region(addr)?, addr)));
            let Some((region, addr)) = region else {
                return Err(match done {
                    0 => Error::InvalidGuestAddress(range.addr),
                    completed => Error::PartialBuffer { expected: range.len, completed },
                });
            };
            let slice = piece(region, addr, left)?;
            done = done.saturating_add(slice.len());
            self.owners_mut().keep(region);
            // SAFETY: the slice borrows from the region, and what it borrows is there as long as the region is borrowed. The
            // region lives, at the same place, until its last `Arc` is gone, and nobody has it exclusively as long as there
            // is one; `owners` has one from now on, and drops it after this slice and its copies, which do not leave the buffers
            // but with `owners`, or for as long as the buffers are borrowed.
            self.push_checked(unsafe { outliving(slice) })?;
        }
        Ok(())
    }
}

/// The bytes at `addr` that the region has, of `len`: at least one.
pub(super) fn piece<R: GuestMemoryRegion>(
    region: &Arc<R>,
    addr: GuestAddress,
    len: usize,
) -> Result<GuestSlice<'_>, Error> {
    let invalid = Error::InvalidGuestAddress(addr);
    let Some(offset) = addr.checked_offset_from(region.start_addr()) else { return Err(invalid) };
    let reach = region.len().saturating_sub(offset);
    match usize::try_from(reach).unwrap_or(usize::MAX).min(len) {
        0 => Err(invalid),
        count => slice_of(&**region, MemoryRegionAddress(offset), count),
    }
}

/// The slice, for as long as somebody keeps what it borrows from.
///
/// # Safety
///
/// It is used only as long as what it borrows is borrowed, or could be.
pub(super) unsafe fn outliving(slice: GuestSlice<'_>) -> GuestSlice<'static> {
    // SAFETY: of the lifetime alone, by the caller's promise.
    unsafe { mem::transmute::<GuestSlice<'_>, GuestSlice<'static>>(slice) }
}
