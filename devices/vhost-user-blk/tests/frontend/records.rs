//! Which records of requests under way there can be, and what becomes of those that cannot.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use crate::harness::daemon::{Daemon, Place, eventually};
use crate::harness::guest::{Guest, Wish, check_next};
use crate::harness::queue::GuestQueue;
use crate::harness::ram::{Ram, memfd};
use crate::harness::wire::{Inflight, NEED_REPLY, Wire, code};
use crate::inflight::{ENGINES, Record, WISH};

const FILE: &str = "in-flight-record";

fn ask(wire: &Wire, queues: u16, queue_size: u16) -> Option<(Inflight, OwnedFd)> {
    let wish = Inflight { size: 0, offset: 0, queues, queue_size, padding: 0 };
    // Also if the front-end wants an acknowledgement, which there is not.
    let mut reply = wire.ask(code::GET_INFLIGHT_FD, NEED_REPLY, wish.bytes(), &[])?;
    Some((reply.get(), reply.fds.pop()?))
}

#[test]
fn records_of_any_size_are_asked_for() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    let before = daemon.resident();
    for (queues, size) in [
        (1, 64),
        (2, 1024),
        (1, 1),
        (0, 0),
        (0, 64),
        (1, 0),
        (3, 64),
        (u16::MAX, u16::MAX),
        (1, u16::MAX),
        (u16::MAX, 1),
    ] {
        let guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        let answer = ask(&guest.wire, queues, size);
        assert!(answer.is_some() == ((1..=2).contains(&queues) && (1..=1024).contains(&size)) || size == 1);
    }
    assert!(daemon.resident() < before + 16 * 1024);
    check_next(&daemon);
}

#[test]
fn records_that_cannot_be_are_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    let folder = File::open(std::env::temp_dir()).unwrap();
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let new = |size| memfd(FILE, size);
    let as_said = |size, offset, queues, queue_size| Inflight { size, offset, queues, queue_size, padding: 0 };
    let cases = [
        ("an empty file", new(0), as_said(0x1000, 0, 1, 64)),
        ("of no size", new(0x1000), as_said(0, 0, 1, 64)),
        ("too small for its queue", new(0x1000), as_said(16 + 16 * 63, 0, 1, 64)),
        ("too small for two queues", new(0x1000), as_said(0x500, 0, 2, 64)),
        ("for no queue", new(0x1000), as_said(0x1000, 0, 0, 64)),
        ("for queues of no size", new(0x1000), as_said(0x1000, 0, 1, 0)),
        ("for more queues than there are", new(0x10_0000), as_said(0x10_0000, 0, 3, 64)),
        ("for all queues that can be", new(0x1000), as_said(0x1000, 0, u16::MAX, u16::MAX)),
        ("absurdly large", new(0x1000), as_said(u64::MAX, 0, u16::MAX, u16::MAX)),
        ("past the end of the file", new(0x1000), as_said(0x1000, u64::MAX - 0xfff, 1, 64)),
        ("beyond the file", new(0x1000), as_said(0x1000, 0x1000, 1, 64)),
        ("at no page", new(0x2000), as_said(0x1000, 1, 1, 64)),
        ("a folder", folder, as_said(0x1000, 0, 1, 64)),
        ("a socket", File::from(OwnedFd::from(socket)), as_said(0x1000, 0, 1, 64)),
    ];
    for (what, file, inflight) in &cases {
        let guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        let answer = guest.wire.tell(code::SET_INFLIGHT_FD, inflight.bytes(), &[file.as_fd()]);
        assert!(answer.is_refusal(), "{what}");
    }
    for count in [0, 2] {
        let guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        let files = [cases[1].1.as_fd(), cases[2].1.as_fd()];
        let answer = guest.wire.tell(code::SET_INFLIGHT_FD, as_said(0x1000, 0, 1, 64).bytes(), &files[..count]);
        assert!(answer.is_refusal(), "{count} files");
    }
    check_next(&daemon);
    eventually("nothing is left", || daemon.holds(FILE) == (0, 0));
}

/// A front-end may have a record of its own, as from another back-end, of zeros.
#[test]
fn a_record_of_zeros_is_a_new_one() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::greet(&daemon, Ram::small(), WISH);
    let inflight = Inflight { size: 0x2000, offset: 0x1000, queues: 1, queue_size: 64, padding: 0 };
    guest.inflight = Some((inflight, memfd(FILE, 0x3000).into()));
    guest.set_inflight();
    guest.share_memory();
    guest.add_queue(GuestQueue::config(0, 64, guest.features));
    guest.check();
    eventually("it is recorded", || Record::of(&guest).head(0).used_idx == 1);
}

#[test]
fn a_record_that_is_truncated_costs_the_connection() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest = Guest::greet(&daemon, Ram::small(), WISH);
        let file = memfd(FILE, 0x2000);
        let inflight = Inflight { size: 0x2000, offset: 0, queues: 1, queue_size: 64, padding: 0 };
        guest.inflight = Some((inflight, file.try_clone().unwrap().into()));
        guest.set_inflight();
        guest.share_memory();
        guest.add_queue(GuestQueue::config(0, 64, guest.features));
        guest.check();
        file.set_len(0).unwrap();
        let request = guest.queues[0].read(3, 8);
        guest.queues[0].submit(&guest.ram, request);
        guest.wire.until_end();
        check_next(&daemon);
    }
}
