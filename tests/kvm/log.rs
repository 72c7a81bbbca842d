//! The guest's writes are in each log, and what fails loses none.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use memory_model::guest_memory::DirtyLog;
use memory_model::interop::kvm::Error;
use memory_model::{Bytes, GuestAddress, GuestRegionMmap};
use proptest::prelude::{Strategy, any};
use proptest::test_runner::TestRunner;

use crate::ground::{Access, Machine, PAGE, meddle, region};

/// The numbers of the pages in a harvest, by runs.
fn harvest(log: &DirtyLog<GuestRegionMmap>) -> Vec<u64> {
    let harvest = log.harvest();
    let pages = harvest.ranges().flat_map(|range| range.start / PAGE..(range.start + range.len) / PAGE).collect();
    harvest.commit();
    pages
}

#[test]
fn logs_have_what_guest_and_host_wrote_and_nothing_else() {
    let Some(mut machine) = Machine::new() else { return };
    // Two that touch, of more than a word of pages; what lies between is a hole.
    for (start, pages) in [(0x1, 70), (0x47, 9), (0x60, 65)] {
        machine.map.insert_region(region(start * PAGE, pages * 0x1000)).unwrap();
    }
    let pages = || proptest::collection::btree_set((1_u64..0x50).prop_union(0x60..0xa1), 0..20);
    let rounds = proptest::collection::vec((pages(), pages(), any::<bool>()), 1..6);
    let mut runner = TestRunner::new(proptest::prelude::ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    });
    let machine = std::cell::RefCell::new(&mut machine);
    let result = runner.run(&rounds, |rounds| {
        let machine = &mut **machine.borrow_mut();
        let kvm_log = machine.slots.start_logging().unwrap();
        let [each, late] = [(); 2].map(|()| machine.map.memory().start_tracking(PAGE).unwrap());
        let mut missed = BTreeSet::new();
        for (by_guest, by_host, harvests_late) in rounds {
            for page in &by_guest {
                assert_eq!(machine.poke(page * PAGE + page % 16, 1), Access::Memory(1));
            }
            for page in &by_host {
                machine.map.memory().write_obj(1_u8, GuestAddress(page * PAGE)).unwrap();
            }
            kvm_log.sync().unwrap();
            let wanted: BTreeSet<u64> = by_guest.union(&by_host).copied().collect();
            assert_eq!(harvest(&each), wanted.iter().copied().collect::<Vec<_>>());
            missed.extend(wanted);
            if harvests_late {
                assert_eq!(harvest(&late), std::mem::take(&mut missed).into_iter().collect::<Vec<_>>());
            }
        }
        kvm_log.sync().unwrap();
        assert!(harvest(&each).is_empty());
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_slot_that_comes_later_is_logged_and_one_that_goes_is_marked_whole() {
    let Some(mut machine) = Machine::new() else { return };
    let kvm_log = machine.slots.start_logging().unwrap();
    let mut log = machine.map.memory().start_tracking(PAGE).unwrap();
    let dimm = region(0x1_0000, 0x4000);
    machine.map.insert_region(Arc::clone(&dimm)).unwrap();
    log.follow(&machine.map.memory()).unwrap();
    machine.poke(0x1_2000, 1);
    kvm_log.sync().unwrap();
    assert_eq!(harvest(&log), [0x12]);
    machine.poke(0x1_3000, 1);
    machine.map.remove_region(GuestAddress(0x1_0000), 0x4000).unwrap();
    assert_eq!(harvest(&log), [0x10, 0x11, 0x12, 0x13]);
    // It comes back with what the log missed meanwhile.
    machine.map.insert_region(Arc::clone(&dimm)).unwrap();
    machine.poke(0x1_1000, 1);
    kvm_log.sync().unwrap();
    assert_eq!(harvest(&log), [0x11]);
    machine.map.remove_region(GuestAddress(0x1_0000), 0x4000).unwrap();
    log.follow(&machine.map.memory()).unwrap();
    assert!(harvest(&log).is_empty());
}

#[test]
fn a_log_that_cannot_be_fetched_loses_nothing() {
    let Some(mut machine) = Machine::new() else { return };
    let dimms = [0x1_0000, 0x2_0000, 0x3_0000].map(|start| region(start, 0x2000));
    for dimm in &dimms {
        machine.map.insert_region(Arc::clone(dimm)).unwrap();
    }
    let kvm_log = machine.slots.start_logging().unwrap();
    let log = machine.map.memory().start_tracking(PAGE).unwrap();
    for page in [0x10, 0x20, 0x31] {
        machine.poke(page * PAGE, 1);
    }
    // KVM has forgotten the second.
    meddle(machine.slots.vm(), 2, 0x2_0000, &dimms[1], 0, 0);
    let error = kvm_log.sync().unwrap_err();
    assert!(matches!(error, Error::Fetch { slot: 2, region: (GuestAddress(0x2_0000), GuestAddress(0x2_1fff)), .. }));
    // What was fetched before it is marked, and what comes after it is still with KVM.
    let uncommitted = log.harvest();
    assert_eq!(uncommitted.ranges().map(|range| range.start).collect::<Vec<_>>(), [0x1_0000]);
    drop(uncommitted);
    meddle(machine.slots.vm(), 2, 0x2_0000, &dimms[1], 0x2000, KVM_MEM_LOG_DIRTY_PAGES);
    machine.poke(0x2_1000, 1);
    kvm_log.sync().unwrap();
    assert_eq!(harvest(&log), [0x10, 0x21, 0x31]);
}

#[test]
fn kvm_logs_as_long_as_anybody_wants_it() {
    let Some(machine) = Machine::new() else { return };
    assert!(!machine.is_logged(0));
    let [first, second] = [(); 2].map(|()| machine.slots.start_logging().unwrap());
    assert!(machine.is_logged(0));
    drop(first);
    machine.map.insert_region(region(0x1_0000, 0x1000)).unwrap();
    assert_eq!((machine.is_logged(0), machine.is_logged(1)), (true, true));
    second.stop_logging().unwrap();
    assert_eq!((machine.is_logged(0), machine.is_logged(1)), (false, false));
    machine.map.insert_region(region(0x2_0000, 0x1000)).unwrap();
    assert!(!machine.is_logged(2));
}

#[test]
fn where_one_slot_cannot_be_logged_none_is() {
    let Some(mut machine) = Machine::new() else { return };
    let (dimm, others) = (region(0x1_0000, 0x1000), region(0, 0x1000));
    machine.map.insert_region(Arc::clone(&dimm)).unwrap();
    // Others' memory is where the second was.
    meddle(machine.slots.vm(), 1, 0x1_0000, &dimm, 0, 0);
    meddle(machine.slots.vm(), 100, 0x1_0000, &others, 0x1000, 0);
    assert!(matches!(machine.slots.start_logging().unwrap_err(), Error::Set { slot: 1, .. }));
    assert!(!machine.is_logged(0));
    meddle(machine.slots.vm(), 100, 0x1_0000, &others, 0, 0);
    // So it is when all is well again.
    let log = machine.slots.start_logging().unwrap();
    assert_eq!((machine.is_logged(0), machine.is_logged(1)), (true, true));
    assert_eq!(machine.peek(0x1_0000), Access::Memory(0));
    log.stop_logging().unwrap();
}
