//! Acknowledged changes: a request that is made available after the reply is served in the new state.

use std::os::fd::AsFd;
use std::time::Duration;

use memory_model_virtio::Segment;
use memory_model_virtio::blk::S_OK;

use crate::harness::daemon::{Daemon, Place, SOON, sectors};
use crate::harness::event::Event;
use crate::harness::guest::{Guest, Wish, protocol, slot, table};
use crate::harness::queue::{GuestQueue, Request};
use crate::harness::ram::{RAM, Ram, memfd, segment};
use crate::harness::wire::{Region, code};
use crate::memory::whole_table;

/// Rounds of each test and engine.
const ROUNDS: u64 = 60;
/// Requests that keep a ring's thread busy: either large ones, or as many small ones as it takes in one batch.
const LARGE: u64 = 85;
const SMALL: u64 = 300;
/// Descriptors of a queue: enough for all of those.
const SIZE: u16 = 1024;
/// Guest address of the region that comes and goes, and its size.
const ADDED: u64 = 1 << 32;
const ADDED_SIZE: u64 = 1 << 20;

/// Memory whose second region the daemon gets later.
fn ram() -> Ram {
    Ram::new(&[(0, 16 << 20), (ADDED, ADDED_SIZE)])
}

/// Starts a session whose daemon has the first region alone.
fn boot(daemon: &Daemon, wish: Wish) -> Guest {
    let mut guest = Guest::boot(daemon, ram().subset([0]), Wish { size: SIZE, ..wish });
    guest.ram = ram_with_second(&guest.ram);
    guest
}

fn ram_with_second(first: &Ram) -> Ram {
    let (region, file) = &first.regions[0];
    let added = Region { guest: ADDED, size: ADDED_SIZE, user: 0x7e00_0000_0000, offset: 0 };
    Ram::of(vec![(*region, file.try_clone().unwrap()), (added, memfd(RAM, ADDED_SIZE))])
}

/// Makes reads available that keep a ring's thread busy, with `headers` on. They share their data's place.
fn make_busy(ram: &Ram, queue: &mut GuestQueue, headers: u64, (count, len): (u64, u32)) {
    for number in 0..count {
        let mut request = queue.read(number, 1).at(&[segment(0xa0_0000, len)]);
        request.header = headers + number * 64;
        request.status = request.header + 32;
        queue.add(ram, request);
    }
    queue.publish(ram);
}

/// One more request, a part of which is in the new region: its data, its header or its table.
fn in_new_region(guest: &mut Guest, round: u64) -> Request {
    let request = guest.queues[0].read(round, 8).indirect();
    match round % 3 {
        0 => request.at(&[segment(ADDED + 0x3000, 4096)]),
        1 => Request { header: ADDED + 0x100, ..request },
        _ => Request { table: Some(ADDED + 0x200), ..request },
    }
}

/// Has a ring's thread work, changes the memory by `change`, and makes one more request available.
fn check_round(guest: &mut Guest, round: u64, change: impl FnOnce(&Guest)) {
    let requests = if round % 4 < 2 { (SMALL, 512) } else { (LARGE, 1 << 20) };
    make_busy(&guest.ram, &mut guest.queues[0], 0x80_0000, requests);
    if round % 2 == 0 {
        let done = guest.queues[0].wait(&guest.ram);
        assert_eq!(done.status, S_OK);
    }
    change(guest);
    let request = in_new_region(guest, round);
    let last = guest.queues[0].submit(&guest.ram, request);
    let mut seen = false;
    for done in guest.queues[0].wait_for_all(&guest.ram) {
        assert_eq!(done.status, S_OK, "round {round}: request {:?}", done.request);
        if done.head == last {
            assert!(guest.ram.gather(done.request.data()) == sectors(round, 8), "round {round}");
            seen = true;
        }
    }
    assert!(seen);
    assert!(!guest.queues[0].err.wait(Duration::ZERO), "round {round}: the ring is broken");
}

#[test]
fn request_in_new_region_succeeds_after_its_addition_is_acknowledged() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = boot(&daemon, Wish::default());
        for round in 0..ROUNDS {
            check_round(&mut guest, round, |guest| guest.add_region(1));
            guest.remove_region(1);
        }
    }
}

#[test]
fn request_in_new_region_succeeds_after_its_table_is_acknowledged() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = boot(&daemon, whole_table());
        for round in 0..ROUNDS {
            check_round(&mut guest, round, Guest::set_table);
            guest.ram = guest.ram.subset([0]);
            guest.set_table();
            guest.ram = ram_with_second(&guest.ram);
        }
    }
}

/// The order of QEMU without `REPLY_ACK`: `GET_FEATURES` follows, and its reply says that the table is set.
#[test]
fn request_in_new_region_succeeds_after_the_next_reply() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for as_table in [false, true] {
            let usual = if as_table { whole_table() } else { Wish::default() };
            let mut guest = boot(&daemon, Wish { protocol: usual.protocol & !protocol::REPLY_ACK, ..usual });
            for round in 0..ROUNDS / 2 {
                check_round(&mut guest, round, |guest| {
                    let regions: Vec<_> = guest.ram.regions.iter().map(|(region, _)| *region).collect();
                    let fds: Vec<_> = guest.ram.regions.iter().map(|(_, file)| file.as_fd()).collect();
                    let is_sent = if as_table {
                        guest.wire.send(code::SET_MEM_TABLE, 0, &table(&regions), &fds)
                    } else {
                        guest.wire.send(code::ADD_MEM_REG, 0, &slot(regions[1]), &fds[1..])
                    };
                    assert!(is_sent);
                    guest.get_u64(code::GET_FEATURES);
                });
                if as_table {
                    guest.ram = guest.ram.subset([0]);
                    guest.set_table();
                    guest.ram = ram_with_second(&guest.ram);
                } else {
                    guest.remove_region(1);
                }
                guest.get_u64(code::GET_FEATURES);
            }
        }
    }
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const QUEUES: u32 = 4;
/// Requests under way at a time in each queue.
const DEPTH: u64 = 16;
/// The exchanged region has a place for each of them.
const PLACE: u64 = 0x4000;

/// A request's place in the region that stays.
fn elsewhere(queue: usize, number: u64) -> u64 {
    0x80_0000 + (queue as u64 * DEPTH + number % DEPTH) * 0x100
}

/// A read of random size whose parts are in the exchanged region or elsewhere.
fn random_request(guest: &mut Guest, queue: usize, number: u64, random: &mut Random) -> Request {
    let place = ADDED + (queue as u64 * DEPTH + number % DEPTH) * PLACE;
    let base = elsewhere(queue, number);
    let count = 1 + random.below(16);
    let mut request = guest.queues[queue].read(random.below(4000), count);
    (request.header, request.status) = (base, base + 0x80);
    if random.below(2) == 0 {
        request.header = place;
    }
    if random.below(2) == 0 {
        request.status = place + 0x80;
    }
    match random.below(3) {
        0 => request.table = Some(place + 0x100),
        1 => request.table = Some(base + 0x20),
        _ => {}
    }
    // Large ones are at the same place for all.
    let data: &[Segment] = match random.below(4) {
        0 => &[segment(0xa0_0000, 1 << 20)],
        _ => &[segment(place + 0x1000, count as u32 * 512)],
    };
    request.at(data)
}

#[test]
fn random_requests_of_4_queues_succeed_while_a_region_is_exchanged() {
    let place = Place::new();
    for (engine, as_table) in [("sync", false), ("io-uring", false), ("sync", true), ("io-uring", true)] {
        let daemon = Daemon::start(&place, &["--engine", engine, "--queues", "4"]);
        let usual = if as_table { whole_table() } else { Wish::default() };
        let mut guest = Guest::boot(&daemon, ram(), Wish { queues: QUEUES, size: SIZE, ..usual });
        let mut random = Random(23);
        for exchange in 0..20 {
            let mut numbers = [0; QUEUES as usize];
            for made in 0..300 {
                let queue = random.below(QUEUES.into()) as usize;
                // A place is free again when the request that had it is answered.
                if numbers[queue] > 0 && numbers[queue] % DEPTH == 0 {
                    guest.queues[queue].wait_for_all(&guest.ram).iter().for_each(|done| assert_eq!(done.status, S_OK));
                }
                let request = random_request(&mut guest, queue, numbers[queue], &mut random);
                numbers[queue] += 1;
                guest.queues[queue].submit(&guest.ram, request);
                assert!(
                    !guest.queues[queue].err.wait(Duration::ZERO),
                    "{engine}, {exchange}, {made}: a ring is broken"
                );
            }
            for queue in &mut guest.queues {
                for done in queue.wait_for_all(&guest.ram) {
                    assert_eq!(done.status, S_OK, "{engine}, exchange {exchange}: {:?}", done.request);
                }
            }
            let with_second = ram_with_second(&guest.ram);
            if as_table {
                guest.ram = guest.ram.subset([0]);
                guest.set_table();
            } else {
                guest.remove_region(1);
            }
            guest.ram = with_second;
            // The rings have requests elsewhere when the region comes back, and more come at once.
            for queue in &mut guest.queues {
                let headers = 0x90_0000 + u64::from(queue.index) * 0x1_0000;
                make_busy(&guest.ram, queue, headers, (SMALL, 512));
            }
            if as_table {
                guest.set_table();
            } else {
                guest.add_region(1);
            }
        }
        for queue in &mut guest.queues {
            assert!(queue.wait_for_all(&guest.ram).iter().all(|done| done.status == S_OK));
        }
        guest.check();
    }
}

/// The last event set is the one that says so.
#[test]
fn broken_ring_signals_an_error_event_that_is_set_later() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::boot(&daemon, Ram::new(&[(0, 0x10_0000), (0x10_0000, 15 << 20)]), Wish::default());
        guest.check();
        guest.remove_region(0);
        guest.queues[0].kick.add(1);
        assert!(guest.queues[0].err.wait(SOON), "the ring is not said to be broken");
        let other = Event::new();
        guest.set_fd(code::SET_VRING_ERR, 0, Some(other.fd()));
        assert!(other.wait(SOON), "the new event does not say that the ring is broken");
    }
}
