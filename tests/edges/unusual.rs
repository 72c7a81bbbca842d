//! Memories that are unusual but legal.

use memory_model::guest_memory::{Error, RegionError};
use memory_model::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollection,
};

use crate::custom::Custom;
use crate::memory;
use crate::promises::assert_err;

#[test]
fn memory_that_ends_at_the_last_address() {
    let start = GuestAddress(u64::MAX - 0xfff);
    let mem = GuestMemoryMmap::from_ranges(&[(start, 0x1000)]).unwrap();
    assert_eq!(mem.last_addr(), Some(GuestAddress(u64::MAX)));
    assert_eq!(mem.regions().next().unwrap().last_addr(), GuestAddress(u64::MAX));
    mem.write_obj(9_u8, GuestAddress(u64::MAX)).unwrap();
    assert_eq!(mem.read_obj::<u8>(GuestAddress(u64::MAX)).unwrap(), 9);
    mem.fill(3, 0x1000, start).unwrap();
    assert!(mem.check_range(start, 0x1000));
    assert_eq!(mem.checked_offset(start, 0xfff), Some(GuestAddress(u64::MAX)));
    assert_eq!(mem.checked_offset(start, 0x1000), None);
    mem.copy(start, GuestAddress(u64::MAX - 0xff), 0x100).unwrap();
}

#[test]
fn regions_of_one_page_and_of_one_byte() {
    let mem = GuestRegionCollection::from_regions((0..64).map(|at| Custom::new(at, 1)).collect()).unwrap();
    mem.write_obj(*b"one byte each", GuestAddress(50)).unwrap();
    assert_eq!(mem.read_obj::<[u8; 13]>(GuestAddress(50)).unwrap(), *b"one byte each");
    assert_err!(mem.read_obj::<u64>(GuestAddress(60)), Error::PartialBuffer { expected: 8, completed: 4 });
    let text: Vec<u8> = (0..60).collect();
    mem.write_slice(&text, GuestAddress(0)).unwrap();
    mem.copy(GuestAddress(0), GuestAddress(4), 60).unwrap();
    let mut copied = [0; 60];
    mem.read_slice(&mut copied, GuestAddress(4)).unwrap();
    assert_eq!(copied[..], text);

    let page = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
    assert_eq!((page.num_regions(), page.total_len()), (1, 0x1000));
}

#[test]
fn thousands_of_regions() {
    let ranges: Vec<_> = (0..4096).rev().map(|i| (GuestAddress(i * 0x2000), 0x1000)).collect();
    let mem = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    assert_eq!((mem.num_regions(), mem.total_len()), (4096, 4096 << 12));
    for i in 0..4096_u64 {
        mem.write_obj(i, GuestAddress(i * 0x2000 + 0xff8)).unwrap();
        assert_err!(mem.read_obj::<u8>(GuestAddress(i * 0x2000 + 0x1000)), Error::InvalidGuestAddress(_));
    }
    assert!((0..4096).all(|i| mem.read_obj::<u64>(GuestAddress(i * 0x2000 + 0xff8)).unwrap() == i));
}

#[test]
fn sparse_regions_2_to_the_46_apart() {
    let starts: Vec<_> = (0..1 << 18).step_by(1 << 8).map(|i| GuestAddress(i << 46)).collect();
    let ranges: Vec<_> = starts.iter().map(|&start| (start, 0x1000)).collect();
    let mem = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    for &start in &starts {
        mem.write_obj(start.0, start).unwrap();
        assert!(!mem.address_in_range(start.checked_add(0x1000).unwrap()));
    }
    assert!(starts.iter().all(|&start| mem.read_obj::<u64>(start).unwrap() == start.0));
}

#[test]
fn empty_memory() {
    let mem = GuestMemoryMmap::from_ranges(&[]).unwrap();
    assert_eq!((mem.num_regions(), mem.total_len(), mem.last_addr()), (0, 0, None));
    assert_err!(mem.read_obj::<u8>(GuestAddress(0)), Error::InvalidGuestAddress(GuestAddress(0)));
    assert!(!mem.check_range(GuestAddress(0), 1));
    assert_eq!(mem.regions().count(), 0);
}

#[test]
fn regions_come_and_go_and_old_views_stay_as_they_are() {
    let mem = memory();
    let before = mem.clone();
    let (without, region) = mem.remove_region(GuestAddress(0x2000), 0x1000).unwrap();
    assert_eq!((mem.num_regions(), without.num_regions()), (3, 2));
    assert!(!without.address_in_range(GuestAddress(0x2000)) && before.address_in_range(GuestAddress(0x2000)));
    before.write_obj(5_u8, GuestAddress(0x2000)).unwrap();
    let back = without.insert_region(region).unwrap();
    assert_eq!(back.read_obj::<u8>(GuestAddress(0x2000)).unwrap(), 5, "the same memory");
    let again = back.insert_region(back.arc_regions()[0].clone());
    assert!(matches!(again, Err(RegionError::Overlap { .. })));
    let region = (GuestAddress(0x2000), GuestAddress(0x2fff));
    for (start, len) in [(0x2000, 0x800), (0x2400, 0x400), (0x2000, 0x2000), (0x2000, 0), (0x2fff, u64::MAX)] {
        let start = GuestAddress(start);
        let part = back.remove_region(start, len).unwrap_err();
        assert_eq!(part, RegionError::Part { start, len, region });
        assert!(part.to_string().ends_with("the region 0x2000..=0x2fff: it can only be removed as a whole"), "{part}");
    }
    let (start, len) = (GuestAddress(0x3000), 0x1000);
    assert_eq!(back.remove_region(start, len).unwrap_err(), RegionError::NotFound { start, len });
}
