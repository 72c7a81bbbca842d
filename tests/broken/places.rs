use memory_model::{
    GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryRegion, GuestRegionCollection, MemoryRegionAddress,
};

use crate::ground::{Broken, Count, LEN, START, Way, ends, use_map, use_memory};

const WRONG: &[&[u64]] = &[
    &[0],
    &[1],
    &[u64::MAX],
    &[LEN as u64, 0, 1, u64::MAX],
    &[START, START + 0x1000, START - 0x1000],
    &[LEN as u64 + 0x1000],
    &[LEN as u64 - 0x1000],
];

#[test]
fn everything_ends_over_a_region_whose_place_is_inconsistent() {
    for &wrong in WRONG {
        let ways = [
            Way { lens: wrong, ..Way::RIGHT },
            Way { starts: wrong, ..Way::RIGHT },
            Way { lasts: wrong, ..Way::RIGHT },
            Way { lens: wrong, starts: wrong, lasts: wrong, ..Way::RIGHT },
        ];
        for way in ways {
            for slices in [None, Some(Count::Right)] {
                let way = Way { slices, ..way };
                ends(format!("{way:?}"), move || {
                    use_memory(&Placed { region: Broken::new(way), place: Place::Right });
                    let Ok(mem) = GuestRegionCollection::from_regions(vec![Broken::new(way)]) else { return };
                    use_memory(&mem);
                    use_map(&mem);
                    mem.start_tracking(4096).map(drop).ok();
                    let map = GuestMemoryAtomic::new(mem);
                    map.remove_region(GuestAddress(START), LEN as u64).ok();
                });
            }
        }
    }
}

/// A sort by keys that are not the same each time can panic.
#[test]
fn regions_that_move_while_they_are_sorted_are_no_panic() {
    ends("sorted", || {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut start = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 20 << 12
        };
        for _ in 0..20 {
            let mut broken = || {
                let starts: Vec<_> = (0..61).map(|_| start()).collect();
                Broken::new(Way { starts: starts.leak(), ..Way::RIGHT })
            };
            GuestRegionCollection::from_regions((0..100).map(|_| broken()).collect()).map(drop).ok();
        }
    });
}

/// How a memory finds a region.
#[derive(Clone, Copy, Debug)]
enum Place {
    Right,
    Nowhere,
    /// The region is the answer everywhere.
    Everywhere,
    /// At an offset that is wrong by so much.
    Off(u64),
    /// Guessed at such an offset, and found in the right one.
    Guessed(u64),
}

struct Placed {
    region: Broken,
    place: Place,
}

impl Placed {
    fn offset(&self, addr: GuestAddress) -> MemoryRegionAddress {
        MemoryRegionAddress(addr.0.wrapping_sub(self.region.start_addr().0))
    }
}

impl GuestMemory for Placed {
    type Region = Broken;

    fn num_regions(&self) -> usize {
        7
    }
    fn find_region(&self, addr: GuestAddress) -> Option<&Broken> {
        match self.place {
            Place::Nowhere => None,
            Place::Everywhere => Some(&self.region),
            _ => self.region.to_region_addr(addr).map(|_| &self.region),
        }
    }
    fn regions(&self) -> impl Iterator<Item = &Broken> {
        [&self.region, &self.region].into_iter()
    }
    fn to_region_addr(&self, addr: GuestAddress) -> Option<(&Broken, MemoryRegionAddress)> {
        let region = self.find_region(addr)?;
        let off = if let Place::Off(off) = self.place { off } else { 0 };
        Some((region, MemoryRegionAddress(self.offset(addr).0.wrapping_add(off))))
    }
    fn guess_region_addr(&self, addr: GuestAddress) -> Option<(&Broken, MemoryRegionAddress)> {
        match self.place {
            Place::Guessed(off) => Some((&self.region, MemoryRegionAddress(self.offset(addr).0.wrapping_add(off)))),
            _ => self.to_region_addr(addr),
        }
    }
}

#[test]
fn everything_ends_over_a_memory_that_finds_the_wrong_place() {
    let places = [Place::Right, Place::Nowhere, Place::Everywhere];
    let offs = [1, 0x1000, LEN as u64, u64::MAX, 1 << 63].into_iter();
    let wrong = offs.flat_map(|off| [Place::Off(off), Place::Guessed(off)]);
    for place in places.into_iter().chain(wrong) {
        for slices in [None, Some(Count::Right), Some(Count::Zero), Some(Count::Longer)] {
            ends(format!("{place:?}, slices {slices:?}"), move || {
                use_memory(&Placed { region: Broken::new(Way { slices, ..Way::RIGHT }), place });
            });
        }
    }
}
