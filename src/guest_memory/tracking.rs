use alloc::sync::Arc;
use alloc::vec::Vec;
use std::fmt;
use std::ops::RangeInclusive;
use std::ptr;

use super::{GuestMemory, GuestMemoryRegion, GuestRegionCollection, MemoryRegionAddress};
use crate::dirty::{self, DirtyBitmap, DirtyRange, Harvest, LogBitmap, Sink, Tracker};
use crate::{GuestAddress, GuestUsize};

/// What trackers tell apart, in bytes.
const SMALLEST_PAGE: GuestUsize = 4096;

/// Which pages of a memory were written since tracking began: from [`GuestRegionCollection::start_tracking`].
///
/// Any number of them may be at work at once, a snapshot's and a migration's, each with pages of its own size and harvests
/// of its own. When it is dropped, its tracking ends.
pub struct DirtyLog<R: GuestMemoryRegion> {
    page_size: GuestUsize,
    /// By ascending address.
    regions: Vec<Tracked<R>>,
}

struct Tracked<R> {
    region: Arc<R>,
    /// The region's first address.
    start: GuestAddress,
    /// What the tracker has given away for others' harvests, what was put back, and what was merged.
    bitmap: Arc<DirtyBitmap>,
}

impl<R: GuestMemoryRegion> Tracked<R> {
    fn new(region: &Arc<R>) -> Result<Self, dirty::Error> {
        let bitmap = Arc::new(DirtyBitmap::new(region.len(), SMALLEST_PAGE)?);
        Ok(Self { region: Arc::clone(region), start: region.start_addr(), bitmap })
    }
}

/// Returns the tracker of a region; `None` if the region declares itself untracked.
fn tracker_of<R: GuestMemoryRegion>(region: &R) -> Result<Option<&Tracker>, dirty::Error> {
    let ends = (region.start_addr().0, region.last_addr().0);
    let Some(tracker) = region.tracker() else {
        return if region.is_untracked() { Ok(None) } else { Err(dirty::Error::NoTracker { region: ends }) };
    };
    // Without host memory there are no slices, and the region's own methods mark.
    match region.get_slice(MemoryRegionAddress(0), 1) {
        // A tracker counts from its base: a region that shows a part of another one's memory cannot use that one's.
        Ok(slice)
            if !slice.tracker().is_some_and(|other| ptr::eq(tracker, other)) || slice.addr().0 != tracker.base() =>
        {
            Err(dirty::Error::OtherTracker { region: ends })
        }
        _ => Ok(Some(tracker)),
    }
}

impl<R: GuestMemoryRegion> GuestRegionCollection<R> {
    /// Marks from now on the pages that are written, of `page_size` bytes, a power of two of at least 4096, counted from each
    /// region's start: in all regions but those that are [untracked](GuestMemoryRegion::is_untracked). Through this memory, and
    /// through all other users of its regions: clones, slices that were made before.
    ///
    /// When it returns, every write is marked whose data was not there before.
    ///
    /// ```
    /// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, dirty::DirtyRange};
    ///
    /// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(1 << 20), 1 << 20)])?;
    /// let log = mem.start_tracking(4096)?;
    /// mem.write_obj(1_u64, GuestAddress((1 << 20) - 4))?; // in both
    /// let harvest = log.harvest();
    /// assert_eq!(harvest.ranges().collect::<Vec<_>>(), [DirtyRange { start: 0xf_f000, len: 0x2000 }]);
    /// harvest.commit(); // once they are sent; dropped, they are dirty again
    /// assert!(log.harvest().is_empty());
    /// log.stop_tracking();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`dirty::Error`]: nothing is tracked then. [`NoTracker`](dirty::Error::NoTracker) names a region that has no tracker and
    /// does not say that it needs none; [`OtherTracker`](dirty::Error::OtherTracker) one whose slices mark elsewhere, or
    /// whose tracker has another base or length.
    pub fn start_tracking(&self, page_size: GuestUsize) -> Result<DirtyLog<R>, dirty::Error> {
        DirtyLog::new(self.arc_regions(), page_size)
    }

    /// Marks writes also in a bitmap that another process harvests, by guest address, in the regions that
    /// [`start_tracking`](Self::start_tracking) tracks: see [`Tracker::attach`].
    ///
    /// # Errors
    ///
    /// As for [`start_tracking`](Self::start_tracking), of a region's tracker: the bitmap is attached to none then.
    pub fn attach(&self, log: &Arc<LogBitmap>) -> Result<(), dirty::Error> {
        let trackers = self.trackers()?;
        Tracker::attach_all(trackers.into_iter().map(|tracker| (tracker, Sink::Log(Arc::clone(log)))));
        Ok(())
    }

    /// Marks no more writes in a bitmap that another process harvests. When it returns, nobody touches it on account of
    /// this memory.
    pub fn detach(&self, log: &Arc<LogBitmap>) {
        let sink = Sink::Log(Arc::clone(log));
        Tracker::detach_all(self.regions().filter_map(|region| Some((region.tracker()?, &sink))));
    }

    /// Marks writes in one bitmap that another process harvests instead of another, each write in at least one of them.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach): nothing is replaced then.
    pub fn replace(&self, old: &Arc<LogBitmap>, new: &Arc<LogBitmap>) -> Result<(), dirty::Error> {
        let (trackers, old) = (self.trackers()?, Sink::Log(Arc::clone(old)));
        Tracker::replace_all(trackers.into_iter().map(|tracker| (tracker, &old, Sink::Log(Arc::clone(new)))));
        Ok(())
    }

    fn trackers(&self) -> Result<Vec<&Tracker>, dirty::Error> {
        self.regions().filter_map(|region| tracker_of(region).transpose()).collect()
    }
}

impl<R: GuestMemoryRegion> DirtyLog<R> {
    /// Tracks some regions, or one: as [`start_tracking`](GuestRegionCollection::start_tracking) does all of a memory.
    ///
    /// # Errors
    ///
    /// As there: nothing is tracked then.
    pub fn new<'a>(regions: impl IntoIterator<Item = &'a Arc<R>>, page_size: GuestUsize) -> Result<Self, dirty::Error>
    where
        R: 'a,
    {
        if !page_size.is_power_of_two() || page_size < SMALLEST_PAGE {
            return Err(dirty::Error::PageSize(page_size));
        }
        let mut log = Self { page_size, regions: Vec::new() };
        log.track(&regions.into_iter().collect::<Vec<_>>())?;
        Ok(log)
    }

    /// The size of a page in bytes.
    pub fn page_size(&self) -> GuestUsize {
        self.page_size
    }

    /// Tracks the regions that `memory` has, from now on: new ones are tracked, too, and those that are gone no longer, of
    /// which what was dirty is forgotten.
    ///
    /// Where a map changes while it is used, this is done before the new one is published, so that no write is missed: in the
    /// function that makes it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
    ///
    /// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
    /// let mut log = map.memory().start_tracking(4096)?;
    /// let dimm = Arc::new(GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(0x1000))?);
    /// map.update(|mem| -> Result<_, memory_model::atomic::MapError> {
    ///     let new = mem.insert_region(dimm)?;
    ///     log.follow(&new).map_err(|error| memory_model::atomic::MapError::Abandoned(error.into()))?;
    ///     Ok(new)
    /// })?;
    /// map.memory().write_obj(1_u8, GuestAddress(0x1800))?;
    /// assert_eq!(log.harvest().ranges().next().map(|range| range.start), Some(0x1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`start_tracking`](GuestRegionCollection::start_tracking): nothing has changed then.
    pub fn follow(&mut self, memory: &GuestRegionCollection<R>) -> Result<(), dirty::Error> {
        self.track(&memory.arc_regions().iter().collect::<Vec<_>>())
    }

    /// Tracks these regions, and no others.
    fn track(&mut self, regions: &[&Arc<R>]) -> Result<(), dirty::Error> {
        let wanted = regions.iter().copied().filter_map(|region| match tracker_of(&**region) {
            Ok(tracker) => tracker.map(|_| Ok(region)),
            Err(error) => Some(Err(error)),
        });
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        let is_new = |region: &&&Arc<R>| !self.regions.iter().any(|known| Arc::ptr_eq(&known.region, region));
        let new = wanted.iter().filter(is_new).map(|region| Tracked::new(region));
        let new = new.collect::<Result<Vec<_>, _>>()?;
        Tracker::start_logs(new.iter().filter_map(|this| Some((this.region.tracker()?, Arc::clone(&this.bitmap)))))?;
        let is_wanted = |known: &Tracked<R>| wanted.iter().any(|region| Arc::ptr_eq(&known.region, region));
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.regions).into_iter().partition(is_wanted);
        stop(&gone);
        self.regions = kept;
        self.regions.extend(new);
        self.regions.sort_by_key(|tracked| tracked.start);
        Ok(())
    }

    /// The bitmaps, by ascending address, and the guest address that the first bit of each stands for: to merge into them
    /// what a hypervisor knows ([`DirtyBitmap::merge`]).
    pub fn bitmaps(&self) -> impl Iterator<Item = (GuestAddress, &DirtyBitmap)> {
        self.regions.iter().map(|tracked| (tracked.start, &*tracked.bitmap))
    }

    /// Takes what is dirty in all regions, and leaves it clean: see [`DirtyBitmap::harvest`].
    #[must_use = "what was taken is put back at once"]
    pub fn harvest(&self) -> MemoryHarvest<'_> {
        let tracked = self.regions.iter().filter_map(|this| Some((this.start, (this.region.tracker()?, &this.bitmap))));
        let (starts, logs): (Vec<_>, Vec<_>) = tracked.unzip();
        let parts = starts.into_iter().zip(Harvest::of_logs(logs.into_iter())).collect();
        MemoryHarvest { page_size: self.page_size, parts }
    }

    /// Ends it, as dropping it does. When it returns, writes are no longer marked on its account.
    pub fn stop_tracking(self) {
        drop(self);
    }
}

fn stop<R: GuestMemoryRegion>(tracked: &[Tracked<R>]) {
    Tracker::stop_logs(tracked.iter().filter_map(|this| Some((this.region.tracker()?, &this.bitmap))));
}

impl<R: GuestMemoryRegion> Drop for DirtyLog<R> {
    fn drop(&mut self) {
        stop(&self.regions);
    }
}

impl<R: GuestMemoryRegion> fmt::Debug for DirtyLog<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.regions.iter().map(|tracked| -> RangeInclusive<GuestAddress> {
            tracked.region.start_addr()..=tracked.region.last_addr()
        });
        write!(f, "DirtyLog(pages of {:#x} bytes, ", self.page_size)?;
        f.debug_list().entries(ranges).finish()?;
        f.write_str(")")
    }
}

/// Pages that were taken from a [`DirtyLog`]: dropped without a [`commit`](Self::commit), they are dirty again.
#[derive(Debug)]
#[must_use = "what was taken is put back at once"]
pub struct MemoryHarvest<'a> {
    page_size: GuestUsize,
    parts: Vec<(GuestAddress, Harvest<'a>)>,
}

impl MemoryHarvest<'_> {
    /// What is in it, by guest address: ascending, coalesced, also from one region to the next.
    pub fn ranges(&self) -> impl Iterator<Item = DirtyRange> {
        let ranges = self.parts.iter().flat_map(move |(start, part)| {
            part.ranges().map(move |range| part.whole_pages(range, self.page_size).offset(start.0))
        });
        let mut ranges = ranges.peekable();
        std::iter::from_fn(move || {
            let mut range = ranges.next()?;
            // Pages that are larger than the bitmap's may be told by several ranges.
            while ranges.next_if(|&next| range.join(next)).is_some() {}
            Some(range)
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|(_, part)| part.is_empty())
    }

    /// What was found is dealt with: its pages stay clean, unless they were written meanwhile.
    pub fn commit(self) {
        self.parts.into_iter().for_each(|(_, part)| part.commit());
    }
}
