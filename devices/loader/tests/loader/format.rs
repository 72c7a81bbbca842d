//! Files that are no kernels, and what is said of them.

use memory_model_loader::{Error, Found, LoadOptions, load_bzimage, load_elf, load_initrd, load_kernel};

use crate::images::{Elf, bzimage};
use crate::support::{file_of, is_untouched_outside, memory};

fn found(bytes: &[u8]) -> Found {
    let memory = memory(&[(0, 0x2000)]);
    let result = load_kernel(&memory, &file_of(bytes), LoadOptions::default());
    assert!(is_untouched_outside(&memory, &[]));
    match result {
        Err(Error::UnknownFormat { found, .. }) => found,
        other => panic!("{other:?}"),
    }
}

fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn each_is_told_by_its_name() {
    assert_eq!(found(b""), Found::Empty);
    assert_eq!(found(b"\x1f\x8b\x08 gzip"), Found::Packed("gzip"));
    assert_eq!(found(b"\xfd7zXZ\0"), Found::Packed("xz"));
    assert_eq!(found(b"\x28\xb5\x2f\xfd"), Found::Packed("zstd"));
    assert_eq!(found(b"\x02\x21\x4c\x18"), Found::Packed("lz4"));
    assert_eq!(found(b"\x04\x22\x4d\x18"), Found::Packed("lz4"));
    assert_eq!(found(b"BZh9"), Found::Packed("bzip2"));
    assert_eq!(found(&at(0x38, b"ARM\x64")), Found::Arm64Image);
    assert_eq!(found(&at(0x38, b"RSC\x05")), Found::RiscvImage);
    assert_eq!(found(b"MZ\0\0zimg"), Found::EfiZboot);
    assert_eq!(found(&at(0, b"MZ")), Found::EfiApplication);
    assert_eq!(found(&at(0x1fe, b"\x55\xaa")), Found::BootSector);
    assert_eq!(found(b"#!/bin/sh"), Found::Unknown(*b"#!/bin/s"));
    assert_eq!(found(b"hi"), Found::Unknown(*b"hi\0\0\0\0\0\0"));
}

#[test]
fn the_wrong_function_says_so() {
    let memory = memory(&[(0, 0x2000)]);
    let error = load_elf(&memory, &file_of(&bzimage()), 0).unwrap_err();
    assert_eq!(error.to_string(), "this is not an ELF file: it is a bzImage");
    let error = load_bzimage(&memory, &file_of(&Elf::new().bytes()), None).unwrap_err();
    assert_eq!(error.to_string(), "this is not a bzImage: it is an ELF file");
    let error = load_kernel(&memory, &file_of(b"\x1f\x8b\x08"), LoadOptions::default()).unwrap_err();
    let text = "this is not a kernel that can be loaded (ELF or bzImage): it is packed by gzip: unpack it first";
    assert_eq!(error.to_string(), text);
}

#[test]
fn only_regular_files() {
    use memory_model::GuestAddress;
    use memory_model_loader::InitrdPlace;
    let memory = memory(&[(0, 0x2000)]);
    for path in ["/dev/zero", "/"] {
        let file = std::fs::File::open(path).unwrap();
        assert!(matches!(load_kernel(&memory, &file, LoadOptions::default()), Err(Error::NotARegularFile)), "{path}");
        let place = InitrdPlace::At(GuestAddress(0));
        assert!(matches!(load_initrd(&memory, &file, place, &[]), Err(Error::NotARegularFile)), "{path}");
    }
    let (_, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
    let unreadable = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    unreadable.set_len(0x1000).unwrap();
    assert!(matches!(load_kernel(&memory, &unreadable, LoadOptions::default()), Err(Error::Io(_))));
    assert!(is_untouched_outside(&memory, &[]));
}
