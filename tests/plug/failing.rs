//! Regions that fail to plug and unplug, and listeners that fail at the worst moment.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use memory_model::atomic::{ListenerError, MapListener, PlugError, Pluggable};
use memory_model::guest_memory::{Error, PlugState, RegionRange};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryRegion, GuestRegionCollection, GuestUsize,
    MemoryRegionAddress,
};

/// A region whose state is a bit for each byte, and that fails when it is told to.
struct Fake {
    start: u64,
    plugged: Mutex<[bool; 8]>,
    fails: Arc<Mutex<Vec<(u64, PlugState)>>>,
}

impl Bytes<MemoryRegionAddress> for Fake {
    type E = Error;
    fn read(&self, _: &mut [u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
    fn write(&self, _: &[u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
}

impl GuestMemoryRegion for Fake {
    fn len(&self) -> GuestUsize {
        8
    }
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }
}

impl Fake {
    fn set(&self, at: MemoryRegionAddress, len: u64, to: PlugState) -> Result<(), PlugError> {
        if self.fails.lock().unwrap().contains(&(self.start, to)) {
            return Err(format!("not {to} on purpose").into());
        }
        let range = usize::try_from(at.0).unwrap()..usize::try_from(at.0 + len).unwrap();
        self.plugged.lock().unwrap()[range].fill(to == PlugState::Plugged);
        Ok(())
    }

    fn runs(&self, plugged: bool, range: std::ops::Range<u64>) -> Vec<RegionRange> {
        let bits = *self.plugged.lock().unwrap();
        let mut runs: Vec<RegionRange> = Vec::new();
        for at in range.filter(|&at| bits[usize::try_from(at).unwrap()] == plugged) {
            match runs.last_mut() {
                Some(run) if run.offset.0 + run.len == at => run.len += 1,
                _ => runs.push(RegionRange { offset: MemoryRegionAddress(at), len: 1 }),
            }
        }
        runs
    }
}

impl Pluggable for Fake {
    fn changes(&self, offset: MemoryRegionAddress, len: u64, to: PlugState) -> Result<Vec<RegionRange>, PlugError> {
        Ok(self.runs(to == PlugState::Unplugged, offset.0..offset.0 + len))
    }
    fn plug(&self, offset: MemoryRegionAddress, len: u64) -> Result<(), PlugError> {
        self.set(offset, len, PlugState::Plugged)
    }
    fn unplug(&self, offset: MemoryRegionAddress, len: u64) -> Result<(), PlugError> {
        self.set(offset, len, PlugState::Unplugged)
    }
    fn plugged_ranges(&self) -> Vec<RegionRange> {
        self.runs(true, 0..8)
    }
}

/// Mirrors what is plugged, by address.
struct Mirror {
    plugged: Arc<Mutex<Vec<u64>>>,
    refuses: Arc<Mutex<Vec<u64>>>,
}

impl MapListener<Fake> for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn added(&mut self, region: &Arc<Fake>) -> Result<(), ListenerError> {
        region.plugged_ranges().into_iter().try_for_each(|range| self.plugged(region, range))
    }

    fn removed(&mut self, region: &Arc<Fake>) {
        region.plugged_ranges().into_iter().for_each(|range| self.unplugged(region, range));
    }

    fn plugged(&mut self, region: &Arc<Fake>, range: RegionRange) -> Result<(), ListenerError> {
        let (first, last) = range.addresses(region.start_addr());
        if self.refuses.lock().unwrap().contains(&first.0) {
            return Err("refused on purpose".into());
        }
        self.plugged.lock().unwrap().extend(first.0..=last.0);
        self.plugged.lock().unwrap().sort_unstable();
        Ok(())
    }

    fn unplugged(&mut self, region: &Arc<Fake>, range: RegionRange) {
        let (first, last) = range.addresses(region.start_addr());
        let mut plugged = self.plugged.lock().unwrap();
        let before = plugged.len();
        plugged.retain(|at| !(first.0..=last.0).contains(at));
        assert_eq!((before - plugged.len()) as u64, last.0 - first.0 + 1, "it did not have it");
    }
}

type Map = GuestMemoryAtomic<GuestRegionCollection<Fake>>;

/// Three regions that touch, of eight bytes each, and a mirror.
struct Ground {
    map: Map,
    fails: Arc<Mutex<Vec<(u64, PlugState)>>>,
    refuses: Arc<Mutex<Vec<u64>>>,
    known: Arc<Mutex<Vec<u64>>>,
}

impl Ground {
    fn new() -> Self {
        let (fails, refuses, known) = (Arc::default(), Arc::default(), Arc::default());
        let region = |start| Arc::new(Fake { start, plugged: Mutex::new([true; 8]), fails: Arc::clone(&fails) });
        let regions = [0, 8, 16].map(region).to_vec();
        let map = GuestMemoryAtomic::new(GuestRegionCollection::from_arc_regions(regions).unwrap());
        map.register(Box::new(Mirror { plugged: Arc::clone(&known), refuses: Arc::clone(&refuses) })).unwrap();
        Self { map, fails, refuses, known }
    }

    fn fail(&self, what: &[(u64, PlugState)]) {
        *self.fails.lock().unwrap() = what.to_vec();
    }

    /// What is plugged, and what the mirror has of it.
    fn state(&self) -> (Vec<u64>, Vec<u64>) {
        let memory = self.map.memory();
        let bytes = |region: &Fake| {
            let ranges = region.plugged_ranges().into_iter();
            let bytes = ranges.flat_map(|range| range.offset.0..range.offset.0 + range.len);
            bytes.map(|at| region.start + at).collect::<Vec<_>>()
        };
        (memory.regions().flat_map(bytes).collect(), self.known.lock().unwrap().clone())
    }
}

/// All bytes but these.
fn but(gone: Range<u64>) -> Vec<u64> {
    (0..24).filter(|at| !gone.contains(at)).collect()
}

#[test]
fn a_region_that_does_not_unplug_leaves_all_plugged() {
    use PlugState::{Plugged, Unplugged};
    let ground = Ground::new();
    // The upper one is unplugged before the middle one fails.
    ground.fail(&[(8, Unplugged)]);
    let error = ground.map.unplug(GuestAddress(4), 16).unwrap_err();
    assert_eq!(error.to_string(), "0x8..=0xf cannot be unplugged: not unplugged on purpose");
    assert_eq!(ground.state(), (but(0..0), but(0..0)));
    // And cannot be plugged again: nobody is told that it is.
    ground.fail(&[(8, Unplugged), (16, Plugged)]);
    let error = ground.map.unplug(GuestAddress(4), 16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0x8..=0xf cannot be unplugged: not unplugged on purpose; and what was done of it stays: 0x10..=0x13 cannot be \
         plugged: not plugged on purpose"
    );
    assert_eq!(ground.state(), (but(16..20), but(16..20)));
    ground.fail(&[]);
    ground.map.plug(GuestAddress(0), 24).unwrap();
    assert_eq!(ground.state(), (but(0..0), but(0..0)));
}

#[test]
fn a_listener_that_does_not_take_back_what_stays_plugged_is_named() {
    let ground = Ground::new();
    ground.fail(&[(0, PlugState::Unplugged)]);
    *ground.refuses.lock().unwrap() = vec![8];
    let error = ground.map.unplug(GuestAddress(4), 16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0x4..=0x7 cannot be unplugged: not unplugged on purpose; and what was done of it stays: mirror refused \
         0x8..=0xf, which was to be plugged: refused on purpose"
    );
    assert_eq!(ground.state(), (but(0..0), but(8..16)));
    // So that it can go.
    *ground.known.lock().unwrap() = but(0..0);
}

#[test]
fn a_region_that_does_not_plug_leaves_all_unplugged() {
    use PlugState::{Plugged, Unplugged};
    let ground = Ground::new();
    ground.map.unplug(GuestAddress(4), 16).unwrap();
    assert_eq!(ground.state(), (but(4..20), but(4..20)));
    ground.fail(&[(16, Plugged)]);
    let error = ground.map.plug(GuestAddress(0), 24).unwrap_err();
    assert_eq!(error.to_string(), "0x10..=0x13 cannot be plugged: not plugged on purpose");
    assert_eq!(ground.state(), (but(4..20), but(4..20)));
    ground.fail(&[(16, Plugged), (0, Unplugged)]);
    let error = ground.map.plug(GuestAddress(0), 24).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0x10..=0x13 cannot be plugged: not plugged on purpose; and what was done of it stays: 0x4..=0x7 cannot be \
         unplugged: not unplugged on purpose"
    );
    assert_eq!(ground.state(), (but(8..20), but(4..20)));
    // So that it can go.
    *ground.known.lock().unwrap() = but(8..20);
}

#[test]
fn whoever_comes_and_goes_asks_regions_what_is_plugged() {
    let ground = Ground::new();
    ground.map.unplug(GuestAddress(3), 10).unwrap();
    let seen = Arc::default();
    let other = Mirror { plugged: Arc::clone(&seen), refuses: Arc::default() };
    let other = ground.map.register(Box::new(other)).unwrap();
    assert_eq!(*seen.lock().unwrap(), but(3..13));
    ground.map.plug(GuestAddress(0), 5).unwrap();
    assert_eq!(*seen.lock().unwrap(), but(5..13));
    ground.map.unregister(other).unwrap();
    assert_eq!(*seen.lock().unwrap(), Vec::<u64>::new());
    assert_eq!(ground.state(), (but(5..13), but(5..13)));
}
