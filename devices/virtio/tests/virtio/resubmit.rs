//! Requests that an earlier process took, done again.

use memory_model::{Bytes, GuestAddress, IoAddress, Le16};
use memory_model_virtio::blk::{RequestHeader, T_IN};
use memory_model_virtio::{DriverQueue, Processed, Queue, QueueConfig, QueueError};

use crate::common::{DATA, QUEUE, segment};
use crate::server::{Machine, SIZE, Step, Steps, each};

/// The process dies with requests under way; the driver has overwritten their entries since.
#[test]
fn requests_that_were_under_way_are_done_again() {
    each(|machine, mut server| {
        let heads: Vec<u16> = (0..5).map(|sector| machine.read(sector)).collect();
        // The first process takes them all, answers the second, and dies.
        let mut queue = machine.queue();
        for _ in 0..5 {
            queue.pop(&machine.mem).unwrap().unwrap();
        }
        queue.add_used(&machine.mem, heads[1], 0).unwrap();
        assert_eq!(machine.used(), [heads[1]]);
        let later = machine.read(5);
        // Nobody looks there.
        for slot in 0..5 {
            let entry = machine.config.avail.0 + 4 + 2 * slot;
            machine.mem.write_obj(Le16::new(0xffff), GuestAddress(entry)).unwrap();
        }

        let (next_avail, next_used) = (queue.next_avail(), queue.next_used());
        let mut queue = Queue::resume(machine.config, next_avail, next_used).unwrap();
        let order = [heads[4], heads[0], heads[2], heads[3]];
        let mut steps = Steps::default();
        let processed = server.resubmit(&mut queue, &machine.mem, &order, &mut steps).unwrap();
        assert!(processed.more, "the others are to follow");
        assert_eq!(processed.failed, 0);
        assert!(processed.notify, "the driver may not have been told of the second");
        assert_eq!(queue.next_avail(), next_avail);
        server.process(&mut queue, &machine.mem, &mut steps);
        let taken: Vec<_> = steps.0.iter().filter(|step| matches!(step, Step::Taken(_))).copied().collect();
        assert_eq!(taken, [order[0], order[1], order[2], order[3], later].map(Step::Taken));
        let mut used = machine.used();
        used.sort_unstable();
        let mut all = [order.as_slice(), &[later]].concat();
        all.sort_unstable();
        assert_eq!(used, all);
        let read: Vec<bool> = (0..6).map(|sector| machine.was_read(sector)).collect();
        assert_eq!(read, [true, false, true, true, true, true], "the second was answered before, with nothing");
        assert_eq!((queue.next_avail(), queue.next_used()), (6, 6));
    });
}

/// The heads come from a peer's memory.
#[test]
fn heads_that_cannot_be_under_way_are_refused_at_once() {
    let hostile: [(&[u16], &str); 6] = [
        (&[0, SIZE], "a chain is to begin at descriptor 16 of 16"),
        (&[0, u16::MAX], "a chain is to begin at descriptor 65535 of 16"),
        (&[0, 3, 0], "the chain at 0 is to be taken again twice"),
        (&[0, 1, 2, 3, 4], "5 chains are to be taken again, but no more than 4 can have been under way"),
        (&[0; 17], "17 chains are to be taken again, but no more than 4 can have been under way"),
        (&[0; 8000], "8000 chains are to be taken again, but no more than 4 can have been under way"),
    ];
    for (heads, message) in hostile {
        each(|machine, mut server| {
            for sector in 0..4 {
                machine.read(sector);
            }
            let mut queue = Queue::resume(machine.config, 4, 0).unwrap();
            let mut steps = Steps::default();
            let error = server.resubmit(&mut queue, &machine.mem, heads, &mut steps).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(queue.broken().unwrap().to_string(), message);
            assert_eq!(steps.0, []);
            assert!(machine.used().is_empty());
            // Nor is anything done later.
            assert!(server.resubmit(&mut queue, &machine.mem, &[0], &mut steps).is_err());
        });
    }
}

/// A head that is in the table, and of no chain: descriptors are what the driver says they are.
#[test]
fn a_head_without_a_chain_breaks_the_queue() {
    each(|machine, mut server| {
        let head = machine.read(0);
        let mut queue = Queue::resume(machine.config, 2, 0).unwrap();
        let mut steps = Steps::default();
        // A descriptor of zeros is of no bytes.
        let error = server.resubmit(&mut queue, &machine.mem, &[head, 15], &mut steps).unwrap_err();
        assert!(matches!(error, QueueError::ZeroLength { head: 15, .. }), "{error}");
        assert!(!steps.0.contains(&Step::Taken(15)));
    });
}

#[test]
fn no_heads_are_nothing() {
    each(|machine, mut server| {
        let mut queue = machine.queue();
        let processed = server.resubmit(&mut queue, &machine.mem, &[], &mut ()).unwrap();
        assert_eq!(processed, Processed { more: true, ..Processed::default() });
        machine.read(1);
        assert_eq!(server.process(&mut queue, &machine.mem, &mut ()), 1);
        assert!(machine.was_read(1));
    });
}

/// As many as there are entries.
#[test]
fn a_whole_queue_is_done_again() {
    let config = QueueConfig { indirect: true, ..QueueConfig::contiguous(IoAddress(QUEUE), SIZE).unwrap() };
    each(|machine, mut server| {
        machine.config = config;
        machine.driver = DriverQueue::new(&machine.mem, config).unwrap();
        let heads: Vec<u16> = (0..u64::from(SIZE))
            .map(|sector| {
                let place = DATA + sector * 0x100;
                machine.mem.write_obj(RequestHeader::new(T_IN, sector), GuestAddress(place)).unwrap();
                let (header, table) = ([segment(place, 16)], IoAddress(place + 0x20));
                let writable = [segment(DATA + 0x2_0000 + sector * 512, 512), segment(place + 16, 1)];
                machine.driver.add_indirect(&machine.mem, table, &header, &writable).unwrap()
            })
            .collect();
        machine.driver.publish(&machine.mem).unwrap();
        let mut queue = Queue::resume(config, SIZE, 0).unwrap();
        let mut steps = Steps::default();
        let at_once = server.resubmit(&mut queue, &machine.mem, &heads, &mut steps).unwrap().requests;
        assert_eq!(at_once + server.process(&mut queue, &machine.mem, &mut steps), u32::from(SIZE));
        assert_eq!(machine.used().len(), usize::from(SIZE));
        assert!((0..u64::from(SIZE)).all(|sector| machine.was_read(sector)));
    });
}

#[test]
fn a_chain_is_retaken_by_its_head() {
    let mut machine = Machine::new(64);
    let heads = [machine.read(8), machine.read(9)];
    let mut queue = Queue::resume(machine.config, 2, 0).unwrap();
    for head in heads {
        let chain = queue.retake(&machine.mem, head).unwrap();
        assert_eq!((chain.head(), chain.readable().len(), chain.writable().len()), (head, 16, 513));
    }
    assert_eq!((queue.next_avail(), queue.next_used()), (2, 0));
    assert!(queue.pop(&machine.mem).unwrap().is_none());
    let error = queue.retake(&machine.mem, SIZE).unwrap_err();
    assert!(matches!(error, QueueError::Head { head: SIZE, size: SIZE }), "{error}");
    assert!(queue.retake(&machine.mem, heads[0]).is_err(), "it is broken");
}
