//! Where an initrd goes.

use memory_model::GuestAddress;
use memory_model_loader::{Error, InitrdPlace, LoadedRange, RangeKind, load_initrd};

use crate::recorder::Recorder;
use crate::support::{Random, bytes_at, file_of, is_untouched_outside, memory, range};

fn up_to(last: u64) -> InitrdPlace {
    InitrdPlace::UpTo(GuestAddress(last))
}

fn taken(addr: u64, len: u64) -> LoadedRange {
    range(RangeKind::ProtectedMode, addr, len)
}

#[test]
fn every_byte_over_regions() {
    let bytes = Random(3).bytes(0x1801);
    let memory = memory(&[(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x1000), (0x8000, 0x1000)]);
    let initrd = load_initrd(&memory, &file_of(&bytes), up_to(u64::MAX), &[]).unwrap();
    assert_eq!(initrd, range(RangeKind::Initrd, 0x2000, 0x1801), "past the hole there is not enough");
    assert!(bytes_at(&memory, 0x2000, 0x1801) == bytes);
    assert!(is_untouched_outside(&memory, &[initrd]));
}

#[test]
fn the_highest_page_that_is_free() {
    let place = |len: usize, last: u64, reserved: &[LoadedRange]| {
        let memory = memory(&[(0x1800, 0x6800), (0x1_0000, 0x2000)]);
        let initrd = load_initrd(&memory, &file_of(&vec![7; len]), up_to(last), reserved);
        initrd.map(|initrd| initrd.addr.0)
    };
    let is_full = |result: Result<u64, Error>| matches!(result, Err(Error::NoRoom { .. }));
    assert_eq!(place(1, u64::MAX, &[]).unwrap(), 0x1_1000);
    assert_eq!(place(0x1000, 0x1_1fff, &[]).unwrap(), 0x1_1000, "up to its last byte");
    assert_eq!(place(0x1000, 0x1_1ffe, &[]).unwrap(), 0x1_0000, "one byte less");
    assert_eq!(place(0x2001, u64::MAX, &[]).unwrap(), 0x5000);
    assert_eq!(place(0x6000, u64::MAX, &[]).unwrap(), 0x2000, "not below the run's first whole page");
    assert!(is_full(place(0x6001, u64::MAX, &[])));
    assert!(is_full(place(1, 0x1fff, &[])), "there is memory from 0x1800 on, but no page begins in it");
    assert!(is_full(place(0x1000, 0x17ff, &[])));
    // What is in the way, in any order, and overlapping.
    let reserved = [taken(0x6100, 0x10), taken(0x1_0fff, 2), taken(0x7000, 0x800), taken(0x7010, 1)];
    assert_eq!(place(0x1000, u64::MAX, &reserved).unwrap(), 0x5000);
    assert_eq!(place(0x100, u64::MAX, &reserved).unwrap(), 0x1_0000);
    assert_eq!(place(0x100, 0xffff, &reserved).unwrap(), 0x6000);
    assert_eq!(place(0x101, 0xffff, &reserved).unwrap(), 0x5000);
    assert_eq!(place(0xfff, u64::MAX, &reserved).unwrap(), 0x1_0000, "before the one at 0x10fff");
    assert!(is_full(place(1, u64::MAX, &[taken(0, u64::MAX)])));
    assert!(is_full(place(1, u64::MAX, &[taken(1, u64::MAX)])), "a range up to the last address");
    assert_eq!(place(1, u64::MAX, &[taken(0x1_1000, 0)]).unwrap(), 0x1_1000, "no byte is in nobody's way");
}

#[test]
fn at_an_address() {
    let bytes = Random(4).bytes(0x234);
    let memory = memory(&[(0x1000, 0x1000)]);
    let at = |addr: u64| InitrdPlace::At(GuestAddress(addr));
    let kernel = taken(0x1100, 0x100);
    for addr in [0xfff, 0x1dcd, 0x2000, u64::MAX] {
        let result = load_initrd(&memory, &file_of(&bytes), at(addr), &[kernel]);
        assert!(matches!(result, Err(Error::OutsideMemory(found)) if found.addr.0 == addr), "{addr:#x}: {result:?}");
    }
    for addr in [0x1000, 0x11ff] {
        let result = load_initrd(&memory, &file_of(&bytes), at(addr), &[kernel]);
        assert!(matches!(result, Err(Error::Overlap { first, .. }) if first == kernel), "{addr:#x}: {result:?}");
    }
    assert!(is_untouched_outside(&memory, &[]));
    for addr in [0x1200, 0x1dcc] {
        let initrd = load_initrd(&memory, &file_of(&bytes), at(addr), &[kernel]).unwrap();
        assert_eq!(initrd, range(RangeKind::Initrd, addr, 0x234));
        assert!(bytes_at(&memory, addr, 0x234) == bytes);
    }
}

#[test]
fn an_empty_file_is_no_initrd() {
    let memory = memory(&[(0x1000, 0x1000)]);
    let result = load_initrd(&memory, &file_of(&[]), up_to(u64::MAX), &[]);
    assert!(matches!(result, Err(Error::Truncated { what: "initrd", file_len: 0, .. })));
    let result = load_initrd(&memory, &file_of(&[]), InitrdPlace::At(GuestAddress(0x1000)), &[]);
    assert!(matches!(result, Err(Error::Truncated { what: "initrd", file_len: 0, .. })));
}

#[test]
fn a_file_larger_than_memory() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(i64::MAX as u64).unwrap_or_else(|_| file.set_len(1 << 40).unwrap());
    let memory = memory(&[(0x1000, 0x1000)]);
    assert!(matches!(load_initrd(&memory, &file, up_to(u64::MAX), &[]), Err(Error::NoRoom { .. })));
    let result = load_initrd(&memory, &file, InitrdPlace::At(GuestAddress(0x1000)), &[]);
    assert!(matches!(result, Err(Error::OutsideMemory(_))));
    assert!(is_untouched_outside(&memory, &[]));
}

#[test]
fn memory_up_to_the_last_address_and_of_another_kind() {
    let bytes = Random(5).bytes(3000);
    let memory = Recorder::memory(&[(0, 0x1000), (u64::MAX - 0xffff, 0x1_0000)]);
    let initrd = load_initrd(&memory, &file_of(&bytes), up_to(u64::MAX), &[]).unwrap();
    assert_eq!(initrd.addr, GuestAddress(u64::MAX - 0xfff));
    assert!(bytes_at(&memory, initrd.addr.0, 3000) == bytes);
    // Empty memory has no room, and is no reason to panic.
    let result = load_initrd(&Recorder::memory(&[]), &file_of(&bytes), up_to(u64::MAX), &[]);
    assert!(matches!(result, Err(Error::NoRoom { len: 3000, .. })));
}
