//! Whatever a guest chooses as a range; and memory whose faults would end the process.

use std::ptr::NonNull;

use memory_model::mmap::{Error, MmapRegionBuilder, Protection};
use memory_model::{
    Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress, MmapRegion, VolatileMemory, guest_memory,
};

use crate::child::in_child;
use crate::ground::{offset, page, pages, part, recovers, region};

type Call = fn(&GuestRegionMmap, MemoryRegionAddress, u64) -> Result<(), Error>;

#[test]
fn ranges_that_are_none() {
    let region = region(0x1000_0000, 4);
    let page = page() as u64;
    let calls: [Call; 2] = [GuestRegionMmap::unplug, GuestRegionMmap::plug];
    for call in calls {
        for (at, len) in [(0, 4 * page + 1), (4 * page, 1), (page, 4 * page), (u64::MAX, 1), (1, u64::MAX)] {
            let error = call(&region, MemoryRegionAddress(at), len).unwrap_err();
            assert!(
                matches!(error, Error::OutOfBounds { offset, len: told, size } if (offset, told, size) == (at, len, 4 * page)),
                "{error}"
            );
        }
        for (at, len) in [(1, page), (page - 1, 1), (0, page - 1), (0, 1), (page, page + 8), (8, 4 * page - 8)] {
            let error = call(&region, MemoryRegionAddress(at), len).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{len:#x} bytes from offset {at:#x} are not whole pages of {page:#x} bytes: what is plugged or \
                     unplugged begins and ends with one"
                )
            );
        }
        for at in [0, 1, page, 4 * page, u64::MAX] {
            call(&region, MemoryRegionAddress(at), 0).unwrap();
        }
    }
    assert_eq!((region.unplugged_ranges(), region.plugged_ranges()), (vec![], vec![part(0..4)]));
    region.read_slice(&mut vec![0; 4 * rustix::param::page_size()], MemoryRegionAddress(0)).unwrap();
}

#[test]
fn what_is_plugged_is_so_as_a_whole_or_not() {
    if !recovers() {
        return;
    }
    let region = region(0x1000_0000, 8);
    region.unplug(offset(2), pages(2)).unwrap();
    // And once more, in whole and in part.
    region.unplug(offset(2), pages(2)).unwrap();
    region.unplug(offset(1), pages(2)).unwrap();
    assert_eq!(region.unplugged_ranges(), [part(1..4)]);
    let page = page() as u64;
    for (at, len, wanted) in [
        (0, page, true),
        (0, page + 1, false),
        (page - 1, 1, true),
        (page - 1, 2, false),
        (2 * page, page, false),
        (4 * page - 1, 1, false),
        (4 * page - 1, 2, false),
        (4 * page, 4 * page, true),
        (4 * page, 4 * page + 1, false),
        (8 * page, 1, false),
        (u64::MAX, 2, false),
        (2 * page, 0, true),
        (8 * page + 1, 0, false),
    ] {
        assert_eq!(region.is_plugged(MemoryRegionAddress(at), len), wanted, "{len:#x} at {at:#x}");
    }
}

#[test]
fn read_only_memory_is_not_unplugged_but_plugged() {
    if !recovers() {
        return;
    }
    let region = region(0x1000_0000, 4);
    region.fill(7, 4 * page(), MemoryRegionAddress(0)).unwrap();
    region.unplug(offset(0), pages(2)).unwrap();
    region.protect(Protection::ReadOnly).unwrap();
    let error = region.unplug(offset(1), pages(2)).unwrap_err();
    assert!(matches!(error, Error::ReadOnly), "{error}");
    assert_eq!(region.read_obj::<u8>(offset(2)).unwrap(), 7, "what it held");
    // It cannot be accessed, and the one who writes is told the first reason.
    let refused = region.write_obj(1_u8, offset(0)).unwrap_err();
    assert!(matches!(refused, guest_memory::Error::ReadOnly { completed: 0, .. }), "{refused}");
    region.plug(offset(0), pages(2)).unwrap();
    region.read_obj::<u8>(offset(0)).unwrap();
    let refused = region.write_obj(1_u8, offset(0)).unwrap_err();
    assert!(matches!(refused, guest_memory::Error::ReadOnly { completed: 0, .. }), "{refused}");
}

#[test]
fn a_borrowed_mapping_is_its_makers() {
    let mapping = MmapRegion::new(4 * page()).unwrap();
    let start = NonNull::new(mapping.as_volatile_slice().as_ptr()).unwrap();
    let borrowed = crate::raw::borrow(MmapRegionBuilder::clone(&MmapRegion::builder(4 * page())), start);
    let region = GuestRegionMmap::new(borrowed, GuestAddress(0)).unwrap();
    let error = region.unplug(offset(0), pages(1)).unwrap_err();
    assert_eq!(error.to_string(), "a borrowed mapping cannot be given unplugged parts: ask whoever made it");
    region.write_obj(1_u8, offset(0)).unwrap();
}

#[test]
fn where_a_fault_ends_the_process_nothing_is_unplugged() {
    in_child!(where_a_fault_ends_the_process_nothing_is_unplugged, {
        let builder = MmapRegion::builder(4 * page());
        #[cfg(feature = "fault-recovery")]
        let builder = builder.fault_recovery(false);
        let mapping = builder.build().unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
        let error = region.unplug(offset(0), pages(1)).unwrap_err();
        assert!(matches!(error, Error::Unrecovered), "{error}");
        let to_do = if recovers() { "call fault_recovery::install() first" } else { "this takes the feature" };
        assert!(error.to_string().contains(to_do), "{error}");
        region.write_obj(1_u8, offset(0)).unwrap();
        region.plug(offset(0), pages(1)).unwrap();
        assert_eq!(region.unplugged_ranges(), []);
        #[cfg(feature = "fault-recovery")]
        if recovers() {
            memory_model::fault_recovery::install().unwrap();
            region.unplug(offset(0), pages(1)).unwrap();
            assert!(region.write_obj(1_u8, offset(0)).is_err());
        }
    });
}
