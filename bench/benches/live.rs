//! A map that changes: what a look costs, and a change, and what one does to the other; beside vm-memory.
//!
//! ```console
//! cargo bench -p bench --bench live
//! ```
//!
//! Rounds of what is compared take turns, and the shortest of each counts. Nothing fails here for being slow.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::cast_precision_loss, reason = "times, as people read them")]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memory_model::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};
use vm_memory::{Bytes as _, GuestAddressSpace};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The size of a region, and their distance.
const REGION: u64 = 0x1_0000;
const STRIDE: u64 = 0x10_0000;
const ROUNDS: usize = 200;

fn main() -> Result<()> {
    println!("{:44} {:>12} {:>12}  asked", "read_obj u64", "plain", "and a look");
    for regions in [1, 8, 64, 1024] {
        looks(regions)?;
    }
    peer()?;
    for readers in [0, 1, 2] {
        changes(readers)?;
    }
    Ok(())
}

/// A random number after another.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    *seed >> 20
}

fn memory(regions: u64) -> Result<GuestMemoryMmap> {
    let size = usize::try_from(REGION)?;
    let ranges: Vec<_> = (0..regions).map(|number| (GuestAddress(number * STRIDE), size)).collect();
    Ok(GuestMemoryMmap::from_ranges(&ranges)?)
}

fn places(regions: u64) -> Vec<GuestAddress> {
    let mut seed = regions;
    let mut place = || next(&mut seed) % regions * STRIDE + next(&mut seed) % REGION / 8 * 8;
    (0..2048).map(|_| GuestAddress(place())).collect()
}

/// The time of `work` for each of `count`, in ns, if it is shorter than `shortest`.
fn time(shortest: &mut f64, count: usize, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9 / count as f64);
}

fn looks(regions: u64) -> Result<()> {
    let mem = memory(regions)?;
    let map = GuestMemoryAtomic::new(mem.clone());
    let mut reader = map.reader();
    let places = places(regions);
    let [mut plain, mut look, mut batch, mut snapshot] = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        // Which memory it is, the compiler does not know: nothing is looked up once for all.
        time(&mut plain, places.len(), || {
            for &at in &places {
                black_box(black_box(&mem).read_obj::<u64>(at).is_ok());
            }
        });
        time(&mut look, places.len(), || {
            for &at in &places {
                black_box(reader.read().read_obj::<u64>(at).is_ok());
            }
        });
        time(&mut batch, places.len(), || {
            for places in places.chunks(16) {
                let mem = reader.read();
                for &at in places {
                    black_box(black_box(&*mem).read_obj::<u64>(at).is_ok());
                }
            }
        });
        time(&mut snapshot, places.len(), || {
            for &at in &places {
                black_box(map.memory().read_obj::<u64>(at).is_ok());
            }
        });
    }
    println!("{:44} {plain:9.2} ns {look:9.2} ns  + 1 ns", format!("reader, {regions} regions"));
    println!("{:44} {plain:9.2} ns {batch:9.2} ns", "  a look for 16 of them");
    println!("{:44} {plain:9.2} ns {snapshot:9.2} ns", "  a snapshot for each");
    Ok(())
}

/// The same through vm-memory.
fn peer() -> Result<()> {
    let mem = vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(vm_memory::GuestAddress(0), usize::try_from(REGION)?)])?;
    let map = vm_memory::GuestMemoryAtomic::new(mem.clone());
    let places = places(1);
    let [mut plain, mut look] = [f64::MAX; 2];
    for _ in 0..ROUNDS {
        time(&mut plain, places.len(), || {
            for at in &places {
                black_box(mem.read_obj::<u64>(vm_memory::GuestAddress(at.0)).is_ok());
            }
        });
        time(&mut look, places.len(), || {
            for at in &places {
                black_box(map.memory().read_obj::<u64>(vm_memory::GuestAddress(at.0)).is_ok());
            }
        });
    }
    println!("{:44} {plain:9.2} ns {look:9.2} ns", "  vm-memory, GuestMemoryAtomic, 1 region");
    Ok(())
}

/// Changes of a map of 1,024 regions, while others read, a look for each.
fn changes(readers: usize) -> Result<()> {
    let mem = memory(1024)?;
    let map = GuestMemoryAtomic::new(mem);
    let new = |at| -> Result<_> {
        Ok(Arc::new(GuestRegionMmap::new(MmapRegion::new(usize::try_from(REGION)?)?, GuestAddress(at))?))
    };
    let dimms = [new(512 * STRIDE + REGION)?, new(1024 * STRIDE)?];
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..readers {
            let (mut reader, places) = (map.reader(), places(1024 - number as u64));
            let (stop, reads) = (&stop, &reads);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for &at in &places {
                        black_box(reader.read().read_obj::<u64>(at).is_ok());
                    }
                    reads.fetch_add(places.len() as u64, Ordering::Relaxed);
                }
            });
        }
        let rate = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let (start, before) = (Instant::now(), reads.load(Ordering::Relaxed));
            while start.elapsed() < Duration::from_millis(500) {
                work()?;
            }
            Ok((reads.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64() / 1e6)
        };
        let measured = (|| {
            let quiet = rate(&mut || {
                thread::sleep(Duration::from_millis(1));
                Ok(())
            })?;
            // After a removal, after another insertion; and both away, at once.
            let mut times = [(); 3].map(|()| Vec::new());
            let busy = rate(&mut || {
                for (dimm, times) in dimms.iter().zip(&mut times) {
                    let start = Instant::now();
                    map.insert_region(Arc::clone(dimm))?;
                    times.push(start.elapsed());
                }
                let start = Instant::now();
                map.update(|mem| {
                    dimms.iter().try_fold(mem.clone(), |mem, dimm| {
                        mem.remove_region(dimm.start_addr(), dimm.len()).map(|(mem, _)| mem)
                    })
                })?;
                times[2].push(start.elapsed());
                thread::sleep(Duration::from_millis(1));
                Ok(())
            })?;
            println!("1,024 regions and {readers} readers: {quiet:.0} M reads/s, while the map changes {busy:.0} M");
            report(times);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        measured
    })
}

/// The shortest and the median of each.
fn report(times: [Vec<Duration>; 3]) {
    let asked = ["asked: 50 µs", "asked: 50 µs", "waits for readers"];
    for ((what, asked), mut times) in ["insert", "insert another", "remove both"].iter().zip(asked).zip(times) {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        println!("  {what:42} {:9.1?}, usually {:.1?} ({asked})", at(0), at(50));
    }
}
