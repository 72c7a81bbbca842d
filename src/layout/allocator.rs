use alloc::collections::BTreeMap;
use core::ops::{RangeBounds, RangeInclusive};

use super::span::Span;
use crate::{GuestAddress, GuestUsize};

/// Hands out ranges of addresses: the lowest that fits, and what is freed is handed out again.
///
/// It holds no memory, only numbers: where devices' registers are to be, or a window of I/O ports.
///
/// ```
/// use memory_model::GuestAddress;
/// use memory_model::layout::AddressAllocator;
///
/// let mut room = AddressAllocator::new(GuestAddress(0xc000_0000)..=GuestAddress(0xffff_ffff));
/// let uart = room.allocate(0x8, 0x1000, ..)?;
/// let bar = room.allocate(0x4000, 0x4000, ..)?; // aligned, as a BAR is to its size
/// assert_eq!((uart, bar), (GuestAddress(0xc000_0000), GuestAddress(0xc000_4000)));
///
/// room.allocate_at(GuestAddress(0xd000_0000), 0x1000)?; // a fixed place
/// assert!(room.allocate_at(GuestAddress(0xd000_0800), 0x1000).is_err());
///
/// assert_eq!(room.free(uart)?, 0x8);
/// assert_eq!(room.allocate(0x4000, 0x4000, ..)?, GuestAddress(0xc000_0000)); // neighbours have merged
/// # Ok::<(), memory_model::layout::AllocError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressAllocator {
    /// First to last address of what is free. No two touch: they would be one.
    free: BTreeMap<u64, u64>,
    /// First to last address of what is allocated.
    taken: BTreeMap<u64, u64>,
}

/// Why addresses are not to be had, or cannot be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// An allocation has at least one byte.
    #[error("it is empty: ask for at least one byte")]
    Empty,
    /// The bounds admit no address at all.
    #[error("its bounds admit no address: give the lower one first")]
    EmptyBounds,
    /// The alignment is not a power of two.
    #[error("its alignment {0:#x} is not a power of two")]
    NotPowerOfTwo(u64),
    /// Nowhere are there so many free bytes.
    #[error(
        "{start}..={last} has no {len:#x} free bytes at a multiple of {align:#x}: free some, or admit other addresses"
    )]
    NoRoom {
        /// The length asked for, in bytes.
        len: GuestUsize,
        /// The alignment asked for, in bytes.
        align: u64,
        /// The first address admitted.
        start: GuestAddress,
        /// The last address admitted.
        last: GuestAddress,
    },
    /// The range asked for goes past the end of the address space.
    #[error("{len:#x} bytes at {start} do not fit below 2^64: move them down, or ask for fewer")]
    Wraps {
        /// The first address asked for.
        start: GuestAddress,
        /// The length asked for, in bytes.
        len: GuestUsize,
    },
    /// Not all of the range asked for is free.
    #[error("{start}..={last} is not free: {addr} is allocated, or outside of the allocator's addresses")]
    Taken {
        /// The first address asked for.
        start: GuestAddress,
        /// The last address asked for.
        last: GuestAddress,
        /// The first of them that is not free.
        addr: GuestAddress,
    },
    /// No allocation begins at this address.
    #[error("no allocation begins at {0}: free it by the address that allocating it answered")]
    NotAllocated(GuestAddress),
}

impl AddressAllocator {
    /// All addresses of `space` are free. An empty range has no room for anything.
    pub fn new(space: RangeInclusive<GuestAddress>) -> Self {
        Self::of_spans(Span::of_bounds(&space))
    }

    /// The addresses of `free` are free; they neither overlap nor touch.
    pub(super) fn of_spans(free: impl IntoIterator<Item = Span>) -> Self {
        Self { free: free.into_iter().map(|span| (span.start, span.last)).collect(), taken: BTreeMap::new() }
    }

    /// Allocates `len` bytes, of the addresses that `within` admits: the lowest ones that are free and begin at a
    /// multiple of `align`, a power of two.
    ///
    /// # Errors
    ///
    /// [`AllocError::Empty`], [`AllocError::NotPowerOfTwo`], [`AllocError::EmptyBounds`], [`AllocError::NoRoom`]. Nothing
    /// is allocated then.
    pub fn allocate(
        &mut self,
        len: GuestUsize,
        align: u64,
        within: impl RangeBounds<GuestAddress>,
    ) -> Result<GuestAddress, AllocError> {
        if len == 0 {
            return Err(AllocError::Empty);
        }
        if !align.is_power_of_two() {
            return Err(AllocError::NotPowerOfTwo(align));
        }
        let within = Span::of_bounds(&within).ok_or(AllocError::EmptyBounds)?;
        let fitting = |gap: Span| {
            let start = gap.intersection(within)?.align_start(align)?.start;
            Span::new(start, len).filter(|span| span.last <= gap.last && span.last <= within.last)
        };
        // The gap that begins at or below the bounds may reach into them.
        let lowest = self.free.range(..=within.start).next_back().map_or(within.start, |(&start, _)| start);
        let found = self.free.range(lowest..=within.last).find_map(|(&start, &last)| {
            let gap = Span { start, last };
            Some((gap, fitting(gap)?))
        });
        let (start, last) = (GuestAddress(within.start), GuestAddress(within.last));
        let (gap, span) = found.ok_or(AllocError::NoRoom { len, align, start, last })?;
        self.take(gap, span);
        Ok(GuestAddress(span.start))
    }

    /// Allocates exactly the `len` bytes at `addr`.
    ///
    /// # Errors
    ///
    /// [`AllocError::Empty`], [`AllocError::Wraps`], and [`AllocError::Taken`] if not all of them are free. Nothing is
    /// allocated then.
    pub fn allocate_at(&mut self, addr: GuestAddress, len: GuestUsize) -> Result<(), AllocError> {
        if len == 0 {
            return Err(AllocError::Empty);
        }
        let span = Span::new(addr.0, len).ok_or(AllocError::Wraps { start: addr, len })?;
        let gap = self.free.range(..=span.start).next_back().map(|(&start, &last)| Span { start, last });
        match gap.filter(|gap| gap.contains(span.start)) {
            Some(gap) if span.last <= gap.last => {
                self.take(gap, span);
                Ok(())
            }
            gap => {
                let addr = gap.map_or(span.start, |gap| gap.last.saturating_add(1));
                let (start, last) = (GuestAddress(span.start), GuestAddress(span.last));
                Err(AllocError::Taken { start, last, addr: GuestAddress(addr) })
            }
        }
    }

    /// Frees the allocation that begins at `addr`, and answers its length. Free neighbours merge.
    ///
    /// # Errors
    ///
    /// [`AllocError::NotAllocated`]: an allocation is freed as a whole, by its first address, and once.
    pub fn free(&mut self, addr: GuestAddress) -> Result<GuestUsize, AllocError> {
        let last = self.taken.remove(&addr.0).ok_or(AllocError::NotAllocated(addr))?;
        let span = Span { start: addr.0, last };
        let below = self.free.range(..span.start).next_back().map(|(&start, &last)| Span { start, last });
        let below = below.filter(|below| below.last.checked_add(1) == Some(span.start));
        let above = span.last.checked_add(1).and_then(|start| self.free.remove(&start));
        self.free.insert(below.map_or(span.start, |below| below.start), above.unwrap_or(span.last));
        Ok(span.len())
    }

    /// The allocations, by ascending address: first address and length in bytes.
    pub fn allocations(&self) -> impl Iterator<Item = (GuestAddress, GuestUsize)> {
        self.taken.iter().map(|(&start, &last)| (GuestAddress(start), Span { start, last }.len()))
    }

    /// The free ranges, by ascending address. Between any two there is something that is not free.
    pub fn free_ranges(&self) -> impl Iterator<Item = RangeInclusive<GuestAddress>> {
        self.free.iter().map(|(&start, &last)| Span { start, last }.range())
    }

    /// Takes `span` out of the free `gap` that it lies in.
    fn take(&mut self, gap: Span, span: Span) {
        self.free.remove(&gap.start);
        if let Some(last) = span.start.checked_sub(1).filter(|&last| gap.start <= last) {
            self.free.insert(gap.start, last);
        }
        if let Some(start) = span.last.checked_add(1).filter(|&start| start <= gap.last) {
            self.free.insert(start, gap.last);
        }
        self.taken.insert(span.start, span.last);
    }
}
