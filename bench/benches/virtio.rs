//! A virtqueue and a disk: what a chain costs from the available ring to the used ring, beside virtio-queue; and what a disk
//! takes for a read, beside preadv(2) alone.
//!
//! ```console
//! cargo bench -p bench --bench virtio
//! ```
//!
//! Rounds of what is compared take turns, and the shortest of each counts, in time of the processor. Nothing fails here for
//! being slow.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use contenders::run_virtio_queue;
use cpu_time::ThreadTime;
use memory_model::{Bytes, DataInit, GuestAddress, GuestMemoryMmap, IoAddress, Le16};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, T_IN};
use memory_model_virtio::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};
use virtio_queue::QueueT;
use vm_memory::Bytes as _;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of the queue, in entries; and in bytes, of all memory that it and its buffers need.
const SIZE: u16 = 256;
const MEMORY: usize = 4 << 20;
/// Where the queue is, and what the requests have.
const QUEUE: u64 = 0x1_0000;
const CONTROL: u64 = 0x2_0000;
const DATA: u64 = 0x10_0000;
/// How many chains are available at once, of three descriptors each.
const BATCH: u16 = 64;
const ROUNDS: usize = 2000;
/// Of the file, and of a read from it, in bytes.
const FILE: u64 = 64 << 20;
const READ: u32 = 4096;

fn main() -> Result<()> {
    println!("{:44} {:>12} {:>12}", "", "ours", "theirs");
    chains()?;
    reads(1)?;
    reads(16)
}

/// The time of `work` on this processor for each of a batch, in ns, if it is shorter than `shortest`.
fn time(shortest: &mut f64, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = ThreadTime::now();
    work()?;
    *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH));
    Ok(())
}

fn ensure(is: bool, or: &str) -> Result<()> {
    if is { Ok(()) } else { Err(or.into()) }
}

/// A random number after another.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    *seed >> 20
}

/// The descriptor table and the available ring of a driver that always has the same chains: a readable segment, then two
/// writable ones.
fn rings() -> (Vec<u8>, Vec<u8>) {
    let descriptors = (0..BATCH * 3).flat_map(|slot| {
        let (next, write) = (slot % 3 < 2, slot % 3 > 0);
        let flags = if next { DESC_F_NEXT } else { 0 } | if write { DESC_F_WRITE } else { 0 };
        let addr = (DATA + u64::from(slot) * 0x1000).into();
        Descriptor { addr, len: 0x1000.into(), flags: flags.into(), next: (slot + 1).into() }.as_slice().to_vec()
    });
    let heads = (0..SIZE).flat_map(|slot| (slot % BATCH * 3).to_le_bytes());
    (descriptors.collect(), [0; 4].into_iter().chain(heads).collect())
}

fn chains() -> Result<()> {
    let config = QueueConfig::contiguous(IoAddress(QUEUE), SIZE)?;
    let (desc, avail, used) = (config.desc.0, config.avail.0, config.used.0);
    let (descriptors, available) = rings();

    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    mem.write_slice(&descriptors, GuestAddress(desc))?;
    mem.write_slice(&available, GuestAddress(avail))?;
    let mut queue = Queue::new(config)?;

    let their_mem = vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(vm_memory::GuestAddress(0), MEMORY)])?;
    their_mem.write_slice(&descriptors, vm_memory::GuestAddress(desc))?;
    their_mem.write_slice(&available, vm_memory::GuestAddress(avail))?;
    let mut their_queue = virtio_queue::Queue::new(SIZE)?;
    their_queue.try_set_desc_table_address(vm_memory::GuestAddress(desc))?;
    their_queue.try_set_avail_ring_address(vm_memory::GuestAddress(avail))?;
    their_queue.try_set_used_ring_address(vm_memory::GuestAddress(used))?;
    their_queue.set_ready(true);
    ensure(their_queue.is_valid(&their_mem), "virtio-queue refuses the queue")?;

    let [mut ours, mut theirs] = [f64::MAX; 2];
    let mut idx = 0_u16;
    for _ in 0..ROUNDS {
        idx = idx.wrapping_add(BATCH);
        mem.store(Le16::new(idx), GuestAddress(avail + 2), Ordering::Release)?;
        their_mem.store(idx.to_le(), vm_memory::GuestAddress(avail + 2), Ordering::Release)?;
        queue.pin(&mem);
        time(&mut ours, || our_chains(&mut queue, &mem))?;
        time(&mut theirs, || Ok(run_virtio_queue(&mut their_queue, &their_mem)?))?;
    }
    let idx = mem.load::<Le16>(GuestAddress(used + 2), Ordering::Acquire)?.to_native();
    ensure((queue.next_used(), their_queue.next_used()) == (idx, idx), "not all were used")?;
    println!("{:44} {ours:9.2} ns {theirs:9.2} ns  {:.2} times (asked: 4)", "pop, walk, add_used", theirs / ours);
    Ok(())
}

#[inline(never)]
fn our_chains(queue: &mut Queue, mem: &GuestMemoryMmap) -> Result<()> {
    while let Some(chain) = queue.pop(mem)? {
        for segment in chain.segments() {
            black_box((segment.addr, segment.len));
        }
        let head = chain.head();
        queue.add_used(mem, head, 0)?;
    }
    Ok(())
}

/// Random reads from a file that is in the page cache, each into `pieces` pieces of memory.
fn reads(pieces: u32) -> Result<()> {
    let file = tempfile::tempfile()?;
    file.set_len(FILE)?;
    file.write_all_at(&vec![0xa5; usize::try_from(FILE)?], 0)?;
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    let disk = Block::new(file.try_clone()?, BlockOptions { read_only: true, ..BlockOptions::default() })?;
    // With tables, as drivers do: 64 requests of 18 descriptors do not fit into the queue.
    let config = QueueConfig::contiguous(IoAddress(QUEUE), SIZE)?.with_features(disk.features());
    let (mut driver, mut queue) = (DriverQueue::new(&mem, config)?, Queue::new(config)?);
    let mut host = vec![0; usize::from(BATCH) * 2 * READ as usize];

    let [mut ours, mut theirs] = [f64::MAX; 2];
    let mut seed = 1;
    for _ in 0..ROUNDS {
        // Different ones for each, as the processor's caches have what was just read.
        let [sectors, others] = [(); 2].map(|()| sectors(&mut seed));
        for (&sector, number) in sectors.iter().zip(0_u64..) {
            offer(&mem, &mut driver, sector, number, pieces)?;
        }
        driver.publish(&mem)?;
        time(&mut ours, || {
            while disk.process_queue(&mut queue, &mem)?.more {}
            Ok(())
        })?;
        for _ in &sectors {
            let used = driver.pop_used(&mem)?.ok_or("a request was not answered")?;
            ensure(used.len == READ + 1, "a request has failed")?;
        }
        time(&mut theirs, || preadv(&file, &others, &mut host, pieces))?;
    }
    let row = format!("a read of 4 KiB into {pieces} pieces; preadv(2)");
    println!("{row:44} {ours:9.2} ns {theirs:9.2} ns  {:.2} times (asked: 1.3 at most)", ours / theirs);
    Ok(())
}

/// Where a batch of reads begins.
fn sectors(seed: &mut u64) -> Vec<u64> {
    (0..BATCH).map(|_| next(seed) % (FILE / u64::from(READ)) * u64::from(READ) / 512).collect()
}

/// Places a request into the queue. Its pieces of data do not follow each other.
fn offer(mem: &GuestMemoryMmap, driver: &mut DriverQueue, sector: u64, number: u64, pieces: u32) -> Result<()> {
    let segment = |addr, len| Segment { addr: IoAddress(addr), len };
    let (control, data) = (CONTROL + number * 0x400, DATA + number * 2 * u64::from(READ));
    mem.write_obj(RequestHeader::new(T_IN, sector), GuestAddress(control))?;
    let piece = READ / pieces;
    let places = (0..pieces).map(|piece_number| segment(data + u64::from(piece_number * 2 * piece), piece));
    let writable: Vec<_> = places.chain([segment(control + 0x10, 1)]).collect();
    driver.add_indirect(mem, IoAddress(control + 0x100), &[segment(control, 16)], &writable)?;
    Ok(())
}

/// The same reads, into memory of the same shape.
#[inline(never)]
fn preadv(file: &File, sectors: &[u64], host: &mut [u8], pieces: u32) -> Result<()> {
    let piece = READ as usize / pieces as usize;
    for (&sector, data) in sectors.iter().zip(host.chunks_exact_mut(2 * READ as usize)) {
        let mut buffers = [const { None }; 16];
        for (buffer, chunk) in buffers.iter_mut().zip(data.chunks_mut(2 * piece)).take(pieces as usize) {
            let (used, _) = chunk.split_at_mut(piece);
            *buffer = Some(used);
        }
        let mut buffers = buffers.map(|buffer| IoSliceMut::new(buffer.unwrap_or_default()));
        let (buffers, _) = buffers.split_at_mut(pieces as usize);
        let read = rustix::io::preadv(file, buffers, sector * 512)?;
        ensure(read == READ as usize, "the file is shorter")?;
    }
    Ok(())
}
