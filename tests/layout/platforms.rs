//! Each platform's ranges, for sizes around each edge.

use memory_model::GuestAddress;
use memory_model::layout::{GuestLayout, LayoutError, Platform, Zone};

use crate::{GIB, MIB, TIB, ranges};

const PAGE: u64 = 0x1000;
/// Where the hole of that name begins.
const HYPER_TRANSPORT: u64 = 1012 * GIB;

fn ram(platform: Platform, len: u64) -> Vec<(u64, u64)> {
    ranges(&GuestLayout::builder(platform).zone(Zone::new("ram", len)).build().unwrap())
}

#[test]
fn x86_64_around_the_hole_below_4_gib() {
    let ram = |len| ram(Platform::X86_64, len);
    assert_eq!(ram(PAGE), [(0, PAGE)]);
    assert_eq!(ram(3 * GIB - PAGE), [(0, 3 * GIB - PAGE)]);
    assert_eq!(ram(3 * GIB), [(0, 3 * GIB)]);
    assert_eq!(ram(3 * GIB + PAGE), [(0, 3 * GIB), (4 * GIB, PAGE)]);
}

#[test]
fn x86_64_around_the_high_gap() {
    let ram = |len| ram(Platform::X86_64, len);
    let (low, middle) = ((0, 3 * GIB), (4 * GIB, 252 * GIB));
    assert_eq!(ram(255 * GIB - PAGE), [low, (4 * GIB, 252 * GIB - PAGE)]);
    assert_eq!(ram(255 * GIB), [low, middle]);
    assert_eq!(ram(255 * GIB + PAGE), [low, middle, (512 * GIB, PAGE)]);
}

#[test]
fn x86_64_around_hyper_transport_and_1_tib() {
    let ram = |len| ram(Platform::X86_64, len);
    let (low, middle) = ((0, 3 * GIB), (4 * GIB, 252 * GIB));
    let high = (512 * GIB, HYPER_TRANSPORT - 512 * GIB);
    assert_eq!(ram(755 * GIB), [low, middle, high]);
    assert_eq!(ram(755 * GIB + PAGE), [low, middle, high, (TIB, PAGE)]);
    assert_eq!(ram(TIB), [low, middle, high, (TIB, 269 * GIB)]);
}

#[test]
fn x86_64_up_to_the_last_address_and_no_further() {
    let all = 3 * GIB + 252 * GIB + 500 * GIB + 63 * TIB;
    let last = *ram(Platform::X86_64, all).last().unwrap();
    assert_eq!(last, (TIB, 63 * TIB));
    let more = GuestLayout::builder(Platform::X86_64).zone(Zone::new("ram", all + PAGE)).build().unwrap_err();
    let expected = LayoutError::NoRoom { name: "ram".into(), len: all + PAGE, missing: PAGE, address_bits: 46 };
    assert_eq!(more, expected);
}

#[test]
fn arm_and_riscv_are_one_range_from_their_base() {
    for len in [PAGE, 64 * MIB, 3 * GIB, 3 * GIB + PAGE, TIB] {
        assert_eq!(ram(Platform::Aarch64, len), [(GIB, len)]);
        assert_eq!(ram(Platform::Riscv64, len), [(2 * GIB, len)]);
        assert_eq!(ram(Platform::Bare, len), [(0, len)]);
    }
}

#[test]
fn bare_memory_ends_at_the_last_address() {
    assert_eq!(ram(Platform::Bare, u64::MAX - (PAGE - 1)), [(0, u64::MAX - (PAGE - 1))]);
    let last = Zone::new("last", PAGE).at(GuestAddress(u64::MAX - (PAGE - 1)));
    let layout = GuestLayout::builder(Platform::Bare).zone(last).build().unwrap();
    assert_eq!(layout.ranges()[0].last(), GuestAddress(u64::MAX));
    assert_eq!(layout.entries().last().unwrap().last, GuestAddress(u64::MAX));
    // All of them: two halves that fill the space, and no room for more.
    let half = 1 << 63;
    let halves = || GuestLayout::builder(Platform::Bare).zone(Zone::new("a", half)).zone(Zone::new("b", half));
    let mut layout = halves().build().unwrap();
    assert_eq!(ranges(&layout), [(0, half), (half, half)]);
    assert!(layout.allocate("none", 1, 1, ..).is_err());
    assert!(halves().zone(Zone::new("c", PAGE)).build().is_err());
    assert_eq!(layout.entries().count(), 2);
}

#[test]
fn conventions_are_cut_off_at_the_last_address() {
    let build = |bits| GuestLayout::builder(Platform::X86_64).address_bits(bits).zone(Zone::new("ram", GIB)).build();
    let holes = |bits| build(bits).unwrap().holes().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(holes(40), ["32-bit MMIO", "64-bit MMIO", "HyperTransport"]);
    assert_eq!(holes(39), ["32-bit MMIO", "64-bit MMIO"]);
    assert_eq!(holes(38), ["32-bit MMIO"]);
    assert_eq!(holes(31), [""; 0]);
    let half = GuestAddress(0x40_0000_0000)..=GuestAddress(0x7f_ffff_ffff);
    assert_eq!(build(39).unwrap().hole("64-bit MMIO"), Some(half));
    assert_eq!(build(31).unwrap().reservations().count(), 1);
}

#[test]
fn devices_find_room_where_their_platform_has_it() {
    let build = |platform| GuestLayout::builder(platform).zone(Zone::new("ram", 16 * GIB)).build().unwrap();
    for (platform, first) in
        [(Platform::X86_64, 0xc000_0000), (Platform::Aarch64, 0x1000_0000), (Platform::Riscv64, 0x4000_0000)]
    {
        let mut layout = build(platform);
        let window = layout.hole("32-bit MMIO").unwrap();
        assert_eq!(layout.allocate("bar", MIB, MIB, window), Ok(GuestAddress(first)));
    }
    // The I/O APIC is in the way of the first 1 MiB from 0xfec0_0000 on.
    let mut pc = build(Platform::X86_64);
    assert_eq!(pc.allocate("bar", MIB, MIB, GuestAddress(0xfec0_0000)..), Ok(GuestAddress(0xfed0_0000)));
    assert_eq!(pc.allocate("bar", 1, 1, GuestAddress(0xfec0_0000)..), Ok(GuestAddress(0xfec0_1000)));
    assert_eq!(pc.allocate("bar", MIB, MIB, GuestAddress(0xfee0_0000)..), Ok(GuestAddress(0xfef0_0000)));
    // HyperTransport is never allocated, although it is a hole.
    assert_eq!(pc.allocate("bar", 1, 1, GuestAddress(HYPER_TRANSPORT)..), Ok(GuestAddress(TIB)));
}
