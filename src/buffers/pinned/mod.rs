//! Pieces of guest memory that are found once, and accessed again and again.

mod bytes;
mod reference;

use std::any::Any;
use std::sync::Arc;

pub use reference::PinnedRef;

use super::owned::{outliving, piece};
use crate::access;
use crate::atomic::RegionMap;
use crate::bytes::advance;
use crate::guest_memory::Error;
use crate::io_memory::{Access, Fragment, fragments};
use crate::{DataInit, GuestAddress, GuestSlice, IoAddress, IoMemory, VolatileSlice};

/// A piece of guest memory that was found once and stays.
///
/// It keeps the region that it lies in, mapped and as it is, also when that is removed from the map. Then the guest no longer
/// sees what is written to it; whoever has a view knows by [`is_current`](Self::is_current).
///
/// Reads and writes at offsets are [`Bytes<usize>`](crate::Bytes); their errors name guest-physical addresses. What is written
/// is marked as dirty by the region's tracker, also if tracking began later than the view. A page that goes away, or is
/// unplugged, is [`Error::Fault`], as ever.
///
/// It may be sent to other threads, and shared between them. A clone costs the count of an `Arc`.
///
/// ```
/// use std::sync::atomic::Ordering;
///
/// use memory_model::buffers::PinnedSlice;
/// use memory_model::io_memory::Access;
/// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, IoAddress, Le16};
///
/// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
/// let used = PinnedSlice::new(&*map.memory(), IoAddress(0x400), 0x106, Access::ReadWrite)?;
/// std::thread::spawn(move || {
///     used.store(Le16::new(1), 2, Ordering::Release)?; // no lookup
///     assert!(used.is_current(&*map.memory()));
///     assert_eq!(map.memory().read_obj::<Le16>(GuestAddress(0x402))?, 1);
///     map.remove_region(GuestAddress(0), 0x1000).unwrap();
///     assert!(!used.is_current(&*map.memory()));
///     used.store(Le16::new(2), 2, Ordering::Release) // still there, and nobody's
/// }).join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PinnedSlice {
    /// # Invariants
    /// 1. What it borrows is there, and nobody has it exclusively, as long as `owner` is.
    /// 2. It does not leave the view but for as long as that is borrowed.
    slice: GuestSlice<'static>,
    access: Access,
    generation: Option<u64>,
    /// Dropped after the slice.
    owner: Arc<dyn Any + Send + Sync>,
}

impl PinnedSlice {
    /// The `len` bytes at an address of a device's, to be accessed so. No byte is had everywhere.
    ///
    /// Costs a translation, a lookup, and a count of the region's `Arc`.
    ///
    /// # Errors
    ///
    /// Those of the translation; [`Error::Divided`] if the bytes are not in one piece, also if they are in two regions that
    /// touch, and [`Error::PartialBuffer`] if memory ends before `len`; [`Error::InvalidGuestAddress`];
    /// [`Error::NoHostMemory`]; [`Error::ReadOnly`].
    pub fn new<I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>>(
        mem: &I,
        addr: IoAddress,
        len: usize,
        access: Access,
    ) -> Result<Self, Error> {
        // Before the translation: if that changes meanwhile, the view is not current.
        let generation = mem.io_generation();
        let mut whole = Fragment { addr: GuestAddress(addr.0), len: 0 };
        for fragment in fragments(mem, addr, len, access) {
            let Fragment { addr, len } = fragment?;
            if whole.len == 0 {
                whole.addr = addr;
            } else if advance(whole.addr, whole.len) != Some(addr) {
                return Err(Error::Divided { addr, completed: whole.len });
            }
            whole.len = whole.len.saturating_add(len);
        }
        Self::find(mem.physical(), whole, access, generation)
    }

    /// As [`new`](Self::new), at a guest-physical address.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn physical<M: RegionMap<Region: Send + Sync + 'static>>(
        mem: &M,
        addr: GuestAddress,
        len: usize,
        access: Access,
    ) -> Result<Self, Error> {
        Self::find(mem, Fragment { addr, len }, access, mem.generation())
    }

    #[expect(unsafe_code, reason = "what is kept by a count of its region's outlives every borrow of it")]
    fn find<M: RegionMap<Region: Send + Sync + 'static>>(
        mem: &M,
        Fragment { addr, len }: Fragment,
        access: Access,
        generation: Option<u64>,
    ) -> Result<Self, Error> {
        if len == 0 {
            return Ok(Self { slice: GuestSlice::empty(addr), access, generation, owner: Arc::new(()) });
        }
        let region = mem.find_arc_region(addr).ok_or(Error::InvalidGuestAddress(addr))?;
        let slice = piece(region, addr, len)?;
        if let Some(next) = advance(addr, slice.len()).filter(|&next| slice.len() < len && mem.address_in_range(next)) {
            return Err(Error::Divided { addr: next, completed: slice.len() });
        }
        // No more than was asked for; or the error that says how few there are.
        let slice = slice.subslice(0, len)?;
        if access != Access::Read && slice.is_read_only() {
            return Err(Error::ReadOnly { addr, completed: 0 });
        }
        // SAFETY: the slice borrows from the region, and what it borrows is there as long as the region is borrowed, or could
        // be. The region lives, at the same place, until its last `Arc` is gone, and nobody has it exclusively as long as
        // there is one: `owner` is one from now on, until after this slice is dropped. A copy of the slice leaves the view
        // only as a borrow of it (invariant 2), or together with a clone of `owner`.
        let slice = unsafe { outliving(slice) };
        Ok(Self { slice, access, generation, owner: Arc::<M::Region>::clone(region) })
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there is no byte in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The guest-physical address of the first byte.
    #[inline]
    pub fn addr(&self) -> GuestAddress {
        self.slice.addr()
    }

    /// What it is for: else an access is [`Error::Unsupported`].
    #[inline]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The number of the map that it was found in, if that has one: see [`IoMemory::io_generation`].
    #[inline]
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Whether `mem`, of the kind that the view was found in, has these bytes there for certain: if it has the same number.
    #[inline(always)]
    pub fn is_current<I: IoMemory>(&self, mem: &I) -> bool {
        self.generation.is_some() && self.generation == mem.io_generation()
    }

    /// The `count` bytes from `offset`, which keep the region by themselves. No byte is had everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] if `offset` lies outside; [`Error::PartialBuffer`] if the view ends before `count`.
    pub fn subslice(&self, offset: usize, count: usize) -> Result<Self, Error> {
        Ok(Self { slice: self.slice.subslice(offset, count)?, owner: Arc::clone(&self.owner), ..*self })
    }

    /// The place of the `T` at `offset`.
    ///
    /// # Errors
    ///
    /// As for [`subslice`](Self::subslice), of its bytes; [`Error::Misaligned`] as for [`PinnedRef::new`];
    /// [`Error::Unsupported`] if they are only to be written.
    pub fn get_ref<T: DataInit>(&self, offset: usize) -> Result<PinnedRef<T>, Error> {
        PinnedRef::of(self.subslice(offset, size_of::<T>())?)
    }

    /// Whether it may be read.
    #[inline(always)]
    fn is_readable(&self) -> bool {
        self.access != Access::Write
    }

    /// Whether an attempt to write may be made.
    #[inline(always)]
    fn is_writable(&self) -> bool {
        self.access != Access::Read && self.is_left_to_hardware()
    }

    /// Whether it can be left to the hardware to refuse a write; or there is nothing to refuse.
    #[inline(always)]
    fn is_left_to_hardware(&self) -> bool {
        access::RECOVERS || !self.slice.is_read_only()
    }

    /// The bytes to be read.
    fn readable(&self) -> Result<GuestSlice<'_>, Error> {
        if self.is_readable() { Ok(self.slice) } else { Err(Error::Unsupported) }
    }

    /// The bytes to be written.
    fn writable(&self) -> Result<GuestSlice<'_>, Error> {
        if self.access == Access::Read { Err(Error::Unsupported) } else { Ok(self.slice) }
    }

    /// The bytes for an attempt, which [`is_readable`](Self::is_readable) or [`is_writable`](Self::is_writable) has allowed.
    #[inline(always)]
    fn bytes(&self) -> VolatileSlice<'_> {
        self.slice.as_unmarked()
    }

    /// Marks what such an attempt has written.
    #[inline(always)]
    fn wrote(&self, offset: usize, len: usize) {
        self.slice.mark(offset, len);
    }
}
