//! Order, replay, refusal, panics, and what listeners may do.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use memory_model::atomic::{ListenerError, MapError, MapListener, Reader};
use memory_model::{GuestAddress, GuestMemoryRegion, GuestRegionCollection};

use crate::ram::{Map, Ram, map, ranges};
use crate::recorder::{Log, Recorder, Told, rows};

/// What was told, of the region that begins there, and whether readers found it then.
type Seen = Arc<Mutex<Vec<(&'static str, u64, bool)>>>;

/// Notes what the map is at each call.
struct Looks {
    reader: Reader<GuestRegionCollection<Ram>>,
    seen: Seen,
}

impl Looks {
    fn note(&mut self, what: &'static str, region: &Arc<Ram>) {
        let is_there = ranges(&self.reader.read()).contains(&(region.start_addr().0, region.len()));
        self.seen.lock().unwrap().push((what, region.start_addr().0, is_there));
    }
}

impl MapListener<Ram> for Looks {
    fn added(&mut self, region: &Arc<Ram>) -> Result<(), ListenerError> {
        self.note("added", region);
        Ok(())
    }

    fn removed(&mut self, region: &Arc<Ram>) {
        self.note("removed", region);
    }
}

#[test]
fn listeners_know_of_a_region_before_readers_and_until_after_them() {
    let (map, living) = map(&[(0, 64)]);
    let seen = Seen::default();
    let id = map.register(Box::new(Looks { reader: map.reader(), seen: Arc::clone(&seen) })).unwrap();
    map.insert_region(Ram::new(64, 64, &living)).unwrap();
    map.remove_region(GuestAddress(0), 64).unwrap();
    map.unregister(id).unwrap();
    let wanted = [("added", 0, true), ("added", 64, false), ("removed", 0, false), ("removed", 64, true)];
    assert_eq!(*seen.lock().unwrap(), wanted);
}

#[test]
fn regions_go_up_to_one_listener_after_another_and_come_back_the_other_way() {
    let (map, living) = map(&[(0, 64)]);
    let log = Arc::default();
    for number in [0, 1] {
        map.register(Recorder::new(number, &log).0).unwrap();
    }
    let dimms = || [Ram::new(128, 64, &living), Ram::new(64, 64, &living)];
    let insert = || map.update(|mem| dimms().into_iter().try_fold(mem.clone(), |mem, dimm| mem.insert_region(dimm)));
    let told = || std::mem::take(&mut log.lock().unwrap().told);
    told();
    insert().unwrap();
    let up = [(0, Told::Added(64)), (1, Told::Added(64)), (0, Told::Added(128)), (1, Told::Added(128))];
    assert_eq!(told(), up);
    let down = [(1, Told::Removed(128)), (0, Told::Removed(128)), (1, Told::Removed(64)), (0, Told::Removed(64))];
    let remove = || {
        map.update(|mem| {
            let (mem, _) = mem.remove_region(GuestAddress(64), 64)?;
            mem.remove_region(GuestAddress(128), 64).map(|(mem, _)| mem)
        })
    };
    remove().unwrap();
    assert_eq!(told(), down);
    let before = map.generation();
    log.lock().unwrap().refuse_after = Some(3);
    let refused = insert().unwrap_err();
    assert_eq!(refused.to_string(), "recorder refused the region 0x80..=0xbf: no room for 0x80");
    let back = [(1, Told::Refused(128)), (0, Told::Removed(128)), (1, Told::Removed(64)), (0, Told::Removed(64))];
    assert_eq!(told(), [&up[..3], &back].concat());
    assert_eq!((map.generation(), living.load(Ordering::SeqCst)), (before, 1));
}

#[test]
fn whoever_registers_is_told_of_what_is_there_and_whoever_refuses_is_not_registered() {
    let (map, _) = map(&[(0, 64), (64, 64), (256, 64)]);
    let log = Arc::default();
    let (recorder, table) = Recorder::new(7, &log);
    let id = map.register(recorder).unwrap();
    assert_eq!(rows(&table), ranges(&map.memory()));
    log.lock().unwrap().refuse_after = Some(2);
    let (recorder, other) = Recorder::new(8, &log);
    let refused = map.register(recorder).unwrap_err();
    assert!(matches!(
        &refused,
        MapError::Refused { listener, region: (GuestAddress(256), GuestAddress(319)), .. } if listener == "recorder"
    ));
    assert_eq!(rows(&other), []);
    map.remove_region(GuestAddress(64), 64).unwrap();
    assert_eq!(rows(&table), [(0, 64), (256, 64)]);
    let to_other: Vec<_> = log.lock().unwrap().told.iter().filter(|told| told.0 == 8).map(|told| told.1).collect();
    let wanted = [Told::Added(0), Told::Added(64), Told::Refused(256), Told::Removed(64), Told::Removed(0)];
    assert_eq!(to_other, wanted);
    drop(map.unregister(id).unwrap());
    assert_eq!(rows(&table), []);
}

#[test]
fn a_region_cannot_take_another_ones_place_at_once() {
    let (map, living) = map(&[(0, 64), (64, 64)]);
    let replace = |start, len| {
        map.update(|mem| mem.remove_region(GuestAddress(64), 64)?.0.insert_region(Ram::new(start, len, &living)))
    };
    let refused = replace(96, 64).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the region 0x60..=0x9f would take the place of 0x40..=0x7f: remove that in an update of its own before"
    );
    assert_eq!((ranges(&map.memory()), living.load(Ordering::SeqCst)), (vec![(0, 64), (64, 64)], 2));
    // Beside it is no matter.
    replace(128, 64).unwrap();
    assert_eq!(ranges(&map.memory()), [(0, 64), (128, 64)]);
}

/// Tries whatever a listener must not do.
struct Meddler {
    map: Weak<Map>,
    tried: Arc<AtomicUsize>,
}

impl Meddler {
    fn meddle(&self) {
        let Some(map) = self.map.upgrade() else { return };
        assert!(matches!(map.remove_region(GuestAddress(0), 64), Err(MapError::Nested)));
        let (recorder, _) = Recorder::new(0, &Arc::new(Mutex::new(Log::default())));
        assert!(matches!(map.register(recorder), Err(MapError::Nested)));
        self.tried.fetch_add(1, Ordering::SeqCst);
    }
}

impl MapListener<Ram> for Meddler {
    fn added(&mut self, _: &Arc<Ram>) -> Result<(), ListenerError> {
        self.meddle();
        Ok(())
    }

    fn removed(&mut self, _: &Arc<Ram>) {
        self.meddle();
    }
}

#[test]
fn a_listener_that_changes_the_map_is_told_that_it_cannot() {
    let (map, _) = map(&[(0, 64), (64, 64)]);
    let (map, tried) = (Arc::new(map), Arc::default());
    map.register(Box::new(Meddler { map: Arc::downgrade(&map), tried: Arc::clone(&tried) })).unwrap();
    map.remove_region(GuestAddress(64), 64).unwrap();
    assert_eq!(tried.load(Ordering::SeqCst), 3);
}

/// Panics at a region.
struct Panics(u64);

impl MapListener<Ram> for Panics {
    fn added(&mut self, region: &Arc<Ram>) -> Result<(), ListenerError> {
        if region.start_addr().0 == self.0 {
            resume_unwind(Box::new("on purpose"));
        }
        Ok(())
    }

    fn removed(&mut self, _: &Arc<Ram>) {}
}

#[test]
fn a_listener_that_panics_leaves_a_map_that_works_and_others_as_they_were() {
    let (map, living) = map(&[(0, 64)]);
    let log = Arc::default();
    let (recorder, table) = Recorder::new(0, &log);
    map.register(recorder).unwrap();
    map.register(Box::new(Panics(64))).unwrap();
    let insert = |start| map.insert_region(Ram::new(start, 64, &living));
    assert!(catch_unwind(AssertUnwindSafe(|| insert(64))).is_err());
    assert_eq!(rows(&table), ranges(&map.memory()));
    insert(128).unwrap();
    assert_eq!(rows(&table), [(0, 64), (128, 64)]);
    assert!(
        catch_unwind(AssertUnwindSafe(|| map.update(|_| -> Result<_, MapError> { panic!("on purpose") }))).is_err()
    );
    map.remove_region(GuestAddress(0), 64).unwrap();
    assert_eq!(rows(&table), [(128, 64)]);
}

#[test]
fn an_unregistered_listener_is_handed_back() {
    let (map, living) = map(&[(0, 64)]);
    let seen = Seen::default();
    let id = map.register(Box::new(Looks { reader: map.reader(), seen: Arc::clone(&seen) })).unwrap();
    let mut listener = map.unregister(id).unwrap();
    assert!(listener.name().ends_with("Looks"));
    listener.removed(&Ram::new(0x1000, 64, &living));
    assert_eq!(seen.lock().unwrap().last(), Some(&("removed", 0x1000, false)));
}
