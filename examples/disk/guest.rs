//! The guest: a driver that knows guest memory, a bell to ring and a bell to hear, and nothing else.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::mpsc::{Receiver, Sender};

use memory_model::IoMemory;
use memory_model_virtio::blk::{RequestHeader, S_OK, T_FLUSH, T_IN, T_OUT};
use memory_model_virtio::{DriverQueue, Segment};
use sha2::{Digest, Sha256};

use crate::requests::{Random, SLOTS, Slot, Stats, request_sectors, scatter};

pub(crate) struct Guest<'a, I> {
    mem: &'a I,
    queue: DriverQueue,
    kick: Sender<()>,
    interrupts: Receiver<()>,
    /// Where a region ends and the next begins.
    boundaries: Vec<u64>,
    random: Random,
    stats: Stats,
}

/// A request on its way.
struct InFlight {
    head: u16,
    slot: Slot,
    data: Segment,
    done: bool,
}

impl<'a, I: IoMemory> Guest<'a, I> {
    pub(crate) fn new(
        mem: &'a I,
        queue: DriverQueue,
        kick: Sender<()>,
        interrupts: Receiver<()>,
        boundaries: Vec<u64>,
    ) -> Self {
        let random = Random(0x5eed_d15c);
        Self { mem, queue, kick, interrupts, boundaries, random, stats: Stats::default() }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// Reads the whole disk, some requests at a time, and answers its SHA-256.
    pub(crate) fn read_all(&mut self, sectors: u64, mut progress: impl FnMut(u64)) -> Result<String, Box<dyn Error>> {
        let (mut hash, mut buf) = (Sha256::new(), Vec::new());
        let mut in_flight = VecDeque::new();
        let (mut sector, mut number) = (0, 0);
        while sector < sectors || !in_flight.is_empty() {
            while sector < sectors && (in_flight.len() as u64) < SLOTS {
                let count = request_sectors(sectors - sector, sectors, &mut self.random);
                let slot = Slot(number % SLOTS);
                let data = slot.data(u32::try_from(count * 512)?, &mut self.random);
                in_flight.push_back(self.submit(T_IN, sector, slot, Some(data))?);
                sector += count;
                number += 1;
            }
            self.ring()?;
            self.wait_for_first(&mut in_flight)?;
            while let Some(request) = in_flight.pop_front_if_done() {
                self.check(&request)?;
                buf.resize(request.data.len as usize, 0);
                self.mem.read_slice(&mut buf, request.data.addr)?;
                hash.update(&buf);
                progress(buf.len() as u64);
            }
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Inverts every sector on the disk, reads it back, and restores it; then flushes.
    pub(crate) fn rewrite_all(&mut self, sectors: u64, mut progress: impl FnMut(u64)) -> Result<(), Box<dyn Error>> {
        let (mut sector, mut number) = (0, 0);
        while sector < sectors {
            let count = request_sectors(sectors - sector, sectors, &mut self.random);
            let slot = |number| Slot(number % SLOTS);
            let here = slot(number).data(u32::try_from(count * 512)?, &mut self.random);
            let elsewhere = slot(number + 1).data(here.len, &mut self.random);
            self.one(T_IN, sector, slot(number), Some(here))?;
            let mut original = vec![0; here.len as usize];
            self.mem.read_slice(&mut original, here.addr)?;
            let inverted: Vec<u8> = original.iter().map(|byte| !byte).collect();
            self.mem.write_slice(&inverted, here.addr)?;
            self.one(T_OUT, sector, slot(number), Some(here))?;
            self.one(T_IN, sector, slot(number + 1), Some(elsewhere))?;
            let mut back = vec![0; here.len as usize];
            self.mem.read_slice(&mut back, elsewhere.addr)?;
            self.mem.write_slice(&original, here.addr)?;
            self.one(T_OUT, sector, slot(number), Some(here))?;
            if back != inverted {
                return Err(format!("{count} sectors from {sector} do not read as they were written").into());
            }
            progress(3 * count * 512);
            sector += count;
            number += 1;
        }
        self.one(T_FLUSH, 0, Slot(0), None)
    }

    /// One request, alone.
    fn one(&mut self, kind: u32, sector: u64, slot: Slot, data: Option<Segment>) -> Result<(), Box<dyn Error>> {
        let mut in_flight = VecDeque::from([self.submit(kind, sector, slot, data)?]);
        self.ring()?;
        self.wait_for_first(&mut in_flight)?;
        in_flight.iter().try_for_each(|request| self.check(request))
    }

    /// Builds a request in guest memory and adds it to the queue.
    fn submit(
        &mut self,
        kind: u32,
        sector: u64,
        slot: Slot,
        data: Option<Segment>,
    ) -> Result<InFlight, Box<dyn Error>> {
        self.mem.write_obj(RequestHeader::new(kind, sector), slot.header().addr)?;
        self.mem.write_obj(0xff_u8, slot.status().addr)?;
        let data = data.unwrap_or(Segment { len: 0, ..slot.header() });
        let scattered = if data.len > 0 { scatter(data, &mut self.random) } else { Vec::new() };
        let (mut readable, mut writable) = (vec![slot.header()], Vec::new());
        if kind == T_IN { &mut writable } else { &mut readable }.extend(scattered);
        writable.push(slot.status());
        let indirect = self.random.below(2) == 1;
        let head = if indirect {
            self.queue.add_indirect(self.mem, slot.table(), &readable, &writable)?
        } else {
            self.queue.add(self.mem, &readable, &writable)?
        };
        let inside = |boundary: u64| data.addr.0 < boundary && boundary < data.addr.0 + u64::from(data.len);
        self.stats.requests += 1;
        self.stats.bytes += u64::from(data.len);
        self.stats.indirect += u64::from(indirect);
        self.stats.crossing += u64::from(self.boundaries.iter().any(|&boundary| inside(boundary)));
        Ok(InFlight { head, slot, data, done: false })
    }

    /// Makes what was added available, and rings the device's bell if it wants that.
    fn ring(&mut self) -> Result<(), Box<dyn Error>> {
        if self.queue.publish(self.mem)? {
            self.stats.kicks += 1;
            self.kick.send(()).or(Err("the device is gone"))?;
        }
        Ok(())
    }

    /// Takes used buffers back until the first request is among them.
    fn wait_for_first(&mut self, in_flight: &mut VecDeque<InFlight>) -> Result<(), Box<dyn Error>> {
        while in_flight.front().is_some_and(|request| !request.done) {
            while let Some(used) = self.queue.pop_used(self.mem)? {
                let mut requests = in_flight.iter_mut();
                let request = requests.find(|request| request.head == used.head).ok_or("used, but not in flight")?;
                request.done = true;
            }
            let waits = in_flight.front().is_some_and(|request| !request.done);
            if waits && !self.queue.enable_notifications(self.mem, 1)? {
                self.interrupts.recv().or(Err("the device is gone"))?;
            }
        }
        Ok(())
    }

    fn check(&self, request: &InFlight) -> Result<(), Box<dyn Error>> {
        match self.mem.read_obj::<u8>(request.slot.status().addr)? {
            S_OK => Ok(()),
            status => Err(format!("the device answered status {status} to a request at {}", request.data.addr).into()),
        }
    }
}

/// The oldest request, once it is done: data is hashed in the order of the disk.
trait PopFrontIfDone {
    fn pop_front_if_done(&mut self) -> Option<InFlight>;
}

impl PopFrontIfDone for VecDeque<InFlight> {
    fn pop_front_if_done(&mut self) -> Option<InFlight> {
        if self.front()?.done { self.pop_front() } else { None }
    }
}
