//! Large and slow requests are answered, and the driver is notified of them, before all that are available are taken.

use memory_model::{Bytes, GuestAddress};
use memory_model_virtio::Queue;
use memory_model_virtio::blk::{Range, RequestHeader, T_DISCARD, T_FLUSH, T_IN};

use crate::common::{DATA, segment};
use crate::server::{Machine, Server, Step, Steps, each, each_with};

/// Requests that are available.
const COUNT: usize = 5;
/// Place of the data.
const BUFFER: u64 = DATA + 0x2_0000;
/// Sectors of the disk, and of each large request: 256 KiB.
const LARGE: u64 = 512;

fn taken(steps: &Steps) -> usize {
    steps.0.iter().filter(|step| matches!(step, Step::Taken(_))).count()
}

/// Serves until the driver is notified of an answer, and returns how many requests were taken by then.
fn taken_before_the_first_answer(server: &mut Server, queue: &mut Queue, machine: &mut Machine) -> usize {
    let mut steps = Steps::default();
    let first = server.process_once(queue, &machine.mem, &mut steps).unwrap();
    assert!(first.more, "all was taken at once: {:?}", steps.0);
    let mut notify = first.notify;
    if !notify {
        // It is under way. Nothing else is taken while it is waited for.
        server.wait();
        notify = server.process_once(queue, &machine.mem, &mut steps).unwrap().notify;
    }
    assert!(notify, "the driver is not notified: {:?}", steps.0);
    assert!(!machine.used().is_empty(), "nothing is answered: {:?}", steps.0);
    taken(&steps)
}

#[test]
fn large_reads_are_answered_before_all_are_taken() {
    each_with(LARGE, |machine, mut server| {
        for _ in 0..COUNT {
            machine.add(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, LARGE as u32 * 512)]);
        }
        let mut queue = machine.queue();
        assert!(taken_before_the_first_answer(&mut server, &mut queue, machine) <= 2);
        server.process(&mut queue, &machine.mem, &mut ());
        assert_eq!(queue.next_used(), COUNT as u16);
    });
}

/// Those that a process took before are many at once, too.
#[test]
fn large_reads_are_answered_before_all_are_taken_again() {
    each_with(LARGE, |machine, mut server| {
        let data = segment(BUFFER, LARGE as u32 * 512);
        let heads: Vec<_> = (0..COUNT).map(|_| machine.add(RequestHeader::new(T_IN, 0), &[], &[data])).collect();
        let mut queue = Queue::resume(machine.config, COUNT as u16, 0).unwrap();
        let mut steps = Steps::default();
        let processed = server.resubmit(&mut queue, &machine.mem, &heads, &mut steps).unwrap();
        // What is answered by then is answered as soon as it is done: at once, unless the kernel does it by itself.
        let first_used = steps.0.iter().position(|step| matches!(step, Step::Used(..)));
        let last_taken = steps.0.iter().rposition(|step| matches!(step, Step::Taken(_)));
        assert!(server.is_uring() || first_used.is_some() && first_used < last_taken, "{:?}", steps.0);
        assert!(processed.more);
        server.process(&mut queue, &machine.mem, &mut ());
        assert_eq!(queue.next_used(), COUNT as u16);
    });
}

/// Small reads are one batch, as before.
#[test]
fn small_reads_are_taken_at_once() {
    each(|machine, mut server| {
        for sector in 0..COUNT as u64 {
            machine.read(sector);
        }
        let mut steps = Steps::default();
        let processed = server.process_once(&mut machine.queue(), &machine.mem, &mut steps).unwrap();
        assert_eq!((processed.more, taken(&steps)), (false, COUNT));
    });
}

/// What is done while a request is taken, and may wait for the disk, is answered before the next is taken.
#[test]
fn requests_that_wait_for_the_disk_are_answered_one_by_one() {
    for kind in [T_FLUSH, T_DISCARD] {
        each(|machine, mut server| {
            machine.mem.write_obj(Range::new(0, 1, 0), GuestAddress(BUFFER)).unwrap();
            let data = if kind == T_DISCARD { vec![segment(BUFFER, 16)] } else { vec![] };
            for _ in 0..COUNT {
                machine.add(RequestHeader::new(kind, 0), &data, &[]);
            }
            let mut queue = machine.queue();
            // A worker has the kernel do flushes, many at a time.
            if kind == T_DISCARD || matches!(server, Server::Disk(_)) {
                assert_eq!(taken_before_the_first_answer(&mut server, &mut queue, machine), 1);
            }
            server.process(&mut queue, &machine.mem, &mut ());
            assert_eq!(queue.next_used(), COUNT as u16);
        });
    }
}

#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn requests_are_answered_step_by_step_while_a_queue_drains() {
    each_with(LARGE, |machine, mut server| {
        let Server::Worker(worker) = &mut server else { return };
        for _ in 0..COUNT {
            machine.add(RequestHeader::new(T_IN, 0), &[], &[segment(BUFFER, LARGE as u32 * 512)]);
        }
        let mut queue = machine.queue();
        while worker.process_queue(&mut queue, &machine.mem).unwrap().more {}
        loop {
            let before = worker.in_flight();
            let processed = worker.drain_next(&mut queue, &machine.mem, &mut ()).unwrap();
            assert_eq!(processed.more, worker.in_flight() > 0);
            assert_eq!(processed.notify, before > 0, "each step answers a request, and notifies of it");
            if !processed.more {
                break;
            }
        }
        assert_eq!(queue.next_used(), COUNT as u16);
    });
}
