//! Random calls against a plain model of bytes.

use std::ops::RangeInclusive;

use memory_model::mmap::{Lock, MmapRegion, MmapRegionBuilder};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};
use proptest::prelude::*;

use super::marks::Marks;
use super::{has_kernel, page};

/// Adjacent regions of different kinds, a hole, and one more; pages from the start.
type Place = (u64, usize, fn(MmapRegionBuilder) -> MmapRegionBuilder);
const REGIONS: [Place; 5] = [
    (0, 5, |mapping| mapping),
    (5, 3, |mapping| mapping.memfd("random")),
    (8, 1, |mapping| mapping.memfd("random").lock(Lock::OnFault)),
    (9, 3, MmapRegionBuilder::shared),
    (16, 4, |mapping| mapping.memfd("random").private()),
];
/// Pages of all, the hole included.
const PAGES: u64 = 20;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, usize, u8),
    Discard(u64, u64),
    Ranges(Vec<(u64, u64)>),
    Pages(Vec<u64>),
    Region(usize, u64, u64),
}

/// An address or a length, often at a page's edge.
fn bytes() -> impl Strategy<Value = u64> {
    let page = page() as u64;
    (0..PAGES, prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(page - 1), 1 => 0..page])
        .prop_map(move |(pages, more)| pages * page + more)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (bytes(), 1..4 * page(), any::<u8>()).prop_map(|(addr, len, value)| Op::Write(addr, len, value)),
        (bytes(), bytes()).prop_map(|(addr, len)| Op::Discard(addr, len / 2)),
        prop::collection::vec((bytes(), bytes().prop_map(|len| len / 8)), 0..6).prop_map(Op::Ranges),
        prop::collection::vec(0..PAGES, 0..12).prop_map(Op::Pages),
        (0..REGIONS.len(), bytes(), bytes()).prop_map(|(region, at, len)| Op::Region(region, at / 4, len / 4)),
    ]
}

/// All bytes; those in the hole are not memory.
struct Model(Vec<u8>);

/// What a call gives back: so many bytes, and of each region from the first to the last.
type GivenBack = (u64, [Option<RangeInclusive<u64>>; REGIONS.len()]);

impl Model {
    fn new() -> Self {
        Self(vec![0; usize::try_from(PAGES).unwrap() * page()])
    }

    /// The region of a page.
    fn region(number: usize) -> Option<usize> {
        REGIONS.iter().position(|&(start, pages, _)| (start..start + pages as u64).contains(&(number as u64)))
    }

    /// Gives back the whole pages among ranges; `None` if any byte of one is not memory.
    fn discard(&mut self, ranges: &[(u64, u64)]) -> Option<GivenBack> {
        let mut named = vec![false; self.0.len()];
        for &(addr, len) in ranges.iter().filter(|&&(_, len)| len > 0) {
            let addr = usize::try_from(addr).unwrap();
            let bytes = addr..addr + usize::try_from(len).unwrap();
            if bytes.clone().step_by(page()).chain(bytes.clone().last()).any(|at| Self::region(at / page()).is_none()) {
                return None;
            }
            named[bytes].fill(true);
        }
        let mut given_back: GivenBack = (0, Default::default());
        for (number, (bytes, named)) in self.0.chunks_mut(page()).zip(named.chunks(page())).enumerate() {
            if named.iter().all(|&named| named) {
                bytes.fill(0);
                given_back.0 += bytes.len() as u64;
                let start = (number * page()) as u64;
                let span = &mut given_back.1[Self::region(number).unwrap()];
                *span = Some(*span.as_ref().map_or(&start, |span| span.start())..=start + page() as u64 - 1);
            }
        }
        Some(given_back)
    }

    /// Writes what is memory of `len` bytes, up to the first that is not.
    fn write(&mut self, addr: u64, len: usize, value: u8) {
        let start = usize::try_from(addr).unwrap();
        for at in start..start + len {
            if Self::region(at / page()).is_none() {
                return;
            }
            self.0[at] = value;
        }
    }
}

fn memory() -> GuestMemoryMmap {
    let regions = REGIONS.map(|(start, pages, describe)| {
        // What may not be locked is not.
        let described = |lock| describe(MmapRegion::builder(pages * page())).lock(lock).build();
        let mapping = describe(MmapRegion::builder(pages * page())).build().or_else(|_| described(Lock::None)).unwrap();
        GuestRegionMmap::new(mapping, GuestAddress(start * page() as u64)).unwrap()
    });
    GuestMemoryMmap::from_regions(Vec::from(regions)).unwrap()
}

/// Does it to memory and to the model, and answers what each has given back; `None` for an error.
fn run(op: &Op, mem: &GuestMemoryMmap, model: &mut Model) -> (Option<u64>, Option<GivenBack>) {
    let page_size = page() as u64;
    match *op {
        Op::Write(addr, len, value) => {
            let written = mem.fill(value, len, GuestAddress(addr));
            model.write(addr, len, value);
            (written.ok().map(|()| 0), mem.check_range(GuestAddress(addr), len).then(|| (0, Default::default())))
        }
        Op::Discard(addr, len) => (mem.discard(GuestAddress(addr), len).ok(), model.discard(&[(addr, len)])),
        Op::Ranges(ref ranges) => {
            let at = ranges.iter().map(|&(addr, len)| (GuestAddress(addr), len));
            (mem.discard_ranges(at).ok(), model.discard(ranges))
        }
        Op::Pages(ref pages) => {
            let ranges: Vec<_> = pages.iter().map(|page| (page * page_size, page_size)).collect();
            (mem.discard_pages(pages.iter().copied(), page_size).ok(), model.discard(&ranges))
        }
        Op::Region(number, offset, len) => {
            let (start, pages, _) = REGIONS[number];
            let size = pages as u64 * page_size;
            let inside = len == 0 || offset <= size && len <= size - offset;
            let expected = inside.then(|| model.discard(&[(start * page_size + offset, len)]));
            let region = mem.find_region(GuestAddress(start * page_size)).unwrap();
            (region.discard(MemoryRegionAddress(offset), len).ok(), expected.flatten())
        }
    }
}

/// As many cases as take about a second, unless the environment asks for another number.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig { cases: if asked { default.cases } else { 128 }, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn as_the_model(ops in prop::collection::vec(op(), 1..8)) {
        if !has_kernel() {
            return Ok(());
        }
        let (mem, mut model) = (memory(), Model::new());
        model.0.fill(7);
        for region in mem.regions() {
            region.fill(7, usize::try_from(region.len()).unwrap(), MemoryRegionAddress(0)).unwrap();
        }
        let marks = Marks::of(&mem);
        for op in ops {
            marks.take();
            let (given_back, expected) = run(&op, &mem, &mut model);
            prop_assert_eq!(given_back, expected.as_ref().map(|expected| expected.0), "{:x?}", op);
            if !matches!(op, Op::Write(..)) {
                prop_assert_eq!(marks.take(), expected.unwrap_or_default().1, "{:x?}", op);
            }
            for region in mem.regions() {
                let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
                region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
                let start = usize::try_from(region.start_addr().0).unwrap();
                prop_assert!(bytes == model.0[start..start + bytes.len()], "{:x?}: {:?}", op, region);
            }
        }
    }
}
