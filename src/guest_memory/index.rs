//! Finding the range that has an address, in a time that does not grow with the number of ranges.
//!
//! A table divides the addresses from the first to the last range into chunks of equal size, a power of two, about two
//! for each range. Each slot names the first range that reaches into its chunk or lies after it. Where the ranges are of
//! similar sizes no more than two reach into a chunk, so that one comparison chooses between them and one more checks
//! the bounds. A chunk with more of them, as where small ranges lie together in a wide address space, has a table of its
//! own, over just their span, with finer chunks.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// An inclusive range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) last: u64,
}

/// Sorted ranges that do not overlap, fewer than [`LINK`].
#[derive(Debug, Default)]
pub(super) struct Index {
    ranges: Box<[Range]>,
    root: Table,
    tables: Box<[Table]>,
}

#[derive(Debug, Default)]
struct Table {
    /// The address where the first chunk begins.
    base: u64,
    /// A chunk has `1 << shift` addresses.
    shift: u32,
    /// The first range to try, or the number of a table, with [`LINK`].
    slots: Box<[u32]>,
}

const LINK: u32 = 1 << 31;

/// What the index takes at most.
pub(super) const MAX_RANGES: usize = 1 << 30;

impl Index {
    /// The index of `ranges`, which are sorted, do not overlap, and are at most [`MAX_RANGES`].
    pub(super) fn new(ranges: Vec<Range>) -> Self {
        let mut tables = Vec::new();
        let root = Table::new(&ranges, 0, &mut tables);
        Self { ranges: ranges.into(), root, tables: tables.into() }
    }

    /// The number of the range that has `addr`, and the offset in it.
    #[inline]
    pub(super) fn find(&self, addr: u64) -> Option<(usize, u64)> {
        let mut table = &self.root;
        let first = loop {
            // Below the base the difference wraps: to a slot past the last, or one whose ranges do not have it either.
            let chunk = addr.wrapping_sub(table.base) >> table.shift;
            let slot = *table.slots.get(usize::try_from(chunk).ok()?)?;
            if slot & LINK == 0 {
                break slot as usize;
            }
            table = self.tables.get((slot & !LINK) as usize)?;
        };
        let number = first.wrapping_add(usize::from(addr > self.ranges.get(first)?.last));
        let range = self.ranges.get(number)?;
        let offset = addr.wrapping_sub(range.start);
        (offset <= range.last.wrapping_sub(range.start)).then_some((number, offset))
    }

    /// How many tables the longest lookup goes through.
    #[cfg(test)]
    #[expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "for tests")]
    pub(super) fn depth(&self) -> usize {
        fn below(index: &Index, table: &Table) -> usize {
            let links = table.slots.iter().filter(|&&slot| slot & LINK != 0);
            1 + links.map(|&slot| below(index, &index.tables[(slot & !LINK) as usize])).max().unwrap_or(0)
        }
        below(self, &self.root)
    }
}

impl Table {
    /// A table over the span of `ranges`, the first of which has the number `first`; with those below it in `tables`.
    fn new(ranges: &[Range], first: usize, tables: &mut Vec<Self>) -> Self {
        let (Some(lowest), Some(highest)) = (ranges.first(), ranges.last()) else { return Self::default() };
        let span = highest.last.wrapping_sub(lowest.start);
        let wanted = ranges.len().saturating_mul(2).max(64) as u64;
        let shift = shift_for(span, wanted);
        let slots = (0..=span >> shift).map(|chunk| {
            let start = lowest.start.wrapping_add(chunk << shift);
            let last = start.saturating_add((1_u64 << shift).wrapping_sub(1));
            // The ranges that reach into the chunk. If none does, `from` is the next one, or past the last.
            let from = ranges.partition_point(|range| range.last < start);
            let to = ranges.partition_point(|range| range.start <= last);
            let inside = ranges.get(from..to).unwrap_or_default();
            let number = first.saturating_add(from);
            if inside.len() <= 2 {
                return u32::try_from(number).unwrap_or(0);
            }
            let clipped = inside.iter().map(|r| Range { start: r.start.max(start), last: r.last.min(last) });
            let table = Self::new(&clipped.collect::<Vec<_>>(), number, tables);
            tables.push(table);
            u32::try_from(tables.len().saturating_sub(1)).unwrap_or(0) | LINK
        });
        let slots = slots.collect();
        Self { base: lowest.start, shift, slots }
    }
}

/// The shift of the finest chunks of which no more than about `wanted` cover a span of `1 + span` addresses.
pub(super) fn shift_for(span: u64, wanted: u64) -> u32 {
    (u64::BITS.saturating_sub(span.leading_zeros()))
        .saturating_sub(u64::BITS.saturating_sub(wanted.leading_zeros()).saturating_sub(1))
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
