//! Migration's log: what the device writes is marked, after the data, and only where and when the front-end wants it.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use memory_model_virtio::Segment;
use memory_model_virtio::blk::S_OK;
use zerocopy::IntoBytes;

use crate::harness::Until;
use crate::harness::daemon::{Daemon, Place, eventually, sectors};
use crate::harness::guest::{Guest, Wish, check_next, protocol};
use crate::harness::queue::{Done, GuestQueue};
use crate::harness::ram::{LOG, Ram, memfd, segment};
use crate::harness::wire::{Extent, NEED_REPLY, code};

/// Of a log, as of everything that has to do with it.
const PAGE: u64 = 4096;
/// The size of a log for the first 4 GiB.
const LEN: u64 = (4 << 30) / PAGE / 8;

/// A log, as the front-end has it.
struct Log {
    file: File,
    mem: GuestMemoryMmap,
    len: u64,
}

impl Log {
    fn new() -> Self {
        Self::of(LEN)
    }

    fn of(len: u64) -> Self {
        let file = memfd(LOG, len);
        let at = FileOffset::new(file.try_clone().unwrap(), 0);
        let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), len as usize, Some(at))]).unwrap();
        Self { file, mem, len }
    }

    #[track_caller]
    fn give(&self, guest: &Guest) {
        assert!(guest.set_log(self.file.as_fd(), self.len, 0).is_some(), "the log is refused");
    }

    /// Takes the pages that are marked out of it, as QEMU does it, while the daemon marks others.
    fn take(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        let mut bytes = vec![0; self.len as usize];
        self.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        let words = bytes.chunks_exact(8).zip(0_u64..).filter(|(word, _)| *word != [0; 8]);
        for (_, word) in words {
            let at = GuestAddress(word * 8);
            let mut bits: u64 = self.mem.load(at, Ordering::Acquire).unwrap();
            while bits != 0 {
                let (success, failure) = (Ordering::SeqCst, Ordering::Acquire);
                match self.mem.compare_exchange(bits, 0, at, success, failure).unwrap() {
                    Ok(_) => break,
                    Err(now) => bits = now,
                }
            }
            // Bit 0 of byte 0 is the first page: a word's bits are in the order of little-endian bytes.
            let bits = u64::from_le(bits);
            pages.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 64 + bit));
        }
        pages
    }
}

fn pages_of(segment: Segment) -> RangeInclusive<u64> {
    segment.addr.0 / PAGE..=(segment.addr.0 + u64::from(segment.len) - 1) / PAGE
}

/// The pages that a request that was answered has written.
fn written(done: &Done) -> BTreeSet<u64> {
    let status = segment(done.request.status, 1);
    done.request.writable.iter().chain([&status]).flat_map(|segment| pages_of(*segment)).collect()
}

fn used_page(queue: &GuestQueue) -> u64 {
    queue.driver.config().used.0 / PAGE
}

/// Reads into pieces all over memory, and answers what was written.
fn scatter(guest: &mut Guest, first: u64) -> BTreeSet<u64> {
    let pieces: Vec<_> = (0..8)
        .map(|piece| segment(0xa0_0000 + (first * 8 + piece) * 0x3200, 512 * (1 + piece as u32 % 3 * 8)))
        .collect();
    let count: u64 = pieces.iter().map(|piece| u64::from(piece.len) / 512).sum();
    let request = guest.queues[0].read(first, 1).at(&pieces);
    let done = guest.queues[0].run(&guest.ram, request);
    assert_eq!(done.status, S_OK);
    assert!(guest.ram.gather(&pieces) == sectors(first, count));
    written(&done)
}

#[test]
fn what_requests_write_is_marked_and_nothing_else() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let log = Log::new();
        guest.check();
        log.give(&guest);
        guest.check();
        assert!(log.take().is_empty(), "logged before it was switched on");
        guest.log_all(true);
        log.take(); // of the ring, which looks again
        for first in 0..5 {
            let mut expected = scatter(&mut guest, first);
            let mut marked = log.take();
            assert!(marked.is_superset(&expected), "not marked: {:x?}", expected.difference(&marked));
            expected.insert(used_page(&guest.queues[0]));
            eventually("the used ring is marked", || {
                marked.extend(log.take());
                marked == expected
            });
            // A write's only page is that of its status.
            let request = guest.queues[0].write(&guest.ram, 9000, &[7; 1024]);
            let done = guest.queues[0].run(&guest.ram, request);
            let mut marked = log.take();
            assert!(marked.contains(&(done.request.status / PAGE)));
            marked.remove(&used_page(&guest.queues[0]));
            assert_eq!(marked, written(&done));
            eventually("the ring is at rest", || log.take().is_empty());
        }
    }
}

#[test]
fn a_log_that_is_switched_off_is_left_alone() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let log = Log::new();
        log.give(&guest);
        for round in 0..5 {
            guest.log_all(true);
            let expected = scatter(&mut guest, round);
            assert!(log.take().is_superset(&expected));
            guest.log_all(false);
            log.take();
            scatter(&mut guest, round);
            assert!(log.take().is_empty(), "logged after it was switched off");
        }
    }
}

#[test]
fn a_log_that_was_replaced_is_left_alone() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let mut old = Log::new();
        old.give(&guest);
        guest.log_all(true);
        guest.set_addr(0, Some(guest.queues[0].driver.config().used.0));
        for round in 0..30 {
            let new = Log::new();
            new.give(&guest);
            old.take();
            let expected = scatter(&mut guest, round % 5);
            assert!(old.take().is_empty(), "the old log is marked");
            assert!(new.take().is_superset(&expected));
            old = new;
        }
        assert_eq!(daemon.holds(LOG), (1, 1), "logs that were replaced are kept");
    }
}

/// The used ring is marked where the front-end says, which need not be where it is; and only if it says so.
#[test]
fn the_used_ring_is_marked_at_an_address_of_its_own() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let log = Log::new();
        log.give(&guest);
        for elsewhere in [0x1234_5000, 0x8000_0000, 0x1000] {
            // Without LOG_ALL it is the only page.
            guest.set_addr(0, Some(elsewhere));
            guest.check();
            eventually("the used ring is marked", || log.take() == BTreeSet::from([elsewhere / PAGE]));
            // With it there are two, as the memory is marked, too.
            guest.log_all(true);
            let mut marked = BTreeSet::new();
            let mut expected = scatter(&mut guest, 3);
            expected.extend([elsewhere / PAGE, used_page(&guest.queues[0])]);
            eventually("all is marked", || {
                marked.extend(log.take());
                marked == expected
            });
            guest.log_all(false);
            guest.set_addr(0, None);
            log.take();
            guest.check();
            assert!(log.take().is_empty(), "marked without being asked to");
        }
        // Across a page's end.
        guest.set_addr(0, Some(0x2fffc));
        guest.check();
        eventually("both pages are marked", || log.take() == BTreeSet::from([0x2f, 0x30]));
    }
}

#[test]
fn regions_that_come_later_are_logged() {
    let place = Place::new();
    for slots in [true, false] {
        let daemon = Daemon::start(&place, &[]);
        let all = Ram::new(&[(0, 16 << 20), (1 << 31, 1 << 20)]);
        let protocol = if slots { u64::MAX } else { !protocol::CONFIGURE_MEM_SLOTS };
        let mut guest = Guest::boot(&daemon, all.subset([0]), Wish { protocol, ..Wish::default() });
        let log = Log::new();
        log.give(&guest);
        guest.log_all(true);
        guest.ram = all;
        if slots {
            guest.add_region(1);
        } else {
            guest.set_table();
        }
        let data = segment((1 << 31) + 0x5_0800, 0x1800);
        let request = guest.queues[0].read(40, 1).at(&[data]);
        let done = guest.queues[0].run(&guest.ram, request);
        assert_eq!(done.status, S_OK);
        assert!(log.take().is_superset(&written(&done)));
    }
}

#[test]
fn a_log_may_come_after_it_is_switched_on() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    guest.log_all(true);
    guest.set_addr(0, Some(0x1234_5000));
    guest.check();
    let log = Log::new();
    log.give(&guest);
    let mut expected = scatter(&mut guest, 2);
    expected.insert(0x12345);
    let mut marked = BTreeSet::new();
    eventually("all is marked", || {
        marked.extend(log.take());
        marked.is_superset(&expected)
    });
}

/// A part of a file that holds other things, too.
#[test]
fn a_log_may_begin_anywhere_in_its_file() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    let log = Log::new();
    // Enough for the usual memory.
    assert!(guest.set_log(log.file.as_fd(), 0x1000, 0x3000).is_some());
    guest.log_all(true);
    let expected: BTreeSet<u64> = scatter(&mut guest, 0).iter().map(|page| page + 0x3000 * 8).collect();
    let marked = log.take();
    assert!(marked.is_superset(&expected));
    assert!(marked.iter().all(|page| (0x3000 * 8..0x4000 * 8).contains(page)));
}

/// Rings that are stopped and started, or moved, are logged all the same.
#[test]
fn rings_that_start_later_are_logged() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut guest = Guest::usual(&daemon);
    let log = Log::new();
    log.give(&guest);
    guest.log_all(true);
    for round in 0..3 {
        let base = guest.stop(0);
        guest.start(0, base);
        guest.set_addr(0, Some(0x1234_5000));
        let mut expected = scatter(&mut guest, round);
        expected.insert(0x12345);
        let mut marked = BTreeSet::new();
        eventually("all is marked", || {
            marked.extend(log.take());
            marked.is_superset(&expected)
        });
    }
}

/// A migration as QEMU does it: pages that were marked are copied, again and again, while requests write them. When nothing is
/// under way, and what is marked then was copied, too, nothing is missing.
#[test]
fn copies_of_what_was_marked_are_the_memory() {
    const AREA: u64 = 0xc0_0000;
    const PLACE: u64 = 0x2_0000;
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        let mut guest = Guest::usual(&daemon);
        let log = Log::of((16 << 20) / PAGE / 8);
        log.give(&guest);
        guest.log_all(true);
        let (copy, copying) = (Ram::small(), Mutex::new(()));
        let (over, harvests) = (AtomicBool::new(false), AtomicU64::new(0));
        let migrate = |ram: &Ram| {
            let _lock = copying.lock().unwrap();
            // The last first: that is written last.
            for page in log.take().into_iter().rev() {
                copy.set(page * PAGE, &ram.bytes(page * PAGE, PAGE as usize));
            }
        };
        let Guest { ram, queues, .. } = &mut guest;
        std::thread::scope(|scope| {
            let _until = Until(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    migrate(&*ram);
                    harvests.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
            // The same pages, with something else in them each time.
            for round in 0.. {
                if round >= 400 && harvests.load(Ordering::Relaxed) > 400 {
                    break;
                }
                for number in 0..4 {
                    let data = segment(AREA + (number * 5 + round) % 16 * PLACE + 0x200 * (round % 3), 0x1_f000);
                    let request = queues[0].read((round * 12 + number) % 3800, 1).at(&[data]);
                    queues[0].add(ram, request);
                }
                queues[0].publish(ram);
                queues[0].wait_for_all(ram);
                migrate(&*ram);
                let (memory, copied) = (ram.bytes(AREA, 0x20_0000), copy.bytes(AREA, 0x20_0000));
                let pages = memory.chunks(4096).zip(copied.chunks(4096)).enumerate();
                let lost: Vec<_> = pages.filter(|(_, (page, copy))| page != copy).map(|(number, _)| number).collect();
                assert!(lost.is_empty(), "{engine}: pages that were lost: {lost:x?}");
            }
        });
    }
}

/// It costs the peer its connection, and the daemon nothing.
#[test]
fn a_log_that_is_no_log_costs_the_connection() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine, "--log", "warn"]);
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let folder = File::open(std::env::temp_dir()).unwrap();
        let read_only = place.path("log");
        std::fs::write(&read_only, [0; 0x1000]).unwrap();
        let read_only = File::open(read_only).unwrap();
        let cases = [
            ("an empty file", memfd(LOG, 0), 0x1000, 0),
            ("too small", memfd(LOG, 0x1000), 16, 0),
            ("smaller than it is said to be", memfd(LOG, 0x1000), 0x10_0000, 0),
            ("beyond the file", memfd(LOG, 0x1000), 0x1000, 0x10_0000),
            ("at no page", memfd(LOG, 0x1000), 0x1000, 1),
            ("of no bytes", memfd(LOG, 0x1000), 0, 0),
            ("too large", memfd(LOG, 0x1000), 1 << 62, 0),
            ("past the end", memfd(LOG, 0x1000), 0x1000, u64::MAX - 0xfff),
            ("past the end again", memfd(LOG, 0x1000), u64::MAX, 1),
            ("a socket", File::from(std::os::fd::OwnedFd::from(socket)), 0x1000, 0),
            ("a folder", folder, 0x1000, 0),
            ("a file that cannot be written", read_only, 0x1000, 0),
        ];
        for (what, file, size, offset) in cases {
            let mut guest = Guest::usual(&daemon);
            let body = Extent { size, offset };
            // Also if the front-end wants an acknowledgement, which there is not.
            for flags in [0, NEED_REPLY] {
                if guest.wire.ask(code::SET_LOG_BASE, flags, body.as_bytes(), &[file.as_fd()]).is_some() {
                    guest.log_all(true);
                    let request = guest.queues[0].read(3, 8).at(&[segment(0xf0_0000, 4096)]);
                    guest.queues[0].submit(&guest.ram, request);
                }
                guest.wire.until_end();
                guest = Guest::usual(&daemon);
                guest.check();
            }
            assert!(!daemon.stderr().contains("panicked"), "{what}");
        }
        eventually("nothing is left", || daemon.holds(LOG) == (0, 0));
    }
}

/// Whatever was agreed on, the front-end may truncate the file at any time.
#[test]
fn a_log_that_is_truncated_costs_the_connection() {
    let place = Place::new();
    for engine in ["sync", "io-uring"] {
        let daemon = Daemon::start(&place, &["--engine", engine]);
        for by_address in [false, true] {
            let mut guest = Guest::usual(&daemon);
            let log = Log::new();
            log.give(&guest);
            if by_address {
                guest.set_addr(0, Some(0x1234_5000));
            } else {
                guest.log_all(true);
            }
            guest.check();
            log.file.set_len(0).unwrap();
            let request = guest.queues[0].read(3, 8);
            guest.queues[0].submit(&guest.ram, request);
            guest.wire.until_end();
            check_next(&daemon);
        }
    }
}
