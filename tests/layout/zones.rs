//! Zones around holes: alignment, fixed places, holes and reservations of one's own.

use memory_model::layout::{EntryKind, GuestLayout, LayoutError, Platform, Zone};
use memory_model::{GuestAddress, RegionKind};

use crate::{GIB, KIB, MIB, ranges};

#[test]
fn zones_follow_each_other_around_holes() {
    let layout = GuestLayout::builder(Platform::X86_64)
        .zone(Zone::new("node0", 8 * GIB).node(0))
        .zone(Zone::new("node1", 8 * GIB).node(1))
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(0, 3 * GIB), (4 * GIB, 5 * GIB), (9 * GIB, 8 * GIB)]);
    let by_zone: Vec<_> = layout.ranges().iter().map(|range| (range.zone, range.node, range.kind)).collect();
    let (node0, node1) = ((0, Some(0), RegionKind::Ram), (1, Some(1), RegionKind::Ram));
    assert_eq!(by_zone, [node0, node0, node1]);
    assert_eq!(layout.zone_ranges("node0").collect::<Vec<_>>(), [&layout.ranges()[0], &layout.ranges()[1]]);
    assert_eq!(layout.zone_ranges("node1").collect::<Vec<_>>(), [&layout.ranges()[2]]);
    assert_eq!(layout.zone_ranges("node2").count(), 0);
    assert_eq!(layout.zone("node1"), Some(&layout.zones()[1]));
    assert_eq!(layout.zone("node2"), None);
    assert_eq!((layout.address_bits(), layout.last_addr()), (46, GuestAddress(0x3fff_ffff_ffff)));
}

#[test]
fn ranges_are_aligned_at_both_ends_of_a_hole() {
    let layout = GuestLayout::builder(Platform::Bare)
        .hole("odd", GuestAddress(5 * MIB), 2 * MIB + 4 * KIB)
        .zone(Zone::new("huge", 8 * MIB).alignment(2 * MIB))
        .zone(Zone::new("small", 4 * KIB))
        .build()
        .unwrap();
    // The 1 MiB below the hole, and what is above it up to 8 MiB, stay empty.
    assert_eq!(ranges(&layout), [(0, 4 * MIB), (8 * MIB, 4 * MIB), (12 * MIB, 4 * KIB)]);
}

#[test]
fn what_an_alignment_skips_is_room_for_devices_and_not_for_the_next_zone() {
    let mut layout = GuestLayout::builder(Platform::Bare)
        .zone(Zone::new("a", 4 * KIB))
        .zone(Zone::new("b", 2 * MIB).alignment(2 * MIB))
        .zone(Zone::new("c", 4 * KIB))
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(0, 4 * KIB), (2 * MIB, 2 * MIB), (4 * MIB, 4 * KIB)]);
    assert_eq!(layout.allocate("d", 4 * KIB, 4 * KIB, ..), Ok(GuestAddress(4 * KIB)));
}

#[test]
fn a_gap_too_small_for_an_alignment_is_skipped() {
    let layout = GuestLayout::builder(Platform::Bare)
        .hole("low", GuestAddress(GIB - MIB), MIB)
        .hole("high", GuestAddress(2 * GIB - MIB), 2 * MIB)
        .zone(Zone::new("ram", GIB).alignment(GIB))
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(3 * GIB, GIB)]);
}

#[test]
fn zones_of_bytes_fill_the_last_one() {
    let byte = |name| Zone::new(name, 1).alignment(1);
    let layout = GuestLayout::builder(Platform::Bare).address_bits(1).zone(byte("a")).zone(byte("b")).build().unwrap();
    assert_eq!(ranges(&layout), [(0, 1), (1, 1)]);
}

#[test]
fn a_base_of_ones_own() {
    let at = |base| GuestLayout::builder(Platform::X86_64).base(GuestAddress(base)).zone(Zone::new("ram", GIB)).build();
    assert_eq!(ranges(&at(MIB).unwrap()), [(MIB, GIB)]);
    assert_eq!(ranges(&at(1).unwrap()), [(4 * KIB, GIB)]);
    assert_eq!(ranges(&at(3 * GIB + 1).unwrap()), [(4 * GIB, GIB)]);
    assert!(matches!(at(u64::MAX), Err(LayoutError::NoRoom { missing: GIB, .. })));
}

#[test]
fn fixed_zones_lie_anywhere_and_others_go_around_them() {
    let mut layout = GuestLayout::builder(Platform::X86_64)
        .zone(Zone::new("ram", 3 * GIB))
        .zone(Zone::new("firmware", 4 * MIB).kind(RegionKind::Rom).at(GuestAddress(0xffc0_0000)))
        .zone(Zone::new("tables", MIB).kind(RegionKind::Reserved).at(GuestAddress(GIB)))
        .build()
        .unwrap();
    let expected = [(0, GIB), (GIB, MIB), (GIB + MIB, 2 * GIB - MIB), (0xffc0_0000, 4 * MIB), (4 * GIB, MIB)];
    assert_eq!(ranges(&layout), expected);
    // The hole has less room.
    assert_eq!(layout.hole("32-bit MMIO"), Some(GuestAddress(0xc000_0000)..=GuestAddress(0xffff_ffff)));
    let hole = layout.hole("32-bit MMIO").unwrap();
    assert_eq!(
        layout.allocate("a", 8 * MIB, 8 * MIB, GuestAddress(0xff00_0000)..=*hole.end()),
        Ok(GuestAddress(0xff00_0000))
    );
    assert!(layout.allocate("b", 8 * MIB, MIB, GuestAddress(0xff80_0000)..=*hole.end()).is_err());
}

#[test]
fn a_reservation_may_straddle_memory_and_a_hole() {
    let mut layout = GuestLayout::builder(Platform::Bare)
        .hole("pci", GuestAddress(MIB), MIB)
        .zone(Zone::new("ram", MIB))
        .reserve("edge", GuestAddress(MIB - 64 * KIB), 128 * KIB)
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(0, MIB)]);
    let edge: Vec<_> = layout.entries().filter(|entry| entry.kind == EntryKind::Reservation).collect();
    let places: Vec<_> = edge.iter().map(|entry| (entry.start.0, entry.len, entry.zone.is_some())).collect();
    assert_eq!(places, [(MIB - 64 * KIB, 64 * KIB, true), (MIB, 64 * KIB, false)]);
    assert_eq!(layout.allocate("bar", 4 * KIB, 4 * KIB, ..), Ok(GuestAddress(MIB + 64 * KIB)));
}

#[test]
fn holes_that_touch_are_two() {
    let layout = GuestLayout::builder(Platform::Bare)
        .hole("lower", GuestAddress(MIB), MIB)
        .hole("upper", GuestAddress(2 * MIB), MIB)
        .zone(Zone::new("ram", 2 * MIB))
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(0, MIB), (3 * MIB, MIB)]);
    let names: Vec<_> = layout.entries().map(|entry| entry.name).collect();
    assert_eq!(names, ["ram", "lower", "upper", "ram", ""]);
}

#[test]
fn conventions_can_be_left_out() {
    let layout = GuestLayout::builder(Platform::X86_64)
        .without_hole("32-bit MMIO")
        .without_hole("64-bit MMIO")
        .without_hole("HyperTransport")
        .without_reservation("VGA and BIOS")
        .without_reservation("I/O APIC")
        .without_reservation("local APIC and MSI")
        .without_reservation("HyperTransport")
        .zone(Zone::new("ram", 2 << 40))
        .build()
        .unwrap();
    assert_eq!(ranges(&layout), [(0, 2 << 40)]);
    assert_eq!((layout.holes().count(), layout.reservations().count(), layout.entries().count()), (0, 0, 2));
}

#[test]
fn a_clone_is_a_layout_of_its_own() {
    let layout = GuestLayout::builder(Platform::Aarch64).zone(Zone::new("ram", GIB)).build().unwrap();
    let mut clone = layout.clone();
    assert_eq!(clone, layout);
    let addr = clone.allocate("uart", 4 * KIB, 4 * KIB, ..).unwrap();
    assert_ne!(clone, layout);
    assert_eq!(clone.free(addr), Ok(4 * KIB));
    assert_eq!(clone, layout);
}
