use std::fmt;
use std::sync::Arc;

use super::published::Published;
use super::update::Writer;
use super::{MemorySnapshot, Reader};
use crate::guest_memory::{GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, new_generation};

/// A memory whose regions are shared: what a [`GuestMemoryAtomic`] can hold, as [`GuestRegionCollection`] is.
///
/// What two memories have in common are regions that are the same `Arc`.
pub trait RegionMap: GuestMemory {
    /// The regions, by ascending address.
    fn arc_regions(&self) -> &[Arc<Self::Region>];

    /// The region that has `addr`.
    fn find_arc_region(&self, addr: GuestAddress) -> Option<&Arc<Self::Region>> {
        let regions = self.arc_regions();
        let (before, _) = regions.split_at(regions.partition_point(|region| region.start_addr() <= addr));
        before.last().filter(|region| region.last_addr() >= addr)
    }
}

impl<R: GuestMemoryRegion> RegionMap for GuestRegionCollection<R> {
    fn arc_regions(&self) -> &[Arc<R>] {
        self.arc_regions()
    }
}

/// The number of a map: its own, or a new one.
pub(super) fn generation_of(memory: &impl GuestMemory) -> u64 {
    memory.generation().unwrap_or_else(new_generation)
}

/// A guest's memory whose map changes while it is used: `M` is [`GuestMemoryMmap`](crate::GuestMemoryMmap), or another
/// [`RegionMap`]. See the [module](super) for how.
///
/// A clone is another handle to the same. When the last is dropped, the listeners are told that all regions are gone.
pub struct GuestMemoryAtomic<M: RegionMap> {
    pub(super) published: Arc<Published<M>>,
    pub(super) writer: Arc<Writer<M>>,
}

impl<M: RegionMap> GuestMemoryAtomic<M> {
    /// What begins with a memory.
    pub fn new(memory: M) -> Self {
        let published = Arc::new(Published::new(generation_of(&memory), memory));
        Self { writer: Arc::new(Writer::new(Arc::clone(&published))), published }
    }

    /// The present memory, for as long as it is wanted: it stays as it is, and keeps its regions mapped, also those that are
    /// removed meanwhile. Never waits.
    ///
    /// For a device that looks again and again there is a [`reader`](Self::reader), which costs less and keeps nothing.
    #[must_use]
    pub fn memory(&self) -> MemorySnapshot<M> {
        self.published.snapshot()
    }

    /// A thread's own way to the memory.
    pub fn reader(&self) -> Reader<M> {
        Reader::new(&self.published)
    }

    /// The present map's number: see [`MemorySnapshot::generation`].
    pub fn generation(&self) -> u64 {
        self.memory().generation()
    }
}

impl<M: RegionMap> Clone for GuestMemoryAtomic<M> {
    fn clone(&self) -> Self {
        Self { published: Arc::clone(&self.published), writer: Arc::clone(&self.writer) }
    }
}

impl<M: RegionMap + Default> Default for GuestMemoryAtomic<M> {
    fn default() -> Self {
        Self::new(M::default())
    }
}

impl<M: RegionMap + fmt::Debug> fmt::Debug for GuestMemoryAtomic<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestMemoryAtomic")
            .field("generation", &self.generation())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}
