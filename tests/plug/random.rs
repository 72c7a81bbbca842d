//! Random calls against a plain model: a byte or nothing for each page.

use memory_model::guest_memory::{Error, RegionRange};
use memory_model::mmap::{self, MmapRegionBuilder, Protection};
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion};
use proptest::prelude::*;

use crate::ground::{has_kernel, offset, page, pages, part, recovers};
use crate::marks::Marks;

const COUNT: usize = 16;
const START: u64 = 0x5000_0000;

#[derive(Clone, Copy, Debug)]
enum Op {
    Plug(usize, usize),
    Unplug(usize, usize),
    Write(usize, usize, u8),
    Discard(usize, usize),
    Protect(Protection),
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..COUNT, 0..COUNT).prop_map(|(start, len)| (start, len.min(COUNT - start)));
    prop_oneof![
        2 => range().prop_map(|(start, len)| Op::Plug(start, len)),
        2 => range().prop_map(|(start, len)| Op::Unplug(start, len)),
        2 => (range(), any::<u8>()).prop_map(|((start, len), byte)| Op::Write(start, len, byte)),
        1 => range().prop_map(|(start, len)| Op::Discard(start, len)),
        1 => prop_oneof![1 => Just(Protection::ReadOnly), 2 => Just(Protection::ReadWrite)].prop_map(Op::Protect),
    ]
}

struct Model {
    pages: [Option<u8>; COUNT],
    read_only: bool,
    /// Pages marked since it was last asked.
    marked: [bool; COUNT],
}

impl Model {
    /// Runs of pages that are plugged, or not.
    fn runs(&self, plugged: bool) -> Vec<RegionRange> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for at in (0..COUNT).filter(|&at| self.pages[at].is_some() == plugged) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs.into_iter().map(part).collect()
    }

    /// Does it, and checks the answer of the region.
    fn run(&mut self, op: Op, region: &GuestRegionMmap) {
        match op {
            Op::Plug(start, len) => {
                region.plug(offset(start), pages(len)).unwrap();
                for at in start..start + len {
                    self.marked[at] |= self.pages[at].is_none();
                    self.pages[at] = self.pages[at].or(Some(0));
                }
            }
            Op::Unplug(start, len) => {
                let answer = region.unplug(offset(start), pages(len));
                if self.read_only && len > 0 {
                    assert!(matches!(answer, Err(mmap::Error::ReadOnly)));
                } else {
                    answer.unwrap();
                    self.pages[start..start + len].fill(None);
                }
            }
            Op::Write(start, len, byte) => {
                let written = region.fill(byte, len * page(), offset(start));
                let first_bad = (start..start + len).find(|&at| self.read_only || self.pages[at].is_none());
                match (written, first_bad) {
                    (Ok(()), None) => {}
                    (Err(Error::Fault { addr, completed }), Some(bad)) if !self.read_only => {
                        assert_eq!((addr.0, completed as u64), (START + pages(bad), pages(bad - start)));
                    }
                    (Err(Error::ReadOnly { .. }), Some(_)) if self.read_only => {}
                    other => panic!("{other:?}"),
                }
                let end = first_bad.unwrap_or(start + len);
                self.pages[start..end].fill(Some(byte));
                self.marked[start..end].fill(true);
            }
            Op::Discard(start, len) => {
                let answer = region.discard(offset(start), pages(len));
                if self.read_only && len > 0 {
                    assert!(matches!(answer, Err(mmap::Error::ReadOnly)));
                    return;
                }
                let plugged: Vec<_> = (start..start + len).filter(|&at| self.pages[at].is_some()).collect();
                assert_eq!(answer.unwrap(), pages(plugged.len()));
                for at in plugged {
                    self.pages[at] = Some(0);
                    self.marked[at] = true;
                }
            }
            Op::Protect(protection) => {
                region.protect(protection).unwrap();
                self.read_only = protection == Protection::ReadOnly;
            }
        }
    }

    fn check(&mut self, region: &GuestRegionMmap, marks: &Marks) {
        assert_eq!(region.unplugged_ranges(), self.runs(false));
        assert_eq!(region.plugged_ranges(), self.runs(true));
        let marked = std::mem::take(&mut self.marked);
        let first = marked.iter().position(|&marked| marked);
        let last = marked.iter().rposition(|&marked| marked);
        let span = first.zip(last).map(|(first, last)| START + pages(first)..=START + pages(last + 1) - 1);
        assert_eq!(marks.take(), [span]);
        let mut bytes = vec![0; page()];
        for (at, wanted) in self.pages.into_iter().enumerate() {
            assert_eq!(region.is_plugged(offset(at), pages(1)), wanted.is_some());
            match (region.read_slice(&mut bytes, offset(at)), wanted) {
                (Ok(()), Some(wanted)) => assert!(bytes.iter().all(|&byte| byte == wanted), "page {at}"),
                (Err(Error::Fault { addr, completed: 0 }), None) => assert_eq!(addr.0, START + pages(at)),
                other => panic!("page {at}: {other:?}"),
            }
        }
    }
}

const KINDS: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
    |mapping| mapping,
    |mapping| mapping.memfd("plug: random"),
    MmapRegionBuilder::shared,
    |mapping| mapping.memfd("plug: random").private(),
];

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig { cases: if asked { default.cases } else { 64 }, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn as_the_model(kind in 0..KINDS.len(), ops in prop::collection::vec(op(), 1..24)) {
        if !recovers() || !has_kernel() {
            return Ok(());
        }
        let mapping = KINDS[kind](MmapRegion::builder(COUNT * page())).build().unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
        let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let (region, marks) = (&mem.arc_regions()[0], Marks::of(&mem));
        assert_eq!(region.len(), pages(COUNT));
        let mut model = Model { pages: [Some(0); COUNT], read_only: false, marked: [false; COUNT] };
        for op in ops {
            model.run(op, region);
            model.check(region, &marks);
        }
    }
}
