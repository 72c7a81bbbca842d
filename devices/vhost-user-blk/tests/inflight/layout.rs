//! What lies where, and in which order it is written.

use std::os::unix::fs::FileExt;

use memory_model_vhost_user_blk::inflight::{Error, Inflight, QueueInflight};
use memory_model_virtio::blk::Journal;

use crate::fused::{Fused, OUTCOME};

/// Where a descriptor's fields are, of `struct DescStateSplit`: `inflight`, `next`, `counter`.
fn desc(head: usize) -> (usize, usize, usize) {
    let at = 16 + 16 * head;
    (at, at + 6, at + 8)
}

/// `features` u64, `version` u16, `desc_num` u16, `last_batch_head` u16, `used_idx` u16; then for each descriptor `inflight` u8,
/// five bytes of padding, `next` u16, `counter` u64.
#[test]
fn a_part_is_laid_out_as_specified() {
    let fields = |bytes: &mut Vec<u8>, small: [u16; 4]| {
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(small.into_iter().flat_map(u16::to_ne_bytes));
    };
    let state = |bytes: &mut Vec<u8>, inflight: u8, next: u16, counter: u64| {
        bytes.extend([inflight, 0, 0, 0, 0, 0]);
        bytes.extend(next.to_ne_bytes());
        bytes.extend(counter.to_ne_bytes());
    };
    let memory = Fused::zeros(4);
    let mut part = QueueInflight::new(memory.clone(), 4);
    assert_eq!(part.recover(4, 0xfffe).unwrap(), [0_u16; 0]);
    for head in [2, 0, 3] {
        part.taken(head);
    }
    part.done(0);
    part.used(0, 0xffff, &OUTCOME);
    part.done(2);

    let mut expected = Vec::new();
    fields(&mut expected, [1, 4, 2, 0xffff]);
    state(&mut expected, 0, 0, 1);
    state(&mut expected, 0, 0, 0);
    state(&mut expected, 1, 0, 0);
    state(&mut expected, 1, 0, 2);
    assert_eq!(memory.bytes(), expected);
    part.used(2, 0, &OUTCOME);
    part.done(3);
    assert_eq!((memory.u16_at(14), memory.u16_at(desc(3).1), memory.u16_at(12)), (0, 2, 3));
    assert!(part.failed().is_none());
}

/// The same through a memfd, and the queues' parts 64 bytes aligned.
#[test]
fn parts_follow_each_other() {
    let (inflight, message, file) = Inflight::create(3, 6).unwrap();
    // 16 and 6 times 16 are 112.
    assert_eq!((message.mmap_size, message.mmap_offset), (3 * 128, 0));
    assert_eq!((message.num_queues, message.queue_size), (3, 6));
    assert_eq!((inflight.num_queues(), inflight.queue_size()), (3, 6));
    for queue in 0..3 {
        let mut part = inflight.queue(queue).unwrap();
        part.recover(4, 100 + queue).unwrap();
        part.taken(queue);
    }
    assert!(inflight.queue(3).is_none() && inflight.queue(u16::MAX).is_none());
    drop(inflight);
    let mut bytes = [0; 3 * 128];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for (part, queue) in bytes.chunks(128).zip(0_u16..) {
        let header: Vec<u16> = part[8..16].chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
        // As many descriptors as there is room for, however large the ring is.
        assert_eq!(header, [1, 6, 0, 100 + queue]);
        let inflight: Vec<u8> = part[16..112].chunks(16).map(|desc| desc[0]).collect();
        let expected: Vec<u8> = (0..6).map(|head| u8::from(head == queue)).collect();
        assert_eq!(inflight, expected);
    }
}

#[test]
fn each_step_is_stored_in_the_specified_order() {
    let memory = Fused::zeros(8);
    let mut part = QueueInflight::new(memory.clone(), 8);
    part.recover(8, 0).unwrap();
    assert_eq!(memory.stores().last(), Some(&(8, 2)), "a part that is not ready has no version");
    let (inflight, next, counter) = desc(5);
    part.taken(5);
    assert_eq!(memory.stores(), [(counter, 8), (inflight, 1)]);
    part.done(5);
    assert_eq!(memory.stores(), [(next, 2), (12, 2)]);
    part.used(5, 1, &OUTCOME);
    assert_eq!(memory.stores(), [(inflight, 1), (14, 2)]);
}

/// A request that is taken again keeps its place: if the process dies once more, the order is the same.
#[test]
fn what_was_recovered_is_not_written_again() {
    let memory = Fused::zeros(8);
    let mut part = QueueInflight::new(memory.clone(), 8);
    part.recover(8, 0).unwrap();
    for head in [6, 1, 4] {
        part.taken(head);
    }
    let mut part = QueueInflight::new(memory.clone(), 8);
    assert_eq!(part.recover(8, 0).unwrap(), [6, 1, 4]);
    memory.stores();
    part.taken(6);
    part.taken(1);
    assert_eq!(memory.stores(), []);
    part.taken(2);
    let mut part = QueueInflight::new(memory.clone(), 8);
    assert_eq!(part.recover(8, 0).unwrap(), [6, 1, 4, 2]);
    // Once it is used, its head is another request's.
    part.taken(6);
    part.done(6);
    part.used(6, 1, &OUTCOME);
    part.taken(6);
    assert_eq!(QueueInflight::new(memory, 8).recover(8, 1).unwrap(), [1, 4, 2, 6]);
}

#[test]
fn a_part_without_a_version_holds_nothing() {
    let mut bytes = vec![0xee; 16 + 16 * 4];
    bytes[8..10].fill(0);
    let memory = Fused::new(bytes);
    let mut part = QueueInflight::new(memory.clone(), 4);
    assert_eq!(part.recover(2, 7).unwrap(), [0_u16; 0]);
    assert_eq!((memory.u64_at(0), memory.in_flight()), (0, vec![]));
    assert_eq!([8, 10, 12, 14].map(|at| memory.u16_at(at)), [1, 4, 0, 7]);
}

/// Another back-end may have published several at once.
#[test]
fn a_batch_of_several_is_crossed_out() {
    let memory = Fused::zeros(8);
    let mut part = QueueInflight::new(memory.clone(), 8);
    part.recover(8, 0xfffe).unwrap();
    for head in 0..6 {
        part.taken(head);
    }
    part.done(5);
    part.used(5, 0xffff, &OUTCOME);
    for head in [3, 0, 4] {
        part.done(head);
    }
    // Three entries more are in the used ring, and none of them is crossed out.
    assert_eq!(memory.in_flight(), [0, 1, 2, 3, 4]);
    let mut part = QueueInflight::new(memory.clone(), 8);
    assert_eq!(part.recover(8, 2).unwrap(), [1, 2]);
    assert_eq!((memory.u16_at(14), memory.in_flight()), (2, vec![1, 2]));
    // Nothing is left to be done of it.
    assert_eq!(part.recover(8, 2).unwrap(), [1, 2]);
    part.done(1);
    assert_eq!((memory.u16_at(desc(1).1), memory.u16_at(12)), (4, 1), "the list goes on where it was");
}

#[test]
fn the_counter_goes_on_behind_the_highest() {
    let mut bytes = vec![0; 16 + 16 * 4];
    bytes[8..10].copy_from_slice(&1_u16.to_ne_bytes());
    bytes[10..12].copy_from_slice(&4_u16.to_ne_bytes());
    for (head, counter) in [(0, u64::MAX - 1), (1, 7), (3, 7)] {
        let (inflight, _, at) = desc(head);
        bytes[inflight] = 0xff; // anything but 0
        bytes[at..at + 8].copy_from_slice(&u64::to_ne_bytes(counter));
    }
    let memory = Fused::new(bytes);
    let mut part = QueueInflight::new(memory.clone(), 4);
    assert_eq!(part.recover(4, 0).unwrap(), [1, 3, 0], "equal ones by their heads");
    part.taken(2);
    assert_eq!(memory.u64_at(desc(2).2), u64::MAX);
    // The highest that there is: nobody has taken as many.
    assert_eq!(part.recover(4, 0).unwrap(), [1, 3, 0, 2]);
    part.used(2, 1, &OUTCOME);
    part.taken(1);
    part.done(1);
    part.used(1, 2, &OUTCOME);
    part.taken(2);
    assert_eq!(memory.u64_at(desc(2).2), u64::MAX);
}

/// Parts that are of another ring, or not of this version.
#[test]
fn what_makes_no_sense_is_an_error() {
    let with = |fields: &[(usize, u16)]| {
        let mut bytes = vec![0; 16 + 16 * 8];
        for &(at, value) in [(8, 1), (10, 8)].iter().chain(fields) {
            bytes[at..at + 2].copy_from_slice(&u16::to_ne_bytes(value));
        }
        let memory = Fused::new(bytes);
        let error = QueueInflight::new(memory.clone(), 8).recover(4, 10).map(drop);
        (error.err(), memory)
    };
    for (fields, expected) in [
        (
            &[(8, 2), (14, 10)][..],
            "the inflight region has version 2 and features 0x0: known are version 1 and no features",
        ),
        (
            &[(6, 1), (14, 10)],
            "the inflight region has version 1 and features 0x1000000000000: known are version 1 and no features",
        ),
        (&[(10, 3), (14, 10)], "the inflight region says that it has 3 descriptors: 4 are needed, 8 fit"),
        (&[(10, 9), (14, 10)], "the inflight region says that it has 9 descriptors: 4 are needed, 8 fit"),
        (
            &[(14, 5), (16, 1)],
            "the inflight region ends at used index 5, and the ring at 10: a batch of more than 4 entries",
        ),
        (
            &[(14, 11), (64, 1)],
            "the inflight region ends at used index 11, and the ring at 10: a batch of more than 4 entries",
        ),
        (&[(12, 4), (14, 9)], "the inflight region's last batch names descriptor 4 of 4"),
    ] {
        let (error, memory) = with(fields);
        assert_eq!(error.unwrap().to_string(), expected);
        assert_eq!(memory.stores(), []);
    }
    assert!(with(&[(14, 6)]).0.is_none(), "as many as the ring has entries");
    let (error, memory) = with(&[(14, 11)]);
    assert!(error.is_none(), "a ring that was reset since, with nothing under way");
    assert_eq!(memory.stores().len(), 1);

    let mut part = QueueInflight::new(Fused::zeros(8), 8);
    for ring_size in [0, 9, u16::MAX] {
        let error = part.recover(ring_size, 0).unwrap_err();
        assert!(matches!(error, Error::RingSize { queue_size: 8, .. }), "{error}");
    }
}
