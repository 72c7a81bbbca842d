//! The memory table changes while rings run, and what is removed is gone.

use std::sync::atomic::{AtomicBool, Ordering};

use memory_model::IoAddress;
use memory_model_virtio::blk::{F_FLUSH, S_OK};
use memory_model_virtio::{DriverQueue, QueueConfig};

use crate::harness::Until;
use crate::harness::daemon::{Daemon, Place, SOON, sectors};
use crate::harness::guest::{Guest, Wish, check_next, protocol, slot};
use crate::harness::queue::{GuestQueue, RINGS};
use crate::harness::ram::{RAM, Ram, memfd, segment};
use crate::harness::wire::{Region, code};

/// A front-end without memory slots: its memory comes as a table.
pub(crate) fn whole_table() -> Wish {
    Wish { protocol: !protocol::CONFIGURE_MEM_SLOTS, ..Wish::default() }
}

#[test]
fn tables_of_1_to_32_regions_work() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    for count in [1, 2, 3, 31, 32] {
        // The usual memory in pieces that are neighbours.
        let piece = (16 << 20) / count / 4096 * 4096;
        let mut ranges: Vec<_> = (0..count).map(|number| (number * piece, piece)).collect();
        ranges.last_mut().unwrap().1 = (16 << 20) - (count - 1) * piece;
        let mut guest = Guest::boot(&daemon, Ram::new(&ranges), whole_table());
        assert_eq!(daemon.holds(RAM).1, count as usize);
        guest.check();
    }
}

/// What stays the same works all the time; what has changed works from the answer on.
#[test]
fn a_table_is_set_again_and_again_while_rings_run() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine, "--queues", "2"]);
        // The rings and usual requests in the first; another for some data.
        let ranges = [(0, 12 << 20), (12 << 20, 4 << 20), (1 << 32, 2 << 20), (1 << 40, 2 << 20)];
        let all = Ram::new(&ranges);
        let ram = all.subset([0]);
        let mut guest = Guest::boot(&daemon, ram, Wish { queues: 2, ..whole_table() });
        let (stop, mut busy) = (AtomicBool::new(false), guest.queues.pop().unwrap());
        std::thread::scope(|scope| {
            let until = Until(&stop);
            // The other queue works all the time, in memory that is always there.
            let other = scope.spawn(|| {
                let ram = all.subset([0]);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert!(busy.read_now(&ram, count % 4000, 4) == sectors(count % 4000, 4));
                    count += 1;
                }
                count
            });
            for (round, numbers) in
                [&[0, 2][..], &[0], &[3, 0], &[1, 2, 0], &[0, 1], &[0, 1]].iter().cycle().take(30).enumerate()
            {
                guest.ram = all.subset(numbers.iter().copied());
                guest.set_table();
                for number in numbers.iter().filter(|number| **number != 0) {
                    let data = segment(ranges[*number].0 + 0x3000, 4096);
                    let request = guest.queues[0].read(round as u64, 1).at(&[data]);
                    assert_eq!(guest.queues[0].run(&guest.ram, request).status, S_OK);
                    assert!(guest.ram.gather(&[data]) == sectors(round as u64, 8));
                }
                assert_eq!(daemon.holds(RAM).1, numbers.len());
            }
            drop(until);
            let count = other.join().unwrap();
            assert!(count > 10, "the other queue has done {count}");
        });
        assert_eq!(guest.stop(1), busy.answered);
    }
}

/// A region that takes the place of another one: the same guest memory in another file.
#[test]
fn a_region_takes_the_place_of_another_while_rings_run() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let ranges = [(0, 12 << 20), (12 << 20, 4 << 20)];
    let first = Ram::new(&ranges);
    let mut guest = Guest::boot(&daemon, first.subset([0, 1]), whole_table());
    for round in 0..10 {
        let (region, _) = first.regions[1];
        let moved = (region, memfd(RAM, region.size));
        let kept = (first.regions[0].0, first.regions[0].1.try_clone().unwrap());
        guest.ram = Ram::of(vec![kept, moved]);
        guest.set_table();
        let data = segment(13 << 20, 4096);
        let request = guest.queues[0].read(round, 1).at(&[data]);
        assert_eq!(guest.queues[0].run(&guest.ram, request).status, S_OK);
        assert!(guest.ram.gather(&[data]) == sectors(round, 8));
        assert!(first.gather(&[data]) == [0; 4096], "the old file is written");
        assert_eq!(daemon.holds(RAM), (2, 2));
    }
    guest.check();
}

/// Rings are where the front-end has them: if that is elsewhere for the guest from now on, they go on there.
#[test]
fn a_region_with_rings_moves() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::boot(&daemon, Ram::small(), whole_table());
    let (old, file) = guest.ram.regions.remove(0);
    let base = 1 << 40;
    guest.ram = Ram::of(vec![(Region { guest: base, ..old }, file)]);
    guest.set_table();
    assert_eq!(daemon.holds(RAM), (1, 1));
    let config = *guest.queues[0].driver.config();
    let moved = |addr: IoAddress| IoAddress(base + addr.0);
    let config =
        QueueConfig { desc: moved(config.desc), avail: moved(config.avail), used: moved(config.used), ..config };
    let Guest { ram, queues, .. } = &mut guest;
    queues[0].driver = DriverQueue::new(&ram.mem, config).unwrap();
    let mut request = queues[0].read(7, 1).at(&[segment(base + 0x80_0000, 4096)]);
    (request.header, request.status) = (base + request.header, base + request.status);
    let done = queues[0].run(ram, request);
    assert_eq!(done.status, S_OK);
    assert!(ram.gather(done.request.data()) == sectors(7, 8));
}

#[test]
fn as_many_regions_as_there_are_slots() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut ranges = vec![(0, 16 << 20)];
    ranges.extend((1..509).map(|number| (number << 32, 0x1000)));
    let mut guest = Guest::boot(&daemon, Ram::new(&ranges), Wish::default());
    assert_eq!(daemon.holds(RAM).1, 509);
    guest.check();
    // All of them are used by requests.
    for first in (1..509).step_by(50) {
        let pieces: Vec<_> = (first..509).take(50).map(|number| segment(number << 32, 512)).collect();
        let request = guest.queues[0].read(first, 1).at(&pieces);
        assert_eq!(guest.queues[0].run(&guest.ram, request).status, S_OK);
        assert!(guest.ram.gather(&pieces) == sectors(first, pieces.len() as u64));
    }
    let max = guest.get_u64(code::GET_MAX_MEM_SLOTS);
    if max == 509 {
        let more = Ram::new(&[(1 << 45, 0x1000)]);
        let body = slot(more.regions[0].0);
        assert!(guest.wire.tell(code::ADD_MEM_REG, &body, &[more.file(0)]).is_refusal());
        guest.check();
    }
    // In an order that is neither that of addresses, nor that in which they came.
    for number in (1..509).map(|number| number * 5 % 509) {
        guest.remove_region(number);
    }
    assert_eq!(daemon.holds(RAM), (1, 1));
    guest.check();
}

/// When its removal is acknowledged, a region's mapping is gone, and its file closed: whatever happens.
#[test]
fn a_region_is_gone_when_its_removal_is_acknowledged() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let all = Ram::new(&[(0, 16 << 20), (1 << 32, 8 << 20)]);
        let mut guest = Guest::boot(&daemon, all, Wish::default());
        assert_eq!(daemon.holds(RAM), (2, 2));
        for round in 0..20 {
            // Large requests are under way in it, or about to be.
            for number in 0..=round % 2 {
                let base = (1 << 32) + number * 0x40_0000;
                let pieces: Vec<_> = (0..20).map(|piece| segment(base + piece * 0x1_0000, 0x8000)).collect();
                let mut request = guest.queues[0].read(1000 * number + 10 * round, 1).at(&pieces);
                if round % 3 == 0 {
                    request = request.indirect();
                }
                guest.queues[0].submit(&guest.ram, request);
            }
            guest.remove_region(1);
            assert_eq!(daemon.holds(RAM), (1, 1));
            for done in guest.queues[0].wait_for_all(&guest.ram) {
                // Each was done before, or has found no memory.
                if done.status == S_OK {
                    assert!(guest.ram.gather(done.request.data()) == sectors(done.request.sector, 20 * 64));
                }
            }
            guest.check();
            guest.add_region(1);
        }
        assert_eq!(daemon.holds(RAM), (2, 2));
    }
}

/// Also if requests are under way in it that take a while: whoever has asked waits for them.
#[test]
fn a_region_is_gone_when_its_last_user_is() {
    let place = Place::new();
    for (engine, as_table) in [("sync", false), ("sync", true), ("io-uring", false), ("io-uring", true)] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for _ in 0..5 {
            let all = Ram::new(&[(0, 16 << 20), (1 << 32, 8 << 20)]);
            // Each write is stable before it is answered.
            let usual = if as_table { whole_table() } else { Wish::default() };
            let mut guest = Guest::boot(&daemon, all, Wish { features: usual.features & !F_FLUSH, ..usual });
            let Guest { ram, queues, .. } = &mut guest;
            for number in 0..12 {
                let data = segment((1 << 32) + number * 0x1_0000, 0x1_0000);
                let request = queues[0].write(ram, 20_000 + number * 128, &[]).at(&[data]);
                queues[0].add(ram, request);
            }
            queues[0].publish(ram);
            queues[0].wait(ram);
            if as_table {
                guest.ram = guest.ram.subset([0]);
                guest.set_table();
            } else {
                guest.remove_region(1);
            }
            assert_eq!(daemon.holds(RAM), (1, 1));
            guest.queues[0].wait_for_all(&guest.ram);
            guest.check();
        }
    }
}

/// Two regions that are neighbours for the guest, and far from each other for the front-end: whatever lies across their
/// border works.
#[test]
fn rings_tables_and_data_straddle_neighbours() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let border = 8 << 20;
        let ranges = [(0, border), (border, border)];
        for part in ["descriptors", "available", "used", "table", "header", "data", "none"] {
            let mut guest = Guest::greet(&daemon, Ram::new(&ranges), Wish { size: 256, ..Wish::default() });
            guest.share_memory();
            let mut config = GuestQueue::config(0, 256, guest.features);
            match part {
                "descriptors" => config.desc = IoAddress(border - 128 * 16),
                "available" => config.avail = IoAddress(border - 0x100),
                "used" => config.used = IoAddress(border - 0x200),
                _ => {}
            }
            guest.add_queue(config);
            let Guest { ram, queues, .. } = &mut guest;
            for round in 0..300 {
                let mut request = queues[0].read(round, 3);
                match part {
                    "table" => request.table = Some(border - 32 + round % 2 * 8),
                    "header" => request.header = border - 1 - round % 15,
                    "data" => request = request.at(&[segment(border - 700 - round, 3 * 512)]),
                    _ => {}
                }
                let done = queues[0].run(ram, request);
                assert_eq!(done.status, S_OK, "{part}");
                assert!(ram.gather(done.request.data()) == sectors(round, 3), "{part}");
            }
        }
    }
}

/// The daemon lives, and whoever comes next is served.
#[test]
fn the_rings_own_region_is_removed() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::boot(&daemon, Ram::new(&[(0, 0x10_0000), (0x10_0000, 15 << 20)]), Wish::default());
        guest.check();
        guest.remove_region(0);
        assert_eq!(daemon.holds(RAM), (1, 1));
        guest.queues[0].kick.add(1);
        assert!(guest.queues[0].err.wait(SOON), "the ring is not said to be broken");
        // The connection goes on, and the ring can be set up again.
        guest.add_region(0);
        let base = guest.stop(0);
        guest.queues[0] = GuestQueue::new(&guest.ram, 0, *guest.queues[0].driver.config());
        assert_eq!(base, 1);
        guest.start(0, 0);
        guest.check();
        drop(guest);
        check_next(&daemon);
    }
}

/// A table in which one ring's memory is missing, and another file is where some memory was: the other ring goes on.
#[test]
fn a_table_without_a_rings_memory_breaks_that_ring_alone() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "2"]);
    // The first ring in the first region; the second ring, and all requests, in the second.
    let all = Ram::new(&[(0, 2 * RINGS), (2 * RINGS, 12 << 20), (1 << 32, 1 << 20)]);
    let mut guest = Guest::boot(&daemon, all.subset([0, 1, 2]), Wish { queues: 2, ..whole_table() });
    guest.check();
    let moved = (all.regions[2].0, memfd(RAM, 1 << 20));
    let kept = (all.regions[1].0, all.regions[1].1.try_clone().unwrap());
    guest.ram = Ram::of(vec![kept, moved]);
    let broken = guest.queues.remove(0);
    guest.set_table();
    assert_eq!(daemon.holds(RAM), (2, 2));
    broken.kick.add(1);
    assert!(broken.err.wait(SOON), "the ring is not said to be broken");
    for _ in 0..5 {
        guest.check();
    }
}
