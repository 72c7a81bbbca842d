//! Order, refusal, roll-back, and that only what changes is told.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, Weak};

use memory_model::atomic::{ListenerError, MapError, MapListener, Pluggable};
use memory_model::guest_memory::{Error, PlugState, RegionRange};
use memory_model::mmap::Protection;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::ground::{offset, page, pages, recovers, region};

const START: u64 = 0x6000_0000;

type Map = GuestMemoryAtomic<GuestMemoryMmap>;

/// What a listener was told: of so many pages from a page, counted from [`START`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Plugged(usize, u64, u64),
    Refused(usize, u64, u64),
    Unplugged(usize, u64, u64),
}
use Told::{Plugged, Refused, Unplugged};

#[derive(Default)]
struct Log {
    told: Vec<Told>,
    /// How many questions are answered well before one is refused, or ends in a panic.
    refuse_after: Option<usize>,
    panic_after: Option<usize>,
}

/// Writes down what it is told, and whether the memory is accessible then.
struct Recorder {
    number: usize,
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    /// The pages of a part; which are accessible at each call.
    fn place(region: &GuestRegionMmap, range: RegionRange) -> (u64, u64) {
        assert!(region.is_plugged(range.offset, range.len), "told of memory that is not there");
        region.read_obj::<u8>(range.offset).unwrap();
        region.read_obj::<u8>(MemoryRegionAddress(range.offset.0 + range.len - 1)).unwrap();
        let (first, last) = range.addresses(region.start_addr());
        ((first.0 - START) / pages(1), (last.0 + 1 - first.0) / pages(1))
    }
}

/// Counts down; whether it was at its end.
fn is_over(left: &mut Option<usize>) -> bool {
    let over = *left == Some(0);
    *left = left.and_then(|left| left.checked_sub(1));
    over
}

impl MapListener<GuestRegionMmap> for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn added(&mut self, _: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn removed(&mut self, _: &Arc<GuestRegionMmap>) {}

    fn plugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) -> Result<(), ListenerError> {
        let (at, count) = Self::place(region, range);
        let mut log = self.log.lock().unwrap();
        if is_over(&mut log.panic_after) {
            drop(log);
            resume_unwind(Box::new("on purpose"));
        }
        if is_over(&mut log.refuse_after) {
            log.told.push(Refused(self.number, at, count));
            return Err(format!("no room for page {at}").into());
        }
        log.told.push(Plugged(self.number, at, count));
        Ok(())
    }

    fn unplugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) {
        let (at, count) = Self::place(region, range);
        let mut log = self.log.lock().unwrap();
        if is_over(&mut log.panic_after) {
            drop(log);
            resume_unwind(Box::new("on purpose"));
        }
        log.told.push(Unplugged(self.number, at, count));
    }
}

/// Two regions of four pages that touch, a hole, and one page more; and two who listen.
fn map() -> (Map, Arc<Mutex<Log>>) {
    let regions = vec![region(START, 4), region(START + pages(4), 4), region(START + pages(9), 1)];
    let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_regions(regions).unwrap());
    let log = Arc::default();
    for number in 0..2 {
        map.register(Box::new(Recorder { number, log: Arc::clone(&log) })).unwrap();
    }
    (map, log)
}

fn told(log: &Mutex<Log>) -> Vec<Told> {
    std::mem::take(&mut log.lock().unwrap().told)
}

/// A guest's address of a page.
fn at(number: usize) -> GuestAddress {
    GuestAddress(START + pages(number))
}

/// The pages that are unplugged.
fn unplugged(map: &Map) -> Vec<u64> {
    let memory = map.memory();
    let pages_of = |region: &GuestRegionMmap| {
        let first = (region.start_addr().0 - START) / pages(1);
        let ranges = region.unplugged_ranges().into_iter();
        let pages = ranges.flat_map(|range| range.offset.0 / pages(1)..(range.offset.0 + range.len) / pages(1));
        pages.map(move |page| first + page).collect::<Vec<_>>()
    };
    memory.regions().flat_map(pages_of).collect()
}

#[test]
fn parts_go_up_to_one_listener_after_another_and_come_back_the_other_way() {
    if !recovers() {
        return;
    }
    let (map, log) = map();
    let before = map.generation();
    map.unplug(at(2), pages(4)).unwrap();
    assert_eq!(told(&log), [Unplugged(1, 4, 2), Unplugged(0, 4, 2), Unplugged(1, 2, 2), Unplugged(0, 2, 2)]);
    assert_eq!(unplugged(&map), [2, 3, 4, 5]);
    let fault = map.memory().read_slice(&mut vec![0; 3 * page()], at(0)).unwrap_err();
    assert!(matches!(fault, Error::Fault { addr, completed } if addr == at(2) && completed == 2 * page()));
    // Some of it is as it shall be.
    map.plug(at(3), pages(1)).unwrap();
    assert_eq!(told(&log), [Plugged(0, 3, 1), Plugged(1, 3, 1)]);
    map.plug(at(0), pages(8)).unwrap();
    let up = [Plugged(0, 2, 1), Plugged(1, 2, 1), Plugged(0, 4, 2), Plugged(1, 4, 2)];
    assert_eq!(told(&log), up);
    // All of it is.
    map.plug(at(0), pages(8)).unwrap();
    map.plug(at(100), 0).unwrap();
    map.unplug(GuestAddress(u64::MAX), 0).unwrap();
    assert_eq!((told(&log), unplugged(&map)), (vec![], vec![]));
    assert_eq!(map.generation(), before, "the map is the same");
}

#[test]
fn what_one_refuses_all_give_back() {
    if !recovers() {
        return;
    }
    let (map, log) = map();
    map.unplug(at(1), pages(5)).unwrap();
    told(&log);
    for refuse_after in 0..4 {
        log.lock().unwrap().refuse_after = Some(refuse_after);
        let error = map.plug(at(0), pages(8)).unwrap_err();
        let MapError::PlugRefused { listener, range, .. } = &error else { panic!("{error}") };
        let (first, count) = if refuse_after < 2 { (1, 3) } else { (4, 2) };
        assert_eq!((&**listener, range.0, range.1.0 + 1), ("recorder", at(first), at(first + count).0));
        let (from, to) = (at(first).0, at(first + count).0 - 1);
        assert_eq!(
            error.to_string(),
            format!("recorder refused {from:#x}..={to:#x}, which was to be plugged: no room for page {first}")
        );
        let places = [(0, 1, 3), (1, 1, 3), (0, 4, 2), (1, 4, 2)];
        let up = places[..refuse_after].iter().map(|&(number, at, count)| Plugged(number, at, count));
        let (number, page, count) = places[refuse_after];
        let down = places[..refuse_after].iter().rev().map(|&(number, at, count)| Unplugged(number, at, count));
        let wanted: Vec<_> = up.chain([Refused(number, page, count)]).chain(down).collect();
        assert_eq!(told(&log), wanted);
        assert_eq!(unplugged(&map), [1, 2, 3, 4, 5]);
        assert!(map.memory().read_obj::<u8>(at(1)).is_err());
    }
    // Also of memory that is only read by now.
    for region in map.memory().regions() {
        region.protect(Protection::ReadOnly).unwrap();
    }
    log.lock().unwrap().refuse_after = Some(3);
    assert!(matches!(map.plug(at(0), pages(8)), Err(MapError::PlugRefused { .. })));
    assert_eq!(unplugged(&map), [1, 2, 3, 4, 5]);
    assert!(matches!(map.unplug(at(0), pages(1)), Err(MapError::Plug { to: PlugState::Unplugged, .. })));
    told(&log);
    map.plug(at(0), pages(8)).unwrap();
    assert_eq!((told(&log).len(), unplugged(&map)), (4, vec![]));
}

#[test]
fn a_panic_leaves_it_as_it_was() {
    if !recovers() {
        return;
    }
    let (map, log) = map();
    log.lock().unwrap().panic_after = Some(2);
    assert!(catch_unwind(AssertUnwindSafe(|| map.unplug(at(2), pages(4)))).is_err());
    // The third has not been told, or nobody knows; the other two have it back, in their order.
    let wanted = [Unplugged(1, 4, 2), Unplugged(0, 4, 2), Plugged(0, 4, 2), Plugged(1, 4, 2)];
    assert_eq!((told(&log), unplugged(&map)), (wanted.to_vec(), vec![]));
    map.unplug(at(2), pages(4)).unwrap();
    told(&log);
    log.lock().unwrap().panic_after = Some(1);
    assert!(catch_unwind(AssertUnwindSafe(|| map.plug(at(2), pages(4)))).is_err());
    assert_eq!(told(&log), [Plugged(0, 2, 2), Unplugged(0, 2, 2)]);
    assert_eq!(unplugged(&map), [2, 3, 4, 5]);
    map.plug(at(2), pages(4)).unwrap();
}

/// Panics when the fifth page is plugged, and when the third is unplugged.
struct Panics;

impl MapListener<GuestRegionMmap> for Panics {
    fn added(&mut self, _: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn removed(&mut self, _: &Arc<GuestRegionMmap>) {}

    fn plugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) -> Result<(), ListenerError> {
        if range.addresses(region.start_addr()).0 == at(4) {
            resume_unwind(Box::new("plugged"));
        }
        Ok(())
    }

    fn unplugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) {
        if range.addresses(region.start_addr()).0 == at(2) {
            resume_unwind(Box::new("unplugged"));
        }
    }
}

#[test]
fn a_panic_on_the_way_back_from_a_panic_does_not_end_the_process_and_the_way_back_goes_on() {
    if !recovers() {
        return;
    }
    let panic_of = |change: Change, map: &Map| {
        let panic = catch_unwind(AssertUnwindSafe(|| change(map, at(2), pages(4)))).unwrap_err();
        *panic.downcast::<&str>().unwrap()
    };
    let (map, log) = map();
    let panics = map.register(Box::new(Panics)).unwrap();
    assert_eq!(panic_of(Map::unplug, &map), "unplugged");
    let there_and_back = [Unplugged(1, 4, 2), Unplugged(0, 4, 2), Plugged(0, 4, 2), Plugged(1, 4, 2)];
    assert_eq!((told(&log), unplugged(&map)), (there_and_back.to_vec(), vec![]));
    map.unregister(panics).unwrap();
    map.unplug(at(2), pages(4)).unwrap();
    told(&log);
    map.register(Box::new(Panics)).unwrap();
    assert_eq!(panic_of(Map::plug, &map), "plugged");
    let there = [Plugged(0, 2, 2), Plugged(1, 2, 2), Plugged(0, 4, 2), Plugged(1, 4, 2)];
    let back = [Unplugged(1, 4, 2), Unplugged(0, 4, 2), Unplugged(1, 2, 2), Unplugged(0, 2, 2)];
    assert_eq!((told(&log), unplugged(&map)), ([there, back].concat(), vec![2, 3, 4, 5]));
}

type Change = fn(&Map, GuestAddress, u64) -> Result<(), MapError>;

#[test]
fn ranges_that_cannot_be_changed_are_told_to_nobody() {
    if !recovers() {
        return;
    }
    let (map, log) = map();
    let hole = at(8).0;
    let both: [Change; 2] = [Map::plug, Map::unplug];
    for change in both {
        for (addr, len) in [(at(6), pages(3)), (at(8), 1), (at(0), pages(10)), (at(7), pages(1) + 1)] {
            let error = change(&map, addr, len).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("not all of the {len:#x} bytes at {addr} are memory: there is none at {hole:#x}")
            );
        }
        for (addr, len) in [(GuestAddress(START - 1), 2), (at(10), 1), (GuestAddress(u64::MAX), 1)] {
            let error = change(&map, addr, len).unwrap_err();
            assert!(matches!(error, MapError::Hole { hole, .. } if hole == addr), "{error}");
        }
        let error = change(&map, at(1), u64::MAX).unwrap_err();
        assert!(matches!(error, MapError::Wraps { .. }), "{error}");
        // The first region would do it.
        let error = change(&map, at(2), pages(2) + 1).unwrap_err();
        assert!(matches!(error, MapError::Plug { range, .. } if range == (at(4), at(4))), "{error}");
        assert!(error.to_string().contains("plugged: 0x1 bytes from offset 0x0 are not whole pages"), "{error}");
    }
    assert_eq!((told(&log), unplugged(&map)), (vec![], vec![]));
}

/// Tries whatever a listener must not do, of what it is told.
struct Meddler {
    map: Weak<Map>,
    tried: Arc<AtomicUsize>,
}

impl Meddler {
    fn meddle(&self) {
        let Some(map) = self.map.upgrade() else { return };
        assert!(matches!(map.plug(at(0), pages(1)), Err(MapError::Nested)));
        assert!(matches!(map.unplug(at(0), pages(1)), Err(MapError::Nested)));
        assert!(matches!(map.remove_region(at(0), pages(4)), Err(MapError::Nested)));
        self.tried.fetch_add(1, Ordering::SeqCst);
    }
}

impl MapListener<GuestRegionMmap> for Meddler {
    fn added(&mut self, _: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn removed(&mut self, _: &Arc<GuestRegionMmap>) {}

    fn plugged(&mut self, _: &Arc<GuestRegionMmap>, _: RegionRange) -> Result<(), ListenerError> {
        self.meddle();
        Ok(())
    }

    fn unplugged(&mut self, _: &Arc<GuestRegionMmap>, _: RegionRange) {
        self.meddle();
    }
}

#[test]
fn a_listener_that_changes_the_map_is_told_that_it_cannot() {
    if !recovers() {
        return;
    }
    let (map, _) = map();
    let (map, tried) = (Arc::new(map), Arc::default());
    map.register(Box::new(Meddler { map: Arc::downgrade(&map), tried: Arc::clone(&tried) })).unwrap();
    map.unplug(at(2), pages(1)).unwrap();
    map.plug(at(2), pages(1)).unwrap();
    assert_eq!(tried.load(Ordering::SeqCst), 2);
    // Nor does who looks at it.
    let mut reader = map.reader();
    let guard = reader.read();
    assert!(matches!(map.unplug(at(2), pages(1)), Err(MapError::GuardHeld)));
    drop(guard);
    // Others who look are not waited for.
    let (looked, looking) = (&Barrier::new(2), &Barrier::new(2));
    std::thread::scope(|scope| {
        let map = &map;
        scope.spawn(move || {
            let mut reader = map.reader();
            let guard = reader.read();
            looked.wait();
            looking.wait();
            assert!(guard.read_obj::<u8>(at(2)).is_err());
        });
        looked.wait();
        map.unplug(at(2), pages(1)).unwrap();
        looking.wait();
    });
}

#[test]
fn who_knows_nothing_of_plugs_is_not_in_the_way() {
    struct Deaf;
    impl MapListener<GuestRegionMmap> for Deaf {
        fn added(&mut self, _: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
            Ok(())
        }
        fn removed(&mut self, _: &Arc<GuestRegionMmap>) {}
    }
    if !recovers() {
        return;
    }
    let (map, log) = map();
    let id = map.register(Box::new(Deaf)).unwrap();
    map.unplug(at(0), pages(1)).unwrap();
    map.plug(at(0), pages(1)).unwrap();
    assert_eq!(told(&log).len(), 4);
    map.unregister(id).unwrap();
    let alone = GuestMemoryAtomic::new((*map.memory()).clone());
    alone.unplug(at(0), pages(8)).unwrap();
    assert_eq!(unplugged(&alone), (0..8).collect::<Vec<_>>());
    assert_eq!(told(&log), []);
}

#[test]
fn a_region_says_what_it_would_change() {
    if !recovers() {
        return;
    }
    let region = region(START, 4);
    region.unplug(offset(1), pages(1)).unwrap();
    let changes = |to| Pluggable::changes(&region, offset(0), pages(3), to).unwrap();
    let part = |range: std::ops::Range<usize>| crate::ground::part(range);
    assert_eq!(changes(PlugState::Plugged), [part(1..2)]);
    assert_eq!(changes(PlugState::Unplugged), [part(0..1), part(2..3)]);
    assert_eq!(Pluggable::plugged_ranges(&region), [part(0..1), part(2..4)]);
}
