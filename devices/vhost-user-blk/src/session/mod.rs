//! What one front-end has set up: its features, its memory, its rings, its log.

mod handler;
mod memory;
mod refusal;

use std::fs::File;
use std::sync::Arc;

use memory_model::dirty::LogBitmap;
use memory_model::mmap::FileOffset;
use memory_model::{Bytes, IoAddress, Le16, MmapRegion};
use memory_model_virtio::blk::{Block, BlockOptions, Worker};
use memory_model_virtio::{Queue, QueueConfig};
use vhost::vhost_user::Backend;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

use crate::error::Error;
use crate::hangup::Hangup;
use crate::image::Image;
use crate::inflight::Inflight;
use crate::options::{Engine, Optional, Options};
use crate::ring::{Addresses, Log, Processor, Records, Ring, Server, Start};
use crate::stats::Stats;
use memory::MemoryTable;
use refusal::Refusal;

/// The largest ring. Requests fit into those of 128 entries, and larger: that is the `seg_max` of the device.
const MAX_RING_SIZE: u16 = 1024;
const FITTING_RING_SIZE: u16 = 128;

/// What the device is, for each connection.
#[derive(Debug)]
pub struct Device {
    image: Arc<Image>,
    options: Options,
    stats: Option<Stats>,
}

impl Device {
    /// The disk that an image holds.
    ///
    /// # Errors
    ///
    /// [`Error::Image`]: see [`Block::new`].
    pub fn new(image: Arc<Image>, options: Options, stats: Option<Stats>) -> Result<Self, Error> {
        let device = Self { image, options, stats };
        device.disk(0).map(|_| device)
    }

    /// The disk as it is with these features.
    fn disk(&self, features: u64) -> Result<Block, Error> {
        let mut id = [0; 20];
        for (to, from) in id.iter_mut().zip(b"memory-model") {
            *to = *from;
        }
        let options = BlockOptions {
            read_only: self.image.is_read_only(),
            id,
            num_queues: self.options.queues,
            max_queue_size: FITTING_RING_SIZE,
        };
        let file = self.image.file().try_clone();
        let mut disk = file.and_then(|file| Block::new(file, options)).map_err(|source| self.image.error(source))?;
        disk.set_features(features);
        Ok(disk)
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        type F = VhostUserProtocolFeatures;
        let mut features = F::MQ
            | F::CONFIG
            | F::REPLY_ACK
            | F::LOG_SHMFD
            | F::CONFIGURE_MEM_SLOTS
            | F::INFLIGHT_SHMFD
            | F::RESET_DEVICE
            | F::BACKEND_REQ;
        for without in &self.options.without {
            features.remove(match without {
                Optional::MemSlots => F::CONFIGURE_MEM_SLOTS,
                Optional::Inflight => F::INFLIGHT_SHMFD,
            });
        }
        features
    }
}

/// One front-end's connection, as far as it has come.
pub(crate) struct Session {
    device: Arc<Device>,
    hangup: Hangup,
    /// The disk with the features that were negotiated last. Rings that run keep the one they began with.
    disk: Arc<Block>,
    features: u64,
    protocol_features: VhostUserProtocolFeatures,
    memory: MemoryTable,
    rings: Vec<Ring>,
    /// The log that the front-end has given; and the one that all writes are marked in now.
    log: Log,
    marked: Log,
    inflight: Option<Inflight>,
    /// The way to send requests to the front-end. Nothing is sent: kept, as the front-end may look whether it is.
    channel: Option<Backend>,
    fatal: Option<Error>,
}

impl Session {
    pub(crate) fn new(device: Arc<Device>, hangup: Hangup) -> Result<Self, Error> {
        let disk = Arc::new(device.disk(0)?);
        let rings = (0..device.options.queues).map(|_| Ring::default()).collect();
        Ok(Self {
            device,
            hangup,
            disk,
            features: 0,
            protocol_features: VhostUserProtocolFeatures::empty(),
            memory: MemoryTable::new(),
            rings,
            log: None,
            marked: None,
            inflight: None,
            channel: None,
            fatal: None,
        })
    }

    /// Why the daemon is to end, if it is.
    pub(crate) fn take_fatal(&mut self) -> Option<Error> {
        self.fatal.take()
    }

    /// Whether a message that asks for it is answered by whether it was refused.
    pub(crate) fn acknowledges(&self) -> bool {
        self.protocol_features.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn offered_features(&self) -> u64 {
        let own = VhostUserVirtioFeatures::LOG_ALL | VhostUserVirtioFeatures::PROTOCOL_FEATURES;
        self.disk.features() | own.bits()
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        let count = self.rings.len();
        let place = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        place.ok_or(Refusal::NoRing { index, count })
    }

    /// A ring of which something is to be set that its thread knows nothing of.
    fn stopped_ring(&mut self, index: u32, what: &'static str) -> Result<&mut Ring, Refusal> {
        let ring = self.ring(index)?;
        if ring.is_running() { Err(Refusal::RingRuns { index, what }) } else { Ok(ring) }
    }

    /// Starts a ring, if the front-end has said all that is needed.
    fn start_if_ready(&mut self, index: u32) -> Result<(), Refusal> {
        let ring = self.ring(index)?;
        let Some(addresses) = ring.addresses.filter(|_| ring.is_ready()) else { return Ok(()) };
        let (size, base) = (ring.size, ring.base);
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let lease = match self.device.image.lease(|pause| !self.hangup.ends_within(pause)) {
            Ok(Some(lease)) => lease,
            Ok(None) => return Err(Refusal::Ended),
            Err(error) => {
                let reason = error.to_string();
                self.fatal = Some(error);
                return Err(Refusal::Fatal(reason));
            }
        };
        // Not before: what an earlier process has under way in the kernel keeps its lock, however that process ended.
        let (start, heads, records) = self.place(number, size, base, addresses)?;
        let queue = Queue::resume(start.config, start.next_avail, start.next_used)
            .map_err(|source| Refusal::RingConfig { index: number, source })?;
        let system = |what| move |source| Refusal::RingSystem { index, what, source };
        let processor = self.processor(&queue).map_err(system("its engine cannot be made"))?;
        let (memory, hangup) = (self.memory.reader(), self.hangup.clone());
        let ring = self.ring(index)?;
        let log = ring.log().clone();
        let server =
            |events| Ok(Server { index: number, queue, memory, processor, records, log, hangup, events, heads });
        ring.start(lease, server, format!("ring {index}")).map_err(system("its thread cannot be started"))?;
        tracing::info!(ring = index, size, base = start.next_avail, "the ring is started");
        Ok(())
    }

    /// Where a ring lies, where it goes on, and what of it was under way when an earlier process ended.
    fn place(
        &self,
        index: u16,
        size: u16,
        base: u16,
        addresses: Addresses,
    ) -> Result<(Start, Vec<u16>, Records), Refusal> {
        let translate =
            |part, user_addr| self.memory.translate(user_addr).ok_or(Refusal::RingAddress { index, part, user_addr });
        let used = translate("used ring", addresses.used)?;
        let config = QueueConfig {
            size,
            desc: translate("descriptor table", addresses.desc)?,
            avail: translate("available ring", addresses.avail)?,
            used,
            event_idx: false,
            indirect: false,
        };
        let config = config.with_features(self.features);
        let next_used = self.used_index(used).map_err(|source| Refusal::RingMemory { index, source })?;
        let recorder = self.device.stats.as_ref().map(Stats::recorder);
        let Some(mut inflight) = self.inflight.as_ref().and_then(|inflight| inflight.queue(index)) else {
            return Ok((Start { config, next_avail: base, next_used }, Vec::new(), (None, recorder)));
        };
        let heads = inflight.recover(size, next_used)?;
        // All that was taken from the ring is either used or under way.
        let next_avail = next_used.wrapping_add(u16::try_from(heads.len()).unwrap_or(u16::MAX));
        if !heads.is_empty() {
            tracing::info!(ring = index, count = heads.len(), "requests are taken up again");
        }
        Ok((Start { config, next_avail, next_used }, heads, (Some(inflight), recorder)))
    }

    /// The index of the used entry that comes next, as the driver sees it (VIRTIO 1.2, 2.7.8).
    fn used_index(&self, used: IoAddress) -> Result<u16, memory_model::guest_memory::Error> {
        let addr = IoAddress(used.0.wrapping_add(2));
        let idx: Le16 = self.memory.reader().read().read_obj(addr)?;
        Ok(idx.to_native())
    }

    fn processor(&self, queue: &Queue) -> std::io::Result<Processor> {
        let disk = Arc::clone(&self.disk);
        Ok(match self.device.options.engine {
            Engine::Sync => Processor::Sync(disk),
            Engine::IoUring => Processor::Engine(Box::new(Worker::new(disk, queue)?)),
        })
    }

    /// Stops all rings that run while something changes, and starts them again. One that has lost its memory is broken, as if
    /// that had been removed while it ran.
    fn paused<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let _lease = self.device.image.hold();
        let running: Vec<bool> = self.rings.iter().map(Ring::is_running).collect();
        self.rings.iter_mut().for_each(Ring::pause);
        let outcome = change(self);
        for (index, _) in (0..).zip(running).filter(|(_, was_running)| *was_running) {
            if let Err(reason) = self.start_if_ready(index) {
                tracing::warn!(ring = index, %reason, "the ring is broken");
                self.ring(index)?.signal_error();
            }
        }
        outcome
    }

    /// Waits until every running ring uses the present memory map. A ring's thread takes the map once for each batch: without
    /// this, a request that is made available after the message's reply could be served in the map that was there before.
    fn refresh_rings(&self) {
        // All at once, then one after the other.
        let refreshed: Vec<_> = self.rings.iter().filter_map(|ring| Some((ring, ring.refresh()?))).collect();
        for (ring, is_done) in refreshed {
            ring.wait_for(&is_done); // a thread that has ended uses no memory
        }
    }

    /// Has writes marked where the front-end wants them to be, and nowhere else.
    fn update_log(&mut self) -> Result<(), Refusal> {
        let wanted = self.log.clone().filter(|_| self.features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0);
        let is_same = match (&self.marked, &wanted) {
            (None, None) => true,
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            _ => false,
        };
        if !is_same {
            self.memory.exchange_log(self.marked.as_ref(), wanted.as_ref())?;
            self.marked = wanted;
        }
        for ring in &self.rings {
            ring.log().set_log(self.log.clone());
        }
        Ok(())
    }

    fn set_log(&mut self, len: u64, offset: u64, file: File) -> Result<(), Refusal> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let memory = MmapRegion::from_file(FileOffset::new(file, offset), size);
        let memory = memory.map_err(|source| Refusal::Log { len, offset, source })?;
        self.log = Some(Arc::new(LogBitmap::new(Arc::new(memory))));
        self.update_log()
    }
}

impl Drop for Session {
    /// Answers all requests that are under way, and lets go of everything.
    fn drop(&mut self) {
        self.rings.iter_mut().for_each(Ring::stop);
        // Only to attach a log can fail.
        self.memory.exchange_log(self.marked.take().as_ref(), None).ok();
    }
}
