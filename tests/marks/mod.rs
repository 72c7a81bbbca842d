//! Which bytes are marked as dirty while a test looks: a bit for each byte.

use std::ops::RangeInclusive;
use std::sync::Arc;

use memory_model::dirty::{DirtyBitmap, Sink, Tracker};
use memory_model::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// Looks at what is marked in some regions.
pub(crate) struct Marks(Vec<(Arc<DirtyBitmap>, u64)>);

impl Marks {
    /// In all regions of a memory, from now on.
    pub(crate) fn of(mem: &GuestMemoryMmap) -> Self {
        Self::by(mem.regions().map(|region| (region.tracker().unwrap(), region.start_addr().0, region.len())))
    }

    /// By trackers, of regions of an address and a length.
    pub(crate) fn by<'a>(trackers: impl Iterator<Item = (&'a Tracker, u64, u64)>) -> Self {
        Self(
            trackers
                .map(|(tracker, base, len)| {
                    let bitmap = Arc::new(DirtyBitmap::new(len, 1).unwrap());
                    tracker.attach(Sink::Bitmap { bitmap: Arc::clone(&bitmap), base });
                    (bitmap, base)
                })
                .collect(),
        )
    }

    /// The span from the first to the last byte marked in each region since it was asked last.
    pub(crate) fn take(&self) -> Vec<Option<RangeInclusive<u64>>> {
        let span = |(bitmap, base): &(Arc<DirtyBitmap>, u64)| {
            let harvest = bitmap.harvest();
            let first = harvest.ranges().next().map(|range| base + range.start);
            let last = harvest.ranges().last().map(|range| base + range.start + (range.len - 1));
            harvest.commit();
            Some(first?..=last?)
        };
        self.0.iter().map(span).collect()
    }
}
