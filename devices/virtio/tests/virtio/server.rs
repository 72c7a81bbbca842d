//! A machine with a disk, and each who can serve its queue.

use std::fs::File;
use std::os::unix::fs::FileExt;

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
use memory_model_virtio::blk::{Block, BlockOptions, Journal, Outcome, RequestHeader, T_IN};
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
use memory_model_virtio::blk::{Worker, WorkerError};
use memory_model_virtio::{DriverQueue, Processed, Queue, QueueConfig, QueueError, Segment};

use crate::common::{DATA, QUEUE, memory, segment};

/// The queue's size.
pub(crate) const SIZE: u16 = 16;

/// A step that a journal was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Taken(u16),
    Done(u16),
    Used(u16, u16, Outcome),
}

/// A journal of steps alone.
#[derive(Default)]
pub(crate) struct Steps(pub(crate) Vec<Step>);

impl Journal for Steps {
    fn taken(&mut self, head: u16) {
        self.0.push(Step::Taken(head));
    }
    fn done(&mut self, head: u16) {
        self.0.push(Step::Done(head));
    }
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        self.0.push(Step::Used(head, next_used, *outcome));
    }
}

/// Who serves a queue.
pub(crate) enum Server {
    Disk(Box<Block>),
    #[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Worker(Box<Worker>),
}

pub(crate) struct Machine {
    pub(crate) mem: GuestMemoryMmap,
    file: File,
    pub(crate) config: QueueConfig,
    pub(crate) driver: DriverQueue,
    /// How many requests were made.
    made: u64,
}

impl Machine {
    /// A disk whose bytes are each their sector's number.
    pub(crate) fn new(sectors: u64) -> Self {
        let content: Vec<u8> = (0..sectors).flat_map(|sector| [sector as u8; 512]).collect();
        let (mem, file) = (memory(), tempfile::tempfile().unwrap());
        file.write_all_at(&content, 0).unwrap();
        let config = QueueConfig::contiguous(IoAddress(QUEUE), SIZE).unwrap();
        let driver = DriverQueue::new(&mem, config).unwrap();
        Self { mem, file, config, driver, made: 0 }
    }

    pub(crate) fn disk(&self) -> Block {
        let mut disk = Block::new(self.file.try_clone().unwrap(), BlockOptions::default()).unwrap();
        disk.set_features(disk.features());
        disk
    }

    pub(crate) fn queue(&self) -> Queue {
        Queue::new(self.config).unwrap()
    }

    /// All who can serve a queue.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let disk = Server::Disk(Box::new(self.disk()));
        #[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let (shared, queue) = (std::sync::Arc::new(self.disk()), self.queue());
            let ring = Worker::new(shared.clone(), &queue).unwrap();
            let calls = Worker::without_io_uring(shared, &queue).unwrap();
            vec![disk, Server::Worker(Box::new(ring)), Server::Worker(Box::new(calls))]
        }
        #[cfg(not(all(
            feature = "io-uring",
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64")
        )))]
        vec![disk]
    }

    /// Makes a request available, with places of its own; answers its head.
    pub(crate) fn add(&mut self, header: RequestHeader, readable: &[Segment], writable: &[Segment]) -> u16 {
        let place = DATA + self.made * 0x20;
        self.made += 1;
        self.mem.write_obj(header, GuestAddress(place)).unwrap();
        self.mem.write_obj(0xee_u8, GuestAddress(place + 16)).unwrap();
        let readable = [&[segment(place, 16)], readable].concat();
        let writable = [writable, &[segment(place + 16, 1)]].concat();
        let head = self.driver.add(&self.mem, &readable, &writable).unwrap();
        self.driver.publish(&self.mem).unwrap();
        head
    }

    /// A request to read a sector to a place that is its own, which is filled with something else before.
    pub(crate) fn read(&mut self, sector: u64) -> u16 {
        let place = DATA + 0x2_0000 + sector * 512;
        self.mem.fill(0xaa, 512, GuestAddress(place)).unwrap();
        self.add(RequestHeader::new(T_IN, sector), &[], &[segment(place, 512)])
    }

    pub(crate) fn was_read(&self, sector: u64) -> bool {
        let bytes: [u8; 512] = self.mem.read_obj(GuestAddress(DATA + 0x2_0000 + sector * 512)).unwrap();
        bytes == [sector as u8; 512]
    }

    /// The heads of all that was used since the last call.
    pub(crate) fn used(&mut self) -> Vec<u16> {
        let mut heads = Vec::new();
        while let Some(used) = self.driver.pop_used(&self.mem).unwrap() {
            heads.push(used.head);
        }
        heads
    }
}

impl Server {
    /// Serves until nothing is left to do; answers how many requests were answered.
    pub(crate) fn process<J: Journal>(&mut self, queue: &mut Queue, mem: &GuestMemoryMmap, journal: &mut J) -> u32 {
        let mut count = 0;
        loop {
            let processed = self.process_once(queue, mem, journal).unwrap();
            count += processed.requests;
            if !processed.more {
                break;
            }
        }
        #[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
        if let Self::Worker(worker) = self {
            count += worker.drain_with(queue, mem, journal).unwrap().requests;
        }
        count
    }

    /// Serves what is available, without waiting.
    pub(crate) fn process_once<J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        journal: &mut J,
    ) -> Result<Processed, QueueError> {
        match self {
            Self::Disk(disk) => disk.process_queue_with(queue, mem, journal),
            #[cfg(all(
                feature = "io-uring",
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64")
            ))]
            Self::Worker(worker) => worker.process_queue_with(queue, mem, journal).map_err(of_queue),
        }
    }

    /// Waits until a request is done, if any is under way.
    pub(crate) fn wait(&mut self) {
        match self {
            Self::Disk(_) => {}
            #[cfg(all(
                feature = "io-uring",
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64")
            ))]
            Self::Worker(worker) => worker.wait().unwrap(),
        }
    }

    /// Whether the kernel does requests by itself.
    pub(crate) fn is_uring(&self) -> bool {
        match self {
            Self::Disk(_) => false,
            #[cfg(all(
                feature = "io-uring",
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64")
            ))]
            Self::Worker(worker) => worker.fallback_reason().is_none(),
        }
    }

    /// Does requests again that were under way.
    pub(crate) fn resubmit<J: Journal>(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        heads: &[u16],
        journal: &mut J,
    ) -> Result<Processed, QueueError> {
        match self {
            Self::Disk(disk) => disk.resubmit(queue, mem, heads, journal),
            #[cfg(all(
                feature = "io-uring",
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64")
            ))]
            Self::Worker(worker) => worker.resubmit(queue, mem, heads, journal).map_err(of_queue),
        }
    }
}

/// Runs a test with each who can serve a queue, on a machine of its own with a disk of 64 sectors.
pub(crate) fn each(test: impl Fn(&mut Machine, Server)) {
    each_with(64, test);
}

/// As [`each`], with a disk of this number of sectors.
pub(crate) fn each_with(sectors: u64, test: impl Fn(&mut Machine, Server)) {
    let count = Machine::new(sectors).servers().len();
    for which in 0..count {
        let mut machine = Machine::new(sectors);
        let server = machine.servers().swap_remove(which);
        test(&mut machine, server);
    }
}

#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn of_queue(error: WorkerError) -> QueueError {
    match error {
        WorkerError::Queue(error) => error,
        other => panic!("{other}"),
    }
}
