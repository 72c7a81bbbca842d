//! Tracking on after a seccomp filter has denied membarrier(2): the filter comes after the regions, as in Firecracker.
//!
//! The races take an optimized program, and are ignored unless they are asked for:
//! `cargo test --release --test dirty -- --ignored --test-threads=1`. Without the wait for pending stores, they lose values.

use memory_model::dirty::{DirtyBitmap, DirtyRange};
use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::child::{all_well, in_child};
use crate::ground::{is_emulated, memory};
use crate::lost::{Guest, PAGE, Races, is_litmus, most, race};
use crate::seccomp::{Calls, refuse};

/// What finds first that the call is denied. Each has an order of its own of the filter and the begin of tracking.
const FOUND_BY: [&str; 5] = ["start_tracking", "an update before", "an update after", "a clear after", "a harvest"];

/// Denies membarrier(2) to this thread, and to those that it starts.
fn deny() {
    refuse(libc::SYS_membarrier, Calls::All, libc::EPERM);
}

/// Updates another map, which passes a barrier.
fn update() {
    let map = GuestMemoryAtomic::new(memory(&[(0, 0x1000)]));
    let region = GuestRegionMmap::new(MmapRegion::new(0x1000).unwrap(), GuestAddress(0x1000)).unwrap();
    map.insert_region(region.into()).unwrap();
}

/// A guest whose tracking has begun, and a process that may not call membarrier(2).
fn guest(found_by: &str) -> Guest {
    let mem = memory(&[(0, 50_000 << 12)]);
    let mut denied = false;
    if ["start_tracking", "an update before"].contains(&found_by) {
        deny();
        denied = true;
    }
    if found_by == "an update before" {
        update();
    }
    let log = mem.start_tracking(PAGE).unwrap();
    if !denied {
        deny();
    }
    match found_by {
        "an update after" => update(),
        "a clear after" => DirtyBitmap::new(PAGE, PAGE).unwrap().clear(0, PAGE),
        _ => {}
    }
    Guest { mem, log, write: |mem, at, value| mem.write_obj(value, at).unwrap() }
}

#[test]
#[ignore = "takes an optimized program, and many rounds"]
fn no_value_is_lost_after_membarrier_is_denied() {
    if !is_litmus() {
        return;
    }
    let ended = in_child!(no_value_is_lost_after_membarrier_is_denied, &FOUND_BY, |found_by| {
        let guest = guest(found_by);
        let (mut rounds, mut lost) = (0, 0);
        for _ in 0..8 {
            let races: Races = race(&guest, most() * 100);
            rounds += races.rounds;
            lost += races.lost;
        }
        eprintln!("found by {found_by}: {lost} values lost in {rounds} rounds");
        assert_eq!(lost, 0, "lost in {rounds} rounds");
    });
    for one in &ended {
        eprint!("{}", one.said);
    }
    all_well(&ended);
}

/// What is tracked stays right, whatever has found it: also regions that were off, and those that are made afterwards.
#[test]
fn tracking_goes_on_after_membarrier_is_denied() {
    if is_emulated() {
        return memory_model_test_support::skip!("emulated: the filter is not the kernel's");
    }
    let ended = in_child!(tracking_goes_on_after_membarrier_is_denied, &FOUND_BY, |found_by| {
        let Guest { mem, log, .. } = guest(found_by);
        let found = |log: &memory_model::guest_memory::DirtyLog<_>| {
            let harvest = log.harvest();
            let ranges: Vec<DirtyRange> = harvest.ranges().collect();
            harvest.commit();
            ranges
        };
        let page = |start| DirtyRange { start, len: PAGE };
        for round in 1..4_u64 {
            mem.write_obj(round, GuestAddress(round * PAGE)).unwrap();
            mem.write_obj(round, GuestAddress(round * PAGE)).unwrap();
            assert_eq!(found(&log), [page(round * PAGE)]);
            assert_eq!(found(&log), []);
        }
        // Off, and on again; a second log; another memory.
        log.stop_tracking();
        let first = mem.start_tracking(PAGE).unwrap();
        let second = mem.start_tracking(PAGE).unwrap();
        let other: GuestMemoryMmap = memory(&[(0, 0x10_000)]);
        let third = other.start_tracking(PAGE).unwrap();
        for mem in [&mem, &other] {
            mem.write_obj(1_u8, GuestAddress(0x2000)).unwrap();
        }
        for log in [first, second, third] {
            assert_eq!(found(&log), [page(0x2000)]);
        }
    });
    all_well(&ended);
}
