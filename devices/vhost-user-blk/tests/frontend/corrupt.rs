//! Rings, chains and requests that make no sense, and memory that goes away: the ring may break, the daemon does not.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memory_model::{Bytes, GuestAddress, IoAddress};
use memory_model_virtio::blk::{F_FLUSH, S_IOERR, S_OK};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use crate::common::{DATA, QUEUE, Random};
use crate::corruption::{HOLE, SEAM, corrupt_ring};
use crate::harness::Until;
use crate::harness::daemon::{Daemon, Place, SOON, sectors};
use crate::harness::event::Event;
use crate::harness::guest::{Guest, Wish, check_next};
use crate::harness::queue::GuestQueue;
use crate::harness::ram::{RAM, Ram, segment};
use crate::harness::wire::{Answer, code};

const RINGS: u64 = 1200;
/// How many of them one connection has.
const PER_CONNECTION: u64 = 40;

/// Has the daemon serve a ring that was made of nonsense, until it has nothing more to say.
fn serve(guest: &Guest, random: &mut Random) {
    let mem = &guest.ram.mem;
    mem.fill(0, 0x1000, GuestAddress(QUEUE)).unwrap();
    mem.fill(0xee, 0x3000, GuestAddress(DATA)).unwrap();
    let config = corrupt_ring(mem, random).config;
    // What a ring has used is known to the daemon: else almost none would begin.
    mem.fill(0, 4, GuestAddress(config.used.0)).unwrap();
    let [kick, call, err] = std::array::from_fn(|_| Event::new());
    let mut addr = guest.addr(0, None);
    [addr.desc, addr.avail, addr.used] = [config.desc, config.avail, config.used].map(|part| guest.ram.user(part.0));
    let features =
        guest.features & !(1 << 28 | 1 << 29) | u64::from(config.indirect) << 28 | u64::from(config.event_idx) << 29;
    let size = [0, u32::from(config.size)];
    let steps = [
        (code::SET_FEATURES, features.as_bytes(), None),
        (code::SET_VRING_NUM, size.as_bytes(), None),
        (code::SET_VRING_BASE, [0_u32, 0].as_bytes(), None),
        (code::SET_VRING_ADDR, addr.as_bytes(), None),
        (code::SET_VRING_CALL, 0_u64.as_bytes(), Some(call.fd())),
        (code::SET_VRING_ERR, 0_u64.as_bytes(), Some(err.fd())),
        (code::SET_VRING_KICK, 0_u64.as_bytes(), Some(kick.fd())),
        (code::SET_VRING_ENABLE, [0_u32, 1].as_bytes(), None),
    ];
    for (code, body, fd) in steps {
        let fds: Vec<_> = fd.into_iter().collect();
        assert_eq!(guest.wire.tell(code, body, &fds), Answer::Ack(0), "{code}: {config:?}");
    }
    kick.add(1);
    let limit = Timespec::try_from(Duration::from_millis(3)).unwrap();
    let events = [call.fd(), err.fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll(&mut { events }, Some(&limit)).unwrap();
    guest.stop(0);
}

#[test]
fn corrupt_rings_break_or_are_served() {
    for engine in ["sync", "io-uring"] {
        let place = Place::new();
        let daemon = Daemon::start(&place, &["--engine", engine]);
        check_next(&daemon);
        let (fds, before) = (daemon.idle_fds(), daemon.resident());
        for first in (0..RINGS).step_by(PER_CONNECTION as usize) {
            let mut guest = Guest::greet(&daemon, Ram::new(&[(0, SEAM), (SEAM, HOLE - SEAM)]), Wish::default());
            guest.share_memory();
            let config = memory_model_virtio::QueueConfig::contiguous(IoAddress(QUEUE), 8).unwrap();
            guest.queues.push(GuestQueue::new(&guest.ram, 0, config));
            for seed in first..first + PER_CONNECTION {
                serve(&guest, &mut Random(seed));
            }
            drop(guest);
            // Some of the requests are writes.
            let mut next = Guest::usual(&daemon);
            assert!(next.queues[0].read_now(&next.ram, 0, 40) == place.on_disk(0, 40));
        }
        assert_eq!(daemon.idle_fds(), fds);
        assert_eq!(daemon.holds(RAM), (0, 0));
        let after = daemon.resident();
        assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
    }
}

/// The first ring is nonsense, and the second works all the time.
#[test]
fn a_broken_ring_does_not_break_the_others() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..Wish::default() });
    guest.check();
    // An index that is ahead of all that can be available.
    let avail = guest.queues[0].driver.config().avail.0;
    guest.ram.set(avail + 2, &0x7fff_u16.to_le_bytes());
    guest.queues[0].kick.add(1);
    assert!(guest.queues[0].err.wait(SOON), "the ring is not said to be broken");
    let broken = guest.queues.remove(0);
    for _ in 0..20 {
        guest.check();
    }
    // It can be stopped, and begin anew.
    guest.stop(0);
    guest.queues.insert(0, GuestQueue::new(&guest.ram, 0, *broken.driver.config()));
    guest.start(0, 0);
    guest.check();
}

/// It breaks with requests under way, into memory that goes.
#[test]
fn a_broken_ring_keeps_no_memory() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for _ in 0..5 {
            // Each write is stable before it is answered, which takes a while.
            let features = Wish::default().features & !F_FLUSH;
            let mut guest = Guest::boot(&daemon, victim(), Wish { features, ..Wish::default() });
            guest.check();
            let Guest { ram, queues, .. } = &mut guest;
            for number in 0..12 {
                let data = segment(VICTIM + number * 0x1_0000, 0x1_0000);
                let request = queues[0].write(ram, 20_000 + number * 128, &[]).at(&[data]);
                queues[0].add(ram, request);
            }
            // Behind them is a chain that there is not.
            let avail = queues[0].driver.config().avail.0;
            ram.set(avail + 4 + 2 * 13, &[0xff; 2]);
            ram.set(avail + 2, &14_u16.to_le_bytes());
            queues[0].kick.add(1);
            assert!(queues[0].err.wait(SOON), "the ring is not said to be broken");
            guest.remove_region(1);
            assert_eq!(daemon.holds(RAM), (1, 1));
            drop(guest);
            check_next(&daemon);
        }
    }
}

/// What the file of a guest's memory loses.
fn shrink(file: &File) {
    file.set_len(0).unwrap();
}

/// The usual memory's last quarter is the victim.
const VICTIM: u64 = 12 << 20;

fn victim() -> Ram {
    Ram::new(&[(0, VICTIM), (VICTIM, 4 << 20)])
}

/// Requests of which some have their data, or their status, in memory that goes away: those are errors, or break the ring.
#[test]
fn data_that_goes_away_is_an_error_of_its_request() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for round in 0..10 {
            let mut guest = Guest::boot(&daemon, victim(), Wish::default());
            let Guest { ram, queues, .. } = &mut guest;
            for number in 0..15 {
                let bad = segment(VICTIM + number * 0x1_0000, 0x1_0000);
                let mut request = match number % 3 {
                    0 => queues[0].read(number * 100, 1).at(&[bad]),
                    1 => queues[0].write(ram, 20_000 + number * 128, &[]).at(&[bad]),
                    _ => queues[0].read(number, 8),
                };
                if number % 2 == 0 {
                    request = request.indirect();
                }
                queues[0].add(ram, request);
            }
            queues[0].publish(ram);
            std::thread::sleep(Duration::from_micros(round * 50));
            shrink(&ram.regions[1].1);
            let mut failed = 0;
            for _ in 0..15 {
                let done = queues[0].wait(ram);
                assert!([S_OK, S_IOERR].contains(&done.status));
                failed += u32::from(done.status == S_IOERR);
                let data = done.request.data()[0];
                let is_good = data.addr.0 < VICTIM;
                assert!(done.status == S_OK || !is_good, "{round}: {done:?}");
                assert!(!is_good || ram.gather(&[data]) == sectors(done.request.sector, 8));
            }
            // Those that begin when it has gone do not succeed.
            let request = queues[0].read(0, 1).at(&[segment(VICTIM, 512)]);
            assert_eq!(queues[0].run(ram, request).status, S_IOERR, "{failed} others");
            guest.check();
        }
        check_next(&daemon);
    }
}

/// A ring, or a part of it, that goes away while it is used: it breaks, and nothing else.
#[test]
fn rings_that_go_away_break() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for part in ["descriptors", "available", "used", "all", "status", "table"] {
            for delay in [0, 100, 1000] {
                let mut guest = Guest::greet(&daemon, victim(), Wish::default());
                guest.share_memory();
                let mut config = GuestQueue::config(0, 64, guest.features);
                let away = |addr: IoAddress| IoAddress(VICTIM + addr.0);
                if part == "descriptors" || part == "all" {
                    config.desc = away(config.desc);
                }
                if part == "available" || part == "all" {
                    config.avail = away(config.avail);
                }
                if part == "used" || part == "all" {
                    config.used = away(config.used);
                }
                guest.add_queue(config);
                guest.check();
                let Guest { ram, queues, .. } = &mut guest;
                for number in 0..16 {
                    let mut request = queues[0].read(number, 8);
                    match part {
                        "status" => request.status = VICTIM + number,
                        "table" => request.table = Some(VICTIM + number * 0x100),
                        _ => {}
                    }
                    queues[0].add(ram, request);
                }
                queues[0].publish(ram);
                std::thread::sleep(Duration::from_micros(delay));
                shrink(&ram.regions[1].1);
                // If all was answered before, another one finds out.
                queues[0].kick.add(1);
                if part == "status" || part == "table" {
                    while let Ok(Some(_)) = queues[0].driver.pop_used(&ram.mem) {}
                }
                // The connection goes on.
                assert_ne!(guest.get_u64(code::GET_FEATURES), 0);
                guest.stop(0);
                drop(guest);
                check_next(&daemon);
            }
        }
    }
}

/// Memory that comes and goes while requests run, as fast as it can.
#[test]
fn memory_flickers() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::boot(&daemon, victim(), Wish::default());
        let file = guest.ram.regions[1].1.try_clone().unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _until = Until(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    file.set_len(0).unwrap();
                    file.set_len(4 << 20).unwrap();
                }
            });
            let Guest { ram, queues, .. } = &mut guest;
            for round in 0..60 {
                for number in 0..12 {
                    let bad = segment(VICTIM + number * 0x1_0000, 0x8000);
                    let request = queues[0].read((round * 12 + number) % 4000, 1).at(&[bad]);
                    queues[0].add(ram, request);
                }
                queues[0].publish(ram);
                for done in queues[0].wait_for_all(ram) {
                    assert!([S_OK, S_IOERR].contains(&done.status));
                }
            }
        });
        guest.check();
    }
}
