//! Random changes, with listeners that come, go, and refuse, against a plain list of regions: each answer, everything that
//! a listener is told and in which order, and after each step what readers find and listeners mirror.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use memory_model::atomic::{ListenerId, MapError};
use memory_model::guest_memory::RegionError;
use memory_model::{GuestAddress, GuestRegionCollection};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ram::{Map, Ram, map, ranges};
use crate::recorder::{Log, Recorder, Table, Told, rows};

/// Regions lie on this grid, or half of it beside it.
const GRID: u64 = 0x40;

#[derive(Clone, Debug)]
enum Op {
    /// A region at a place of the grid, of 1 to 3 times its distance.
    Insert(u64, u64),
    /// One of those that are there.
    Remove(usize),
    /// A part of one, or what is beyond it.
    RemovePart(usize, u64, u64),
    /// Some of those that are there away, and others there, at once; and whether the function gives up.
    Update(u32, Vec<(u64, u64)>, bool),
    Register,
    Unregister(usize),
    /// After so many answers, one is a refusal.
    RefuseAfter(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let region = || (0..24_u64, 1..4_u64);
    prop_oneof![
        4 => region().prop_map(|(place, len)| Op::Insert(place, len)),
        2 => any::<usize>().prop_map(Op::Remove),
        1 => (any::<usize>(), 0..3_u64, 0..4_u64).prop_map(|(which, from, len)| Op::RemovePart(which, from, len)),
        4 => (any::<u32>(), vec(region(), 0..4), prop::bool::weighted(0.1))
            .prop_map(|(away, there, gives_up)| Op::Update(away, there, gives_up)),
        1 => Just(Op::Register),
        1 => any::<usize>().prop_map(Op::Unregister),
        2 => (0..12_usize).prop_map(Op::RefuseAfter),
    ]
}

/// What should be.
struct Model {
    /// First address and length, sorted.
    regions: Vec<(u64, u64)>,
    /// The numbers of the recorders.
    listeners: Vec<usize>,
    refuse_after: Option<usize>,
    /// How often the map has changed.
    changes: u64,
    told: Vec<(usize, Told)>,
}

impl Model {
    /// Asks `listeners` about `added`: whether all accept. If not, they are told so.
    fn ask(&mut self, listeners: &[usize], added: &[(u64, u64)]) -> bool {
        let mut accepted = Vec::new();
        for &(start, _) in added {
            for &listener in listeners {
                let refuses = self.refuse_after == Some(0);
                self.refuse_after = self.refuse_after.and_then(|after| after.checked_sub(1));
                if refuses {
                    self.told.push((listener, Told::Refused(start)));
                    self.told.extend(accepted.into_iter().rev());
                    return false;
                }
                self.told.push((listener, Told::Added(start)));
                accepted.push((listener, Told::Removed(start)));
            }
        }
        true
    }

    fn tell_removed(&mut self, listeners: &[usize], removed: &[(u64, u64)]) {
        for &(start, _) in removed.iter().rev() {
            self.told.extend(listeners.iter().rev().map(|&listener| (listener, Told::Removed(start))));
        }
    }

    /// What a change answers.
    fn change(&mut self, removed: &[(u64, u64)], added: &[(u64, u64)]) -> Answer {
        let mut new: Vec<_> = self.regions.iter().filter(|region| !removed.contains(region)).copied().collect();
        for &region in added {
            if new.iter().any(|&other| overlap(region, other)) {
                return Answer::Invalid;
            }
            new.push(region);
        }
        let mut added = added.to_vec();
        added.sort_unstable();
        if added.iter().any(|&new| removed.iter().any(|&old| overlap(new, old))) {
            return Answer::Replaced;
        }
        let listeners = self.listeners.clone();
        if !self.ask(&listeners, &added) {
            return Answer::Refused;
        }
        self.changes += u64::from(!(added.is_empty() && removed.is_empty()));
        self.tell_removed(&listeners, removed);
        new.sort_unstable();
        self.regions = new;
        Answer::Done
    }
}

fn overlap(one: (u64, u64), other: (u64, u64)) -> bool {
    one.0 < other.0 + other.1 && other.0 < one.0 + one.1
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Invalid,
    Replaced,
    Refused,
    GivenUp,
}

fn answer<T>(result: &Result<T, MapError>) -> Answer {
    match result {
        Ok(_) => Answer::Done,
        Err(MapError::Region(_)) => Answer::Invalid,
        Err(MapError::Replaced { .. }) => Answer::Replaced,
        Err(MapError::Refused { listener, .. }) => {
            assert_eq!(listener, "recorder");
            Answer::Refused
        }
        Err(MapError::Abandoned(_)) => Answer::GivenUp,
        Err(other) => panic!("{other}"),
    }
}

struct Case {
    map: Map,
    living: Arc<AtomicUsize>,
    model: Model,
    log: Arc<Mutex<Log>>,
    listeners: Vec<(usize, ListenerId, Table)>,
    recorders: usize,
    /// The number of the map that was seen last, and how often it had changed then.
    seen: (u64, u64),
}

impl Case {
    fn new() -> Self {
        let (map, living) = map(&[(0, GRID), (GRID, GRID)]);
        let regions = ranges(&map.memory());
        let model = Model { regions, listeners: Vec::new(), refuse_after: None, changes: 0, told: Vec::new() };
        let seen = (map.generation(), 0);
        Self { map, living, model, log: Arc::default(), listeners: Vec::new(), recorders: 0, seen }
    }

    fn run(&mut self, op: &Op) {
        let at = |which: usize, count: usize| which.checked_rem(count);
        let present = self.model.regions.clone();
        match op {
            Op::Insert(place, len) => {
                let region = (place * GRID, len * GRID);
                let done = self.map.insert_region(Ram::new(region.0, region.1, &self.living));
                assert_eq!(answer(&done), self.model.change(&[], &[region]));
            }
            Op::Remove(which) => {
                let Some(region) = at(*which, present.len()).map(|which| present[which]) else { return };
                let removed = self.map.remove_region(GuestAddress(region.0), region.1);
                assert_eq!(answer(&removed), self.model.change(&[region], &[]));
                assert_eq!(Arc::strong_count(&removed.unwrap()), 1, "nobody has it");
            }
            Op::RemovePart(which, from, len) => {
                let Some(region) = at(*which, present.len()).map(|which| present[which]) else { return };
                let (start, len) = (region.0 + from * GRID, len * GRID);
                if present.contains(&(start, len)) {
                    return;
                }
                let refused = self.map.remove_region(GuestAddress(start), len).unwrap_err();
                let inside = present.iter().any(|&(first, len)| (first..first + len).contains(&start));
                match refused {
                    MapError::Region(RegionError::Part { region: (first, last), .. }) => {
                        assert!(inside && present.contains(&(first.0, last.0 - first.0 + 1)));
                    }
                    MapError::Region(RegionError::NotFound { .. }) => assert!(!inside),
                    other => panic!("{other}"),
                }
            }
            Op::Update(away, there, gives_up) => self.update(*away, there, *gives_up),
            Op::Register => {
                let number = self.recorders;
                self.recorders += 1;
                let (recorder, table) = Recorder::new(number, &self.log);
                let registered = self.map.register(recorder);
                assert_eq!(registered.is_ok(), self.model.ask(&[number], &present));
                if let Ok(id) = registered {
                    self.listeners.push((number, id, table));
                    self.model.listeners.push(number);
                }
            }
            Op::Unregister(which) => {
                let Some(which) = at(*which, self.listeners.len()) else { return };
                let (number, id, table) = self.listeners.remove(which);
                drop(self.map.unregister(id).unwrap());
                assert!(matches!(self.map.unregister(id), Err(MapError::NoListener(of)) if of == id));
                self.model.listeners.remove(which);
                self.model.tell_removed(&[number], &present);
                assert_eq!(rows(&table), []);
            }
            Op::RefuseAfter(count) => {
                self.log.lock().unwrap().refuse_after = Some(*count);
                self.model.refuse_after = Some(*count);
            }
        }
        self.check();
    }

    fn update(&mut self, away: u32, there: &[(u64, u64)], gives_up: bool) {
        let present = self.model.regions.clone();
        let removed: Vec<_> = present
            .iter()
            .enumerate()
            .filter(|(number, _)| away >> number & 1 == 1)
            .map(|(_, &region)| region)
            .collect();
        let added: Vec<_> = there.iter().map(|(place, len)| (place * GRID + GRID / 2, len * GRID - GRID / 2)).collect();
        let done = self.map.update(|mem| -> Result<GuestRegionCollection<Ram>, MapError> {
            let mut mem = mem.clone();
            for &(start, len) in &removed {
                mem = mem.remove_region(GuestAddress(start), len)?.0;
            }
            for &(start, len) in &added {
                mem = mem.insert_region(Ram::new(start, len, &self.living))?;
            }
            if gives_up { Err(MapError::Abandoned("enough".into())) } else { Ok(mem) }
        });
        let wanted = if gives_up { None } else { Some(self.model.change(&removed, &added)) };
        match wanted {
            Some(wanted) => assert_eq!(answer(&done), wanted),
            None => assert!(matches!(answer(&done), Answer::GivenUp | Answer::Invalid)),
        }
    }

    /// What everybody sees.
    fn check(&mut self) {
        let mem = self.map.memory();
        assert_eq!(ranges(&mem), self.model.regions);
        // Another number for another map, and a larger one; else the same.
        assert_eq!(mem.generation() > self.seen.0, self.model.changes > self.seen.1);
        assert!(mem.generation() >= self.seen.0);
        self.seen = (mem.generation(), self.model.changes);
        let mut reader = self.map.reader();
        assert_eq!(ranges(&reader.read()), self.model.regions);
        assert_eq!(self.log.lock().unwrap().told, self.model.told);
        for (_, _, table) in &self.listeners {
            assert_eq!(rows(table), self.model.regions);
        }
        // Of those that are not in the map, none lives.
        assert_eq!(self.living.load(Ordering::SeqCst), self.model.regions.len());
    }

    fn end(mut self) {
        let (regions, listeners) = (self.model.regions.clone(), self.model.listeners.clone());
        self.model.tell_removed(&listeners, &regions);
        drop(self.map);
        assert_eq!(self.log.lock().unwrap().told, self.model.told);
        assert_eq!(self.living.load(Ordering::SeqCst), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_agrees_with_a_plain_list(ops in vec(op(), 1..60)) {
        let mut case = Case::new();
        for op in &ops {
            case.run(op);
        }
        case.end();
    }
}
