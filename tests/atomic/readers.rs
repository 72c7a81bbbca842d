//! What guards and snapshots keep, what is waited for, and what would wait for itself.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;

use memory_model::atomic::{ListenerError, MapError, MapListener, RegionMap};
use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestRegionCollection};

use crate::ram::{ALIVE, Ram, map, ranges};

/// Says when something is removed.
struct Bell(std::sync::mpsc::Sender<()>);

impl MapListener<Ram> for Bell {
    fn added(&mut self, _: &Arc<Ram>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn removed(&mut self, _: &Arc<Ram>) {
        self.0.send(()).ok(); // nobody may listen any more
    }
}

#[test]
fn a_removal_waits_for_the_guards_that_were_there_and_for_no_others() {
    let (map, living) = map(&[(0, 64), (64, 64)]);
    let (bell, removals) = channel();
    map.register(Box::new(Bell(bell))).unwrap();
    let (mut early, mut late) = (map.reader(), map.reader());
    let guard_is_there = Barrier::new(2);
    thread::scope(|scope| {
        let (map, living, guard_is_there) = (&map, &living, &guard_is_there);
        let holder = scope.spawn(move || {
            let guard = early.read();
            guard_is_there.wait();
            // The map changes under the guard, which does not.
            while map.generation() == guard.generation() {
                thread::yield_now();
            }
            // This one is not waited for: see below.
            let late = late.read();
            assert_eq!(ranges(&late), [(0, 64)]);
            assert_eq!(guard.read_obj::<u64>(GuestAddress(64)).unwrap(), ALIVE + 64);
            assert_eq!(living.load(Ordering::SeqCst), 2);
            assert!(removals.try_recv().is_err(), "told before the guard was dropped");
            drop(guard);
            // While the other guard lives.
            removals.recv().unwrap();
            assert_eq!(ranges(&late), [(0, 64)]);
        });
        guard_is_there.wait();
        drop(map.remove_region(GuestAddress(64), 64).unwrap());
        holder.join().unwrap();
    });
    assert_eq!(living.load(Ordering::SeqCst), 1);
}

#[test]
fn an_insertion_waits_for_no_guard_and_what_is_replaced_is_given_up_later() {
    let (map, living) = map(&[(0, 64)]);
    let mut reader = map.reader();
    let (guard_is_there, go_on) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let guard = reader.read();
            guard_is_there.wait();
            go_on.wait();
            assert_eq!(ranges(&guard), [(0, 64)]);
        });
        guard_is_there.wait();
        for number in 1..10 {
            map.insert_region(Ram::new(number * 64, 64, &living)).unwrap();
        }
        go_on.wait();
        holder.join().unwrap();
    });
    let region = map.remove_region(GuestAddress(64), 64).unwrap();
    assert_eq!(Arc::strong_count(&region), 1);
}

#[test]
fn whoever_would_wait_for_itself_is_told_so() {
    let (map, living) = map(&[(0, 64)]);
    let (other, _) = self::map(&[(0, 64)]);
    let mut reader = map.reader();
    let guard = reader.read();
    let region = Ram::new(64, 64, &living);
    assert!(matches!(map.insert_region(Arc::clone(&region)), Err(MapError::GuardHeld)));
    assert!(matches!(map.remove_region(GuestAddress(0), 64), Err(MapError::GuardHeld)));
    // Not for another map, nor in another thread.
    other.remove_region(GuestAddress(0), 64).unwrap();
    thread::scope(|scope| scope.spawn(|| map.insert_region(region).unwrap()).join().unwrap());
    drop(guard);
    map.remove_region(GuestAddress(64), 64).unwrap();
    // Of a reader that went from thread to thread, the guard is the one's that made it.
    thread::scope(|scope| {
        let moved = scope.spawn(|| {
            let guard = reader.read();
            assert!(matches!(map.remove_region(GuestAddress(0), 64), Err(MapError::GuardHeld)));
            drop(guard);
        });
        moved.join().unwrap();
    });
    let nested = map.update(|mem| match map.remove_region(GuestAddress(0), 64) {
        Err(MapError::Nested) => Ok(mem.clone()),
        other => other.map(|_| mem.clone()),
    });
    nested.unwrap();
    assert_eq!(ranges(&map.memory()), [(0, 64)]);
}

#[test]
fn a_forgotten_guard_is_waited_for_until_its_reader_looks_again_or_is_gone() {
    let (map, living) = map(&[(0, 64), (64, 64)]);
    let mut reader = map.reader();
    std::mem::forget(reader.read());
    assert!(matches!(map.remove_region(GuestAddress(0), 64), Err(MapError::GuardHeld)));
    drop(reader.read());
    map.remove_region(GuestAddress(0), 64).unwrap();
    std::mem::forget(reader.read());
    drop(reader);
    map.remove_region(GuestAddress(64), 64).unwrap();
    assert_eq!(living.load(Ordering::SeqCst), 0);
}

#[test]
fn readers_and_guards_outlive_the_handles() {
    let (map, living) = map(&[(0, 64)]);
    let mut reader = map.reader();
    let guard = reader.read();
    let clone = map.clone();
    drop(map);
    // With a guard in this thread, which nothing waits for.
    drop(clone);
    assert_eq!(guard.read_obj::<u64>(GuestAddress(8)).unwrap(), ALIVE + 8);
    drop(guard);
    assert_eq!(reader.read().num_regions(), 1);
    drop(reader);
    assert_eq!(living.load(Ordering::SeqCst), 0);
}

#[test]
fn each_map_has_a_number_that_a_guard_and_a_snapshot_know() {
    let (map, living) = map(&[(0, 64)]);
    let mut reader = map.reader();
    let before = map.memory();
    let first = before.generation();
    assert_eq!((map.generation(), reader.read().generation()), (first, first));
    map.insert_region(Ram::new(64, 64, &living)).unwrap();
    map.insert_region(Ram::new(64, 64, &living)).unwrap_err();
    map.update(|mem| Ok::<_, MapError>(mem.clone())).unwrap();
    let second = map.generation();
    assert!(second > first);
    assert_eq!((reader.read().generation(), map.clone().generation(), before.generation()), (second, second, first));
    assert!(matches!(before.read_obj::<u64>(GuestAddress(64)), Err(Error::InvalidGuestAddress(_))));
    map.remove_region(GuestAddress(0), 64).unwrap();
    assert!(map.generation() > second);
    // The number is the memory's own, and what is made of one memory has one; an older memory brings its number back.
    assert_eq!(GuestMemory::generation(&*map.memory()), Some(map.generation()));
    assert_eq!(GuestMemoryAtomic::new(GuestRegionCollection::clone(&map.memory())).generation(), map.generation());
    map.update(|_| Ok::<_, MapError>(GuestRegionCollection::clone(&before))).unwrap();
    assert_eq!(map.generation(), first);
}

/// A memory that has no number to tell.
struct Mute(GuestRegionCollection<Ram>);

impl GuestMemory for Mute {
    type Region = Ram;
    fn num_regions(&self) -> usize {
        self.0.num_regions()
    }
    fn find_region(&self, addr: GuestAddress) -> Option<&Ram> {
        self.0.find_region(addr)
    }
    fn regions(&self) -> impl Iterator<Item = &Ram> {
        self.0.regions()
    }
}

impl RegionMap for Mute {
    fn arc_regions(&self) -> &[Arc<Ram>] {
        self.0.arc_regions()
    }
}

#[test]
fn a_map_that_cannot_say_its_number_is_given_one() {
    let living = Arc::default();
    let memory = |ranges: &[(u64, u64)]| {
        let regions = ranges.iter().map(|&(start, len)| Ram::new(start, len, &living)).collect();
        Mute(GuestRegionCollection::from_arc_regions(regions).unwrap())
    };
    let map = GuestMemoryAtomic::new(memory(&[(0, 64)]));
    let first = map.generation();
    assert_eq!((GuestMemory::generation(&*map.memory()), map.memory().generation()), (None, first));
    map.update(|mem| Ok::<_, MapError>(Mute(mem.0.clone()))).unwrap();
    assert_eq!(map.generation(), first, "nothing has changed");
    map.update(|_| Ok::<_, MapError>(memory(&[(64, 64)]))).unwrap();
    assert!(map.generation() > first);
}

#[test]
fn what_changes_may_be_shared_between_threads() {
    fn check<T: Send + Sync>(_: &T) {}
    fn moves<T: Send>(_: &T) {}
    let (map, _) = map(&[]);
    check(&map);
    check(&map.memory());
    moves(&map.reader());
}
