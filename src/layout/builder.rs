use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::platform::Convention;
use super::span::{Span, gaps};
use super::{AddressAllocator, GuestLayout, Item, LayoutError, Named, Place, Platform, Zone, ZoneRange};
use crate::{GuestAddress, GuestUsize};

/// What a guest's addresses are to be: from [`GuestLayout::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is laid out before `build`"]
pub struct GuestLayoutBuilder {
    platform: Platform,
    base: GuestAddress,
    address_bits: u32,
    zones: Vec<Zone>,
    holes: Vec<Wanted>,
    reservations: Vec<Wanted>,
    /// The platform's holes and reservations to be left out.
    without: Vec<(Item, String)>,
}

/// A range as it was given: not checked yet.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    start: GuestAddress,
    len: GuestUsize,
}

impl GuestLayoutBuilder {
    pub(super) fn new(platform: Platform) -> Self {
        Self {
            platform,
            base: platform.base(),
            address_bits: platform.address_bits(),
            zones: Vec::new(),
            holes: Vec::new(),
            reservations: Vec::new(),
            without: Vec::new(),
        }
    }

    /// Adds memory. Zones without a fixed place are laid in the order in which they are added, each above the last one,
    /// around holes and zones of a fixed place; one that meets such an obstacle goes on behind it, in another range.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zones.push(zone);
        self
    }

    /// Lays no zone at these `len` bytes, unless one has its fixed place there: addresses for devices.
    pub fn hole(mut self, name: impl Into<String>, start: GuestAddress, len: GuestUsize) -> Self {
        self.holes.push(Wanted { name: name.into(), start, len });
        self
    }

    /// Never allocates these `len` bytes. Where they are in a zone it is memory that the guest is told not to use; they
    /// may lie in zones, in holes, outside, or straddle the edges.
    pub fn reserve(mut self, name: impl Into<String>, start: GuestAddress, len: GuestUsize) -> Self {
        self.reservations.push(Wanted { name: name.into(), start, len });
        self
    }

    /// Leaves out one of the [`Platform`]'s holes, for instance to have one of a different size instead.
    ///
    /// ```
    /// use memory_model::GuestAddress;
    /// use memory_model::layout::{GuestLayout, Platform, Zone};
    ///
    /// // As QEMU's q35 machine: memory ends at 2 GiB, and goes on at 4 GiB.
    /// let layout = GuestLayout::builder(Platform::X86_64)
    ///     .without_hole("32-bit MMIO")
    ///     .hole("32-bit MMIO", GuestAddress(0x8000_0000), 0x8000_0000)
    ///     .zone(Zone::new("ram", 4 << 30))
    ///     .build()?;
    /// assert_eq!(layout.ranges()[1].start, GuestAddress(0x1_0000_0000));
    /// assert_eq!(layout.ranges()[1].len, 2 << 30);
    /// # Ok::<(), memory_model::layout::LayoutError>(())
    /// ```
    pub fn without_hole(mut self, name: impl Into<String>) -> Self {
        self.without.push((Item::Hole, name.into()));
        self
    }

    /// Leaves out one of the [`Platform`]'s reservations.
    pub fn without_reservation(mut self, name: impl Into<String>) -> Self {
        self.without.push((Item::Reservation, name.into()));
        self
    }

    /// Lays zones from `base` up, instead of the platform's base.
    pub fn base(self, base: GuestAddress) -> Self {
        Self { base, ..self }
    }

    /// The guest's addresses have so many bits, 1 to 64: what the processor can do, or less.
    pub fn address_bits(self, bits: u32) -> Self {
        Self { address_bits: bits, ..self }
    }

    /// Lays it out.
    ///
    /// # Errors
    ///
    /// [`LayoutError`]: there is no zone; something is empty or goes past the last address; zones, holes or reservations
    /// overlap others of their sort, or have the name of another; a zone's size or place is not aligned; there is no
    /// room. Holes and reservations may overlap each other and zones of a fixed place.
    pub fn build(self) -> Result<GuestLayout, LayoutError> {
        let space = self.space()?;
        if self.zones.is_empty() {
            return Err(LayoutError::NoZones);
        }
        let holes = self.named(Item::Hole, self.platform.holes(), &self.holes, space)?;
        let reservations = self.named(Item::Reservation, self.platform.reservations(), &self.reservations, space)?;
        let fixed = self.fixed(space)?;

        let floor = Span { start: self.base.0.min(space.last), ..space };
        let obstacles = holes.iter().map(|hole| hole.span).chain(fixed.iter().map(|(_, fixed)| fixed.span));
        let mut laying = Laying { gaps: gaps(floor, obstacles).into(), address_bits: self.address_bits };
        let mut ranges: Vec<_> = fixed.iter().map(|(zone, fixed)| (*zone, fixed.span)).collect();
        for (index, zone) in self.zones.iter().enumerate().filter(|(_, zone)| zone.at.is_none()) {
            laying.lay(zone, |span| ranges.push((index, span)))?;
        }
        ranges.sort_by_key(|&(_, span)| span);

        let occupied = ranges.iter().map(|&(_, span)| span).chain(reservations.iter().map(|reserved| reserved.span));
        let allocator = AddressAllocator::of_spans(gaps(space, occupied));
        let ranges = ranges.into_iter().filter_map(|(index, span)| {
            let zone = self.zones.get(index)?;
            let (start, len) = (GuestAddress(span.start), span.len());
            Some(ZoneRange { zone: index, start, len, kind: zone.kind, node: zone.node })
        });
        Ok(GuestLayout {
            ranges: ranges.collect(),
            zones: self.zones,
            holes,
            reservations,
            allocations: BTreeMap::new(),
            allocator,
            space,
            address_bits: self.address_bits,
        })
    }

    /// All addresses that the guest has.
    fn space(&self) -> Result<Span, LayoutError> {
        let unused = 64_u32.checked_sub(self.address_bits);
        let last = unused.and_then(|unused| u64::MAX.checked_shr(unused));
        last.map(|last| Span { start: 0, last }).ok_or(LayoutError::AddressBits(self.address_bits))
    }

    /// The platform's holes or reservations but those to be left out, and the given ones, sorted.
    fn named(
        &self,
        item: Item,
        conventions: &[Convention],
        given: &[Wanted],
        space: Span,
    ) -> Result<Vec<Named>, LayoutError> {
        let left_out = |name: &str| self.without.iter().any(|(what, which)| *what == item && which == name);
        for (_, name) in self.without.iter().filter(|(what, _)| *what == item) {
            if !conventions.iter().any(|&(convention, ..)| convention == name) {
                return Err(LayoutError::UnknownName { item, name: name.clone() });
            }
        }
        let conventions =
            conventions.iter().filter(|&&(name, ..)| !left_out(name)).filter_map(|&(name, start, len)| {
                let span = Span::new(start.0, len)?.intersection(space)?;
                Some(Ok(Named { name: name.to_string(), span }))
            });
        let given = given.iter().map(|wanted| self.check(item, &wanted.name, wanted.start, wanted.len, space));
        let named = conventions.chain(given).collect::<Result<Vec<_>, _>>()?;
        distinct_names(item, named.iter().map(|named| &*named.name))?;
        apart(item, named)
    }

    /// The zones that have a fixed place, with their indices, after a check of what all zones must keep.
    fn fixed(&self, space: Span) -> Result<Vec<(usize, Named)>, LayoutError> {
        distinct_names(Item::Zone, self.zones.iter().map(|zone| &*zone.name))?;
        let mut fixed = Vec::new();
        for (index, zone) in self.zones.iter().enumerate() {
            let (name, len, alignment) = (zone.name.clone(), zone.len, zone.alignment);
            if len == 0 {
                return Err(LayoutError::Empty { item: Item::Zone, name });
            }
            if !alignment.is_power_of_two() {
                return Err(LayoutError::NotPowerOfTwo { name, alignment });
            }
            if len.checked_rem(alignment) != Some(0) {
                return Err(LayoutError::MisalignedSize { name, len, alignment });
            }
            if let Some(start) = zone.at {
                if start.0.checked_rem(alignment) != Some(0) {
                    return Err(LayoutError::MisalignedStart { name, start, alignment });
                }
                fixed.push((index, self.check(Item::Zone, &name, start, len, space)?));
            }
        }
        apart(Item::Zone, fixed.iter().map(|(_, zone)| zone.clone()).collect())?;
        Ok(fixed)
    }

    /// A range with a name, if it has a byte and does not go past the last address.
    fn check(
        &self,
        item: Item,
        name: &str,
        start: GuestAddress,
        len: GuestUsize,
        space: Span,
    ) -> Result<Named, LayoutError> {
        let name = name.to_string();
        if len == 0 {
            return Err(LayoutError::Empty { item, name });
        }
        match Span::new(start.0, len) {
            Some(span) if span.last <= space.last => Ok(Named { name, span }),
            _ => Err(LayoutError::PastEnd { item, name, start, len, address_bits: self.address_bits }),
        }
    }
}

/// Where zones without a fixed place go.
struct Laying {
    /// What is left, by ascending address.
    gaps: VecDeque<Span>,
    address_bits: u32,
}

impl Laying {
    /// Lays `zone` above all that was laid before. What an alignment skips stays empty.
    fn lay(&mut self, zone: &Zone, mut range: impl FnMut(Span)) -> Result<(), LayoutError> {
        let mut missing = zone.len;
        while missing > 0 {
            let Some(gap) = self.gaps.pop_front() else {
                let (name, address_bits) = (zone.name.clone(), self.address_bits);
                return Err(LayoutError::NoRoom { name, len: zone.len, missing, address_bits });
            };
            let whole = gap.align_start(zone.alignment).and_then(|gap| gap.align_end(zone.alignment));
            let Some(room) = whole else { continue };
            let span = Span::new(room.start, missing).and_then(|span| span.intersection(room)).unwrap_or(room);
            missing = missing.saturating_sub(span.len());
            range(span);
            if let Some(start) = span.last.checked_add(1).filter(|&start| start <= gap.last && missing == 0) {
                self.gaps.push_front(Span { start, last: gap.last });
            }
        }
        Ok(())
    }
}

fn distinct_names<'a>(item: Item, names: impl Iterator<Item = &'a str>) -> Result<(), LayoutError> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.iter().zip(names.iter().skip(1)).find(|(one, next)| one == next) {
        Some((name, _)) => Err(LayoutError::DuplicateName { item, name: (*name).to_string() }),
        None => Ok(()),
    }
}

/// Sorts, if no two overlap.
fn apart(item: Item, mut named: Vec<Named>) -> Result<Vec<Named>, LayoutError> {
    named.sort_by_key(|named| named.span);
    match named.iter().zip(named.iter().skip(1)).find(|(lower, upper)| lower.span.last >= upper.span.start) {
        Some((lower, upper)) => Err(LayoutError::Overlap { first: lower.place(item), second: upper.place(item) }),
        None => Ok(named),
    }
}

impl Named {
    pub(super) fn place(&self, item: Item) -> Place {
        let (start, last) = (GuestAddress(self.span.start), GuestAddress(self.span.last));
        Place { item, name: self.name.clone(), start, last }
    }
}
