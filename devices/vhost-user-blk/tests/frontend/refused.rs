//! Memory, and rings in it, that cannot be: refused with a reason, and nothing of it is left.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use zerocopy::IntoBytes;

use crate::harness::daemon::{Daemon, Place, eventually};
use crate::harness::guest::{Guest, Wish, check_next, slot, table};
use crate::harness::queue::{GuestQueue, RINGS};
use crate::harness::ram::{RAM, Ram, memfd};
use crate::harness::wire::{Answer, Region, VringAddr, code};
use crate::memory::whole_table;

#[test]
fn rings_past_the_end_of_memory_are_refused_or_broken() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let end = 16 << 20;
    for (desc, avail, used) in [
        (end - 0x100, RINGS, RINGS + 0x1000),
        (RINGS, end - 0x10, RINGS + 0x1000),
        (RINGS, RINGS + 0x1000, end - 0x20),
        (RINGS, RINGS + 0x1000, end - 4),
        (RINGS, end - 2, RINGS + 0x1000),
    ] {
        let mut guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        guest.share_memory();
        let usual = GuestQueue::config(0, 64, guest.features);
        guest.queues.push(GuestQueue::new(&guest.ram, 0, usual));
        guest.state(code::SET_VRING_NUM, 0, 64);
        let mut addr = guest.addr(0, None);
        [addr.desc, addr.avail, addr.used] = [desc, avail, used].map(|part| guest.ram.user(part));
        let queue = &guest.queues[0];
        let steps = [
            (code::SET_VRING_ADDR, addr.as_bytes(), None),
            (code::SET_VRING_KICK, 0_u64.as_bytes(), Some(queue.kick.fd())),
            (code::SET_VRING_CALL, 0_u64.as_bytes(), Some(queue.call.fd())),
            (code::SET_VRING_ENABLE, [0_u32, 1].as_bytes(), None),
        ];
        for (code, body, fd) in steps {
            let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
            if guest.wire.tell(code, body, &fds) == Answer::Ended {
                break;
            }
        }
        queue.kick.add(1);
        drop(guest);
        check_next(&daemon);
    }
}

/// Rings that are nowhere in the front-end's memory, or not aligned.
#[test]
fn rings_in_no_region_are_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--log", "warn"]);
    for user in [0, 0x10, u64::MAX - 15, 1 << 63, 0x7eff_ffff_0000] {
        let mut guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        guest.share_memory();
        let usual = GuestQueue::config(0, 64, guest.features);
        guest.queues.push(GuestQueue::new(&guest.ram, 0, usual));
        guest.state(code::SET_VRING_NUM, 0, 64);
        let mut addr = guest.addr(0, None);
        addr.desc = user;
        let queue = &guest.queues[0];
        let told = guest.wire.tell(code::SET_VRING_ADDR, addr.as_bytes(), &[]);
        let kicked = guest.wire.tell(code::SET_VRING_KICK, 0_u64.as_bytes(), &[queue.kick.fd()]);
        let enabled = guest.wire.tell(code::SET_VRING_ENABLE, [0_u32, 1].as_bytes(), &[]);
        assert!([told, kicked, enabled].iter().any(|answer| answer.is_refusal()));
        daemon.tells(&format!("{user:#x}"));
        drop(guest);
        check_next(&daemon);
    }
}

/// What is refused of a ring is not done, in no part.
#[test]
fn a_running_ring_stays_as_it_is() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.check();
    let nowhere = VringAddr { avail: 0x10, flags: 1, log: 0, ..guest.addr(0, None) };
    let past_end = VringAddr { used: u64::MAX - 3, ..nowhere };
    let file = memfd(RAM, 0);
    let messages: [(_, &[u8], &[_]); 8] = [
        (code::SET_VRING_ADDR, nowhere.as_bytes(), &[]),
        (code::SET_VRING_ADDR, past_end.as_bytes(), &[]),
        (code::SET_VRING_NUM, &[0, 0, 0, 0, 128, 0, 0, 0], &[]),
        (code::SET_VRING_BASE, &[0, 0, 0, 0, 9, 0, 0, 0], &[]),
        (code::SET_VRING_KICK, &[0; 8], &[file.as_fd()]),
        (code::SET_VRING_CALL, &[0; 8], &[file.as_fd()]),
        (code::SET_VRING_ERR, &[0; 8], &[file.as_fd()]),
        (code::SET_FEATURES, u64::MAX.as_bytes(), &[]),
    ];
    for (number, (code, body, fds)) in (1..).zip(messages) {
        assert_eq!(guest.wire.tell(code, body, fds), Answer::Ack(1), "{code}");
        for _ in 0..number {
            guest.check();
        }
    }
    assert_eq!(guest.stop(0), 1 + 8 * 9 / 2);
}

#[test]
fn rings_that_do_not_exist_are_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    for index in [2, 3, 255, 256, 0xffff, 0x1_0000, u32::MAX] {
        for number in 0..8 {
            let guest = Guest::usual(&daemon);
            let kick = guest.queues[0].kick.fd();
            let addr = VringAddr { index, ..guest.addr(0, None) };
            let (state, event) = ([index, 1], u64::from(index));
            let (code, body, fds) = match number {
                0 => (code::SET_VRING_NUM, state.as_bytes(), vec![]),
                1 => (code::SET_VRING_BASE, state.as_bytes(), vec![]),
                2 => (code::SET_VRING_ENABLE, state.as_bytes(), vec![]),
                3 => (code::SET_VRING_ADDR, addr.as_bytes(), vec![]),
                4 => (code::GET_VRING_BASE, state.as_bytes(), vec![]),
                5 => (code::SET_VRING_KICK, event.as_bytes(), vec![kick]),
                6 => (code::SET_VRING_CALL, event.as_bytes(), vec![kick]),
                _ => (code::SET_VRING_ERR, event.as_bytes(), vec![kick]),
            };
            // The index of an event has 8 bits.
            let is_other = (5..8).contains(&number) && index & 0xff < 2;
            let answer = guest.wire.tell(code, body, &fds);
            assert!(answer.is_refusal() || is_other, "{code} for {index}: {answer:?}");
        }
    }
    check_next(&daemon);
}

/// Of which nothing is left, whatever became of the message.
fn files() -> [(&'static str, File); 3] {
    let dir = std::env::temp_dir();
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = File::from(std::os::fd::OwnedFd::from(socket));
    [("a socket", socket), ("a folder", File::open(dir).unwrap()), ("an empty file", memfd(RAM, 0))]
}

#[test]
fn files_that_cannot_be_mapped_are_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--log", "warn"]);
    let write_only = File::create(place.path("write-only")).unwrap();
    write_only.set_len(1 << 20).unwrap();
    let read_only = File::open(place.path("write-only")).unwrap();
    let mut bad: Vec<_> = files().into();
    bad.extend([("a file that cannot be read", write_only), ("a file that cannot be written", read_only)]);
    for (what, file) in bad {
        for as_table in [false, true] {
            let wish = if as_table { whole_table() } else { Wish::default() };
            let mut guest = Guest::boot(&daemon, Ram::small(), wish);
            let mut region = Ram::new(&[(0xab_cdef_0000, 0x10_0000)]).regions[0].0;
            region.user += 1 << 20;
            let answer = if as_table {
                let body = table(&[guest.ram.regions[0].0, region]);
                guest.wire.tell(code::SET_MEM_TABLE, &body, &[guest.ram.file(0), file.as_fd()])
            } else {
                guest.wire.tell(code::ADD_MEM_REG, &slot(region), &[file.as_fd()])
            };
            assert!(answer.is_refusal(), "{what}");
            if answer != Answer::Ended {
                guest.check();
                assert_eq!(daemon.holds(RAM), (1, 1), "{what}");
            }
        }
    }
    assert!(daemon.stderr().matches("abcdef0000").count() >= 10, "{}", daemon.stderr());
    check_next(&daemon);
}

#[test]
fn regions_that_cannot_be_are_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--log", "warn"]);
    let good = Ram::small().regions[0].0;
    let new = Ram::new(&[(0x1_0000_0000, 0x10_0000)]);
    let base = new.regions[0].0;
    let base = Region { user: 0x1000_0000_0000, ..base };
    let changed = |change: &dyn Fn(&mut Region)| {
        let mut region = base;
        change(&mut region);
        region
    };
    let cases = [
        ("empty", changed(&|region| region.size = 0)),
        ("past the end of guest memory", changed(&|region| region.guest = u64::MAX - 0xfff)),
        ("past the end of the front-end", changed(&|region| region.user = u64::MAX - 0xfff)),
        ("past the end of the file", changed(&|region| region.offset = u64::MAX - 0xfff)),
        ("at no page of the file", changed(&|region| region.offset = 1)),
        ("larger than the file", changed(&|region| region.size = 0x20_0000)),
        ("beyond the file", changed(&|region| region.offset = 0x20_0000)),
        ("as large as all memory", changed(&|region| (region.guest, region.user, region.size) = (0, 0, u64::MAX))),
        ("half of all memory", changed(&|region| region.size = 1 << 63)),
        ("larger than any address space", changed(&|region| region.size = 1 << 56)),
        ("the same again", good),
        ("over the end of another", changed(&|region| region.guest = good.size - 0x1000)),
        ("inside another", changed(&|region| (region.guest, region.size) = (0x1000, 0x1000))),
        ("around another", changed(&|region| (region.guest, region.size) = (0, 1 << 30))),
    ];
    for (what, region) in cases {
        for as_table in [false, true] {
            let wish = if as_table { whole_table() } else { Wish::default() };
            let mut guest = Guest::boot(&daemon, Ram::small(), wish);
            let before = daemon.stderr().len();
            let answer = if as_table {
                guest.wire.tell(code::SET_MEM_TABLE, &table(&[good, region]), &[guest.ram.file(0), new.file(0)])
            } else {
                guest.wire.tell(code::ADD_MEM_REG, &slot(region), &[new.file(0)])
            };
            assert!(answer.is_refusal(), "{what}: {answer:?}");
            eventually("a reason", || daemon.stderr().len() > before);
            if answer == Answer::Ack(1) && daemon.stderr()[before..].contains("refused") {
                let told = daemon.stderr()[before..].to_owned();
                assert!(told.contains(&format!("{:x}", region.guest)), "{what}, {region:x?}: {told}");
                guest.check();
                assert_eq!(daemon.holds(RAM), (1, 1), "{what}");
            }
        }
        check_next(&daemon);
    }
    assert_eq!(daemon.stderr().matches("panicked").count(), 0);
}

/// A region as large as the address space allows, almost all of it a hole: it takes no memory to speak of.
#[test]
fn a_large_region_costs_nothing() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    check_next(&daemon);
    let before = daemon.resident();
    for size in [1 << 40, 1 << 44, 1 << 46] {
        let guest = Guest::usual(&daemon);
        let mut region = Ram::new(&[(1 << 47, 0x1000)]).regions[0].0;
        (region.size, region.user) = (size, 1 << 47);
        let file = memfd(RAM, size);
        let answer = guest.wire.tell(code::ADD_MEM_REG, &slot(region), &[file.as_fd()]);
        assert!(matches!(answer, Answer::Ack(0 | 1)), "{answer:?}");
        let after = daemon.resident();
        assert!(after < before + 32 * 1024, "{size:#x}: {before} KiB, then {after} KiB");
    }
    check_next(&daemon);
}

#[test]
fn regions_come_with_one_file_each() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let other = Ram::new(&[(1 << 32, 0x1_0000), (1 << 33, 0x1_0000)]);
    let files = [other.file(0), other.file(1), other.file(0)];
    for count in [0, 2, 3] {
        let guest = Guest::usual(&daemon);
        let answer = guest.wire.tell(code::ADD_MEM_REG, &slot(other.regions[0].0), &files[..count]);
        assert!(answer.is_refusal(), "{count} files for a region");
    }
    for count in [0, 1, 3] {
        let guest = Guest::boot(&daemon, Ram::small(), whole_table());
        let body = table(&[other.regions[0].0, other.regions[1].0]);
        assert!(
            guest.wire.tell(code::SET_MEM_TABLE, &body, &files[..count]).is_refusal(),
            "{count} files for 2 regions"
        );
    }
    // Tables that claim more, or fewer, regions than there are in the message.
    for claim in [0, 1, 3, 8, 33, 0xffff, u32::MAX] {
        let guest = Guest::boot(&daemon, Ram::small(), whole_table());
        let mut body = table(&[other.regions[0].0, other.regions[1].0]);
        body[..4].copy_from_slice(claim.as_bytes());
        assert!(guest.wire.tell(code::SET_MEM_TABLE, &body, &files[..2]).is_refusal(), "{claim} regions");
    }
    check_next(&daemon);
    eventually("nothing is left", || daemon.holds(RAM) == (0, 0));
}

/// A hundred times of everything that is refused: no descriptor and no mapping is left of any.
#[test]
fn what_is_refused_leaves_nothing_behind() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    check_next(&daemon);
    let (idle, mappings) = (daemon.idle_fds(), daemon.mappings().len());
    let other = Ram::new(&[(0x1000, 0x1_0000), (1 << 33, 0x1_0000)]);
    let mut unmappable: Vec<_> = files().into();
    let (_, socket) = unmappable.swap_remove(0);
    for round in 0..100 {
        let guest = Guest::usual(&daemon);
        let regions: Vec<_> = other.regions.iter().map(|(region, _)| *region).collect();
        let fds = [other.file(0), other.file(1), socket.as_fd()];
        // As many as go before the connection is ended; each of them is the first one in some round.
        for step in 0..6 {
            let answer = match (round + step) % 6 {
                0 => guest.wire.tell(code::ADD_MEM_REG, &slot(regions[0]), &fds[..1]), // overlaps
                1 => guest.wire.tell(code::ADD_MEM_REG, &slot(regions[1]), &fds[2..]),
                2 => guest.wire.tell(code::SET_MEM_TABLE, &table(&[regions[1], regions[1]]), &fds[..2]),
                3 => guest.wire.tell(code::SET_MEM_TABLE, &table(&regions), &fds[1..]),
                4 => guest.wire.tell(code::SET_MEM_TABLE, &table(&regions), &fds),
                _ => guest.wire.tell(code::ADD_MEM_REG, &slot(regions[1]), &fds),
            };
            assert!(answer.is_refusal(), "{round} {step}");
            if answer == Answer::Ended {
                break;
            }
        }
        if round == 50 {
            assert!(daemon.holds(RAM).0 <= 1);
        }
    }
    check_next(&daemon);
    assert_eq!(daemon.idle_fds(), idle);
    assert_eq!(daemon.holds(RAM), (0, 0));
    let after = daemon.mappings().len();
    assert!(after <= mappings + 4, "{mappings} mappings before, {after} after");
}

/// What is not there cannot be removed.
#[test]
fn removing_what_is_not_there_is_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--log", "warn"]);
    let mut guest = Guest::usual(&daemon);
    let good = guest.ram.regions[0].0;
    let change = |guest_by, size_by: u64, user_by| Region {
        guest: good.guest + guest_by,
        size: good.size - size_by,
        user: good.user + user_by,
        ..good
    };
    for region in [change(0x1000, 0x1000, 0x1000), change(0, 0x1000, 0), change(0, 0, 0x1000), change(1 << 40, 0, 0)] {
        assert!(guest.wire.tell(code::REM_MEM_REG, &slot(region), &[]).is_refusal());
        guest.check();
    }
    // "For compatibility with existing incorrect implementations" a descriptor may come with it, and is closed.
    let file = memfd(RAM, 0x1000);
    let answer = guest.wire.tell(code::REM_MEM_REG, &slot(change(1 << 40, 0, 0)), &[file.as_fd()]);
    assert!(answer.is_refusal());
    eventually("it is closed", || daemon.holds(RAM) == (1, 1));
    guest.check();
}
