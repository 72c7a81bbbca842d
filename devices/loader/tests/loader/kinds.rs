//! Kinds of regions: all is loaded into RAM, and a memory map says what the rest is.

use memory_model::{GuestAddress, GuestRegionCollection, RegionKind};
use memory_model_loader::{
    BootParams, E820Entry, E820Kind, Error, InitrdPlace, LoadedRange, RangeKind, load_bzimage, load_elf, load_initrd,
    write_boot_params, write_command_line,
};

use crate::images::{DATA, Elf, INIT_SIZE, PREF_ADDRESS, TEXT, bzimage};
use crate::recorder::Recorder;
use crate::support::{file_of, range};

const OTHERS: [RegionKind; 3] = [RegionKind::Rom, RegionKind::Device, RegionKind::Reserved];

type Memory = GuestRegionCollection<Recorder>;

/// Memory from `start` to `end`. `[at, at + len)` has another kind than RAM.
fn memory_with(start: u64, end: u64, (at, len): (u64, u64), kind: RegionKind) -> Memory {
    let parts = [(start, at - start, RegionKind::Ram), (at, len, kind), (at + len, end - at - len, RegionKind::Ram)];
    Recorder::memory_of_kinds(&parts.into_iter().filter(|(_, len, _)| *len > 0).collect::<Vec<_>>())
}

#[track_caller]
fn assert_not_ram<T: std::fmt::Debug>(
    memory: &Memory,
    result: Result<T, Error>,
    of: RangeKind,
    at: u64,
    is: RegionKind,
) {
    match result {
        Err(Error::NotRam { range, addr, kind }) => {
            assert_eq!((range.kind, addr, kind), (of, GuestAddress(at), is));
        }
        other => panic!("{of}, {is} at {at:#x}: {other:?}"),
    }
    assert!(memory.arc_regions().iter().all(|region| region.written().is_empty()), "memory is as it was");
}

#[test]
fn elf_segments_are_loaded_into_ram_only() {
    let file = file_of(&Elf::new().bytes());
    let (text, zeroes) = (RangeKind::Segment(2), RangeKind::Segment(0));
    for kind in OTHERS {
        let places = [
            ((0x3000, 0x1001), text, TEXT.addr), // the first byte
            ((0x4800, 0x10), text, 0x4800),      // in the middle
            ((TEXT.addr + TEXT.memory_len - 1, 1), text, TEXT.addr + TEXT.memory_len - 1), // the last byte
            ((DATA.addr + DATA.file_len, 1), zeroes, DATA.addr + DATA.file_len), // the first byte of .bss
        ];
        for (place, of, at) in places {
            let memory = memory_with(0, 0x1_0000, place, kind);
            assert_not_ram(&memory, load_elf(&memory, &file, 0), of, at, kind);
        }
        let beside = memory_with(0, 0x1_0000, (TEXT.addr + TEXT.memory_len, 0x100), kind);
        load_elf(&beside, &file, 0).unwrap();
    }
}

#[test]
fn bzimage_and_its_workspace_are_in_ram_only() {
    let file = file_of(&bzimage());
    for kind in OTHERS {
        let places = [
            ((0x10_0800, 0x100), RangeKind::ProtectedMode, 0x10_0800),
            ((PREF_ADDRESS, 0x1000), RangeKind::Workspace, PREF_ADDRESS),
            (
                (PREF_ADDRESS + u64::from(INIT_SIZE) - 1, 9),
                RangeKind::Workspace,
                PREF_ADDRESS + u64::from(INIT_SIZE) - 1,
            ),
        ];
        for (place, of, at) in places {
            let memory = memory_with(0x10_0000, 0x11_0000, place, kind);
            assert_not_ram(&memory, load_bzimage(&memory, &file, None), of, at, kind);
        }
    }
}

#[test]
fn initrd_is_placed_in_ram_only() {
    let file = file_of(&[7; 0x1800]);
    for kind in OTHERS {
        // The highest memory is of another kind, and one more lies where the next place would be.
        let memory = Recorder::memory_of_kinds(&[
            (0, 0x4000, RegionKind::Ram),
            (0x4000, 0x1000, kind),
            (0x5000, 0x1000, RegionKind::Ram),
            (0x6000, 0x8000, kind),
        ]);
        let place = |place| load_initrd(&memory, &file, place, &[]);
        assert_not_ram(&memory, place(InitrdPlace::At(GuestAddress(0x7000))), RangeKind::Initrd, 0x7000, kind);
        assert_not_ram(&memory, place(InitrdPlace::At(GuestAddress(0x5000))), RangeKind::Initrd, 0x6000, kind);
        let placed = place(InitrdPlace::UpTo(GuestAddress(u64::MAX))).unwrap();
        assert_eq!(placed.addr, GuestAddress(0x2000));

        let none = Recorder::memory_of_kinds(&[(0, 0x8000, kind)]);
        let result = load_initrd(&none, &file, InitrdPlace::UpTo(GuestAddress(u64::MAX)), &[]);
        assert!(matches!(result, Err(Error::NoRoom { .. })), "{result:?}");
    }
}

#[test]
fn command_line_and_zero_page_are_in_ram_only() {
    for other in OTHERS {
        let memory = Recorder::memory_of_kinds(&[
            (0, 0x1_0000, RegionKind::Ram),
            (0x1_0000, 0x1000, other),
            (0x10_0000, 0x1_0000, RegionKind::Ram),
        ]);
        let line = write_command_line(&memory, GuestAddress(0xfffe), "ro", 63);
        assert_not_ram(&memory, line, RangeKind::CommandLine, 0x1_0000, other);

        let kernel = load_bzimage(&memory, &file_of(&bzimage()), None).unwrap();
        memory.arc_regions().iter().for_each(|region| region.forget());
        let page = |addr: u64, command_line: LoadedRange, initrd: Option<LoadedRange>| {
            let params = BootParams { kernel: &kernel, command_line, initrd, e820: &[] };
            write_boot_params(&memory, GuestAddress(addr), &params)
        };
        let line_at = |addr| range(RangeKind::CommandLine, addr, 3);
        assert_not_ram(&memory, page(0xf001, line_at(0x100), None), RangeKind::BootParams, 0x1_0000, other);
        assert_not_ram(&memory, page(0x7000, line_at(0x1_0100), None), RangeKind::CommandLine, 0x1_0100, other);
        let initrd = Some(range(RangeKind::Initrd, 0xf000, 0x1001));
        assert_not_ram(&memory, page(0x7000, line_at(0x100), initrd), RangeKind::Initrd, 0x1_0000, other);
        page(0x7000, line_at(0x100), None).unwrap();
    }
}

#[test]
fn refusal_names_the_address_and_what_is_there() {
    let memory = memory_with(0, 0x1_0000, (0x4800, 0x10), RegionKind::Rom);
    let error = load_elf(&memory, &file_of(&Elf::new().bytes()), 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the segment 2 at 0x4000 (0x1234 bytes) needs RAM, but there is ROM at 0x4800: load it elsewhere, or correct \
         the region's kind"
    );
}

#[test]
fn memory_map_reports_each_kind_as_what_it_is() {
    let memory = Recorder::memory_of_kinds(&[
        (0, 0xa_0000, RegionKind::Ram),
        (0xa_0000, 0x2_0000, RegionKind::Device),
        (0xe_0000, 0x1_0000, RegionKind::Reserved),
        (0xf_0000, 0x1_0000, RegionKind::Rom),
        (0x10_0000, 0x1_0000, RegionKind::Ram),
    ]);
    let entry = |addr, len, kind| E820Entry { addr: GuestAddress(addr), len, kind };
    let expected = [
        entry(0, 0xa_0000, E820Kind::Ram),
        entry(0xe_0000, 0x1_0000, E820Kind::Reserved),
        entry(0xf_0000, 0x1_0000, E820Kind::Reserved),
        entry(0x10_0000, 0x1_0000, E820Kind::Ram),
    ];
    assert_eq!(E820Entry::ram_of(&memory), expected);
    assert_eq!(E820Kind::Persistent as u32, 7, "ACPI 6.5, table 15.4: AddressRangePersistentMemory");
}
