//! All operations through all that wraps memory: slices, regions by offset and by address, collections, pointers to them,
//! and memory as a device sees it. A fault names the address in the caller's address space.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};

use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap};
use memory_model::{GuestSlice, IoAddress, IoMemory, MemoryRegionAddress};

use crate::every::{View, value};
use crate::ground::{BASE, Bad, Ground, Guest, UNWRITABLE, at, data, pattern, told, told_by_guest};
use crate::recovers;

/// A guest of one region.
fn guest(bad: Bad) -> Guest {
    Guest::new(bad, &[4], 2)
}

fn at_offset(position: usize) -> MemoryRegionAddress {
    MemoryRegionAddress(position as u64)
}

fn at_io(position: usize) -> IoAddress {
    IoAddress(BASE + position as u64)
}

#[test]
fn volatile_slices() {
    if recovers() {
        for ground in UNWRITABLE.map(Ground::new) {
            let mem = &ground.slice();
            View { name: "VolatileSlice", backing: &ground, mem, at: |position| position, told }.check();
            // Of a slice that begins elsewhere, faults are told by its own offsets.
            let start = 100;
            let mem = &ground.slice().offset(start).unwrap();
            let told = |error| {
                let (offset, completed) = told(error);
                (offset + start, completed)
            };
            View { name: "a part", backing: &ground, mem, at: |position| position - start, told }.check();
        }
    }
}

#[test]
fn guest_slices() {
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            let mem = &guest.mem.get_slice(at(0), guest.len).unwrap();
            View { name: "GuestSlice", backing: &guest, mem, at: |position| position, told: told_by_guest }.check();
            let mem = &mem.subslice(100, guest.len - 100).unwrap();
            View { name: "a part", backing: &guest, mem, at: |position| position - 100, told: told_by_guest }.check();
        }
        for ground in UNWRITABLE.map(Ground::new) {
            let mem = &GuestSlice::new(ground.slice(), None, GuestAddress(BASE));
            View { name: "untracked", backing: &ground, mem, at: |position| position, told: told_by_guest }.check();
        }
    }
}

#[test]
fn regions_by_offset() {
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            let mem: &GuestRegionMmap = guest.mem.find_region(at(0)).unwrap();
            View { name: "by offset", backing: &guest, mem, at: at_offset, told: told_by_guest }.check();
        }
    }
}

#[test]
fn regions_by_address() {
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            let mem: &GuestRegionMmap = guest.mem.find_region(at(0)).unwrap();
            View { name: "by address", backing: &guest, mem, at, told: told_by_guest }.check();
        }
    }
}

#[test]
fn collections_and_pointers_to_them() {
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            let mem: &GuestMemoryMmap = &guest.mem;
            View { name: "the collection", backing: &guest, mem, at, told: told_by_guest }.check();
            View { name: "a reference", backing: &guest, mem: &mem, at, told: told_by_guest }.check();
            let mem = &Arc::new(mem.clone());
            View { name: "an Arc", backing: &guest, mem, at, told: told_by_guest }.check();
        }
    }
}

#[test]
fn memory_as_a_device_sees_it() {
    fn through<I: IoMemory>(name: &str, guest: &Guest, mem: &I) {
        View { name, backing: guest, mem, at: at_io, told: told_by_guest }.check();
    }
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            through("the collection", &guest, &guest.mem);
            through("an Arc", &guest, &Arc::new(guest.mem.clone()));
        }
    }
}

#[test]
fn bits_are_set_before_the_edge_and_not_behind_it() {
    if recovers() {
        for guest in UNWRITABLE.map(guest) {
            let slice = guest.mem.get_slice(at(0), guest.len).unwrap();
            let set = |start, order| slice.fetch_or(value::<u64>(&[0x80; 8]), start, order).map_err(told_by_guest);
            for order in [Relaxed, AcqRel, SeqCst] {
                let (start, held) = (guest.edge - 8, pattern(guest.edge - 8..guest.edge));
                assert_eq!(set(start, order), Ok(value(held)));
                let all: Vec<_> = held.iter().map(|byte| byte | 0x80).collect();
                guest.check(guest.window(), start, &all, &|| "fetch_or".to_owned());
                guest.reset(start..guest.edge);
                assert_eq!(set(guest.edge, order), Err((guest.edge, 0)), "{:?}", guest.bad);
            }
            guest.check(guest.window(), 0, &[], &|| "fetch_or behind the edge".to_owned());
        }
        for ground in UNWRITABLE.map(Ground::new) {
            assert_eq!(ground.slice().fetch_or(1_u8, ground.edge, SeqCst).map_err(told), Err((ground.edge, 0)));
        }
    }
}

/// Faults in places are told by the offset in the place.
#[test]
fn places_and_arrays_of_places() {
    if recovers() {
        for ground in UNWRITABLE.map(Ground::new) {
            let place = ground.slice().get_ref::<u64>(ground.edge - 3).unwrap();
            assert_eq!(place.store(value(data(8))).map_err(told), Err((3, 3)));
            ground.check(ground.window(), ground.edge - 3, &data(8)[..3], &|| "a place".to_owned());
            ground.reset(ground.edge - 3..ground.edge);
            let array = ground.slice().get_array_ref::<u32>(ground.edge - 10, 5).unwrap();
            assert_eq!(array.store(1, value(data(4))).map_err(told), Ok(()));
            assert_eq!(array.store(2, value(data(4))).map_err(told), Err((10, 2)));
            assert_eq!(array.store(3, value(data(4))).map_err(told), Err((12, 0)));
            let written = [data(4), &data(4)[..2]].concat();
            ground.check(ground.window(), ground.edge - 6, &written, &|| "an array".to_owned());
            assert_eq!(array.copy_from(&[0; 5]).map_err(told), Err((10, 10)));
            if ground.bad != Bad::ReadOnly {
                assert_eq!(place.load().map_err(told), Err((3, 3)));
                assert_eq!(array.load(2).map_err(told), Err((10, 2)));
                assert_eq!(array.copy_to(&mut [0; 5]).map_err(told), Err((10, 10)));
            }
        }
    }
}

/// Nothing is done, and nothing is lost: it works again.
#[test]
fn a_page_that_is_there_again_is_accessed_again() {
    if recovers() {
        let guest = guest(Bad::Truncated);
        let edge = at(guest.edge);
        for round in 0..100_u64 {
            assert_eq!(guest.mem.write_obj(round, edge).map_err(told_by_guest), Err((guest.edge, 0)));
            guest.file.set_len(guest.len as u64).unwrap();
            assert_eq!(guest.mem.read_obj::<u64>(edge).unwrap(), 0);
            guest.mem.write_obj(round, edge).unwrap();
            assert_eq!(guest.mem.read_obj::<u64>(edge).unwrap(), round);
            guest.file.set_len(guest.edge as u64).unwrap();
        }
    }
}
