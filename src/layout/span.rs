use alloc::vec::Vec;
use core::ops::{Bound, RangeBounds, RangeInclusive};

use crate::GuestAddress;

/// Addresses from `start` to `last`, both included, so that the last one may be 2^64 - 1. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) last: u64,
}

impl Span {
    /// `len` bytes from `start`; `None` if there is none, or if they go past the end of the address space.
    pub(super) fn new(start: u64, len: u64) -> Option<Self> {
        Some(Self { start, last: start.checked_add(len.checked_sub(1)?)? })
    }

    /// The addresses that `bounds` admit; `None` if they admit none.
    pub(super) fn of_bounds(bounds: &impl RangeBounds<GuestAddress>) -> Option<Self> {
        let start = match bounds.start_bound() {
            Bound::Included(start) => start.0,
            Bound::Excluded(below) => below.0.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let last = match bounds.end_bound() {
            Bound::Included(last) => last.0,
            Bound::Excluded(end) => end.0.checked_sub(1)?,
            Bound::Unbounded => u64::MAX,
        };
        (start <= last).then_some(Self { start, last })
    }

    /// The length in bytes. That of all 2^64 addresses is given as one less.
    pub(super) fn len(self) -> u64 {
        self.last.saturating_sub(self.start).saturating_add(1)
    }

    pub(super) fn contains(self, addr: u64) -> bool {
        self.start <= addr && addr <= self.last
    }

    /// The addresses that both have.
    pub(super) fn intersection(self, other: Self) -> Option<Self> {
        let (start, last) = (self.start.max(other.start), self.last.min(other.last));
        (start <= last).then_some(Self { start, last })
    }

    /// The largest part that begins at a multiple of `align`, a power of two.
    pub(super) fn align_start(self, align: u64) -> Option<Self> {
        let start = self.start.checked_next_multiple_of(align)?;
        (start <= self.last).then_some(Self { start, ..self })
    }

    /// The largest part that ends just below a multiple of `align`, a power of two.
    pub(super) fn align_end(self, align: u64) -> Option<Self> {
        // The end of the address space, 2^64, is a multiple of every power of two.
        let last = match self.last.checked_add(1) {
            Some(end) => end.checked_sub(end.checked_rem(align)?)?.checked_sub(1)?,
            None => self.last,
        };
        (self.start <= last).then_some(Self { last, ..self })
    }

    pub(super) fn range(self) -> RangeInclusive<GuestAddress> {
        GuestAddress(self.start)..=GuestAddress(self.last)
    }
}

/// What is left of `whole` without `occupied`, whose spans come in any order and may overlap.
pub(super) fn gaps(whole: Span, occupied: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut occupied: Vec<Span> = occupied.into_iter().collect();
    occupied.sort_unstable();
    let mut gaps = Vec::new();
    let mut rest = Some(whole.start);
    for span in occupied {
        let Some(start) = rest else { break };
        if let Some(last) = span.start.checked_sub(1).map(|last| last.min(whole.last)).filter(|&last| start <= last) {
            gaps.push(Span { start, last });
        }
        rest = span.last.checked_add(1).map(|next| next.max(start));
    }
    gaps.extend(rest.filter(|&start| start <= whole.last).map(|start| Span { start, last: whole.last }));
    gaps
}
