use std::sync::atomic::Ordering;

use memory_model::{AtomicAccess, Bytes, volatile_memory};
use memory_model_virtio::blk::{Journal, Outcome};

use super::layout::{DESC_NUM, FEATURES, LAST_BATCH_HEAD, THIS_VERSION, USED_IDX, VERSION, counter, inflight, next};
use super::{Error, Part};

/// A queue's part of the region: who is under way, kept up to date by the thread that has the ring.
///
/// First [`recover`](Self::recover); then it is a [`Journal`]. Each request is a batch of its own. A step that cannot be
/// written down has the part [fail](Self::failed).
///
/// ```no_run
/// use memory_model::IoMemory;
/// use memory_model_virtio::{Block, Queue, QueueConfig};
/// use memory_model_vhost_user_blk::inflight::QueueInflight;
///
/// /// What a ring's thread does when the ring is started; `used_idx` is what the used ring has.
/// fn start<I: IoMemory>(
///     disk: &Block,
///     config: QueueConfig,
///     mem: &I,
///     used_idx: u16,
///     mut inflight: QueueInflight,
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     let heads = inflight.recover(config.size, used_idx)?;
///     // Those under way had been taken from the available ring, and others behind them had not.
///     let next_avail = used_idx.wrapping_add(u16::try_from(heads.len())?);
///     let mut queue = Queue::resume(config, next_avail, used_idx)?;
///     let mut processed = disk.resubmit(&mut queue, mem, &heads, &mut inflight)?;
///     while processed.more {
///         processed = disk.process_queue_with(&mut queue, mem, &mut inflight)?;
///     }
///     inflight.failed().map_or(Ok(()), |error| Err(error.to_string().into()))
/// }
/// ```
#[derive(Debug)]
pub struct QueueInflight<B = Part> {
    bytes: B,
    /// The number of descriptors that there is room for.
    queue_size: u16,
    /// The ring's size; 0, and no head is below it, before it is known.
    ring_size: u16,
    /// For the request that is taken next.
    counter: u64,
    last_batch_head: u16,
    /// By heads: written down as under way, and not taken again since.
    recovered: Vec<bool>,
    failed: Option<Error>,
}

impl<B: Bytes<usize, E = volatile_memory::Error>> QueueInflight<B> {
    /// The part that these bytes are, with room for so many descriptors. Usual is [`Inflight::queue`](super::Inflight::queue).
    pub fn new(bytes: B, queue_size: u16) -> Self {
        let recovered = Vec::new();
        Self { bytes, queue_size, ring_size: 0, counter: 0, last_batch_head: 0, recovered, failed: None }
    }

    /// Finds the requests that were under way when the part was last written, of a ring whose used index is `used_idx`
    /// now: their heads, in the order in which they had been taken. A part that holds nothing yet is made ready.
    ///
    /// Heads are below `ring_size`, and none is there twice. All of them are among the ring's buffers in flight, and are to
    /// be resubmitted before any other is taken. Can be repeated, if it is cut off, and when the ring is started again.
    ///
    /// # Errors
    ///
    /// [`Error`] if the part is not of this ring, or cannot be accessed. Then nothing is written any more.
    pub fn recover(&mut self, ring_size: u16, used_idx: u16) -> Result<Vec<u16>, Error> {
        (self.ring_size, self.failed) = (0, None);
        if ring_size == 0 || ring_size > self.queue_size {
            return Err(Error::RingSize { ring_size, queue_size: self.queue_size });
        }
        match (self.load(VERSION)?, self.load(FEATURES)?) {
            (0_u16, _) => self.initialize(used_idx)?,
            (THIS_VERSION, 0_u64) => self.close_batch(ring_size, used_idx)?,
            (version, features) => return Err(Error::Version { version, features }),
        }
        self.last_batch_head = self.load(LAST_BATCH_HEAD)?;
        let heads = self.in_flight(ring_size)?;
        self.recovered.clear();
        self.recovered.resize(usize::from(ring_size), false);
        for &head in &heads {
            self.is_recovered(head, true);
        }
        self.ring_size = ring_size;
        Ok(heads)
    }

    /// The first access that failed, after which nothing was written any more: the front-end has truncated its file. What was
    /// under way is not known then, and the connection is to be ended.
    pub fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Nothing is under way. The version comes last, so that a part that is not ready is begun again.
    fn initialize(&self, used_idx: u16) -> Result<(), Error> {
        for head in 0..self.queue_size {
            self.store(0_u8, inflight(head))?;
        }
        self.store(0_u64, FEATURES)?;
        self.store(self.queue_size, DESC_NUM)?;
        self.store(0_u16, LAST_BATCH_HEAD)?;
        self.store(used_idx, USED_IDX)?;
        self.store(THIS_VERSION, VERSION)
    }

    /// Crosses out what is in the used ring and was not crossed out: the last batch, if it was published. From whoever
    /// wrote it, so it may be of several.
    fn close_batch(&self, ring_size: u16, used_idx: u16) -> Result<(), Error> {
        let (desc_num, queue_size) = (self.load(DESC_NUM)?, self.queue_size);
        if desc_num < ring_size || desc_num > queue_size {
            return Err(Error::DescNum { desc_num, ring_size, queue_size });
        }
        let recorded: u16 = self.load(USED_IDX)?;
        let batch = used_idx.wrapping_sub(recorded);
        if batch > ring_size {
            // A ring that was reset since, with nothing under way, begins anew; the front-end may have kept the region.
            for head in 0..ring_size {
                if self.load::<u8>(inflight(head))? != 0 {
                    return Err(Error::UsedIndex { recorded, used_idx, ring_size });
                }
            }
            return self.store(used_idx, USED_IDX);
        }
        if batch == 0 {
            return Ok(());
        }
        let mut head: u16 = self.load(LAST_BATCH_HEAD)?;
        // As many steps as that, if the list is a loop, too.
        for _ in 0..batch {
            if head >= ring_size {
                return Err(Error::Batch { head, ring_size });
            }
            self.store(0_u8, inflight(head))?;
            head = self.load(next(head))?;
        }
        self.store(used_idx, USED_IDX)
    }

    /// Those that are under way, in the order of their counters; of equal ones, which no back-end writes, in that of their
    /// heads. The counter goes on behind them.
    fn in_flight(&mut self, ring_size: u16) -> Result<Vec<u16>, Error> {
        let mut found = Vec::new();
        for head in 0..ring_size {
            if self.load::<u8>(inflight(head))? != 0 {
                found.push((self.load::<u64>(counter(head))?, head));
            }
        }
        found.sort_unstable();
        self.counter = found.last().map_or(0, |&(last, _)| last.saturating_add(1));
        Ok(found.into_iter().map(|(_, head)| head).collect())
    }

    /// Whether a request was found as under way, and not taken again since; from now on it is as `becomes` says.
    fn is_recovered(&mut self, head: u16, becomes: bool) -> bool {
        self.recovered.get_mut(usize::from(head)).is_some_and(|is| std::mem::replace(is, becomes))
    }

    /// Writes a step down, unless one could not be.
    #[inline]
    fn step(&mut self, head: u16, step: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if self.failed.is_none() && head < self.ring_size {
            if let Err(error) = step(self) {
                self.failed = Some(error);
            }
        }
    }

    #[inline]
    fn load<T: AtomicAccess>(&self, at: usize) -> Result<T, Error> {
        // Acquire: no load of what a finished process wrote comes before that of its version.
        Ok(self.bytes.load(at, Ordering::Acquire)?)
    }

    #[inline]
    fn store<T: AtomicAccess>(&self, value: T, at: usize) -> Result<(), Error> {
        // Release: comes after all stores before it, those to the used ring among them. The process that finds them runs
        // when this one has ended, which it may at any instruction.
        Ok(self.bytes.store(value, at, Ordering::Release)?)
    }
}

/// The steps of the specification, each store after the one before.
impl<B: Bytes<usize, E = volatile_memory::Error>> Journal for QueueInflight<B> {
    /// Writes down that it is under way. One that was recovered is written down already, and keeps its place in the order.
    fn taken(&mut self, head: u16) {
        if self.is_recovered(head, false) {
            return;
        }
        self.step(head, |part| {
            part.store(part.counter, counter(head))?;
            part.counter = part.counter.saturating_add(1);
            part.store(1_u8, inflight(head))
        });
    }

    /// Writes down that it is the last batch.
    fn done(&mut self, head: u16) {
        self.step(head, |part| {
            part.store(part.last_batch_head, next(head))?;
            part.store(head, LAST_BATCH_HEAD)?;
            part.last_batch_head = head;
            Ok(())
        });
    }

    /// Crosses it out. The used ring's index that is written down then says that this was done.
    fn used(&mut self, head: u16, next_used: u16, _outcome: &Outcome) {
        self.step(head, |part| {
            part.store(0_u8, inflight(head))?;
            part.store(next_used, USED_IDX)
        });
    }
}
