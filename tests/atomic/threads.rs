//! Reads on several threads while the map changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestAddress, GuestMemory};

use crate::ram::{ALIVE, Map, Ram, map, ranges};

/// Regions that stay, and as many between them that come and go.
const STAYING: u64 = 8;
const LEN: u64 = 64;

/// Fewer where an emulator does the work. A round may have to wait until a thread with a guard runs again.
fn rounds() -> usize {
    if std::env::var_os("CROSS_RUNNER").is_some() { 100 } else { 1000 }
}

fn staying() -> (Map, Arc<AtomicUsize>) {
    map(&(0..STAYING).map(|number| (number * 2 * LEN, LEN)).collect::<Vec<_>>())
}

/// Checks all that there may be in a map.
fn check(mem: &memory_model::GuestRegionCollection<Ram>) {
    for number in 0..STAYING * 2 {
        let at = number * LEN + 8;
        match mem.read_obj::<u64>(GuestAddress(at)) {
            Ok(word) => assert_eq!(word, ALIVE + at, "a region was used after its end"),
            Err(Error::InvalidGuestAddress(_)) => assert_eq!(number % 2, 1, "a region that stays was not there"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Runs `change` for some rounds while two threads read, each in its way.
fn while_others_read(map: &Map, mut change: impl FnMut(usize)) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut reader = map.reader();
        let stop = &stop;
        let with_guards = scope.spawn(move || {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let mem = reader.read();
                assert!(mem.generation() >= last, "a reader has gone back in time");
                last = mem.generation();
                check(&mem);
                // What was there at the look is there until the guard is dropped.
                let regions = ranges(&mem);
                check(&mem);
                assert_eq!(ranges(&mem), regions);
            }
            last
        });
        let with_snapshots = scope.spawn(move || {
            let (mut last, mut reader) = (0, map.reader());
            while !stop.load(Ordering::Relaxed) {
                let mem = map.memory();
                check(&mem);
                assert!(mem.generation() >= last);
                last = mem.generation();
                assert!(reader.read().generation() >= last, "who looks later finds an older map");
            }
            last
        });
        for round in 0..rounds() {
            change(round);
        }
        stop.store(true, Ordering::Relaxed);
        let _ = (with_guards.join().unwrap(), with_snapshots.join().unwrap());
    });
}

#[test]
fn readers_find_what_stays_and_never_what_is_gone() {
    let (map, living) = staying();
    while_others_read(&map, |round| {
        let at = (round as u64 % STAYING * 2 + 1) * LEN;
        map.insert_region(Ram::new(at, LEN, &living)).unwrap();
        if round % 3 == 0 {
            map.insert_region(Ram::new(0x1_0000 + round as u64 * LEN, LEN, &living)).unwrap();
            map.remove_region(GuestAddress(0x1_0000 + round as u64 * LEN), LEN).unwrap();
        }
        map.remove_region(GuestAddress(at), LEN).unwrap();
    });
    assert_eq!(map.memory().num_regions() as u64, STAYING);
    assert_eq!(living.load(Ordering::SeqCst) as u64, STAYING);
}

#[test]
fn a_look_that_a_change_overtakes_holds_what_it_found() {
    let (map, living) = staying();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut reader = map.reader();
        let stop = &stop;
        let looking = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // Looks as often as it can, so that the region comes while it looks; and then holds on to it.
                let mem = reader.read();
                for _ in 0..1000 {
                    match mem.read_obj::<u64>(GuestAddress(LEN)) {
                        Ok(word) => assert_eq!(word, ALIVE + LEN, "a region was used after its end"),
                        Err(_) => break,
                    }
                }
            }
        });
        for _ in 0..rounds() {
            map.insert_region(Ram::new(LEN, LEN, &living)).unwrap();
            drop(map.remove_region(GuestAddress(LEN), LEN).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
}

#[test]
fn nobody_sees_half_a_change() {
    let (map, living) = staying();
    let add = |from: u64| {
        map.update(|mem| {
            (0..STAYING / 2).try_fold(mem.clone(), |mem, number| {
                mem.insert_region(Ram::new(0x1_0000 + (from + number) * LEN, LEN, &living))
            })
        })
    };
    let counts = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut reader = map.reader();
        let counts = &counts;
        let counting = scope.spawn(move || {
            while !counts.load(Ordering::Relaxed) {
                let mem = reader.read();
                let count = mem.num_regions() as u64;
                assert!(count == STAYING || count == STAYING + STAYING / 2, "half a change: {count} regions");
            }
        });
        for _ in 0..rounds() / 5 {
            add(0).unwrap();
            map.update(|mem| -> Result<_, memory_model::atomic::MapError> {
                let mut mem = mem.clone();
                for number in 0..STAYING / 2 {
                    mem = mem.remove_region(GuestAddress(0x1_0000 + number * LEN), LEN)?.0;
                }
                Ok(mem)
            })
            .unwrap();
        }
        counts.store(true, Ordering::Relaxed);
        counting.join().unwrap();
    });
}

#[test]
fn changes_from_several_threads_come_one_after_another() {
    let (map, living) = staying();
    let numbers = Mutex::new(HashMap::new());
    thread::scope(|scope| {
        for thread in 0..3 {
            let (map, living, numbers) = (map.clone(), &living, &numbers);
            scope.spawn(move || {
                let mut last = 0;
                for round in 0..rounds() as u64 / 10 {
                    let at = 0x1_0000 * (thread + 1) + round % 7 * LEN;
                    map.insert_region(Ram::new(at, LEN, living)).unwrap();
                    let mem = map.memory();
                    check(&mem);
                    // Another number than before; and whoever finds this one finds these regions.
                    assert!(mem.generation() > last);
                    let found = ranges(&mem);
                    let mut numbers = numbers.lock().unwrap();
                    assert_eq!(*numbers.entry(mem.generation()).or_insert_with(|| found.clone()), found);
                    last = mem.generation();
                    drop((mem, numbers));
                    let region = map.remove_region(GuestAddress(at), LEN).unwrap();
                    drop(region);
                }
            });
        }
    });
    assert_eq!(living.load(Ordering::SeqCst) as u64, STAYING);
}

#[test]
fn readers_come_and_go_too() {
    let (map, living) = staying();
    while_others_read(&map, |round| {
        let mut reader = map.reader();
        check(&reader.read());
        map.insert_region(Ram::new(LEN, LEN, &living)).unwrap();
        check(&reader.read());
        if round % 2 == 0 {
            drop(reader);
            map.remove_region(GuestAddress(LEN), LEN).unwrap();
        } else {
            map.remove_region(GuestAddress(LEN), LEN).unwrap();
            check(&reader.read());
        }
    });
}
