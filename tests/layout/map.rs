//! The map: entries that cover all addresses once, and the table of them.

use memory_model::layout::{Entry, EntryKind, GuestLayout, Platform, Zone};
use memory_model::{GuestAddress, RegionKind};

use crate::{GIB, MIB};

/// Whether each address is in exactly one entry, and no entry could be joined with the next.
pub(crate) fn assert_covers(layout: &GuestLayout) {
    let entries: Vec<Entry<'_>> = layout.entries().collect();
    let mut next = Some(0);
    for entry in &entries {
        assert_eq!(Some(entry.start.0), next, "{entry:?}");
        assert_eq!(entry.len - 1, entry.last.0 - entry.start.0, "{entry:?}");
        next = entry.last.0.checked_add(1);
    }
    assert_eq!(entries.last().unwrap().last, layout.last_addr());
    let memory: u64 = layout.zones().iter().fold(0, |sum, zone| sum.wrapping_add(zone.len));
    let in_zones = entries.iter().filter(|entry| entry.zone.is_some());
    assert_eq!(in_zones.fold(0, |sum: u64, entry| sum.wrapping_add(entry.len)), memory);
}

/// Two nodes of 8 GiB, firmware, tables in RAM, and devices.
pub(crate) fn two_nodes() -> GuestLayout {
    let mut layout = GuestLayout::builder(Platform::X86_64)
        .zone(Zone::new("node0", 8 * GIB).node(0).alignment(2 * MIB))
        .zone(Zone::new("node1", 8 * GIB).node(1).alignment(2 * MIB))
        .zone(Zone::new("firmware", 4 * MIB).kind(RegionKind::Rom).at(GuestAddress(0xffc0_0000)))
        .reserve("ACPI tables", GuestAddress(3 * GIB - MIB), MIB)
        .build()
        .unwrap();
    let low = || ..GuestAddress(4 * GIB);
    layout.allocate("PCI configuration", 256 * MIB, 256 * MIB, low()).unwrap();
    layout.allocate("virtio-net registers", 0x4000, 0x4000, low()).unwrap();
    layout.allocate("virtio-blk registers", 0x4000, 0x4000, low()).unwrap();
    layout.allocate("frame buffer", 256 * MIB, 256 * MIB, layout.hole("64-bit MMIO").unwrap()).unwrap();
    layout
}

#[test]
fn the_table() {
    let table = "        first            last      size  kind         node  name
          0x0         0x9ffff   640 KiB  RAM             0  node0
      0xa0000         0xfffff   384 KiB  reservation     0  VGA and BIOS
     0x100000      0xbfefffff  3070 MiB  RAM             0  node0
   0xbff00000      0xbfffffff     1 MiB  reservation     0  ACPI tables
   0xc0000000      0xcfffffff   256 MiB  allocation         PCI configuration
   0xd0000000      0xd0003fff    16 KiB  allocation         virtio-net registers
   0xd0004000      0xd0007fff    16 KiB  allocation         virtio-blk registers
   0xd0008000      0xfebfffff  ~748 MiB  hole               32-bit MMIO
   0xfec00000      0xfec00fff     4 KiB  reservation        I/O APIC
   0xfec01000      0xfedfffff  2044 KiB  hole               32-bit MMIO
   0xfee00000      0xfeefffff     1 MiB  reservation        local APIC and MSI
   0xfef00000      0xffbfffff    13 MiB  hole               32-bit MMIO
   0xffc00000      0xffffffff     4 MiB  ROM                firmware
  0x100000000     0x23fffffff     5 GiB  RAM             0  node0
  0x240000000     0x43fffffff     8 GiB  RAM             1  node1
  0x440000000    0x3fffffffff   239 GiB  unused
 0x4000000000    0x400fffffff   256 MiB  allocation         frame buffer
 0x4010000000    0x7fffffffff  ~256 GiB  hole               64-bit MMIO
 0x8000000000    0xfcffffffff   500 GiB  unused
 0xfd00000000    0xffffffffff    12 GiB  reservation        HyperTransport
0x10000000000  0x3fffffffffff    63 TiB  unused";
    let layout = two_nodes();
    assert_covers(&layout);
    assert_eq!(layout.to_string(), table);
}

#[test]
fn a_name_cannot_break_the_table() {
    let name = "two\nlines\u{1b}[0m";
    let layout = GuestLayout::builder(Platform::Bare).zone(Zone::new(name, MIB)).build().unwrap();
    let table = "   first                last     size  kind    node  name
     0x0             0xfffff    1 MiB  RAM           two\u{fffd}lines\u{fffd}[0m
0x100000  0xffffffffffffffff  ~16 EiB  unused";
    assert_eq!(layout.to_string(), table);
}

#[test]
fn neighbours_that_differ_are_entries_of_their_own() {
    let mut layout = GuestLayout::builder(Platform::Bare)
        .zone(Zone::new("a", MIB))
        .zone(Zone::new("b", MIB).kind(RegionKind::Device))
        .hole("hole", GuestAddress(3 * MIB), MIB)
        .reserve("above", GuestAddress(4 * MIB), MIB)
        .build()
        .unwrap();
    // Two of one name, the second across the hole's edge.
    layout.allocate_at("bar", GuestAddress(2 * MIB), 0x1000).unwrap();
    layout.allocate_at("bar", GuestAddress(2 * MIB + 0x1000), MIB).unwrap();
    assert_covers(&layout);
    let entries: Vec<_> = layout.entries().map(|entry| (entry.name, entry.kind, entry.len)).collect();
    let expected = [
        ("a", EntryKind::Memory(RegionKind::Ram), MIB),
        ("b", EntryKind::Memory(RegionKind::Device), MIB),
        ("bar", EntryKind::Allocation, 0x1000),
        ("bar", EntryKind::Allocation, MIB),
        ("hole", EntryKind::Hole, MIB - 0x1000),
        ("above", EntryKind::Reservation, MIB),
        ("", EntryKind::Unused, u64::MAX - 5 * MIB + 1),
    ];
    assert_eq!(entries, expected);
}
