//! Events that block whoever uses them: the front-end's queue may stand still, which is its own loss, but the daemon goes on.
//!
//! That the daemon makes them non-blocking is not enough. The file description is shared, and with it that flag.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memory_model_virtio::blk::S_OK;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use zerocopy::IntoBytes;

use crate::harness::Until;
use crate::harness::daemon::{Daemon, Place, sectors};
use crate::harness::event::Event;
use crate::harness::guest::{Guest, Wish, check_next, slot};
use crate::harness::ram::{Ram, segment};
use crate::harness::wire::{Header, Region, VERSION, code};

fn make_blocking(event: &Event) {
    fcntl_setfl(event.fd(), fcntl_getfl(event.fd()).unwrap() - OFlags::NONBLOCK).unwrap();
}

/// A guest with a ring that waits for somebody to read a full counter, which nobody does.
fn wedged(daemon: &Daemon) -> Guest {
    let mut guest = Guest::boot(daemon, Ram::new(&[(0, 16 << 20), (1 << 32, 1 << 20)]), Wish::default());
    guest.check();
    let Guest { ram, queues, .. } = &mut guest;
    queues[0].driver.enable_notifications(&ram.mem, 1).unwrap();
    queues[0].call.fill();
    make_blocking(&queues[0].call);
    queues[0].waits = false;
    queues[0].read_now(ram, 3, 1);
    // It is about to notify, or does so.
    std::thread::sleep(Duration::from_millis(20));
    guest
}

const ENGINES: [&[&str]; 2] = [&["--engine", "sync"], &["--engine", "io-uring"]];

#[test]
fn a_front_end_whose_ring_is_wedged_leaves() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let guest = wedged(&daemon);
        drop(guest);
        check_next(&daemon);
    }
}

/// Also if the daemon is in the midst of a message that has something to do with that ring.
#[test]
fn a_front_end_that_waits_for_its_wedged_ring_leaves() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    for number in 0..6 {
        let guest = wedged(&daemon);
        let (other, more) = (Event::new(), Ram::new(&[(1 << 40, 1 << 20)]));
        let added = slot(Region { user: 1 << 30, ..more.regions[0].0 });
        let (state, region) = ([0_u32, 0], slot(guest.ram.regions[1].0));
        let (code, body, fds): (_, &[u8], _) = match number {
            0 => (code::REM_MEM_REG, &region, vec![]),
            1 => (code::GET_VRING_BASE, state.as_bytes(), vec![]),
            2 => (code::SET_VRING_ENABLE, state.as_bytes(), vec![]),
            3 => (code::SET_VRING_CALL, &[0; 8], vec![other.fd()]),
            4 => (code::SET_VRING_CALL, &[0; 8], vec![guest.queues[0].call.fd()]),
            _ => (code::ADD_MEM_REG, &added, vec![more.file(0)]),
        };
        assert!(guest.wire.send(code, 0, body, &fds));
        drop(guest);
        check_next(&daemon);
    }
}

/// It waits for a while, and is answered: the ring was kept, and is not broken.
#[test]
fn a_wedged_ring_can_be_stopped_and_goes_on() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest = wedged(&daemon);
        assert_eq!(guest.stop(0), 2);
        assert!(!guest.queues[0].err.wait(Duration::ZERO), "the ring is said to be broken");
        assert!(guest.queues[0].call.wait(Duration::ZERO), "a notification is lost");
        guest.start(0, 2);
        guest.check();
    }
}

/// The ring is freed, and then uses the new memory.
#[test]
fn region_is_added_while_a_ring_is_wedged() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest = wedged(&daemon);
        let more = Ram::new(&[(1 << 40, 1 << 20)]);
        let region = Region { user: 1 << 30, ..more.regions[0].0 };
        guest.must(code::ADD_MEM_REG, &slot(region), &[more.file(0)]);
        let request = guest.queues[0].read(5, 1).at(&[segment(region.guest, 512)]);
        guest.queues[0].submit(&guest.ram, request);
        assert_eq!(guest.queues[0].wait(&guest.ram).status, S_OK);
        assert!(more.bytes(region.guest, 512) == sectors(5, 1));
        guest.check();
    }
}

/// Whatever is asked of a ring that hears nothing is not kept without end.
#[test]
fn messages_for_a_wedged_ring_take_no_memory() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let guest = wedged(&daemon);
    let no_call = |count| {
        for _ in 0..count {
            assert!(guest.wire.send(code::SET_VRING_CALL, 0, &0x100_u64.to_le_bytes(), &[]));
        }
        assert!(guest.wire.ask(code::GET_FEATURES, 0, &[], &[]).is_some());
    };
    no_call(1000);
    let before = daemon.resident();
    no_call(100_000);
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB");
    drop(guest);
    check_next(&daemon);
}

#[test]
fn a_daemon_with_a_wedged_ring_ends_when_it_is_asked_to() {
    let place = Place::new();
    for engine in ENGINES {
        let mut daemon = Daemon::start(&place, engine);
        let guest = wedged(&daemon);
        daemon.terminate();
        assert_eq!(daemon.wait().code(), Some(0));
        drop(guest);
    }
}

/// Kicks that are gone when the daemon has seen them: it may wait for the next then, and nothing else wakes it.
#[test]
fn kicks_that_are_taken_back() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    for _ in 0..5 {
        let guest = Guest::usual(&daemon);
        let kick = &guest.queues[0].kick;
        make_blocking(kick);
        std::thread::scope(|scope| {
            let thief = scope.spawn(|| {
                for _ in 0..2000 {
                    kick.add(1);
                    kick.take();
                }
            });
            // The daemon may be the thief's thief.
            while !thief.is_finished() {
                std::thread::sleep(Duration::from_micros(100));
                kick.add(1);
            }
        });
        drop(guest);
        check_next(&daemon);
    }
}

/// One that can be read again and again, and always will be.
#[test]
fn a_kick_that_does_not_end() {
    let place = Place::new();
    let mut daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.queues[0].kick = Event::semaphore();
    guest.queues[0].kick.add(u64::MAX / 2);
    guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd()));
    guest.check();
    assert_eq!(guest.stop(0), 1);
    guest.start(0, 1);
    guest.check();
    drop(guest);
    check_next(&daemon);
    daemon.terminate();
    assert_eq!(daemon.wait().code(), Some(0));
}

/// A driver that has the next request ready before the last is answered, for ever.
#[test]
fn requests_that_do_not_end() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest = Guest::usual(&daemon);
        guest.check();
        // All entries are of one request, which stays as it is.
        let Guest { ram, queues, .. } = &mut guest;
        let request = queues[0].read(5, 40);
        let head = queues[0].add(ram, request);
        let config = *queues[0].driver.config();
        for entry in 0..u64::from(config.size) {
            ram.set(config.avail.0 + 4 + 2 * entry, &head.to_le_bytes());
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _until = Until(&over);
            let Guest { ram, queues, .. } = &guest;
            scope.spawn(|| {
                let index = |addr: u64| u16::from_le_bytes(ram.bytes(addr, 2).try_into().unwrap());
                while !over.load(Ordering::Relaxed) {
                    let ahead = index(config.used.0 + 2).wrapping_add(config.size / 2);
                    ram.set(config.avail.0 + 2, &ahead.to_le_bytes());
                    queues[0].kick.add(1);
                }
            });
            std::thread::sleep(Duration::from_millis(50));
            assert_ne!(guest.get_u64(code::GET_FEATURES), 0);
            guest.enable(0, false);
            guest.enable(0, true);
            std::thread::sleep(Duration::from_millis(20));
            guest.stop(0);
        });
        drop(guest);
        check_next(&daemon);
    }
}

/// The daemon waits until there is room for its reply: as long as this front-end is there, and no longer.
#[test]
fn replies_that_nobody_reads() {
    let place = Place::new();
    for is_asked in [false, true] {
        let mut daemon = Daemon::start(&place, &[]);
        let guest = Guest::usual(&daemon);
        guest.wire.socket.set_nonblocking(true).unwrap();
        let header = Header { code: code::GET_FEATURES, flags: VERSION, size: 0 };
        let mut sent = 0;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(100) {
            match (&guest.wire.socket).write(header.as_bytes()) {
                Ok(12) => (sent, since) = (sent + 1, Instant::now()),
                Ok(_) => break,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert!(sent > 100, "{sent} messages");
        if is_asked {
            daemon.terminate();
            assert_eq!(daemon.wait().code(), Some(0));
        }
        drop(guest);
        if !is_asked {
            check_next(&daemon);
        }
    }
}
