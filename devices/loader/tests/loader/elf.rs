//! ELF kernels that are well made: every byte where it belongs.

use memory_model::GuestAddress;
use memory_model_loader::{ElfClass, Error, KernelFormat, LoadOptions, LoadedKernel, RangeKind, load_elf, load_kernel};

use crate::images::{BODY, DATA, Elf, Header, PVH, RX, TEXT};
use crate::recorder::Recorder;
use crate::support::{bytes_at, file_of, is_untouched_outside, memory, range};

fn segment_bytes(elf: &Elf, header: &Header) -> Vec<u8> {
    let at = usize::try_from(header.offset - BODY).unwrap();
    elf.body[at..][..usize::try_from(header.file_len).unwrap()].to_vec()
}

fn assert_loaded(memory: &impl memory_model::GuestMemory, elf: &Elf, bias: u64) {
    for header in [&TEXT, &DATA] {
        let bytes = segment_bytes(elf, header);
        assert!(bytes_at(memory, header.addr + bias, bytes.len()) == bytes, "the file's bytes at {:#x}", header.addr);
    }
    let zeroes = bytes_at(memory, DATA.addr + DATA.file_len + bias, 0x1500 - 0x321);
    assert!(zeroes.iter().all(|&byte| byte == 0), ".bss is zero");
}

#[test]
fn segments_cross_regions_and_bss_is_zeroed() {
    let elf = Elf::new();
    // Boundaries inside of text, of the data's bytes, and of the data's zeroes; and memory past a hole.
    let memory = memory(&[(0x1000, 0x3800), (0x4800, 0x3800), (0x8000, 0x1000), (0x9000, 0x2000), (0xf_0000, 0x1000)]);
    let kernel = load_kernel(&memory, &file_of(&elf.bytes()), LoadOptions::default()).unwrap();
    assert_loaded(&memory, &elf, 0);
    let ranges = [
        range(RangeKind::Segment(2), 0x4000, 0x1234),
        range(RangeKind::Segment(0), 0x7f00, 0x321),
        range(RangeKind::Zeroes(0), 0x8221, 0x11df),
    ];
    assert_eq!(kernel.ranges, ranges);
    assert!(is_untouched_outside(&memory, &ranges));
    assert_eq!(kernel.entry, GuestAddress(0x4040), "the virtual address is translated");
    let pvh_entry = Some(GuestAddress(PVH));
    assert_eq!(kernel.format, KernelFormat::Elf { class: ElfClass::Elf64, machine: 62, pvh_entry });
    assert_eq!(
        kernel.to_string(),
        "ELF64 kernel for machine 62, entry 0x4040, PVH entry 0x4100\n\
         \x20 0x0000000000004000..=0x0000000000005233      0x1234 segment 2\n\
         \x20 0x0000000000007f00..=0x0000000000008220       0x321 segment 0\n\
         \x20 0x0000000000008221..=0x00000000000093ff      0x11df zeroes of segment 0\n"
    );
}

#[test]
fn elf_of_32_bits() {
    let elf = Elf::new_32();
    let memory = memory(&[(0, 0x1_0000)]);
    let kernel = load_elf(&memory, &file_of(&elf.bytes()), 0).unwrap();
    assert_loaded(&memory, &elf, 0);
    assert_eq!(kernel.entry, GuestAddress(0x4040));
    let pvh_entry = Some(GuestAddress(PVH));
    assert_eq!(kernel.format, KernelFormat::Elf { class: ElfClass::Elf32, machine: 3, pvh_entry });
}

#[test]
fn bias_moves_segments_and_entries() {
    let elf = Elf::new();
    let memory = memory(&[(0, 0x1000), (0x8000_0000, 0x1_0000)]);
    let options = LoadOptions { elf_bias: 0x8000_0000, ..LoadOptions::default() };
    let kernel = load_kernel(&memory, &file_of(&elf.bytes()), options).unwrap();
    assert_loaded(&memory, &elf, 0x8000_0000);
    assert!(is_untouched_outside(&memory, &kernel.ranges));
    assert_eq!(kernel.entry, GuestAddress(0x8000_4040));
    let KernelFormat::Elf { pvh_entry, .. } = kernel.format else { panic!("{kernel}") };
    assert_eq!(pvh_entry, Some(GuestAddress(0x8000_4100)));
}

#[test]
fn memory_of_another_kind_will_do() {
    let elf = Elf::new();
    let memory = Recorder::memory(&[(0, 0x4801), (0x4801, 0x4000), (0x8801, 1 << 40)]);
    let kernel = load_elf(&memory, &file_of(&elf.bytes()), 0).unwrap();
    assert_loaded(&memory, &elf, 0);
    assert_eq!(kernel.ranges.len(), 3);
    let written: Vec<_> = memory.arc_regions().iter().flat_map(|region| region.written()).collect();
    assert_eq!(written, [(0x4000, 0x4800), (0x4801, 0x5233), (0x7f00, 0x8800), (0x8801, 0x93ff)], "once, in order");
}

/// The entry of a kernel whose text and data lie as they do, with this `e_entry`.
fn loaded_with(change: impl FnOnce(&mut Elf)) -> LoadedKernel {
    let mut elf = Elf::new();
    change(&mut elf);
    load_elf(&memory(&[(0, 0x1_0000)]), &file_of(&elf.bytes()), 0).unwrap()
}

#[test]
fn an_entry_is_virtual_or_physical() {
    assert_eq!(loaded_with(|elf| elf.entry = TEXT.virtual_addr + 0x1233).entry, GuestAddress(0x5233), "last byte");
    assert_eq!(loaded_with(|elf| elf.entry = 0x4000).entry, GuestAddress(0x4000), "physical, as of Linux on x86-64");
    // A data segment at virtual address 0, as Linux' per-CPU data, does not make a physical entry a virtual one.
    let kernel = loaded_with(|elf| {
        elf.entry = 0x4010;
        elf.headers[0].virtual_addr = 0x4000;
    });
    assert_eq!(kernel.entry, GuestAddress(0x4010));
    // An executable one does: by the specification, `e_entry` is a virtual address.
    let kernel = loaded_with(|elf| {
        elf.entry = 0x4010;
        elf.headers[0].virtual_addr = 0x4000;
        elf.headers[0].flags = RX;
    });
    assert_eq!(kernel.entry, GuestAddress(0x7f10));
}

#[test]
fn segments_without_bytes_do_not_count() {
    let empty = Header { file_len: 0, memory_len: 0, addr: u64::MAX, offset: u64::MAX, ..TEXT };
    let kernel = loaded_with(|elf| elf.headers.push(empty));
    assert_eq!(kernel.ranges.len(), 3);
    // No byte of the file, but zeroes: there is nothing to read at the offset, wherever it points.
    let zeroes = Header { file_len: 0, memory_len: 0x100, addr: 0xa000, offset: u64::MAX, ..TEXT };
    let kernel = loaded_with(|elf| elf.headers.push(zeroes));
    assert_eq!(kernel.ranges.last(), Some(&range(RangeKind::Zeroes(3), 0xa000, 0x100)));
}

#[test]
fn segments_may_touch_and_end_where_memory_ends() {
    let last = u64::MAX - 0xfff;
    let memory = memory(&[(0, 0x1_0000), (last, 0x1000)]);
    let mut elf = Elf::new();
    elf.headers[0].addr = TEXT.addr + TEXT.memory_len;
    elf.headers.push(Header { addr: last, file_len: 0x1000, memory_len: 0x1000, flags: 4, ..TEXT });
    let kernel = load_elf(&memory, &file_of(&elf.bytes()), 0).unwrap();
    assert_eq!(kernel.ranges.last(), Some(&range(RangeKind::Segment(3), last, 0x1000)));
    assert_eq!(bytes_at(&memory, last, 0x1000), elf.body[..0x1000]);
}

#[test]
fn no_pvh_entry_without_the_note() {
    let kernel = loaded_with(|elf| elf.headers = vec![DATA, TEXT]);
    assert!(matches!(kernel.format, KernelFormat::Elf { pvh_entry: None, .. }), "{kernel}");
}

#[test]
fn a_file_that_is_cut_off_meanwhile_is_no_success() {
    let memory = Recorder::memory(&[(0, 0x1_0000)]);
    let file = file_of(&Elf::new().bytes());
    memory.arc_regions()[0].empty_while_writing(&file);
    match load_elf(&memory, &file, 0).unwrap_err() {
        Error::Copy {
            range: found,
            source: memory_model::guest_memory::Error::PartialBuffer { expected, completed },
        } => {
            assert_eq!(found, range(RangeKind::Segment(2), TEXT.addr, TEXT.file_len));
            assert_eq!((expected, completed), (0x1234, 0x200), "one chunk had been read");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_files_cursor_is_left_alone() {
    use std::io::{Seek, SeekFrom};
    let mut file = file_of(&Elf::new().bytes());
    file.seek(SeekFrom::Start(123)).unwrap();
    load_elf(&memory(&[(0, 0x1_0000)]), &file, 0).unwrap();
    assert_eq!(file.stream_position().unwrap(), 123);
}
