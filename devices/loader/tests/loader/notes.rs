//! ELF notes: the PVH entry is found in each layout of them, and no note prevents loading.

use memory_model::GuestAddress;
use memory_model_loader::{KernelFormat, LoadedKernel, load_elf};

use crate::images::{BODY, Elf, Header, PVH, note};
use crate::support::{file_of, is_untouched_outside, memory};

/// A note of 64-bit ELF files: padded to 8.
fn property() -> Vec<u8> {
    [note(b"GNU\0", 5, &[0; 12]), vec![0; 4]].concat()
}

fn pvh(addr: u64) -> Vec<u8> {
    note(b"Xen\0", 18, &addr.to_le_bytes())
}

/// The tests' kernel with these note segments: bytes and alignment.
fn with_segments(segments: &[(&[u8], u64)]) -> Elf {
    let mut elf = Elf::new();
    let template = elf.headers.remove(1);
    for &(notes, align) in segments {
        let (offset, len) = (BODY + elf.body.len() as u64, notes.len() as u64);
        elf.headers.push(Header { offset, file_len: len, memory_len: len, align, ..template });
        elf.body.extend(notes);
    }
    elf
}

fn load_at(elf: &Elf, bias: u64) -> LoadedKernel {
    let memory = memory(&[(bias, 0x1_0000)]);
    let kernel = load_elf(&memory, &file_of(&elf.bytes()), bias).unwrap();
    assert!(is_untouched_outside(&memory, &kernel.ranges));
    assert_eq!((kernel.entry, kernel.ranges.len()), (GuestAddress(bias + 0x4040), 3), "all is loaded");
    kernel
}

fn entry_of(elf: &Elf) -> Option<u64> {
    match load_at(elf, 0).format {
        KernelFormat::Elf { pvh_entry, .. } => pvh_entry.map(|entry| entry.0),
        other => panic!("{other:?}"),
    }
}

fn entry_with(notes: &[u8], align: u64) -> Option<u64> {
    entry_of(&with_segments(&[(notes, align)]))
}

#[test]
fn pvh_entry_is_found_whatever_the_alignment_says() {
    // Two notes whose length is no multiple of 8 before it, as Linux writes them.
    let notes = [note(b"Xen\0", 7, b"2.6\0"), note(b"Xen\0", 17, &[1, 0x88, 0, 0]), pvh(PVH)].concat();
    for align in [0, 1, 2, 3, 4, 8, 16, 0x1000, u64::MAX] {
        assert_eq!(entry_with(&notes, align), Some(PVH), "p_align {align}");
    }
}

#[test]
fn pvh_entry_is_found_among_notes_of_other_sections() {
    let xen = note(b"Xen\0", 6, b"linux\0");
    let build_id = note(b"GNU\0", 3, &[7; 20]);
    let parts = [xen, property(), pvh(PVH), build_id];
    for order in [[0, 1, 2, 3], [2, 1, 0, 3], [1, 0, 3, 2], [3, 0, 1, 2], [3, 2, 1, 0]] {
        // As a linker puts sections: each aligned to 4 or to 8, with zeros between.
        for align in [4, 8] {
            let mut notes = Vec::new();
            for part in order {
                notes.resize(notes.len().next_multiple_of(align), 0);
                notes.extend(&parts[part]);
            }
            assert_eq!(entry_with(&notes, 8), Some(PVH), "{order:?} aligned to {align}");
        }
    }
}

#[test]
fn pvh_entry_is_found_behind_malformed_notes() {
    let mut long_name = note(b"Xen\0", 6, b"linux\0");
    long_name[..4].fill(0xff);
    let mut long_content = note(b"GNU\0", 3, &[1; 20]);
    long_content[4..8].copy_from_slice(&0x8000_0000_u32.to_le_bytes());
    let short_entry = note(b"Xen\0", 18, &[0, 0x41]);
    for before in [&[0xff; 64][..], &[0xff; 3], &[], &long_name, &long_content, &short_entry] {
        let same_segment = [before, &pvh(PVH)[..]].concat();
        assert_eq!(entry_with(&same_segment, 4), Some(PVH), "after {before:x?}");
        let another_segment = with_segments(&[(before, 4), (&pvh(PVH), 4)]);
        assert_eq!(entry_of(&another_segment), Some(PVH), "in a segment after {before:x?}");
    }
    // Of two entries, the first that can be entered.
    assert_eq!(entry_with(&[pvh(0x3fff), pvh(u64::MAX), pvh(PVH), pvh(PVH + 4)].concat(), 4), Some(PVH));
}

#[test]
fn notes_without_a_usable_entry_do_not_prevent_loading() {
    let whole = pvh(PVH);
    for len in 0..whole.len() {
        assert_eq!(entry_with(&whole[..len], 4), None, "cut off after {len}");
    }
    assert_eq!(entry_with(&[0xff; 64], 4), None);
    assert_eq!(entry_with(&note(b"Xen\0", 18, &[0, 0x41]), 4), None, "an entry of 2 bytes");
    assert_eq!(entry_with(&note(b"Xen\0", 18, &[0; 16]), 4), None, "an entry of 16 bytes");
    assert_eq!(entry_with(&note(b"GNU\0", 18, &PVH.to_le_bytes()), 4), None, "another owner's");
    assert_eq!(entry_with(&note(b"Xen\0", 17, &PVH.to_le_bytes()), 4), None, "another type");
    assert_eq!(entry_with(&pvh(0x3fff), 4), None, "an entry where nothing is loaded");
    assert_eq!(entry_with(&pvh(u64::MAX), 4), None);
}

#[test]
fn pvh_entry_above_4_gib_is_ignored() {
    let kernel = load_at(&with_segments(&[(&pvh(PVH), 4)]), 0x1_0000_0000);
    assert!(matches!(kernel.format, KernelFormat::Elf { pvh_entry: None, .. }), "{kernel}");
}

#[test]
fn first_64_kib_of_a_note_segment_are_searched() {
    let behind = |len: usize| [vec![0; len], pvh(PVH), vec![0xff; 0x1_0000]].concat();
    assert_eq!(entry_with(&behind(0x1_0000 - 24), 4), Some(PVH));
    assert_eq!(entry_with(&behind(0x1_0000 - 23), 4), None);
    assert_eq!(entry_of(&with_segments(&[(&behind(0x1_0000), 4), (&pvh(PVH), 4)])), Some(PVH), "the next segment");
}

#[test]
fn note_segments_outside_of_the_file_are_searched_as_far_as_they_are_inside() {
    let place = |offset: u64, file_len: u64| {
        let mut elf = with_segments(&[(&pvh(PVH), 4)]);
        let header = elf.headers.last_mut().unwrap();
        header.offset = header.offset.saturating_add(offset);
        header.file_len = file_len;
        entry_of(&elf)
    };
    for file_len in [25, 0x1_0001, 1 << 40, u64::MAX] {
        assert_eq!(place(0, file_len), Some(PVH), "{file_len:#x} bytes");
        for offset in [4, 24, 25, 1 << 40, u64::MAX] {
            assert_eq!(place(offset, file_len), None, "{file_len:#x} bytes from {offset:#x}");
        }
    }
    assert_eq!(place(0, 0), None);
}

#[test]
fn huge_note_segments_in_front_of_the_entry_are_read_in_part() {
    let mut elf = with_segments(&[(&pvh(PVH), 4)]);
    let huge = Header { offset: 1 << 20, file_len: u64::MAX, ..elf.headers[2] };
    // In a file that goes on for a terabyte without a block.
    elf.headers.splice(2..2, vec![huge; 3]);
    let file = file_of(&elf.bytes());
    file.set_len(1 << 40).unwrap_or_else(|_| file.set_len(1 << 30).unwrap());
    let kernel = load_elf(&memory(&[(0, 0x1_0000)]), &file, 0).unwrap();
    assert!(matches!(kernel.format, KernelFormat::Elf { pvh_entry: Some(GuestAddress(PVH)), .. }), "{kernel}");
}
