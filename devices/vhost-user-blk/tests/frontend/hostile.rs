//! Messages that no front-end should send: the connection may end, the daemon does not.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use zerocopy::IntoBytes;

use crate::harness::daemon::{Daemon, Place};
use crate::harness::event::Event;
use crate::harness::guest::{Guest, Wish, check_next, protocol, table};
use crate::harness::ram::{RAM, Ram, memfd};
use crate::harness::wire::{Config, Header, NEED_REPLY, REPLY, VERSION, Wire, code};

/// A name for what is sent.
const SENT: &str = "sent-along";

/// What a daemon has before it is ill-treated, and may not have more of afterwards.
struct Before {
    fds: usize,
    resident: u64,
}

impl Before {
    fn new(daemon: &Daemon) -> Self {
        check_next(daemon);
        let fds = daemon.idle_fds();
        Self { fds, resident: daemon.resident() }
    }

    /// The next connection works, and nothing has become more.
    #[track_caller]
    fn check(&self, daemon: &Daemon) {
        check_next(daemon);
        assert_eq!(daemon.idle_fds(), self.fds);
        assert_eq!((daemon.holds(RAM), daemon.holds(SENT)), ((0, 0), (0, 0)));
        let resident = daemon.resident();
        assert!(resident < self.resident + 16 * 1024, "{} KiB, then {resident} KiB", self.resident);
    }
}

/// Somebody to send messages to: without a word before, or in the midst of a session.
fn peer(daemon: &Daemon, has_session: bool) -> (Wire, Option<Guest>) {
    if has_session {
        let mut guest = Guest::usual(daemon);
        guest.check();
        let wire = Wire::new(guest.wire.socket.try_clone().unwrap());
        (wire, Some(guest))
    } else {
        (Wire::new(daemon.connect()), None)
    }
}

/// Ends the front-end's side, and waits for the daemon's: it has looked at everything then.
fn hang_up(wire: &Wire) {
    wire.socket.shutdown(std::net::Shutdown::Write).unwrap();
    wire.until_end();
}

#[test]
fn messages_of_any_code_and_size() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    let before = Before::new(&daemon);
    for code in 0..=60 {
        for size in [0, 1, 4, 8, 12, 40, 4096] {
            for (fill, flags) in [(0_u8, NEED_REPLY), (0xff, NEED_REPLY), (1, 0)] {
                let (wire, _guest) = peer(&daemon, size % 8 == 0 && fill != 1);
                wire.send(code, flags, &vec![fill; size], &[]);
                hang_up(&wire);
            }
        }
    }
    before.check(&daemon);
}

#[test]
fn codes_that_are_none() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    for code in [0, 45, 61, 100, 255, 0x100, 0x1_0001, 1 << 31, u32::MAX] {
        let (wire, _guest) = peer(&daemon, true);
        assert!(wire.tell(code, &[], &[]).is_refusal(), "{code}");
        check_next_while(&daemon, wire);
    }
    before.check(&daemon);
}

/// The next is served when this one has gone.
fn check_next_while(daemon: &Daemon, wire: Wire) {
    drop(wire);
    check_next(daemon);
}

#[test]
fn headers_that_are_wrong() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let header = |code, flags, size| Header { code, flags, size };
    for code in [0, 1, 2, 5, 9, 12, 24, 37, 60] {
        let headers = [
            header(code, VERSION, 4097),
            header(code, VERSION, 1 << 20),
            header(code, VERSION, 1 << 31),
            header(code, VERSION, u32::MAX),
            header(code, 0, 0),
            header(code, 2, 8),
            header(code, 3, 8),
            header(code, VERSION | REPLY, 0),
            header(code, VERSION | REPLY | NEED_REPLY, 8),
            header(code, VERSION | 1 << 4, 0),
            header(code, u32::MAX, 8),
        ];
        for header in headers {
            let (wire, guest) = peer(&daemon, code % 2 == 0);
            wire.send_bytes(&[header.as_bytes(), &[0; 64]].concat(), &[]);
            hang_up(&wire);
            drop(guest);
        }
    }
    before.check(&daemon);
}

/// Bytes that end in the midst of a message, together or one by one.
#[test]
fn messages_that_end_too_early() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let whole = [Header { code: code::SET_FEATURES, flags: VERSION, size: 8 }.as_bytes(), &[0; 8]].concat();
    for len in 0..whole.len() {
        for one_by_one in [false, true] {
            let (wire, guest) = peer(&daemon, len % 3 == 0);
            // The end may come before the last byte.
            for part in whole[..len].chunks(if one_by_one { 1 } else { 20 }) {
                wire.send_bytes(part, &[]);
            }
            hang_up(&wire);
            drop(guest);
        }
    }
    // A table of which the regions, or the descriptors, do not come.
    let ram = Ram::small();
    let region = ram.regions[0].0;
    let (wire, _guest) = peer(&daemon, true);
    let body = table(&[region, region, region]);
    let header = Header { code: code::SET_MEM_TABLE, flags: VERSION, size: body.len() as u32 };
    let bytes = [header.as_bytes(), &body].concat();
    wire.send_bytes(&bytes[..bytes.len() - 9], &[ram.file(0), ram.file(0), ram.file(0)]);
    hang_up(&wire);
    before.check(&daemon);
}

/// A good message in pieces is a good message, or ends the connection.
#[test]
fn headers_may_come_in_pieces() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let header = Header { code: code::GET_FEATURES, flags: VERSION, size: 0 };
    for cut in 1..12 {
        let wire = Wire::new(daemon.connect());
        for part in [&header.as_bytes()[..cut], &header.as_bytes()[cut..]] {
            assert!(wire.send_bytes(part, &[]));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let reply = wire.receive().expect("the connection has ended");
        assert_ne!(reply.get::<u64>(), 0);
    }
    check_next(&daemon);
}

/// They are closed, whatever becomes of the message.
#[test]
fn descriptors_where_none_belong() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let file = memfd(SENT, 0x1000);
    for code in 0..=60 {
        for count in [1, 2, 32, 33, 64] {
            let fds = vec![file.as_fd(); count];
            let (wire, _guest) = peer(&daemon, count < 33);
            wire.send(code, NEED_REPLY, &[0; 8], &fds);
            hang_up(&wire);
        }
    }
    // With a body instead of a header, and with nothing but a byte.
    for (bytes, fds) in [(&[0; 8][..], 3), (&[1], 1), (&[1, 0, 0, 0], 253)] {
        let (wire, _guest) = peer(&daemon, true);
        let header = Header { code: code::SET_FEATURES, flags: VERSION, size: 8 };
        if bytes.len() == 8 {
            wire.send_bytes(header.as_bytes(), &[]);
        }
        wire.send_bytes(bytes, &vec![file.as_fd(); fds]);
        hang_up(&wire);
    }
    before.check(&daemon);
}

/// Of the descriptors of more than 32 regions not all are received: none is kept.
#[test]
fn more_descriptors_than_a_message_can_have() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    for count in [33, 64, 253] {
        let ranges: Vec<_> = (0..count).map(|number| (number << 20, 0x1000)).collect();
        let ram = Ram::new(&ranges);
        let regions: Vec<_> = ram.regions.iter().map(|(region, _)| *region).collect();
        let fds: Vec<_> = (0..ranges.len()).map(|number| ram.file(number)).collect();
        let wish = Wish { protocol: !protocol::CONFIGURE_MEM_SLOTS, ..Wish::default() };
        let guest = Guest::greet(&daemon, Ram::small(), wish);
        let mut body = table(&regions);
        body.truncate(4096);
        assert!(guest.wire.tell(code::SET_MEM_TABLE, &body, &fds).is_refusal());
    }
    before.check(&daemon);
}

/// What is no event file descriptor is none, whatever else it is.
#[test]
fn events_that_are_none() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let (socket, other) = UnixStream::pair().unwrap();
    let file = memfd(SENT, 0x1000);
    let null = std::fs::File::open("/dev/null").unwrap();
    let folder = std::fs::File::open(std::env::temp_dir()).unwrap();
    let (event, second) = (Event::new(), Event::new());
    for code in [code::SET_VRING_KICK, code::SET_VRING_CALL, code::SET_VRING_ERR] {
        let wrong: [&[BorrowedFd<'_>]; 6] =
            [&[socket.as_fd()], &[file.as_fd()], &[null.as_fd()], &[folder.as_fd()], &[event.fd(), second.fd()], &[]];
        for fds in wrong {
            let guest = Guest::usual(&daemon);
            // It says that there is one.
            assert!(guest.wire.tell(code, 0_u64.as_bytes(), fds).is_refusal());
            guest.queues[0].kick.add(1);
            drop(guest);
            check_next(&daemon);
        }
        // It says that there is none, and there is.
        let guest = Guest::usual(&daemon);
        assert!(guest.wire.tell(code, 0x100_u64.as_bytes(), &[event.fd()]).is_refusal());
    }
    drop(other);
    before.check(&daemon);
}

#[test]
fn channels_that_are_none() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let file = memfd(SENT, 0x1000);
    let event = Event::new();
    let datagram = UnixDatagram::unbound().unwrap();
    for fds in [&[file.as_fd()][..], &[event.fd()], &[datagram.as_fd()], &[], &[file.as_fd(), file.as_fd()]] {
        let guest = Guest::usual(&daemon);
        assert!(guest.wire.tell(code::SET_BACKEND_REQ_FD, &[], fds).is_refusal());
    }
    before.check(&daemon);
}

/// Whoever holds one end of a connection keeps it alive: the daemon must not be who does, when the front-end has gone.
#[test]
fn channels_that_are_or_have_the_connection() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--log", "warn"]);
    for number in 0..5 {
        let guest = Guest::usual(&daemon);
        let end = guest.wire.socket.as_fd();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = UnixListener::bind(place.path(&format!("listener-{number}"))).unwrap();
        let waiting = UnixStream::connect(place.path(&format!("listener-{number}"))).unwrap();
        let (inner, outer) = UnixStream::pair().unwrap();
        Wire::new(inner.try_clone().unwrap()).send_bytes(&[1], &[end]);
        Wire::new(waiting).send_bytes(&[1], &[end]);
        let channel = match number {
            0 => end,
            1 => listener.as_fd(),
            2 => {
                Wire::new(ours.try_clone().unwrap()).send_bytes(&[1; 100], &[end]);
                theirs.as_fd()
            }
            // In a socket that is in the channel.
            3 => {
                Wire::new(ours.try_clone().unwrap()).send_bytes(&[1; 100], &[outer.as_fd()]);
                theirs.as_fd()
            }
            _ => theirs.as_fd(),
        };
        let answer = guest.wire.tell(code::SET_BACKEND_REQ_FD, &[], &[channel]);
        assert_eq!(answer.is_refusal(), number < 2);
        // Nor can anything be put into it later.
        if number >= 2 {
            assert!(!Wire::new(ours).send_bytes(&[1], &[end]));
        }
        drop((guest, theirs, listener, inner, outer));
        check_next(&daemon);
    }
    // It comes with a header that is in pieces.
    let guest = Guest::usual(&daemon);
    let header = Header { code: code::SET_BACKEND_REQ_FD, flags: VERSION, size: 0 };
    guest.wire.send_bytes(&header.as_bytes()[..5], &[guest.wire.socket.as_fd()]);
    guest.wire.send_bytes(&header.as_bytes()[5..], &[]);
    guest.wire.until_end();
    check_next(&daemon);
}

#[test]
fn the_configuration_is_read_within_its_bounds_and_never_written() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    let sizes = [(0, 0), (0, 4096), (0, 4085), (60, 1), (4095, 1), (4095, 2), (4096, 1), (u32::MAX, 1), (1, u32::MAX)];
    for (offset, size) in sizes {
        for code in [code::GET_CONFIG, code::SET_CONFIG] {
            for payload in [0, 1, 8, size.min(4000) as usize] {
                let (wire, _guest) = peer(&daemon, true);
                let body = [Config { offset, size, flags: 0 }.as_bytes(), &vec![0; payload]].concat();
                if wire.send(code, NEED_REPLY, &body, &[]) {
                    let reply = wire.socket.shutdown(std::net::Shutdown::Write).map(|()| wire.receive()).unwrap();
                    let is_refused = reply.is_none_or(|reply| reply.body.len() <= 8 && reply.body != [0; 8]);
                    assert!(code == code::GET_CONFIG || is_refused, "{offset} {size}");
                }
            }
        }
    }
    before.check(&daemon);
}

#[test]
fn features_that_were_not_offered() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    for features in [u64::MAX, 1 << 63, 1 << 33, 1 << 34, 1 << 23] {
        let guest = Guest::usual(&daemon);
        assert!(guest.wire.tell(code::SET_FEATURES, features.as_bytes(), &[]).is_refusal());
        drop(guest);
        let guest = Guest::usual(&daemon);
        assert!(guest.wire.tell(code::SET_PROTOCOL_FEATURES, features.as_bytes(), &[]).is_refusal());
    }
    before.check(&daemon);
}

#[test]
fn sizes_that_no_ring_can_have() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    for size in [0, 3, 100, 0x1_0000, 0x8000_0000, u32::MAX] {
        let guest = Guest::usual(&daemon);
        guest.stop(0);
        assert!(guest.wire.tell(code::SET_VRING_NUM, [0, size].as_bytes(), &[]).is_refusal(), "{size}");
    }
    for base in [0x1_0000, u32::MAX] {
        let guest = Guest::usual(&daemon);
        guest.stop(0);
        assert!(guest.wire.tell(code::SET_VRING_BASE, [0, base].as_bytes(), &[]).is_refusal(), "{base}");
    }
    // A base that is not where the ring is.
    for base in [1, 63, 64, 65, 0x7fff, 0xffff] {
        let mut guest = Guest::usual(&daemon);
        guest.stop(0);
        guest.wire.tell(code::SET_VRING_BASE, [0, base].as_bytes(), &[]);
        guest.wire.tell(code::SET_VRING_KICK, 0_u64.as_bytes(), &[guest.queues[0].kick.fd()]);
        let request = guest.queues[0].read(0, 1);
        guest.queues[0].submit(&guest.ram, request);
        drop(guest);
        check_next(&daemon);
    }
    before.check(&daemon);
}

/// As many connections as can be made, and gone before they are accepted.
#[test]
fn connections_that_say_nothing() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let before = Before::new(&daemon);
    for _ in 0..300 {
        drop(daemon.connect());
    }
    let waiting: Vec<_> = (0..50).map(|_| daemon.connect()).collect();
    drop(waiting);
    before.check(&daemon);
}
