//! Many of a disk's requests under way at a time: what is answered, what it does, and what becomes of the memory.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, IoAddress};
use memory_model_virtio::blk::{
    Block, BlockOptions, Range, RequestHeader, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT,
    T_WRITE_ZEROES, Worker, WorkerError,
};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, QueueError, Segment};
use rustix::fs::OFlags;

use crate::common::{DATA, END, QUEUE, Random, memory, segment};

const SECTORS: u64 = 256;
const SIZE: u16 = 64;

/// Each sector's bytes are its number.
fn content() -> Vec<u8> {
    (0..SECTORS).flat_map(|sector| [sector as u8; 512]).collect()
}

/// A file that is read and written past the page cache, if there are such.
fn direct_file() -> File {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    named.as_file().write_all_at(&content(), 0).unwrap();
    named.as_file().sync_all().unwrap();
    let open = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().try_into().unwrap())
        .open(named.path());
    open.unwrap_or_else(|_| named.as_file().try_clone().unwrap())
}

/// A disk, a worker, its queue, and the guest.
struct Machine {
    mem: GuestMemoryMmap,
    file: File,
    disk: Arc<Block>,
    worker: Worker,
    queue: Queue,
    driver: DriverQueue,
}

impl Machine {
    fn with(mem: GuestMemoryMmap, file: File, options: BlockOptions, features: u64, ring: bool) -> Self {
        let mut disk = Block::new(file.try_clone().unwrap(), options).unwrap();
        disk.set_features(disk.features() & features);
        let config = QueueConfig::contiguous(IoAddress(QUEUE), SIZE).unwrap().with_features(disk.features());
        let (driver, queue, disk) =
            (DriverQueue::new(&mem, config).unwrap(), Queue::new(config).unwrap(), Arc::new(disk));
        let make = if ring { Worker::new } else { Worker::without_io_uring };
        let worker = make(Arc::clone(&disk), &queue).unwrap();
        assert!(ring || worker.fallback_reason().is_some());
        Self { mem, file, disk, worker, queue, driver }
    }

    /// By `io_uring`, if there is one, and without.
    fn both() -> [Self; 2] {
        [true, false].map(|ring| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&content(), 0).unwrap();
            let options = BlockOptions { id: *b"a disk of 256 sector", ..BlockOptions::default() };
            Self::with(memory(), file, options, u64::MAX, ring)
        })
    }

    /// Makes a request available whose header and status are at `place`; the data of it follows, or is elsewhere.
    fn add(&mut self, place: u64, header: RequestHeader, readable: &[Segment], writable: &[Segment]) -> u16 {
        self.mem.write_obj(header, GuestAddress(place)).unwrap();
        self.mem.write_obj(0xee_u8, GuestAddress(place + 16)).unwrap();
        let readable = [&[segment(place, 16)], readable].concat();
        let writable = [writable, &[segment(place + 16, 1)]].concat();
        let head = self.driver.add(&self.mem, &readable, &writable).unwrap();
        self.driver.publish(&self.mem).unwrap();
        head
    }

    /// Makes the device do what it can without waiting; answers how many requests were answered.
    fn process(&mut self) -> u32 {
        self.worker.process_queue(&mut self.queue, &self.mem).unwrap().requests
    }

    /// What is used next, after as much waiting as it takes.
    fn used(&mut self) -> (u16, u32) {
        loop {
            if let Some(used) = self.driver.pop_used(&self.mem).unwrap() {
                return (used.head, used.len);
            }
            let processed = self.worker.process_queue(&mut self.queue, &self.mem).unwrap();
            if processed.requests == 0 && !processed.more {
                self.worker.wait().unwrap();
            }
        }
    }

    /// Makes a request and waits for it; answers status and bytes written.
    fn request(&mut self, header: RequestHeader, readable: &[Segment], writable: &[Segment]) -> (u8, u32) {
        let head = self.add(DATA, header, readable, writable);
        let (used, written) = self.used();
        assert_eq!(used, head);
        (self.byte(DATA + 16), written)
    }

    fn byte(&self, addr: u64) -> u8 {
        self.mem.read_obj(GuestAddress(addr)).unwrap()
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; (SECTORS * 512) as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// What is under way of each place in memory, and of the sectors that belong to it.
#[derive(Clone, Copy)]
struct Pending {
    head: u16,
    write: bool,
    sector: u64,
    data: [Segment; 2],
}

#[test]
fn many_at_a_time_in_any_order() {
    for (mut machine, seed) in Machine::both().into_iter().zip(1..) {
        let mut random = Random(seed);
        let mut model = content();
        let mut pending: [Option<Pending>; 16] = [None; 16];
        let mut left = 2000;
        while left > 0 || pending.iter().any(Option::is_some) {
            let at = random.below(16);
            let place = DATA + at * 0x4000;
            if left > 0 && pending[at as usize].is_none() {
                left -= 1;
                let first = random.below(16);
                let (sector, sectors) = (at * 16 + first, random.below(16 - first) + 1);
                let write = random.once_in(2);
                let bytes = (sectors * 512) as u32;
                // In pieces that have nothing to do with sectors.
                let cut = random.below(u64::from(bytes) - 1) as u32 + 1;
                let data = [segment(place + 0x101, cut), segment(place + 0x2033, bytes - cut)];
                let header = RequestHeader::new(if write { T_OUT } else { T_IN }, sector);
                let fill = random.below(256) as u8;
                for Segment { addr, len } in data {
                    machine.mem.fill(fill, len as usize, GuestAddress(addr.0)).unwrap();
                }
                let head = if write {
                    model[(sector * 512) as usize..][..bytes as usize].fill(fill);
                    machine.add(place, header, &data, &[])
                } else {
                    machine.add(place, header, &[], &data)
                };
                pending[at as usize] = Some(Pending { head, write, sector, data });
                if !random.once_in(5) {
                    continue;
                }
            }
            machine.process();
            while let Some(used) = machine.driver.pop_used(&machine.mem).unwrap() {
                let at = pending.iter().position(|one| one.is_some_and(|one| one.head == used.head)).unwrap();
                let Pending { write, sector, data, .. } = pending[at].take().unwrap();
                assert_eq!(machine.byte(DATA + at as u64 * 0x4000 + 16), S_OK);
                let len = data.iter().map(|segment| segment.len).sum::<u32>();
                assert_eq!(used.len, if write { 1 } else { len + 1 });
                let mut expected = &model[(sector * 512) as usize..];
                for Segment { addr, len } in data {
                    let mut bytes = vec![0; len as usize];
                    machine.mem.read_slice(&mut bytes, GuestAddress(addr.0)).unwrap();
                    assert!(bytes == expected[..len as usize]);
                    expected = &expected[len as usize..];
                }
            }
            if left == 0 && machine.worker.in_flight() > 0 {
                machine.worker.wait().unwrap();
            }
        }
        assert_eq!(machine.content(), model);
    }
}

/// All that a driver can do wrong in a request is answered as the disk does that has one at a time.
#[test]
fn answers_are_those_of_one_request_at_a_time() {
    let hole = END + 0x1000;
    let data = DATA + 0x1000;
    let requests: Vec<(u32, u64, Vec<Segment>, Vec<Segment>)> = vec![
        (T_IN, 5, vec![], vec![segment(data, 1024)]),
        (T_IN, 5, vec![], vec![]),
        (T_IN, SECTORS - 1, vec![], vec![segment(data, 1024)]),
        (T_IN, u64::MAX, vec![], vec![segment(data, 512)]),
        (T_IN, u64::MAX / 512 + 1, vec![], vec![segment(data, 512)]),
        (T_IN, 5, vec![], vec![segment(data, 511)]),
        (T_IN, 5, vec![segment(data, 3)], vec![segment(data, 512)]),
        (T_IN, 5, vec![], vec![segment(hole, 512)]),
        (T_IN, 5, vec![], vec![segment(END - 100, 512)]),
        (T_IN, 5, vec![], vec![segment(u64::MAX - 511, 512)]),
        (T_OUT, 7, vec![segment(data, 1024)], vec![]),
        (T_OUT, 7, vec![segment(data, 1024)], vec![segment(data, 10)]),
        (T_OUT, SECTORS, vec![segment(data, 512)], vec![]),
        (T_OUT, 7, vec![segment(hole, 512)], vec![]),
        (T_OUT, 7, vec![segment(data, 512), segment(END - 100, 512)], vec![]),
        (T_OUT, 7, vec![segment(data, 100)], vec![]),
        (T_FLUSH, 0, vec![], vec![]),
        (T_FLUSH, 0, vec![], vec![segment(data, 10)]),
        (T_GET_ID, 0, vec![], vec![segment(data, 20)]),
        (T_GET_ID, 0, vec![], vec![segment(data, 19)]),
        (T_GET_ID, 0, vec![], vec![segment(data, 30)]),
        (T_DISCARD, 0, vec![segment(DATA + 0x800, 16)], vec![]),
        (T_WRITE_ZEROES, 0, vec![segment(DATA + 0x800, 16)], vec![]),
        (T_WRITE_ZEROES, 0, vec![segment(DATA + 0x800, 15)], vec![]),
        (77, 0, vec![], vec![segment(data, 10)]),
    ];
    for features in [u64::MAX, 0] {
        for ring in [true, false] {
            for (kind, sector, readable, writable) in &requests {
                let [one, many] = [false, true].map(|many| {
                    let file = tempfile::tempfile().unwrap();
                    file.write_all_at(&content(), 0).unwrap();
                    let options = BlockOptions { id: *b"a disk of 256 sector", ..BlockOptions::default() };
                    let mut machine = Machine::with(memory(), file, options, features, ring);
                    machine.mem.fill(0xab, 0x1000, GuestAddress(data)).unwrap();
                    machine.mem.write_obj(Range::new(3, 2, 0), GuestAddress(DATA + 0x800)).unwrap();
                    let header = RequestHeader::new(*kind, *sector);
                    let answer = if many {
                        machine.request(header, readable, writable)
                    } else {
                        machine.add(DATA, header, readable, writable);
                        assert_eq!(machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap().requests, 1);
                        let written = machine.driver.pop_used(&machine.mem).unwrap().unwrap().len;
                        (machine.byte(DATA + 16), written)
                    };
                    let mut memory = vec![0; 0x1000];
                    machine.mem.read_slice(&mut memory, GuestAddress(data)).unwrap();
                    (answer, machine.content(), memory)
                });
                assert_eq!(one.0, many.0, "request {kind} of {sector}, {readable:x?}, {writable:x?}");
                assert!(one.1 == many.1, "request {kind} of {sector}, {readable:x?}, {writable:x?}");
                // What a failed read leaves is anything.
                assert!(one.2 == many.2 || many.0.0 != S_OK);
            }
        }
    }
}

/// 5.2.6.2: a flush makes stable what was written before. Here also what was under way when it came.
#[test]
fn a_flush_is_answered_after_the_writes_before_it() {
    for ring in [true, false] {
        let mut machine = Machine::with(memory(), direct_file(), BlockOptions::default(), u64::MAX, ring);
        for round in 0..200_u64 {
            let mut heads = Vec::new();
            for number in 0..8 {
                let place = DATA + number * 0x2000;
                let header = RequestHeader::new(T_OUT, (round * 8 + number) * 4 % SECTORS);
                machine.mem.fill(round as u8, 2048, GuestAddress(place + 0x1000)).unwrap();
                heads.push(machine.add(place, header, &[segment(place + 0x1000, 2048)], &[]));
            }
            let flush = machine.add(DATA + 0x1_8000, RequestHeader::new(T_FLUSH, 0), &[], &[]);
            let late = DATA + 0x1_a000;
            let late = machine.add(late, RequestHeader::new(T_OUT, 0), &[segment(late + 0x1000, 512)], &[]);
            let second = machine.add(DATA + 0x1_e000, RequestHeader::new(T_FLUSH, 0), &[], &[]);
            let used: Vec<_> = (0..11).map(|_| machine.used().0).collect();
            let at = |head| used.iter().position(|&used| used == head).unwrap();
            assert!(heads.iter().all(|&head| at(head) < at(flush) && at(head) < at(second)), "{used:?}");
            assert!(at(late) < at(second), "{used:?}");
            assert_eq!([machine.byte(DATA + 0x1_8010), machine.byte(DATA + 0x1_e010)], [S_OK; 2]);
        }
    }
}

/// The requests' memory is removed while they are under way, and the queue goes on.
#[test]
fn memory_that_is_removed_meanwhile_is_freed_when_its_requests_are_answered() {
    for (ring, round) in [true, false].into_iter().flat_map(|ring| (0..50).map(move |round| (ring, round))) {
        let ranges = [(0, DATA as usize), (DATA, 0x2_0000)].map(|(start, size)| (GuestAddress(start), size));
        let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let mem = GuestMemoryMmap::clone(&map.memory());
        let mut machine = Machine::with(mem, direct_file(), BlockOptions::default(), u64::MAX, ring);
        for number in 0..10 {
            let (place, data) = (DATA + number * 0x20, DATA + 0x1000 + number * 0x1000);
            let header = RequestHeader::new(if number % 3 == 0 { T_OUT } else { T_IN }, number * 8);
            let data = [segment(data, 4096)];
            let (readable, writable) = if number % 3 == 0 { (&data[..], &[][..]) } else { (&[][..], &data[..]) };
            machine.add(place, header, readable, writable);
        }
        let (mut answered, mut reader) = (0, map.reader());
        let processed = machine.worker.process_queue(&mut machine.queue, &*reader.read()).unwrap();
        answered += processed.requests;
        let region = map.remove_region(GuestAddress(DATA), 0x2_0000).unwrap();
        let weak = Arc::downgrade(&region);
        let low = GuestMemoryMmap::from_ranges(&[(GuestAddress(END), 0x1000)]).unwrap();
        drop((region, std::mem::replace(&mut machine.mem, low)));
        assert_eq!(weak.upgrade().is_some(), machine.worker.in_flight() > 0, "round {round}");
        while machine.worker.in_flight() > 0 {
            machine.worker.wait().unwrap();
            let processed = machine.worker.process_queue(&mut machine.queue, &*reader.read()).unwrap();
            answered += processed.requests;
            assert_eq!(processed.failed, 0);
        }
        assert_eq!(answered, 10);
        assert!(weak.upgrade().is_none());
        // What comes now is not there, and is said so.
        let processed = machine.worker.process_queue(&mut machine.queue, &*reader.read()).unwrap();
        assert_eq!(processed.requests, 0);
        assert!(machine.queue.broken().is_none());
    }
}

#[test]
fn data_is_dirty_before_the_driver_is_told() {
    for mut machine in Machine::both() {
        let log = machine.mem.start_tracking(4096).unwrap();
        for round in 0..20 {
            log.harvest().commit();
            let data = DATA + 0x1000 + round % 8 * 0x3000;
            assert_eq!(machine.request(RequestHeader::new(T_IN, 9), &[], &[segment(data, 8192)]), (S_OK, 8193));
            let harvest = log.harvest();
            let is_dirty = |addr| harvest.ranges().any(|range| (range.start..range.start + range.len).contains(&addr));
            assert!([data, data + 4096, DATA, QUEUE].into_iter().all(is_dirty));
            assert!(!is_dirty(data + 8192));
        }
    }
}

#[test]
fn queues_break_as_they_do_one_request_at_a_time() {
    for mut machine in Machine::both() {
        machine.driver.add(&machine.mem, &[segment(DATA, 16)], &[]).unwrap();
        machine.driver.publish(&machine.mem).unwrap();
        let error = machine.worker.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
        assert!(matches!(error, WorkerError::Queue(QueueError::Unanswerable { head: 0 })), "{error}");
        let again = machine.worker.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
        assert_eq!(error.to_string(), again.to_string());
    }
    for mut machine in Machine::both() {
        machine.mem.write_obj(RequestHeader::new(T_IN, 0), GuestAddress(DATA)).unwrap();
        machine.driver.add(&machine.mem, &[segment(DATA, 16)], &[segment(END, 1)]).unwrap();
        machine.driver.publish(&machine.mem).unwrap();
        let error = machine.worker.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
        assert!(matches!(error, WorkerError::Queue(QueueError::AnswerLost { head: 0, .. })), "{error}");
    }
}

#[test]
fn a_full_queue_is_answered_and_drained() {
    for mut machine in Machine::both() {
        for number in 0..u64::from(SIZE / 2) {
            let place = DATA + number * 0x800;
            machine.mem.write_obj(RequestHeader::new(T_IN, number), GuestAddress(place)).unwrap();
            let data = [segment(place + 0x200, 513)];
            machine.driver.add(&machine.mem, &[segment(place, 16)], &data).unwrap();
        }
        assert_eq!(machine.driver.free(), 0);
        machine.driver.publish(&machine.mem).unwrap();
        let processed = machine.worker.process_queue(&mut machine.queue, &machine.mem).unwrap();
        let drained = machine.worker.drain(&mut machine.queue, &machine.mem).unwrap();
        assert_eq!(processed.requests + drained.requests, u32::from(SIZE / 2));
        assert!(processed.notify || drained.notify);
        assert_eq!((machine.worker.in_flight(), machine.queue.next_used()), (0, SIZE / 2));
        for number in 0..u64::from(SIZE / 2) {
            let place = DATA + number * 0x800;
            assert_eq!(machine.byte(place + 0x200), number as u8);
            assert_eq!(machine.byte(place + 0x200 + 512), S_OK);
        }
    }
}

#[test]
fn after_a_reset_nothing_is_under_way() {
    for ring in [true, false] {
        let mut machine = Machine::with(memory(), direct_file(), BlockOptions::default(), u64::MAX, ring);
        for round in 0..50 {
            for number in 0..10 {
                let place = DATA + number * 0x2000;
                let data = [segment(place + 0x1000, 4096)];
                machine.add(place, RequestHeader::new(T_IN, number), &[], &data);
            }
            machine.add(DATA + 0x1_8000, RequestHeader::new(T_FLUSH, 0), &[], &[]);
            machine.process();
            machine.worker.reset().unwrap();
            assert_eq!(machine.worker.in_flight(), 0);
            machine.queue.reset();
            machine.driver = DriverQueue::new(&machine.mem, *machine.queue.config()).unwrap();
            let processed = machine.worker.process_queue(&mut machine.queue, &machine.mem).unwrap();
            assert_eq!((processed.requests, machine.queue.next_used()), (0, 0), "round {round}");
            let data = [segment(DATA + 0x1000, 512)];
            assert_eq!(machine.request(RequestHeader::new(T_IN, 7), &[], &data), (S_OK, 513));
            assert_eq!(machine.byte(DATA + 0x1000), 7);
        }
    }
}

#[test]
fn a_padded_sector_and_a_truncated_file() {
    for ring in [true, false] {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 1000], 0).unwrap();
        let options = BlockOptions { read_only: true, ..BlockOptions::default() };
        let mut machine = Machine::with(memory(), file, options, u64::MAX, ring);
        let data = [segment(DATA + 0x1000, 1024)];
        machine.mem.fill(0xee, 1024, GuestAddress(DATA + 0x1000)).unwrap();
        assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &data), (S_OK, 1025));
        let mut read = [0; 1024];
        machine.mem.read_slice(&mut read, GuestAddress(DATA + 0x1000)).unwrap();
        assert_eq!((&read[..1000], &read[1000..]), (&[7; 1000][..], &[0; 24][..]));
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 0), &[segment(DATA + 0x1000, 512)], &[]), (S_IOERR, 1));
        assert_eq!(machine.request(RequestHeader::new(99, 0), &[], &[]), (S_UNSUPP, 1));
        machine.file.set_len(700).unwrap();
        assert_eq!(machine.request(RequestHeader::new(T_IN, 0), &[], &data), (S_IOERR, 0));
    }
}
