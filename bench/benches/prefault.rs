//! Prefault of 4 GiB by one thread and by two, in one process.
//!
//! ```console
//! cargo bench -p bench --bench prefault [-- GIB]
//! ```
//!
//! Rounds of either take turns, and the shortest of each counts. Nothing fails here for being slow. It needs the memory
//! that it makes, and two processors.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use memory_model::mmap::{HugePages, Prefault};
use memory_model::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let gib = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(4_usize);
    println!("prefault of {gib} GiB, the shortest of {ROUNDS} rounds");
    for (pages, name) in [(HugePages::Never, "small pages"), (HugePages::Transparent, "transparent huge pages")] {
        let [one, two] = measure(gib << 30, pages)?;
        let ratio = one.as_secs_f64() / two.as_secs_f64();
        println!("{name}: 1 thread {one:.1?}, 2 threads {two:.1?}: {ratio:.2} times as fast (asked: 1.3)");
    }
    Ok(())
}

/// The shortest time that one thread needs, and that two need.
fn measure(size: usize, pages: HugePages) -> Result<[Duration; 2], Box<dyn Error>> {
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (shortest, threads) in shortest.iter_mut().zip([1, 2]) {
            let mapping = MmapRegion::builder(size).huge_pages(pages).build()?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(0))?;
            let mem = GuestMemoryMmap::from_regions(vec![region])?;
            let threads = NonZeroUsize::new(threads).ok_or("no thread")?;
            let start = Instant::now();
            mem.prefault(GuestAddress(0), size as u64, Prefault::Parallel { threads }, |_| ControlFlow::Continue(()))?;
            *shortest = start.elapsed().min(*shortest);
        }
    }
    Ok(shortest)
}
