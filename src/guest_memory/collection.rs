use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::index::{Index, MAX_RANGES, Range};
use super::likely::Likely;
use super::{GuestAddress, GuestMemory, GuestMemoryRegion, GuestUsize, MemoryRegionAddress, RegionError};
use crate::Address;

/// Regions of one type, sorted, with an index: a guest's memory.
///
/// It does not change: [`insert_region`](Self::insert_region) and [`remove_region`](Self::remove_region) make another
/// that shares the regions. A clone is a handle, as cheap as an `Arc`'s, and a region lives until the last memory that
/// has it is gone.
///
/// Finding a region costs the same for one and for thousands.
pub struct GuestRegionCollection<R> {
    likely: Likely<R>,
    map: Arc<Map<R>>,
}

struct Map<R> {
    index: Index,
    /// Sorted, in the index's order.
    regions: Vec<Arc<R>>,
}

impl<R: GuestMemoryRegion> GuestRegionCollection<R> {
    /// Memory without any byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// The memory made of `regions`, in whichever order they are.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if a region is empty, goes past the end of the address space, or overlaps another.
    pub fn from_regions(regions: Vec<R>) -> Result<Self, RegionError> {
        Self::from_arc_regions(regions.into_iter().map(Arc::new).collect())
    }

    /// As [`from_regions`](Self::from_regions), for regions that are shared with other memories.
    ///
    /// # Errors
    ///
    /// As for [`from_regions`](Self::from_regions).
    pub fn from_arc_regions(mut regions: Vec<Arc<R>>) -> Result<Self, RegionError> {
        if regions.len() > MAX_RANGES {
            return Err(RegionError::TooMany(regions.len()));
        }
        regions.sort_by_key(|region| region.start_addr());
        let ranges = regions.iter().map(|region| range_of(&**region)).collect::<Result<Vec<_>, _>>()?;
        for (lower, upper) in ranges.iter().zip(ranges.iter().skip(1)) {
            if lower.last >= upper.start {
                let ends = |range: &Range| (GuestAddress(range.start), GuestAddress(range.last));
                return Err(RegionError::Overlap { first: ends(lower), second: ends(upper) });
            }
        }
        Ok(Self { likely: Likely::new(&ranges, &regions), map: Arc::new(Map { index: Index::new(ranges), regions }) })
    }

    /// This memory and one more region.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the region is empty, goes past the end of the address space, or overlaps another.
    pub fn insert_region(&self, region: Arc<R>) -> Result<Self, RegionError> {
        let mut regions = self.map.regions.clone();
        regions.push(region);
        Self::from_arc_regions(regions)
    }

    /// This memory without the region of `size` bytes at `base`, and that region.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotFound`] unless a region has exactly this place and size: none is split.
    pub fn remove_region(&self, base: GuestAddress, size: GuestUsize) -> Result<(Self, Arc<R>), RegionError> {
        let mut regions = self.map.regions.clone();
        let is_it = |region: &Arc<R>| region.start_addr() == base && region.len() == size;
        let position = regions.iter().position(is_it).ok_or(RegionError::NotFound { start: base, len: size })?;
        let region = regions.remove(position);
        Ok((Self::from_arc_regions(regions)?, region))
    }

    /// The regions, by ascending address, to be shared.
    pub fn arc_regions(&self) -> &[Arc<R>] {
        &self.map.regions
    }
}

/// The addresses of a region, if it can be one.
fn range_of(region: &impl GuestMemoryRegion) -> Result<Range, RegionError> {
    let (start, len) = (region.start_addr(), region.len());
    let beyond_first = len.checked_sub(1).ok_or(RegionError::Empty { start })?;
    let last = start.checked_add(beyond_first).ok_or(RegionError::Wraps { start, len })?;
    Ok(Range { start: start.0, last: last.0 })
}

impl<R: GuestMemoryRegion> GuestMemory for GuestRegionCollection<R> {
    type Region = R;

    #[inline]
    fn num_regions(&self) -> usize {
        self.map.regions.len()
    }

    #[inline]
    fn find_region(&self, addr: GuestAddress) -> Option<&R> {
        Some(self.to_region_addr(addr)?.0)
    }

    #[inline]
    fn regions(&self) -> impl Iterator<Item = &R> {
        self.map.regions.iter().map(|region| &**region)
    }

    #[inline]
    fn to_region_addr(&self, addr: GuestAddress) -> Option<(&R, MemoryRegionAddress)> {
        self.guess_region_addr(addr).filter(|(region, offset)| region.address_in_range(*offset)).or_else(|| {
            let (number, offset) = self.map.index.find(addr.0)?;
            Some((&**self.map.regions.get(number)?, MemoryRegionAddress(offset)))
        })
    }

    #[inline(always)]
    fn guess_region_addr(&self, addr: GuestAddress) -> Option<(&R, MemoryRegionAddress)> {
        let region = self.likely.find(addr.0)?;
        // Below its start the difference wraps: to past its end, as it ends at or below the last address.
        Some((region, MemoryRegionAddress(addr.0.wrapping_sub(region.start_addr().0))))
    }
}

impl<R> Clone for GuestRegionCollection<R> {
    fn clone(&self) -> Self {
        Self { likely: self.likely.clone(), map: Arc::clone(&self.map) }
    }
}

impl<R> Default for GuestRegionCollection<R> {
    fn default() -> Self {
        Self { likely: Likely::default(), map: Arc::new(Map { index: Index::default(), regions: Vec::new() }) }
    }
}

impl<R: fmt::Debug> fmt::Debug for GuestRegionCollection<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.map.regions).finish()
    }
}
