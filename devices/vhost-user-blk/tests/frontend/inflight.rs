//! The record of requests under way: whoever comes after a daemon that was killed answers them, in order and once.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use memory_model_virtio::blk::S_OK;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::harness::daemon::{Daemon, Place, SOON, eventually, sectors};
use crate::harness::guest::{F_LOG_ALL, Guest, Wish, check_next};
use crate::harness::ram::{Ram, segment};
use crate::harness::wire::{Answer, code};

/// A session in which requests under way are recorded.
pub(crate) const WISH: Wish = Wish { features: !F_LOG_ALL, protocol: u64::MAX, queues: 1, size: 64, inflight: true };

/// How a queue's record begins (vhost-user, "Inflight I/O tracking", split rings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Head {
    features: u64,
    version: u16,
    size: u16,
    last_batch: u16,
    pub(crate) used_idx: u16,
}

/// What is recorded of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct State {
    inflight: u8,
    padding: [u8; 5],
    next: u16,
    counter: u64,
}

/// The record of one queue after the other, in the front-end's hands.
pub(crate) struct Record {
    mem: GuestMemoryMmap,
    per_queue: u64,
}

impl Record {
    pub(crate) fn of(guest: &Guest) -> Self {
        let (inflight, fd) = guest.inflight.as_ref().unwrap();
        let file = File::from(fd.try_clone().unwrap());
        let at = FileOffset::new(file, inflight.offset);
        let range = (GuestAddress(0), inflight.size as usize, Some(at));
        let mem = GuestMemoryMmap::from_ranges_with_files(&[range]).unwrap();
        let queues = u64::from(inflight.queues);
        assert_eq!(inflight.size % queues, 0);
        Self { mem, per_queue: inflight.size / queues }
    }

    pub(crate) fn head(&self, queue: u64) -> Head {
        let bytes: [u8; 16] = self.mem.read_obj(GuestAddress(queue * self.per_queue)).unwrap();
        zerocopy::transmute!(bytes)
    }

    fn set_head(&self, queue: u64, change: impl FnOnce(&mut Head)) {
        let mut head = self.head(queue);
        change(&mut head);
        self.mem.write_slice(head.as_bytes(), GuestAddress(queue * self.per_queue)).unwrap();
    }

    fn at(&self, queue: u64, descriptor: u16) -> GuestAddress {
        GuestAddress(queue * self.per_queue + 16 + 16 * u64::from(descriptor))
    }

    fn state(&self, queue: u64, descriptor: u16) -> State {
        let bytes: [u8; 16] = self.mem.read_obj(self.at(queue, descriptor)).unwrap();
        zerocopy::transmute!(bytes)
    }

    fn set_state(&self, queue: u64, descriptor: u16, inflight: u8, next: u16, counter: u64) {
        let state = State { inflight, padding: [0; 5], next, counter };
        self.mem.write_slice(state.as_bytes(), self.at(queue, descriptor)).unwrap();
    }

    /// The heads of requests that are under way.
    fn under_way(&self, queue: u64, size: u16) -> Vec<u16> {
        (0..size).filter(|descriptor| self.state(queue, *descriptor).inflight != 0).collect()
    }
}

/// The same guest, at a daemon that knows nothing of it: as QEMU connects again. What a queue has used is where it goes on.
fn reconnect(daemon: &Daemon, guest: Guest) -> Guest {
    let next = greet_again(daemon, guest);
    next.set_inflight();
    start_again(next)
}

fn greet_again(daemon: &Daemon, guest: Guest) -> Guest {
    let Guest { wire, ram, queues, inflight, .. } = guest;
    drop(wire);
    let mut next = Guest::greet(daemon, ram, WISH);
    next.queues = queues;
    next.inflight = inflight;
    next
}

fn start_again(next: Guest) -> Guest {
    next.share_memory();
    for queue in &next.queues {
        let used = next.ram.bytes(queue.driver.config().used.0 + 2, 2);
        next.start(queue.index, u16::from_le_bytes([used[0], used[1]]));
    }
    next
}

/// A guest whose daemon was killed when it had answered some requests, and all that it recorded; and a place for the next.
fn orphan(place: &Place, options: &[&str]) -> (Guest, Record) {
    let mut daemon = Daemon::start(place, options);
    let mut guest = Guest::boot(&daemon, Ram::small(), WISH);
    for _ in 0..3 {
        guest.check();
    }
    daemon.kill();
    let record = Record::of(&guest);
    (guest, record)
}

fn prepare_reads(guest: &mut Guest, sectors: &[u64]) -> Vec<u16> {
    let heads = sectors.iter().map(|&sector| {
        let request = guest.queues[0].read(sector, 2);
        guest.queues[0].add(&guest.ram, request)
    });
    let heads = heads.collect();
    guest.queues[0].publish(&guest.ram);
    heads
}

/// Checks that these are answered, in this order, and nothing else.
#[track_caller]
fn check_order(guest: &mut Guest, expected: &[u64]) {
    let mut order = vec![];
    for _ in expected {
        let done = guest.queues[0].wait(&guest.ram);
        assert_eq!(done.status, S_OK);
        assert!(guest.ram.gather(done.request.data()) == sectors(done.request.sector, 2));
        order.push(done.request.sector);
    }
    assert_eq!(order, expected);
    std::thread::sleep(Duration::from_millis(30));
    assert!(guest.queues[0].poll(&guest.ram).unwrap().is_none(), "answered twice");
    guest.check();
}

pub(crate) const ENGINES: [&[&str]; 2] = [&["--engine", "sync"], &["--engine", "io-uring"]];

#[test]
fn a_record_is_made_and_kept() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, &[engine, &["--queues", "2"]].concat());
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..WISH });
        let record = Record::of(&guest);
        assert!(record.per_queue >= 16 + 16 * 64);
        for round in 1..=5 {
            guest.check();
            for queue in 0..2 {
                eventually("it is recorded", || record.under_way(queue, 64).is_empty());
                let head = record.head(queue);
                assert_eq!((head.version, head.size, head.used_idx), (1, 64, round));
            }
        }
        // Where both queues are stopped, and started elsewhere, it is the same.
        let base = guest.stop(0);
        guest.start(0, base);
        guest.check();
        assert_eq!(record.head(0).used_idx, 6);
    }
}

/// A request is recorded before anything of it is done, and its record is gone when it was answered.
#[test]
fn requests_are_recorded_while_they_are_under_way() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest = Guest::boot(&daemon, Ram::small(), WISH);
        let record = Record::of(&guest);
        let pieces: Vec<_> = (0..16).map(|piece| segment(0xa0_0000 + piece * 0x4_0000, 0x4_0000)).collect();
        let (mut seen, end) = (0, Instant::now() + 3 * SOON);
        // On a busy machine the daemon may be done before this thread looks.
        while seen == 0 {
            assert!(Instant::now() < end, "{engine:?}: nothing was recorded");
            let heads: Vec<_> = (0..12)
                .map(|number| {
                    let request = guest.queues[0].read(number, 1).at(&pieces).indirect();
                    guest.queues[0].submit(&guest.ram, request)
                })
                .collect();
            let mut left = heads.len();
            while left > 0 {
                seen += heads.iter().filter(|&&head| record.state(0, head).inflight != 0).count();
                left -= usize::from(guest.queues[0].poll(&guest.ram).unwrap().is_some());
            }
        }
        eventually("nothing is under way", || record.under_way(0, 64).is_empty());
    }
}

#[test]
fn requests_under_way_are_answered_in_their_order_and_once() {
    let place = Place::new();
    for engine in ENGINES {
        let (mut guest, record) = orphan(&place, engine);
        // Of five that are available three were taken, in another order than that of their heads.
        let heads = prepare_reads(&mut guest, &[10, 20, 30, 40, 50]);
        for (head, counter) in [(heads[0], 102), (heads[1], 100), (heads[2], 101)] {
            record.set_state(0, head, 1, 0, counter);
        }
        let daemon = Daemon::start(&place, engine);
        let mut guest = reconnect(&daemon, guest);
        if engine[1] == "sync" {
            check_order(&mut guest, &[20, 30, 10, 40, 50]);
        } else {
            let mut answers: Vec<_> =
                guest.queues[0].wait_for_all(&guest.ram).iter().map(|done| done.request.sector).collect();
            answers.sort_unstable();
            assert_eq!(answers, [10, 20, 30, 40, 50]);
            check_order(&mut guest, &[]);
        }
        assert_eq!(guest.stop(0), 9);
        assert!(record.under_way(0, 64).is_empty());
    }
}

/// It was killed between the used ring's index and the record of that.
#[test]
fn what_was_answered_is_not_answered_again() {
    let place = Place::new();
    for batch in [1, 2] {
        let (mut guest, record) = orphan(&place, &[]);
        // The third answer, or the last two, are not in the record.
        let (last, before) = (10, 11);
        record.set_head(0, |head| {
            assert_eq!(head.used_idx, 3);
            head.used_idx -= batch;
            head.last_batch = last;
        });
        record.set_state(0, last, 1, before, 7);
        if batch == 2 {
            record.set_state(0, before, 1, 0, 6);
        }
        prepare_reads(&mut guest, &[60, 70]);
        let daemon = Daemon::start(&place, &[]);
        let mut guest = reconnect(&daemon, guest);
        check_order(&mut guest, &[60, 70]);
        assert_eq!(guest.stop(0), 6);
        assert_eq!(record.head(0).used_idx, 6);
        assert!(record.under_way(0, 64).is_empty());
    }
}

/// It was killed between an answer and its notification.
#[test]
fn a_notification_that_was_lost_is_made_up_for() {
    let place = Place::new();
    let (guest, _) = orphan(&place, &[]);
    guest.queues[0].call.take();
    let daemon = Daemon::start(&place, &[]);
    let guest = reconnect(&daemon, guest);
    assert!(guest.queues[0].call.wait(SOON), "nobody has told the guest");
}

/// What the write of this number writes.
fn written(number: u64) -> Vec<u8> {
    (0..4096).map(|byte: u64| (byte ^ number) as u8).collect()
}

/// Keeps the first queue, or the second, full with writes, and flushes that take longer, until so many more were submitted.
fn load(guest: &mut Guest, queue: usize, submitted: &mut u64, goal: u64) -> u64 {
    let Guest { ram, queues, .. } = guest;
    let (queue, mut answered) = (&mut queues[queue], 0);
    while *submitted < goal {
        while queue.pending.len() < 16 {
            let request = if *submitted % 4 == 1 {
                queue.flush()
            } else {
                queue.write(ram, place_of(queue.index, *submitted), &written(*submitted))
            };
            queue.add(ram, request);
            *submitted += 1;
        }
        queue.publish(ram);
        assert_eq!(queue.wait(ram).status, S_OK);
        answered += 1;
    }
    answered
}

/// Where the write of this number goes.
fn place_of(queue: u32, number: u64) -> u64 {
    10_000 + u64::from(queue) * 50_000 + number * 8
}

/// Writes under load, and a daemon that is killed again and again in the midst of them.
#[test]
fn a_daemon_that_is_killed_under_load_loses_nothing() {
    let place = Place::new();
    for engine in ENGINES {
        let options = [engine, &["--queues", "2"]].concat();
        let mut daemon = Daemon::start(&place, &options);
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..WISH });
        let (mut submitted, mut answered) = ([0; 2], [0; 2]);
        for round in 1..=12 {
            for queue in 0..2 {
                answered[queue] += load(&mut guest, queue, &mut submitted[queue], round * 80);
            }
            // At another moment each time.
            std::thread::sleep(Duration::from_micros(round * 37 % 500));
            daemon.kill();
            daemon = Daemon::start(&place, &options);
            guest = reconnect(&daemon, guest);
        }
        for queue in 0..2 {
            for done in guest.queues[queue].wait_for_all(&guest.ram) {
                assert_eq!(done.status, S_OK);
                answered[queue] += 1;
            }
            assert_eq!(answered[queue], submitted[queue]);
            assert_eq!(u64::from(guest.stop(queue as u32)), submitted[queue]);
            for number in (0..submitted[queue]).filter(|number| number % 4 != 1) {
                let is_there = place.on_disk(place_of(queue as u32, number), 8) == written(number);
                assert!(is_there, "write {number} is lost");
            }
        }
    }
}

/// What is wrong with a record, and how it becomes so.
type Nonsense = (&'static str, fn(&Record));

fn head(record: &Record, change: impl FnOnce(&mut Head)) {
    record.set_head(0, change);
}

/// The record is a peer's memory: nonsense in it costs that peer its connection, at most.
#[test]
fn nonsense_in_the_record_harms_nobody() {
    let place = Place::new();
    let cases: [Nonsense; 12] = [
        ("another version", |record| head(record, |head| head.version = 7)),
        ("no version", |record| head(record, |head| head.version = 0)),
        ("another size", |record| head(record, |head| head.size = 128)),
        ("no size", |record| head(record, |head| head.size = 0)),
        ("the largest size", |record| head(record, |head| head.size = u16::MAX)),
        ("a used index ahead", |record| head(record, |head| head.used_idx += 1)),
        ("a used index far away", |record| head(record, |head| head.used_idx = 0x8000)),
        ("a batch that begins nowhere", |record| {
            head(record, |head| (head.used_idx, head.last_batch) = (1, u16::MAX));
        }),
        ("a batch in a circle", |record| {
            head(record, |head| (head.used_idx, head.last_batch) = (0, 5));
            record.set_state(0, 5, 1, 6, 1);
            record.set_state(0, 6, 1, 5, 2);
        }),
        ("a batch that leaves the record", |record| {
            head(record, |head| (head.used_idx, head.last_batch) = (0, 5));
            record.set_state(0, 5, 1, 0xfff0, 1);
        }),
        ("all under way", |record| (0..64).for_each(|slot| record.set_state(0, slot, 1, 0, 5))),
        ("noise", |record| {
            (0..64).for_each(|slot| record.set_state(0, slot, slot as u8, slot * 999, u64::MAX << slot));
            head(record, |head| head.features = u64::MAX);
        }),
    ];
    for (what, make) in cases {
        let (mut guest, record) = orphan(&place, &[]);
        make(&record);
        prepare_reads(&mut guest, &[80]);
        let daemon = Daemon::start(&place, &["--log", "warn"]);
        let guest = greet_again(&daemon, guest);
        guest.share_memory();
        let (inflight, fd) = guest.inflight.as_ref().unwrap();
        if guest.wire.tell(code::SET_INFLIGHT_FD, inflight.bytes(), &[fd.as_fd()]) == Answer::Ack(0) {
            let queue = &guest.queues[0];
            for (code, body, fds) in [
                (code::SET_VRING_NUM, [0_u32, 64].as_bytes(), vec![]),
                (code::SET_VRING_BASE, [0_u32, 3].as_bytes(), vec![]),
                (code::SET_VRING_ADDR, guest.addr(0, None).as_bytes(), vec![]),
                (code::SET_VRING_KICK, 0_u64.as_bytes(), vec![queue.kick.fd()]),
                (code::SET_VRING_CALL, 0_u64.as_bytes(), vec![queue.call.fd()]),
                (code::SET_VRING_ENABLE, [0_u32, 1].as_bytes(), vec![]),
            ] {
                if guest.wire.tell(code, body, &fds) == Answer::Ended {
                    break;
                }
            }
            queue.kick.add(1);
        }
        drop(guest);
        check_next(&daemon);
        assert!(!daemon.stderr().contains("panicked"), "{what}: {}", daemon.stderr());
    }
}
