use alloc::sync::Arc;
use alloc::vec::Vec;
use std::fmt;
use std::ops::RangeInclusive;

use super::{GuestMemory, GuestMemoryRegion, GuestRegionCollection};
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
    /// What the tracker has given away for others' harvests, what was put back, and what was merged.
    bitmap: Arc<DirtyBitmap>,
}

impl<R: GuestMemoryRegion> Tracked<R> {
    fn new(region: &Arc<R>) -> Result<Self, dirty::Error> {
        Ok(Self { region: Arc::clone(region), bitmap: Arc::new(DirtyBitmap::new(region.len(), SMALLEST_PAGE)?) })
    }
}

impl<R: GuestMemoryRegion> GuestRegionCollection<R> {
    /// Marks from now on the pages that are written, of `page_size` bytes, a power of two of at least 4096, counted from each
    /// region's start: in all regions that have a [`tracker`](GuestMemoryRegion::tracker). Through this memory, and through
    /// whatever else has its regions: clones, slices that were made before.
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
    /// [`dirty::Error`]: nothing is tracked then.
    pub fn start_tracking(&self, page_size: GuestUsize) -> Result<DirtyLog<R>, dirty::Error> {
        DirtyLog::new(self.arc_regions(), page_size)
    }

    /// Marks writes also in a bitmap that another process harvests, by guest address, in all regions that have a
    /// [`tracker`](GuestMemoryRegion::tracker): see [`Tracker::attach`].
    pub fn attach(&self, log: &Arc<LogBitmap>) {
        Tracker::attach_all(self.trackers().map(|tracker| (tracker, Sink::Log(Arc::clone(log)))));
    }

    /// Marks no more writes in a bitmap that another process harvests. When it returns, nobody touches it on account of
    /// this memory.
    pub fn detach(&self, log: &Arc<LogBitmap>) {
        let sink = Sink::Log(Arc::clone(log));
        Tracker::detach_all(self.trackers().map(|tracker| (tracker, &sink)));
    }

    /// Marks writes in one bitmap that another process harvests instead of another, each write in at least one of them.
    pub fn replace(&self, old: &Arc<LogBitmap>, new: &Arc<LogBitmap>) {
        let old = Sink::Log(Arc::clone(old));
        Tracker::replace_all(self.trackers().map(|tracker| (tracker, &old, Sink::Log(Arc::clone(new)))));
    }

    fn trackers(&self) -> impl Iterator<Item = &Tracker> {
        self.regions().filter_map(GuestMemoryRegion::tracker)
    }
}

impl<R: GuestMemoryRegion> DirtyLog<R> {
    /// Tracks some regions, or one: as [`start_tracking`](GuestRegionCollection::start_tracking) does all of a memory.
    ///
    /// # Errors
    ///
    /// [`dirty::Error`]: nothing is tracked then.
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
    /// [`dirty::Error`]: nothing has changed then.
    pub fn follow(&mut self, memory: &GuestRegionCollection<R>) -> Result<(), dirty::Error> {
        self.track(&memory.arc_regions().iter().collect::<Vec<_>>())
    }

    /// Tracks these regions, and no others.
    fn track(&mut self, regions: &[&Arc<R>]) -> Result<(), dirty::Error> {
        let wanted = || regions.iter().copied().filter(|region| region.tracker().is_some());
        let is_new = |region: &&Arc<R>| !self.regions.iter().any(|known| Arc::ptr_eq(&known.region, region));
        let new: Vec<_> = wanted().filter(is_new).map(|region| Tracked::new(region)).collect();
        let new = new.into_iter().collect::<Result<Vec<_>, _>>()?;
        Tracker::start_logs(new.iter().filter_map(|this| Some((this.region.tracker()?, Arc::clone(&this.bitmap)))))?;
        let is_wanted = |known: &Tracked<R>| wanted().any(|region| Arc::ptr_eq(&known.region, region));
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.regions).into_iter().partition(is_wanted);
        stop(&gone);
        self.regions = kept;
        self.regions.extend(new);
        self.regions.sort_by_key(|tracked| tracked.region.start_addr());
        Ok(())
    }

    /// The bitmaps, by ascending address, and the guest address that the first bit of each stands for: to merge into them
    /// what a hypervisor knows ([`DirtyBitmap::merge`]).
    pub fn bitmaps(&self) -> impl Iterator<Item = (GuestAddress, &DirtyBitmap)> {
        self.regions.iter().map(|tracked| (tracked.region.start_addr(), &*tracked.bitmap))
    }

    /// Takes what is dirty in all regions, and leaves it clean: see [`DirtyBitmap::harvest`].
    #[must_use = "what was taken is put back at once"]
    pub fn harvest(&self) -> MemoryHarvest<'_> {
        let starts = self.regions.iter().map(|tracked| tracked.region.start_addr());
        let logs = self.regions.iter().filter_map(|this| Some((this.region.tracker()?, &this.bitmap)));
        let parts = starts.zip(Harvest::of_logs(logs)).collect();
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
