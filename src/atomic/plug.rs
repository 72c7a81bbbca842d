//! Parts of regions that are plugged and unplugged while the map is used, and who is told.

use std::sync::Arc;

use super::calls::Calls;
use super::listener::Listeners;
use super::{GuestMemoryAtomic, ListenerError, MapError, RegionMap};
#[cfg(all(feature = "mmap", target_os = "linux"))]
use crate::GuestRegionMmap;
use crate::guest_memory::{GuestMemoryRegion, PlugState, RegionRange};
use crate::{Address, GuestAddress, GuestUsize, MemoryRegionAddress};

/// Why a part of a region cannot be plugged or unplugged: an error of the region's own.
pub type PlugError = ListenerError;

/// A region of which parts can be unplugged: room for memory, which a guest is given, or gives back, while it runs.
///
/// [`GuestMemoryAtomic::plug`] and [`unplug`](GuestMemoryAtomic::unplug) call it, one at a time. Whoever does so by other
/// ways has listeners not hear of it.
pub trait Pluggable: GuestMemoryRegion {
    /// The parts of `len` bytes from `offset` that are not in the state `to` yet, ascending and coalesced; if they can be.
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it cannot: a range that is not whole pages, for instance.
    fn changes(
        &self,
        offset: MemoryRegionAddress,
        len: GuestUsize,
        to: PlugState,
    ) -> Result<Vec<RegionRange>, PlugError>;

    /// Plugs such a part, or changes nothing.
    ///
    /// # Errors
    ///
    /// Why it does not.
    fn plug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError>;

    /// Unplugs such a part, or leaves it plugged; what it held may be gone then.
    ///
    /// # Errors
    ///
    /// Why it does not.
    fn unplug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError>;

    /// Unplugs what was plugged and a listener did not take, as [`unplug`](Self::unplug) does unless the implementation
    /// says otherwise.
    ///
    /// # Errors
    ///
    /// As there.
    fn take_back(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError> {
        self.unplug(offset, len)
    }

    /// What is plugged, ascending and coalesced: what a listener maps of a region that is
    /// [added](super::MapListener::added).
    fn plugged_ranges(&self) -> Vec<RegionRange>;
}

#[cfg(all(feature = "mmap", target_os = "linux"))]
impl Pluggable for GuestRegionMmap {
    fn changes(
        &self,
        offset: MemoryRegionAddress,
        len: GuestUsize,
        to: PlugState,
    ) -> Result<Vec<RegionRange>, PlugError> {
        Ok(Self::changes(self, offset, len, to)?)
    }

    fn plug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError> {
        Ok(self.plug(offset, len)?)
    }

    fn unplug(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError> {
        Ok(self.unplug(offset, len)?)
    }

    fn take_back(&self, offset: MemoryRegionAddress, len: GuestUsize) -> Result<(), PlugError> {
        Ok(Self::take_back(self, offset, len)?)
    }

    fn plugged_ranges(&self) -> Vec<RegionRange> {
        self.plugged_ranges()
    }
}

impl<M: RegionMap> GuestMemoryAtomic<M>
where
    M::Region: Pluggable,
{
    /// Plugs what is unplugged of `len` bytes at `addr`, in one region or several that touch: all of it or nothing. No bytes
    /// are none to plug, at any address.
    ///
    /// 1. It is made accessible: readers find it, whatever view they have. It reads as zero, or as the file, where that is
    ///    mapped privately;
    /// 2. each listener is asked whether it takes each part that was unplugged, by ascending address. If one refuses, those
    ///    that have accepted are told that it is unplugged, in reverse; and it is.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use memory_model::atomic::{ListenerError, MapListener, Pluggable};
    /// use memory_model::guest_memory::RegionRange;
    /// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
    ///
    /// /// What a device may reach by DMA: first and last addresses.
    /// #[derive(Clone, Default)]
    /// struct Vfio(Arc<Mutex<Vec<(GuestAddress, GuestAddress)>>>);
    ///
    /// impl MapListener<GuestRegionMmap> for Vfio {
    ///     fn added(&mut self, region: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
    ///         // Not all of it: that would make all of its pages.
    ///         region.plugged_ranges().into_iter().try_for_each(|range| self.plugged(region, range))
    ///     }
    ///     fn removed(&mut self, region: &Arc<GuestRegionMmap>) {
    ///         region.plugged_ranges().into_iter().for_each(|range| self.unplugged(region, range));
    ///     }
    ///     fn plugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) -> Result<(), ListenerError> {
    ///         self.0.lock().unwrap().push(range.addresses(region.start_addr())); // VFIO_IOMMU_MAP_DMA
    ///         Ok(())
    ///     }
    ///     fn unplugged(&mut self, region: &Arc<GuestRegionMmap>, range: RegionRange) {
    ///         let (first, last) = range.addresses(region.start_addr());
    ///         self.0.lock().unwrap().retain(|mapped| mapped.1 < first || mapped.0 > last); // VFIO_IOMMU_UNMAP_DMA
    ///     }
    /// }
    ///
    /// # if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) || std::env::var_os("CROSS_RUNNER").is_some() {
    /// #     return Ok(());
    /// # }
    /// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)])?);
    /// map.unplug(GuestAddress(0), 8 << 20)?;
    /// let vfio = Vfio::default();
    /// map.register(Box::new(vfio.clone()))?;
    /// map.plug(GuestAddress(0x20_0000), 0x20_0000)?;
    /// assert_eq!(*vfio.0.lock().unwrap(), [(GuestAddress(0x20_0000), GuestAddress(0x3f_ffff))]);
    /// assert_eq!(map.memory().read_obj::<u64>(GuestAddress(0x20_0000))?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError::Hole`], [`MapError::Wraps`], [`MapError::Plug`], [`MapError::PlugRefused`]: nothing is plugged that was
    /// not; [`MapError::NotUndone`] says if something is. [`MapError::Nested`]; [`MapError::GuardHeld`].
    pub fn plug(&self, addr: GuestAddress, len: GuestUsize) -> Result<(), MapError> {
        let mut locked = self.writer.lock()?;
        let changes = changes(&*self.memory(), addr, len, PlugState::Plugged)?;
        Change::new(&mut locked.listeners, &changes, PlugState::Plugged).run()
    }

    /// Unplugs what is plugged of `len` bytes at `addr`, in one region or several that touch: all of it or nothing. No bytes
    /// are none to unplug, at any address. What it held is gone.
    ///
    /// 1. Each listener is told of each part that was plugged, in the reverse of the order of [`plug`](Self::plug), so that
    ///    nothing reaches it any more by the ways that it has;
    /// 2. the pages are given back. Readers are not waited for: an access of theirs is done or is
    ///    [`Fault`](crate::guest_memory::Error::Fault).
    ///
    /// # Errors
    ///
    /// [`MapError::Hole`], [`MapError::Wraps`]: nothing was done. [`MapError::Plug`]: either nothing was done, as the range
    /// cannot be unplugged; or a region failed to: then all is plugged as before, what it held may be gone, and listeners
    /// have been told that it is plugged. [`MapError::NotUndone`] says if not. [`MapError::Nested`];
    /// [`MapError::GuardHeld`].
    pub fn unplug(&self, addr: GuestAddress, len: GuestUsize) -> Result<(), MapError> {
        let mut locked = self.writer.lock()?;
        let changes = changes(&*self.memory(), addr, len, PlugState::Unplugged)?;
        Change::new(&mut locked.listeners, &changes, PlugState::Unplugged).run()
    }
}

/// A part of a region that is to change.
struct Part<R> {
    region: Arc<R>,
    range: RegionRange,
}

impl<R: GuestMemoryRegion> Part<R> {
    fn addresses(&self) -> (GuestAddress, GuestAddress) {
        self.range.addresses(self.region.start_addr())
    }
}

/// What of a range of guest addresses is to change, ascending; if all of it is memory, and can.
fn changes<M: RegionMap>(
    memory: &M,
    addr: GuestAddress,
    len: GuestUsize,
    to: PlugState,
) -> Result<Vec<Part<M::Region>>, MapError>
where
    M::Region: Pluggable,
{
    let mut parts = Vec::new();
    let Some(beyond_first) = len.checked_sub(1) else { return Ok(parts) };
    let last = addr.checked_add(beyond_first).ok_or(MapError::Wraps { addr, len })?;
    let regions = memory.arc_regions();
    let first = regions.partition_point(|region| region.last_addr() < addr);
    let mut at = Some(addr);
    for region in regions.get(first..).unwrap_or_default() {
        let Some(from) = at.filter(|&at| at <= last) else { break };
        let offset = region.to_region_addr(from).ok_or(MapError::Hole { addr, len, hole: from })?;
        let to_last = region.last_addr().min(last).0.saturating_sub(from.0);
        // Not more than `len`, and not less than one.
        let asked = RegionRange { offset, len: to_last.saturating_add(1) };
        let ranges = region.changes(offset, asked.len, to).and_then(|ranges| check_parts(ranges, asked));
        let addresses = (from, GuestAddress(from.0.saturating_add(to_last)));
        let ranges = ranges.map_err(|source| MapError::Plug { range: addresses, to, source })?;
        parts.extend(ranges.into_iter().map(|range| Part { region: Arc::clone(region), range }));
        at = region.last_addr().checked_add(1);
    }
    match at.filter(|&at| at <= last) {
        Some(hole) => Err(MapError::Hole { addr, len, hole }),
        None => Ok(parts),
    }
}

/// Checks that what a region says is to change are parts of the range it was asked about: ascending, apart, and not empty.
fn check_parts(parts: Vec<RegionRange>, asked: RegionRange) -> Result<Vec<RegionRange>, PlugError> {
    let (mut next, end) = (asked.offset.0, asked.offset.0.saturating_add(asked.len));
    for part in &parts {
        let room = end.saturating_sub(part.offset.0);
        if part.len == 0 || part.offset.0 < next || part.len > room {
            return Err(format!("the region's list of changes has {part}, which is not a part of {asked}").into());
        }
        next = part.offset.0.saturating_add(part.len);
    }
    Ok(parts)
}

/// A change on its way. Upwards, parts are plugged one after the other, then each is told to each listener; downwards it is
/// the other way round. A change that fails, or ends in a panic, goes back.
struct Change<'a, R: Pluggable> {
    listeners: &'a mut Listeners<R>,
    parts: &'a [Part<R>],
    to: PlugState,
    /// How many parts are plugged, from the first.
    plugged: usize,
    /// How often a listener has been told that a part is plugged: of the first part each, in their order, then of the next.
    told: usize,
    /// Parts that could not be plugged again.
    lost: Vec<usize>,
    /// Whether it goes back.
    is_back: bool,
    is_over: bool,
}

impl<'a, R: Pluggable> Change<'a, R> {
    fn new(listeners: &'a mut Listeners<R>, parts: &'a [Part<R>], to: PlugState) -> Self {
        let (plugged, told) = match to {
            PlugState::Plugged => (0, 0),
            PlugState::Unplugged => (parts.len(), parts.len().saturating_mul(listeners.count())),
        };
        Self { listeners, parts, to, plugged, told, lost: Vec::new(), is_back: false, is_over: false }
    }

    fn run(mut self) -> Result<(), MapError> {
        let mut stop = Err;
        let answer = match self.to {
            PlugState::Plugged => self.up(&mut stop),
            PlugState::Unplugged => self.down(&mut stop),
        };
        let Err(cause) = answer else {
            self.is_over = true;
            return Ok(());
        };
        match self.back() {
            None => Err(cause),
            Some(undo) => Err(MapError::NotUndone { cause: Box::new(cause), undo: Box::new(undo) }),
        }
    }

    /// Goes back all the way, and answers the first error.
    fn back(&mut self) -> Option<MapError> {
        self.is_back = true;
        let mut first = None;
        let mut go_on = |error| {
            first.get_or_insert(error);
            Ok(())
        };
        let back = match self.to {
            PlugState::Plugged => self.down(&mut go_on),
            PlugState::Unplugged => self.up(&mut go_on),
        };
        self.is_over = true;
        first.or(back.err())
    }

    /// Takes the next step of the way back for done.
    fn skip(&mut self) {
        match self.to {
            PlugState::Plugged if self.told > 0 => self.told -= 1,
            PlugState::Plugged => self.plugged = self.plugged.saturating_sub(1),
            PlugState::Unplugged if self.plugged < self.parts.len() => {
                self.lost.push(self.plugged);
                self.plugged += 1;
            }
            PlugState::Unplugged => self.told = self.told.saturating_add(1),
        }
    }

    fn up(&mut self, failed: &mut dyn FnMut(MapError) -> Result<(), MapError>) -> Result<(), MapError> {
        while let Some(part) = self.parts.get(self.plugged) {
            let range = part.range;
            if let Err(source) = part.region.plug(range.offset, range.len) {
                failed(MapError::Plug { range: part.addresses(), to: PlugState::Plugged, source })?;
                self.lost.push(self.plugged);
            }
            self.plugged += 1;
        }
        let each = self.listeners.count().max(1);
        while let Some((number, part)) = self.told.checked_div(each).and_then(|at| Some((at, self.parts.get(at)?))) {
            let Some(listener) = self.listeners.nth(self.told % each) else { break };
            if self.lost.contains(&number) {
                self.told += 1;
                continue;
            }
            if let Err(source) = listener.plugged(&part.region, part.range) {
                let (listener, range) = (listener.name().into(), part.addresses());
                failed(MapError::PlugRefused { listener, range, source })?;
            }
            self.told += 1;
        }
        Ok(())
    }

    fn down(&mut self, failed: &mut dyn FnMut(MapError) -> Result<(), MapError>) -> Result<(), MapError> {
        let each = self.listeners.count().max(1);
        while let Some(last) = self.told.checked_sub(1) {
            if let (Some(part), Some(listener)) = (self.parts.get(last / each), self.listeners.nth(last % each)) {
                listener.unplugged(&part.region, part.range);
            }
            self.told = last;
        }
        while let Some((last, part)) = self.plugged.checked_sub(1).and_then(|last| Some((last, self.parts.get(last)?)))
        {
            let (region, RegionRange { offset, len }) = (&part.region, part.range);
            let unplugged = match self.to {
                PlugState::Plugged => region.take_back(offset, len),
                PlugState::Unplugged => region.unplug(offset, len),
            };
            if let Err(source) = unplugged {
                failed(MapError::Plug { range: part.addresses(), to: PlugState::Unplugged, source })?;
            }
            self.plugged = last;
        }
        Ok(())
    }
}

impl<R: Pluggable> Drop for Change<'_, R> {
    fn drop(&mut self) {
        let mut calls = Calls::default();
        // A step of the way back has panicked.
        if self.is_back && !self.is_over {
            self.skip();
        }
        while !self.is_over {
            calls.call(|| drop(self.back()));
            if !self.is_over {
                self.skip();
            }
        }
        calls.finish();
    }
}
