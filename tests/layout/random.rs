//! Random layouts: what must hold for each, and that those which are refused are so with reason.

use memory_model::GuestAddress;
use memory_model::layout::{Entry, GuestLayout, LayoutError, Platform, Zone};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::map::assert_covers;
use crate::picture::assert_picture;

const PAGE: u64 = 0x1000;
/// How many bits an address has.
const BITS: u32 = 20;
/// How many pages there are then.
const PAGES: usize = 1 << (BITS - 12);

#[derive(Clone, Debug)]
struct Case {
    zones: Vec<Wanted>,
    holes: Vec<(u64, u64)>,
    reservations: Vec<(u64, u64)>,
    allocations: Vec<(u64, u32)>,
    base: u64,
}

#[derive(Clone, Debug)]
struct Wanted {
    /// The alignment, in pages.
    align: usize,
    /// The size, in units of the alignment.
    units: usize,
    /// The place, if it is fixed, in units of the alignment.
    at: Option<usize>,
}

impl Wanted {
    /// The first address and the length, of a zone that has a fixed place.
    fn fixed(&self) -> Option<(u64, u64)> {
        let unit = self.align as u64 * PAGE;
        Some((self.at? as u64 * unit, self.units as u64 * unit))
    }
}

fn case() -> impl Strategy<Value = Case> {
    let zone = (1..12_usize, 0..4_u32, option::weighted(0.2, 0..PAGES)).prop_map(|(units, bits, page)| {
        let align = 1 << bits;
        Wanted { align, units, at: page.map(|page| page / align) }
    });
    // Edges anywhere: no hole needs to be aligned to pages.
    let range = || (0..1_u64 << BITS, 1..20 * PAGE);
    let allocation = (1..10 * PAGE, 0..14_u32);
    (vec(zone, 1..6), vec(range(), 0..4), vec(range(), 0..4), vec(allocation, 0..6), 0..1_u64 << (BITS - 2)).prop_map(
        |(zones, holes, reservations, allocations, base)| Case { zones, holes, reservations, allocations, base },
    )
}

fn build(case: &Case) -> Result<GuestLayout, LayoutError> {
    let mut builder = GuestLayout::builder(Platform::Bare).address_bits(BITS).base(GuestAddress(case.base));
    for (wanted, node) in case.zones.iter().zip(0..) {
        let unit = wanted.align as u64 * PAGE;
        let zone = Zone::new(format!("zone{node}"), wanted.units as u64 * unit).alignment(unit).node(node);
        builder = builder.zone(wanted.fixed().map_or(zone.clone(), |(start, _)| zone.at(GuestAddress(start))));
    }
    for (number, &(start, len)) in case.holes.iter().enumerate() {
        builder = builder.hole(format!("hole{number}"), GuestAddress(start), len);
    }
    for (number, &(start, len)) in case.reservations.iter().enumerate() {
        builder = builder.reserve(format!("reserved{number}"), GuestAddress(start), len);
    }
    builder.build()
}

/// Whether two of these overlap, or one goes past the last address. Each is a first address and a length.
fn is_unfit(ranges: &[(u64, u64)]) -> bool {
    let meets =
        |&(start, len): &(u64, u64), &(other, other_len): &(u64, u64)| start < other + other_len && other < start + len;
    let pairs = ranges.iter().enumerate().flat_map(|(n, one)| ranges[n + 1..].iter().map(move |other| (one, other)));
    ranges.iter().any(|(start, len)| start + len > 1 << BITS) || pairs.into_iter().any(|(one, other)| meets(one, other))
}

/// Lays zones unit by unit: which zone each page is in; `None` if there is no room.
fn lay_naively(case: &Case) -> Option<Vec<Option<usize>>> {
    let mut map = vec![None; PAGES];
    let is_blocked = |page: usize| {
        let (first, last) = (page as u64 * PAGE, page as u64 * PAGE + (PAGE - 1));
        first < case.base || case.holes.iter().any(|&(start, len)| start <= last && first < start + len)
    };
    let mut blocked: Vec<bool> = (0..PAGES).map(is_blocked).collect();
    let zones = || case.zones.iter().enumerate();
    for (number, zone) in zones() {
        if let Some(at) = zone.at {
            let pages = at * zone.align..(at + zone.units) * zone.align;
            map[pages.clone()].fill(Some(number));
            blocked[pages].fill(true);
        }
    }
    let mut next = 0_usize;
    for (number, zone) in zones().filter(|(_, zone)| zone.at.is_none()) {
        let mut missing = zone.units;
        while missing > 0 {
            let start = next.next_multiple_of(zone.align);
            let unit = start..start + zone.align;
            if blocked.get(unit.clone())?.contains(&true) {
                next = start + 1;
            } else {
                next = unit.end;
                map[unit].fill(Some(number));
                missing -= 1;
            }
        }
    }
    Some(map)
}

fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 1000 }, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn memory_is_where_a_page_by_page_search_puts_it(case in case()) {
        let fixed: Vec<_> = case.zones.iter().filter_map(Wanted::fixed).collect();
        let layout = match build(&case) {
            Ok(layout) => layout,
            Err(LayoutError::Overlap { .. } | LayoutError::PastEnd { .. }) => {
                prop_assert!([&case.holes, &case.reservations, &fixed].into_iter().any(|ranges| is_unfit(ranges)));
                return Ok(());
            }
            Err(LayoutError::NoRoom { .. }) => {
                prop_assert_eq!(lay_naively(&case), None);
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        for range in layout.ranges() {
            let alignment = layout.zones()[range.zone].alignment;
            prop_assert_eq!((range.start.0 % alignment, range.len % alignment), (0, 0));
        }
        let zone_at = |page: usize| {
            let addr = GuestAddress(page as u64 * PAGE);
            layout.ranges().iter().find(|range| range.start <= addr && addr <= range.last()).map(|range| range.zone)
        };
        prop_assert_eq!(Some((0..PAGES).map(zone_at).collect()), lay_naively(&case));
        prop_assert!(layout.ranges().windows(2).all(|pair| pair[0].last() < pair[1].start));
        for (number, zone) in layout.zones().iter().enumerate() {
            let ranges: Vec<_> = layout.zone_ranges(&zone.name).collect();
            prop_assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), zone.len);
            prop_assert!(ranges.iter().all(|range| range.zone == number && range.node == zone.node));
        }
    }

    #[test]
    fn maps_have_each_address_once_and_nothing_is_allocated_over_anything(case in case()) {
        let Ok(mut layout) = build(&case) else { return Ok(()) };
        assert_covers(&layout);
        let before = layout.clone();
        let mut allocated = Vec::new();
        for (number, &(len, align_bits)) in case.allocations.iter().enumerate() {
            if let Ok(addr) = layout.allocate(format!("bar{number}"), len, 1 << align_bits, ..) {
                let name = format!("bar{number}");
                let meets = |entry: &Entry<'_>| entry.start.0 < addr.0 + len && addr <= entry.last;
                let there: Vec<_> = layout.entries().filter(meets).collect();
                prop_assert!(there.len() == 1 && there[0].name == name && there[0].len == len, "{:?}", there);
                prop_assert_eq!(addr.0 % (1 << align_bits), 0);
                allocated.push(addr);
            }
        }
        assert_covers(&layout);
        assert_picture(&layout);
        for addr in allocated {
            prop_assert!(layout.free(addr).is_ok());
        }
        prop_assert_eq!(layout, before);
    }
}
