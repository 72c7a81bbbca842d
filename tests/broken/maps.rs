use std::sync::Arc;

use memory_model::atomic::{MapError, PlugError, Pluggable, RegionMap};
use memory_model::guest_memory::{PlugState, RegionRange};
use memory_model::{
    GuestAddress, GuestMemory, GuestMemoryAtomic, GuestRegionCollection, GuestUsize, MemoryRegionAddress,
    forward_region,
};

use crate::ground::{AT, Broken, Count, LEN, START, Way, ends, use_map, use_memory};

/// A map whose two lists of regions do not agree, and are not sorted.
struct Unsorted {
    mem: GuestRegionCollection<Broken>,
    regions: Vec<Arc<Broken>>,
    /// Which region is found everywhere.
    found: Option<usize>,
}

impl GuestMemory for Unsorted {
    type Region = Broken;
    fn num_regions(&self) -> usize {
        0
    }
    fn find_region(&self, addr: GuestAddress) -> Option<&Broken> {
        self.mem.find_region(addr)
    }
    fn regions(&self) -> impl Iterator<Item = &Broken> {
        self.mem.regions()
    }
}

impl RegionMap for Unsorted {
    fn arc_regions(&self) -> &[Arc<Broken>] {
        &self.regions
    }
    fn find_arc_region(&self, _: GuestAddress) -> Option<&Arc<Broken>> {
        self.regions.get(self.found?)
    }
}

#[test]
fn everything_ends_over_a_map_that_finds_the_wrong_region() {
    for found in [None, Some(0), Some(1), Some(2), Some(9)] {
        for slices in [None, Some(Count::Right), Some(Count::Zero), Some(Count::Longer)] {
            ends(format!("region {found:?}, slices {slices:?}"), move || {
                let broken = |start: &'static [u64]| {
                    let way = Way { slices, starts: start, ..Way::RIGHT };
                    Arc::new(Broken::new(way))
                };
                let [low, high, moving] =
                    [broken(&[0x1000]), broken(&[START + 0x10_0000]), broken(&[0, START, 1 << 63])];
                let map = || Unsorted {
                    mem: GuestRegionCollection::from_arc_regions(vec![Arc::clone(&high)]).unwrap(),
                    regions: vec![Arc::clone(&high), Arc::clone(&low), Arc::clone(&moving)],
                    found,
                };
                use_memory(&map());
                use_map(&map());
                let atomic = GuestMemoryAtomic::new(map());
                atomic.update(|_| Ok::<_, MapError>(map())).ok();
                let reversed = || Unsorted { regions: map().regions.into_iter().rev().collect(), ..map() };
                atomic.update(|_| Ok::<_, MapError>(reversed())).ok();
            });
        }
    }
}

/// A region that says so of what is to be plugged.
struct Plugs {
    region: Broken,
    says: Vec<RegionRange>,
}

forward_region! {
    impl for Plugs {
        Self { region, .. } => region,
    }
}

impl Pluggable for Plugs {
    fn changes(&self, _: MemoryRegionAddress, _: GuestUsize, _: PlugState) -> Result<Vec<RegionRange>, PlugError> {
        Ok(self.says.clone())
    }
    fn plug(&self, _: MemoryRegionAddress, _: GuestUsize) -> Result<(), PlugError> {
        Ok(())
    }
    fn unplug(&self, _: MemoryRegionAddress, _: GuestUsize) -> Result<(), PlugError> {
        Ok(())
    }
    fn plugged_ranges(&self) -> Vec<RegionRange> {
        Vec::new()
    }
}

#[test]
fn parts_that_are_not_of_the_range_are_not_plugged() {
    let range = |offset, len| RegionRange { offset: MemoryRegionAddress(offset), len };
    let (at, len) = (AT.0 - START, 0x2000);
    let wrong = [
        vec![range(at, 0)],
        vec![range(at - 0x1000, len)],
        vec![range(at, len + 1)],
        vec![range(at + 0x1000, len)],
        vec![range(at + 0x1000, 0x1000), range(at, 0x1000)],
        vec![range(at, 0x1000), range(at, 0x1000)],
        vec![range(u64::MAX, u64::MAX)],
        vec![range(0, u64::MAX)],
        vec![range(LEN as u64, 1)],
    ];
    for says in wrong {
        ends(format!("{says:?}"), move || {
            let region = Plugs { region: Broken::new(Way::RIGHT), says };
            let map = GuestMemoryAtomic::new(GuestRegionCollection::from_regions(vec![region]).unwrap());
            for result in [map.plug(AT, len), map.unplug(AT, len)] {
                assert!(matches!(result, Err(MapError::Plug { .. })), "{result:?}");
            }
        });
    }
}
