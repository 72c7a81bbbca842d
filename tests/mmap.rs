//! The mmap backend against real files and the kernel's own list of mappings.

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use memory_model::mmap::Error;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    VolatileMemory,
};

fn file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

/// Whether this process maps the file.
fn is_mapped(file: &tempfile::NamedTempFile) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains(file.path().to_str().unwrap())
}

/// A mapping of a file of its own.
fn mapped() -> (tempfile::NamedTempFile, MmapRegion) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(0x2000).unwrap();
    let region = MmapRegion::from_file(FileOffset::new(file.reopen().unwrap(), 0), 0x2000).unwrap();
    assert!(is_mapped(&file));
    (file, region)
}

#[test]
fn anonymous_memory_is_zero_and_private() {
    let region = MmapRegion::new(0x3000).unwrap();
    assert_eq!(region.len(), 0x3000);
    assert!(region.file_offset().is_none());
    assert_eq!(region.as_volatile_slice().read_obj::<[u8; 64]>(0x2fc0).unwrap(), [0; 64]);
}

#[test]
fn a_shared_mapping_is_the_file_from_the_offset_on() {
    let file = file(0x4000);
    file.write_all_at(b"from the file", 0x1010).unwrap();
    let region = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0x1000), 0x2000).unwrap();
    let slice = region.as_volatile_slice();
    assert_eq!(slice.read_obj::<[u8; 13]>(0x10).unwrap(), *b"from the file");
    slice.write_slice(b"to the file", 0x1ff0).unwrap();
    let mut read = [0; 11];
    file.read_exact_at(&mut read, 0x2ff0).unwrap();
    assert_eq!(&read, b"to the file");
    assert_eq!(region.file_offset().unwrap().start(), 0x1000);
}

#[test]
fn a_private_mapping_keeps_its_writes_to_itself() {
    let file = file(0x1000);
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let region = MmapRegion::builder(0x1000).file(at).private().build().unwrap();
    region.as_volatile_slice().write_slice(b"mine", 0).unwrap();
    let mut read = [0; 4];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, [0; 4]);
}

#[test]
fn anonymous_shared_memory_is_possible() {
    let region = MmapRegion::builder(0x1000).shared().build().unwrap();
    let address = region.as_volatile_slice().as_ptr() as usize;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&format!("{address:x}-"))).unwrap();
    assert!(line.contains("rw-s"), "{line}");
}

#[test]
fn drop_unmaps() {
    let (file, region) = mapped();
    drop(region);
    assert!(!is_mapped(&file));
}

#[test]
fn a_region_lives_until_its_last_memory_is_gone() {
    let (file, region) = mapped();
    let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
    let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let view = mem.clone();
    let (without, region) = mem.remove_region(GuestAddress(0), 0x2000).unwrap();
    drop((mem, without, region));
    view.write_obj(1_u8, GuestAddress(0)).unwrap();
    assert!(is_mapped(&file));
    drop(view);
    assert!(!is_mapped(&file));
}

#[test]
fn what_cannot_be_mapped_is_refused_with_what_was_wrong() {
    assert!(matches!(MmapRegion::new(0), Err(Error::Empty)));
    assert!(matches!(MmapRegion::new(usize::MAX), Err(Error::TooLarge { size: usize::MAX })));
    let at = |start| FileOffset::new(file(0x2000), start);
    let misaligned = MmapRegion::from_file(at(0x800), 0x1000).unwrap_err();
    assert!(matches!(misaligned, Error::MisalignedFileOffset { start: 0x800, .. }), "{misaligned}");
    let past = MmapRegion::from_file(at(0x1000), 0x1001).unwrap_err();
    assert!(matches!(past, Error::PastEndOfFile { start: 0x1000, size: 0x1001, file_len: 0x2000 }));
    assert_eq!(
        past.to_string(),
        "mapping 0x1001 bytes at file offset 0x1000 goes past the file's 0x2000 bytes: grow it first"
    );
    let wraps = MmapRegion::from_file(at(0_u64.wrapping_sub(0x10000)), 0x20000);
    assert!(matches!(wraps, Err(Error::PastEndOfFile { .. })));

    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(0x1000).unwrap();
    let read_only = || FileOffset::new(File::open(path.path()).unwrap(), 0);
    let refused = MmapRegion::from_file(read_only(), 0x1000).unwrap_err();
    assert!(refused.to_string().ends_with(
        "(a shared mapping needs a file that is open for reading and writing, a read-only one for reading)"
    ));
    assert!(MmapRegion::builder(0x1000).file(read_only()).private().build().is_ok());
}

#[test]
fn files_behind_a_memory() {
    let backing = file(0x3000);
    let mem = GuestMemoryMmap::from_ranges_with_files(&[
        (GuestAddress(0x10_0000), 0x2000, Some(FileOffset::new(backing.try_clone().unwrap(), 0x1000))),
        (GuestAddress(0x10_2000), 0x1000, None),
    ])
    .unwrap();
    mem.write_slice(&[7; 0x20], GuestAddress(0x10_1ff0)).unwrap();
    let mut read = [0; 0x10];
    backing.read_exact_at(&mut read, 0x2ff0).unwrap();
    assert_eq!(read, [7; 0x10]);
    let starts: Vec<_> = mem.regions().map(|region| region.file_offset().map(FileOffset::start)).collect();
    assert_eq!(starts, [Some(0x1000), None]);
}

#[test]
fn host_addresses_are_where_the_bytes_are() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
    let base = mem.get_host_address(GuestAddress(0x1000)).unwrap();
    assert_eq!(mem.get_host_address(GuestAddress(0x1fff)).unwrap(), base.wrapping_add(0xfff));
    assert_eq!(mem.get_slice(GuestAddress(0x1010), 1).unwrap().as_ptr(), base.wrapping_add(0x10));
}
