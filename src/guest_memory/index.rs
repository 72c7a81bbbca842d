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

    /// All ranges, sorted.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
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
        let chunk = |addr: u64| usize::try_from(addr.wrapping_sub(lowest.start) >> shift).unwrap_or(usize::MAX);
        let mut slots = Vec::with_capacity(chunk(highest.last).saturating_add(1));
        for (number, range) in ranges.iter().enumerate() {
            let last = chunk(range.last);
            if last < slots.len() {
                continue; // it lies in a chunk into which another reaches before it
            }
            slots.resize(last, link_to(first.saturating_add(number), 0));
            // Of the ranges after it, the second reaches into the last chunk?
            let third = ranges.get(number.saturating_add(2)).filter(|third| chunk(third.start) == last);
            let slot = if third.is_none() {
                link_to(first.saturating_add(number), 0)
            } else {
                let start = lowest.start.wrapping_add((last as u64) << shift);
                let end = start.saturating_add((1_u64 << shift).wrapping_sub(1));
                let inside = ranges.iter().skip(number).take_while(|range| range.start <= end);
                let clipped = inside.map(|r| Range { start: r.start.max(start), last: r.last.min(end) });
                let table = Self::new(&clipped.collect::<Vec<_>>(), first.saturating_add(number), tables);
                tables.push(table);
                link_to(tables.len().saturating_sub(1), LINK)
            };
            slots.push(slot);
        }
        let slots = slots.into();
        Self { base: lowest.start, shift, slots }
    }
}

/// A slot that names a range, or with [`LINK`] a table.
fn link_to(number: usize, link: u32) -> u32 {
    u32::try_from(number).unwrap_or(0) | link
}

/// The shift of the finest chunks of which no more than about `wanted` cover a span of `1 + span` addresses.
pub(super) fn shift_for(span: u64, wanted: u64) -> u32 {
    (u64::BITS.saturating_sub(span.leading_zeros()))
        .saturating_sub(u64::BITS.saturating_sub(wanted.leading_zeros()).saturating_sub(1))
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
