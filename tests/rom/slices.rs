//! Slices that are older than the protection, and a provider's own.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use memory_model::dirty::Tracker;
use memory_model::mmap::Protection;
use memory_model::{Bytes, GuestMemory, GuestSlice, MmapRegion, VolatileMemory};

use crate::ground::{Guest, Made, at, data, pattern, refused, told};
use crate::marks::Marks;

#[test]
fn a_slice_knows_what_its_memory_is_now() {
    let guest = Guest::new(Made::Region);
    let (page, rom) = (guest.page, guest.rom());
    rom.protect(Protection::ReadWrite).unwrap();
    let slice = guest.mem.get_slice(at(page + 8), 64).unwrap();
    for _ in 0..3 {
        assert!(!slice.is_read_only() && !rom.is_read_only());
        guest.track();
        slice.write_slice(&data(16), 0).unwrap();
        slice.store(1_u64, 16, SeqCst).unwrap();
        assert_eq!(told(guest.mem.copy(at(0), at(page + 32), 8)), Ok(()));
        guest.check_marked(page + 8, 32, "writable");
        slice.write_slice(&pattern(page + 8..page + 40), 0).unwrap();

        rom.protect(Protection::ReadOnly).unwrap();
        assert!(slice.is_read_only() && rom.is_read_only());
        guest.track();
        assert_eq!(refused(slice.write(&data(16), 4)), (page + 12, 0));
        assert_eq!(refused(slice.write_slice(&data(16), 4)), (page + 12, 0));
        assert_eq!(refused(slice.write_obj(7_u64, 4)), (page + 12, 0));
        assert_eq!(refused(slice.fill(1, 64, 0)), (page + 8, 0));
        assert_eq!(refused(slice.store(1_u64, 16, SeqCst)), (page + 24, 0));
        assert_eq!(refused(slice.fetch_or(1_u8, 5, SeqCst)), (page + 13, 0));
        assert_eq!(refused(slice.write_from(0, &mut &data(4)[..], 4)), (page + 8, 0));
        guest.check_marked(0, 0, "read-only");
        guest.check(0, &[], "read-only");
        rom.protect(Protection::ReadWrite).unwrap();
    }
}

#[test]
fn a_provider_has_a_switch_of_its_own() {
    let page = rustix::param::page_size();
    let (region, tracker, switch) = (MmapRegion::new(page).unwrap(), Tracker::new(at(0).0), AtomicBool::new(false));
    let slice = GuestSlice::new(region.as_volatile_slice(), Some(&tracker), at(0)).read_only(&switch);
    let marks = Marks::by([(&tracker, at(0).0, page as u64)].into_iter());
    slice.write_obj(0x1122_u16, 2).unwrap();
    assert_eq!(marks.take(), [Some(at(2).0..=at(3).0)]);
    switch.store(true, SeqCst);
    region.protect(Protection::ReadOnly).unwrap();
    assert!(slice.is_read_only());
    assert_eq!(refused(slice.write_obj(0x3344_u16, 2)), (2, 0));
    assert_eq!(refused(slice.subslice(100, 100).unwrap().fill(1, 50, 30)), (130, 0));
    assert_eq!(slice.read_obj::<u16>(2).unwrap(), 0x1122);
    assert_eq!(marks.take(), [None]);
}

#[test]
fn the_message_says_where() {
    let guest = Guest::new(Made::Mapped);
    let error = guest.mem.write_slice(&data(20), at(guest.page - 4)).unwrap_err();
    let expected = format!("the memory at {} is read-only (4 bytes before it were transferred)", at(guest.page));
    assert_eq!(error.to_string(), expected);
}
