//! A disk's thread that dies in the midst of a batch, and the next that goes on: real rings, a real disk, a memfd.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress, Le16};
use memory_model_vhost_user_blk::inflight::Inflight;
use memory_model_vhost_user_blk::stats::Stats;
use memory_model_virtio::blk::{Block, BlockOptions, Journal, Outcome, RequestHeader, S_OK, T_IN};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};
use vhost::vhost_user::message::VhostUserInflight;

const SIZE: u16 = 32;
const QUEUE: u64 = 0x1000;
const REQUESTS: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;

/// A journal whose process ends before one of its steps, or right after one.
struct Mortal<J> {
    journal: J,
    left: usize,
}

impl<J> Mortal<J> {
    fn live(&mut self) {
        // Like a panic that nobody is told of.
        self.left = self.left.checked_sub(1).unwrap_or_else(|| resume_unwind(Box::new("dead")));
    }
}

impl<J: Journal> Journal for Mortal<J> {
    fn taken(&mut self, head: u16) {
        self.live();
        self.journal.taken(head);
        self.live();
    }
    fn done(&mut self, head: u16) {
        self.live();
        self.journal.done(head);
        self.live();
    }
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        self.live();
        self.journal.used(head, next_used, outcome);
        self.live();
    }
}

/// What outlives a process.
struct Machine {
    mem: GuestMemoryMmap,
    config: QueueConfig,
    driver: DriverQueue,
    image: File,
    message: VhostUserInflight,
    inflight: File,
    stats: Stats,
}

impl Machine {
    /// A disk of 16 sectors, whose bytes are each their sector's number.
    fn new() -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4_0000)]).unwrap();
        let config = QueueConfig::contiguous(IoAddress(QUEUE), SIZE).unwrap();
        let driver = DriverQueue::new(&mem, config).unwrap();
        let image = tempfile::tempfile().unwrap();
        image.write_all_at(&(0..16).flat_map(|sector| [sector; 512]).collect::<Vec<u8>>(), 0).unwrap();
        let (_, message, inflight) = Inflight::create(1, SIZE).unwrap();
        Self { mem, config, driver, image, message, inflight, stats: Stats::new() }
    }

    /// Makes a read of each of these sectors available; answers their heads.
    fn offer(&mut self, sectors: std::ops::Range<u64>) -> Vec<u16> {
        let heads = sectors.map(|sector| {
            let place = REQUESTS + sector * 0x20;
            let segment = |addr, len| Segment { addr: IoAddress(addr), len };
            self.mem.write_obj(RequestHeader::new(T_IN, sector), GuestAddress(place)).unwrap();
            let writable = [segment(DATA + sector * 512, 512), segment(place + 16, 1)];
            self.driver.add(&self.mem, &[segment(place, 16)], &writable).unwrap()
        });
        let heads = heads.collect();
        self.driver.publish(&self.mem).unwrap();
        heads
    }

    /// A process, from its start until nothing is left to do, or until it dies: after so many steps.
    fn serve(&self, steps: usize) {
        let disk = Block::new(self.image.try_clone().unwrap(), BlockOptions::default()).unwrap();
        let inflight = Inflight::open(&self.message, self.inflight.try_clone().unwrap(), 1, SIZE).unwrap();
        let used_idx: Le16 = self.mem.read_obj(GuestAddress(self.config.used.0 + 2)).unwrap();
        let used_idx = used_idx.to_native();
        let mut part = inflight.queue(0).unwrap();
        let heads = part.recover(SIZE, used_idx).unwrap();
        let next_avail = used_idx.wrapping_add(heads.len() as u16);
        let mut queue = Queue::resume(self.config, next_avail, used_idx).unwrap();
        let mut journal = Mortal { journal: (part, self.stats.recorder()), left: steps };
        let mut processed = disk.resubmit(&mut queue, &self.mem, &heads, &mut journal).unwrap();
        while processed.more {
            processed = disk.process_queue_with(&mut queue, &self.mem, &mut journal).unwrap();
        }
        assert!(journal.journal.0.failed().is_none());
    }

    /// The heads in the used ring that the driver has not seen yet.
    fn used(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.driver.pop_used(&self.mem).unwrap()).map(|used| used.head).collect()
    }
}

#[test]
fn every_request_is_answered_once() {
    let (mut steps, mut deaths) = (0, 0);
    loop {
        let mut machine = Machine::new();
        let mut heads = machine.offer(0..5);
        let died = catch_unwind(AssertUnwindSafe(|| machine.serve(steps))).is_err();
        let mut used = machine.used();
        // More come while nobody serves them; the next process dies, too.
        heads.extend(machine.offer(5..9));
        let _died_again = catch_unwind(AssertUnwindSafe(|| machine.serve(steps / 2)));
        used.extend(machine.used());
        machine.serve(usize::MAX);
        used.extend(machine.used());

        let sorted = |mut heads: Vec<u16>| {
            heads.sort_unstable();
            heads
        };
        assert_eq!(sorted(used), sorted(heads), "after {steps} steps");
        for sector in 0..9 {
            let data: [u8; 512] = machine.mem.read_obj(GuestAddress(DATA + sector * 512)).unwrap();
            assert_eq!(data, [sector as u8; 512]);
            let status: u8 = machine.mem.read_obj(GuestAddress(REQUESTS + sector * 0x20 + 16)).unwrap();
            assert_eq!(status, S_OK);
        }
        // One that was used is not counted, if its process died before it could say so.
        let total = machine.stats.total();
        assert!(total.reads <= 9 && total.reads >= 7 && total.failed == 0, "{total}");
        deaths += usize::from(died);
        if !died {
            break;
        }
        steps += 1;
    }
    assert_eq!(deaths, 5 * 3 * 2, "each step of five requests, before and after");
}
