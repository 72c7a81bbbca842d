//! What is given back of each kind of memory, and what is not.

use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use memory_model::mmap::{Error, HugePages, Lock, MmapRegion, Protection};
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, VolatileMemory,
};

use super::kernel::Areas;
use super::marks::Marks;
use super::mounts::file_on;
use super::{BACKINGS, contents, file, files_byte, has_kernel, page};

#[test]
fn whole_pages_are_gone_and_all_other_bytes_are_as_they_were() {
    if !has_kernel() {
        return;
    }
    let (page, edges) = (page(), [0, 1, page() - 1]);
    for backing in &BACKINGS {
        for first in edges {
            for last in edges {
                let Some(region) = backing.map(8) else { continue };
                let slice = region.as_volatile_slice();
                slice.fill(0xa5, region.len(), 0).unwrap();
                let (start, end) = (page + first, 6 * page - last);
                if !backing.discard(&region, start, end - start) {
                    continue;
                }
                let (from, to) = (start.next_multiple_of(page), end / page * page);
                for (offset, byte) in contents(&region).into_iter().enumerate() {
                    let expected = if (from..to).contains(&offset) { backing.after(offset) } else { 0xa5 };
                    assert_eq!(byte, expected, "{}: {start:#x}..{end:#x}, byte {offset:#x}", backing.name);
                }
            }
        }
    }
}

#[test]
fn the_kernel_no_longer_accounts_for_it() {
    if !has_kernel() {
        return;
    }
    for backing in &BACKINGS {
        let Some(region) = backing.map(32) else { continue };
        region.as_volatile_slice().fill(0xa5, region.len(), 0).unwrap();
        let blocks = || region.file_offset().map(|at| at.file().metadata().unwrap().blocks());
        // What a file system has not allocated yet it may account for otherwise.
        region.file_offset().map(|at| at.file().sync_all()).transpose().unwrap();
        let (resident, before) = (Areas::of(&region).bytes("Rss"), blocks());
        if !backing.discard(&region, 4 * page(), 16 * page()) {
            continue;
        }
        let gone = resident - Areas::of(&region).bytes("Rss");
        let shared = Areas::of(&region).are_shared();
        // A hole in a large folio of a file system's cache takes all of the folio out of the page table.
        let all = if backing.name == "file, shared" { gone >= 16 * page() } else { gone == 16 * page() };
        assert!(all, "{}: {gone:#x}", backing.name);
        if let (Some(before), Some(after), true) = (before, blocks(), shared) {
            let freed = usize::try_from(before - after).unwrap() * 512;
            assert_eq!(freed, 16 * page(), "{}: a hole in the file", backing.name);
        }
        // It comes back when it is touched.
        region.as_volatile_slice().fill(1, region.len(), 0).unwrap();
        assert_eq!(Areas::of(&region).bytes("Rss"), region.len(), "{}", backing.name);
    }
}

#[test]
fn small_pages_of_huge_ones_are_given_back() {
    if !has_kernel() {
        return;
    }
    let size = 8 << 20;
    let anonymous = MmapRegion::builder(size).huge_pages(HugePages::Transparent);
    let shared =
        file_on(c"tmpfs", c"huge=always", size).map(|file| MmapRegion::builder(size).file(FileOffset::new(file, 0)));
    for mapping in [Some(anonymous), shared].into_iter().flatten() {
        let region = mapping.build().unwrap();
        region.as_volatile_slice().fill(0xa5, region.len(), 0).unwrap();
        let areas = Areas::of(&region);
        if areas.bytes("AnonHugePages") + areas.bytes("ShmemPmdMapped") == 0 {
            memory_model_test_support::skip!("no transparent huge pages: {region:?}");
            continue;
        }
        assert_eq!(region.discard((2 << 20) + page(), page()).unwrap(), page());
        // The kernel may map the pages beside it anew only as they are touched.
        assert!(areas.bytes("Rss") - Areas::of(&region).bytes("Rss") >= page());
        let bytes = contents(&region);
        let zeroes = (2 << 20) + page()..(2 << 20) + 2 * page();
        let right = |(offset, byte): (usize, &u8)| *byte == if zeroes.contains(&offset) { 0 } else { 0xa5 };
        assert!(bytes.iter().enumerate().all(right), "{region:?}");
    }
}

#[test]
fn a_borrowed_mapping_is_given_back_by_its_description_from_wherever_it_begins() {
    if !has_kernel() {
        return;
    }
    for backing in &BACKINGS {
        let Some(owner) = backing.map(8) else { continue };
        owner.as_volatile_slice().fill(0xa5, owner.len(), 0).unwrap();
        let shared = Areas::of(&owner).are_shared();
        let lock = if backing.name.contains("locked") { Lock::OnFault } else { Lock::None };
        let start = NonNull::new(owner.as_volatile_slice().as_ptr().wrapping_add(100)).unwrap();
        let description = MmapRegion::builder(6 * page()).lock(lock);
        let description = if shared { description.shared() } else { description };
        #[expect(unsafe_code, reason = "borrows a mapping")]
        // SAFETY: `owner` has as many bytes there, and is dropped later.
        let borrowed = unsafe { description.from_raw(start) }.unwrap();
        match borrowed.discard(0, 6 * page()) {
            Ok(given_back) => assert_eq!(given_back, 5 * page(), "{}", backing.name),
            Err(error) if backing.name == "file, shared" => {
                memory_model_test_support::skip!("file system without holes: {}: {error}", backing.name);
                continue;
            }
            Err(error) => panic!("{}: {error}", backing.name),
        }
        // Nothing was said of a file.
        let is_the_files = backing.name.starts_with("file, private");
        for (offset, byte) in contents(&owner).into_iter().enumerate() {
            let given_back = (page()..6 * page()).contains(&offset);
            let expected = match given_back {
                true if is_the_files => files_byte(offset),
                true => 0,
                false => 0xa5,
            };
            assert_eq!(byte, expected, "{}: byte {offset:#x}", backing.name);
        }
        drop(borrowed);
        owner.as_volatile_slice().write_obj(1_u8, 100).unwrap();
    }
}

#[test]
fn read_only_memory_is_kept() {
    let region = MmapRegion::new(4 * page()).unwrap();
    region.as_volatile_slice().fill(7, region.len(), 0).unwrap();
    let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
    region.protect(Protection::ReadOnly).unwrap();
    let ram = GuestRegionMmap::new(MmapRegion::new(4 * page()).unwrap(), GuestAddress(4 * page() as u64)).unwrap();
    let mem = GuestMemoryMmap::from_regions(vec![region, ram]).unwrap();
    mem.write_obj(7_u8, GuestAddress(5 * page() as u64)).unwrap();
    let marks = Marks::of(&mem);
    assert!(matches!(mem.discard(GuestAddress(0), 8 * page() as u64), Err(Error::ReadOnly)));
    assert_eq!(mem.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(5 * page() as u64)).unwrap(), 7, "nothing was done");
    assert_eq!(marks.take(), [None, None], "nor is anything dirty");
    let region = mem.find_region(GuestAddress(0)).unwrap();
    assert!(matches!(region.discard(MemoryRegionAddress(0), 1), Err(Error::ReadOnly)));
    assert_eq!(region.discard(MemoryRegionAddress(0), 0).unwrap(), 0);
    let firmware = MmapRegion::builder(4 * page()).file(file()).protection(Protection::ReadOnly).build().unwrap();
    assert!(matches!(firmware.discard(0, 4 * page()), Err(Error::ReadOnly)));
    assert_eq!(contents(&firmware)[page()], files_byte(page()));
}

#[test]
fn pages_that_are_given_back_are_dirty() {
    let page = page() as u64;
    let ranges = [(GuestAddress(0), 4 * super::page()), (GuestAddress(4 * page), 4 * super::page())];
    let mem = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let marks = Marks::of(&mem);
    mem.discard(GuestAddress(2 * page + 1), 4 * page).unwrap();
    assert_eq!(marks.take(), [Some(3 * page..=4 * page - 1), Some(4 * page..=6 * page - 1)]);
}
