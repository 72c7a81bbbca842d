//! How the daemon begins and ends, and with whom it shares its image.

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use memory_model_virtio::blk::{F_RO, S_OK};
use memory_model_virtio::driver::DriverError;

use crate::harness::daemon::{Daemon, Place, SECTORS, eventually, sectors};
use crate::harness::guest::{Guest, Wish, check_next, protocol};
use crate::harness::queue::{Done, GuestQueue};
use crate::harness::ram::{Ram, segment};
use crate::harness::wire::Wire;

/// Runs a daemon that cannot begin, and answers its status and what it has said.
fn fails(place: &Place, socket: &Path, image: &Path) -> (i32, String) {
    let mut daemon = Daemon::run(place, socket, image, &[]);
    let status = daemon.wait();
    (status.code().expect("no signal"), daemon.stderr())
}

/// Exactly one line, that names what it is about.
#[track_caller]
fn check_line(line: &str, about: &Path) {
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(&*about.to_string_lossy()), "{line}");
}

#[test]
fn an_image_that_cannot_be_used_is_status_3() {
    let place = Place::new();
    let odd = place.path("odd");
    fs::write(&odd, [0; 513]).unwrap();
    for image in [place.path("missing"), place.path(""), odd, place.path("image/below"), "/dev/null".into()] {
        let (status, line) = fails(&place, &place.socket(), &image);
        assert_eq!(status, 3, "{image:?}: {line}");
        check_line(&line, &image);
        assert!(!place.socket().exists(), "the socket is left behind");
    }
}

#[test]
fn a_socket_that_cannot_be_made_is_status_4() {
    let place = Place::new();
    let file = place.path("file");
    fs::write(&file, "kept").unwrap();
    let long = place.path(&"x".repeat(120));
    for socket in [place.path("no-folder/socket"), place.path(""), file.clone(), long] {
        let (status, line) = fails(&place, &socket, &place.image());
        assert_eq!(status, 4, "{socket:?}: {line}");
        check_line(&line, &socket);
    }
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

#[test]
fn a_command_line_that_makes_no_sense_is_status_2() {
    let place = Place::new();
    for options in [&["--queues", "0"][..], &["--queues", "65"], &["--engine", "magic"], &["--what"]] {
        let mut daemon = Daemon::run(&place, &place.socket(), &place.image(), options);
        assert_eq!(daemon.wait().code(), Some(2), "{options:?}");
        assert!(!daemon.stderr().is_empty());
    }
}

#[test]
fn a_socket_in_use_is_left_to_whoever_has_it() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let (status, line) = fails(&place, &place.socket(), &place.image());
    assert_eq!(status, 4, "{line}");
    check_line(&line, &place.socket());
    check_next(&daemon);
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let place = Place::new();
    drop(UnixListener::bind(place.socket()).unwrap());
    assert!(UnixStream::connect(place.socket()).is_err());
    let mut daemon = Daemon::start(&place, &[]);
    check_next(&daemon);
    // As a daemon leaves it that is killed.
    daemon.kill();
    assert!(place.socket().exists());
    check_next(&Daemon::start(&place, &[]));
}

#[test]
fn it_ends_when_it_is_asked_to() {
    let place = Place::new();
    for number in 0..10 {
        let mut daemon = Daemon::start(&place, &["--queues", "2"]);
        // With nobody connected; somebody who says nothing; half a message; a session at work, or enabled and idle.
        let mut guest = None;
        let mut wire = None;
        match number / 2 {
            0 => {}
            1 => wire = Some(Wire::new(daemon.connect())),
            2 => wire = Some(Wire::new(daemon.connect())).inspect(|wire| assert!(wire.send_bytes(&[1, 0, 0], &[]))),
            3 => guest = Some(Guest::usual(&daemon)),
            _ => guest = Some(Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..Wish::default() })),
        }
        if let Some(guest) = &mut guest {
            guest.check();
        }
        if number % 2 == 0 {
            daemon.terminate();
        } else {
            daemon.interrupt();
        }
        assert_eq!(daemon.wait().code(), Some(0));
        assert_eq!(daemon.stderr(), "");
        assert_eq!(daemon.stdout(), "");
        assert!(!place.socket().exists(), "the socket is left behind");
        drop((wire, guest));
    }
}

/// What it has taken it answers; what it has not is there for the next, at the index of what was used.
#[test]
fn requests_that_were_taken_are_answered_before_it_ends() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        for round in 0..5 {
            let mut daemon = Daemon::start(&place, &["--engine", engine]);
            let mut guest = Guest::usual(&daemon);
            let pieces: Vec<_> = (0..2).map(|piece| segment(0xa0_0000 + piece * 0x10_0000, 0x10_0000)).collect();
            for number in 0..12 {
                // What takes some time, and what does not.
                let request = match number % 3 {
                    0 => guest.queues[0].write(&guest.ram, 20_000, &[]).at(&pieces),
                    1 => guest.queues[0].flush(),
                    _ => guest.queues[0].read(100 * number, 1).at(&pieces),
                };
                guest.queues[0].add(&guest.ram, request);
            }
            guest.queues[0].publish(&guest.ram);
            let first = guest.queues[0].wait(&guest.ram);
            assert_eq!(first.status, S_OK);
            std::thread::sleep(Duration::from_millis(round));
            daemon.terminate();
            assert_eq!(daemon.wait().code(), Some(0));
            drop(daemon);
            let mut answered = 1;
            while let Some(done) = guest.queues[0].poll(&guest.ram).unwrap() {
                assert_eq!(done.status, S_OK);
                answered += 1;
            }
            // If one was taken and not answered, the next daemon finds too few.
            let daemon = Daemon::start(&place, &["--engine", engine]);
            let Guest { ram, queues, .. } = guest;
            let mut next = Guest::greet(&daemon, ram, Wish::default());
            next.queues = queues;
            next.share_memory();
            next.start(0, answered);
            assert_eq!(next.queues[0].wait_for_all(&next.ram).len(), 12 - usize::from(answered));
            next.check();
            assert_eq!(next.stop(0), 13);
        }
    }
}

/// Nothing on standard error, in a whole session.
#[test]
fn it_is_silent() {
    let place = Place::new();
    let mut daemon = Daemon::start(&place, &["--queues", "2"]);
    for _ in 0..3 {
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, inflight: false, ..Wish::default() });
        guest.check();
        guest.stop(0);
        guest.stop(1);
    }
    daemon.terminate();
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!((daemon.stdout(), daemon.stderr()), (String::new(), String::new()));
}

#[test]
fn it_tells_more_when_it_is_asked_to() {
    let place = Place::new();
    let mut before = 0;
    for level in ["error", "warn", "info", "debug", "trace"] {
        let daemon = Daemon::start(&place, &["--log", level]);
        let mut guest = Guest::usual(&daemon);
        guest.check();
        drop(guest);
        if level != "error" && level != "warn" {
            eventually("both ends are told", || daemon.stderr().matches("has ended the connection").count() == 2);
        }
        let lines = daemon.stderr().lines().count();
        assert!(lines >= before, "{level}: {}", daemon.stderr());
        assert!(!daemon.stderr().contains('\x1b'), "colours in what no terminal shows");
        before = lines;
    }
    assert!(before > 10);
}

#[test]
fn statistics_are_told_each_second_and_at_the_end() {
    let place = Place::new();
    let mut daemon = Daemon::start(&place, &["--stats"]);
    let mut guest = Guest::usual(&daemon);
    let begun = Instant::now();
    let mut reads = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        guest.check();
        reads += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let lines = daemon.stdout().lines().count();
    assert!((1..=4).contains(&lines), "{}", daemon.stdout());
    drop(guest);
    daemon.terminate();
    assert_eq!(daemon.wait().code(), Some(0));
    let stdout = daemon.stdout();
    let total = stdout.lines().last().unwrap();
    let numbers: Vec<&str> = total.split(|c: char| !c.is_ascii_digit()).collect();
    assert!(total.contains("total") && numbers.contains(&&*reads.to_string()), "{reads} requests: {stdout}");
    assert!(stdout.contains("p50") && stdout.contains("p99"), "{stdout}");
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn a_read_only_disk_is_not_written() {
    let place = Place::new();
    fs::set_permissions(place.image(), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--read-only", "--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        assert_ne!(guest.features & F_RO, 0);
        guest.check();
        let Guest { ram, queues, .. } = &mut guest;
        let requests = [queues[0].write(ram, 0, &[1; 512]), queues[0].discard(0, 8), queues[0].write_zeroes(0, 8)];
        for request in requests {
            let Done { status, len, .. } = queues[0].run(ram, request);
            assert_ne!(status, S_OK);
            assert_eq!(len, 1);
        }
        guest.check();
        assert!(place.on_disk(0, 8) == sectors(0, 8));
    }
}

/// An image of any length can be read; its last sector is filled up.
#[test]
fn a_read_only_image_may_have_any_length() {
    let place = Place::new();
    let file = File::options().write(true).open(place.image()).unwrap();
    file.set_len(SECTORS * 512 - 100).unwrap();
    let daemon = Daemon::start(&place, &["--read-only"]);
    let mut guest = Guest::usual(&daemon);
    let last = guest.queues[0].read_now(&guest.ram, SECTORS - 1, 1);
    assert!(last == [0; 512]);
}

#[test]
fn read_only_daemons_share_an_image() {
    let place = Place::new();
    let sockets = [place.path("one"), place.path("two")];
    let daemons = sockets.each_ref().map(|socket| Daemon::run(&place, socket, &place.image(), &["--read-only"]));
    let mut guests = daemons.each_ref().map(Guest::usual);
    for _ in 0..3 {
        guests.iter_mut().for_each(Guest::check);
    }
}

/// Whether anybody has the image's lock is asked when the first ring starts, and for five seconds.
#[test]
fn a_busy_image_is_status_5() {
    let place = Place::new();
    let first = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&first);
    guest.check();
    for options in [&[][..], &["--read-only"]] {
        // It begins, and answers whatever needs no image.
        let mut second = Daemon::run(&place, &place.path("second"), &place.image(), options);
        let begun = Instant::now();
        let other = greet_and_start(&second);
        let status = second.wait();
        let waited = begun.elapsed();
        assert_eq!(status.code(), Some(5), "{}", second.stderr());
        check_line(&second.stderr(), &place.image());
        assert!((4..=9).contains(&waited.as_secs()), "{waited:?}");
        assert!(!place.path("second").exists(), "the socket is left behind");
        other.wire.until_end();
        guest.check();
    }
}

/// Starts a ring, and waits for nothing.
fn greet_and_start(daemon: &Daemon) -> Guest {
    let mut guest = Guest::greet(daemon, Ram::small(), Wish { protocol: !protocol::REPLY_ACK, ..Wish::default() });
    guest.share_memory();
    let config = GuestQueue::config(0, 64, guest.features);
    guest.add_queue(config);
    guest
}

/// As in a migration: the other daemon's rings stop while this one waits.
#[test]
fn an_image_changes_hands_when_the_last_ring_has_stopped() {
    let place = Place::new();
    let first = Daemon::start(&place, &["--queues", "2"]);
    let mut guest = Guest::boot(&first, Ram::small(), Wish { queues: 2, ..Wish::default() });
    guest.check();
    let second = Daemon::run(&place, &place.path("second"), &place.image(), &[]);
    let mut other = greet_and_start(&second);
    let request = other.queues[0].read(3, 5);
    other.queues[0].submit(&other.ram, request);
    guest.stop(0);
    assert!(!other.queues[0].call.wait(Duration::from_millis(300)), "one ring has not stopped");
    assert!(matches!(other.queues[0].poll(&other.ram), Ok::<_, DriverError>(None)));
    guest.stop(1);
    assert_eq!(other.queues[0].wait(&other.ram).status, S_OK);
    other.check();
    // And back.
    assert_eq!(other.stop(0), 2);
    guest.queues.truncate(1);
    guest.start(0, 1);
    guest.check();
}

/// A disk that waits for its image can be told to end.
#[test]
fn it_ends_also_while_it_waits_for_the_image() {
    let place = Place::new();
    let first = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&first);
    guest.check();
    let mut second = Daemon::run(&place, &place.path("second"), &place.image(), &[]);
    let other = greet_and_start(&second);
    std::thread::sleep(Duration::from_millis(300));
    second.terminate();
    let begun = Instant::now();
    assert_eq!(second.wait().code(), Some(0), "{}", second.stderr());
    assert!(begun.elapsed() < Duration::from_secs(4));
    drop(other);
    guest.check();
}

/// One after the other is served; those who come meanwhile wait.
#[test]
fn those_who_come_meanwhile_wait() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    let waiting: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    guest.check();
    drop(guest);
    drop(waiting);
    check_next(&daemon);
}

/// Whoever leaves while it waits for the image wants no answer, and does not end it.
#[test]
fn a_front_end_that_leaves_while_it_waits_ends_nothing() {
    let place = Place::new();
    let first = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&first);
    guest.check();
    let second = Daemon::run(&place, &place.path("second"), &place.image(), &[]);
    drop(greet_and_start(&second));
    std::thread::sleep(Duration::from_millis(300));
    drop(guest);
    check_next(&second);
}
