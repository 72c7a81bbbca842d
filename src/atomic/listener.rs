use std::fmt;
use std::sync::Arc;

use super::calls::Calls;
use super::{ListenerError, MapError};
use crate::guest_memory::{GuestMemoryRegion, RegionRange};

/// Who mirrors a map and has to know of each change: a hypervisor's memory slots, an IOMMU's mappings, the memory table of
/// a vhost-user peer.
///
/// The regions that it was told of and not told to be gone are at each moment those of the map, or what the map is about to
/// be. It is told of a region before any reader finds it, and that it is gone after the last guard that has it. Calls come
/// one at a time, from whichever thread changes the map; they may look at it, and must not change it, nor keep a guard of it:
/// see [what may wait for what](super#what-may-wait-for-what). A listener that panics is not told the same once more; the
/// others are still called, and the panic goes on in the thread that changes the map.
///
/// ```
/// use std::sync::Arc;
/// use memory_model::atomic::{ListenerError, MapListener, SlotAllocator};
/// use memory_model::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion};
///
/// /// The memory slots of a virtual machine.
/// struct Kvm {
///     slots: SlotAllocator,
/// }
///
/// impl MapListener<GuestRegionMmap> for Kvm {
///     fn added(&mut self, region: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
///         let slot = self.slots.allocate().ok_or("the hypervisor has no more memory slots")?;
///         // KVM_SET_USER_MEMORY_REGION; if it fails, `self.slots.free(slot)`.
///         region.set_slot(Some(slot));
///         Ok(())
///     }
///
///     fn removed(&mut self, region: &Arc<GuestRegionMmap>) {
///         if let Some(slot) = region.slot() {
///             // KVM_SET_USER_MEMORY_REGION, of no bytes.
///             region.set_slot(None);
///             self.slots.free(slot);
///         }
///     }
/// }
///
/// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?);
/// let kvm = map.register(Box::new(Kvm { slots: SlotAllocator::new(0..2) }))?; // told of what is there
/// let region = |start| -> Result<_, Box<dyn std::error::Error>> {
///     Ok(Arc::new(GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(start))?))
/// };
/// let second = region(0x1000)?;
/// map.insert_region(Arc::clone(&second))?;
/// assert_eq!(second.slot(), Some(1));
/// let refused = map.insert_region(region(0x2000)?).unwrap_err();
/// assert!(refused.to_string().ends_with("Kvm refused the region 0x2000..=0x2fff: the hypervisor has no more memory slots"));
/// map.remove_region(GuestAddress(0), 0x1000)?;
/// let third = region(0x2000)?;
/// map.insert_region(Arc::clone(&third))?;
/// assert_eq!(third.slot(), Some(0));
/// map.unregister(kvm)?; // told that all of them are gone
/// assert_eq!((second.slot(), third.slot()), (None, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait MapListener<R>: Send {
    /// Its name, in errors. Unless the implementation says otherwise, that of its type.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }

    /// A region is about to be added. Regions come by ascending address, and to one listener after another in the order in
    /// which they were registered. Of a region that parts are unplugged of, it is to map what is
    /// [plugged](super::Pluggable::plugged_ranges): VFIO, for instance, would make all pages of what it maps.
    ///
    /// # Errors
    ///
    /// If it cannot take the region, for whichever reason: the map then stays as it is, and those that have accepted
    /// anything in this update are told that it is gone. This one is not told: it must have nothing of the region.
    fn added(&mut self, region: &Arc<R>) -> Result<(), ListenerError>;

    /// A region is gone, or was not added after all. In the reverse of the order of [`added`](Self::added). The region lives
    /// at least until this returns.
    fn removed(&mut self, region: &Arc<R>);

    /// A part of a region is plugged that was not: it can be accessed, and reads as zero. Parts come by ascending address,
    /// and to one listener after another in the order in which they were registered. Of a region that is
    /// [added](Self::added) nothing is told by this: what is plugged of it, it [says](super::Pluggable::plugged_ranges).
    /// Unless the implementation says otherwise, nothing is done about it.
    ///
    /// # Errors
    ///
    /// If it cannot take it, for whichever reason: it is unplugged again, and those that have accepted any of it are told.
    /// This one is not told: it must have nothing of it. (Where a part is told to be plugged again as it could not be
    /// unplugged, it stays plugged nevertheless.)
    fn plugged(&mut self, region: &Arc<R>, range: RegionRange) -> Result<(), ListenerError> {
        let _ = (region, range);
        Ok(())
    }

    /// A part of a region is about to be unplugged, or was not plugged after all: it must not be used any more when this
    /// returns. In the reverse of the order of [`plugged`](Self::plugged).
    fn unplugged(&mut self, region: &Arc<R>, range: RegionRange) {
        let _ = (region, range);
    }
}

/// A registered listener, to [`unregister`](super::GuestMemoryAtomic::unregister) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

/// Who listens, in the order in which they were registered.
pub(super) struct Listeners<R> {
    entries: Vec<Entry<R>>,
    next: u64,
}

struct Entry<R> {
    id: ListenerId,
    listener: Box<dyn MapListener<R>>,
}

impl<R> Listeners<R> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), next: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// One of them, in their order.
    pub(super) fn nth(&mut self, number: usize) -> Option<&mut dyn MapListener<R>> {
        self.entries.get_mut(number).map(|entry| &mut *entry.listener as _)
    }

    /// Asks each whether it takes each of `regions`.
    pub(super) fn added<'a>(&'a mut self, regions: &'a [Arc<R>]) -> Result<Accepted<'a, R>, MapError>
    where
        R: GuestMemoryRegion,
    {
        Accepted::ask(&mut self.entries, regions)
    }

    /// Tells each that `regions` are gone.
    pub(super) fn removed(&mut self, regions: &[Arc<R>]) {
        let mut calls = Calls::default();
        for region in regions.iter().rev() {
            for entry in self.entries.iter_mut().rev() {
                calls.call(|| entry.listener.removed(region));
            }
        }
        calls.finish();
    }

    /// One more, if it takes all of `regions`.
    pub(super) fn register(
        &mut self,
        listener: Box<dyn MapListener<R>>,
        regions: &[Arc<R>],
    ) -> Result<ListenerId, MapError>
    where
        R: GuestMemoryRegion,
    {
        let mut entry = Entry { id: ListenerId(self.next), listener };
        Accepted::ask(std::slice::from_mut(&mut entry), regions)?.keep();
        self.next += 1;
        let id = entry.id;
        self.entries.push(entry);
        Ok(id)
    }

    /// One less, which is told that all of `regions` are gone.
    pub(super) fn unregister(
        &mut self,
        id: ListenerId,
        regions: &[Arc<R>],
    ) -> Result<Box<dyn MapListener<R>>, MapError> {
        let position = self.entries.iter().position(|entry| entry.id == id).ok_or(MapError::NoListener(id))?;
        let mut listener = self.entries.remove(position).listener;
        let mut calls = Calls::default();
        for region in regions.iter().rev() {
            calls.call(|| listener.removed(region));
        }
        calls.finish();
        Ok(listener)
    }
}

/// What listeners have accepted: if it is not [kept](Self::keep), they are told that it is gone, in reverse order.
#[must_use = "what was accepted is taken back at once"]
pub(super) struct Accepted<'a, R> {
    entries: &'a mut [Entry<R>],
    regions: &'a [Arc<R>],
    /// How many answers there were: of all listeners for the first region, then for the second.
    count: usize,
}

impl<'a, R: GuestMemoryRegion> Accepted<'a, R> {
    fn ask(entries: &'a mut [Entry<R>], regions: &'a [Arc<R>]) -> Result<Self, MapError> {
        let mut accepted = Self { entries, regions, count: 0 };
        for region in regions {
            for entry in &mut *accepted.entries {
                entry.listener.added(region).map_err(|source| MapError::Refused {
                    listener: entry.listener.name().into(),
                    region: (region.start_addr(), region.last_addr()),
                    source,
                })?;
                accepted.count += 1;
            }
        }
        Ok(accepted)
    }
}

impl<R> Accepted<'_, R> {
    /// What was accepted is so for good.
    pub(super) fn keep(mut self) {
        self.count = 0;
    }
}

impl<R> Drop for Accepted<'_, R> {
    fn drop(&mut self) {
        let each = self.entries.len();
        let mut calls = Calls::default();
        for number in (0..self.count).rev() {
            if let (Some(entry), Some(region)) = (self.entries.get_mut(number % each), self.regions.get(number / each))
            {
                calls.call(|| entry.listener.removed(region));
            }
        }
        calls.finish();
    }
}

impl<R> fmt::Debug for Listeners<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| entry.listener.name())).finish()
    }
}
