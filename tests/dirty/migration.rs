//! What a migration needs: threads write while another copies what is harvested into a second memory, and when they have
//! stopped, one more harvest makes the two the same, byte for byte. And that it is no matter of course: where marks are made
//! before the data is there, bytes are missing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memory_model::dirty::{DirtyBitmap, DirtyRange};
use memory_model::guest_memory::DirtyLog;
use memory_model::{Bytes, DataInit, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, Le64};

use crate::ground::{is_emulated, memory};

const PAGE: u64 = 4096;
const WRITERS: u64 = 4;
const PAGES: u64 = 700;

/// How writes are marked.
trait Tracked: Sync {
    /// Writes, and marks it.
    fn write(&self, mem: &GuestMemoryMmap, at: GuestAddress, bytes: &[u8]);
    /// Takes what is dirty, calls `copy` with each range, and commits.
    fn harvest(&self, copy: impl FnMut(DirtyRange));
}

impl Tracked for DirtyLog<GuestRegionMmap> {
    fn write(&self, mem: &GuestMemoryMmap, at: GuestAddress, bytes: &[u8]) {
        if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
            return mem.write_obj(Le64::from(u64::from_le_bytes(bytes)), at).unwrap();
        }
        match *bytes {
            [first, .., last] if first == last => mem.fill(first, bytes.len(), at).unwrap(),
            _ => mem.write_slice(bytes, at).unwrap(),
        }
    }

    fn harvest(&self, copy: impl FnMut(DirtyRange)) {
        let harvest = DirtyLog::harvest(self);
        harvest.ranges().for_each(copy);
        harvest.commit();
    }
}

/// A bitmap that is marked before the data is there. Harvests come in between, which is what might happen, made sure of.
struct TooEarly {
    bitmap: DirtyBitmap,
    harvests: AtomicU64,
}

impl Tracked for TooEarly {
    fn write(&self, mem: &GuestMemoryMmap, at: GuestAddress, bytes: &[u8]) {
        self.bitmap.mark(at.0, bytes.len() as u64);
        // One that begins after this, and is over; unless there are none any more.
        let (before, begun) = (self.harvests.load(Ordering::SeqCst), Instant::now());
        while self.harvests.load(Ordering::SeqCst) < before + 2 && begun.elapsed() < Duration::from_secs(1) {
            thread::yield_now();
        }
        mem.write_slice(bytes, at).unwrap();
    }

    fn harvest(&self, copy: impl FnMut(DirtyRange)) {
        let harvest = self.bitmap.harvest();
        harvest.ranges().for_each(copy);
        harvest.commit();
        self.harvests.fetch_add(1, Ordering::SeqCst);
    }
}

/// Two regions that touch, in the middle of what is written.
fn guest() -> GuestMemoryMmap {
    let half = usize::try_from(PAGES / 2 * PAGE).unwrap();
    memory(&[(0, half), (PAGES / 2 * PAGE, half)])
}

/// Some bytes to write, and where: half of the time in a few pages.
fn next(value: &mut u64) -> (GuestAddress, Vec<u8>) {
    // A generator of Lehmer's.
    *value = value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1442);
    let page = (*value >> 33) % if *value >> 63 == 0 { 8 } else { PAGES - 1 };
    let at = GuestAddress(page * PAGE + (*value >> 20) % PAGE);
    let bytes = match *value >> 60 & 3 {
        0 => DataInit::as_slice(&[*value; 40]).to_vec(),
        1 => vec![value.as_slice()[3]; 0xf00],
        _ => value.as_slice().to_vec(),
    };
    (at, bytes)
}

/// Migrates for a while, and answers the pages that are wrong in the end, and how many harvests and writes there were.
fn migrate<T: Tracked>(source: &GuestMemoryMmap, tracked: &T, time: Duration) -> (Vec<u64>, u64, u64) {
    let target = guest();
    let mut buf = vec![0; 0x8000];
    let copy = |range: DirtyRange, buf: &mut Vec<u8>| {
        for chunk in range.chunks(buf.len() as u64) {
            let buf = &mut buf[..usize::try_from(chunk.len).unwrap()];
            source.read_slice(buf, GuestAddress(chunk.start)).unwrap();
            target.write_slice(buf, GuestAddress(chunk.start)).unwrap();
        }
    };
    let (over, writes, mut harvests) = (AtomicBool::new(false), AtomicU64::new(0), 0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (over, writes) = (&over, &writes);
            scope.spawn(move || {
                let mut value = writer + 1;
                while !over.load(Ordering::Relaxed) {
                    let (at, bytes) = next(&mut value);
                    tracked.write(source, at, &bytes);
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            tracked.harvest(|range| copy(range, &mut buf));
            harvests += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    tracked.harvest(|range| copy(range, &mut buf));
    let page = |mem: &GuestMemoryMmap, page| mem.read_obj::<[u64; 512]>(GuestAddress(page * PAGE)).unwrap();
    let wrong = (0..PAGES).filter(|&number| page(source, number) != page(&target, number)).collect();
    (wrong, harvests, writes.into_inner())
}

#[test]
fn the_target_is_the_source_once_writers_stop() {
    let source = guest();
    let log = source.start_tracking(PAGE).unwrap();
    let time = Duration::from_secs(if is_emulated() { 4 } else { 20 });
    let (wrong, harvests, writes) = migrate(&source, &log, time);
    assert!(wrong.is_empty(), "pages {wrong:?} of {} are wrong", source.num_regions());
    assert!(harvests > 3 && writes > 100, "{harvests} harvests, {writes} writes");
    eprintln!("{writes} writes by {WRITERS} threads, {harvests} harvests: the same in the end");
}

#[test]
fn marks_that_come_before_the_data_lose_it() {
    let source = guest();
    let bitmap = DirtyBitmap::new(PAGES * PAGE, PAGE).unwrap();
    let tracked = TooEarly { bitmap, harvests: AtomicU64::new(0) };
    let (wrong, harvests, writes) = migrate(&source, &tracked, Duration::from_secs(3));
    eprintln!("{} pages are wrong, after {writes} writes, {harvests} harvests", wrong.len());
    assert!(!wrong.is_empty(), "nothing is lost: the test before shows nothing");
}
