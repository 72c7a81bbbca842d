//! What cannot be laid out or allocated: each error has the names and numbers, and says them.

use memory_model::GuestAddress;
use memory_model::layout::{
    AddressAllocator, AllocError, GuestLayout, GuestLayoutBuilder, Item, LayoutError, Place, Platform, Zone,
};

use crate::{GIB, KIB, MIB};

fn pc() -> GuestLayoutBuilder {
    GuestLayout::builder(Platform::X86_64)
}

fn bare() -> GuestLayoutBuilder {
    GuestLayout::builder(Platform::Bare).zone(Zone::new("ram", MIB))
}

fn error(builder: GuestLayoutBuilder) -> LayoutError {
    builder.build().unwrap_err()
}

fn place(item: Item, name: &str, start: u64, last: u64) -> Place {
    Place { item, name: name.into(), start: GuestAddress(start), last: GuestAddress(last) }
}

#[test]
fn a_guest_without_memory() {
    assert_eq!(error(pc()), LayoutError::NoZones);
}

#[test]
fn addresses_have_1_to_64_bits() {
    for bits in [0, 65, u32::MAX] {
        assert_eq!(error(bare().address_bits(bits)), LayoutError::AddressBits(bits));
    }
    let byte = Zone::new("byte", 1).alignment(1);
    let tiny = |zone| GuestLayout::builder(Platform::Bare).address_bits(1).zone(zone).build();
    assert_eq!(tiny(byte).unwrap().last_addr(), GuestAddress(1));
}

#[test]
fn nothing_is_empty() {
    let empty = |item, name: &str| LayoutError::Empty { item, name: name.into() };
    assert_eq!(error(pc().zone(Zone::new("nothing", 0))), empty(Item::Zone, "nothing"));
    assert_eq!(error(bare().hole("h", GuestAddress(GIB), 0)), empty(Item::Hole, "h"));
    assert_eq!(error(bare().reserve("r", GuestAddress(GIB), 0)), empty(Item::Reservation, "r"));
    let mut layout = bare().build().unwrap();
    assert_eq!(layout.allocate("a", 0, 1, ..), Err(empty(Item::Allocation, "a")));
    assert_eq!(layout.allocate_at("a", GuestAddress(u64::MAX), 0), Err(empty(Item::Allocation, "a")));
}

#[test]
fn names_are_used_once() {
    let twice = |item, name: &str| LayoutError::DuplicateName { item, name: name.into() };
    assert_eq!(error(bare().zone(Zone::new("ram", MIB))), twice(Item::Zone, "ram"));
    let holes = bare().hole("h", GuestAddress(GIB), 1).hole("h", GuestAddress(2 * GIB), 1);
    assert_eq!(error(holes), twice(Item::Hole, "h"));
    let convention = pc().zone(Zone::new("ram", MIB)).reserve("I/O APIC", GuestAddress(0), 1);
    assert_eq!(error(convention), twice(Item::Reservation, "I/O APIC"));
    // Another sort of thing may have the same name, and allocations have any.
    let mut layout = bare().hole("ram", GuestAddress(GIB), 1).reserve("ram", GuestAddress(GIB), 1).build().unwrap();
    assert!(layout.allocate("ram", 1, 1, ..).is_ok() && layout.allocate("ram", 1, 1, ..).is_ok());
}

#[test]
fn what_is_left_out_was_there() {
    let unknown = |item, name: &str| LayoutError::UnknownName { item, name: name.into() };
    let ram = || Zone::new("ram", MIB);
    assert_eq!(error(pc().zone(ram()).without_hole("64-bit")), unknown(Item::Hole, "64-bit"));
    assert_eq!(error(pc().zone(ram()).without_reservation("HPET")), unknown(Item::Reservation, "HPET"));
    // A hole and a reservation of the same name are two.
    assert!(pc().zone(ram()).without_hole("HyperTransport").build().unwrap().reservations().count() == 4);
}

#[test]
fn zones_are_aligned() {
    for alignment in [0, 3, 0x1001, u64::MAX] {
        let error = error(pc().zone(Zone::new("z", MIB).alignment(alignment)));
        assert_eq!(error, LayoutError::NotPowerOfTwo { name: "z".into(), alignment });
    }
    let size = error(pc().zone(Zone::new("z", 3 * MIB).alignment(2 * MIB)));
    assert_eq!(size, LayoutError::MisalignedSize { name: "z".into(), len: 3 * MIB, alignment: 2 * MIB });
    let start = error(pc().zone(Zone::new("z", 4 * KIB).at(GuestAddress(1))));
    assert_eq!(start, LayoutError::MisalignedStart { name: "z".into(), start: GuestAddress(1), alignment: 4 * KIB });
}

#[test]
fn nothing_goes_past_the_last_address() {
    let past = |item, name: &str, start, len, address_bits| LayoutError::PastEnd {
        item,
        name: name.into(),
        start: GuestAddress(start),
        len,
        address_bits,
    };
    let at = |bits, start| bare().address_bits(bits).zone(Zone::new("z", MIB).at(GuestAddress(start)));
    assert!(at(36, (1 << 36) - MIB).build().is_ok());
    assert_eq!(error(at(36, (1 << 36) - 4 * KIB)), past(Item::Zone, "z", (1 << 36) - 4 * KIB, MIB, 36));
    assert_eq!(error(at(64, u64::MAX - 0xfff)), past(Item::Zone, "z", u64::MAX - 0xfff, MIB, 64));
    assert_eq!(error(bare().hole("h", GuestAddress(2), u64::MAX)), past(Item::Hole, "h", 2, u64::MAX, 64));
    let reserved = bare().address_bits(32).reserve("r", GuestAddress(4 * GIB), 1);
    assert_eq!(error(reserved), past(Item::Reservation, "r", 4 * GIB, 1, 32));
    let mut layout = bare().address_bits(32).build().unwrap();
    let high = layout.allocate_at("a", GuestAddress(4 * GIB - 1), 2);
    assert_eq!(high, Err(past(Item::Allocation, "a", 4 * GIB - 1, 2, 32)));
    let wrapping = layout.allocate_at("a", GuestAddress(u64::MAX), 2);
    assert_eq!(wrapping, Err(past(Item::Allocation, "a", u64::MAX, 2, 32)));
}

#[test]
fn of_one_sort_no_two_overlap() {
    let zones = bare()
        .zone(Zone::new("upper", MIB).at(GuestAddress(GIB + 4 * KIB)))
        .zone(Zone::new("lower", MIB).at(GuestAddress(GIB)));
    let expected = LayoutError::Overlap {
        first: place(Item::Zone, "lower", GIB, GIB + MIB - 1),
        second: place(Item::Zone, "upper", GIB + 4 * KIB, GIB + MIB + 4 * KIB - 1),
    };
    assert_eq!(error(zones), expected);
    let holes = pc().zone(Zone::new("ram", MIB)).hole("mine", GuestAddress(0xffff_ffff), 2);
    let expected = LayoutError::Overlap {
        first: place(Item::Hole, "32-bit MMIO", 0xc000_0000, 0xffff_ffff),
        second: place(Item::Hole, "mine", 0xffff_ffff, 0x1_0000_0000),
    };
    assert_eq!(error(holes), expected);
    let reservations = bare().reserve("a", GuestAddress(0), 2).reserve("b", GuestAddress(1), 1);
    let expected = LayoutError::Overlap {
        first: place(Item::Reservation, "a", 0, 1),
        second: place(Item::Reservation, "b", 1, 1),
    };
    assert_eq!(error(reservations), expected);
    // Ones that touch are fine.
    assert!(bare().reserve("a", GuestAddress(0), 2).reserve("b", GuestAddress(2), 1).build().is_ok());
}

#[test]
fn no_room_for_memory() {
    let one = GuestLayout::builder(Platform::Bare).address_bits(30).hole("h", GuestAddress(512 * MIB), 256 * MIB);
    let both = one.zone(Zone::new("a", 512 * MIB)).zone(Zone::new("b", 300 * MIB));
    let expected = LayoutError::NoRoom { name: "b".into(), len: 300 * MIB, missing: 44 * MIB, address_bits: 30 };
    assert_eq!(error(both), expected);
}

#[test]
fn no_room_for_devices() {
    let mut layout = pc().zone(Zone::new("ram", 4 * GIB)).build().unwrap();
    let low = GuestAddress(0)..=GuestAddress(0xffff_ffff);
    let (start, last) = (GuestAddress(0), GuestAddress(0xffff_ffff));
    let source = AllocError::NoRoom { len: 2 * GIB, align: GIB, start, last };
    let expected = LayoutError::Allocation { name: "gpu".into(), source };
    assert_eq!(layout.allocate("gpu", 2 * GIB, GIB, low), Err(expected));
    let source = AllocError::NotPowerOfTwo(3);
    let odd = layout.allocate("odd", 1, 3, ..);
    assert_eq!(odd, Err(LayoutError::Allocation { name: "odd".into(), source }));
    let source = AllocError::EmptyBounds;
    let nowhere = layout.allocate("nowhere", 1, 1, ..GuestAddress(0));
    assert_eq!(nowhere, Err(LayoutError::Allocation { name: "nowhere".into(), source }));
}

#[test]
fn a_place_that_is_taken_names_what_is_there() {
    let mut layout = pc().zone(Zone::new("ram", 4 * GIB)).build().unwrap();
    layout.allocate_at("uart", GuestAddress(0xd000_0000), 0x1000).unwrap();
    let taken = |start, len: u64, second| {
        let first = place(Item::Allocation, "x", start, start + (len - 1));
        Err(LayoutError::Overlap { first, second })
    };
    let mut at = |start, len| layout.allocate_at("x", GuestAddress(start), len);
    assert_eq!(at(0x1000, 1), taken(0x1000, 1, place(Item::Zone, "ram", 0, 3 * GIB - 1)));
    assert_eq!(at(0xa_0000, 1), taken(0xa_0000, 1, place(Item::Zone, "ram", 0, 3 * GIB - 1)));
    let apic = place(Item::Reservation, "I/O APIC", 0xfec0_0000, 0xfec0_0fff);
    assert_eq!(at(0xfebf_ffff, 2), taken(0xfebf_ffff, 2, apic));
    let uart = place(Item::Allocation, "uart", 0xd000_0000, 0xd000_0fff);
    assert_eq!(at(0xc000_0000, GIB), taken(0xc000_0000, GIB, uart));
    assert_eq!(at(0xd000_1000, 0x1000), Ok(()));
}

#[test]
fn what_is_freed_was_allocated() {
    let mut layout = bare().build().unwrap();
    let addr = layout.allocate("a", 0x100, 1, ..).unwrap();
    let inside = GuestAddress(addr.0 + 1);
    assert_eq!(layout.free(inside), Err(LayoutError::NotAllocated(inside)));
    assert_eq!(layout.free(GuestAddress(0)), Err(LayoutError::NotAllocated(GuestAddress(0))));
    assert_eq!(layout.free(addr), Ok(0x100));
    assert_eq!(layout.free(addr), Err(LayoutError::NotAllocated(addr)));
    assert_eq!(layout, bare().build().unwrap());
}

#[test]
fn the_allocators_own() {
    let mut room = AddressAllocator::new(GuestAddress(0x1000)..=GuestAddress(0x1fff));
    let taken = |start: u64, last: u64, addr| AllocError::Taken {
        start: GuestAddress(start),
        last: GuestAddress(last),
        addr: GuestAddress(addr),
    };
    assert_eq!(room.allocate(0, 1, ..), Err(AllocError::Empty));
    assert_eq!(room.allocate_at(GuestAddress(0x1000), 0), Err(AllocError::Empty));
    assert_eq!(room.allocate(1, 0, ..), Err(AllocError::NotPowerOfTwo(0)));
    let wraps = AllocError::Wraps { start: GuestAddress(u64::MAX), len: 2 };
    assert_eq!(room.allocate_at(GuestAddress(u64::MAX), 2), Err(wraps));
    assert_eq!(room.allocate_at(GuestAddress(0xfff), 2), Err(taken(0xfff, 0x1000, 0xfff)));
    assert_eq!(room.allocate_at(GuestAddress(0x1fff), 2), Err(taken(0x1fff, 0x2000, 0x2000)));
    assert_eq!(room.allocate_at(GuestAddress(0x1800), 1), Ok(()));
    assert_eq!(room.allocate_at(GuestAddress(0x1700), 0x200), Err(taken(0x1700, 0x18ff, 0x1800)));
    assert_eq!(room.free(GuestAddress(0x1801)), Err(AllocError::NotAllocated(GuestAddress(0x1801))));
    let backwards = std::ops::Bound::Excluded(GuestAddress(u64::MAX));
    assert_eq!(room.allocate(1, 1, (backwards, std::ops::Bound::Unbounded)), Err(AllocError::EmptyBounds));
}

#[test]
fn messages_name_the_things_and_say_what_to_do() {
    let cases = [
        (
            error(pc().zone(Zone::new("ram", 3 * MIB).alignment(2 * MIB))),
            "zone \"ram\" has 0x300000 bytes, which is no multiple of its alignment 0x200000: round it up",
        ),
        (
            error(pc().zone(Zone::new("ram", MIB)).hole("mine", GuestAddress(0xffff_ffff), 2)),
            "hole \"32-bit MMIO\" (0xc0000000..=0xffffffff) overlaps hole \"mine\" (0xffffffff..=0x100000000): move one, or \
             leave it out",
        ),
        (
            error(bare().address_bits(36).reserve("log", GuestAddress(1 << 36), 0x1000)),
            "reservation \"log\" of 0x1000 bytes at 0x1000000000 does not fit below 2^36: move it down, make it smaller, or \
             give addresses more bits",
        ),
        (
            bare().build().unwrap().allocate("bar", MIB, MIB, ..GuestAddress(MIB)).unwrap_err(),
            "\"bar\" cannot be allocated: 0x0..=0xfffff has no 0x100000 free bytes at a multiple of 0x100000: free some, or \
             admit other addresses",
        ),
    ];
    for (error, message) in cases {
        assert_eq!(error.to_string(), message);
    }
}
