//! A disk's queue, as a guest drives it.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Instant;

use memory_model::{Bytes, GuestAddress, IoAddress};
use memory_model_virtio::blk::{Range, RequestHeader, S_OK, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES};
use memory_model_virtio::driver::DriverError;
use memory_model_virtio::{DriverQueue, QueueConfig, Segment};

use super::daemon::{MOMENT, SOON};
use super::event::Event;
use super::ram::{Ram, segment};

/// Where the first queue is, and how far from each other they are.
pub(crate) const RINGS: u64 = 0x1_0000;
/// Where the first queue's requests are, and how far from each other those of each queue are.
pub(crate) const REQUESTS: u64 = 0x10_0000;
/// How far from each other the requests are.
pub(crate) const STRIDE: u64 = 0x8000;
/// How many there are before places are used again.
const PLACES: u64 = 32;
/// What is in a request's place: a header and what follows it, a table, the status on a page of its own, data.
const TABLE: u64 = 0x800;
const STATUS: u64 = 0x1000;
const DATA: u64 = 0x2000;

/// A request: what is to be done, and where its parts are.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: u32,
    pub(crate) sector: u64,
    /// What follows the header, in its place.
    pub(crate) tail: Vec<u8>,
    pub(crate) header: u64,
    pub(crate) status: u64,
    pub(crate) readable: Vec<Segment>,
    pub(crate) writable: Vec<Segment>,
    /// Where its descriptors are, if not in the queue's own table.
    pub(crate) table: Option<u64>,
}

impl Request {
    fn new(kind: u32, sector: u64, place: u64) -> Self {
        let (header, status) = (place, place + STATUS);
        let (readable, writable) = (vec![], vec![]);
        Self { kind, sector, tail: vec![], header, status, readable, writable, table: None }
    }

    /// The same with its data elsewhere.
    pub(crate) fn at(mut self, data: &[Segment]) -> Self {
        *(if self.kind == T_OUT { &mut self.readable } else { &mut self.writable }) = data.to_vec();
        self
    }

    /// The same, in a table in its place.
    pub(crate) fn indirect(mut self) -> Self {
        self.table = Some(self.header + TABLE);
        self
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> &[Segment] {
        if self.kind == T_OUT { &self.readable } else { &self.writable }
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) head: u16,
    pub(crate) status: u8,
    pub(crate) len: u32,
    pub(crate) request: Request,
}

/// A queue, and the requests in it.
pub(crate) struct GuestQueue {
    pub(crate) index: u32,
    pub(crate) driver: DriverQueue,
    pub(crate) kick: Event,
    pub(crate) call: Event,
    pub(crate) err: Event,
    pub(crate) pending: BTreeMap<u16, Request>,
    /// How many of its places were used.
    places: u64,
    /// How many requests were answered: an index.
    pub(crate) answered: u16,
    /// Whether it waits for notifications. Else it looks.
    pub(crate) waits: bool,
}

impl GuestQueue {
    /// Where a queue of this index usually is.
    pub(crate) fn config(index: u32, size: u16, features: u64) -> QueueConfig {
        let desc = RINGS * (1 + u64::from(index));
        let (avail, used) = (IoAddress(desc + 0x4000), IoAddress(desc + 0x8000));
        QueueConfig { size, desc: IoAddress(desc), avail, used, event_idx: false, indirect: false }
            .with_features(features)
    }

    pub(crate) fn new(ram: &Ram, index: u32, config: QueueConfig) -> Self {
        let driver = DriverQueue::new(&ram.mem, config).unwrap();
        let [kick, call, err] = std::array::from_fn(|_| Event::new());
        Self { index, driver, kick, call, err, pending: BTreeMap::new(), places: 0, answered: 0, waits: true }
    }

    /// Where the next request's parts can be, which those under way do not have, if they leave any.
    fn place(&mut self) -> u64 {
        loop {
            self.places += 1;
            let place = REQUESTS * (1 + u64::from(self.index)) + STRIDE * (self.places % PLACES);
            let is_taken = |request: &Request| request.header == place || request.status == place + STATUS;
            if self.pending.len() as u64 >= PLACES || !self.pending.values().any(is_taken) {
                return place;
            }
        }
    }

    fn data(place: u64, len: usize) -> Segment {
        assert!(len as u64 <= STRIDE - DATA, "its place is too small");
        segment(place + DATA, len as u32)
    }

    pub(crate) fn read(&mut self, sector: u64, count: u64) -> Request {
        let place = self.place();
        Request::new(T_IN, sector, place).at(&[Self::data(place, count as usize * 512)])
    }

    /// The data are written into the request's place.
    pub(crate) fn write(&mut self, ram: &Ram, sector: u64, data: &[u8]) -> Request {
        let place = self.place();
        let segment = Self::data(place, data.len());
        ram.set(segment.addr.0, data);
        Request::new(T_OUT, sector, place).at(&[segment])
    }

    pub(crate) fn flush(&mut self) -> Request {
        Request::new(T_FLUSH, 0, self.place())
    }

    pub(crate) fn get_id(&mut self) -> Request {
        let place = self.place();
        Request::new(T_GET_ID, 0, place).at(&[Self::data(place, 20)])
    }

    pub(crate) fn discard(&mut self, sector: u64, count: u32) -> Request {
        self.range(T_DISCARD, sector, count)
    }

    pub(crate) fn write_zeroes(&mut self, sector: u64, count: u32) -> Request {
        self.range(T_WRITE_ZEROES, sector, count)
    }

    fn range(&mut self, kind: u32, sector: u64, count: u32) -> Request {
        let mut request = Request::new(kind, 0, self.place());
        request.tail = zerocopy::IntoBytes::as_bytes(&Range::new(sector, count, 0)).to_vec();
        request
    }

    /// Makes a request ready; the daemon does not see it before [`publish`](Self::publish).
    pub(crate) fn add(&mut self, ram: &Ram, request: Request) -> u16 {
        let header = RequestHeader::new(request.kind, request.sector);
        ram.mem.write_obj(header, GuestAddress(request.header)).unwrap();
        ram.set(request.header + 16, &request.tail);
        ram.set(request.status, &[0xee]);
        let readable = [&[segment(request.header, 16 + request.tail.len() as u32)], &*request.readable].concat();
        let writable = [&*request.writable, &[segment(request.status, 1)]].concat();
        let head = match request.table {
            Some(table) => self.driver.add_indirect(&ram.mem, IoAddress(table), &readable, &writable),
            None => self.driver.add(&ram.mem, &readable, &writable),
        };
        let head = head.unwrap();
        assert!(self.pending.insert(head, request).is_none(), "{head} is in flight twice");
        head
    }

    /// Makes what was added available, and notifies if that is wanted.
    pub(crate) fn publish(&mut self, ram: &Ram) {
        if self.driver.publish(&ram.mem).unwrap() {
            self.kick.add(1);
        }
    }

    pub(crate) fn submit(&mut self, ram: &Ram, request: Request) -> u16 {
        let head = self.add(ram, request);
        self.publish(ram);
        head
    }

    /// The next request that was answered, if there is one already.
    pub(crate) fn poll(&mut self, ram: &Ram) -> Result<Option<Done>, DriverError> {
        let Some(used) = self.driver.pop_used(&ram.mem)? else { return Ok(None) };
        self.answered = self.answered.wrapping_add(1);
        let request = self.pending.remove(&used.head).expect("a request in flight");
        let [status] = ram.bytes(request.status, 1)[..] else { unreachable!() };
        Ok(Some(Done { head: used.head, status, len: used.len, request }))
    }

    /// Waits for the next answer. If it comes without the notification that was asked for, that is as bad as no answer.
    #[track_caller]
    pub(crate) fn wait(&mut self, ram: &Ram) -> Done {
        let end = Instant::now() + SOON;
        loop {
            if let Some(done) = self.poll(ram).unwrap() {
                return done;
            }
            if !self.waits {
                sleep(MOMENT);
            } else if !self.driver.enable_notifications(&ram.mem, 1).unwrap() {
                let notified = self.call.wait(end.saturating_duration_since(Instant::now()));
                let answered = self.poll(ram).unwrap();
                assert!(notified, "queue {} is not notified; answered: {answered:?}", self.index);
                self.call.take();
                if let Some(done) = answered {
                    return done;
                }
            }
            assert!(Instant::now() < end, "no answer in {SOON:?} from queue {}", self.index);
        }
    }

    /// Waits for all answers.
    #[track_caller]
    pub(crate) fn wait_for_all(&mut self, ram: &Ram) -> Vec<Done> {
        (0..self.pending.len()).map(|_| self.wait(ram)).collect()
    }

    /// One request, from beginning to end.
    #[track_caller]
    pub(crate) fn run(&mut self, ram: &Ram, request: Request) -> Done {
        let head = self.submit(ram, request);
        let done = self.wait(ram);
        assert_eq!(done.head, head);
        done
    }

    /// Reads sectors, which must succeed.
    #[track_caller]
    pub(crate) fn read_now(&mut self, ram: &Ram, sector: u64, count: u64) -> Vec<u8> {
        let request = self.read(sector, count);
        let done = self.run(ram, request);
        assert_eq!((done.status, u64::from(done.len)), (S_OK, count * 512 + 1));
        ram.gather(done.request.data())
    }

    /// Writes sectors, which must succeed.
    #[track_caller]
    pub(crate) fn write_now(&mut self, ram: &Ram, sector: u64, data: &[u8]) {
        let request = self.write(ram, sector, data);
        let done = self.run(ram, request);
        assert_eq!((done.status, done.len), (S_OK, 1));
    }
}
