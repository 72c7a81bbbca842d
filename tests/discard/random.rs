//! Random discards against a plain model of bytes.

use memory_model::mmap::{MmapRegion, MmapRegionBuilder};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};
use proptest::prelude::*;

use super::{has_kernel, page};

/// Adjacent regions of different kinds, a hole, and one more; pages from the start.
type Place = (u64, usize, fn(MmapRegionBuilder) -> MmapRegionBuilder);
const REGIONS: [Place; 4] = [
    (0, 5, |mapping| mapping),
    (5, 3, |mapping| mapping.memfd("random")),
    (8, 4, MmapRegionBuilder::shared),
    (20, 6, |mapping| mapping.memfd("random").private()),
];
/// Pages of all, the hole included.
const PAGES: u64 = 26;

#[derive(Clone, Debug)]
enum Op {
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
        (bytes(), bytes()).prop_map(|(addr, len)| Op::Discard(addr, len)),
        prop::collection::vec((bytes(), bytes().prop_map(|len| len / 8)), 0..6).prop_map(Op::Ranges),
        prop::collection::vec(0..PAGES, 0..12).prop_map(Op::Pages),
        (0..REGIONS.len(), bytes(), bytes()).prop_map(|(region, at, len)| Op::Region(region, at, len / 4)),
    ]
}

/// Which bytes are memory, and their values.
struct Model(Vec<Option<u8>>);

impl Model {
    fn new() -> Self {
        let mut bytes = vec![None; usize::try_from(PAGES).unwrap() * page()];
        for (start, pages, _) in REGIONS {
            let start = usize::try_from(start).unwrap() * page();
            bytes[start..start + pages * page()].fill(Some(7));
        }
        Self(bytes)
    }

    /// Gives back the whole pages among sorted, merged ranges; `None` if any byte of one is not memory.
    fn discard(&mut self, ranges: &[(u64, u64)]) -> Option<u64> {
        let mut named = vec![false; self.0.len()];
        for &(addr, len) in ranges {
            for at in addr..addr + len {
                let at = usize::try_from(at).unwrap();
                self.0.get(at).copied().flatten()?;
                named[at] = true;
            }
        }
        let mut given_back = 0;
        for (bytes, named) in self.0.chunks_mut(page()).zip(named.chunks(page())) {
            if named.iter().all(|&named| named) {
                bytes.fill(Some(0));
                given_back += bytes.len() as u64;
            }
        }
        Some(given_back)
    }
}

fn memory() -> GuestMemoryMmap {
    let regions = REGIONS.map(|(start, pages, describe)| {
        let mapping = describe(MmapRegion::builder(pages * page())).build().unwrap();
        GuestRegionMmap::new(mapping, GuestAddress(start * page() as u64)).unwrap()
    });
    let mem = GuestMemoryMmap::from_regions(Vec::from(regions)).unwrap();
    for region in mem.regions() {
        region.fill(7, usize::try_from(region.len()).unwrap(), MemoryRegionAddress(0)).unwrap();
    }
    mem
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn as_the_model(ops in prop::collection::vec(op(), 1..8)) {
        if !has_kernel() {
            return Ok(());
        }
        let (mem, mut model) = (memory(), Model::new());
        for op in ops {
            let page_size = page() as u64;
            let at = |(addr, len)| (GuestAddress(addr), len);
            let (given_back, expected) = match op.clone() {
                Op::Discard(addr, len) => (mem.discard(GuestAddress(addr), len), model.discard(&[(addr, len)])),
                Op::Ranges(ranges) => {
                    (mem.discard_ranges(ranges.iter().copied().map(at)), model.discard(&ranges))
                }
                Op::Pages(pages) => {
                    let ranges: Vec<_> = pages.iter().map(|page| (page * page_size, page_size)).collect();
                    (mem.discard_pages(pages, page_size), model.discard(&ranges))
                }
                Op::Region(number, offset, len) => {
                    let (start, pages, _) = REGIONS[number];
                    let inside = offset <= pages as u64 * page_size && len <= pages as u64 * page_size - offset;
                    let expected = inside.then(|| model.discard(&[(start * page_size + offset, len)]));
                    let region = mem.find_region(GuestAddress(start * page_size)).unwrap();
                    (region.discard(MemoryRegionAddress(offset), len), expected.flatten())
                }
            };
            prop_assert_eq!(given_back.ok(), expected, "{:x?}", op);
            for region in mem.regions() {
                let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
                region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
                let start = usize::try_from(region.start_addr().0).unwrap();
                let expected = model.0[start..start + bytes.len()].iter().copied();
                prop_assert!(bytes.into_iter().map(Some).eq(expected), "{:x?}: {:?}", op, region);
            }
        }
    }
}
