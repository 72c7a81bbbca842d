//! Models in which membarrier(2) is refused while a thread marks: no write is lost, and nothing is used after its end, in
//! whichever order the calls that find the refusal come. Without the wait for pending stores, both happen.

use std::sync::Arc;

use loom::thread;

use super::barrier_loom::{self, WITHOUT_DRAIN};
use super::loom_tests::{PAGE, Region, is_marked, peer};
use super::{DirtyBitmap, Tracker};
use crate::sync::models::{check, fails_without};

/// Runs a model that refuses the barrier at some point.
fn refusing(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    check(preemptions, move || {
        barrier_loom::allow();
        model();
    });
    barrier_loom::allow();
}

fn fails_without_wait(test: &str, why: &str, model: impl Fn() + Sync + Send + 'static) {
    fails_without(
        || WITHOUT_DRAIN.set(true),
        test,
        why,
        move || {
            barrier_loom::allow();
            model();
        },
    );
}

/// A write of another thread. It has passed a barrier before the write, and does so once more at its end. One in between would
/// have no store pending when it marks, which is no case of interest.
fn writes(region: &Arc<Region>) -> thread::JoinHandle<()> {
    let region = Arc::clone(region);
    thread::spawn(move || {
        barrier_loom::tick();
        region.memory.write(0);
        region.tracker.mark(0x10_0000, 8);
        barrier_loom::end();
    })
}

/// A call of somebody else finds the refusal first.
fn find_refusal() {
    DirtyBitmap::new(PAGE, PAGE).unwrap().harvest().commit();
}

/// What two harvests have copied of a page that was dirty when the other thread wrote it once more.
fn harvest_twice(region: &Arc<Region>, log: &Arc<DirtyBitmap>, writer: thread::JoinHandle<()>) {
    let mut copy = 0;
    let mut take = || {
        if region.take(log).contains(&0) {
            copy = region.memory.read(0);
        }
    };
    take();
    take();
    writer.join().unwrap();
    take();
    assert_eq!(copy, 1, "lost");
}

fn refused_in_a_harvest() {
    let region = Region::new();
    let log = region.start();
    region.tracker.mark(0x10_0000, 8);
    barrier_loom::refuse();
    let writer = writes(&region);
    harvest_twice(&region, &log, writer);
}

#[test]
fn a_write_is_copied_where_a_harvest_finds_the_refusal() {
    refusing(3, refused_in_a_harvest);
}

#[test]
fn without_a_wait_a_write_is_lost_where_a_harvest_finds_the_refusal() {
    fails_without_wait(
        "dirty::refused_loom_tests::without_a_wait_a_write_is_lost_where_a_harvest_finds_the_refusal",
        "lost",
        refused_in_a_harvest,
    );
}

fn refused_before_a_harvest() {
    let region = Region::new();
    let log = region.start();
    region.tracker.mark(0x10_0000, 8);
    barrier_loom::refuse();
    let writer = writes(&region);
    find_refusal();
    harvest_twice(&region, &log, writer);
}

#[test]
fn a_write_is_copied_where_another_call_finds_the_refusal() {
    refusing(2, refused_before_a_harvest);
}

#[test]
fn without_a_wait_a_write_is_lost_where_another_call_finds_the_refusal() {
    fails_without_wait(
        "dirty::refused_loom_tests::without_a_wait_a_write_is_lost_where_another_call_finds_the_refusal",
        "lost",
        refused_before_a_harvest,
    );
}

/// Tracking begins, on a tracker that was off before: whatever is not there then is marked.
fn refused_while_a_log_begins(found_before: bool) {
    let region = Region::new();
    // Loom does not know the lock that the region's bitmap is made under: it is there before.
    Tracker::stop_logs([(&region.tracker, &region.start())]);
    barrier_loom::refuse();
    let writer = writes(&region);
    if found_before {
        find_refusal();
    }
    let log = region.start();
    let copy = region.memory.read(0);
    writer.join().unwrap();
    assert!(copy == 1 || region.take(&log).contains(&0), "lost");
}

#[test]
fn a_write_is_there_or_marked_where_the_begin_of_a_log_finds_the_refusal() {
    refusing(3, || refused_while_a_log_begins(false));
    refusing(2, || refused_while_a_log_begins(true));
}

#[test]
fn without_a_wait_a_write_is_lost_where_the_begin_of_a_log_finds_the_refusal() {
    fails_without_wait(
        "dirty::refused_loom_tests::without_a_wait_a_write_is_lost_where_the_begin_of_a_log_finds_the_refusal",
        "lost",
        || refused_while_a_log_begins(false),
    );
}

fn refused_while_a_log_is_attached() {
    let region = Region::new();
    barrier_loom::refuse();
    let writer = writes(&region);
    let (memory, log) = peer();
    region.tracker.attach(log);
    let copy = region.memory.read(0);
    writer.join().unwrap();
    assert!(copy == 1 || is_marked(&memory), "lost");
}

#[test]
fn a_write_is_there_or_marked_where_an_attach_finds_the_refusal() {
    refusing(3, refused_while_a_log_is_attached);
}

fn refused_while_a_log_is_detached() {
    let (region, (memory, log)) = (Region::new(), peer());
    region.tracker.attach(log.clone());
    barrier_loom::refuse();
    let writer = writes(&region);
    region.tracker.detach(&log);
    // Its memory goes with the last that has it: here.
    drop((log, memory));
    writer.join().unwrap();
}

#[test]
fn a_log_is_not_used_after_its_end_where_its_detach_finds_the_refusal() {
    refusing(3, refused_while_a_log_is_detached);
}

#[test]
fn without_a_wait_a_log_is_used_after_its_end_where_its_detach_finds_the_refusal() {
    fails_without_wait(
        "dirty::refused_loom_tests::without_a_wait_a_log_is_used_after_its_end_where_its_detach_finds_the_refusal",
        "Causality violation",
        refused_while_a_log_is_detached,
    );
}
