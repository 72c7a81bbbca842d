//! bzImages that are broken in one place each, and command lines: refused, and memory is untouched.

use memory_model::GuestAddress;
use memory_model_loader::{Error, LoadedRange, RangeKind, load_bzimage, write_command_line};

use crate::images::{CODE, CODE_LEN, bzimage, bzimage_with};
use crate::support::{assert_refused, bytes_at, file_of, is_untouched_outside, memory, range};

fn refused(case: &str, image: &[u8], addr: Option<u64>, expected: impl Fn(&Error) -> bool) {
    let memory = memory(&[(0, 0x1000), (0x10_0000, 0x1_0000), (0x20_0000, 0x1_0000)]);
    assert_refused(case, &memory, &load_bzimage(&memory, &file_of(image), addr.map(GuestAddress)), expected);
}

fn refused_with(case: &str, changes: &[(usize, &[u8])], expected: impl Fn(&Error) -> bool) {
    refused(case, &bzimage_with(changes), None, expected);
}

fn is_field(error: &Error, name: &str, expected: u64) -> bool {
    matches!(error, Error::BadField { field, value, .. } if *field == name && *value == expected)
}

fn is_outside(error: &Error, expected: RangeKind) -> bool {
    matches!(error, Error::OutsideMemory(LoadedRange { kind, .. }) if *kind == expected)
}

fn is_cut(error: &Error, expected: &str, len: usize) -> bool {
    matches!(error, Error::Truncated { what, file_len, .. } if *what == expected && *file_len == len as u64)
}

#[test]
fn truncated_at_each_structure() {
    let image = bzimage();
    let cuts: [(&str, &[usize]); 3] = [
        ("setup header", &[0x206, 0x26c, 0x28f]),
        ("real-mode code", &[0x290, 0x400, CODE - 1]),
        ("protected-mode code", &[CODE, CODE + 1, CODE + CODE_LEN - 17, CODE + CODE_LEN - 16]),
    ];
    for (what, lens) in cuts {
        for &len in lens {
            refused(&format!("cut off at {len:#x}"), &image[..len], None, |error| is_cut(error, what, len));
        }
    }
    for len in [0, 1, 0x1f1, 0x200, 0x205] {
        let is_it = |error: &Error| matches!(error, Error::UnknownFormat { wanted: "a bzImage", .. });
        refused(&format!("cut off at {len:#x}"), &image[..len], None, is_it);
    }
    let memory = memory(&[(0x10_0000, 0x1_0000)]);
    load_bzimage(&memory, &file_of(&image[..CODE + CODE_LEN]), None).expect("no byte is missing");
}

#[test]
fn code_without_a_byte_is_refused() {
    // One paragraph of code, and the file ends before it. No 64-bit entry, which would be refused as well.
    let image = bzimage_with(&[(0x1f4, &1_u32.to_le_bytes()), (0x236, &[0])]);
    refused("a paragraph is missing", &image[..CODE], None, |error| is_cut(error, "protected-mode code", CODE));
}

#[test]
fn header() {
    refused_with("magic", &[(0x202, b"HdrT")], |error| matches!(error, Error::UnknownFormat { .. }));
    refused_with("boot flag", &[(0x1fe, &[0xaa, 0x55])], |error| is_field(error, "boot_flag", 0x55aa));
    refused_with("protocol 2.01", &[(0x206, &[1, 2])], |error| is_field(error, "version", 0x201));
    refused_with("protocol 0", &[(0x206, &[0, 0])], |error| is_field(error, "version", 0));
    refused_with("zImage", &[(0x211, &[0x80])], |error| is_field(error, "loadflags", 0x80));
    refused_with("no jump", &[(0x200, &[0x90])], |error| is_field(error, "jump", 0x6a90));
    refused_with("jump back", &[(0x201, &[0x80])], |error| is_field(error, "jump", 0x80eb));
    refused_with("jump into the fields", &[(0x201, &[0x69])], |error| is_field(error, "jump", 0x69eb));
    refused_with("alignment of 0", &[(0x230, &[0; 4])], |error| is_field(error, "kernel_alignment", 0));
    refused_with("alignment of 3", &[(0x230, &[3, 0])], |error| is_field(error, "kernel_alignment", 3));
}

#[test]
fn sizes_in_the_file() {
    refused_with("setup_sects beyond the file", &[(0x1f1, &[0xff])], |error| {
        matches!(error, Error::Truncated { what: "real-mode code", len: 0x2_0000, .. })
    });
    refused_with("setup_sects pushes the code out", &[(0x1f1, &[4])], |error| {
        matches!(error, Error::Truncated { what: "protected-mode code", offset: 0xa00, len: 0x1f00, .. })
    });
    refused_with("syssize beyond the file", &[(0x1f4, &0x1f6_u32.to_le_bytes())], |error| {
        matches!(error, Error::Truncated { what: "protected-mode code", len: 0x1f60, .. })
    });
    refused_with("huge syssize", &[(0x1f4, &[0xff; 4])], |error| {
        matches!(error, Error::Truncated { what: "protected-mode code", len: 0xf_ffff_fff0, .. })
    });
    refused_with("no code", &[(0x1f4, &[0; 4])], |error| matches!(error, Error::NothingToLoad));
    refused_with("64-bit entry behind the code", &[(0x1f4, &[0x20, 0])], |error| {
        matches!(error, Error::EntryOutside { what: "64-bit entry", addr: 0x10_0200 })
    });
}

#[test]
fn sizes_in_memory() {
    let is_workspace = |error: &Error| is_outside(error, RangeKind::Workspace);
    refused_with("init_size beyond memory", &[(0x260, &0xc001_u32.to_le_bytes())], is_workspace);
    refused_with("huge init_size", &[(0x260, &[0xff; 4])], is_workspace);
    refused_with("pref_address in the hole", &[(0x258, &0x11_0000_u64.to_le_bytes())], is_workspace);
    refused_with("huge pref_address", &[(0x258, &[0xff; 8])], is_workspace);
    refused_with("pref_address wraps", &[(0x234, &[0]), (0x258, &[0xff; 8])], is_workspace);
    refused_with("huge alignment", &[(0x230, &0x8000_0000_u32.to_le_bytes())], is_workspace);

    let image = bzimage();
    let is_code = |error: &Error| is_outside(error, RangeKind::ProtectedMode);
    refused("in the hole", &image, Some(0x18_0000), is_code);
    refused("into the hole", &image, Some(0x20_e101), is_code);
    refused("into the hole, with the workspace only", &image, Some(0x20_8000), is_workspace);
    refused("aligned past 2^64", &image, Some(u64::MAX - 0xffe), |error| {
        matches!(error, Error::AddressOverflow { offset: 0x1000, .. })
    });
    refused("at the last address", &image, Some(u64::MAX), |error| {
        matches!(error, Error::EntryOutside { what: "64-bit entry", .. })
    });
}

#[test]
fn command_line() {
    let memory = memory(&[(0x1000, 0x100)]);
    let too_long = write_command_line(&memory, GuestAddress(0x1000), &"x".repeat(64), 63);
    assert!(matches!(too_long, Err(Error::CommandLineTooLong { len: 64, max: 63 })));
    let nul = write_command_line(&memory, GuestAddress(0x1000), "quiet\0init=/bin/sh", 63);
    assert!(matches!(nul, Err(Error::CommandLineNul { at: 5 })));
    for addr in [0, 0xfff, 0x10fd, 0x1100, u64::MAX] {
        let outside = write_command_line(&memory, GuestAddress(addr), "ro0", 63);
        assert!(matches!(outside, Err(Error::OutsideMemory(found)) if found == range(RangeKind::CommandLine, addr, 4)));
    }
    assert!(is_untouched_outside(&memory, &[]));
    // As long as it may be, with its zero at the last address.
    let text = "y".repeat(63);
    let written = write_command_line(&memory, GuestAddress(0x10c0), &text, 63).unwrap();
    assert_eq!(written, range(RangeKind::CommandLine, 0x10c0, 64));
    assert_eq!(bytes_at(&memory, 0x10c0, 64), [text.as_bytes(), &[0]].concat());
    assert!(is_untouched_outside(&memory, &[written]));
    assert_eq!(write_command_line(&memory, GuestAddress(0x1000), "", 0).unwrap().len, 1);
}
