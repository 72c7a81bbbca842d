//! Models of marks that race with whoever takes them, or takes away what they are made in: in every order that the memory
//! model allows. And what they come to without the barrier of whoever marks, which they must not survive.

#![expect(unsafe_code, reason = "a peer's memory is provided")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Plain;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::barrier_loom::EACH_ONES_OWN;
use super::{DirtyBitmap, Harvest, LogBitmap, Sink, Tracker};
use crate::sync::models::{check, fails_without_barrier};
use crate::{VolatileMemory, VolatileSlice, volatile_memory};

pub(super) const PAGE: u64 = 4096;

/// A model where each thread sees to its own barriers, and one where somebody sees to them for all.
fn either_way(preemptions: usize, model: impl Fn() + Sync + Send + Clone + 'static) {
    for each_ones_own in [false, true] {
        EACH_ONES_OWN.set(each_ones_own);
        check(preemptions, model.clone());
    }
    EACH_ONES_OWN.set(false);
}

/// The pages of a harvest, which is dealt with.
pub(super) fn pages(harvest: Harvest<'_>) -> Vec<u64> {
    let pages = harvest.ranges().flat_map(|range| (range.start / PAGE)..(range.start + range.len).div_ceil(PAGE));
    let pages = pages.collect();
    harvest.commit();
    pages
}

/// Values of pages, in a relaxed world.
pub(super) struct Pages(Vec<AtomicU64>);

impl Pages {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn write(&self, page: usize) {
        self.0[page].store(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, page: usize) -> u64 {
        self.0[page].load(Ordering::Relaxed)
    }
}

/// A bitmap of 130 pages in which some are dirty already, and threads that write a page each; what the other side has copied
/// is the memory in the end.
fn marks_and_harvests(dirty: &'static [u64], written: &'static [u64], harvests: usize) {
    let bitmap = Arc::new(DirtyBitmap::new(130 * PAGE, PAGE).unwrap());
    let memory = Arc::new(Pages::new(130));
    dirty.iter().for_each(|page| bitmap.mark(page * PAGE, 1));
    let writers: Vec<_> = written
        .iter()
        .map(|&page| {
            let (bitmap, memory) = (Arc::clone(&bitmap), Arc::clone(&memory));
            thread::spawn(move || {
                memory.write(page as usize);
                bitmap.mark(page * PAGE, 1);
            })
        })
        .collect();
    let mut copy = [0; 130];
    let mut take = || {
        for page in pages(bitmap.harvest()) {
            copy[page as usize] = memory.read(page as usize);
        }
    };
    (0..harvests).for_each(|_| take());
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    take();
    assert!(written.iter().all(|&page| copy[page as usize] == 1), "lost");
}

#[test]
fn a_write_to_a_dirty_page_is_copied() {
    check(8, || marks_and_harvests(&[3], &[3], 1));
    check(8, || marks_and_harvests(&[3], &[3], 2));
}

#[test]
fn a_write_to_a_clean_page_is_copied() {
    check(8, || marks_and_harvests(&[], &[3], 1));
    // The line of words has another page, or the word has.
    check(8, || marks_and_harvests(&[70], &[3], 2));
    check(8, || marks_and_harvests(&[4], &[3], 2));
}

#[test]
fn writes_to_one_page_and_to_neighbours_are_copied() {
    check(4, || marks_and_harvests(&[], &[3, 3], 1));
    check(4, || marks_and_harvests(&[3], &[3, 4], 1));
    check(4, || marks_and_harvests(&[], &[3, 70], 1));
}

#[test]
fn without_a_barrier_a_write_is_lost() {
    fails_without_barrier("dirty::loom_tests::without_a_barrier_a_write_is_lost", "lost", || {
        marks_and_harvests(&[3], &[3], 1)
    });
}

/// A writer finds the bit that another has just set, which has not come to the summary yet: its page is in a harvest that
/// begins when it has written, and not when the other has.
#[test]
fn whoever_finds_a_page_dirty_is_not_kept_waiting_for_who_made_it_so() {
    check(4, || {
        let bitmap = Arc::new(DirtyBitmap::new(130 * PAGE, PAGE).unwrap());
        let memory = Arc::new(Pages::new(2));
        bitmap.mark(4 * PAGE, 1);
        let [first, second] = [0, 1].map(|value| {
            let (bitmap, memory) = (Arc::clone(&bitmap), Arc::clone(&memory));
            thread::spawn(move || {
                memory.write(value);
                bitmap.mark(3 * PAGE, 1);
            })
        });
        let mut copy = 0;
        let mut take = || {
            if pages(bitmap.harvest()).contains(&3) {
                copy = memory.read(1);
            }
        };
        take();
        second.join().unwrap();
        take();
        assert_eq!(copy, 1, "lost");
        first.join().unwrap();
    });
}

/// Words that are stored as wholes, below a summary that has its line already.
#[test]
fn a_write_of_whole_words_is_copied() {
    check(8, || {
        let bitmap = Arc::new(DirtyBitmap::new(192 * PAGE, PAGE).unwrap());
        bitmap.mark(0, 1);
        let marked = Arc::clone(&bitmap);
        let writer = thread::spawn(move || marked.mark(64 * PAGE, 128 * PAGE));
        let mut found = pages(bitmap.harvest());
        writer.join().unwrap();
        found.extend(pages(bitmap.harvest()));
        assert!(found.contains(&100) && found.contains(&150), "lost");
    });
}

/// A range over three words, of which one is whole.
#[test]
fn a_write_of_many_pages_is_copied() {
    check(4, || {
        let bitmap = Arc::new(DirtyBitmap::new(192 * PAGE, PAGE).unwrap());
        let memory = Arc::new(Pages::new(192));
        bitmap.mark(64 * PAGE, 64 * PAGE);
        let written = [63, 100, 128];
        let (marked, values) = (Arc::clone(&bitmap), Arc::clone(&memory));
        let writer = thread::spawn(move || {
            written.iter().for_each(|&page| values.write(page));
            marked.mark(63 * PAGE, 66 * PAGE);
        });
        let mut copy = [0; 192];
        let mut take =
            || pages(bitmap.harvest()).into_iter().for_each(|page| copy[page as usize] = memory.read(page as usize));
        take();
        writer.join().unwrap();
        take();
        assert!(written.iter().all(|&page| copy[page] == 1), "lost");
    });
}

/// A harvest that is given up while others mark.
#[test]
fn what_is_put_back_is_in_the_next_harvest() {
    check(8, || {
        let bitmap = Arc::new(DirtyBitmap::new(130 * PAGE, PAGE).unwrap());
        bitmap.mark(3 * PAGE, 1);
        let marked = Arc::clone(&bitmap);
        let writer = thread::spawn(move || marked.mark(4 * PAGE, 1));
        drop(bitmap.harvest());
        writer.join().unwrap();
        assert_eq!(pages(bitmap.harvest()), [3, 4]);
    });
}

/// A region of some pages.
pub(super) struct Region {
    pub(super) tracker: Tracker,
    pub(super) memory: Pages,
}

impl Region {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { tracker: Tracker::new(0x10_0000), memory: Pages::new(2) })
    }

    fn write(&self, page: usize) {
        self.memory.write(page);
        self.tracker.mark(0x10_0000 + page as u64 * PAGE, 8);
    }

    fn writes(self: &Arc<Self>, page: usize) -> thread::JoinHandle<()> {
        let this = Arc::clone(self);
        thread::spawn(move || this.write(page))
    }

    pub(super) fn start(&self) -> Arc<DirtyBitmap> {
        let log = Arc::new(DirtyBitmap::new(2 * PAGE, PAGE).unwrap());
        Tracker::start_logs([(&self.tracker, Arc::clone(&log))]).unwrap();
        log
    }

    pub(super) fn take(&self, log: &Arc<DirtyBitmap>) -> Vec<u64> {
        Harvest::of_logs([(&self.tracker, log)].into_iter()).into_iter().flat_map(pages).collect()
    }
}

fn write_under_a_log() {
    let region = Region::new();
    let log = region.start();
    region.tracker.mark(0x10_0000, 8);
    let writer = region.writes(0);
    let mut copy = 0;
    let mut take = || {
        if region.take(&log).contains(&0) {
            copy = region.memory.read(0);
        }
    };
    take();
    writer.join().unwrap();
    take();
    assert_eq!(copy, 1, "lost");
}

#[test]
fn a_write_under_a_log_is_copied() {
    either_way(8, write_under_a_log);
}

#[test]
fn without_a_barrier_a_write_under_a_log_is_lost() {
    fails_without_barrier(
        "dirty::loom_tests::without_a_barrier_a_write_under_a_log_is_lost",
        "lost",
        write_under_a_log,
    );
}

/// Each of two logs has the page, whoever harvests first.
#[test]
fn a_write_under_two_logs_is_in_both() {
    either_way(4, || {
        let region = Region::new();
        let logs = [region.start(), region.start()];
        let writer = region.writes(0);
        let (other, log) = (Arc::clone(&region), Arc::clone(&logs[1]));
        let harvester = thread::spawn(move || other.take(&log).contains(&0));
        let first = region.take(&logs[0]).contains(&0);
        writer.join().unwrap();
        let second = harvester.join().unwrap();
        assert!(first || region.take(&logs[0]).contains(&0));
        assert!(second || region.take(&logs[1]).contains(&0));
    });
}

/// What was not there when tracking had begun is marked.
fn write_while_a_log_begins() {
    let region = Region::new();
    let writer = region.writes(0);
    let log = region.start();
    let copy = region.memory.read(0);
    writer.join().unwrap();
    assert!(copy == 1 || region.take(&log).contains(&0), "lost");
}

#[test]
fn a_write_while_a_log_begins_is_there_or_is_marked() {
    either_way(8, write_while_a_log_begins);
}

#[test]
fn without_a_barrier_a_write_while_a_log_begins_is_lost() {
    fails_without_barrier(
        "dirty::loom_tests::without_a_barrier_a_write_while_a_log_begins_is_lost",
        "lost",
        write_while_a_log_begins,
    );
}

#[test]
fn a_log_that_ends_leaves_another_what_is_written() {
    either_way(4, || {
        let region = Region::new();
        let logs = [region.start(), region.start()];
        let writer = region.writes(1);
        Tracker::stop_logs([(&region.tracker, &logs[0])]);
        writer.join().unwrap();
        assert_eq!(region.take(&logs[1]), [1]);
    });
}

/// A peer's log: of which loom is told when it is used, and when it is gone.
#[derive(Default)]
pub(super) struct Peer {
    words: [Plain; 2],
    used: UnsafeCell<()>,
}

// SAFETY: a peer's memory is used from any thread; that `used` is not a value, and its accesses are what the model checks.
unsafe impl Send for Peer {}
// SAFETY: as above.
unsafe impl Sync for Peer {}

// SAFETY: the words live as long as this, and are only accessed as memory that others share.
unsafe impl VolatileMemory for Peer {
    fn len(&self) -> usize {
        16
    }

    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        self.used.with(|_| ());
        // SAFETY: the words are atomic, and there is no reference to what is in them.
        let all = unsafe { VolatileSlice::new(self.words.as_ptr().cast_mut().cast(), 16) };
        all.subslice(offset, count)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.used.with_mut(|_| ());
    }
}

pub(super) fn peer() -> (Arc<Peer>, Sink) {
    let memory = Arc::new(Peer::default());
    (Arc::clone(&memory), Sink::Log(Arc::new(LogBitmap::from_base(memory, crate::GuestAddress(0x10_0000)))))
}

pub(super) fn is_marked(peer: &Peer) -> bool {
    peer.words[0].load(Ordering::Relaxed) != 0
}

fn write_while_a_log_is_attached() {
    let region = Region::new();
    let writer = region.writes(0);
    // Made here: the writer has it by way of the tracker alone.
    let (memory, log) = peer();
    region.tracker.attach(log);
    let copy = region.memory.read(0);
    writer.join().unwrap();
    assert!(copy == 1 || is_marked(&memory), "lost");
}

#[test]
fn a_write_while_a_peers_log_is_attached_is_there_or_is_marked() {
    either_way(8, write_while_a_log_is_attached);
}

#[test]
fn without_a_barrier_a_write_while_a_peers_log_is_attached_is_lost() {
    fails_without_barrier(
        "dirty::loom_tests::without_a_barrier_a_write_while_a_peers_log_is_attached_is_lost",
        "lost",
        write_while_a_log_is_attached,
    );
}

fn write_while_a_log_is_detached() {
    let (region, (memory, log)) = (Region::new(), peer());
    region.tracker.attach(log.clone());
    let writer = region.writes(0);
    region.tracker.detach(&log);
    // Its memory goes with the last that has it: here.
    drop((log, memory));
    writer.join().unwrap();
}

#[test]
fn a_peers_log_that_is_detached_is_not_used_any_more() {
    either_way(8, write_while_a_log_is_detached);
}

/// A mark is over for who waits for it also where only the next one is seen.
#[test]
fn a_mark_is_over_when_another_has_begun() {
    check(4, || {
        let (region, (memory, log)) = (Region::new(), peer());
        region.tracker.attach(log.clone());
        let this = Arc::clone(&region);
        let writer = thread::spawn(move || {
            this.write(0);
            this.write(1);
        });
        region.tracker.detach(&log);
        drop((log, memory));
        writer.join().unwrap();
    });
}

#[test]
fn without_a_barrier_a_peers_log_is_used_after_its_end() {
    fails_without_barrier(
        "dirty::loom_tests::without_a_barrier_a_peers_log_is_used_after_its_end",
        "Causality violation",
        write_while_a_log_is_detached,
    );
}

/// Two writers, and a log that takes another's place: each write is in either.
#[test]
fn a_peers_log_that_is_replaced_has_what_the_other_has_not() {
    either_way(4, || {
        let (region, (old_memory, old), (memory, new)) = (Region::new(), peer(), peer());
        region.tracker.attach(old.clone());
        let writer = region.writes(0);
        region.tracker.replace(&old, new);
        let before = is_marked(&old_memory);
        drop((old, old_memory));
        writer.join().unwrap();
        assert!(before || is_marked(&memory), "lost");
    });
}

/// With two threads that mark, one of them for the first time.
#[test]
fn whoever_marks_late_does_not_use_what_is_detached() {
    check(2, || {
        let (region, (memory, log)) = (Region::new(), peer());
        region.tracker.attach(log.clone());
        let writers = [region.writes(0), region.writes(1)];
        region.tracker.detach(&log);
        drop((log, memory));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}
