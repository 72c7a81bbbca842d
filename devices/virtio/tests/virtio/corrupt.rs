//! Ten thousand corrupt rings: no panic, no hang, and a sentence for each that is broken.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::sync::mpsc;
use std::time::Duration;

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_IOERR, S_OK, S_UNSUPP};
use memory_model_virtio::{DriverQueue, Queue, QueueError};

use crate::common::{DATA, Random, pinned, segment};
use crate::corruption::{REQUEST, corrupt_ring, memory};

const RINGS: u64 = 10_000;

/// What came of the rings.
#[derive(Default)]
struct Tally {
    rings: u64,
    requests: u64,
    /// By status.
    answers: BTreeMap<u8, u64>,
    /// By reason, the numbers in it left out.
    reasons: BTreeMap<String, u64>,
}

/// Makes one ring, and lets the device have it.
fn run(mem: &GuestMemoryMmap, disks: &[Block], seed: u64, tally: &mut Tally) {
    let random = &mut Random(seed);
    let ring = corrupt_ring(mem, random);
    let (config, size) = (ring.config, ring.config.size);
    let disk = &disks[random.below(disks.len() as u64) as usize];
    let mut queue = ring.queue();
    let mut requests = 0;
    let result = loop {
        match disk.process_queue(&mut queue, mem) {
            Ok(processed) if processed.more && processed.requests > 0 => requests += processed.requests,
            Ok(processed) => break Ok((requests + processed.requests, processed.more)),
            Err(reason) => break Err(reason),
        }
    };
    // One thread, so the ring does not change: no more than what there was room for can come of it.
    assert!(queue.next_used() <= size, "seed {seed}: {} requests", queue.next_used());
    tally.rings += 1;
    tally.requests += u64::from(queue.next_used());
    match result {
        Ok(processed) => {
            assert_eq!(processed, (u32::from(queue.next_used()), false), "seed {seed}");
            assert!(queue.broken().is_none());
        }
        Err(reason) => check_broken(&mut queue, disk, mem, &reason, tally),
    }
    for number in 0..16 {
        let status = mem.read_obj(GuestAddress(DATA + REQUEST * number + 0x20)).unwrap();
        *tally.answers.entry(status).or_default() += 1;
    }

    // Whatever was in it, the queue works again after a reset.
    if random.once_in(8) {
        let mut driver = DriverQueue::new(mem, config).unwrap();
        queue.reset();
        queue = pinned(queue, mem);
        mem.write_obj(RequestHeader::new(8, 0), GuestAddress(DATA)).unwrap();
        if driver.add(mem, &[segment(DATA, 16)], &[segment(DATA + 0x40, 21)]).is_ok() {
            driver.publish(mem).unwrap();
            let processed = disk.process_queue(&mut queue, mem).unwrap();
            assert_eq!((processed.requests, processed.failed), (1, 0), "seed {seed}");
            assert_eq!(driver.pop_used(mem).unwrap().unwrap().len, 21);
        }
    }
}

/// A broken queue says why, and stays broken for that reason.
fn check_broken(queue: &mut Queue, disk: &Block, mem: &GuestMemoryMmap, reason: &QueueError, tally: &mut Tally) {
    let next_used = queue.next_used();
    let again = disk.process_queue(queue, mem).unwrap_err();
    assert_eq!(discriminant(&again), discriminant(reason));
    assert_eq!(queue.broken().unwrap().to_string(), reason.to_string());
    assert_eq!(queue.next_used(), next_used);
    let kind = format!("{reason:?}").split([' ', '{']).next().unwrap_or_default().to_owned();
    *tally.reasons.entry(kind).or_default() += 1;
}

#[test]
fn ten_thousand_corrupt_rings() {
    let (done, finished) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        let disks = [false, true].map(|read_only| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(64 * 512).unwrap();
            let mut disk = Block::new(file, BlockOptions { read_only, ..BlockOptions::default() }).unwrap();
            disk.set_features(disk.features());
            disk
        });
        let (mem, mut tally) = (memory(), Tally::default());
        (0..RINGS).for_each(|seed| run(&mem, &disks, seed, &mut tally));
        done.send(()).unwrap();
        tally
    });
    // A panic ends the wait, too.
    let hangs = finished.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "a ring keeps the device");
    let tally = worker.join().unwrap();

    // The rings were worth it: they got to all ends that there are.
    let Tally { rings, requests, answers, reasons } = tally;
    let summary = format!("{rings} rings, {requests} requests, statuses {answers:?}, broken {reasons:?}");
    assert_eq!(rings, RINGS);
    assert!(requests > RINGS, "{summary}");
    assert!([S_OK, S_IOERR, S_UNSUPP].iter().all(|status| answers[status] > 1000), "{summary}");
    let kinds = [
        "AvailIndex",
        "Head",
        "Next",
        "ChainTooLong",
        "TooManyBytes",
        "ZeroLength",
        "AddressOverflow",
        "ReadableAfterWritable",
        "IndirectNotNegotiated",
        "IndirectNested",
        "IndirectNext",
        "IndirectLength",
        "Unanswerable",
        "AnswerLost",
        "Memory",
    ];
    assert_eq!(reasons.len(), kinds.len(), "{summary}");
    assert!(kinds.iter().all(|kind| reasons[*kind] >= 5), "{summary}");
}
