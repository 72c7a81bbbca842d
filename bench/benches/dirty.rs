//! Dirty tracking: what a tracked write costs, and what a harvest does, beside vm-memory where that has the like.
//!
//! ```console
//! cargo bench -p bench --bench dirty
//! ```
//!
//! Rounds of what is compared take turns, and the shortest of each counts. Nothing fails here for being slow. The harvest is
//! of a guest of 12 TiB, whose bitmap needs up to 2 GiB here.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::cast_precision_loss, reason = "times, as people read them")]

use std::error::Error;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use memory_model::dirty::DirtyBitmap;
use memory_model::{Address, Bytes, GuestAddress, GuestMemoryMmap};
use vm_memory::Bytes as _;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The size of a region, and of what a thread writes to.
const REGION: u64 = 1 << 20;
const PAGE: u64 = 4096;
const ROUNDS: usize = 200;

fn main() -> Result<()> {
    println!("{:44} {:>12} {:>12}  asked", "", "untracked", "tracked");
    for regions in [1, 8, 64, 1024] {
        writes(regions)?;
    }
    slices()?;
    threads()?;
    marks()?;
    harvests()
}

/// A random number after another.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    *seed >> 20
}

fn memory(regions: u64) -> Result<GuestMemoryMmap> {
    let size = usize::try_from(REGION)?;
    let ranges: Vec<_> = (0..regions).map(|number| (GuestAddress(number * REGION), size)).collect();
    Ok(GuestMemoryMmap::from_ranges(&ranges)?)
}

/// The time of `work` for each of `count`, in ns, if it is shorter than `shortest`.
fn time(shortest: &mut f64, count: usize, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9 / count as f64);
}

fn row(what: &str, untracked: f64, tracked: f64, asked: &str) {
    println!("{what:44} {untracked:9.2} ns {tracked:9.2} ns  {asked}");
}

fn writes(regions: u64) -> Result<()> {
    let (never, mem) = (memory(regions)?, memory(regions)?);
    let mut seed = regions;
    let places: Vec<_> = (0..2048).map(|_| GuestAddress(next(&mut seed) % (regions * REGION) / 8 * 8)).collect();
    // Each page once, somewhere.
    let pages = (regions * REGION / PAGE).min(1024);
    let page = |number| number * (regions * REGION / pages);
    let once: Vec<_> = (0..pages).map(|number| GuestAddress(page(number) + next(&mut seed) % PAGE / 8 * 8)).collect();
    let each = |mem: &GuestMemoryMmap| {
        for &at in &once {
            black_box(mem.write_obj(black_box(1_u64), at).is_ok());
        }
    };
    let [mut untracked, mut off, mut dirty, mut each_untracked, mut clean] = [f64::MAX; 5];
    let write = |mem: &GuestMemoryMmap| {
        for &at in &places {
            black_box(mem.write_obj(black_box(1_u64), at).is_ok());
        }
    };
    mem.start_tracking(PAGE)?.stop_tracking();
    for _ in 0..ROUNDS {
        // Each is done once before, so that its memory is in the cache as far as it fits.
        write(&never);
        time(&mut untracked, places.len(), || write(&never));
        write(&mem);
        time(&mut off, places.len(), || write(&mem));
        let log = mem.start_tracking(PAGE)?;
        each(&never);
        time(&mut each_untracked, once.len(), || each(&never));
        each(&mem);
        log.harvest().commit();
        time(&mut clean, once.len(), || each(&mem));
        write(&mem);
        time(&mut dirty, places.len(), || write(&mem));
        log.stop_tracking();
    }
    let limit = if regions > 64 { 3 } else { 2 };
    row(&format!("write_obj u64, {regions} regions, tracked once, off"), untracked, off, "+ 0.5 ns");
    row(&format!("write_obj u64, {regions} regions, dirty page"), untracked, dirty, &format!("+ {limit} ns"));
    row(&format!("write_obj u64, {regions} regions, clean page"), each_untracked, clean, "+ 8 ns");
    if regions == 1 {
        peer(&places)?;
    }
    Ok(())
}

/// The same writes through vm-memory.
fn peer(places: &[GuestAddress]) -> Result<()> {
    let range = [(vm_memory::GuestAddress(0), usize::try_from(REGION)?)];
    let untracked = vm_memory::GuestMemoryMmap::<()>::from_ranges(&range)?;
    let tracked = vm_memory::GuestMemoryMmap::<AtomicBitmap>::from_ranges(&range)?;
    let (mut without, mut with) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        time(&mut without, places.len(), || {
            for at in places {
                black_box(untracked.write_obj(black_box(1_u64), vm_memory::GuestAddress(at.0)).is_ok());
            }
        });
        time(&mut with, places.len(), || {
            for at in places {
                black_box(tracked.write_obj(black_box(1_u64), vm_memory::GuestAddress(at.0)).is_ok());
            }
        });
    }
    row("  vm-memory, AtomicBitmap, dirty page", without, with, "");
    Ok(())
}

fn slices() -> Result<()> {
    let (never, mem) = (memory(16)?, memory(16)?);
    let log = mem.start_tracking(PAGE)?;
    let buf = vec![7; usize::try_from(PAGE)?];
    let [mut untracked, mut tracked] = [f64::MAX; 2];
    let write = |mem: &GuestMemoryMmap| {
        for page in 0..1024 {
            black_box(mem.write_slice(black_box(&buf), GuestAddress(page * PAGE)).is_ok());
        }
    };
    for _ in 0..ROUNDS {
        time(&mut untracked, 1024, || write(&never));
        time(&mut tracked, 1024, || write(&mem));
    }
    row("write_slice 4 KiB, dirty pages", untracked, tracked, &format!("1.1 x: {:.2} x", tracked / untracked));
    log.stop_tracking();
    Ok(())
}

/// Two threads, each in its region.
fn threads() -> Result<()> {
    let (never, mem) = (memory(2)?, memory(2)?);
    let log = mem.start_tracking(PAGE)?;
    let mut seed = 2;
    let places: Vec<_> = (0..2048).map(|_| GuestAddress(next(&mut seed) % REGION / 8 * 8)).collect();
    let work = |mem: &GuestMemoryMmap| {
        thread::scope(|scope| {
            for number in 0..2 {
                let places = &places;
                scope.spawn(move || {
                    for &at in places.iter().cycle().take(1_000_000) {
                        black_box(mem.write_obj(black_box(1_u64), at.unchecked_add(number * REGION)).is_ok());
                    }
                });
            }
        });
    };
    let [mut untracked, mut tracked] = [f64::MAX; 2];
    for _ in 0..20 {
        time(&mut untracked, 1_000_000, || work(&never));
        time(&mut tracked, 1_000_000, || work(&mem));
    }
    row("2 threads, write_obj u64", untracked, tracked, &format!("1.15 x: {:.2} x", tracked / untracked));
    log.stop_tracking();
    Ok(())
}

fn marks() -> Result<()> {
    const LEN: u64 = 2 << 20;
    let bitmap = DirtyBitmap::new(1 << 30, PAGE)?;
    let peer = <AtomicBitmap as vm_memory::bitmap::NewBitmap>::with_len(1 << 30);
    let [mut clean, mut dirty, mut theirs] = [f64::MAX; 3];
    let places = || (0..256).map(|number| number * 2 * LEN);
    for _ in 0..ROUNDS {
        bitmap.harvest().commit();
        time(&mut clean, 256, || places().for_each(|at| bitmap.mark(black_box(at), black_box(LEN))));
        time(&mut dirty, 256, || places().for_each(|at| bitmap.mark(black_box(at), black_box(LEN))));
        let len = usize::try_from(LEN)?;
        time(&mut theirs, 256, || {
            for number in 0..256 {
                peer.mark_dirty(black_box(number * 2 * len), black_box(len));
            }
        });
    }
    println!("mark 2 MiB, clean {clean:.1} ns, dirty {dirty:.1} ns; vm-memory {theirs:.0} ns (asked: 25)");
    Ok(())
}

fn harvests() -> Result<()> {
    const LEN: u64 = 12 << 40;
    let bitmap = DirtyBitmap::new(LEN, PAGE)?;
    for (share, asked) in [(0, "0.5 ms"), (1000, "200 ms"), (100, "800 ms")] {
        let mut shortest = Duration::MAX;
        for round in 0..5 {
            let mut seed = round;
            for _ in 0..(LEN / PAGE).checked_div(share).unwrap_or(0) {
                bitmap.mark(next(&mut seed) % (LEN / PAGE) * PAGE, 1);
            }
            let start = Instant::now();
            let harvest = bitmap.harvest();
            shortest = shortest.min(start.elapsed());
            harvest.commit();
        }
        let what = if share == 0 { "nothing dirty".into() } else { format!("1 page of {share} dirty") };
        println!("harvest of 12 TiB, {what}: {shortest:.1?} (asked: {asked})");
    }
    Ok(())
}
