//! Models of readers that look while the map changes: in every order that the memory model allows, nobody uses a map after
//! its end; and without the barrier of whoever looks, somebody does.

#![expect(unsafe_code, reason = "what loom is told of each use is not `Sync`")]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::published::{Published, Reader};
use crate::sync::models::{check, fails_without_barrier};

/// A map: loom is told when it is used, and when it is gone.
struct Map {
    number: u64,
    used: UnsafeCell<()>,
}

// SAFETY: nothing is in the cell, and its accesses are what the model checks.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(number: u64) -> Self {
        Self { number, used: UnsafeCell::new(()) }
    }

    fn look(&self) -> u64 {
        self.used.with(|_| self.number)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.used.with_mut(|_| ());
    }
}

fn publish(published: &Published<Map>, number: u64) {
    published.publish(number, Map::new(number));
}

fn a_reader_and_a_change() {
    let published = Arc::new(Published::new(0, Map::new(0)));
    let mut reader = Reader::new(&published);
    let device = thread::spawn(move || {
        let first = reader.read().look();
        // Not back to an older one.
        assert!(reader.read().look() >= first);
    });
    publish(&published, 1);
    published.give_up();
    device.join().unwrap();
}

#[test]
fn a_map_lives_until_the_last_guard() {
    check(8, a_reader_and_a_change);
}

#[test]
fn without_a_barrier_a_map_is_used_after_its_end() {
    fails_without_barrier(
        "atomic::loom_tests::without_a_barrier_a_map_is_used_after_its_end",
        "Causality violation",
        a_reader_and_a_change,
    );
}

/// Nothing is freed before the last is made, or its address might be that of another: where it is differs from run to run,
/// and loom wants all of them the same. See `published_tests.rs` for that.
#[test]
fn a_look_that_two_changes_overtake_finds_a_map_that_lives() {
    check(8, || {
        let published = Arc::new(Published::new(0, Map::new(0)));
        let mut reader = Reader::new(&published);
        let device = thread::spawn(move || reader.read().look());
        publish(&published, 1);
        publish(&published, 2);
        drop(published.take_unused());
        device.join().unwrap();
        assert_eq!(published.snapshot().look(), 2);
    });
}

#[test]
fn two_readers_and_a_change() {
    check(2, || {
        let published = Arc::new(Published::new(0, Map::new(0)));
        let devices: Vec<_> = (0..2)
            .map(|_| {
                let mut reader = Reader::new(&published);
                thread::spawn(move || reader.read().look())
            })
            .collect();
        publish(&published, 1);
        published.give_up();
        devices.into_iter().for_each(|device| assert!(device.join().unwrap() < 2));
    });
}

fn a_snapshot_and_a_change() {
    let published = Arc::new(Published::new(0, Map::new(0)));
    let other = Arc::clone(&published);
    let device = thread::spawn(move || {
        let snapshot = other.snapshot();
        snapshot.look()
    });
    publish(&published, 1);
    published.give_up();
    assert!(device.join().unwrap() < 2);
}

#[test]
fn a_map_lives_until_the_last_snapshot() {
    check(8, a_snapshot_and_a_change);
}

#[test]
fn without_a_barrier_a_snapshot_is_of_a_map_that_is_gone() {
    fails_without_barrier(
        "atomic::loom_tests::without_a_barrier_a_snapshot_is_of_a_map_that_is_gone",
        "no entry found for key",
        a_snapshot_and_a_change,
    );
}

/// What a change takes for itself of an older map is nobody else's.
#[test]
fn what_is_taken_for_reuse_is_used_by_nobody() {
    check(8, || {
        let published = Arc::new(Published::new(0, Map::new(0)));
        let mut reader = Reader::new(&published);
        let device = thread::spawn(move || reader.read().look());
        publish(&published, 1);
        if let Some(mut map) = published.take_unused() {
            map.used.with_mut(|_| map.number = 9);
        }
        assert_ne!(device.join().unwrap(), 9);
    });
}
