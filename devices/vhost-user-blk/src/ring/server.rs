//! What a ring's thread does.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use memory_model::GuestMemoryMmap;
use memory_model::atomic::Reader;
use memory_model_virtio::blk::{Block, Processed, Worker, WorkerError};
use memory_model_virtio::{Queue, QueueConfig, QueueError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Command, Events, RingLog, events};
use crate::hangup::Hangup;
use crate::inflight::QueueInflight;
use crate::stats::Recorder;

/// How long a thread waits that is not told of new buffers.
const POLL: Duration = Duration::from_millis(1);
/// How long it waits before it tries again what the kernel had no room for.
const RETRY: Duration = Duration::from_millis(10);

/// Who is told of each request: the region that outlives the process, and the statistics.
pub(crate) type Records = (Option<QueueInflight>, Option<Recorder>);

/// How requests are answered.
#[derive(Debug)]
pub(crate) enum Processor {
    /// One after the other.
    Sync(Arc<Block>),
    /// Many at a time.
    Engine(Box<Worker>),
}

impl Processor {
    fn process(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        records: &mut Records,
    ) -> Result<Processed, WorkerError> {
        match self {
            Self::Sync(disk) => Ok(disk.process_queue_with(queue, mem, records)?),
            Self::Engine(worker) => worker.process_queue_with(queue, mem, records),
        }
    }

    fn resubmit(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        heads: &[u16],
        records: &mut Records,
    ) -> Result<Processed, WorkerError> {
        match self {
            Self::Sync(disk) => Ok(disk.resubmit(queue, mem, heads, records)?),
            Self::Engine(worker) => worker.resubmit(queue, mem, heads, records),
        }
    }

    /// A step of what answers all requests that are under way.
    fn drain(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        records: &mut Records,
    ) -> Result<Processed, WorkerError> {
        match self {
            Self::Sync(_) => Ok(Processed::default()),
            Self::Engine(worker) => worker.drain_next(queue, mem, records),
        }
    }
}

/// A ring, with all that its thread needs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) index: u16,
    pub(crate) queue: Queue,
    pub(crate) memory: Reader<GuestMemoryMmap>,
    pub(crate) processor: Processor,
    pub(crate) records: Records,
    pub(crate) log: RingLog,
    /// Ends the connection of a peer that has taken away what was agreed on.
    pub(crate) hangup: Hangup,
    pub(crate) events: Events,
    /// What was under way when an earlier process ended.
    pub(crate) heads: Vec<u16>,
}

/// What follows a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next step, at once.
    Go,
    /// To wait for the driver.
    Wait,
    /// To wait a moment.
    Retry,
    /// To wait until the ring is stopped.
    Broken,
}

impl Server {
    /// Serves the ring until it is to stop. Answers the index of the available entry that comes next.
    pub(crate) fn run(mut self) -> u16 {
        let heads = std::mem::take(&mut self.heads);
        let mut next = Next::Go;
        if !heads.is_empty() {
            next = self.step(|processor, queue, mem, records| processor.resubmit(queue, mem, &heads, records));
        }
        loop {
            while let Some(command) = self.events.commands.next() {
                match command {
                    Command::Stop => {
                        self.drain();
                        self.notify_again(next);
                        return self.queue.next_avail();
                    }
                    Command::Refresh(done) => {
                        self.refresh();
                        // Whoever has asked may have gone.
                        done.send(()).unwrap_or_default();
                    }
                }
            }
            self.notify_again(next);
            match next {
                Next::Go => next = self.step(Processor::process),
                Next::Wait | Next::Retry | Next::Broken => next = self.wait(next),
            }
        }
    }

    /// Has the processor do something in the memory as it is now, and tells the driver.
    fn step(
        &mut self,
        what: impl FnOnce(&mut Processor, &mut Queue, &GuestMemoryMmap, &mut Records) -> Result<Processed, WorkerError>,
    ) -> Next {
        let mem = self.memory.read();
        self.queue.pin(&*mem);
        let outcome = what(&mut self.processor, &mut self.queue, &mem, &mut self.records);
        drop(mem);
        let dropped = self.log.used_ring_written(QueueConfig::used_len(self.queue.size()));
        let (notify, next) = match outcome {
            Ok(Processed { notify, more: true, .. }) => (notify, Next::Go),
            Ok(Processed { notify, .. }) => (notify, Next::Wait),
            Err(WorkerError::Engine(reason)) => {
                tracing::warn!(ring = self.index, %reason, "requests wait");
                (true, Next::Retry)
            }
            Err(WorkerError::Queue(reason)) => (true, self.broken(&reason)),
            Err(reason) => {
                tracing::error!(ring = self.index, %reason, "requests wait");
                (true, Next::Retry)
            }
        };
        if notify {
            self.events.call.signal();
        }
        if dropped > 0 {
            self.hangup.because(format_args!("{dropped} pages were not logged: the log is too small, or gone"));
            return self.abandon();
        }
        if let Some(reason) = self.records.0.as_ref().and_then(QueueInflight::failed) {
            self.hangup.because(format_args!("the inflight region cannot be written: {reason}"));
            return self.abandon();
        }
        next
    }

    /// The driver has made nonsense of the ring, which is left alone from now on.
    fn broken(&mut self, reason: &QueueError) -> Next {
        tracing::warn!(ring = self.index, %reason, "the ring is broken");
        self.events.error.signal();
        self.abandon()
    }

    /// Leaves the ring alone from now on, and lets go of the memory that it and its requests keep: nobody takes completions
    /// any more, and the session waits for the memory of a region that it removes.
    fn abandon(&mut self) -> Next {
        self.queue.unpin();
        if let Processor::Engine(worker) = &mut self.processor {
            if let Err(reason) = worker.reset() {
                tracing::error!(ring = self.index, %reason, "requests of a broken ring are under way still");
            }
        }
        Next::Broken
    }

    /// Uses the present memory map from now on, as every step does, and lets go of older ones.
    fn refresh(&mut self) {
        let mem = self.memory.read();
        self.queue.unpin();
        if self.queue.broken().is_none() {
            self.queue.pin(&*mem);
        }
    }

    /// Signals events once more, if that was asked for.
    fn notify_again(&self, next: Next) {
        if self.events.commands.takes_call() {
            self.events.call.signal();
        }
        if self.events.commands.takes_error() && next == Next::Broken {
            self.events.error.signal();
        }
    }

    /// Answers what is under way.
    fn drain(&mut self) {
        loop {
            match self.step(Processor::drain) {
                Next::Retry => std::thread::sleep(RETRY),
                Next::Go => {}
                Next::Wait | Next::Broken => return,
            }
        }
    }

    /// Waits for what comes next.
    fn wait(&mut self, next: Next) -> Next {
        let timeout = match (next, &self.events.kick) {
            (Next::Retry, _) => Some(RETRY),
            (Next::Wait, None) => Some(POLL),
            _ => None,
        };
        match self.poll(next, timeout) {
            Ok(next) => next,
            Err(reason) => {
                tracing::warn!(ring = self.index, %reason, "the driver cannot be waited for: the ring is broken");
                self.events.error.signal();
                self.abandon()
            }
        }
    }

    fn poll(&mut self, next: Next, timeout: Option<Duration>) -> io::Result<Next> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let commands = &self.events.commands;
        // First the commands; of the rest only what is of interest.
        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::new(commands, PollFlags::IN));
        let kick = self.events.kick.as_deref().filter(|_| next != Next::Broken);
        fds.extend(kick.map(|kick| PollFd::new(kick, PollFlags::IN)));
        if let (Processor::Engine(worker), true) = (&self.processor, next == Next::Wait) {
            fds.push(PollFd::from_borrowed_fd(worker.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            commands.clear();
        }
        if let (Some(kick), Some(true)) = (kick, kick.and_then(|_| ready.next())) {
            events::clear(kick)?;
        }
        Ok(if next == Next::Broken { next } else { Next::Go })
    }
}
