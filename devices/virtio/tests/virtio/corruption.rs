//! Rings and requests that a driver has made nonsense of, in one way or another: what tests of corrupt rings begin with.

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress, Le16};
use memory_model_virtio::blk::{Range, RequestHeader};
use memory_model_virtio::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use memory_model_virtio::{DriverQueue, QueueConfig};

use crate::common::{DATA, QUEUE, Random, Ring, segment};

/// Where the requests are, one after the other, each with its table.
pub(crate) const REQUEST: u64 = 0x200;

/// Two regions that touch, and a hole behind.
pub(crate) const SEAM: u64 = DATA + 0x1000;
pub(crate) const HOLE: u64 = DATA + 0x1_0000;

/// Memory of these two regions.
pub(crate) fn memory() -> GuestMemoryMmap {
    let ranges = [(0, SEAM as usize), (SEAM, (HOLE - SEAM) as usize)];
    GuestMemoryMmap::from_ranges(&ranges.map(|(start, size)| (GuestAddress(start), size))).unwrap()
}

/// An address that is good, at an edge, or anything.
fn address(random: &mut Random) -> u64 {
    let edge = random.choose(&[0, QUEUE, DATA, SEAM, HOLE, 1 << 32, u64::MAX]);
    match random.below(4) {
        0 => edge.wrapping_add(random.below(32)).wrapping_sub(16),
        1 => random.next(),
        _ => DATA + random.below(HOLE - DATA),
    }
}

fn length(random: &mut Random) -> u32 {
    match random.below(4) {
        0 => random.next() as u32,
        1 => 16 * random.below(20) as u32,
        2 => 512 * random.below(8) as u32,
        _ => random.choose(&[0, 1, 15, 16, 17, 20, 511, 513, 0x7fff_ffff, u32::MAX]),
    }
}

/// Fills all of the queue with noise.
fn noise(ring: &mut Ring, random: &mut Random) {
    let size = ring.config.size;
    let len = ring.config.used.0 + 6 + 8 * u64::from(size) - QUEUE;
    let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    ring.mem.write_slice(&bytes, GuestAddress(QUEUE)).unwrap();
    if random.once_in(2) {
        // Else hardly any ring gets further than its index.
        ring.set_avail_idx(random.below(u64::from(size) + 2) as u16);
        let slots = (0..size).map(|slot| ring.config.avail.0 + 4 + 2 * u64::from(slot));
        for slot in slots {
            ring.mem.write_obj(Le16::new(random.below(u64::from(size)) as u16), GuestAddress(slot)).unwrap();
        }
    }
}

/// Good requests, from a driver that keeps to the rules.
fn good_requests(ring: &Ring, random: &mut Random) {
    let mut driver = DriverQueue::new(&ring.mem, ring.config).unwrap();
    for number in 0..=random.below(u64::from(ring.config.size)) {
        let place = DATA + REQUEST * (number % 16);
        let kind = random.choose(&[0, 0, 1, 1, 4, 8, 11, 13, 14, 3]);
        ring.mem.write_obj(RequestHeader::new(kind, random.below(70)), GuestAddress(place)).unwrap();
        ring.mem.write_obj(Range::new(random.below(70), 3, random.below(3) as u32), GuestAddress(place + 16)).unwrap();
        let header = segment(place, 16);
        let data = segment(random.choose(&[SEAM - 100, DATA + 0x4000]), 512 * (random.below(3) as u32 + 1));
        let status = segment(place + 0x20, 1);
        let (readable, writable) = match kind {
            0 => (vec![header], vec![data, status]),
            1 => (vec![header, data], vec![status]),
            8 => (vec![header], vec![segment(data.addr.0, 20), status]),
            11 | 13 => (vec![segment(place, 32)], vec![status]),
            _ => (vec![header], vec![status]),
        };
        let table = IoAddress(place + 0x100);
        let added = if ring.config.indirect && random.once_in(2) {
            driver.add_indirect(&ring.mem, table, &readable, &writable)
        } else {
            driver.add(&ring.mem, &readable, &writable)
        };
        if added.is_err() {
            break; // full
        }
    }
    driver.publish(&ring.mem).unwrap();
}

/// Makes one thing wrong in a good ring.
fn corrupt(ring: &mut Ring, random: &mut Random) {
    let size = ring.config.size;
    let slot = random.below(u64::from(size)) as u16;
    let index = random.choose(&[0, slot, size - 1, size, size + 1, random.0 as u16]);
    // A descriptor of the queue's table, or of some request's.
    let table = if random.once_in(3) { DATA + REQUEST * random.below(16) + 0x100 } else { ring.config.desc.0 };
    let descriptor = GuestAddress(table + 16 * u64::from(slot % 8));
    let at = |offset| GuestAddress(descriptor.0 + offset);
    match random.below(9) {
        0 => ring.mem.write_obj(address(random).to_le(), at(0)).unwrap(),
        1 => ring.mem.write_obj(length(random).to_le(), at(8)).unwrap(),
        2 => ring.mem.write_obj(Le16::new(random.below(8) as u16), at(12)).unwrap(),
        3 => ring.mem.write_obj(Le16::new(index), at(14)).unwrap(),
        4 => ring.set_avail_idx(index),
        5 => ring.mem.write_obj(Le16::new(index), GuestAddress(ring.config.avail.0 + 4 + 2 * u64::from(slot))).unwrap(),
        6 => {
            let flags = random.choose(&[DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT, DESC_F_INDIRECT | DESC_F_NEXT]);
            ring.table_descriptor(table, slot % 8, segment(address(random), length(random)), flags, index);
        }
        7 => {
            // A few bits, anywhere in the queue or the requests.
            for _ in 0..random.below(20) {
                let addr = GuestAddress(random.choose(&[QUEUE, DATA]) + random.below(0x400));
                let byte: u8 = ring.mem.read_obj(addr).unwrap();
                ring.mem.write_obj(byte ^ (1 << random.below(8)), addr).unwrap();
            }
        }
        _ => {
            // A request that cannot be done.
            let header = RequestHeader::new(random.next() as u32 % 16, random.next());
            ring.mem.write_obj(header, GuestAddress(DATA + REQUEST * random.below(16))).unwrap();
        }
    }
}

/// A queue in which something is wrong; or, by chance, nothing.
pub(crate) fn corrupt_ring(mem: &GuestMemoryMmap, random: &mut Random) -> Ring {
    let size = 1 << random.below(5);
    let mut config = QueueConfig::contiguous(IoAddress(QUEUE), size).unwrap();
    config.event_idx = random.once_in(2);
    config.indirect = !random.once_in(4);
    mem.fill(0, 0x400, GuestAddress(QUEUE)).unwrap();
    mem.fill(0xee, 0x3000, GuestAddress(DATA)).unwrap();
    let mut ring = Ring { mem: mem.clone(), config, idx: 0 };
    if random.once_in(4) {
        noise(&mut ring, random);
    } else {
        good_requests(&ring, random);
        for _ in 0..=random.below(3) {
            corrupt(&mut ring, random);
        }
    }
    ring
}
