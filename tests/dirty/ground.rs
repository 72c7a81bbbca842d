//! What the tests of dirty tracking share.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memory_model::dirty::{DirtyBitmap, DirtyRange, Sink};
use memory_model::{
    GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion, guest_memory,
};
use proptest::prelude::ProptestConfig;

/// A range by its start and length.
pub(crate) fn range(start: u64, len: u64) -> DirtyRange {
    DirtyRange { start, len }
}

/// Half-open ranges of positions that may reach 2^64, sorted; those that overlap or touch are one.
pub(crate) fn joined(mut ranges: Vec<Range<u128>>) -> Vec<DirtyRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u128>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    let narrow = |position: u128| u64::try_from(position).unwrap();
    joined.into_iter().map(|joined| range(narrow(joined.start), narrow(joined.end - joined.start))).collect()
}

/// As many cases as the environment says, or these.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { cases }, failure_persistence: None, ..default }
}

/// Whether the processor is emulated, which takes its time.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("CROSS_RUNNER").is_some()
}

/// How often something is done that is a matter of luck: up to so many times, and as long as there is time for it.
pub(crate) fn rounds(most: u64) -> impl Iterator<Item = u64> {
    let end = Instant::now() + Duration::from_secs(1);
    (0..most).take_while(move |_| Instant::now() < end)
}

/// A memory of these regions.
pub(crate) fn memory(spans: &[(u64, usize)]) -> GuestMemoryMmap {
    let region = |&(start, len)| GuestRegionMmap::new(MmapRegion::new(len).unwrap(), GuestAddress(start)).unwrap();
    GuestMemoryMmap::from_regions(spans.iter().map(region).collect()).unwrap()
}

/// How many bytes were done before an error.
pub(crate) fn completed<T>(result: Result<T, guest_memory::Error>) -> usize {
    use guest_memory::Error;
    match result {
        Err(Error::PartialBuffer { completed, .. } | Error::Fault { completed, .. }) => completed,
        Err(Error::InvalidGuestAddress(_) | Error::OutOfBounds { .. } | Error::NoHostMemory(_)) => 0,
        Err(error) => panic!("not an error of what is missing: {error}"),
        Ok(_) => panic!("there is enough memory"),
    }
}

/// A bitmap with a bit for each byte of memory, attached to all of its regions.
pub(crate) struct Bits<'a, M: GuestMemory> {
    mem: &'a M,
    base: u64,
    bitmap: Arc<DirtyBitmap>,
}

impl<'a, M: GuestMemory> Bits<'a, M> {
    /// Of a memory whose regions begin at `base`.
    pub(crate) fn new(mem: &'a M, base: u64) -> Self {
        let len = mem.last_addr().unwrap().0 - base + 1;
        let bits = Self { mem, base, bitmap: Arc::new(DirtyBitmap::new(len, 1).unwrap()) };
        mem.regions().filter_map(GuestMemoryRegion::tracker).for_each(|tracker| tracker.attach(bits.sink()));
        bits
    }

    fn sink(&self) -> Sink {
        Sink::Bitmap { bitmap: Arc::clone(&self.bitmap), base: self.base }
    }

    /// The bytes that were marked since this was asked before, by address.
    pub(crate) fn take(&self) -> Vec<(u64, u64)> {
        let harvest = self.bitmap.harvest();
        let ranges = harvest.ranges().map(|range| (range.start + self.base, range.len)).collect();
        harvest.commit();
        ranges
    }
}

impl<M: GuestMemory> Drop for Bits<'_, M> {
    fn drop(&mut self) {
        self.mem.regions().filter_map(GuestMemoryRegion::tracker).for_each(|tracker| tracker.detach(&self.sink()));
    }
}
