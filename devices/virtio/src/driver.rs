//! The driver's half of a split virtqueue (VIRTIO 1.2, 2.7): what a guest does.
//!
//! For tests, examples and tools that play the guest. It places buffers into descriptors, makes them available, and takes
//! them back when the device has used them; what is in the buffers is its user's business.
//!
//! It trusts the device no more than a device trusts a driver: its own bookkeeping is not in shared memory.

use std::sync::atomic::{Ordering, fence};

use memory_model::{IoAddress, IoMemory, Le16, guest_memory};

use crate::queue::Segment;
use crate::ring::{
    AVAIL_F_NO_INTERRUPT, ConfigError, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, QueueConfig, Rings,
    USED_F_NO_NOTIFY, UsedElement, crosses,
};

/// Why a driver's step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No queue can be like that.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are not enough free descriptors: take used buffers back first.
    #[error("{needed} descriptors are needed and {free} are free: wait for the device to use some")]
    Full {
        /// The descriptors needed.
        needed: usize,
        /// The descriptors free.
        free: u16,
    },
    /// A buffer has no segment, or more than the queue has entries (VIRTIO 1.2, 2.7.5.3.1).
    #[error("a buffer of {0} segments: there must be at least one, and no more than the queue has entries")]
    Segments(usize),
    /// Indirect tables were not negotiated.
    #[error("indirect tables were not negotiated")]
    IndirectNotNegotiated,
    /// The device has used a buffer that it was not given, or moved `used.idx` past all that it was given.
    #[error("the device has used {0}, which is not in flight")]
    NotInFlight(u32),
    /// The rings or a table cannot be accessed.
    #[error("the queue's memory cannot be accessed: {0}")]
    Memory(#[from] guest_memory::Error),
}

/// A buffer that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`DriverQueue::add`] has answered for it.
    pub head: u16,
    /// How many bytes the device has written, from the start of the device-writable segments on.
    pub len: u32,
}

/// The driver's half of one split virtqueue.
///
/// See the [crate's page](crate) for an example.
#[derive(Debug)]
pub struct DriverQueue {
    rings: Rings,
    /// For each descriptor the one that follows it, in its chain or among the free.
    next: Vec<u16>,
    /// For each descriptor how many its chain has, if it is the head of one in flight; else 0.
    chain_len: Vec<u16>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// The index of the available entry to be written next.
    next_avail: u16,
    /// `avail.idx`, as the device sees it.
    published: u16,
    /// The index of the used entry to be read next.
    next_used: u16,
}

impl DriverQueue {
    /// Sets up an empty queue: zeroes its rings (VIRTIO 1.2, 2.7.10.1).
    ///
    /// # Errors
    ///
    /// [`DriverError::Config`], [`DriverError::Memory`].
    pub fn new<I: IoMemory>(mem: &I, config: QueueConfig) -> Result<Self, DriverError> {
        let rings = Rings::new(config)?;
        let size = config.size;
        for (first, last, last_len) in [
            (rings.descriptor(0), rings.descriptor(size.saturating_sub(1)), size_of::<Descriptor>()),
            (rings.avail_flags(), rings.used_event(), size_of::<u16>()),
            (rings.used_flags(), rings.avail_event(), size_of::<u16>()),
        ] {
            let len = usize::try_from(last.0.saturating_sub(first.0)).unwrap_or(usize::MAX).saturating_add(last_len);
            mem.fill(0, len, first)?;
        }
        Ok(Self {
            rings,
            next: (0..size).map(|slot| slot.wrapping_add(1)).collect(),
            chain_len: vec![0; usize::from(size)],
            free_head: 0,
            free: size,
            in_flight: 0,
            next_avail: 0,
            published: 0,
            next_used: 0,
        })
    }

    /// Where the queue lies, and which features it has.
    pub fn config(&self) -> &QueueConfig {
        self.rings.config()
    }

    /// The number of free descriptors.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// The number of buffers that the device has, or will have after [`publish`](Self::publish).
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Places a buffer into as many descriptors as it has segments (VIRTIO 1.2, 2.7.13.1), and its head into the
    /// available ring. The device sees nothing of it before [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`DriverError::Full`], [`DriverError::Segments`], [`DriverError::Memory`]. Nothing is added then.
    pub fn add<I: IoMemory>(
        &mut self,
        mem: &I,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<u16, DriverError> {
        let count = self.check(readable, writable)?;
        let head = self.claim(count)?;
        let mut slot = head;
        for (mut descriptor, is_last) in descriptors(readable, writable) {
            let next = self.next_of(slot);
            if !is_last {
                descriptor.next = next.into();
            }
            mem.write_obj(descriptor, self.rings.descriptor(slot))?;
            slot = next;
        }
        self.offer(mem, head, count)
    }

    /// Places a buffer into a table at `table`, 16 bytes for each segment, which takes one descriptor of the queue
    /// (VIRTIO 1.2, 2.7.5.3). The table is the device's until the buffer is used.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add), and [`DriverError::IndirectNotNegotiated`].
    pub fn add_indirect<I: IoMemory>(
        &mut self,
        mem: &I,
        table: IoAddress,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<u16, DriverError> {
        if !self.config().indirect {
            return Err(DriverError::IndirectNotNegotiated);
        }
        let count = self.check(readable, writable)?;
        let head = self.claim(1)?;
        for ((mut descriptor, is_last), slot) in descriptors(readable, writable).zip(0_u16..) {
            if !is_last {
                descriptor.next = slot.wrapping_add(1).into();
            }
            mem.write_obj(descriptor, IoAddress(table.0.wrapping_add(u64::from(slot) << 4)))?;
        }
        let descriptor = Descriptor {
            addr: table.0.into(),
            len: (u32::from(count) << 4).into(),
            flags: DESC_F_INDIRECT.into(),
            next: Le16::default(),
        };
        mem.write_obj(descriptor, self.rings.descriptor(head))?;
        self.offer(mem, head, 1)
    }

    /// Makes all that was added available to the device, and answers whether it wants to be notified of that (VIRTIO
    /// 1.2, 2.7.13.3 and 2.7.13.4).
    ///
    /// # Errors
    ///
    /// [`DriverError::Memory`].
    pub fn publish<I: IoMemory>(&mut self, mem: &I) -> Result<bool, DriverError> {
        let count = u32::from(self.next_avail.wrapping_sub(self.published));
        if count == 0 {
            return Ok(false);
        }
        // Release: pairs with the device's Acquire load in `Queue::pop`: who sees the index sees what it exposes.
        mem.store(Le16::new(self.next_avail), self.rings.avail_idx(), Ordering::Release)?;
        self.published = self.next_avail;
        // SeqCst: pairs with the fence in `Queue::enable_notifications`, between the device's wish and its second look
        // at `avail.idx` (VIRTIO 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.config().event_idx {
            let event = mem.load::<Le16>(self.rings.avail_event(), Ordering::Relaxed)?.to_native();
            return Ok(crosses(event, self.next_avail, count));
        }
        let flags = mem.load::<Le16>(self.rings.used_flags(), Ordering::Relaxed)?.to_native();
        Ok(flags & USED_F_NO_NOTIFY == 0)
    }

    /// Takes back the next buffer that the device has used; `None` if there is none (VIRTIO 1.2, 2.7.14).
    ///
    /// # Errors
    ///
    /// [`DriverError::NotInFlight`] if the device claims what it does not have; [`DriverError::Memory`].
    pub fn pop_used<I: IoMemory>(&mut self, mem: &I) -> Result<Option<Used>, DriverError> {
        if self.used(mem)? == 0 {
            return Ok(None);
        }
        let element: UsedElement = mem.read_obj(self.rings.used_entry(self.next_used))?;
        let id = element.id.to_native();
        let not_in_flight = || DriverError::NotInFlight(id);
        let head = u16::try_from(id).ok().ok_or_else(not_in_flight)?;
        let chain_len = self.chain_len.get_mut(usize::from(head)).ok_or_else(not_in_flight)?;
        let count = std::mem::take(chain_len);
        if count == 0 {
            return Err(not_in_flight());
        }
        // The chain's descriptors go to the front of the free ones.
        let last = (1..count).fold(head, |slot, _| self.next_of(slot));
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = self.free_head;
        }
        self.free_head = head;
        self.free = self.free.saturating_add(count);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head, len: element.len.to_native() }))
    }

    /// Asks the device to notify when it has used `buffers` more buffers than were taken back, and answers whether it
    /// has already: then it may not notify of those. Without event index it is asked to notify of each (VIRTIO 1.2,
    /// 2.7.7.1).
    ///
    /// # Errors
    ///
    /// [`DriverError::Memory`]; [`DriverError::NotInFlight`] as for [`pop_used`](Self::pop_used).
    pub fn enable_notifications<I: IoMemory>(&mut self, mem: &I, buffers: u16) -> Result<bool, DriverError> {
        let buffers = if self.config().event_idx { buffers.max(1) } else { 1 };
        if self.config().event_idx {
            let event = self.next_used.wrapping_add(buffers).wrapping_sub(1);
            mem.store(Le16::new(event), self.rings.used_event(), Ordering::Relaxed)?;
        } else {
            mem.store(Le16::new(0), self.rings.avail_flags(), Ordering::Relaxed)?;
        }
        // SeqCst: pairs with the fence in `Queue::needs_notification` (VIRTIO 1.2, 2.7.14).
        fence(Ordering::SeqCst);
        Ok(self.used(mem)? >= buffers)
    }

    /// Tells the device that it need not notify. Advice only.
    ///
    /// With event index nothing is to be done: the device notifies once, when it passes the last `used_event`.
    ///
    /// # Errors
    ///
    /// [`DriverError::Memory`].
    pub fn disable_notifications<I: IoMemory>(&mut self, mem: &I) -> Result<(), DriverError> {
        if !self.config().event_idx {
            mem.store(Le16::new(AVAIL_F_NO_INTERRUPT), self.rings.avail_flags(), Ordering::Relaxed)?;
        }
        Ok(())
    }

    /// How many buffers the device has used that were not taken back.
    fn used<I: IoMemory>(&self, mem: &I) -> Result<u16, DriverError> {
        // Acquire: pairs with the device's Release store in `Queue::add_used`: who sees the index sees the entries
        // below it, and what the device wrote to the buffers.
        let idx = mem.load::<Le16>(self.rings.used_idx(), Ordering::Acquire)?.to_native();
        let used = idx.wrapping_sub(self.next_used);
        if used > self.in_flight {
            return Err(DriverError::NotInFlight(u32::from(idx)));
        }
        Ok(used)
    }

    /// The number of segments, if a buffer can have as many.
    fn check(&self, readable: &[Segment], writable: &[Segment]) -> Result<u16, DriverError> {
        let count = readable.len().saturating_add(writable.len());
        let fits = u16::try_from(count).ok().filter(|&count| (1..=self.rings.size()).contains(&count));
        fits.ok_or(DriverError::Segments(count))
    }

    /// The first of `count` free descriptors, if there are as many.
    fn claim(&self, count: u16) -> Result<u16, DriverError> {
        if count > self.free {
            return Err(DriverError::Full { needed: usize::from(count), free: self.free });
        }
        Ok(self.free_head)
    }

    /// Puts a chain of the first `count` free descriptors into the available ring; they are free no more.
    fn offer<I: IoMemory>(&mut self, mem: &I, head: u16, count: u16) -> Result<u16, DriverError> {
        mem.write_obj(Le16::new(head), self.rings.avail_entry(self.next_avail))?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.free_head = (0..count).fold(head, |slot, _| self.next_of(slot));
        self.free = self.free.saturating_sub(count);
        self.in_flight = self.in_flight.saturating_add(1);
        if let Some(chain_len) = self.chain_len.get_mut(usize::from(head)) {
            *chain_len = count;
        }
        Ok(head)
    }

    fn next_of(&self, slot: u16) -> u16 {
        self.next.get(usize::from(slot)).copied().unwrap_or_default()
    }
}

/// The descriptors of a buffer's segments, without `next`, and whether each is the last.
fn descriptors<'a>(
    readable: &'a [Segment],
    writable: &'a [Segment],
) -> impl Iterator<Item = (Descriptor, bool)> + use<'a> {
    let last = readable.len().saturating_add(writable.len()).saturating_sub(1);
    let readable = readable.iter().map(|segment| (segment, 0));
    let writable = writable.iter().map(|segment| (segment, DESC_F_WRITE));
    readable.chain(writable).enumerate().map(move |(number, (segment, direction))| {
        let is_last = number == last;
        let flags = direction | if is_last { 0 } else { DESC_F_NEXT };
        let (addr, len) = (segment.addr.0.into(), segment.len.into());
        (Descriptor { addr, len, flags: flags.into(), next: Le16::default() }, is_last)
    })
}
