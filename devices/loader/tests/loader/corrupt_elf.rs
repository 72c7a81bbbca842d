//! ELF kernels that are broken in one place each: refused with the error that names it, and memory is untouched.

use memory_model_loader::{Error, LoadedRange, RangeKind, load_elf};

use crate::images::{DATA, Elf, Header, PT_NOTE, TEXT, put};
use crate::support::{assert_refused, file_of, memory};

/// The text's program header is the third.
const TEXT_HEADER: usize = 64 + 2 * 56;
const DATA_HEADER: usize = 64;

fn refused(case: &str, image: &[u8], bias: u64, expected: impl Fn(&Error) -> bool) {
    // With a hole between the segments, and one after them.
    let memory = memory(&[(0x1000, 0x5000), (0x7000, 0x4000)]);
    assert_refused(case, &memory, &load_elf(&memory, &file_of(image), bias), expected);
}

fn refused_with(case: &str, at: usize, bytes: &[u8], expected: impl Fn(&Error) -> bool) {
    let mut image = Elf::new().bytes();
    put(&mut image, at, bytes);
    refused(case, &image, 0, expected);
}

fn is_field(error: &Error, name: &str, expected: u64) -> bool {
    matches!(error, Error::BadField { field, value, .. } if *field == name && *value == expected)
}

fn is_outside(error: &Error, segment: u16) -> bool {
    matches!(error, Error::OutsideMemory(LoadedRange { kind: RangeKind::Segment(number), .. }) if *number == segment)
}

fn is_cut(error: &Error, expected: &str, len: usize) -> bool {
    matches!(error, Error::Truncated { what, file_len, .. } if *what == expected && *file_len == len as u64)
}

#[test]
fn truncated_at_each_structure() {
    let image = Elf::new().bytes();
    let cuts: [(&str, &[usize]); 4] = [
        ("ELF identification", &[4, 5, 15]),
        ("ELF header", &[16, 17, 63]),
        ("program header table", &[64, 65, 0xe7]),
        ("segment", &[0xe8, 0x200, 0x201, 0x1433, 0x1434, 0x1820]),
    ];
    for (what, lens) in cuts {
        for &len in lens {
            refused(&format!("cut off at {len:#x}"), &image[..len], 0, |error| is_cut(error, what, len));
        }
    }
    for len in 0..4 {
        let is_it = |error: &Error| matches!(error, Error::UnknownFormat { wanted: "an ELF file", .. });
        refused(&format!("cut off at {len}"), &image[..len], 0, is_it);
    }
}

#[test]
fn headers() {
    refused_with("magic", 0, &[0x7e], |error| matches!(error, Error::UnknownFormat { .. }));
    refused_with("class 0", 4, &[0], |error| is_field(error, "EI_CLASS", 0));
    refused_with("class 3", 4, &[3], |error| is_field(error, "EI_CLASS", 3));
    refused_with("class of 32 bits", 4, &[1], |error| {
        is_field(error, "e_phentsize", 0) || matches!(error, Error::NothingToLoad)
    });
    refused_with("big-endian", 5, &[2], |error| is_field(error, "EI_DATA", 2));
    refused_with("version", 6, &[0], |error| is_field(error, "EI_VERSION", 0));
    refused_with("object file", 16, &[1], |error| is_field(error, "e_type", 1));
    refused_with("core file", 16, &[4], |error| is_field(error, "e_type", 4));
    refused_with("table offset past the end", 32, &0x1b00_u64.to_le_bytes(), |error| {
        matches!(error, Error::Truncated { what: "program header table", offset: 0x1b00, len: 0xa8, .. })
    });
    refused_with("table offset wraps", 32, &u64::MAX.to_le_bytes(), |error| {
        matches!(error, Error::Truncated { what: "program header table", offset: u64::MAX, .. })
    });
    refused_with("no table", 32, &0_u64.to_le_bytes(), |error| matches!(error, Error::NothingToLoad));
    refused_with("entry size", 54, &[55], |error| is_field(error, "e_phentsize", 55));
    refused_with("no headers", 56, &[0], |error| matches!(error, Error::NothingToLoad));
    refused_with("257 headers", 56, &[1, 1], |error| is_field(error, "e_phnum", 257));
    refused_with("PN_XNUM", 56, &[0xff, 0xff], |error| is_field(error, "e_phnum", 0xffff));
    refused_with("256 headers, of which most are not there", 56, &[0, 1], |error| {
        matches!(error, Error::Truncated { what: "program header table", len: 0x3800, .. })
    });
}

#[test]
fn no_segments() {
    let mut elf = Elf::new();
    elf.headers.retain(|header| header.kind == PT_NOTE);
    refused("only notes", &elf.bytes(), 0, |error| matches!(error, Error::NothingToLoad));
    elf.headers = vec![Header { file_len: 0, memory_len: 0, ..TEXT }];
    refused("an empty segment", &elf.bytes(), 0, |error| matches!(error, Error::NothingToLoad));
}

#[test]
fn segments_in_the_file() {
    let is_cut = |error: &Error| matches!(error, Error::Truncated { what: "segment", .. });
    refused_with("p_offset past the end", TEXT_HEADER + 8, &0x10_0000_u64.to_le_bytes(), is_cut);
    refused_with("p_offset wraps", TEXT_HEADER + 8, &(u64::MAX - 0x1000).to_le_bytes(), is_cut);
    let len = u64::try_from(Elf::new().bytes().len()).unwrap();
    refused_with("one byte too many", TEXT_HEADER + 8, &(len - 0x1233).to_le_bytes(), is_cut);
    refused_with("p_filesz above p_memsz", TEXT_HEADER + 40, &0x1233_u64.to_le_bytes(), |error| {
        matches!(error, Error::SegmentTooLong { segment: 2, file_len: 0x1234, memory_len: 0x1233 })
    });
    refused_with("huge p_filesz", TEXT_HEADER + 32, &u64::MAX.to_le_bytes(), |error| {
        matches!(error, Error::SegmentTooLong { segment: 2, file_len: u64::MAX, .. })
    });
    let mut elf = Elf::new();
    elf.headers[2] = Header { file_len: u64::MAX, memory_len: u64::MAX, ..TEXT };
    refused("huge p_filesz and p_memsz", &elf.bytes(), 0, is_cut);
}

#[test]
fn segments_in_memory() {
    refused_with("huge p_memsz", DATA_HEADER + 40, &u64::MAX.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("p_memsz of 2^32 and more", DATA_HEADER + 40, &0x1_0000_1500_u64.to_le_bytes(), |e| is_outside(e, 0));
    refused_with("p_memsz one too many", DATA_HEADER + 40, &0x3101_u64.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("in the hole", DATA_HEADER + 24, &0x6000_u64.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("into the hole", DATA_HEADER + 24, &0x5300_u64.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("over the hole", DATA_HEADER + 24, &0x5f00_u64.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("below memory", DATA_HEADER + 24, &0xfff_u64.to_le_bytes(), |error| is_outside(error, 0));
    refused_with("wraps", DATA_HEADER + 24, &(u64::MAX - 0xff).to_le_bytes(), |error| is_outside(error, 0));
    refused_with("at the last address", DATA_HEADER + 24, &u64::MAX.to_le_bytes(), |error| is_outside(error, 0));
    let whole = memory(&[(0x1000, 0xa000)]);
    for addr in [TEXT.addr, TEXT.addr + TEXT.memory_len - 1, TEXT.addr - 0x14ff, TEXT.addr - 1] {
        let mut elf = Elf::new();
        elf.headers[0].addr = addr;
        let result = load_elf(&whole, &file_of(&elf.bytes()), 0);
        assert_refused(
            &format!("data at {addr:#x}, over text"),
            &whole,
            &result,
            |error| matches!(error, Error::Overlap { first, second } if first.overlaps(second) && first.addr <= second.addr),
        );
    }
    let image = Elf::new().bytes();
    refused("biased into a hole", &image, 0x1_0000, |error| is_outside(error, 2));
    refused("biased past 2^64", &image, u64::MAX - DATA.addr + 1, |error| {
        matches!(error, Error::AddressOverflow { addr: 0x7f00, .. })
    });
}

#[test]
fn entries() {
    let is_entry = |error: &Error| matches!(error, Error::EntryOutside { what: "entry point", .. });
    for entry in [0, TEXT.addr - 1, TEXT.addr + TEXT.file_len, TEXT.virtual_addr - 1, u64::MAX] {
        refused_with(&format!("entry {entry:#x}"), 24, &entry.to_le_bytes(), is_entry);
    }
    refused_with("entry in data, virtual", 24, &DATA.virtual_addr.to_le_bytes(), is_entry);
    refused_with("entry in the zeroes", 24, &(DATA.addr + DATA.file_len).to_le_bytes(), is_entry);
}
