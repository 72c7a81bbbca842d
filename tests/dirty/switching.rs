//! Tracking that begins and ends while others write, and shared bitmaps that come and go: no write falls between two, and
//! nobody touches what was taken away.

#![expect(unsafe_code, reason = "takes memory away that was a bitmap, and provides some that writes while it is asked")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use memory_model::dirty::LogBitmap;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, MmapRegion, VolatileMemory, VolatileSlice, volatile_memory,
};
use rustix::mm::MprotectFlags;

use crate::ground::{is_emulated, memory, rounds};

const PAGE: u64 = 4096;

/// Lets threads write until the value is dropped.
struct Writers<'a> {
    over: &'a AtomicBool,
    /// How often each has written.
    counts: &'a [AtomicU64],
}

impl Writers<'_> {
    /// Waits until each thread has begun and ended some writes.
    fn go_on(&self) {
        let before: Vec<_> = self.counts.iter().map(|count| count.load(Ordering::Acquire)).collect();
        while self.counts.iter().zip(&before).any(|(count, before)| count.load(Ordering::Acquire) < before + 3) {
            thread::yield_now();
        }
    }
}

impl Drop for Writers<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Calls `test` while `write(thread, round)` is called by four threads.
fn while_others_write(write: impl Fn(u64, u64) + Sync, test: impl FnOnce(&Writers<'_>)) {
    let (over, counts) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    thread::scope(|scope| {
        for (number, count) in counts.iter().enumerate() {
            let (write, over) = (&write, &over);
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    write(number as u64, round);
                    count.fetch_add(1, Ordering::Release);
                }
            });
        }
        test(&Writers { over: &over, counts: &counts });
    });
}

/// A bitmap for `pages` pages, and its memory.
fn bitmap(pages: u64) -> (Arc<MmapRegion>, Arc<LogBitmap>) {
    let memory = Arc::new(MmapRegion::new(usize::try_from(pages / 8).unwrap()).unwrap());
    (Arc::clone(&memory), Arc::new(LogBitmap::new(memory)))
}

fn bits(memory: &MmapRegion) -> Vec<u8> {
    let mut bits = vec![0; memory.len()];
    memory.as_volatile_slice().read_slice(&mut bits, 0).unwrap();
    bits
}

/// A copy of all of memory that is made when tracking has begun, and then those pages that were written: it is the memory.
#[test]
fn a_write_is_in_the_copy_or_in_the_log_that_began_before_it() {
    const PAGES: u64 = 16;
    let mem = memory(&[(0, 8 << 12), (8 << 12, 8 << 12)]);
    let (go, idle) = (AtomicU64::new(0), AtomicU64::new(0));
    let most = if is_emulated() { 500 } else { 100_000 };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0_u64;
            for round in 1.. {
                while go.load(Ordering::Acquire) < round {
                    thread::yield_now();
                }
                if go.load(Ordering::Acquire) == u64::MAX {
                    break;
                }
                // As long as the round lasts: its end is the same number with the highest bit.
                while go.load(Ordering::Acquire) == round {
                    value += 1;
                    mem.write_obj(value, GuestAddress(value % PAGES * PAGE + value / PAGES % 512 * 8)).unwrap();
                }
                idle.store(round, Ordering::Release);
            }
        });
        let mut copy = vec![0; 16 << 12];
        for round in rounds(most) {
            let round = round + 1;
            go.store(round, Ordering::Release);
            for _ in 0..round * 7 % 100 {
                std::hint::spin_loop();
            }
            let log = mem.start_tracking(PAGE).unwrap();
            mem.read_slice(&mut copy, GuestAddress(0)).unwrap();
            go.store(round | 1 << 63, Ordering::Release);
            while idle.load(Ordering::Acquire) < round {
                thread::yield_now();
            }
            let harvest = log.harvest();
            for range in harvest.ranges() {
                let part = usize::try_from(range.start).unwrap()..usize::try_from(range.start + range.len).unwrap();
                mem.read_slice(&mut copy[part], GuestAddress(range.start)).unwrap();
            }
            harvest.commit();
            log.stop_tracking();
            let mut held = vec![0; 16 << 12];
            mem.read_slice(&mut held, GuestAddress(0)).unwrap();
            if held != copy {
                go.store(u64::MAX, Ordering::Release);
                panic!("a write was lost in round {round}");
            }
        }
        go.store(u64::MAX, Ordering::Release);
    });
}

/// Every page is written once, while one bitmap replaces the other: some bitmap has it.
#[test]
fn no_write_falls_between_a_bitmap_and_the_one_that_replaces_it() {
    const PAGES: u64 = 4096;
    let mem = memory(&[(0, 2048 << 12), (2048 << 12, 2048 << 12)]);
    for pass in rounds(if is_emulated() { 1 } else { 20 }) {
        let (mut memory, mut log) = bitmap(PAGES);
        mem.attach(&log).unwrap();
        let mut found = vec![0; memory.len()];
        let mut replaced = 0_u64;
        let mut take =
            |memory: &MmapRegion| found.iter_mut().zip(bits(memory)).for_each(|(found, bits)| *found |= bits);
        let write = |thread: u64, round: u64| {
            if round < PAGES / 4 {
                mem.write_obj(pass, GuestAddress((round * 4 + thread) * PAGE)).unwrap();
                if round % 64 == 0 {
                    thread::yield_now();
                }
            } else {
                thread::yield_now();
            }
        };
        while_others_write(write, |writers| {
            while writers.counts.iter().any(|count| count.load(Ordering::Acquire) <= PAGES / 4) {
                let new = bitmap(PAGES);
                mem.replace(&log, &new.1).unwrap();
                take(&memory);
                (memory, log) = new;
                replaced += 1;
            }
            mem.detach(&log);
            take(&memory);
        });
        let missing: Vec<_> = (0..found.len() * 8).filter(|page| found[page / 8] >> (page % 8) & 1 == 0).collect();
        assert!(missing.is_empty(), "pages {missing:?} are in none of {replaced} bitmaps");
        assert!(replaced > 0);
    }
}

/// Memory of a bitmap that cannot be accessed any more from the moment when it was detached, while all goes on: no mark is
/// dropped, as nobody makes one. And nobody else keeps the bitmap.
#[test]
fn whoever_detached_a_bitmap_may_take_its_memory_away() {
    let mem = memory(&[(0, 32 << 12), (32 << 12, 32 << 12)]);
    let write = |thread: u64, round: u64| {
        let at = GuestAddress((round * 5 + thread * 16) % 64 * PAGE);
        match round % 3 {
            0 => mem.write_obj(round, at).unwrap(),
            1 => mem.fill(1, 0x1_0000, GuestAddress(thread << 14)).unwrap(),
            _ => mem.store(round, at, Ordering::Relaxed).unwrap(),
        }
    };
    while_others_write(write, |writers| {
        let mut kept = bitmap(64).1;
        mem.attach(&kept).unwrap();
        for round in rounds(if is_emulated() { 50 } else { 20_000 }) {
            let (memory, log) = bitmap(64);
            match round % 4 {
                // Beside another.
                0 => {
                    mem.attach(&log).unwrap();
                    writers.go_on();
                    mem.detach(&log);
                }
                // Instead of another, which stays away, and then the other way round.
                1 => {
                    mem.replace(&kept, &log).unwrap();
                    mem.replace(&log, &kept).unwrap();
                }
                // Alone, and while a log runs.
                2 => {
                    mem.detach(&kept);
                    mem.attach(&log).unwrap();
                    let running = mem.start_tracking(PAGE).unwrap();
                    mem.detach(&log);
                    drop(running);
                    mem.attach(&kept).unwrap();
                }
                _ => {
                    let new = bitmap(64).1;
                    mem.replace(&kept, &new).unwrap();
                    kept = new;
                    mem.attach(&log).unwrap();
                    mem.detach(&log);
                }
            }
            assert_eq!(Arc::strong_count(&log), 1, "nobody else has it, in round {round}");
            let slice = memory.as_volatile_slice();
            // SAFETY: a page of this mapping, whose size is a part of it, and to which there are no references.
            unsafe { rustix::mm::mprotect(slice.as_ptr().cast(), slice.len(), MprotectFlags::empty()) }.unwrap();
            writers.go_on();
            assert_eq!(log.dropped(), 0, "it was touched in round {round}");
        }
        assert_eq!(Arc::strong_count(&kept), 3, "one for each region, and this");
        mem.detach(&kept);
        assert_eq!(Arc::strong_count(&kept), 1);
    });
}

/// What is replaced is freed, and what had it.
#[test]
fn ten_thousand_replacements_take_no_more_memory_than_one() {
    let mem = memory(&[(0, 32 << 12), (32 << 12, 32 << 12)]);
    let shared = Arc::new(MmapRegion::new(4096).unwrap());
    let write = |thread: u64, round: u64| {
        mem.write_obj(round, GuestAddress((round % 16 * 4 + thread) * PAGE)).unwrap();
        thread::yield_now();
    };
    while_others_write(write, |_| {
        let new = || Arc::new(LogBitmap::new(Arc::clone(&shared)));
        let mut log = new();
        mem.attach(&log).unwrap();
        let mut old: Vec<Weak<LogBitmap>> = Vec::with_capacity(10_000);
        let count = if is_emulated() { 300 } else { 10_000 };
        for _ in 0..count {
            let next = new();
            mem.replace(&log, &next).unwrap();
            old.push(Arc::downgrade(&log));
            log = next;
        }
        assert_eq!(old.iter().filter(|log| log.upgrade().is_some()).count(), 0);
        assert_eq!(Arc::strong_count(&shared), 2, "one for the last bitmap, and this");
        mem.detach(&log);
    });
}

/// Logs begin and end, and are harvested, by several threads at once.
#[test]
fn logs_of_several_threads() {
    let mem = memory(&[(0, 64 << 12), (64 << 12, 64 << 12)]);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let mem = &mem;
            scope.spawn(move || {
                for round in rounds(if is_emulated() { 20 } else { 2000 }) {
                    let log = mem.start_tracking(PAGE << (round % 3)).unwrap();
                    let mut expected = BTreeSet::new();
                    for write in 0..round % 20 {
                        let page = (thread * 7 + round + write * 13) % 128;
                        mem.write_obj(round, GuestAddress(page * PAGE + thread * 8)).unwrap();
                        expected.insert(page);
                    }
                    if round % 5 == 0 {
                        drop(log.harvest());
                    }
                    let harvest = log.harvest();
                    let ranges: Vec<_> = harvest.ranges().collect();
                    let has = |page: &u64| ranges.iter().any(|r| (r.start..r.start + r.len).contains(&(page * PAGE)));
                    assert!(expected.iter().all(has), "{expected:?} are not all in {ranges:?}");
                    harvest.commit();
                }
            });
        }
    });
}

/// Memory of a bitmap that writes to the guest's memory when it is asked: a mark within a mark.
struct Nested {
    mem: GuestMemoryMmap,
    bits: MmapRegion,
    /// Whether somebody marks in it.
    used: AtomicBool,
    times: AtomicU64,
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: answers as the mapping does.
unsafe impl VolatileMemory for Nested {
    fn len(&self) -> usize {
        self.bits.len()
    }

    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        let outermost = DEPTH.get() == 0;
        self.used.store(true, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
        for _ in 0..500 {
            thread::yield_now();
        }
        if outermost {
            DEPTH.set(1);
            self.mem.write_obj(1_u64, GuestAddress(0)).unwrap();
            DEPTH.set(0);
            for _ in 0..500 {
                thread::yield_now();
            }
            self.used.store(false, Ordering::SeqCst);
        }
        self.bits.get_slice(offset, count)
    }
}

#[test]
fn a_bitmap_is_used_until_the_outermost_of_nested_marks_is_made() {
    let mem = memory(&[(0, 1 << 16)]);
    let bits = MmapRegion::new(8).unwrap();
    let nested = Arc::new(Nested { mem: mem.clone(), bits, used: AtomicBool::new(false), times: AtomicU64::new(0) });
    let log = Arc::new(LogBitmap::new(Arc::clone(&nested)));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                mem.write_obj(1_u64, GuestAddress(8)).unwrap();
            }
        });
        for round in 0..if is_emulated() { 3 } else { 30 } {
            mem.attach(&log).unwrap();
            while nested.times.load(Ordering::SeqCst) <= round % 2 {
                thread::yield_now();
            }
            mem.detach(&log);
            let used = nested.used.load(Ordering::SeqCst);
            if used {
                over.store(true, Ordering::Relaxed);
            }
            assert!(!used, "it was taken away while somebody marked in it");
            nested.times.store(0, Ordering::SeqCst);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// A value of a thread that writes to memory when the thread ends, after what this library has for the thread.
struct AtTheEnd(Cell<Option<GuestMemoryMmap>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(mem) = self.0.take() {
            for page in 0..64 {
                mem.write_obj(1_u8, GuestAddress(page * PAGE)).unwrap();
            }
        }
    }
}

thread_local! {
    static AT_THE_END: AtTheEnd = const { AtTheEnd(Cell::new(None)) };
}

#[test]
fn threads_that_end_mark_to_the_last_and_keep_nobody_waiting() {
    let mem = memory(&[(0, 64 << 12)]);
    let log = mem.start_tracking(PAGE).unwrap();
    for round in 0..50 {
        let (memory, shared) = bitmap(64);
        mem.attach(&shared).unwrap();
        let own = mem.clone();
        thread::spawn(move || {
            // First, so that it ends last; or the other way round.
            if round % 2 == 0 {
                AT_THE_END.with(|end| end.0.set(Some(own.clone())));
                own.write_obj(1_u8, GuestAddress(0)).unwrap();
            } else {
                own.write_obj(1_u8, GuestAddress(0)).unwrap();
                AT_THE_END.with(|end| end.0.set(Some(own)));
            }
        })
        .join()
        .unwrap();
        mem.detach(&shared);
        assert_eq!(bits(&memory), [0xff; 8], "round {round}");
        assert_eq!(mem.get_slice(GuestAddress(0), 1).unwrap().len(), 1);
        let harvest = log.harvest();
        assert_eq!(harvest.ranges().map(|range| range.len).sum::<u64>(), 64 * PAGE);
        harvest.commit();
    }
}
