//! A region is mapped as long as KVM may have it.

use std::sync::Arc;

use memory_model::atomic::MapListener;
use memory_model::interop::kvm::{Error, KvmSlots};
use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use crate::ground::{Access, Machine, meddle, refusal, region, vm};

#[test]
fn slots_go_with_the_last_handle_and_a_vcpu_that_is_left_finds_nothing() {
    let Some(Machine { map, mut slots, vcpu }) = Machine::new() else { return };
    let direct = region(0x1_0000, 0x1000);
    // Nobody tells that this is removed.
    slots.added(&direct).unwrap();
    let vm = Arc::clone(slots.vm());
    let snapshot = map.memory();
    drop(map);
    assert_eq!(slots.in_use(), 1);
    assert_eq!(Arc::strong_count(&direct), 2);
    drop(slots);
    assert_eq!(Arc::strong_count(&direct), 1);
    assert_eq!(snapshot.arc_regions()[0].slot(), None);
    // The same VM takes others at the same addresses, with the same numbers.
    let slots = KvmSlots::new(Arc::try_unwrap(vm).unwrap());
    let others = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1_0000), 0x1000), (GuestAddress(0x2_0000), 0x1000)]);
    let map = GuestMemoryAtomic::new(others.unwrap());
    map.memory().write_obj(7_u8, GuestAddress(0x1_0000)).unwrap();
    map.register(Box::new(slots.clone())).unwrap();
    // The program is gone, and with it what reads and halts: it comes back.
    map.insert_region(Arc::clone(&snapshot.arc_regions()[0])).unwrap();
    let mut machine = Machine { map, slots, vcpu };
    assert_eq!(machine.peek(0x1_0000), Access::Memory(7));
    // The machine's last: the VM is closed, the vCPU is not.
    let Machine { map, slots, mut vcpu } = machine;
    drop((map, slots));
    let mut registers = vcpu.get_regs().unwrap();
    registers.rip = 0;
    vcpu.set_regs(&registers).unwrap();
    let end = format!("{:?}", vcpu.run());
    assert!(!end.contains("Hlt"), "ran what is not there: {end}");
}

#[test]
fn what_kvm_does_not_let_go_stays_mapped_and_is_told() {
    let Some(mut machine) = Machine::new() else { return };
    let plugged = region(0x1_0000, 0x1000);
    machine.map.insert_region(Arc::clone(&plugged)).unwrap();
    machine.slots.check_removed().unwrap();
    let log = machine.slots.start_logging().unwrap();
    // KVM will refuse: it has no such slot any more.
    meddle(machine.slots.vm(), 1, 0x1_0000, &plugged, 0, 0);
    drop(machine.map.remove_region(GuestAddress(0x1_0000), 0x1000).unwrap());
    assert_eq!((Arc::strong_count(&plugged), plugged.slot()), (2, Some(1)));
    let error = machine.slots.check_removed().unwrap_err();
    assert!(matches!(error, Error::Delete { slot: 1, region: (GuestAddress(0x1_0000), GuestAddress(0x1_0fff)), .. }));
    // Its number is not given to others, and what is wanted goes on.
    let next = region(0x2_0000, 0x1000);
    machine.map.insert_region(Arc::clone(&next)).unwrap();
    assert_eq!((next.slot(), machine.slots.in_use()), (Some(2), 3));
    log.sync().unwrap();
    log.stop_logging().unwrap();
    machine.slots.start_logging().unwrap().stop_logging().unwrap();
    assert_eq!(machine.peek(0x1_0000), Access::Mmio, "KVM was given what is gone");
    // It has it after all: now it can let go.
    meddle(machine.slots.vm(), 1, 0x1_0000, &plugged, 0x1000, 0);
    assert_eq!(machine.peek(0x1_0000), Access::Memory(0));
    machine.map.insert_region(region(0x1_0000, 0x1000)).unwrap();
    assert_eq!((Arc::strong_count(&plugged), plugged.slot()), (1, None));
    machine.slots.check_removed().unwrap();
}

#[test]
fn what_kvm_never_lets_go_stays_mapped_for_ever() {
    let Some(mut machine) = Machine::new() else { return };
    let plugged = region(0x1_0000, 0x1000);
    machine.map.insert_region(Arc::clone(&plugged)).unwrap();
    meddle(machine.slots.vm(), 1, 0x1_0000, &plugged, 0, 0);
    drop(machine.map.remove_region(GuestAddress(0x1_0000), 0x1000).unwrap());
    drop(machine.slots.start_logging().unwrap());
    assert_eq!(machine.peek(0x1_0000), Access::Mmio, "KVM was given what is gone");
    drop(machine);
    assert_eq!(Arc::strong_count(&plugged), 2);
}

/// The same region cannot have two slots, by two maps.
#[test]
fn a_region_has_one_slot() {
    let Some(vm) = vm() else { return };
    let slots = KvmSlots::new(vm);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let maps = [GuestMemoryAtomic::new(memory.clone()), GuestMemoryAtomic::new(memory)];
    maps[0].register(Box::new(slots.clone())).unwrap();
    let again = maps[0].register(Box::new(slots.clone())).map(drop);
    assert!(matches!(refusal(again), Error::Set { slot: 1, .. }));
    assert!(matches!(refusal(maps[1].register(Box::new(slots.clone())).map(drop)), Error::Set { slot: 1, .. }));
    assert_eq!((slots.in_use(), maps[0].memory().arc_regions()[0].slot()), (1, Some(0)));
}
