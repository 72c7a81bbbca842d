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
    /// The table for `regions` at `ranges`, which are sorted and do not overlap. It is this one, altered, if nobody else
    /// has this one and it is as long.
    pub(super) fn renew(self, ranges: &[Range], regions: &[Arc<R>]) -> Self {
        let (Some(lowest), Some(highest)) = (ranges.first(), ranges.last()) else { return Self::default() };
        if let [only] = regions {
            return Self { only: Some(Arc::clone(only)), ..Self::default() };
        }
        let base = lowest.start;
        let span = highest.last.wrapping_sub(base);
        let shift = shift_for(span, ranges.len().saturating_mul(CHUNKS).max(MIN_CHUNKS) as u64);
        let chunk = |addr: u64| usize::try_from(addr.wrapping_sub(base) >> shift).unwrap_or(usize::MAX);
        // For each chunk the number of a region. Where none reaches into it any does, as it does not have the address.
        let mut numbers = Vec::with_capacity(chunk(highest.last).saturating_add(1));
        // How much of the last chunk that one has.
        let mut most = 0;
        for (number, range) in ranges.iter().enumerate() {
            let (from, to) = (chunk(range.start), chunk(range.last));
            let start_of = |chunk: usize| base.wrapping_add((chunk as u64) << shift);
            if from < numbers.len() {
                // It begins in the chunk where the one before it ends.
                let reach = range.last.min(start_of(from).saturating_add((1_u64 << shift).wrapping_sub(1)));
                let reach = reach.saturating_sub(range.start);
                if reach >= most {
                    numbers.pop();
                    numbers.push(number);
                    most = reach;
                }
            }
            if to >= numbers.len() {
                numbers.resize(to.saturating_add(1), number);
                most = range.last.saturating_sub(range.start.max(start_of(to)));
            }
        }
        let mut slots = self.slots;
        if let Some(slots) = Arc::get_mut(&mut slots).filter(|slots| slots.len() == numbers.len()) {
            for (slot, number) in slots.iter_mut().zip(numbers) {
                match regions.get(number) {
                    Some(region) if !Arc::ptr_eq(slot, region) => slot.clone_from(region),
                    _ => {}
                }
            }
        } else {
            let named = numbers.into_iter().filter_map(|number| regions.get(number).cloned());
            slots = named.collect::<Vec<_>>().into();
        }
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
        let likely = Likely::default().renew(&ranges, &regions);
        let each = 10_000 / spans.len() as u64;
        let is_wrong = |range: &Range, at: u64| {
            let addr = range.start + (range.last - range.start) / each * at;
            likely.find(addr) != Some(range)
        };
        ranges.iter().map(|range| (0..each).filter(|&at| is_wrong(range, at)).count()).sum()
    }

    #[test]
    fn a_table_that_is_made_of_an_older_one_is_as_a_new_one() {
        let ranges: Vec<_> =
            (0..64_u64).map(|number| Range { start: number << 20, last: (number << 20) + 0xfff }).collect();
        let regions: Vec<_> = ranges.iter().copied().map(Arc::new).collect();
        let (mut fewer_ranges, mut fewer_regions) = (ranges.clone(), regions.clone());
        fewer_ranges.drain(20..30);
        fewer_regions.drain(20..30);
        let older = Likely::default().renew(&fewer_ranges, &fewer_regions);
        let place = older.slots.as_ptr();
        let renewed = older.renew(&ranges, &regions);
        assert_eq!(renewed.slots.as_ptr(), place);
        let new = Likely::default().renew(&ranges, &regions);
        assert!(renewed.slots.iter().zip(&*new.slots).all(|(one, other)| Arc::ptr_eq(one, other)));
        // Nor does it alter one that somebody has.
        let (copy, shared) = (renewed.clone(), renewed.slots.as_ptr());
        assert_ne!(renewed.renew(&fewer_ranges, &fewer_regions).slots.as_ptr(), shared);
        assert!(copy.slots.iter().zip(&*new.slots).all(|(one, other)| Arc::ptr_eq(one, other)));
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
