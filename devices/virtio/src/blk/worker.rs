//! A queue's requests, many under way at a time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use memory_model::atomic::RegionMap;
use memory_model::buffers::uring::{Completion, FileEngine};
use memory_model::guest_memory::Error;
use memory_model::io_memory::IoMemory;

use super::budget::Budget;
use super::device::{Block, Processed, Task};
use super::format::{S_IOERR, S_OK};
use super::journal::{Answer, Journal};
use super::transfer::{End, Transfer, lost};
use crate::queue::{Chain, Queue, QueueError};

/// Why a worker did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The queue is broken, or breaks.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The kernel did not begin requests, as it has no memory, or may not be asked: nothing is lost, and to go on can be
    /// tried again, later.
    #[error("requests cannot be begun: {0}")]
    Engine(#[from] io::Error),
}

/// Answers a disk's requests of one queue, many of which are under way at a time: as many as the queue has entries.
///
/// What [`Block::process_queue`] does one after the other is done here by a [`FileEngine`], which reads and writes the
/// driver's buffers in place, by `io_uring` where there is one. A request is answered when it is done, in any order. Its
/// buffers and the place of its status stay mapped until then, whatever happens to the memory's map.
///
/// A flush is begun when all writes are done that came before it in the queue. Sectors are discarded and zeroed while the
/// request is taken: others wait for that.
///
/// ```
/// use std::os::fd::AsFd;
/// use std::sync::Arc;
///
/// use memory_model::{GuestMemoryAtomic, GuestMemoryMmap};
/// use memory_model_virtio::blk::{Block, Worker, WorkerError};
/// use memory_model_virtio::Queue;
///
/// /// What a device's thread does; `wait` returns when the driver kicks, or the descriptor can be read.
/// fn serve(
///     disk: Arc<Block>,
///     mut queue: Queue,
///     map: &GuestMemoryAtomic<GuestMemoryMmap>,
///     wait: impl Fn(&dyn AsFd),
///     interrupt: impl Fn(),
/// ) -> Result<(), WorkerError> {
///     let (mut worker, mut memory) = (Worker::new(disk, &queue)?, map.reader());
///     loop {
///         let processed = worker.process_queue(&mut queue, &*memory.read())?;
///         if processed.notify {
///             interrupt();
///         }
///         if !processed.more {
///             wait(&worker);
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Worker {
    disk: Arc<Block>,
    engine: FileEngine,
    /// By the tokens of their transfers.
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Those that wait for writes.
    flushes: VecDeque<Flush>,
    /// The number of writes that are under way.
    writes: usize,
    /// How many requests were taken.
    taken: u64,
}

/// A request that is under way.
#[derive(Debug)]
struct Job {
    /// Its place among those that were taken.
    number: u64,
    kind: Kind,
    /// The bytes to be transferred.
    len: usize,
    /// The bytes that the request writes to the disk.
    written: u64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// Makes stable what was written: a flush, or the second half of a write.
    Sync,
}

/// A flush that waits.
#[derive(Debug)]
struct Flush {
    token: usize,
    number: u64,
    /// How many of the writes that came before it are under way.
    writes: usize,
}

/// What became of a chain.
enum Begun {
    /// A transfer is under way.
    UnderWay,
    Answered(Answer),
}

impl Worker {
    /// A worker for a queue of the disk's, after the features were negotiated.
    ///
    /// If there is no `io_uring` that is logged, as a warning, and requests are done one by one.
    ///
    /// # Errors
    ///
    /// As for [`FileEngine::new`]; the file cannot be had twice, as the process has too many open.
    pub fn new(disk: Arc<Block>, queue: &Queue) -> io::Result<Self> {
        let engine = FileEngine::new(disk.file().try_clone()?, queue.size())?;
        if let Some(reason) = engine.fallback_reason() {
            tracing::warn!(%reason, "no io_uring: a disk's requests are done one by one");
        }
        Ok(Self::with(disk, engine))
    }

    /// As [`new`](Self::new), without `io_uring` also where there is one.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn without_io_uring(disk: Arc<Block>, queue: &Queue) -> io::Result<Self> {
        let engine = FileEngine::without_io_uring(disk.file().try_clone()?, queue.size())?;
        Ok(Self::with(disk, engine))
    }

    fn with(disk: Arc<Block>, engine: FileEngine) -> Self {
        let (jobs, free) = (Vec::new(), Vec::new());
        Self { disk, engine, jobs, free, flushes: VecDeque::new(), writes: 0, taken: 0 }
    }

    /// Why requests are done one by one; `None` if they are not.
    pub fn fallback_reason(&self) -> Option<&io::Error> {
        self.engine.fallback_reason()
    }

    /// How many requests were taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.jobs.len().saturating_sub(self.free.len())
    }

    /// Answers the requests that are done, takes those that are available, and asks for a notification of the next. To be
    /// called when the driver notifies, and when the [descriptor](Self::as_fd) can be read; always with the same queue.
    ///
    /// Takes at most as many as the queue has entries, and fewer if they are large: what the kernel has at hand it copies while a
    /// request is begun, so the call returns after some 256 KiB, and the driver sees those requests before others are begun. See
    /// [`Processed::more`]. Others wait in the ring while as many as there is room for are under way.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: what was answered before stays answered, and the driver is to be notified.
    pub fn process_queue<I>(&mut self, queue: &mut Queue, mem: &I) -> Result<Processed, WorkerError>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        self.process_queue_with(queue, mem, &mut ())
    }

    /// As [`process_queue`](Self::process_queue), and tells `journal` of each request.
    ///
    /// # Errors
    ///
    /// As for [`process_queue`](Self::process_queue).
    pub fn process_queue_with<I, J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &I,
        journal: &mut J,
    ) -> Result<Processed, WorkerError>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        let (mut processed, mut budget) = (Processed::default(), Budget::new());
        let mut left = queue.size();
        loop {
            queue.disable_notifications(mem)?;
            if self.in_flight() > 0 {
                self.answer_done(queue, mem, journal, &mut processed)?;
            }
            while left > 0 && !budget.is_spent() && self.has_room() {
                let Some(chain) = queue.pop(mem)? else { break };
                left = left.saturating_sub(1);
                let head = chain.head();
                journal.taken(head);
                budget.spend(&chain);
                match self.begin(&chain, mem) {
                    Ok(Begun::UnderWay) => {}
                    Ok(Begun::Answered(answer)) => {
                        budget.spend_on(answer.kind(), self.disk.is_writeback());
                        answer.publish((queue, head), mem, journal, &mut processed)?;
                    }
                    Err(reason) => return Err(queue.mark_broken(reason).into()),
                }
            }
            self.answer_done(queue, mem, journal, &mut processed)?;
            // Where there is no room, that is known when there is again.
            processed.more = queue.enable_notifications(mem)? && self.has_room();
            if !processed.more || left == 0 || budget.is_spent() {
                processed.notify = queue.needs_notification(mem)?;
                return Ok(processed);
            }
        }
    }

    /// Begins the requests at `heads`, in that order, which were taken and not answered when the queue was
    /// [resumed](Queue::resume) and are among its buffers in flight, and answers those that are done at once: to be called
    /// before [`process_queue`](Self::process_queue), which [`Processed::more`] then says is to follow. They are done again
    /// from their start, whatever was done of them before.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: what was answered before stays answered, and the driver is to be notified. If a head is not in the
    /// table, or there twice, or there are more than buffers in flight of which the worker does not know, the queue is broken
    /// and nothing was begun. After [`WorkerError::Engine`] all were taken, and [`process_queue`](Self::process_queue) goes on.
    pub fn resubmit<I, J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &I,
        heads: &[u16],
        journal: &mut J,
    ) -> Result<Processed, WorkerError>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        // So there is room for all, as there is for as many as the queue has entries.
        queue.check_retaken(heads, self.in_flight())?;
        let (mut processed, mut budget) = (Processed { more: true, ..Processed::default() }, Budget::new());
        for &head in heads {
            if budget.is_spent() {
                self.answer_done(queue, mem, journal, &mut processed)?;
                budget = Budget::new();
            }
            let chain = queue.retake(mem, head)?;
            journal.taken(head);
            budget.spend(&chain);
            match self.begin(&chain, mem) {
                Ok(Begun::UnderWay) => {}
                Ok(Begun::Answered(answer)) => answer.publish((queue, head), mem, journal, &mut processed)?,
                Err(reason) => return Err(queue.mark_broken(reason).into()),
            }
        }
        self.answer_done(queue, mem, journal, &mut processed)?;
        processed.notify = queue.needs_notification(mem)?;
        Ok(processed)
    }

    /// Waits until all requests that were taken are answered, and takes no more: before the device is paused, or its state is
    /// saved.
    ///
    /// # Errors
    ///
    /// As for [`process_queue`](Self::process_queue).
    pub fn drain<I: IoMemory>(&mut self, queue: &mut Queue, mem: &I) -> Result<Processed, WorkerError> {
        self.drain_with(queue, mem, &mut ())
    }

    /// As [`drain`](Self::drain), and tells `journal` of each request.
    ///
    /// # Errors
    ///
    /// As for [`process_queue`](Self::process_queue).
    pub fn drain_with<I: IoMemory, J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &I,
        journal: &mut J,
    ) -> Result<Processed, WorkerError> {
        let mut all = Processed::default();
        loop {
            let processed = self.drain_next(queue, mem, journal)?;
            all.requests = all.requests.saturating_add(processed.requests);
            all.failed = all.failed.saturating_add(processed.failed);
            all.notify |= processed.notify;
            if !processed.more {
                return Ok(all);
            }
        }
    }

    /// A step of [`drain_with`](Self::drain_with): waits until a request is done, publishes those that are, and returns, so that
    /// the driver is notified of them while others are under way. To be called again while there is [more](Processed::more).
    ///
    /// # Errors
    ///
    /// As for [`process_queue`](Self::process_queue).
    pub fn drain_next<I: IoMemory, J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &I,
        journal: &mut J,
    ) -> Result<Processed, WorkerError> {
        let mut processed = Processed::default();
        self.engine.wait()?;
        self.answer_done(queue, mem, journal, &mut processed)?;
        processed.more = self.in_flight() > 0;
        processed.notify = queue.needs_notification(mem)?;
        Ok(processed)
    }

    /// Waits until a request is done, which [`process_queue`](Self::process_queue) then answers; not if none is under way.
    ///
    /// # Errors
    ///
    /// As for [`FileEngine::wait`].
    pub fn wait(&mut self) -> io::Result<()> {
        self.engine.wait()
    }

    /// Cancels all requests, waits until none is under way, and answers none: when the driver resets the device, or the queue.
    /// Nothing is written to the driver's memory any more.
    ///
    /// # Errors
    ///
    /// As for [`FileEngine::cancel`]: then some may be under way still.
    pub fn reset(&mut self) -> io::Result<()> {
        self.engine.cancel()?;
        while self.engine.in_flight() > 0 {
            self.engine.wait()?;
            drop(self.engine.next_completion()?);
        }
        self.flushes.clear();
        self.jobs.clear();
        self.free.clear();
        self.writes = 0;
        Ok(())
    }

    /// Whether another request can be taken.
    fn has_room(&self) -> bool {
        self.in_flight() < self.engine.capacity()
    }

    /// Does what a request says, or begins to.
    fn begin<I>(&mut self, chain: &Chain<'_>, mem: &I) -> Result<Begun, QueueError>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        let head = chain.head();
        let unanswerable = QueueError::Unanswerable { head };
        let Some(data_len) = chain.writable().len().checked_sub(1) else { return Err(unanswerable) };
        let Ok((mut data, mut end)) = chain.writer(mem).split_at(data_len) else { return Err(unanswerable) };
        let mut end = match end.owned_buffers(1) {
            Ok(status) => End { head, kind: 0, data_len, status },
            // Memory that only its own methods reach: the kernel does not, so nothing can be under way.
            Err(Error::NoHostMemory(_)) => return self.disk.answer(mem, chain).map(Begun::Answered),
            Err(error) => return Err(lost(head, error)),
        };
        let mut request = chain.reader(mem);
        let (kind, task) = self.disk.begin(&mut request, &mut data);
        end.kind = kind;
        let transfer = match task {
            Ok(Task::Read(extent)) => Transfer::read(extent, &mut data),
            Ok(Task::Write(extent)) => Transfer::write(extent, &mut request),
            Ok(Task::Flush) => Ok(Transfer::Flush),
            Ok(Task::Nothing) => return end.answer(S_OK, data.bytes_written(), 0).map(Begun::Answered),
            Err(failure) => return end.answer(failure.status(), 0, 0).map(Begun::Answered),
        };
        match transfer {
            Ok(transfer) => self.start(transfer, end),
            Err(Error::NoHostMemory(_)) => self.disk.answer(mem, chain).map(Begun::Answered),
            Err(_) => end.answer(S_IOERR, 0, 0).map(Begun::Answered),
        }
    }

    /// Begins a transfer.
    fn start(&mut self, transfer: Transfer, mut end: End) -> Result<Begun, QueueError> {
        let token = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len().saturating_sub(1)
        });
        self.taken = self.taken.wrapping_add(1);
        let (number, name) = (self.taken, token as u64);
        let (kind, len, is_taken) = match transfer {
            Transfer::Read(start, data) => (Kind::Read, data.len(), self.engine.read_at(data, start, name).is_ok()),
            Transfer::Write(start, data) => (Kind::Write, data.len(), self.engine.write_at(data, start, name).is_ok()),
            Transfer::Flush if self.writes > 0 => {
                self.flushes.push_back(Flush { token, number, writes: self.writes });
                (Kind::Sync, 0, true)
            }
            Transfer::Flush => (Kind::Sync, 0, self.engine.sync_data(name).is_ok()),
        };
        if !is_taken {
            // Never: the engine has room for each, and the disk has no place that a file cannot have.
            self.free.push(token);
            return end.answer(S_IOERR, 0, 0).map(Begun::Answered);
        }
        self.writes = self.writes.saturating_add(usize::from(kind == Kind::Write));
        let written = if kind == Kind::Write { len as u64 } else { 0 };
        self.put(token, Job { number, kind, len, written, end });
        Ok(Begun::UnderWay)
    }

    /// Answers all requests that are done, and begins what follows.
    fn answer_done<I: IoMemory, J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &I,
        journal: &mut J,
        processed: &mut Processed,
    ) -> Result<(), WorkerError> {
        self.engine.submit()?;
        while let Some(completion) = self.engine.next_completion()? {
            if let Some((head, answer)) = self.done(&completion) {
                // What was written to memory is marked as dirty, and then the driver is told of it.
                let answer = answer.map_err(|reason| queue.mark_broken(reason))?;
                answer.publish((queue, head), mem, journal, processed)?;
            }
            self.engine.submit()?;
        }
        Ok(())
    }

    /// Takes note that a transfer is done. Answers the request, unless something follows.
    fn done(&mut self, completion: &Completion) -> Option<(u16, Result<Answer, QueueError>)> {
        let token = usize::try_from(completion.token).ok()?;
        let mut job = self.jobs.get_mut(token)?.take()?;
        let mut is_good = matches!(completion.result, Ok(count) if count == job.len);
        let mut data_written = if job.kind == Kind::Read { job.end.data_len } else { 0 };
        if job.kind == Kind::Write {
            self.written(job.number);
            if is_good && !self.disk.is_writeback() {
                (job.kind, job.len) = (Kind::Sync, 0);
                is_good = self.engine.sync_data(completion.token).is_ok(); // there is room, as the write is done
                if is_good {
                    self.put(token, job);
                    return None;
                }
            }
        }
        self.free.push(token);
        if !is_good {
            (data_written, job.written) = (0, 0);
        }
        let answer = job.end.answer(if is_good { S_OK } else { S_IOERR }, data_written, job.written);
        Some((job.end.head, answer))
    }

    /// A write is done. Begins the flushes that have waited for it, and for no other.
    fn written(&mut self, number: u64) {
        self.writes = self.writes.saturating_sub(1);
        for flush in self.flushes.iter_mut().filter(|flush| flush.number > number) {
            flush.writes = flush.writes.saturating_sub(1);
        }
        // Those that came before have waited for no more.
        while let Some(flush) = self.flushes.front().filter(|flush| flush.writes == 0) {
            if self.engine.sync_data(flush.token as u64).is_err() {
                break; // never: there is room, as it was not begun before
            }
            self.flushes.pop_front();
        }
    }

    fn put(&mut self, token: usize, job: Job) {
        if let Some(place) = self.jobs.get_mut(token) {
            *place = Some(job);
        }
    }
}

impl AsFd for Worker {
    /// An eventfd(2) that is readable (`POLLIN`) when requests are done, until [`process_queue`](Self::process_queue) has published
    /// them and clears it. It is for polling, and nothing else.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.as_fd()
    }
}
