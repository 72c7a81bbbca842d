//! A kernel that people boot: the file that `MEMORY_MODEL_KERNEL` names, or the first of `/boot/vmlinuz*`.
//!
//! To have one without installing it: `apt-get download linux-image-6.1.0-56-cloud-amd64` (the version that
//! `apt-cache depends linux-image-cloud-amd64` tells), `dpkg -x`, and the path of its `boot/vmlinuz-*` in the variable.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use memory_model_loader::{
    BootParams, E820Entry, InitrdPlace, KernelFormat, LoadOptions, RangeKind, load_initrd, load_kernel,
    write_boot_params, write_command_line,
};

use crate::mutations::mutate;
use crate::recorder::Recorder;
use crate::support::{Random, file_of};

const MIB: usize = 1 << 20;

/// The kernel's path and bytes, if there is one that can be read; else the reason is printed.
fn kernel() -> Option<(PathBuf, Vec<u8>)> {
    if let Some(path) = std::env::var_os("MEMORY_MODEL_KERNEL").map(PathBuf::from) {
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("MEMORY_MODEL_KERNEL={}: {error}", path.display()));
        return Some((path, bytes));
    }
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir("/boot").into_iter().flatten().flatten().map(|it| it.path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    paths.sort();
    let found = paths.into_iter().find_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes)));
    if found.is_none() {
        memory_model_test_support::skip!(
            "no QEMU or kernel: no /boot/vmlinuz* that can be read, and MEMORY_MODEL_KERNEL is not set"
        );
    }
    found
}

fn bzimage() -> Option<(PathBuf, Vec<u8>)> {
    let (path, bytes) = kernel()?;
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        memory_model_test_support::skip!("no QEMU or kernel: {} is not a bzImage", path.display());
        return None;
    }
    Some((path, bytes))
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn size(bytes: &[u8], at: usize, len: usize) -> usize {
    usize::try_from(number(bytes, at, len)).unwrap()
}

/// Two regions that touch at `boundary`, and one past a hole.
fn guest(boundary: usize) -> GuestMemoryMmap {
    let ranges = [(0, boundary), (boundary as u64, 512 * MIB - boundary), (1 << 32, 64 * MIB)];
    GuestMemoryMmap::from_ranges(&ranges.map(|(start, len)| (GuestAddress(start), len))).unwrap()
}

fn assert_bytes(memory: &GuestMemoryMmap, addr: u64, expected: &[u8]) {
    let mut chunk = vec![0; MIB];
    for (number, expected) in expected.chunks(MIB).enumerate() {
        let addr = GuestAddress(addr + (number * MIB) as u64);
        memory.read_slice(&mut chunk[..expected.len()], addr).unwrap();
        assert!(chunk[..expected.len()] == *expected, "bytes from {addr} differ");
    }
}

fn assert_zero(memory: &GuestMemoryMmap, addr: u64, len: usize) {
    for from in (0..len).step_by(MIB) {
        assert_bytes(memory, addr + from as u64, &vec![0; MIB.min(len - from)]);
    }
}

#[test]
fn bzimage_initrd_command_line_and_zero_page() {
    let Some((path, bytes)) = bzimage() else { return };
    let offset = (usize::from(bytes[0x1f1]) + 1) * 512;
    let len = size(&bytes, 0x1f4, 4) * 16;
    let memory = guest(MIB + len / 2 + 1);
    let kernel = load_kernel(&memory, &File::open(&path).unwrap(), LoadOptions::default()).unwrap();
    eprintln!("{}: {kernel}", path.display());
    assert_bytes(&memory, 0x10_0000, &bytes[offset..][..len]);
    assert_zero(&memory, 0, MIB);
    assert_zero(&memory, 0x10_0000 + len as u64, 64 * MIB);
    assert_eq!(kernel.entry, GuestAddress(0x10_0000));
    let header = kernel.setup_header().unwrap();
    assert_eq!((u64::from(header.version()), header.setup_len()), (number(&bytes, 0x206, 2), offset as u64));
    assert!(matches!(kernel.format, KernelFormat::BzImage { entry_64: Some(GuestAddress(0x10_0200)), .. }));

    // The kernel's own file as the initrd: as good as any.
    let place = InitrdPlace::UpTo(kernel.initrd_last());
    let initrd = load_initrd(&memory, &File::open(&path).unwrap(), place, &kernel.ranges).unwrap();
    assert_eq!(initrd.addr.0, (512 * MIB - bytes.len()) as u64 & !0xfff);
    assert_bytes(&memory, initrd.addr.0, &bytes);
    let max = kernel.command_line_max();
    let command_line = write_command_line(&memory, GuestAddress(0x2_0000), "console=ttyS0", max).unwrap();
    let e820 = E820Entry::ram_of(&memory);
    let params = BootParams { kernel: &kernel, command_line, initrd: Some(initrd), e820: &e820 };
    let page = write_boot_params(&memory, GuestAddress(0x7000), &params).unwrap();
    eprintln!("  with {initrd}, {command_line}, {page}");
    let mut in_page = vec![0; 0x1000];
    memory.read_slice(&mut in_page, page.addr).unwrap();
    assert_eq!(in_page[0x22c..0x26c], bytes[0x22c..0x26c]);
    assert_eq!((number(&in_page, 0x218, 4), number(&in_page, 0x21c, 4)), (initrd.addr.0, initrd.len));
}

#[test]
fn bzimage_with_a_broken_header() {
    let Some((_, bytes)) = bzimage() else { return };
    let (mut random, file) = (Random(11), file_of(&bytes));
    // Memory that holds nothing, so that it may be large.
    let memory = Recorder::memory(&[(0, 1 << 20), (1 << 20, 1 << 30)]);
    let (rounds, mut loaded) = (200, 0);
    for round in 0..rounds {
        mutate(&mut random, &file, &bytes, 0x290);
        let result = load_kernel(&memory, &file, LoadOptions::default());
        let ranges = result.as_ref().map_or(&[][..], |kernel| &kernel.ranges);
        loaded += usize::from(result.is_ok());
        for (first, last) in memory.arc_regions().iter().flat_map(|region| region.written()) {
            let is_in = |range: &&memory_model_loader::LoadedRange| {
                range.kind.is_written() && range.addr.0 <= first && last <= range.last().0
            };
            assert!(ranges.iter().any(|range| is_in(&range)), "round {round}: {first:#x}..={last:#x}, but {result:?}");
        }
        memory.arc_regions().iter().for_each(|region| region.forget());
        file.write_all_at(&bytes[..0x2a0], 0).unwrap();
    }
    eprintln!("{loaded} of {rounds} broken headers could be loaded");
}

/// The ELF file in a bzImage, unpacked by the program that goes with it; else the reason is printed.
fn vmlinux() -> Option<Vec<u8>> {
    let (_, bytes) = bzimage()?;
    let code = (usize::from(bytes[0x1f1]) + 1) * 512;
    let payload = &bytes[code + size(&bytes, 0x248, 4)..][..size(&bytes, 0x24c, 4)];
    // But for gzip, which has it anyway, the unpacked length follows: not for these programs.
    let shorter = &payload[..payload.len() - 4];
    let (program, packed) = match payload {
        [0x1f, 0x8b, ..] => ("gzip", payload),
        [0xfd, b'7', ..] => ("xz", shorter),
        [0x28, 0xb5, ..] => ("zstd", shorter),
        [0x02, 0x21, ..] => ("lz4", shorter),
        other => {
            memory_model_test_support::skip!(
                "no unpacker: a payload that begins with {:02x?} is not unpacked here",
                &other[..4]
            );
            return None;
        }
    };
    let command =
        Command::new(program).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = command else {
        memory_model_test_support::skip!("no unpacker: {program} is not installed, and the kernel is packed by it");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(packed).unwrap());
        child.wait_with_output().unwrap()
    });
    if !output.stdout.starts_with(b"\x7fELF") {
        memory_model_test_support::skip!("no unpacker: {program} gave no ELF file ({})", output.status);
        return None;
    }
    Some(output.stdout)
}

#[test]
fn vmlinux_in_the_bzimage() {
    let Some(bytes) = vmlinux() else { return };
    // The segments as this test reads them.
    let table = size(&bytes, 32, 8);
    let headers = (0..size(&bytes, 56, 2)).map(|number| &bytes[table + number * 56..][..56]);
    let loads: Vec<_> = headers.filter(|header| number(header, 0, 4) == 1).collect();
    let memory = guest(size(loads[0], 24, 8) + size(loads[0], 32, 8) / 2 + 1);
    let kernel = load_kernel(&memory, &file_of(&bytes), LoadOptions::default()).unwrap();
    eprintln!("vmlinux of {} bytes: {kernel}", bytes.len());
    let mut end_of_last = 0;
    for header in &loads {
        let (addr, len, memory_len) = (number(header, 24, 8), size(header, 32, 8), size(header, 40, 8));
        assert_zero(&memory, end_of_last, usize::try_from(addr - end_of_last).unwrap());
        assert_bytes(&memory, addr, &bytes[size(header, 8, 8)..][..len]);
        assert_zero(&memory, addr + len as u64, memory_len - len);
        end_of_last = addr + memory_len as u64;
    }
    assert_zero(&memory, end_of_last, 32 * MIB);
    let segments = kernel.ranges.iter().filter(|range| matches!(range.kind, RangeKind::Segment(_)));
    assert_eq!(segments.count(), loads.len());
    assert_eq!(kernel.entry.0, number(&bytes, 24, 8), "Linux on x86-64 has a physical entry");
    assert!(memory.address_in_range(kernel.entry));
}
