//! The device's half of a split virtqueue (VIRTIO 1.2, 2.7).
//!
//! | type            | what it is                                                                  |
//! |-----------------|-----------------------------------------------------------------------------|
//! | [`Queue`]       | takes chains from the available ring, puts them into the used ring          |
//! | [`Chain`]       | one buffer: what the device may read, then what it may write                |
//! | [`Run`]         | where either of them is                                                     |
//! | [`QueueError`]  | why a queue is broken                                                       |
//!
//! Whatever the driver writes is fetched once, checked, and used as it was checked. What makes no sense breaks the
//! queue: it keeps its first reason, answers every call with it, and touches memory no more until it is
//! [reset](Queue::reset). Whether there is memory behind a chain's addresses is not the queue's business: it shows when
//! the device accesses them, and is an error of that request alone.

mod again;
mod chain;
mod error;
mod notify;
mod place;
mod walk;

use std::sync::atomic::Ordering;

use memory_model::atomic::RegionMap;
use memory_model::{IoMemory, Le16};

pub use chain::{Chain, Run};
pub use error::QueueError;
pub use memory_model::buffers::Segment;

use crate::ring::{ConfigError, QueueConfig, Rings, UsedElement};
use place::Pins;

/// The device's half of one split virtqueue.
///
/// ```
/// use memory_model::IoMemory;
/// use memory_model_virtio::{Queue, QueueError};
///
/// /// A device that reads nothing and writes zeros.
/// fn process<I: IoMemory>(queue: &mut Queue, mem: &I) -> Result<bool, QueueError> {
///     loop {
///         queue.disable_notifications(mem)?;
///         while let Some(chain) = queue.pop(mem)? {
///             let (head, mut buffer) = (chain.head(), chain.writer(mem));
///             let written = match buffer.fill(0, buffer.remaining()) {
///                 Ok(()) => u32::try_from(buffer.bytes_written()).unwrap_or(u32::MAX),
///                 Err(_) => 0, // no memory there: this request's problem, not the queue's
///             };
///             queue.add_used(mem, head, written)?;
///         }
///         if !queue.enable_notifications(mem)? {
///             return queue.needs_notification(mem);
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Queue {
    rings: Rings,
    pins: Pins,
    /// The index of the available entry that comes next. Runs freely.
    next_avail: u16,
    /// `avail.idx` as it was last loaded and found good: entries before it may be read.
    avail_idx: u16,
    /// The index of the used entry that comes next. Runs freely; `next_avail - next_used`, the number of buffers in
    /// flight, is at most the size.
    next_used: u16,
    /// How many entries were used since the driver's wish was last looked up; 2^16 stands for more.
    unannounced: u32,
    /// The last chain, device-readable segments first.
    segments: Vec<Segment>,
    broken: Option<QueueError>,
}

impl Queue {
    /// A queue as it is when the driver enables it: nothing available, nothing used.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if no queue can be of this size, or lie there. Whether there is memory shows at the first access.
    pub fn new(config: QueueConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            rings: Rings::new(config)?,
            pins: Pins::default(),
            next_avail: 0,
            avail_idx: 0,
            next_used: 0,
            unannounced: 0,
            segments: Vec::new(),
            broken: None,
        })
    }

    /// A queue that was in use before, from the indices it had: after a restore, a migration or a reconnection.
    ///
    /// Entries from `next_used` to `next_avail` are in flight: chains that are [taken again](Self::retake), if somebody has kept
    /// their heads. To have all entries from `next_used` on popped again, say `next_avail = next_used`.
    /// Whether the driver was told of the last used entries is not known, so it will be told, perhaps once too often.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], as for [`new`](Self::new), and if more buffers would be in flight than there are entries.
    pub fn resume(config: QueueConfig, next_avail: u16, next_used: u16) -> Result<Self, ConfigError> {
        let fresh = Self::new(config)?;
        if next_avail.wrapping_sub(next_used) > config.size {
            return Err(ConfigError::InFlight { next_avail, next_used, size: config.size });
        }
        Ok(Self { next_avail, avail_idx: next_avail, next_used, unannounced: notify::ALL, ..fresh })
    }

    /// Where the queue lies, and which features it has.
    pub fn config(&self) -> &QueueConfig {
        self.rings.config()
    }

    /// The number of entries.
    #[inline]
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// The index of the available entry that comes next, to be saved. Runs freely from 0 to 65535.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// The index of the used entry that comes next, to be saved. Runs freely from 0 to 65535.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// The first reason for which this queue is broken; `None` if it works.
    pub fn broken(&self) -> Option<&QueueError> {
        self.broken.as_ref()
    }

    /// Breaks the queue, as a device does that finds a request to which it cannot answer. The first reason stays; it is
    /// returned.
    #[cold]
    pub fn mark_broken(&mut self, reason: QueueError) -> QueueError {
        self.broken.get_or_insert(reason).clone()
    }

    /// Looks up where the rings and the descriptor table lie, once for all accesses that follow: these find nothing by
    /// address any more, and cost hardly more than a pointer's. What is written is marked as dirty as before.
    ///
    /// It is advice. The queue goes by the memory that each call is given: if that has another
    /// [number](IoMemory::io_generation) than `mem` has, because regions have come or gone, or none, it is accessed as if
    /// nothing were pinned. So is a part that does not lie in one piece of one region, or not in the host's memory, or that
    /// is read-only and would be written; and tables of indirect descriptors. Errors are the memory's in any case.
    ///
    /// A region that has a pinned part stays mapped until the next `pin` in a memory of another number, [`unpin`](Self::unpin)
    /// or [`reset`](Self::reset), also if it is removed from the map. So a transport calls this when the driver enables the
    /// queue, and again when the map has changed: before each batch, if it likes, as in the same memory it costs no more
    /// than a comparison.
    ///
    /// ```
    /// use memory_model::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, IoAddress};
    /// use memory_model_virtio::{Queue, QueueConfig};
    ///
    /// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)])?);
    /// let mut reader = map.reader();
    /// let mut queue = Queue::new(QueueConfig::contiguous(IoAddress(0x1000), 64)?)?;
    /// for _ in 0..3 {
    ///     let mem = reader.read(); // for each batch
    ///     queue.pin(&*mem);
    ///     while let Some(chain) = queue.pop(&*mem)? {
    ///         let head = chain.head();
    ///         queue.add_used(&*mem, head, 0)?;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pin<I>(&mut self, mem: &I)
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        self.pins.renew(self.rings.config(), mem);
    }

    /// Goes by the memory alone from now on, and keeps no region.
    pub fn unpin(&mut self) {
        self.pins = Pins::default();
    }

    /// Makes the queue as [`new`](Self::new) does, at the same place: after the driver has reset it (VIRTIO 1.2, 2.6.1).
    /// Nothing is [pinned](Self::pin) any more.
    pub fn reset(&mut self) {
        self.unpin();
        self.next_avail = 0;
        self.avail_idx = 0;
        self.next_used = 0;
        self.unannounced = 0;
        self.broken = None;
    }

    /// Takes the next chain from the available ring; `None` if the driver has offered no more.
    ///
    /// The chain is a copy: the driver may change the ring and the tables meanwhile, and nothing comes of it.
    ///
    /// # Errors
    ///
    /// [`QueueError`]: the chain is none, or the rings cannot be accessed. The queue is broken from then on.
    #[inline]
    pub fn pop<I: IoMemory>(&mut self, mem: &I) -> Result<Option<Chain<'_>>, QueueError> {
        let walked = self.unless_broken(|queue| {
            if queue.next_avail == queue.avail_idx && queue.load_avail_idx(mem)? == 0 {
                return Ok(None);
            }
            let addr = queue.rings.avail_entry(queue.next_avail);
            let head = queue.pins.avail(queue.rings.config(), mem).read_obj::<Le16>(addr)?.to_native();
            let table = queue.pins.descriptors(queue.rings.config(), mem);
            let walked = walk::walk(&queue.rings, table, head, &mut queue.segments)?;
            queue.next_avail = queue.next_avail.wrapping_add(1);
            Ok(Some(walked))
        })?;
        Ok(walked.map(|walked| Chain::new(walked, &self.segments)))
    }

    /// Puts the chain at `head` into the used ring, in any order: the device is done with it, and has written `written`
    /// bytes from the start of its device-writable buffers on. An underestimate is allowed (VIRTIO 1.2, 2.7.8.2).
    ///
    /// `head` and the number of calls are the device's promise: one call for each chain popped.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`]; or the reason for which the queue was broken before, then nothing is written.
    #[inline]
    pub fn add_used<I: IoMemory>(&mut self, mem: &I, head: u16, written: u32) -> Result<(), QueueError> {
        self.unless_broken(|queue| {
            let element = UsedElement { id: u32::from(head).into(), len: written.into() };
            let ring = queue.pins.used(queue.rings.config(), mem);
            ring.write_obj(element, queue.rings.used_entry(queue.next_used))?;
            queue.next_used = queue.next_used.wrapping_add(1);
            // Release: pairs with the driver's barrier after it reads `used.idx` (VIRTIO 1.2, 2.7.14), so whoever sees
            // the index sees the entry, and what the device wrote to the buffers.
            ring.store(queue.next_used, queue.rings.used_idx(), Ordering::Release)?;
            queue.unannounced = queue.unannounced.saturating_add(1).min(notify::ALL);
            Ok(())
        })
    }

    /// Looks up how many entries are available. The index is only believed if it names no more than there can be.
    fn load_avail_idx<I: IoMemory>(&mut self, mem: &I) -> Result<u16, QueueError> {
        let ring = self.pins.avail(self.rings.config(), mem);
        // Acquire: pairs with the driver's barrier before it moves `avail.idx` (VIRTIO 1.2, 2.7.13.3), so whoever sees
        // the index sees the ring entries and descriptors below it.
        let idx = ring.load(self.rings.avail_idx(), Ordering::Acquire)?;
        let available = idx.wrapping_sub(self.next_avail);
        let in_flight = self.next_avail.wrapping_sub(self.next_used);
        // A driver has as many descriptors as the ring has entries, and each buffer in flight holds at least one.
        let room = self.size().saturating_sub(in_flight);
        if available > room {
            return Err(QueueError::AvailIndex { idx, next_avail: self.next_avail, room });
        }
        self.avail_idx = idx;
        Ok(available)
    }

    /// Does a step of a queue that works; if that fails, the queue is broken.
    #[inline]
    fn unless_broken<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, QueueError>) -> Result<T, QueueError> {
        match &self.broken {
            None => step(self).map_err(|reason| self.mark_broken(reason)),
            Some(reason) => Err(reason.clone()),
        }
    }
}
