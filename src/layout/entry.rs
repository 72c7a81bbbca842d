use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use super::span::Span;
use super::{GuestLayout, Named, Zone, ZoneRange};
use crate::{GuestAddress, GuestUsize, RegionKind};

/// Contiguous addresses of a guest that are all the same: a row of its memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// What it is called. Empty where nothing is.
    pub name: &'a str,
    /// What it is.
    pub kind: EntryKind,
    /// The first address.
    pub start: GuestAddress,
    /// The last address.
    pub last: GuestAddress,
    /// The length in bytes.
    pub len: GuestUsize,
    /// The memory that is there: that of the zone itself, or behind a reservation.
    pub zone: Option<&'a Zone>,
}

/// What addresses of a guest are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// A zone's memory.
    Memory(RegionKind),
    /// Never allocated; where there is memory, the guest is told not to use it.
    Reservation,
    /// Allocated.
    Allocation,
    /// Room in a hole.
    Hole,
    /// Room elsewhere: below, between or above zones.
    Unused,
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(kind) => kind.fmt(f),
            Self::Reservation => f.pad("reservation"),
            Self::Allocation => f.pad("allocation"),
            Self::Hole => f.pad("hole"),
            Self::Unused => f.pad("unused"),
        }
    }
}

/// Addresses that nothing of the layout begins or ends within.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) span: Span,
    pub(super) hole: Option<&'a Named>,
    pub(super) range: Option<&'a ZoneRange>,
    pub(super) allocation: Option<&'a Named>,
    pub(super) reservation: Option<&'a Named>,
    pub(super) zone: Option<&'a Zone>,
}

impl GuestLayout {
    /// The whole map, by ascending address: each address that the guest has is in exactly one entry. A reservation in
    /// RAM splits it. Tables for the guest, E820 or a device tree, are made from this.
    ///
    /// ```
    /// use memory_model::layout::{EntryKind, GuestLayout, Platform, Zone};
    /// use memory_model::RegionKind;
    ///
    /// let layout = GuestLayout::builder(Platform::X86_64).zone(Zone::new("ram", 128 << 20)).build()?;
    /// // An E820 table: 1 is RAM, 2 is reserved, what is not listed is for devices.
    /// let e820 = layout.entries().filter_map(|entry| match entry.kind {
    ///     EntryKind::Memory(RegionKind::Ram) => Some((entry.start.0, entry.len, 1)),
    ///     EntryKind::Reservation | EntryKind::Memory(_) => Some((entry.start.0, entry.len, 2)),
    ///     _ => None,
    /// });
    /// let expected = [(0, 0xa_0000, 1), (0xa_0000, 0x6_0000, 2), (0x10_0000, 0x7f0_0000, 1)];
    /// assert_eq!(e820.take(3).collect::<Vec<_>>(), expected);
    /// # Ok::<(), memory_model::layout::LayoutError>(())
    /// ```
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut entries: Vec<(Entry<'_>, Identity)> = Vec::new();
        for piece in self.pieces() {
            let (name, kind) = piece.name_and_kind();
            let (start, last) = (GuestAddress(piece.span.start), GuestAddress(piece.span.last));
            match entries.last_mut() {
                Some((entry, identity)) if *identity == piece.identity() => {
                    entry.last = last;
                    entry.len = entry.len.saturating_add(piece.span.len());
                }
                _ => {
                    let entry = Entry { name, kind, start, last, len: piece.span.len(), zone: piece.zone };
                    entries.push((entry, piece.identity()));
                }
            }
        }
        entries.into_iter().map(|(entry, _)| entry)
    }

    /// The map in pieces, by ascending address, cut also where entries are not: at a hole's ends inside of something.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let mut starts = BTreeSet::from([self.space.start]);
        let named =
            self.holes.iter().chain(&self.reservations).chain(self.allocations.values()).map(|named| named.span);
        for span in self.ranges.iter().map(ZoneRange::span).chain(named) {
            starts.insert(span.start);
            starts.extend(span.last.checked_add(1).filter(|&next| next <= self.space.last));
        }
        let ends = starts.iter().skip(1).map(|start| start.saturating_sub(1)).chain([self.space.last]);
        let spans = starts.iter().zip(ends).map(|(&start, last)| Span { start, last });
        let piece = |span: Span| {
            let at = span.start;
            let range = covering(&self.ranges, at, ZoneRange::span);
            Piece {
                span,
                hole: covering(&self.holes, at, |named| named.span),
                range,
                allocation: self.allocations.range(..=at).next_back().map(|(_, named)| named).filter(covers(at)),
                reservation: covering(&self.reservations, at, |named| named.span),
                zone: range.and_then(|range| self.zones.get(range.zone)),
            }
        };
        spans.map(piece).collect()
    }
}

fn covers(at: u64) -> impl Fn(&&Named) -> bool {
    move |named| named.span.contains(at)
}

/// The one of `sorted` that `at` is in.
fn covering<T>(sorted: &[T], at: u64, span: impl Fn(&T) -> Span) -> Option<&T> {
    let above = sorted.partition_point(|item| span(item).start <= at);
    sorted.get(above.checked_sub(1)?).filter(|item| span(item).contains(at))
}

/// What makes neighbouring pieces one entry: each is the first address of what is there.
type Identity = [Option<u64>; 4];

impl<'a> Piece<'a> {
    pub(super) fn name_and_kind(&self) -> (&'a str, EntryKind) {
        match (self.reservation, self.zone, self.allocation, self.hole) {
            (Some(reservation), ..) => (&reservation.name, EntryKind::Reservation),
            (_, Some(zone), ..) => (&zone.name, EntryKind::Memory(zone.kind)),
            (.., Some(allocation), _) => (&allocation.name, EntryKind::Allocation),
            (.., Some(hole)) => (&hole.name, EntryKind::Hole),
            _ => ("", EntryKind::Unused),
        }
    }

    fn identity(&self) -> Identity {
        let start = |named: Option<&Named>| named.map(|named| named.span.start);
        let (reservation, allocation) = (start(self.reservation), start(self.allocation));
        let range = self.range.map(|range| range.start.0);
        // Something in a hole is one thing also where the hole ends.
        let hole = if reservation.or(allocation).or(range).is_some() { None } else { start(self.hole) };
        [reservation, range, allocation, hole]
    }
}
