//! A system that forbids `io_uring`: requests are done nevertheless, and why not by that is logged.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use std::thread;

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, Worker};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::common::{DATA, QUEUE, memory, segment};
use crate::seccomp::{Calls, refuse};

/// What is logged, a line for each event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock().unwrap();
        assert_eq!(*event.metadata().level(), Level::WARN);
        event.record(&mut Line(&mut log));
        log.push('\n');
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn works(mem: &GuestMemoryMmap) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1000).unwrap();
    let mut disk = Block::new(file.try_clone().unwrap(), BlockOptions::default()).unwrap();
    disk.set_features(disk.features());
    let config = QueueConfig::contiguous(IoAddress(QUEUE), 16).unwrap().with_features(disk.features());
    let (mut driver, mut queue) = (DriverQueue::new(mem, config).unwrap(), Queue::new(config).unwrap());
    let mut worker = Worker::new(Arc::new(disk), &queue).unwrap();
    assert_eq!(worker.fallback_reason().unwrap().kind(), std::io::ErrorKind::PermissionDenied);
    mem.write_obj(RequestHeader::new(T_OUT, 3), GuestAddress(DATA)).unwrap();
    mem.write_obj(RequestHeader::new(T_FLUSH, 0), GuestAddress(DATA + 0x20)).unwrap();
    mem.fill(9, 512, GuestAddress(DATA + 0x1000)).unwrap();
    let readable = [segment(DATA, 16), segment(DATA + 0x1000, 512)];
    let write = driver.add(mem, &readable, &[segment(DATA + 16, 1)]).unwrap();
    let flush = driver.add(mem, &[segment(DATA + 0x20, 16)], &[segment(DATA + 0x30, 1)]).unwrap();
    driver.publish(mem).unwrap();
    let processed = worker.process_queue(&mut queue, mem).unwrap();
    assert_eq!((processed.requests, processed.failed, worker.in_flight()), (2, 0, 0));
    assert_eq!([(); 2].map(|()| driver.pop_used(mem).unwrap().unwrap().head), [write, flush]);
    for status in [DATA + 16, DATA + 0x30] {
        assert_eq!(mem.read_obj::<u8>(GuestAddress(status)).unwrap(), S_OK);
    }
    let mut sector = [0; 512];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut sector, 3 * 512).unwrap();
    assert_eq!(sector, [9; 512]);
}

#[test]
fn it_is_logged_that_there_is_no_io_uring() {
    let log = Log::default();
    let in_thread = log.clone();
    // The filter is the thread's, and ends with it.
    thread::spawn(move || {
        refuse(libc::SYS_io_uring_setup, Calls::All, libc::EPERM);
        tracing::subscriber::with_default(in_thread, || works(&memory()));
    })
    .join()
    .unwrap();
    let said = log.0.lock().unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no io_uring") && said.contains("Operation not permitted"), "{said}");
}

/// A driver that sends no flushes has stable writes, or is told that they are not (5.2.6.2).
#[test]
fn a_write_that_cannot_be_made_stable_fails_unless_the_driver_flushes() {
    for (features, expected) in [(0, [S_IOERR, S_OK, S_IOERR]), (u64::MAX, [S_OK, S_OK, S_IOERR])] {
        let statuses = thread::spawn(move || {
            let mem = memory();
            let file = tempfile::tempfile().unwrap();
            file.set_len(0x1000).unwrap();
            let mut disk = Block::new(file, BlockOptions::default()).unwrap();
            disk.set_features(features & disk.features());
            let config = QueueConfig::contiguous(IoAddress(QUEUE), 16).unwrap();
            let (mut driver, mut queue) = (DriverQueue::new(&mem, config).unwrap(), Queue::new(config).unwrap());
            let mut worker = Worker::without_io_uring(Arc::new(disk), &queue).unwrap();
            refuse(libc::SYS_fdatasync, Calls::All, libc::EIO);
            [T_OUT, T_IN, T_FLUSH].map(|kind| {
                mem.write_obj(RequestHeader::new(kind, 1), GuestAddress(DATA)).unwrap();
                let (header, data, status) = (segment(DATA, 16), segment(DATA + 0x1000, 512), segment(DATA + 16, 1));
                let (readable, writable) = match kind {
                    T_OUT => (vec![header, data], vec![status]),
                    T_IN => (vec![header], vec![data, status]),
                    _ => (vec![header], vec![status]),
                };
                driver.add(&mem, &readable, &writable).unwrap();
                driver.publish(&mem).unwrap();
                let processed = worker.process_queue(&mut queue, &mem).unwrap();
                assert_eq!((processed.requests, worker.in_flight()), (1, 0));
                mem.read_obj::<u8>(GuestAddress(DATA + 16)).unwrap()
            })
        });
        assert_eq!(statuses.join().unwrap(), expected, "features {features:#x}");
    }
}
