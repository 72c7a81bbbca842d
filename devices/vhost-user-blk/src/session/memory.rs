//! The front-end's memory table, as a map that changes while rings use it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use memory_model::atomic::Reader;
use memory_model::dirty::{self, LogBitmap, Sink};
use memory_model::guest_memory::RegionError;
use memory_model::mmap::FileOffset;
use memory_model::{
    GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, IoAddress, MmapRegion,
};
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::refusal::Refusal;

/// How many regions there may be: as many as memory slots on x86, which front-ends count with.
pub(super) const MAX_SLOTS: usize = 509;

/// The regions, and where they are for the front-end.
pub(super) struct MemoryTable {
    map: GuestMemoryAtomic<GuestMemoryMmap>,
    entries: Vec<Entry>,
}

struct Entry {
    place: Place,
    region: Arc<GuestRegionMmap>,
}

/// What a front-end says of a region; and which file it is. Two regions of which this is the same are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    addr: GuestAddress,
    len: u64,
    user_addr: u64,
    offset: u64,
    file: (u64, u64),
}

impl Place {
    fn new(region: &VhostUserMemoryRegion, file: Option<&File>) -> Result<Self, Refusal> {
        let (addr, len, user_addr) = (GuestAddress(region.guest_phys_addr), region.memory_size, region.user_addr);
        let refuse = |what| Err(Refusal::Region { addr, len, user_addr, what });
        let Some(beyond_first) = len.checked_sub(1) else { return refuse("is empty") };
        if user_addr.checked_add(beyond_first).is_none() {
            return refuse("goes past the end of the front-end's address space");
        }
        let file = match file.map(File::metadata) {
            None => (0, 0),
            Some(Ok(metadata)) => (metadata.dev(), metadata.ino()),
            Some(Err(_)) => return refuse("has a file that cannot be looked at"),
        };
        Ok(Self { addr, len, user_addr, offset: region.mmap_offset, file })
    }

    /// The front-end's address of the last byte: there is one, and it is an address.
    fn last_user_addr(&self) -> u64 {
        self.user_addr.saturating_add(self.len.saturating_sub(1))
    }

    fn map(&self, file: File) -> Result<Arc<GuestRegionMmap>, Refusal> {
        let Self { addr, len, offset, .. } = *self;
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        match MmapRegion::from_file(FileOffset::new(file, offset), size) {
            Ok(mapping) => Ok(Arc::new(GuestRegionMmap::new(mapping, addr)?)),
            Err(source) => Err(Refusal::Mapping { addr, len, offset, source }),
        }
    }
}

impl MemoryTable {
    pub(super) fn new() -> Self {
        Self { map: GuestMemoryAtomic::default(), entries: Vec::new() }
    }

    /// A thread's own way to the memory.
    pub(super) fn reader(&self) -> Reader<GuestMemoryMmap> {
        self.map.reader()
    }

    /// Where that is for the device which is at `user_addr` for the front-end.
    pub(super) fn translate(&self, user_addr: u64) -> Option<IoAddress> {
        self.entries.iter().find_map(|Entry { place, .. }| {
            let offset = user_addr.checked_sub(place.user_addr).filter(|offset| *offset < place.len)?;
            Some(IoAddress(place.addr.0.checked_add(offset)?))
        })
    }

    /// Adds a region. Writes to it are marked in the log, if there is one.
    pub(super) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: File,
        log: Option<&Arc<LogBitmap>>,
    ) -> Result<(), Refusal> {
        if self.entries.len() >= MAX_SLOTS {
            return Err(Refusal::Slots { count: self.entries.len().saturating_add(1), max: MAX_SLOTS });
        }
        let place = Place::new(region, Some(&file))?;
        let region = place.map(file)?;
        mark_in(&region, log);
        self.map.insert_region(Arc::clone(&region))?;
        self.entries.push(Entry { place, region });
        Ok(())
    }

    /// Removes a region; nobody finds it any more. It is [gone](Removed::wait) when the last is done with it.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<Removed, Refusal> {
        let wanted = Place::new(region, None)?;
        let same =
            |place: &Place| (place.addr, place.len, place.user_addr) == (wanted.addr, wanted.len, wanted.user_addr);
        let Some(index) = self.entries.iter().position(|entry| same(&entry.place)) else {
            return Err(RegionError::NotFound { start: wanted.addr, len: wanted.len }.into());
        };
        let region = self.map.remove_region(wanted.addr, wanted.len)?;
        self.entries.swap_remove(index);
        Ok(Removed(vec![region]))
    }

    /// What the table is to be, mapped and checked: nothing has changed yet. A region that is there already stays, with all
    /// who use it.
    pub(super) fn prepare(
        &self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        log: Option<&Arc<LogBitmap>>,
    ) -> Result<NewTable, Refusal> {
        if regions.len() != files.len() {
            return Err(Refusal::Files { regions: regions.len(), files: files.len() });
        }
        let mut entries = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let place = Place::new(region, Some(&file))?;
            let region = if let Some(entry) = self.entries.iter().find(|entry| entry.place == place) {
                Arc::clone(&entry.region)
            } else {
                let region = place.map(file)?;
                mark_in(&region, log);
                region
            };
            entries.push(Entry { place, region });
        }
        let map = GuestMemoryMmap::from_arc_regions(entries.iter().map(|entry| Arc::clone(&entry.region)).collect())?;
        let is_kept = |old: &Entry| entries.iter().any(|new| Arc::ptr_eq(&old.region, &new.region));
        // For the guest; or for the front-end, whose addresses say where rings are.
        let overlap = |old: &Entry, new: &Entry| {
            (old.region.start_addr() <= new.region.last_addr() && new.region.start_addr() <= old.region.last_addr())
                || (old.place.user_addr <= new.place.last_user_addr()
                    && new.place.user_addr <= old.place.last_user_addr())
        };
        let replaces =
            self.entries.iter().filter(|old| !is_kept(old)).any(|old| entries.iter().any(|new| overlap(old, new)));
        Ok(NewTable { entries, map, replaces })
    }

    /// Puts another table in the place of this one. Where a region takes the place of another there is none for a moment:
    /// nobody may use the memory meanwhile.
    pub(super) fn replace(&mut self, new: NewTable) -> Result<Removed, Refusal> {
        let NewTable { entries, map, replaces } = new;
        if replaces {
            let kept = |region: &Arc<_>| entries.iter().any(|entry| Arc::ptr_eq(&entry.region, region));
            self.map.update(|old| {
                GuestMemoryMmap::from_arc_regions(
                    old.arc_regions().iter().filter(|region| kept(region)).cloned().collect(),
                )
            })?;
        }
        self.map.update(|_| Ok::<_, RegionError>(map))?;
        let old = std::mem::replace(&mut self.entries, entries);
        let is_kept = |old: &Entry| self.entries.iter().any(|new| Arc::ptr_eq(&old.region, &new.region));
        Ok(Removed(old.into_iter().filter(|old| !is_kept(old)).map(|old| old.region).collect()))
    }

    /// Marks writes to all regions in one log instead of another, or in none.
    pub(super) fn exchange_log(
        &self,
        old: Option<&Arc<LogBitmap>>,
        new: Option<&Arc<LogBitmap>>,
    ) -> Result<(), dirty::Error> {
        if cfg!(feature = "unlogged") {
            return Ok(());
        }
        let memory = self.map.memory();
        match (old, new) {
            (Some(old), Some(new)) => memory.replace(old, new)?,
            (Some(old), None) => memory.detach(old),
            (None, Some(new)) => memory.attach(new)?,
            (None, None) => {}
        }
        Ok(())
    }
}

fn mark_in(region: &GuestRegionMmap, log: Option<&Arc<LogBitmap>>) {
    if let (Some(log), Some(tracker), false) = (log, region.tracker(), cfg!(feature = "unlogged")) {
        tracker.attach(Sink::Log(Arc::clone(log)));
    }
}

/// A table that may take the place of another.
pub(super) struct NewTable {
    entries: Vec<Entry>,
    map: GuestMemoryMmap,
    /// Whether a region takes the place of another one.
    pub(super) replaces: bool,
}

/// Regions that are no longer in the map.
#[must_use = "who removed them waits until nobody uses them"]
pub(super) struct Removed(Vec<Arc<GuestRegionMmap>>);

impl Removed {
    /// Waits for those who use them still: transfers that are under way. Then they are unmapped, and their files closed.
    pub(super) fn wait(self) {
        for region in self.0 {
            let mut region = Some(region);
            while let Some(arc) = region.take() {
                match Arc::try_unwrap(arc) {
                    Ok(region) => drop(region),
                    Err(arc) => {
                        region = Some(arc);
                        sleep(Duration::from_micros(200));
                    }
                }
            }
        }
    }
}
