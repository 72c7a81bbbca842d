//! Rings are started, stopped, moved and told of changes, and go on where they were.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use memory_model::IoAddress;
use memory_model_virtio::blk::{S_OK, T_IN};
use memory_model_virtio::ring::F_EVENT_IDX;
use memory_model_virtio::{DriverQueue, QueueConfig};
use zerocopy::IntoBytes;

use crate::harness::daemon::{Daemon, Place, SOON, eventually, sectors};
use crate::harness::event::Event;
use crate::harness::guest::{F_LOG_ALL, F_PROTOCOL_FEATURES, Guest, Wish, check_next};
use crate::harness::queue::GuestQueue;
use crate::harness::ram::{LOG, RAM, Ram, memfd};
use crate::harness::wire::code;

/// As long as is waited for what must not happen.
const NOTHING: Duration = Duration::from_millis(100);

/// A guest whose ring is described but for some of its pieces.
fn bare(daemon: &Daemon) -> Guest {
    let mut guest = Guest::greet(daemon, Ram::small(), Wish::default());
    guest.share_memory();
    let config = GuestQueue::config(0, 64, guest.features);
    guest.queues.push(GuestQueue::new(&guest.ram, 0, config));
    guest
}

fn submit_read(guest: &mut Guest, sector: u64) {
    let request = guest.queues[0].read(sector, 2);
    guest.queues[0].submit(&guest.ram, request);
}

fn check_answers(guest: &mut Guest, sectors_in_order: &[u64]) {
    for &sector in sectors_in_order {
        let done = guest.queues[0].wait(&guest.ram);
        assert_eq!((done.status, done.request.sector), (S_OK, sector));
        assert!(guest.ram.gather(done.request.data()) == sectors(sector, 2));
    }
}

fn check_silence(guest: &mut Guest) {
    assert!(!guest.queues[0].call.wait(NOTHING), "notified");
    assert!(guest.queues[0].poll(&guest.ram).unwrap().is_none(), "answered");
}

#[test]
fn a_disabled_ring_answers_nothing_and_goes_on_when_it_is_enabled() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        guest.check();
        for round in 0..3 {
            guest.enable(0, false);
            guest.queues[0].call.take();
            submit_read(&mut guest, 10 + round);
            submit_read(&mut guest, 20 + round);
            check_silence(&mut guest);
            guest.enable(0, true);
            check_answers(&mut guest, &[10 + round, 20 + round]);
        }
        guest.check();
    }
}

#[test]
fn a_ring_begins_when_its_last_piece_is_there() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    // Requests wait from the beginning on, and have notified. Whatever comes last begins.
    for last in 0..4 {
        let mut guest = bare(&daemon);
        submit_read(&mut guest, 50);
        let piece = |guest: &Guest, number| match number {
            0 => guest.state(code::SET_VRING_NUM, 0, 64),
            1 => guest.set_addr(0, None),
            2 => guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd())),
            _ => guest.enable(0, true),
        };
        guest.set_fd(code::SET_VRING_CALL, 0, Some(guest.queues[0].call.fd()));
        guest.state(code::SET_VRING_BASE, 0, 0);
        for number in (0..4).filter(|number| *number != last) {
            piece(&guest, number);
        }
        // The size is none that a ring begins with: it is needed first of all, and then told again.
        if last == 0 {
            check_silence(&mut guest);
            piece(&guest, 0);
            guest.enable(0, false);
            guest.enable(0, true);
        } else {
            check_silence(&mut guest);
            piece(&guest, last);
        }
        check_answers(&mut guest, &[50]);
        guest.check();
    }
}

#[test]
fn a_kick_that_comes_with_nothing_is_no_harm() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let guest = bare(&daemon);
    guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd()));
    guest.queues[0].kick.add(5);
    guest.enable(0, true);
    guest.queues[0].kick.add(5);
    drop(guest);
    let mut guest = Guest::usual(&daemon);
    guest.queues[0].kick.add(7);
    guest.check();
}

#[test]
fn a_ring_without_kick_or_call_is_polled() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = bare(&daemon);
    guest.place(0, 0);
    guest.set_fd(code::SET_VRING_KICK, 0, None);
    guest.set_fd(code::SET_VRING_CALL, 0, None);
    guest.set_fd(code::SET_VRING_ERR, 0, None);
    guest.enable(0, true);
    guest.queues[0].waits = false;
    for _ in 0..5 {
        guest.check();
    }
    assert_eq!(guest.stop(0), 5);
}

/// Without the protocol's features a ring is enabled by its kick alone.
#[test]
fn a_front_end_without_protocol_features_is_served() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::greet(&daemon, Ram::small(), Wish { protocol: 0, ..Wish::default() });
    guest.features &= !F_PROTOCOL_FEATURES;
    guest.must(code::SET_FEATURES, guest.features.as_bytes(), &[]);
    guest.share_memory();
    let config = GuestQueue::config(0, 64, guest.features);
    guest.queues.push(GuestQueue::new(&guest.ram, 0, config));
    guest.place(0, 0);
    guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd()));
    guest.set_fd(code::SET_VRING_CALL, 0, Some(guest.queues[0].call.fd()));
    guest.check();
}

#[test]
fn a_stopped_ring_tells_where_it_was_and_goes_on_there() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let mut count = 0;
        for round in 0..4 {
            for number in 0..=round * 5 {
                submit_read(&mut guest, number);
                count += 1;
            }
            guest.queues[0].wait_for_all(&guest.ram);
            assert_eq!(guest.stop(0), count);
            // Stopped it is, also for those who ask again.
            guest.queues[0].call.take();
            submit_read(&mut guest, 99);
            check_silence(&mut guest);
            assert_eq!(guest.stop(0), count);
            guest.start(0, count);
            check_answers(&mut guest, &[99]);
            count += 1;
        }
    }
}

/// What was taken is answered before a ring is stopped, what was not waits: nothing is lost, or answered twice.
#[test]
fn a_ring_is_stopped_under_load() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let mut answered = 0_u16;
        for round in 0..30 {
            let Guest { ram, queues, .. } = &mut guest;
            for number in 0..16 {
                // What takes some time, and what does not.
                let request = match number % 4 {
                    0 => queues[0].write(ram, 20_000 + number * 8, &[round as u8; 4096]),
                    1 => queues[0].flush(),
                    _ => queues[0].read(round * 16 + number, 8),
                };
                queues[0].add(ram, request);
            }
            queues[0].publish(ram);
            std::thread::sleep(Duration::from_micros(round * 20));
            let base = guest.stop(0);
            while let Some(done) = guest.queues[0].poll(&guest.ram).unwrap() {
                assert_eq!(done.status, S_OK);
                let is_read = done.request.kind == T_IN;
                assert!(!is_read || guest.ram.gather(done.request.data()) == sectors(done.request.sector, 8));
                answered += 1;
            }
            assert_eq!(base, answered, "taken and answered are the same when a ring is stopped");
            guest.start(0, base);
            answered += guest.queues[0].wait_for_all(&guest.ram).len() as u16;
        }
        assert_eq!(answered, 30 * 16);
    }
}

/// Indices have 16 bits, and go on at 0 after the last.
#[test]
fn indices_wrap() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::boot(&daemon, Ram::small(), Wish { size: 256, ..Wish::default() });
    for _ in 0..=(1 << 16) / 32 {
        for _ in 0..32 {
            let request = guest.queues[0].get_id();
            guest.queues[0].add(&guest.ram, request);
        }
        guest.queues[0].publish(&guest.ram);
        guest.queues[0].wait_for_all(&guest.ram);
    }
    guest.check();
    assert_eq!(guest.stop(0), 33);
}

#[test]
fn messages_that_change_nothing_leave_a_running_ring_as_it_is() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let log = memfd(LOG, 1 << 16);
        assert!(guest.set_log(log.as_fd(), 1 << 16, 0).is_some());
        let calls: Vec<_> = (0..20).map(|_| Event::new()).collect();
        for (call, sector) in calls.into_iter().zip(0..) {
            submit_read(&mut guest, sector);
            guest.set_addr(0, None);
            submit_read(&mut guest, sector + 100);
            guest.log_all(sector % 2 == 0);
            submit_read(&mut guest, sector + 200);
            guest.set_addr(0, Some(0x1234_5000));
            guest.set_fd(code::SET_VRING_CALL, 0, Some(call.fd()));
            submit_read(&mut guest, sector + 300);
            // Who exchanges it looks once for what the old one told.
            guest.queues[0].call = call;
            let done = eventual_answers(&mut guest, 4);
            assert!(done.iter().all(|(status, _)| *status == S_OK));
            let mut read: Vec<_> = done.iter().map(|(_, sector)| *sector).collect();
            read.sort_unstable();
            assert_eq!(read, [sector, sector + 100, sector + 200, sector + 300]);
        }
        guest.check();
        assert_eq!(guest.stop(0), 81);
    }
}

/// Answers that may be told by events that were exchanged meanwhile.
fn eventual_answers(guest: &mut Guest, count: usize) -> Vec<(u8, u64)> {
    let mut answers = vec![];
    let Guest { ram, queues, .. } = guest;
    eventually("all answers", || {
        while let Some(done) = queues[0].poll(ram).unwrap() {
            answers.push((done.status, done.request.sector));
        }
        answers.len() == count
    });
    answers
}

/// The call that comes last is the one that is used, also by what was under way.
#[test]
fn a_new_call_takes_the_place_of_the_old_one() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.check();
    let old = std::mem::replace(&mut guest.queues[0].call, Event::new());
    guest.set_fd(code::SET_VRING_CALL, 0, Some(guest.queues[0].call.fd()));
    old.take();
    guest.check();
    assert_eq!(old.take(), 0);
}

/// What was answered before there was anything to notify by is told of then.
#[test]
fn a_call_that_comes_late_is_signalled() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = bare(&daemon);
    guest.place(0, 0);
    guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd()));
    guest.enable(0, true);
    submit_read(&mut guest, 1);
    let Guest { ram, queues, .. } = &mut guest;
    eventually("it is answered", || queues[0].poll(ram).unwrap().is_some());
    guest.set_fd(code::SET_VRING_CALL, 0, Some(guest.queues[0].call.fd()));
    assert!(guest.queues[0].call.wait(SOON), "nobody is told");
}

#[test]
fn a_new_kick_takes_the_place_of_the_old_one() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.check();
    guest.queues[0].kick = Event::new();
    guest.set_fd(code::SET_VRING_KICK, 0, Some(guest.queues[0].kick.fd()));
    guest.check();
    assert_eq!(guest.stop(0), 2);
}

/// A ring that lies elsewhere from now on goes on at the same indices.
#[test]
fn a_ring_moves() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.check();
    assert_eq!(guest.stop(0), 1);
    let old = *guest.queues[0].driver.config();
    let away = |addr: IoAddress| IoAddress(addr.0 + 0xc0_0000);
    let config = QueueConfig { desc: away(old.desc), avail: away(old.avail), used: away(old.used), ..old };
    guest.queues[0].driver = DriverQueue::new(&guest.ram.mem, config).unwrap();
    guest.start(0, 0);
    guest.check();
}

#[test]
fn a_reset_device_begins_anew() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..Wish::default() });
    for _ in 0..3 {
        guest.check();
        guest.must(code::RESET_DEVICE, &[], &[]);
        // Nothing runs until it is set up again.
        guest.queues[0].call.take();
        submit_read(&mut guest, 5);
        check_silence(&mut guest);
        for index in 0..2 {
            let config = *guest.queues[index as usize].driver.config();
            guest.queues[index as usize] = GuestQueue::new(&guest.ram, index, config);
            guest.start(index, 0);
        }
    }
    guest.check();
}

/// A counter at its end: another notification would block who adds to it, and is not needed.
#[test]
fn a_full_call_does_not_wedge_the_queue() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        guest.queues[0].call.fill();
        guest.queues[0].waits = false;
        for _ in 0..50 {
            guest.check();
        }
        assert_eq!(guest.stop(0), 50);
        drop(guest);
        check_next(&daemon);
    }
}

/// It cannot be made non-blocking by the front-end, either: the description is shared.
#[test]
fn a_call_that_blocks_does_not_wedge_the_queue() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    let flags = rustix::fs::fcntl_getfl(guest.queues[0].call.fd()).unwrap();
    let call = Event::new();
    rustix::fs::fcntl_setfl(call.fd(), flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    call.fill();
    guest.set_fd(code::SET_VRING_CALL, 0, Some(call.fd()));
    guest.queues[0].waits = false;
    for _ in 0..50 {
        guest.check();
    }
    drop(guest);
    check_next(&daemon);
}

/// The other end of the channel for the daemon's own requests is full, and nobody reads it.
#[test]
fn a_channel_that_nobody_reads_keeps_nobody() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut (&theirs), &[0; 4096]).is_ok() {}
    theirs.set_nonblocking(false).unwrap();
    guest.must(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    drop(theirs);
    for _ in 0..10 {
        guest.check();
    }
    guest.log_all(false);
    assert_eq!(guest.features & F_LOG_ALL, 0);
    assert_eq!(guest.stop(0), 10);
    drop(ours);
    guest.start(0, 10);
    guest.check();
}

#[test]
fn a_guest_that_leaves_with_requests_under_way_leaves_nothing_behind() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine, "--queues", "2"]);
        check_next(&daemon);
        let fds = daemon.idle_fds();
        for _ in 0..20 {
            let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..Wish::default() });
            for number in 0..30 {
                let request = guest.queues[number % 2].read(number as u64, 40);
                guest.queues[number % 2].add(&guest.ram, request);
            }
            guest.queues[0].publish(&guest.ram);
            guest.queues[1].publish(&guest.ram);
        }
        assert_eq!(daemon.idle_fds(), fds);
        assert_eq!(daemon.holds(RAM), (0, 0));
        check_next(&daemon);
    }
}

/// A driver that wants no notification gets none, with either way to say so.
#[test]
fn a_driver_that_looks_for_itself_is_not_notified() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    for features in [Wish::default().features, Wish::default().features & !F_EVENT_IDX] {
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { features, ..Wish::default() });
        guest.check();
        guest.queues[0].waits = false;
        let Guest { ram, queues, .. } = &mut guest;
        queues[0].driver.disable_notifications(&ram.mem).unwrap();
        // With event index: not before that entry, which is far away.
        queues[0].driver.enable_notifications(&ram.mem, 1000).unwrap();
        if features & F_EVENT_IDX == 0 {
            queues[0].driver.disable_notifications(&ram.mem).unwrap();
        }
        std::thread::sleep(NOTHING);
        queues[0].call.take();
        for _ in 0..20 {
            queues[0].read_now(ram, 5, 1);
        }
        assert!(!queues[0].call.wait(NOTHING), "notified");
    }
}

/// Rings that have nothing to do, or can do nothing any more, cost nothing.
#[test]
fn rings_at_rest_take_no_time() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine, "--queues", "3"]);
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 3, ..Wish::default() });
        guest.check();
        // One is broken, and kicked still; one is disabled, and kicked.
        let avail = guest.queues[0].driver.config().avail.0;
        guest.ram.set(avail + 2, &0x7fff_u16.to_le_bytes());
        guest.queues[0].kick.add(1);
        assert!(guest.queues[0].err.wait(SOON), "the ring is not said to be broken");
        guest.queues[0].kick.add(1);
        guest.enable(1, false);
        guest.queues[1].kick.add(1);
        let before = daemon.ticks();
        std::thread::sleep(Duration::from_millis(500));
        let ticks = daemon.ticks() - before;
        assert!(ticks < 10, "{ticks} of 50 ticks");
    }
}
