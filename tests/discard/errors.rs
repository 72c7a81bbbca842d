//! Whatever a guest chooses as a range: nothing is done, or all of it.

use memory_model::mmap::{Error, MmapRegion, Seals, Step};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, VolatileMemory,
};
use rustix::fs::SealFlags;
use rustix::io::Errno;

use super::marks::Marks;
use super::{has_kernel, page};

/// Two regions that touch, a hole, one region, and one that ends with the address space.
fn memory() -> (GuestMemoryMmap, Marks, u64) {
    let page = page() as u64;
    let ranges = [(0, 8), (8 * page, 8), (32 * page, 8), (0_u64.wrapping_sub(8 * page), 8)];
    let ranges = ranges.map(|(start, pages)| (GuestAddress(start), pages * usize::try_from(page).unwrap()));
    let mem = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    for region in mem.regions() {
        region.fill(7, 8 * usize::try_from(page).unwrap(), MemoryRegionAddress(0)).unwrap();
    }
    let marks = Marks::of(&mem);
    (mem, marks, page)
}

/// Whether no byte was given back, nor is one marked as dirty.
fn is_whole(mem: &GuestMemoryMmap, marks: &Marks) -> bool {
    assert!(marks.take().iter().all(Option::is_none));
    mem.regions().all(|region| {
        let mut bytes = vec![0; 8 * page()];
        region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
        bytes.iter().all(|&byte| byte == 7)
    })
}

#[test]
fn what_is_not_all_memory_is_refused_whole() {
    let (mem, marks, page) = memory();
    let addresses = [0, 1, page - 1, 15 * page, 16 * page - 1, 16 * page, 32 * page, 40 * page, 1 << 40, u64::MAX];
    let lengths = [1, page, 17 * page, 1 << 40, 1 << 63, u64::MAX - page, u64::MAX - 1, u64::MAX];
    let mut refused = 0;
    for addr in addresses {
        for len in lengths {
            let all = usize::try_from(len).is_ok_and(|len| mem.check_range(GuestAddress(addr), len));
            if !all {
                let error = mem.discard(GuestAddress(addr), len).unwrap_err();
                match error {
                    Error::Hole { addr: at, len: of, hole } => {
                        assert_eq!((at.0, of), (addr, len));
                        let before = usize::try_from(hole.0 - addr).unwrap();
                        assert!(mem.check_range(GuestAddress(addr), before), "{error}");
                        assert!(!mem.address_in_range(hole), "{error}");
                    }
                    Error::Wraps { addr: at, len: of } => {
                        assert_eq!((at.0, of), (addr, len));
                        assert!(addr.checked_add(len - 1).is_none());
                    }
                    other => panic!("{other}"),
                }
                refused += 1;
            }
        }
    }
    assert!(refused > 50 && is_whole(&mem, &marks), "{refused}");
}

#[test]
fn no_bytes_are_given_back_everywhere() {
    let (mem, marks, page) = memory();
    for addr in [0, 1, 20 * page, u64::MAX] {
        assert_eq!(mem.discard(GuestAddress(addr), 0).unwrap(), 0);
    }
    assert_eq!(mem.discard_pages([], page).unwrap(), 0);
    assert_eq!(mem.discard_pages([5], 0).unwrap(), 0);
    let region = mem.find_region(GuestAddress(0)).unwrap();
    for offset in [0, 1, 8 * page, 8 * page + 1, u64::MAX] {
        assert_eq!(region.discard(MemoryRegionAddress(offset), 0).unwrap(), 0);
    }
    // Less than a page, or no whole one.
    assert_eq!(mem.discard(GuestAddress(1), page).unwrap(), 0);
    assert_eq!(mem.discard(GuestAddress(page + 1), page - 2).unwrap(), 0);
    assert!(is_whole(&mem, &marks));
}

#[test]
fn one_byte_that_is_not_named_keeps_its_page() {
    if !has_kernel() {
        return;
    }
    let (mem, _, page) = memory();
    let around = |byte| [(GuestAddress(0), byte), (GuestAddress(byte + 1), 4 * page - byte - 1)];
    for byte in [page, 2 * page - 1, 2 * page, 3 * page - 1] {
        assert_eq!(mem.discard_ranges(around(byte)).unwrap(), 3 * page, "all but {byte:#x}");
        assert_eq!(mem.read_obj::<u8>(GuestAddress(byte)).unwrap(), 7);
        mem.fill(7, 4 * super::page(), GuestAddress(0)).unwrap();
    }
    assert_eq!(mem.discard_ranges([(GuestAddress(0), page - 1), (GuestAddress(page - 1), 1)]).unwrap(), page);
}

#[test]
fn the_last_address_is_memory_like_any_other() {
    if !has_kernel() {
        return;
    }
    let (mem, _, page) = memory();
    let start = 0_u64.wrapping_sub(2 * page);
    assert_eq!(mem.discard(GuestAddress(start), 2 * page).unwrap(), 2 * page);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(u64::MAX)).unwrap(), 0);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(start - 1)).unwrap(), 7);
}

#[test]
fn one_bad_range_of_many_and_nothing_is_done() {
    let (mem, marks, page) = memory();
    let good = (GuestAddress(0), 4 * page);
    let hole = mem.discard_ranges([good, (GuestAddress(15 * page), 2 * page), good]).unwrap_err();
    assert!(matches!(hole, Error::Hole { hole, .. } if hole.0 == 16 * page), "{hole}");
    let hole = mem.discard_pages([1, 2, 3, 16, 4], page).unwrap_err();
    assert!(matches!(hole, Error::Hole { hole, .. } if hole.0 == 16 * page), "{hole}");
    let last = mem.discard_ranges([good, good, (GuestAddress(u64::MAX), 2)]).unwrap_err();
    assert!(matches!(last, Error::Wraps { addr: GuestAddress(u64::MAX), len: 2 }), "{last}");
    let number = u64::MAX / page + 1;
    let past = mem.discard_pages([1, number, 2], page).unwrap_err();
    assert!(matches!(past, Error::PageNumber { number: n, page_size } if n == number && page_size == page), "{past}");
    assert!(is_whole(&mem, &marks));
}

#[test]
fn offsets_past_a_regions_end_are_refused() {
    let (mem, marks, page) = memory();
    let region = mem.find_region(GuestAddress(0)).unwrap();
    for (offset, len) in [(0, 8 * page + 1), (8 * page, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let refused = region.discard(MemoryRegionAddress(offset), len).unwrap_err();
        assert!(matches!(refused, Error::OutOfBounds { .. }), "{refused}");
    }
    let mapping = MmapRegion::new(8 * super::page()).unwrap();
    assert!(matches!(mapping.discard(1, 8 * super::page()), Err(Error::OutOfBounds { .. })));
    assert!(matches!(mapping.discard(usize::MAX, usize::MAX), Err(Error::OutOfBounds { .. })));
    assert!(is_whole(&mem, &marks));
}

#[test]
fn a_file_that_is_sealed_against_it_says_so_and_what_was_done_before() {
    if !has_kernel() {
        return;
    }
    let size = 8 * page();
    let sealed = MmapRegion::builder(size).memfd("sealed").seals(Seals::empty()).build().unwrap();
    sealed.as_volatile_slice().fill(7, size, 0).unwrap();
    rustix::fs::fcntl_add_seals(sealed.file_offset().unwrap().file(), SealFlags::FUTURE_WRITE).unwrap();
    let regions = [(MmapRegion::new(size).unwrap(), 0), (sealed, size as u64)];
    let regions = regions.map(|(mapping, at)| GuestRegionMmap::new(mapping, GuestAddress(at)).unwrap());
    let mem = GuestMemoryMmap::from_regions(Vec::from(regions)).unwrap();
    mem.fill(7, size, GuestAddress(0)).unwrap();
    let marks = Marks::of(&mem);
    let refused = mem.discard(GuestAddress(0), 2 * size as u64).unwrap_err();
    let Error::Discard { addr, given_back, source } = &refused else { panic!("{refused}") };
    assert_eq!((addr.0, *given_back), (size as u64, size as u64));
    let Error::Refused { step: Step::Discard, source, .. } = &**source else { panic!("{refused}") };
    assert_eq!(source.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    assert!(refused.to_string().contains("sealed"), "{refused}");
    assert_eq!(marks.take(), [Some(0..=size as u64 - 1), Some(size as u64..=2 * size as u64 - 1)]);
    let mut bytes = vec![1; 2 * size];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes[..size].iter().all(|&byte| byte == 0) && bytes[size..].iter().all(|&byte| byte == 7));
}
