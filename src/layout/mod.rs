//! Guest-physical address layouts: which addresses has the guest, and for what?
//!
//! A guest's addresses are shared by memory and devices. Where memory must not be is a hole; what is laid around the holes
//! is a zone, in as many ranges as it takes; what must not be given to devices, or not be used as memory, is reserved.
//!
//! | type                   | what it is                                                                  |
//! |------------------------|-----------------------------------------------------------------------------|
//! | [`Platform`]           | the conventions of PCs, Arm and RISC-V machines: bases, holes, reservations |
//! | [`Zone`]               | a piece of memory that a guest is to have: its kind, node and alignment     |
//! | [`GuestLayoutBuilder`] | zones, holes and reservations as they are wanted                            |
//! | [`GuestLayout`]        | where they are; a table, a picture; the room that is left for devices       |
//! | [`Entry`]              | a row of the map                                                            |
//! | [`AddressAllocator`]   | the allocator alone                                                         |
//!
//! No memory is touched or mapped here: it is all about numbers.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod allocator;
mod builder;
mod entry;
mod error;
mod platform;
mod span;
mod svg;
pub(crate) mod table;
mod zone;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{RangeBounds, RangeInclusive};

pub use allocator::{AddressAllocator, AllocError};
pub use builder::GuestLayoutBuilder;
pub use entry::{Entry, EntryKind};
pub use error::{Item, LayoutError, Place};
pub use platform::Platform;
pub use zone::{Zone, ZoneRange};

use crate::{GuestAddress, GuestUsize};
use span::Span;
use table::{Align, Table, rough_size, size};

/// Which addresses a guest has, and for what: memory, holes, reservations, and what is allocated to devices.
///
/// ```
/// use memory_model::layout::{GuestLayout, Platform, Zone};
/// use memory_model::{GuestAddress, RegionKind};
///
/// let mut layout = GuestLayout::builder(Platform::X86_64)
///     .zone(Zone::new("node0", 8 << 30).node(0).alignment(2 << 20))
///     .zone(Zone::new("node1", 8 << 30).node(1).alignment(2 << 20))
///     .zone(Zone::new("firmware", 4 << 20).kind(RegionKind::Rom).at(GuestAddress(0xffc0_0000)))
///     .build()?;
///
/// // The first node's memory goes on behind the hole below 4 GiB.
/// let node0: Vec<_> = layout.zone_ranges("node0").map(|range| (range.start, range.len)).collect();
/// assert_eq!(node0, [(GuestAddress(0), 3 << 30), (GuestAddress(0x1_0000_0000), 5 << 30)]);
///
/// // A device that takes addresses of 32 bits, and one that takes any.
/// let bar0 = layout.allocate("nic bar0", 0x4000, 0x4000, ..GuestAddress(0x1_0000_0000))?;
/// assert_eq!(bar0, GuestAddress(0xc000_0000));
/// let bar2 = layout.allocate("gpu bar2", 16 << 30, 16 << 30, layout.hole("64-bit MMIO").unwrap())?;
/// assert_eq!(bar2, GuestAddress(0x40_0000_0000));
///
/// println!("{layout}"); // a table
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("map.svg");
/// std::fs::write(path, layout.to_svg())?; // a picture
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As text it is a table of its [`entries`](Self::entries), the lowest first. Sizes are exact, except those of room, which
/// are rounded where they would be long:
///
/// ```
/// # use memory_model::layout::{GuestLayout, Platform, Zone};
/// let layout = GuestLayout::builder(Platform::Aarch64).zone(Zone::new("ram", 64 << 20)).build()?;
/// let rows = [
///     "     first            last      size  kind    node  name",
///     "       0x0       0xfffffff   256 MiB  unused",
///     "0x10000000      0x3fffffff   768 MiB  hole          32-bit MMIO",
///     "0x40000000      0x43ffffff    64 MiB  RAM           ram",
///     "0x44000000  0xffffffffffff  ~256 TiB  unused",
/// ];
/// assert!(layout.to_string().lines().eq(rows));
/// # Ok::<(), memory_model::layout::LayoutError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestLayout {
    zones: Vec<Zone>,
    /// Sorted, as are holes and reservations: no two of each overlap.
    ranges: Vec<ZoneRange>,
    holes: Vec<Named>,
    reservations: Vec<Named>,
    /// By first address. They overlap neither ranges nor reservations.
    allocations: BTreeMap<u64, Named>,
    /// Has the addresses without ranges and reservations.
    allocator: AddressAllocator,
    /// All addresses of the guest.
    space: Span,
    address_bits: u32,
}

/// Addresses with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    span: Span,
}

impl GuestLayout {
    /// A layout by the conventions of `platform`.
    pub fn builder(platform: Platform) -> GuestLayoutBuilder {
        GuestLayoutBuilder::new(platform)
    }

    /// Where memory is, by ascending address.
    pub fn ranges(&self) -> &[ZoneRange] {
        &self.ranges
    }

    /// The zones, in the order in which they were added.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The zone of that name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == name)
    }

    /// Where the memory of the zone of that name is, by ascending address: nowhere, if there is no such zone.
    pub fn zone_ranges(&self, name: &str) -> impl Iterator<Item = &ZoneRange> {
        let index = self.zones.iter().position(|zone| zone.name == name);
        self.ranges.iter().filter(move |range| Some(range.zone) == index)
    }

    /// The addresses of the hole of that name, whatever lies there: bounds for [`allocate`](Self::allocate).
    pub fn hole(&self, name: &str) -> Option<RangeInclusive<GuestAddress>> {
        self.holes.iter().find(|hole| hole.name == name).map(|hole| hole.span.range())
    }

    /// The holes, by ascending address: their names, and first and last addresses.
    pub fn holes(&self) -> impl Iterator<Item = (&str, RangeInclusive<GuestAddress>)> {
        self.holes.iter().map(|hole| (&*hole.name, hole.span.range()))
    }

    /// The reservations, by ascending address: their names, and first and last addresses.
    pub fn reservations(&self) -> impl Iterator<Item = (&str, RangeInclusive<GuestAddress>)> {
        self.reservations.iter().map(|reserved| (&*reserved.name, reserved.span.range()))
    }

    /// How many bits the guest's addresses have.
    pub fn address_bits(&self) -> u32 {
        self.address_bits
    }

    /// The guest's last address.
    pub fn last_addr(&self) -> GuestAddress {
        GuestAddress(self.space.last)
    }

    /// Allocates `len` bytes for a device, of the addresses that `within` admits (`..` for all): the lowest ones that
    /// have no memory, are neither reserved nor allocated, and begin at a multiple of `align`, a power of two.
    ///
    /// That may be in a hole, or below or above memory. Names need not differ.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Empty`]; [`LayoutError::Allocation`] if there is no such room, or `align` is not a power of two.
    /// Nothing is allocated then.
    pub fn allocate(
        &mut self,
        name: impl Into<String>,
        len: GuestUsize,
        align: u64,
        within: impl RangeBounds<GuestAddress>,
    ) -> Result<GuestAddress, LayoutError> {
        let name = name.into();
        match self.allocator.allocate(len, align, within) {
            Ok(start) => {
                self.allocations.extend(Span::new(start.0, len).map(|span| (start.0, Named { name, span })));
                Ok(start)
            }
            Err(AllocError::Empty) => Err(LayoutError::Empty { item: Item::Allocation, name }),
            Err(source) => Err(LayoutError::Allocation { name, source }),
        }
    }

    /// Allocates exactly the `len` bytes at `start`.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Empty`]; [`LayoutError::PastEnd`]; [`LayoutError::Overlap`] if there is memory, a reservation or
    /// another allocation. Nothing is allocated then.
    pub fn allocate_at(
        &mut self,
        name: impl Into<String>,
        start: GuestAddress,
        len: GuestUsize,
    ) -> Result<(), LayoutError> {
        let (name, item) = (name.into(), Item::Allocation);
        match (self.allocator.allocate_at(start, len), Span::new(start.0, len)) {
            (Ok(()), Some(span)) => {
                self.allocations.insert(start.0, Named { name, span });
                Ok(())
            }
            (_, None) if len == 0 => Err(LayoutError::Empty { item, name }),
            (Err(source), Some(span)) if span.last <= self.space.last => {
                let wanted = Named { name, span };
                match self.occupant(span) {
                    Some(second) => Err(LayoutError::Overlap { first: wanted.place(item), second }),
                    None => Err(LayoutError::Allocation { name: wanted.name, source }),
                }
            }
            _ => Err(LayoutError::PastEnd { item, name, start, len, address_bits: self.address_bits }),
        }
    }

    /// Frees the allocation that begins at `start`, and answers its length.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NotAllocated`]: an allocation is freed as a whole, by its first address, and once.
    pub fn free(&mut self, start: GuestAddress) -> Result<GuestUsize, LayoutError> {
        self.allocations.remove(&start.0);
        self.allocator.free(start).or(Err(LayoutError::NotAllocated(start)))
    }

    /// The lowest of what keeps `span` from being allocated.
    fn occupant(&self, span: Span) -> Option<Place> {
        let meets = |named: &&Named| named.span.intersection(span).is_some();
        let reserved = self.reservations.iter().find(meets).map(|named| named.place(Item::Reservation));
        let allocated = self.allocations.values().find(meets).map(|named| named.place(Item::Allocation));
        let memory = self.ranges.iter().find(|range| range.span().intersection(span).is_some()).and_then(|range| {
            let name = self.zones.get(range.zone)?.name.clone();
            Some(Named { name, span: range.span() }.place(Item::Zone))
        });
        [reserved, allocated, memory].into_iter().flatten().min_by_key(|place| place.start)
    }
}

impl ZoneRange {
    /// The last address.
    pub fn last(&self) -> GuestAddress {
        GuestAddress(self.span().last)
    }

    fn span(&self) -> Span {
        // Laid below 2^64, and not empty.
        Span { start: self.start.0, last: self.start.0.saturating_add(self.len.saturating_sub(1)) }
    }
}

impl fmt::Display for GuestLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use alloc::string::ToString;

        let mut table = Table::new([
            ("first", Align::Right),
            ("last", Align::Right),
            ("size", Align::Right),
            ("kind", Align::Left),
            ("node", Align::Right),
            ("name", Align::Left),
        ]);
        for entry in self.entries() {
            let node = entry.zone.and_then(|zone| zone.node);
            // Nobody wants to know how many bytes of room there are.
            let size = match entry.kind {
                EntryKind::Hole | EntryKind::Unused => rough_size(entry.len).to_string(),
                _ => size(entry.len).to_string(),
            };
            table.row([
                entry.start.to_string(),
                entry.last.to_string(),
                size,
                entry.kind.to_string(),
                node.map_or(String::new(), |node| node.to_string()),
                entry.name.into(),
            ]);
        }
        table.fmt(f)
    }
}
