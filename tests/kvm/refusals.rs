//! What KVM cannot have leaves the map as it was.

use std::ptr::NonNull;
use std::sync::Arc;

use memory_model::interop::kvm::{Error, KvmSlots};
use memory_model::{
    FileOffset, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

use crate::ground::{Machine, assert_mirrored, meddle, refusal, region, vm};

/// That KVM refuses a region, and nothing has changed.
fn refused(machine: &mut Machine, region: &Arc<GuestRegionMmap>) -> Error {
    let (start, before) = (region.start_addr(), machine.map.generation());
    let error = refusal(machine.map.insert_region(Arc::clone(region)));
    assert_eq!((machine.map.generation(), region.slot(), Arc::strong_count(region)), (before, None, 1));
    assert!(machine.map.memory().find_region(start).is_none());
    assert_mirrored(machine);
    error
}

#[test]
fn what_does_not_consist_of_pages_is_named() {
    let Some(mut machine) = Machine::new() else { return };
    let size = refused(&mut machine, &region(0x1_0000, 0x1800));
    assert_eq!(
        size.to_string(),
        "KVM maps whole pages: the size 0x1800 of 0x10000..=0x117ff is not a multiple of the host's page size 0x1000"
    );
    let guest = refused(&mut machine, &region(0x1_0800, 0x1000));
    assert!(matches!(guest, Error::Misaligned { what: "the guest address", value: 0x1_0800, page_size: 0x1000, .. }));
    let whole = region(0, 0x3000);
    let host = NonNull::new(whole.get_host_address(MemoryRegionAddress(0x10)).unwrap()).unwrap();
    #[expect(unsafe_code, reason = "a mapping that does not begin with a page")]
    // SAFETY: `whole` is dropped after the machine's map has let it go.
    let part = unsafe { MmapRegion::from_raw(host, 0x1000) }.unwrap();
    let host = refused(&mut machine, &Arc::new(GuestRegionMmap::new(part, GuestAddress(0x1_0000)).unwrap()));
    assert!(matches!(host, Error::Misaligned { what: "the host address", .. }));
}

#[test]
fn kvms_own_refusals_say_what_it_means() {
    let Some(mut machine) = Machine::new() else { return };
    // It ends with the last address that there is.
    let last = refused(&mut machine, &region(u64::MAX - 0xfff, 0x1000)).to_string();
    assert!(last.starts_with("KVM_SET_USER_MEMORY_REGION of slot 1, 0xfffffffffffff000..=0xffffffffffffffff: "));
    assert!(last.contains("; a slot ends below address 2^64"), "{last}");
    // Others have it.
    let others = region(0, 0x1000);
    meddle(machine.slots.vm(), 100, 0x1_0000, &others, 0x1000, 0);
    let overlap = refused(&mut machine, &region(0x1_0000, 0x2000)).to_string();
    assert!(overlap.ends_with("; another slot of this VM has some of these addresses"), "{overlap}");
    meddle(machine.slots.vm(), 100, 0x1_0000, &others, 0, 0);
    // No number was lost.
    let next = region(0x1_0000, 0x2000);
    machine.map.insert_region(Arc::clone(&next)).unwrap();
    assert_eq!(next.slot(), Some(1));
}

#[test]
fn a_region_with_private_memory_is_left_to_others() {
    let Some(mut machine) = Machine::new() else { return };
    let private = region(0x1_0000, 0x1000);
    private.set_guest_memfd(FileOffset::new(tempfile::tempfile().unwrap(), 0)).unwrap();
    assert!(matches!(refused(&mut machine, &private), Error::GuestMemfd { .. }));
}

#[test]
fn there_are_so_many_slots_and_no_more() {
    let Some(machine) = vm() else { return };
    let Some(mut machine) = Machine::with(KvmSlots::with_numbers(machine, 7..9)) else { return };
    let second = region(0x1_0000, 0x1000);
    machine.map.insert_region(Arc::clone(&second)).unwrap();
    assert_eq!(second.slot(), Some(8));
    assert!(matches!(refused(&mut machine, &region(0x2_0000, 0x1000)), Error::NoSlot { in_use: 2, .. }));
    // Two of which the second is refused: neither.
    machine.map.remove_region(GuestAddress(0x1_0000), 0x1000).unwrap();
    let both = [region(0x2_0000, 0x1000), region(0x3_0000, 0x1000)];
    let insert =
        || machine.map.update(|mem| both.iter().try_fold(mem.clone(), |mem, new| mem.insert_region(new.clone())));
    assert!(matches!(refusal(insert()), Error::NoSlot { in_use: 2, .. }));
    assert_eq!((both[0].slot(), machine.slots.in_use()), (None, 1));
    assert_mirrored(&mut machine);
    machine.map.insert_region(Arc::clone(&both[1])).unwrap();
    assert_eq!(both[1].slot(), Some(8));
}

/// KVM has no slots with these numbers, whatever the caller says.
#[test]
fn there_are_not_more_slots_than_kvm_has() {
    let Some(machine) = vm() else { return };
    let slots = KvmSlots::with_numbers(machine, u32::MAX - 8..u32::MAX);
    let map = memory_model::GuestMemoryAtomic::new(memory_model::GuestMemoryMmap::default());
    map.register(Box::new(slots)).unwrap();
    assert!(matches!(refusal(map.insert_region(region(0, 0x1000))), Error::NoSlot { in_use: 0, .. }));
}
