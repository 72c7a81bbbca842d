//! A first guess at the region that has an address: right nearly always, and at once.
//!
//! A table divides the addresses of all regions into chunks of equal size, a power of two, some for each region. A slot
//! is the region that has most of its chunk. Whether that has the address is for the access to find out, which checks its
//! bounds in any case. Where the guess is wrong, as in a chunk with the edge of another region, the
//! [index](super::index) is asked.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::index::{Range, shift_for};

/// The likeliest region for each chunk of the address space. A clone is a handle.
pub(super) struct Likely<R> {
    /// The region, if there is just one. It is named apart from the slots, so that where it lies does not depend on the
    /// address: what is done with it need not wait for the lookup.
    only: Option<Arc<R>>,
    /// The address where the first chunk begins.
    base: u64,
    /// A chunk has `1 << shift` addresses.
    shift: u32,
    slots: Arc<[Arc<R>]>,
}

/// Chunks for each region, so that few of them have an edge; and the fewest that there are, a page of them.
const CHUNKS: usize = 2;
const MIN_CHUNKS: usize = 512;

impl<R> Likely<R> {
    /// The table for `regions` at `ranges`, which are sorted and do not overlap.
    pub(super) fn new(ranges: &[Range], regions: &[Arc<R>]) -> Self {
        let (Some(lowest), Some(highest)) = (ranges.first(), ranges.last()) else { return Self::default() };
        if let [only] = regions {
            return Self { only: Some(Arc::clone(only)), ..Self::default() };
        }
        let base = lowest.start;
        let span = highest.last.wrapping_sub(base);
        let shift = shift_for(span, ranges.len().saturating_mul(CHUNKS).max(MIN_CHUNKS) as u64);
        let slot = |chunk: u64| {
            let first = base.wrapping_add(chunk << shift);
            let last = first.saturating_add((1_u64 << shift).wrapping_sub(1));
            let from = ranges.partition_point(|range| range.last < first);
            let to = ranges.partition_point(|range| range.start <= last);
            let reach = |number: &usize| {
                let range = ranges.get(*number)?;
                range.last.min(last).checked_sub(range.start.max(first))
            };
            // Where no region reaches into the chunk any does, as it does not have the address.
            regions.get((from..to).max_by_key(reach).unwrap_or(0)).cloned()
        };
        let slots = (0..=span >> shift).map_while(slot).collect::<Vec<_>>().into();
        Self { only: None, base, shift, slots }
    }

    /// The guess for `addr`; `None` if it lies beyond all regions.
    #[inline(always)]
    pub(super) fn find(&self, addr: u64) -> Option<&R> {
        if let Some(only) = &self.only {
            return Some(only);
        }
        // Below the base the difference wraps: to a slot past the last, or one whose region does not have it either.
        let chunk = addr.wrapping_sub(self.base) >> self.shift;
        self.slots.get(usize::try_from(chunk).ok()?).map(|region| &**region)
    }
}

impl<R> Clone for Likely<R> {
    fn clone(&self) -> Self {
        Self { only: self.only.clone(), slots: Arc::clone(&self.slots), ..*self }
    }
}

impl<R> Default for Likely<R> {
    fn default() -> Self {
        Self { only: None, base: 0, shift: 0, slots: Arc::new([]) }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that panics has failed")]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Of 10,000 addresses that regions have, evenly spread over each, how many are guessed wrong.
    fn wrong(spans: &[(u64, u64)]) -> usize {
        let ranges: Vec<_> = spans.iter().map(|&(start, len)| Range { start, last: start + (len - 1) }).collect();
        let regions: Vec<_> = ranges.iter().copied().map(Arc::new).collect();
        let likely = Likely::new(&ranges, &regions);
        let each = 10_000 / spans.len() as u64;
        let is_wrong = |range: &Range, at: u64| {
            let addr = range.start + (range.last - range.start) / each * at;
            likely.find(addr) != Some(range)
        };
        ranges.iter().map(|range| (0..each).filter(|&at| is_wrong(range, at)).count()).sum()
    }

    #[test]
    fn one_region_is_guessed_always() {
        assert_eq!(wrong(&[(0x1234, 0x10_0000)]), 0);
        assert_eq!(wrong(&[(u64::MAX - 0xfff, 0x1000)]), 0);
    }

    #[test]
    fn even_layouts_are_guessed_always() {
        for count in [2, 8, 64, 1024] {
            for distance in [0x1000, 0x2000, 1 << 30, 1 << 46] {
                let spans: Vec<_> = (0..count).map(|i| (i * distance, 0x1000)).collect();
                assert_eq!(wrong(&spans), 0, "{count} regions {distance:#x} apart");
            }
        }
    }

    #[test]
    fn ordinary_guests_are_guessed_nearly_always() {
        let (mib, gib) = (1_u64 << 20, 1_u64 << 30);
        // x86 with its hole below 4 GiB, Arm from 1 GiB on, and uneven regions that touch.
        assert!(wrong(&[(0, 3 * gib), (4 * gib, 13 * gib)]) < 50);
        assert!(wrong(&[(gib, 700 * mib), (gib + 700 * mib, 5 * gib)]) < 50);
        let touching: Vec<_> = (0..1024).map(|i| (i * 3 * mib, 3 * mib)).collect();
        assert!(wrong(&touching) < 2000);
    }
}
