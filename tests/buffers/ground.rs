//! A guest whose bytes are known, some pages of which may be bad.

use std::sync::Arc;

use memory_model::buffers::GuestBuffers;
use memory_model::dirty::{DirtyBitmap, Sink};
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, IoAddress,
    MemoryRegionAddress, MmapRegion,
};
use proptest::prelude::ProptestConfig;

use crate::raw::memfd;

/// The guest address of a guest's first byte.
pub(crate) const BASE: u64 = 0x7_4000_0000;

pub(crate) fn page() -> usize {
    rustix::param::page_size()
}

/// Whether a page that cannot be accessed is an error here, and not the end of the process; says so if not. Nor is it to
/// qemu's emulation of system calls: that drops a whole iovec with a bad page, or cuts a message there.
pub(crate) fn recovers() -> bool {
    let does = cfg!(all(
        feature = "fault-recovery",
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )) && std::env::var_os("CROSS_RUNNER").is_none();
    if !does {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
    does
}

/// As many cases as the environment says, or these.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { cases }, failure_persistence: None, ..default }
}

/// How pages go bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// One page is unplugged.
    Unplugged(usize),
    /// The file ends before this page.
    Truncated(usize),
}

/// A region, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The hole before it.
    pub(crate) gap: usize,
    pub(crate) pages: usize,
    pub(crate) bad: Option<Bad>,
}

impl Plan {
    pub(crate) fn good(gap: usize, pages: usize) -> Self {
        Self { gap, pages, bad: None }
    }
}

/// The byte that memory holds at first at a position: from 1 to 127.
pub(crate) fn pattern(position: usize) -> u8 {
    u8::try_from(position % 127 + 1).unwrap()
}

/// The bytes that are written: from 128 to 254.
pub(crate) fn data(len: usize) -> Vec<u8> {
    (128..=254).cycle().take(len).collect()
}

pub(crate) struct Guest {
    pub(crate) mem: GuestMemoryMmap,
    /// What each byte is, or was when it went bad, from [`BASE`] on; 0 in holes.
    pub(crate) bytes: Vec<u8>,
    /// Whether each page can be accessed; `None` in holes.
    pub(crate) pages: Vec<Option<bool>>,
}

impl Guest {
    pub(crate) fn new(plans: &[Plan]) -> Self {
        let mut pages = Vec::new();
        let regions = plans.iter().map(|plan| {
            pages.resize(pages.len() + plan.gap, None);
            let start = pages.len() * page();
            let len = plan.pages * page();
            let file = matches!(plan.bad, Some(Bad::Truncated(_))).then(|| memfd(len));
            let mapping = match &file {
                Some(file) => MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), len),
                None => MmapRegion::new(len),
            };
            let region = GuestRegionMmap::new(mapping.unwrap(), at(start)).unwrap();
            let pattern: Vec<_> = (start..start + len).map(pattern).collect();
            region.write_slice(&pattern, MemoryRegionAddress(0)).unwrap();
            let is_bad = |number| match plan.bad {
                None => false,
                Some(Bad::Unplugged(bad)) => number == bad,
                Some(Bad::Truncated(bad)) => number >= bad,
            };
            pages.extend((0..plan.pages).map(|number| Some(!is_bad(number))));
            match (plan.bad, file) {
                (Some(Bad::Unplugged(bad)), _) => {
                    region.unplug(MemoryRegionAddress((bad * page()) as u64), page() as u64).unwrap();
                }
                (Some(Bad::Truncated(bad)), Some(file)) => file.set_len((bad * page()) as u64).unwrap(),
                _ => {}
            }
            region
        });
        let mem = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        let byte = |position: usize| if pages[position / page()].is_some() { pattern(position) } else { 0 };
        let bytes = (0..pages.len() * page()).map(byte).collect();
        Self { mem, bytes, pages }
    }

    /// Regions of so many pages that touch.
    pub(crate) fn of(pages: &[usize]) -> Self {
        Self::new(&pages.iter().map(|&pages| Plan::good(0, pages)).collect::<Vec<_>>())
    }

    pub(crate) fn is_good(&self, position: usize) -> bool {
        self.pages[position / page()] == Some(true)
    }

    /// Checks that all that can be accessed is as it should be.
    #[track_caller]
    pub(crate) fn check(&self) {
        for number in (0..self.pages.len()).filter(|&number| self.pages[number] == Some(true)) {
            let mut found = vec![0; page()];
            let start = number * page();
            self.mem.read_slice(&mut found, at(start)).unwrap();
            let expected = &self.bytes[start..start + page()];
            if let Some(wrong) = (0..page()).find(|&byte| found[byte] != expected[byte]) {
                let (found, expected) = (found[wrong], expected[wrong]);
                panic!("page {number} has {found:#x} at {wrong:#x}, and should have {expected:#x}");
            }
        }
    }

    /// Buffers of positions and lengths.
    pub(crate) fn buffers(&self, ranges: &[(usize, usize)], access: Access) -> GuestBuffers<'_> {
        GuestBuffers::new(&self.mem, ranges.iter().map(|&(position, len)| (io(position), len)), access).unwrap()
    }
}

/// The ranges without the bytes that an earlier range has: several destinations of one byte have no defined result.
pub(crate) fn disjoint(ranges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut kept: Vec<(usize, usize)> = Vec::new();
    for &(start, len) in ranges {
        // From byte to byte that no range has, up to the next that one has.
        let mut at = start;
        while at < start + len {
            let taken = kept.iter().find(|&&(from, count)| (from..from + count).contains(&at));
            let next = taken.map_or_else(
                || {
                    let next = kept.iter().map(|&(from, _)| from).filter(|&from| from > at).min();
                    next.unwrap_or(usize::MAX).min(start + len)
                },
                |&(from, count)| from + count,
            );
            if taken.is_none() {
                kept.push((at, next - at));
            }
            at = next;
        }
    }
    kept
}

/// A guest's address of a position.
pub(crate) fn at(position: usize) -> GuestAddress {
    GuestAddress(BASE + position as u64)
}

/// The same for a device.
pub(crate) fn io(position: usize) -> IoAddress {
    IoAddress(at(position).0)
}

/// A bitmap with a bit for each byte of a guest.
pub(crate) struct Marks {
    mem: GuestMemoryMmap,
    bitmap: Arc<DirtyBitmap>,
}

impl Marks {
    pub(crate) fn of(mem: &GuestMemoryMmap) -> Self {
        let len = mem.last_addr().unwrap().0 - BASE + 1;
        let marks = Self { mem: mem.clone(), bitmap: Arc::new(DirtyBitmap::new(len, 1).unwrap()) };
        mem.regions().filter_map(GuestMemoryRegion::tracker).for_each(|tracker| tracker.attach(marks.sink()));
        marks
    }

    fn sink(&self) -> Sink {
        Sink::Bitmap { bitmap: Arc::clone(&self.bitmap), base: BASE }
    }

    /// The bytes that were marked since this was asked before, as positions and lengths.
    pub(crate) fn take(&self) -> Vec<(usize, usize)> {
        let harvest = self.bitmap.harvest();
        let narrow = |number: u64| usize::try_from(number).unwrap();
        let ranges = harvest.ranges().map(|range| (narrow(range.start), narrow(range.len))).collect();
        harvest.commit();
        ranges
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.mem.regions().filter_map(GuestMemoryRegion::tracker).for_each(|tracker| tracker.detach(&self.sink()));
    }
}
