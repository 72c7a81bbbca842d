//! Messages at random: whatever comes of them, the daemon lives, and serves the next.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use zerocopy::IntoBytes;

use crate::common::Random;
use crate::harness::daemon::{Daemon, Place};
use crate::harness::event::Event;
use crate::harness::guest::{Guest, Wish, check_next, slot, table};
use crate::harness::ram::{RAM, Ram, memfd};
use crate::harness::wire::{Config, Extent, Header, Inflight, NEED_REPLY, REPLY, Region, VERSION, VringAddr, code};

const SENT: &str = "sent-along";
const LONG: Duration = Duration::from_millis(2500);

/// What is sent along.
struct Bag {
    files: Vec<File>,
    events: Vec<Event>,
    sockets: (UnixStream, UnixStream),
}

impl Bag {
    fn new() -> Self {
        let files = [0, 0x1000, 0x10_0000, 16 << 20].map(|size| memfd(SENT, size)).into();
        Self { files, events: (0..3).map(|_| Event::new()).collect(), sockets: UnixStream::pair().unwrap() }
    }

    /// So many of them; mostly what the message wants.
    fn take(&self, random: &mut Random, code: u32, count: usize) -> Vec<BorrowedFd<'_>> {
        let wants_event = (code::SET_VRING_KICK..=code::SET_VRING_ERR).contains(&code);
        let fds = (0..count).map(|_| match random.below(16) {
            0 => self.sockets.0.as_fd(),
            1..4 => self.files[random.below(4) as usize].as_fd(),
            _ if wants_event => self.events[random.below(3) as usize].fd(),
            _ if code == code::SET_BACKEND_REQ_FD => self.sockets.1.as_fd(),
            _ => self.files[3].as_fd(),
        });
        fds.collect()
    }
}

/// A number that is good, at an edge, or anything.
fn number(random: &mut Random, good: u64) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => random.choose(&[0, 1, 0xff, 0x1000, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 0xfff]),
        2 => good.wrapping_add(random.choose(&[1, 0x1000, u64::MAX, 0x10_0000])),
        _ => good,
    }
}

fn region(random: &mut Random, good: Region) -> Region {
    let guest = random.choose(&[good.guest, 1 << 32, 1 << 33]);
    let user = good.user.wrapping_add(guest);
    Region {
        guest: number(random, guest),
        size: number(random, good.size),
        user: number(random, user),
        offset: number(random, 0),
    }
}

/// What a message of this code may have for a body.
fn body(random: &mut Random, code: u32, guest: &Guest) -> Vec<u8> {
    let good = guest.ram.regions[0].0;
    let index = number(random, random.0 & 1) as u32;
    match code {
        code::SET_FEATURES => number(random, guest.features | (random.0 & 1) << 26).as_bytes().to_vec(),
        code::SET_PROTOCOL_FEATURES => number(random, guest.protocol).as_bytes().to_vec(),
        code::SET_MEM_TABLE => {
            let regions: Vec<_> = (0..random.below(4)).map(|_| region(random, good)).collect();
            table(&regions)
        }
        code::ADD_MEM_REG | code::REM_MEM_REG => slot(region(random, good)),
        code::SET_LOG_BASE => Extent { size: number(random, 0x1000), offset: number(random, 0) }.as_bytes().to_vec(),
        code::SET_VRING_ADDR => {
            let VringAddr { desc, used, avail, .. } = guest.addr(random.below(2) as u32, None);
            let [desc, used, avail] = [desc, used, avail].map(|part| number(random, part));
            let (flags, log) = (number(random, random.0 & 1) as u32, number(random, 0x5000));
            VringAddr { index, flags, desc, used, avail, log }.as_bytes().to_vec()
        }
        code::SET_VRING_KICK..=code::SET_VRING_ERR => {
            let none = if random.once_in(4) { 0x100 } else { 0 };
            (u64::from(index) | none).as_bytes().to_vec()
        }
        code::SET_VRING_NUM => [index, number(random, 64) as u32].as_bytes().to_vec(),
        code::SET_VRING_BASE | code::GET_VRING_BASE => [index, number(random, 0) as u32].as_bytes().to_vec(),
        code::SET_VRING_ENABLE => [index, number(random, 1) as u32].as_bytes().to_vec(),
        code::GET_CONFIG | code::SET_CONFIG => {
            let config = Config { offset: number(random, 0) as u32, size: number(random, 60) as u32, flags: 0 };
            [config.as_bytes(), &[0; 60]].concat()
        }
        code::GET_INFLIGHT_FD | code::SET_INFLIGHT_FD => {
            let (size, offset) = (number(random, 0x2000), number(random, 0));
            let (queues, queue_size) = (number(random, 2) as u16, number(random, 64) as u16);
            Inflight { size, offset, queues, queue_size, padding: 0 }.bytes().to_vec()
        }
        _ if random.once_in(2) => vec![],
        _ => (0..random.below(64)).map(|_| random.next() as u8).collect(),
    }
}

/// Sends a message, good for the most part. False if the connection has ended.
fn send(random: &mut Random, guest: &Guest, bag: &Bag) -> bool {
    let known = [1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 21, 24, 25, 31, 32, 34, 36, 37, 38];
    let code = if random.once_in(20) { random.below(64) as u32 } else { random.choose(&known) };
    let mut body = body(random, code, guest);
    if random.once_in(30) {
        body.truncate(random.below(body.len() as u64 + 1) as usize);
    }
    let count = match code {
        code::SET_MEM_TABLE => body.len() / 32,
        6 | 12..=14 | 21 | 32 | 37 => usize::from(body.get(1) != Some(&1)),
        _ => 0,
    };
    let count = if random.once_in(30) { random.below(40) as usize } else { count };
    let fds = bag.take(random, code, count);
    let mut flags = VERSION | if random.once_in(2) { NEED_REPLY } else { 0 };
    let mut size = body.len() as u32;
    if random.once_in(60) {
        flags = random.choose(&[0, 2, VERSION | REPLY, random.0 as u32]);
    }
    if random.once_in(60) {
        size = number(random, size.into()) as u32;
    }
    let header = Header { code, flags, size };
    guest.wire.send_bytes(&[header.as_bytes(), &body].concat(), &fds)
}

/// Reads what has come, and does not wait for more.
fn drain(guest: &Guest) {
    let mut bytes = [0; 4096];
    while matches!(recv(&guest.wire.socket, &mut bytes, RecvFlags::DONTWAIT), Ok((1.., _))) {}
}

fn fuzz(place: &Place, engine: &str, seed: u64) {
    let daemon = Daemon::start(place, &["--queues", "2", "--engine", engine]);
    check_next(&daemon);
    let (fds, resident) = (daemon.idle_fds(), daemon.resident());
    let (random, bag, begun) = (&mut Random(seed), Bag::new(), Instant::now());
    let (mut messages, mut connections) = (0_u64, 0_u64);
    while begun.elapsed() < LONG {
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { queues: 2, ..Wish::default() });
        connections += 1;
        for _ in 0..=random.below(100) {
            if random.once_in(3) {
                // Rings are at work meanwhile, as long as they are whole.
                let Guest { ram, queues, .. } = &mut guest;
                let queue = &mut queues[random.below(2) as usize];
                if queue.pending.len() < 8 {
                    let request = queue.read(random.below(4000), 8);
                    queue.submit(ram, request);
                }
                while let Ok(Some(_)) = queue.poll(ram) {}
            }
            messages += 1;
            if !send(random, &guest, &bag) {
                break;
            }
            drain(&guest);
        }
        if random.once_in(10) {
            drop(guest);
            check_next(&daemon);
        }
    }
    check_next(&daemon);
    assert!(messages > 500 && connections > 20, "{messages} messages, {connections} connections");
    assert_eq!(daemon.idle_fds(), fds);
    assert_eq!((daemon.holds(RAM), daemon.holds(SENT)), ((0, 0), (0, 0)));
    let after = daemon.resident();
    assert!(after < resident + 32 * 1024, "{resident} KiB, then {after} KiB");
}

#[test]
fn messages_at_random_with_one_engine() {
    fuzz(&Place::new(), "sync", 1);
}

#[test]
fn messages_at_random_with_the_other_engine() {
    fuzz(&Place::new(), "io-uring", 2);
}
