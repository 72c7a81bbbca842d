//! The zero page, byte by byte at the offsets of `zero-page.rst` and `boot.rst`.

use memory_model::{GuestAddress, GuestMemoryMmap};
use memory_model_loader::{
    BootParams, E820Entry, E820Kind, Error, LoadedKernel, LoadedRange, RangeKind, load_bzimage, load_elf,
    write_boot_params,
};

use crate::images::{Elf, bzimage, bzimage_with};
use crate::support::{bytes_at, file_of, is_untouched_outside, memory, range};

const PAGE: u64 = 0x7000;
const HIGH: u64 = 0x1_0000_0000;

fn guest() -> GuestMemoryMmap {
    memory(&[(0, 0x1_0000), (0x10_0000, 0x1_0000), (HIGH, 0x1000)])
}

fn kernel(memory: &GuestMemoryMmap, image: &[u8]) -> LoadedKernel {
    load_bzimage(memory, &file_of(image), None).unwrap()
}

fn command_line(addr: u64) -> LoadedRange {
    range(RangeKind::CommandLine, addr, 10)
}

fn number(page: &[u8], at: usize, len: usize) -> u64 {
    page[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[test]
fn every_field() {
    let (memory, image) = (guest(), bzimage());
    let kernel = kernel(&memory, &image);
    let initrd = range(RangeKind::Initrd, HIGH + 0x100, 0x321);
    let mut e820 = E820Entry::ram_of(&memory);
    e820.push(E820Entry { addr: GuestAddress(0xfee0_0000), len: 0x1000, kind: E820Kind::Reserved });
    let command_line = command_line(HIGH + 0x40);
    let params = BootParams { kernel: &kernel, command_line, initrd: Some(initrd), e820: &e820 };
    let written = write_boot_params(&memory, GuestAddress(PAGE), &params).unwrap();
    assert_eq!(written, range(RangeKind::BootParams, PAGE, 0x1000));
    assert!(is_untouched_outside(&memory, &[written, kernel.ranges[0]]));

    let mut page = bytes_at(&memory, PAGE, 0x1000);
    assert_eq!(number(&page, 0x228, 4), 0x40, "cmd_line_ptr");
    assert_eq!(number(&page, 0xc8, 4), 1, "ext_cmd_line_ptr");
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4)), (0x100, 0x321), "ramdisk_image, ramdisk_size");
    assert_eq!((number(&page, 0xc0, 4), number(&page, 0xc4, 4)), (1, 0), "ext_ramdisk_image, ext_ramdisk_size");
    assert_eq!(number(&page, 0x214, 4), 0x10_0000, "code32_start");
    assert_eq!((page[0x210], number(&page, 0x1fa, 2)), (0xff, 0xffff), "type_of_loader, vid_mode");
    assert_eq!(page[0x1e8], 4, "e820_entries");
    let entry = |at: usize| (number(&page, at, 8), number(&page, at + 8, 8), number(&page, at + 16, 4));
    let expected = [(0, 0x1_0000, 1), (0x10_0000, 0x1_0000, 1), (HIGH, 0x1000, 1), (0xfee0_0000, 0x1000, 2)];
    assert_eq!([0x2d0, 0x2e4, 0x2f8, 0x30c].map(entry), expected);

    // The rest of the header is the file's, and the rest of the page is zero: without the two, nothing is left.
    for at in [0x1fa..0x1fc, 0x210..0x211, 0x214..0x220, 0x228..0x22c] {
        page[at.clone()].copy_from_slice(&image[at]);
    }
    assert_eq!(page[0x1f1..0x26c], image[0x1f1..0x26c]);
    for at in [0xc0..0xcc, 0x1e8..0x1e9, 0x1f1..0x26c, 0x2d0..0x320] {
        page[at].fill(0);
    }
    assert!(page.iter().all(|&byte| byte == 0));
}

#[test]
fn no_initrd_no_memory_map_and_an_elf_file() {
    let memory = guest();
    let kernel = load_elf(&memory, &file_of(&Elf::new().bytes()), 0).unwrap();
    let params = BootParams { kernel: &kernel, command_line: command_line(0x100), initrd: None, e820: &[] };
    write_boot_params(&memory, GuestAddress(0x1000), &params).unwrap();
    let page = bytes_at(&memory, 0x1000, 0x1000);
    assert_eq!((number(&page, 0x1fe, 2), &page[0x202..0x206]), (0xaa55, &b"HdrS"[..]));
    assert_eq!((page[0x210], number(&page, 0x206, 2), number(&page, 0x228, 4)), (0xff, 0x20f, 0x100));
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4), page[0x1e8]), (0, 0, 0));
}

#[test]
fn places_that_cannot_be() {
    let memory = guest();
    let kernel = kernel(&memory, &bzimage_with(&[(0x236, &[1])])); // not above 4 GiB
    let written = kernel.ranges.clone();
    let try_it = |page: u64, command_line: LoadedRange, initrd: Option<(u64, u64)>| {
        let initrd = initrd.map(|(addr, len)| range(RangeKind::Initrd, addr, len));
        let params = BootParams { kernel: &kernel, command_line, initrd, e820: &[] };
        write_boot_params(&memory, GuestAddress(page), &params).unwrap_err()
    };
    for page in [0xf001, 0x1_0000, u64::MAX - 0xffe] {
        let error = try_it(page, command_line(0x100), None);
        assert!(matches!(error, Error::OutsideMemory(found) if found.kind == RangeKind::BootParams), "{error}");
    }
    assert!(matches!(try_it(PAGE, command_line(0x2_0000), None), Error::OutsideMemory(_)));
    assert!(matches!(try_it(PAGE, command_line(0x100), Some((0xffff, 2))), Error::OutsideMemory(_)));
    for (page, line, initrd) in [
        (0x10_1000, 0x100, None),            // zero page in the kernel
        (0x10_c000, 0x100, None),            // zero page in the workspace
        (PAGE, PAGE + 0xfff, None),          // command line in the zero page
        (PAGE, 0x10_1eff, None),             // command line in the kernel's last byte
        (PAGE, 0x100, Some((0x109, 1))),     // initrd in the command line
        (PAGE, 0x100, Some((PAGE - 1, 2))),  // initrd in the zero page
        (PAGE, 0x100, Some((0x10_cfff, 1))), // initrd in the workspace's last byte
    ] {
        let error = try_it(page, command_line(line), initrd);
        assert!(matches!(error, Error::Overlap { .. }), "{page:#x} {line:#x} {initrd:x?}: {error}");
    }
    let last_below_4g = GuestAddress(0xffff_ffff);
    for error in [
        try_it(HIGH, command_line(0x100), None),
        try_it(PAGE, command_line(HIGH), None),
        try_it(PAGE, command_line(0x100), Some((HIGH, 1))),
    ] {
        assert!(matches!(error, Error::TooHigh { last, .. } if last == last_below_4g), "{error}");
    }
    assert!(is_untouched_outside(&memory, &written));
}

#[test]
fn an_initrd_above_the_kernels_limit() {
    let memory = guest();
    let kernel = kernel(&memory, &bzimage_with(&[(0x236, &[1]), (0x22c, &0x5fff_u32.to_le_bytes())]));
    let with_initrd = |addr: u64| {
        let initrd = Some(range(RangeKind::Initrd, addr, 0x1000));
        let params = BootParams { kernel: &kernel, command_line: command_line(0x100), initrd, e820: &[] };
        write_boot_params(&memory, GuestAddress(PAGE), &params)
    };
    let error = with_initrd(0x5001).unwrap_err();
    assert!(matches!(error, Error::TooHigh { last: GuestAddress(0x5fff), .. }), "{error}");
    with_initrd(0x5000).unwrap();
}

#[test]
fn memory_map_entries_that_do_not_fit() {
    let memory = guest();
    let kernel = kernel(&memory, &bzimage());
    let entry = E820Entry { addr: GuestAddress(1), len: 2, kind: E820Kind::Nvs };
    for count in [129, 256, 300] {
        let e820 = vec![entry; count];
        let params = BootParams { kernel: &kernel, command_line: command_line(0x100), initrd: None, e820: &e820 };
        let error = write_boot_params(&memory, GuestAddress(PAGE), &params).unwrap_err();
        assert!(matches!(error, Error::TooManyE820Entries { count: found, max: 128 } if found == count), "{error}");
    }
    assert!(is_untouched_outside(&memory, &kernel.ranges));
    let e820 = [entry; 128];
    let params = BootParams { kernel: &kernel, command_line: command_line(0x100), initrd: None, e820: &e820 };
    write_boot_params(&memory, GuestAddress(PAGE), &params).unwrap();
    let page = bytes_at(&memory, PAGE, 0x1000);
    assert_eq!((page[0x1e8], number(&page, 0xcd0 - 4, 4), number(&page, 0xcd0, 8)), (128, 4, 0));
}
