//! Where the parts of a queue are accessed: by views that were pinned, as long as these hold, or else by the memory.

use std::sync::atomic::Ordering;

use memory_model::atomic::RegionMap;
use memory_model::buffers::PinnedSlice;
use memory_model::io_memory::Access;
use memory_model::{Bytes, DataInit, IoAddress, IoMemory, Le16};

use super::QueueError;
use super::error::memory;
use crate::ring::{Part, QueueConfig};

/// Views of those parts that can be pinned.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// The number of the memory that they were found in; `None` if nobody has looked.
    generation: Option<u64>,
    desc: Option<PinnedSlice>,
    avail: Option<PinnedSlice>,
    used: Option<PinnedSlice>,
}

impl Pins {
    /// Those that there are of a queue in this memory; no others, but these if they are of this memory.
    pub(super) fn renew<I>(&mut self, config: &QueueConfig, mem: &I)
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        let generation = mem.io_generation();
        if generation.is_some() && generation == self.generation {
            return;
        }
        *self = Self::default();
        if generation.is_some() {
            let pin = |addr, len: u64, access| PinnedSlice::new(mem, addr, usize::try_from(len).ok()?, access).ok();
            *self = Self {
                generation,
                desc: pin(config.desc, QueueConfig::desc_len(config.size), Access::Read),
                avail: pin(config.avail, QueueConfig::avail_len(config.size), Access::Read),
                used: pin(config.used, QueueConfig::used_len(config.size), Access::Write),
            };
        }
    }

    #[inline(always)]
    pub(super) fn descriptors<'a, I: IoMemory>(&'a self, config: &QueueConfig, mem: &'a I) -> Place<'a, I> {
        Place::new(Part::DescriptorTable, config.desc, mem, self.desc.as_ref())
    }

    #[inline(always)]
    pub(super) fn avail<'a, I: IoMemory>(&'a self, config: &QueueConfig, mem: &'a I) -> Place<'a, I> {
        Place::new(Part::AvailableRing, config.avail, mem, self.avail.as_ref())
    }

    #[inline(always)]
    pub(super) fn used<'a, I: IoMemory>(&'a self, config: &QueueConfig, mem: &'a I) -> Place<'a, I> {
        Place::new(Part::UsedRing, config.used, mem, self.used.as_ref())
    }
}

/// One part of a queue, in a memory.
pub(super) struct Place<'a, I> {
    pub(super) part: Part,
    pub(super) base: IoAddress,
    pub(super) mem: &'a I,
    /// All of the part, if that is where it is in this memory.
    view: Option<&'a PinnedSlice>,
}

impl<'a, I: IoMemory> Place<'a, I> {
    /// Where a part begins, with its view, if there is one. That is asked at each access whether it holds: it may be of
    /// another memory.
    #[inline(always)]
    pub(super) fn new(part: Part, base: IoAddress, mem: &'a I, view: Option<&'a PinnedSlice>) -> Self {
        Self { part, base, mem, view: view.filter(|view| view.is_current(mem)) }
    }

    /// Tries to access the view; then, if there is none or it has an error, the memory: that tells its errors in the
    /// addresses of the device's, whether anything is pinned or not.
    #[inline(always)]
    fn access<T>(
        &self,
        addr: IoAddress,
        by_view: impl FnOnce(&PinnedSlice, usize) -> Option<T>,
        by_memory: impl FnOnce(&I) -> Result<T, memory_model::guest_memory::Error>,
    ) -> Result<T, QueueError> {
        // Below the base it wraps: to past the end.
        let offset = usize::try_from(addr.0.wrapping_sub(self.base.0)).unwrap_or(usize::MAX);
        match self.view.and_then(|view| by_view(view, offset)) {
            Some(done) => Ok(done),
            None => by_memory(self.mem).map_err(memory(self.part, addr)),
        }
    }

    #[inline(always)]
    pub(super) fn read_obj<T: DataInit>(&self, addr: IoAddress) -> Result<T, QueueError> {
        self.access(addr, |view, offset| view.read_obj(offset).ok(), |mem| mem.read_obj(addr))
    }

    #[inline(always)]
    pub(super) fn write_obj<T: DataInit>(&self, value: T, addr: IoAddress) -> Result<(), QueueError> {
        self.access(addr, |view, offset| view.write_obj(value, offset).ok(), |mem| mem.write_obj(value, addr))
    }

    #[inline(always)]
    pub(super) fn load(&self, addr: IoAddress, order: Ordering) -> Result<u16, QueueError> {
        let value: Le16 =
            self.access(addr, |view, offset| view.load(offset, order).ok(), |mem| mem.load(addr, order))?;
        Ok(value.to_native())
    }

    #[inline(always)]
    pub(super) fn store(&self, value: u16, addr: IoAddress, order: Ordering) -> Result<(), QueueError> {
        let value = Le16::new(value);
        self.access(addr, |view, offset| view.store(value, offset, order).ok(), |mem| mem.store(value, addr, order))
    }
}
