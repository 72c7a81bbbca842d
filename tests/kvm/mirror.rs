//! Slots come and go with regions, and their numbers are used again.

use std::sync::Arc;

use memory_model::mmap::Protection;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestRegionMmap, MmapRegion, RegionKind};

use crate::ground::{Access, Machine, assert_mirrored, region};

#[test]
fn slots_follow_the_map_and_freed_numbers_are_used_again() {
    let Some(mut machine) = Machine::new() else { return };
    let starts: Vec<u64> = (1..=5).map(|number| number * 0x1_0000).collect();
    for &start in &starts {
        assert_eq!(machine.peek(start), Access::Mmio);
        machine.map.insert_region(region(start, 0x2000)).unwrap();
        assert_mirrored(&mut machine);
    }
    for start in [0x2_0000, 0x4_0000] {
        let removed = machine.map.remove_region(GuestAddress(start), 0x2000).unwrap();
        assert_eq!((removed.slot(), Arc::strong_count(&removed)), (None, 1));
        assert_eq!(machine.peek(start), Access::Mmio);
        assert_mirrored(&mut machine);
    }
    // The lowest first.
    for (start, slot) in [(0x8_0000, 2), (0x7_0000, 4), (0x9_0000, 6)] {
        let plugged = region(start, 0x3000);
        machine.map.insert_region(Arc::clone(&plugged)).unwrap();
        assert_eq!(plugged.slot(), Some(slot));
        assert_mirrored(&mut machine);
    }
    machine.slots.check_removed().unwrap();
}

#[test]
fn whoever_registers_late_or_no_longer_has_all_or_nothing() {
    let Some(mut machine) = Machine::new() else { return };
    let other = memory_model::GuestMemoryAtomic::new(
        memory_model::GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0x1_0000), 0x1000),
            (GuestAddress(0x3_0000), 0x1000),
        ])
        .unwrap(),
    );
    let id = other.register(Box::new(machine.slots.clone())).unwrap();
    assert_eq!(machine.slots.in_use(), 3);
    assert_eq!((machine.peek(0x1_0000), machine.peek(0x3_0000)), (Access::Memory(0), Access::Memory(0)));
    drop(other.unregister(id).unwrap());
    assert_eq!((machine.peek(0x1_0000), machine.peek(0x3_0000)), (Access::Mmio, Access::Mmio));
    assert!(other.memory().arc_regions().iter().all(|region| region.slot().is_none()));
    assert_mirrored(&mut machine);
}

/// A region's own note of its slot can be written by anybody.
#[test]
fn slot_numbers_that_others_have_written_are_not_believed() {
    let Some(mut machine) = Machine::new() else { return };
    for (number, start) in [0x1_0000, 0x2_0000].into_iter().enumerate() {
        let plugged = region(start, 0x1000);
        machine.map.insert_region(Arc::clone(&plugged)).unwrap();
        plugged.set_slot([Some(0), None][number]);
    }
    for start in [0x1_0000, 0x2_0000] {
        machine.map.remove_region(GuestAddress(start), 0x1000).unwrap();
        assert_eq!((machine.peek(start), machine.peek(0x4)), (Access::Mmio, Access::Memory(0x26)));
    }
    assert_mirrored(&mut machine);
}

fn rom(start: u64) -> GuestRegionMmap {
    let rom = GuestRegionMmap::new(MmapRegion::new(0x1000).unwrap(), GuestAddress(start)).unwrap();
    rom.write_slice(b"firmware", GuestAddress(start)).unwrap();
    rom
}

#[test]
fn a_guest_reads_what_is_read_only_and_its_writes_are_told() {
    let Some(mut machine) = Machine::new() else { return };
    let protected = rom(0x1_0000);
    protected.protect(Protection::ReadOnly).unwrap();
    for region in [protected, rom(0x2_0000).with_kind(RegionKind::Rom)] {
        machine.map.insert_region(Arc::new(region)).unwrap();
    }
    // Read-only memory is not logged, and no obstacle to it.
    let log = machine.slots.start_logging().unwrap();
    assert_eq!([0, 1, 2].map(|slot| machine.is_logged(slot)), [true, false, false]);
    for start in [0x1_0000, 0x2_0000] {
        assert_eq!(machine.peek(start), Access::Memory(b'f'));
        assert_eq!(machine.poke(start, b'F'), Access::Mmio);
        assert_eq!(machine.peek(start), Access::Memory(b'f'));
    }
    log.sync().unwrap();
    log.stop_logging().unwrap();
    assert_eq!(machine.map.memory().read_obj::<u8>(GuestAddress(0x1_0000)).unwrap(), b'f');
}

#[test]
fn a_guest_does_not_write_what_was_protected_after_it_had_a_slot() {
    let Some(mut machine) = Machine::new() else { return };
    machine.map.insert_region(Arc::new(rom(0x1_0000))).unwrap();
    assert_eq!(machine.poke(0x1_0000, b'F'), Access::Memory(b'F'));
    let memory = machine.map.memory();
    memory.find_region(GuestAddress(0x1_0000)).unwrap().protect(Protection::ReadOnly).unwrap();
    // Where KVM emulates the instruction, it takes the address for a device's; else it fails.
    let refused = machine.poke(0x1_0000, b'x');
    assert!(matches!(refused, Access::Failed | Access::Mmio), "{refused:?}");
    assert_eq!(machine.peek(0x1_0000), Access::Memory(b'F'));
}
