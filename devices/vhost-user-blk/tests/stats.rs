//! What is counted, and how it is told.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use memory_model_vhost_user_blk::stats::{Recorder, Stats, Summary};
use memory_model_virtio::blk::{Journal, Outcome, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT};

fn outcome(kind: u32, bytes: u64, status: u8) -> Outcome {
    Outcome { kind, bytes, status }
}

fn request(recorder: &mut Recorder, head: u16, outcome: &Outcome) {
    recorder.begin(head);
    recorder.end(head, outcome);
}

#[test]
fn requests_are_counted_by_their_types() {
    let stats = Stats::new();
    let mut recorder = stats.recorder();
    for (kind, bytes, status) in [
        (T_IN, 512, S_OK),
        (T_IN, 1024, S_OK),
        (T_IN, 0, S_IOERR),
        (T_OUT, 4096, S_OK),
        (T_FLUSH, 0, S_OK),
        (T_GET_ID, 20, S_OK),
        (T_DISCARD, 0, S_OK),
        (u32::MAX, 0, S_IOERR),
        (99, 0, S_UNSUPP),
    ] {
        request(&mut recorder, 0, &outcome(kind, bytes, status));
    }
    let counted = stats.total();
    let expected = Summary {
        requests: 9,
        reads: 3,
        writes: 1,
        flushes: 1,
        other: 4,
        failed: 3,
        read_bytes: 1536,
        written_bytes: 4096,
        p50: counted.p50,
        p99: counted.p99,
    };
    assert_eq!(counted, expected);
    assert!(counted.p50 > Duration::ZERO && counted.p50 <= counted.p99);
}

#[test]
fn an_interval_begins_where_the_last_has_ended() {
    let stats = Stats::new();
    let (mut first, mut second) = (stats.recorder(), stats.clone().recorder());
    let read = outcome(T_IN, 512, S_OK);
    request(&mut first, 0, &read);
    request(&mut second, 0, &read);
    assert_eq!(stats.total().requests, 2, "which takes nothing from the interval");
    assert_eq!(stats.interval().requests, 2);
    assert_eq!(stats.interval(), Summary::default());
    request(&mut first, 0, &read);
    drop(first);
    request(&mut second, 0, &read);
    // A recorder that is gone is not forgotten, nor counted again.
    drop(stats.recorder());
    assert_eq!((stats.interval().requests, stats.total().requests), (2, 4));
    assert_eq!((stats.interval().requests, stats.total().requests), (0, 4));
}

#[test]
fn a_request_takes_from_when_it_was_taken_until_it_was_used() {
    let stats = Stats::new();
    let mut recorder = stats.recorder();
    let read = outcome(T_IN, 512, S_OK);
    for head in 1..100 {
        request(&mut recorder, head, &read);
    }
    // As a journal.
    for head in [0, 200] {
        recorder.taken(head);
        thread::sleep(Duration::from_millis(30));
        recorder.done(head);
        recorder.used(head, 1, &read);
    }
    let counted = stats.interval();
    assert!(counted.p50 < Duration::from_millis(10), "{:?}", counted.p50);
    assert!(counted.p99 >= Duration::from_millis(30), "{:?}", counted.p99);
    // To two digits.
    assert!(stats.total().p99 == counted.p99 && counted.p99 < Duration::from_secs(3));
}

#[test]
fn one_line_of_names_and_numbers() {
    let summary = Summary {
        requests: 1234,
        reads: 1000,
        writes: 230,
        flushes: 4,
        other: 0,
        failed: 1,
        read_bytes: 5,
        written_bytes: u64::MAX,
        p50: Duration::from_nanos(1),
        p99: Duration::from_micros(2500),
    };
    let line = summary.to_string();
    assert_eq!(
        line,
        "requests 1234 reads 1000 writes 230 flushes 4 other 0 failed 1 read_bytes 5 written_bytes 18446744073709551615 \
         p50_us 1 p99_us 2500"
    );
    let words: Vec<&str> = line.split(' ').collect();
    let numbers: HashMap<&str, u64> = words.chunks(2).map(|pair| (pair[0], pair[1].parse().unwrap())).collect();
    assert_eq!((numbers.len(), numbers["p99_us"]), (10, 2500));
}

/// Whatever heads come, in whatever order.
#[test]
fn heads_of_no_ring_are_counted_and_not_measured() {
    let stats = Stats::new();
    let mut recorder = stats.recorder();
    let read = outcome(T_IN, 512, S_OK);
    for head in [0x8000, 0xffff] {
        request(&mut recorder, head, &read);
    }
    recorder.end(3, &read);
    let counted = stats.interval();
    assert_eq!((counted.requests, counted.p99), (3, Duration::ZERO));
    // Twice begun is begun the second time; twice ended is measured once.
    recorder.begin(7);
    request(&mut recorder, 7, &read);
    recorder.end(7, &read);
    assert_eq!(stats.interval().requests, 2);
}

#[test]
fn rings_count_while_somebody_asks() {
    let stats = Stats::new();
    let mut seen = 0;
    thread::scope(|scope| {
        for _ in 0..3 {
            let mut recorder = stats.recorder();
            scope.spawn(move || {
                for head in (0..64).cycle().take(20_000) {
                    request(&mut recorder, head, &outcome(T_OUT, 1, S_OK));
                }
            });
        }
        for _ in 0..200 {
            seen += stats.interval().requests;
        }
    });
    seen += stats.interval().requests;
    assert_eq!(seen, 60_000);
    assert_eq!((stats.total().requests, stats.total().written_bytes), (60_000, 60_000));
}
