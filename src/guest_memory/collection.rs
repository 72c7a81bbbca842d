use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::index::{Index, MAX_RANGES, Range};
use super::likely::Likely;
use super::{
    GuestAddress, GuestMemory, GuestMemoryRegion, GuestUsize, MemoryRegionAddress, RegionError, new_generation,
};
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
    /// The number of this set of regions. Here, where a look at it costs a load.
    generation: u64,
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
    pub fn from_arc_regions(regions: Vec<Arc<R>>) -> Result<Self, RegionError> {
        if regions.len() > MAX_RANGES {
            return Err(RegionError::TooMany(regions.len()));
        }
        // Each region is asked once: to sort by answers that change could panic.
        let found = regions.into_iter().map(|region| Ok((range_of(&*region)?, region)));
        let mut found = found.collect::<Result<Vec<_>, _>>()?;
        found.sort_by_key(|(range, _)| range.start);
        let (ranges, regions): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        for (lower, upper) in ranges.iter().zip(ranges.iter().skip(1)) {
            check_apart(lower, upper)?;
        }
        Ok(Self::from_sorted(ranges, regions, Likely::default()))
    }

    /// The memory of these regions, which are valid; of what is left of `likely`, if there is something.
    fn from_sorted(ranges: Vec<Range>, regions: Vec<Arc<R>>, likely: Likely<R>) -> Self {
        Self {
            likely: likely.renew(&ranges, &regions),
            map: Arc::new(Map { index: Index::new(ranges), regions }),
            generation: new_generation(),
        }
    }

    /// This memory and one more region.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the region is empty, goes past the end of the address space, or overlaps another.
    pub fn insert_region(&self, region: Arc<R>) -> Result<Self, RegionError> {
        self.insert_region_reusing(Self::default(), region)
    }

    /// As [`insert_region`](Self::insert_region), made of what is left of an older memory that has most of these regions, if
    /// nobody has it any more. To count each `Arc` of a thousand regions up, and those of the older memory down, would take
    /// longer than all the rest.
    pub(crate) fn insert_region_reusing(&self, older: Self, region: Arc<R>) -> Result<Self, RegionError> {
        let ranges = self.map.index.ranges();
        let new = range_of(&*region)?;
        let (lower, upper) = ranges.split_at(ranges.partition_point(|range| range.start <= new.start));
        if let Some(lower) = lower.last() {
            check_apart(lower, &new)?;
        }
        if let Some(upper) = upper.first() {
            check_apart(&new, upper)?;
        }
        if ranges.len() >= MAX_RANGES {
            return Err(RegionError::TooMany(ranges.len().saturating_add(1)));
        }
        let region = [region];
        let (below, above) = self.map.regions.split_at(lower.len());
        let mut regions = Arc::into_inner(older.map).map(|map| map.regions).unwrap_or_default();
        regions.reserve(ranges.len().saturating_add(1).saturating_sub(regions.len()));
        become_like(&mut regions, &below.iter().chain(&region).chain(above).collect::<Vec<_>>());
        Ok(Self::from_sorted([lower, &[new], upper].concat(), regions, older.likely))
    }

    /// This memory without the region of `size` bytes at `base`, and that region.
    ///
    /// # Errors
    ///
    /// Unless a region has exactly this place and size: [`RegionError::Part`] if `base` lies in a region, which can only
    /// be removed as a whole; [`RegionError::NotFound`].
    pub fn remove_region(&self, base: GuestAddress, size: GuestUsize) -> Result<(Self, Arc<R>), RegionError> {
        let not_found = RegionError::NotFound { start: base, len: size };
        let ranges = self.map.index.ranges();
        let (number, _) = self.map.index.find(base.0).ok_or(not_found)?;
        let range = ranges.get(number).ok_or(not_found)?;
        if range.start != base.0 || size.checked_sub(1) != range.last.checked_sub(range.start) {
            return Err(RegionError::Part { start: base, len: size, region: ends(range) });
        }
        let (mut ranges, mut regions) = (ranges.to_vec(), self.map.regions.clone());
        ranges.remove(number);
        let region = regions.remove(number);
        Ok((Self::from_sorted(ranges, regions, Likely::default()), region))
    }

    /// The regions, by ascending address, to be shared.
    pub fn arc_regions(&self) -> &[Arc<R>] {
        &self.map.regions
    }
}

/// Makes one list of another, leaving alone what they have in common at their beginnings and ends.
fn become_like<R>(regions: &mut Vec<Arc<R>>, wanted: &[&Arc<R>]) {
    let same = |(one, other): &(&Arc<R>, &&Arc<R>)| Arc::ptr_eq(one, other);
    let first = regions.iter().zip(wanted).take_while(same).count();
    let (rest, rest_wanted) = (regions.get(first..).unwrap_or_default(), wanted.get(first..).unwrap_or_default());
    let last = rest.iter().rev().zip(rest_wanted.iter().rev()).take_while(same).count();
    let differing = first..regions.len().saturating_sub(last);
    let instead = rest_wanted.iter().take(rest_wanted.len().saturating_sub(last));
    regions.splice(differing, instead.map(|&region| Arc::clone(region)));
}

/// The addresses of a region, if it can be one.
fn range_of(region: &impl GuestMemoryRegion) -> Result<Range, RegionError> {
    let (start, len) = (region.start_addr(), region.len());
    let beyond_first = len.checked_sub(1).ok_or(RegionError::Empty { start })?;
    let last = start.checked_add(beyond_first).ok_or(RegionError::Wraps { start, len })?;
    Ok(Range { start: start.0, last: last.0 })
}

/// The first and the last address.
fn ends(range: &Range) -> (GuestAddress, GuestAddress) {
    (GuestAddress(range.start), GuestAddress(range.last))
}

/// That two ranges, of which one begins first, share no address.
fn check_apart(lower: &Range, upper: &Range) -> Result<(), RegionError> {
    if lower.last >= upper.start {
        return Err(RegionError::Overlap { first: ends(lower), second: ends(upper) });
    }
    Ok(())
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
    fn generation(&self) -> Option<u64> {
        Some(self.generation)
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
        Self { likely: self.likely.clone(), map: Arc::clone(&self.map), generation: self.generation }
    }
}

impl<R> Default for GuestRegionCollection<R> {
    fn default() -> Self {
        Self {
            likely: Likely::default(),
            map: Arc::new(Map { index: Index::default(), regions: Vec::new() }),
            generation: new_generation(),
        }
    }
}

impl<R: fmt::Debug> fmt::Debug for GuestRegionCollection<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.map.regions).finish()
    }
}
