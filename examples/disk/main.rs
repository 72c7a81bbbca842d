//! A guest and its disk in one process, who meet in guest memory only.
//!
//! ```console
//! cargo run --release --example disk -- [--write] [IMAGE]
//! ```
//!
//! A device thread serves IMAGE by virtio-blk. The driver, as a guest does, builds rings and buffers in guest memory of
//! several regions and touches nothing else. It reads the whole image in requests of mixed sizes, many of which cross from
//! one region to the next, and compares the SHA-256 of what it read with the file's. With `--write` it also writes every
//! sector, reads it back, and restores it: an interrupted run may leave the last few sectors inverted.
//!
//! Without IMAGE the disk is this program's own file, read-only, with its last partial sector filled up with zeros.
//!
//! Exit status: 0 after PASS, 1 after FAIL, 2 if the image cannot be used.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod guest;
mod image;
mod requests;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use memory_model::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, IoAddress, IoMemory};
use memory_model_virtio::blk::{Block, BlockOptions};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, QueueError};

use guest::Guest;
use image::Image;

/// Two adjacent regions, and one past a hole: start and length in bytes.
const LAYOUT: [(GuestAddress, usize); 3] =
    [(GuestAddress(0), 4 << 20), (GuestAddress(4 << 20), 8 << 20), (GuestAddress(1 << 32), 8 << 20)];

fn main() -> ExitCode {
    let image = match Image::from_args(std::env::args_os().skip(1)) {
        Ok(image) => image,
        Err(message) => {
            eprintln!("disk: {message}");
            return ExitCode::from(2);
        }
    };
    match run(&image) {
        Ok(true) => {
            println!("PASS");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("FAIL: what the driver read is not what the file holds");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("FAIL: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs device and driver, prints the report, and answers whether both hold the same bytes.
fn run(image: &Image) -> Result<bool, Box<dyn Error>> {
    let mem = GuestMemoryMmap::from_ranges(&LAYOUT)?;
    print_map(&mem);
    println!("image: {image}");

    let config = QueueConfig {
        event_idx: true,
        indirect: true,
        ..QueueConfig::contiguous(IoAddress(0x1000), requests::QUEUE_SIZE)?
    };
    let driver = DriverQueue::new(&mem, config)?;
    let queue = Queue::new(config)?;
    let options = BlockOptions { read_only: !image.writes, ..BlockOptions::default() };
    let mut block = Block::new(image.file.try_clone()?, options)?;
    block.set_features(block.features());
    let (kick, kicks) = mpsc::channel();
    let (interrupt, interrupts) = mpsc::channel();

    let (digest, stats, elapsed) = thread::scope(|scope| {
        let (block, mem) = (&block, &mem);
        let device = scope.spawn(move || serve(block, queue, mem, kicks, &interrupt));
        let mut guest = Guest::new(mem, driver, kick, interrupts, boundaries(mem));
        let start = Instant::now();
        let passes = 1 + 3 * u64::from(image.writes);
        let progress = progress_bar(passes * image.sectors * 512);
        let outcome = drive(&mut guest, image, &progress);
        progress.finish_and_clear();
        let (elapsed, stats) = (start.elapsed(), guest.stats());
        drop(guest); // the device's thread ends with the driver's half
        let served = device.join().or(Err("the device's thread panicked"))?;
        // Of two errors the device's is the cause: the driver notices only that nobody answers.
        served?;
        Ok::<_, Box<dyn Error>>((outcome?, stats, elapsed))
    })?;

    println!("{stats}");
    let per_second = |count: u64| u128::from(count) * 1_000_000 / elapsed.as_micros().max(1);
    let (mib, requests) = (per_second(stats.bytes) >> 20, per_second(stats.requests));
    println!("rate: {mib} MiB/s, {requests} requests/s in {elapsed:.2?}, hashing included");
    let expected = image.digest()?;
    println!("SHA-256 of the driver's reads: {digest}");
    println!("SHA-256 of the file:           {expected}");
    Ok(digest == expected)
}

/// The guest's program.
fn drive<I: IoMemory>(
    guest: &mut Guest<'_, I>,
    image: &Image,
    progress: &ProgressBar,
) -> Result<String, Box<dyn Error>> {
    let digest = guest.read_all(image.sectors, |bytes| progress.inc(bytes))?;
    if image.writes {
        guest.rewrite_all(image.sectors, |bytes| progress.inc(bytes))?;
        let again = guest.read_all(image.sectors, |_| ())?;
        if again != digest {
            return Err(format!("after restoring every sector the disk reads as {again}").into());
        }
    }
    Ok(digest)
}

/// The device's thread: serves the queue whenever it is kicked, until the driver is gone.
fn serve<I: IoMemory>(
    block: &Block,
    mut queue: Queue,
    mem: &I,
    kicks: Receiver<()>,
    interrupt: &Sender<()>,
) -> Result<(), QueueError> {
    for () in kicks {
        loop {
            let processed = block.process_queue(&mut queue, mem)?;
            if processed.notify && interrupt.send(()).is_err() {
                return Ok(());
            }
            if !processed.more {
                break;
            }
        }
    }
    Ok(())
}

/// The addresses where one region ends and the next begins.
fn boundaries(mem: &impl GuestMemory) -> Vec<u64> {
    let starts = mem.regions().map(GuestMemoryRegion::start_addr);
    starts.filter(|start| start.checked_sub(1).is_some_and(|below| mem.address_in_range(below))).map(|s| s.0).collect()
}

fn print_map(mem: &impl GuestMemory) {
    println!("guest memory: {} regions, {} MiB", mem.num_regions(), mem.total_len() >> 20);
    for region in mem.regions() {
        let (start, last) = (region.start_addr(), region.last_addr());
        println!("  {:#012x}..={:#012x} {:>4} MiB", start.0, last.0, region.len() >> 20);
    }
}

/// A bar on a terminal, and nothing in a pipe.
fn progress_bar(bytes: u64) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
