//! Waits that would never end are errors, and panics of listeners do not end the process.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use memory_model::atomic::{ListenerError, MapError, MapListener, MemorySnapshot, Reader};
use memory_model::{GuestAddress, GuestMemoryRegion, GuestRegionCollection};

use crate::ram::{Map, Ram, map, ranges};
use crate::recorder::{Recorder, rows};

/// Runs `test` in a thread of its own, and fails if it does not end.
#[track_caller]
fn ends(test: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        ended.send(()).unwrap();
    });
    match end.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it waits for itself"),
        _ => thread.join().unwrap(),
    }
}

/// Does something at each call.
struct Does<A, R> {
    added: A,
    removed: R,
}

impl<A, R> MapListener<Ram> for Does<A, R>
where
    A: FnMut(&Arc<Ram>) -> Result<(), ListenerError> + Send,
    R: FnMut(&Arc<Ram>) + Send,
{
    fn added(&mut self, region: &Arc<Ram>) -> Result<(), ListenerError> {
        (self.added)(region)
    }

    fn removed(&mut self, region: &Arc<Ram>) {
        (self.removed)(region);
    }
}

fn remove_first(map: &Map) -> Result<(), MapError> {
    map.remove_region(GuestAddress(0), 64).map(drop)
}

#[test]
fn a_guard_that_the_closure_of_an_update_keeps_is_an_error() {
    ends(|| {
        let (map, living) = map(&[(0, 64), (64, 64)]);
        let (recorder, table) = Recorder::new(0, &Arc::default());
        map.register(recorder).unwrap();
        let mut readers = [map.reader(), map.reader()];
        let [first, second] = &mut readers;
        let mut kept = None;
        let removed = map.update(|mem| {
            kept = Some(first.read());
            mem.remove_region(GuestAddress(0), 64).map(|(mem, _)| mem)
        });
        assert!(matches!(removed, Err(MapError::GuardHeld)), "{removed:?}");
        kept = None;
        // A removal elsewhere would wait for it.
        let inserted = map.update(|mem| {
            kept = Some(second.read());
            mem.insert_region(Ram::new(128, 64, &living))
        });
        assert!(matches!(inserted, Err(MapError::GuardHeld)), "{inserted:?}");
        drop(kept);
        assert_eq!((ranges(&map.memory()), rows(&table)), (vec![(0, 64), (64, 64)], vec![(0, 64), (64, 64)]));
        remove_first(&map).unwrap();
        assert_eq!(rows(&table), [(64, 64)]);
        // One that is not kept is none.
        let mut reader = map.reader();
        map.update(|mem| {
            drop(reader.read());
            mem.remove_region(GuestAddress(64), 64).map(|(mem, _)| mem)
        })
        .unwrap();
    });
}

/// A listener keeps it without having it: forgotten, or in a thread-local value.
#[test]
fn a_guard_that_a_listener_keeps_is_an_error() {
    ends(|| {
        let (map, living) = map(&[(0, 64)]);
        let (recorder, table) = Recorder::new(0, &Arc::default());
        map.register(recorder).unwrap();
        let reader = Arc::new(Mutex::new(map.reader()));
        let keep = |reader: &Arc<Mutex<Reader<GuestRegionCollection<Ram>>>>| {
            std::mem::forget(reader.lock().unwrap().read());
        };
        let at_added = Arc::clone(&reader);
        let added = move |region: &Arc<Ram>| {
            if region.start_addr() == GuestAddress(64) {
                keep(&at_added);
            }
            Ok(())
        };
        let at_removed = Arc::clone(&reader);
        map.register(Box::new(Does { added, removed: move |_: &Arc<Ram>| keep(&at_removed) })).unwrap();
        let replaced =
            map.update(|mem| mem.remove_region(GuestAddress(0), 64)?.0.insert_region(Ram::new(64, 64, &living)));
        assert!(matches!(replaced, Err(MapError::GuardHeld)), "{replaced:?}");
        assert_eq!((ranges(&map.memory()), rows(&table)), (vec![(0, 64)], vec![(0, 64)]));
        drop(reader.lock().unwrap().read());
        // One that is kept when a region is gone is found by the next change.
        remove_first(&map).unwrap();
        assert!(matches!(map.insert_region(Ram::new(0, 64, &living)), Err(MapError::GuardHeld)));
        drop(reader.lock().unwrap().read());
        map.insert_region(Ram::new(0, 64, &living)).unwrap();
    });
}

#[test]
fn snapshots_that_an_update_or_a_listener_keeps_are_not_waited_for() {
    ends(|| {
        let (map, _) = map(&[(0, 64), (64, 64)]);
        let map = Arc::new(map);
        let kept: Arc<Mutex<Vec<MemorySnapshot<_>>>> = Arc::default();
        let (weak, keeps) = (Arc::downgrade(&map), Arc::clone(&kept));
        let look = move || keeps.lock().unwrap().extend(weak.upgrade().map(|map| map.memory()));
        let look = Arc::new(look);
        let at_added = Arc::clone(&look);
        let added = move |_: &Arc<Ram>| {
            at_added();
            Ok(())
        };
        map.register(Box::new(Does { added, removed: move |_: &Arc<Ram>| look() })).unwrap();
        map.update(|mem| {
            kept.lock().unwrap().push(map.memory());
            mem.remove_region(GuestAddress(0), 64).map(|(mem, _)| mem)
        })
        .unwrap();
        assert_eq!(kept.lock().unwrap().len(), 4);
    });
}

#[test]
fn a_listener_may_change_another_map() {
    ends(|| {
        let (first, living) = map(&[]);
        let (second, _) = map(&[(0, 64)]);
        let other = second.clone();
        let added = move |_: &Arc<Ram>| remove_first(&other).map_err(Into::into);
        first.register(Box::new(Does { added, removed: |_: &Arc<Ram>| {} })).unwrap();
        first.insert_region(Ram::new(0, 64, &living)).unwrap();
        assert_eq!(ranges(&second.memory()), []);
    });
}

/// What two threads have done, of which one was to be stopped: that one's error.
#[track_caller]
fn one_of(results: [Result<(), MapError>; 2]) -> MapError {
    match results {
        [Err(error), Ok(())] | [Ok(()), Err(error)] => error,
        other => panic!("{other:?}"),
    }
}

/// Does `what` for each of two maps, in a thread each, with the other one.
fn in_two_threads(
    maps: &[Map; 2],
    what: impl Fn(&Map, &Map) -> Result<(), MapError> + Sync,
) -> [Result<(), MapError>; 2] {
    let ([first, second], what) = (maps, &what);
    thread::scope(|scope| {
        let one = scope.spawn(move || what(first, second));
        let other = scope.spawn(move || what(second, first));
        [one.join().unwrap(), other.join().unwrap()]
    })
}

fn two_maps() -> [Map; 2] {
    [map(&[(0, 64)]).0, map(&[(0, 64)]).0]
}

#[test]
fn listeners_that_change_each_others_maps_in_two_threads_do_not_wait_for_each_other() {
    ends(|| {
        let maps = two_maps();
        let both = Arc::new(Barrier::new(2));
        for (map, other) in [(0, 1), (1, 0)] {
            let (other, both) = (maps[other].clone(), Arc::clone(&both));
            let added = move |region: &Arc<Ram>| {
                if region.start_addr() == GuestAddress(64) {
                    both.wait();
                    // As a region that is no matter to the listener.
                    other.insert_region(Ram::new(128, 64, &Arc::default()))?;
                }
                Ok(())
            };
            maps[map].register(Box::new(Does { added, removed: |_: &Arc<Ram>| {} })).unwrap();
        }
        let results = in_two_threads(&maps, |map, _| map.insert_region(Ram::new(64, 64, &Arc::default())));
        let error = one_of(results);
        assert!(
            matches!(&error, MapError::Refused { source, .. }
                if matches!(source.downcast_ref::<MapError>(), Some(MapError::Deadlock))),
            "{error:?}"
        );
        // They do not refer to each other for ever.
        std::mem::forget(maps);
    });
}

#[test]
fn threads_with_guards_of_each_others_maps_do_not_wait_for_each_other() {
    ends(|| {
        let both = Barrier::new(2);
        let results = in_two_threads(&two_maps(), |map, other| {
            let mut reader = other.reader();
            let _guard = reader.read();
            both.wait();
            remove_first(map)
        });
        assert!(matches!(one_of(results), MapError::Deadlock));
    });
}

/// One changes a map in whose listener it changes another, of which the other has a guard and changes the first.
#[test]
fn a_listeners_change_and_a_guard_of_another_thread_do_not_wait_for_each_other() {
    ends(|| {
        let [first, second] = two_maps();
        let both = Arc::new(Barrier::new(2));
        let (other, at_listener) = (second.clone(), Arc::clone(&both));
        let added = move |region: &Arc<Ram>| {
            if region.start_addr() == GuestAddress(64) {
                at_listener.wait();
                remove_first(&other)?;
            }
            Ok(())
        };
        first.register(Box::new(Does { added, removed: |_: &Arc<Ram>| {} })).unwrap();
        let results = thread::scope(|scope| {
            let one = scope.spawn(|| first.insert_region(Ram::new(64, 64, &Arc::default())));
            let other = scope.spawn(|| {
                let mut reader = second.reader();
                let _guard = reader.read();
                both.wait();
                remove_first(&first)
            });
            [one.join().unwrap(), other.join().unwrap()]
        });
        let error = one_of(results);
        let error = match &error {
            MapError::Refused { source, .. } => source.downcast_ref().unwrap(),
            error => error,
        };
        assert!(matches!(error, MapError::Deadlock), "{error:?}");
    });
}

#[test]
fn threads_that_only_wait_for_one_another_in_turn_are_not_stopped() {
    ends(|| {
        let (map, living) = map(&[(0, 64)]);
        let (other, _) = self::map(&[]);
        thread::scope(|scope| {
            for number in 0..4 {
                let (map, other, living) = (&map, &other, &living);
                scope.spawn(move || {
                    let mut reader = other.reader();
                    for _ in 0..200 {
                        let start = 64 + number * 64;
                        // A guard of a map that nobody changes is in nobody's way.
                        let _guard = reader.read();
                        map.insert_region(Ram::new(start, 64, living)).unwrap();
                        map.remove_region(GuestAddress(start), 64).unwrap();
                    }
                });
            }
        });
        assert_eq!(ranges(&map.memory()), [(0, 64)]);
    });
}

/// Panics whenever a region is gone, and at a region that is added.
fn panics(calls: &Arc<AtomicUsize>) -> Box<dyn MapListener<Ram>> {
    let calls = Arc::clone(calls);
    let added = |region: &Arc<Ram>| match region.start_addr() {
        GuestAddress(256) => resume_unwind(Box::new("added")),
        _ => Ok(()),
    };
    let removed = move |_: &Arc<Ram>| {
        calls.fetch_add(1, Ordering::SeqCst);
        resume_unwind(Box::new("removed"));
    };
    Box::new(Does { added, removed })
}

/// What it panicked with.
fn panic_of<T>(what: impl FnOnce() -> T) -> &'static str {
    catch_unwind(AssertUnwindSafe(what)).err().unwrap().downcast_ref::<&str>().unwrap()
}

#[test]
fn listeners_that_panic_in_a_panic_do_not_end_the_process_and_all_others_are_told() {
    let (map, living) = map(&[(0, 64)]);
    let calls = Arc::default();
    let (before, first) = Recorder::new(0, &Arc::default());
    let (after, last) = Recorder::new(0, &Arc::default());
    map.register(before).unwrap();
    map.register(panics(&calls)).unwrap();
    map.register(after).unwrap();
    // The second region is not accepted, and that the first one is gone makes another panic.
    let insert_two =
        || map.update(|mem| mem.insert_region(Ram::new(192, 64, &living))?.insert_region(Ram::new(256, 64, &living)));
    assert_eq!(panic_of(insert_two), "added");
    assert_eq!((rows(&first), rows(&last), calls.load(Ordering::SeqCst)), (vec![(0, 64)], vec![(0, 64)], 1));
    // Not in a panic: there is one, when all are told.
    assert_eq!(panic_of(|| remove_first(&map)), "removed");
    assert_eq!((rows(&first), rows(&last), calls.load(Ordering::SeqCst)), (vec![], vec![], 2));
    map.insert_region(Ram::new(64, 64, &living)).unwrap();
    // The last handle is dropped in a panic.
    let end = move || {
        let _map = map;
        resume_unwind(Box::new("end"));
    };
    assert_eq!(panic_of(end), "end");
    assert_eq!((rows(&first), rows(&last), calls.load(Ordering::SeqCst)), (vec![], vec![], 3));
    assert_eq!(living.load(Ordering::SeqCst), 0);
}

#[test]
fn a_listener_that_panics_when_it_is_unregistered_is_gone() {
    let (map, living) = map(&[(0, 64), (64, 64)]);
    let calls = Arc::default();
    let id = map.register(panics(&calls)).unwrap();
    assert_eq!(panic_of(|| map.unregister(id).map(drop)), "removed");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert!(matches!(map.unregister(id), Err(MapError::NoListener(_))));
    map.insert_region(Ram::new(128, 64, &living)).unwrap();
}
