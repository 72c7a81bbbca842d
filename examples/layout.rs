//! A guest's memory from the map to the pages: laid out, drawn, made, prefaulted and given back.
//!
//! ```console
//! cargo run --release --example layout -- [PICTURE.svg]
//! ```
//!
//! An x86-64 guest of 16 GiB on two NUMA nodes, with firmware and devices. Its map is printed, and drawn into PICTURE.svg
//! (`guest-memory.svg` in the directory for temporary files, if none is named). Then the memory is made, of which the host
//! gives nothing yet; 1 GiB of it is prefaulted by two threads; half of that is given back, as a balloon would. What the
//! host has given is told by its own books: `/proc/self/smaps`, or mincore(2) where there is none.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use memory_model::layout::{GuestLayout, Platform, Zone};
use memory_model::mmap::{HugePages, Prefault, Usage};
use memory_model::{GuestAddress, GuestMemoryMmap, RegionKind};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What is prefaulted: above 4 GiB, in `node0`.
const PREFAULTED: (GuestAddress, u64) = (GuestAddress(4 * GIB), GIB);

fn main() -> Result<(), Box<dyn Error>> {
    let picture = std::env::args_os().nth(1).map(PathBuf::from);
    let picture = picture.unwrap_or_else(|| std::env::temp_dir().join("guest-memory.svg"));

    let layout = layout()?;
    println!("{layout}");
    std::fs::write(&picture, layout.to_svg())?;
    println!("drawn: {}\n", picture.display());

    let mem = GuestMemoryMmap::builder(&layout)
        .every_zone(|mapping| mapping.huge_pages(HugePages::Transparent))
        .zone("node1", |mapping| mapping.memfd("node1"))
        .build()?;
    println!("{mem}");
    report("made", &mem)?;

    let (addr, len) = PREFAULTED;
    let threads = NonZeroUsize::MIN.saturating_add(1);
    let style = ProgressStyle::with_template("prefault [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}")?;
    let bar = ProgressBar::new(len).with_style(style.progress_chars("=> "));
    let start = Instant::now();
    mem.prefault(addr, len, Prefault::Parallel { threads }, |progress| {
        bar.set_position(progress.done);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    println!("{} MiB prefaulted by {threads} threads in {:.1?}", len / MIB, start.elapsed());
    let before = report("prefaulted", &mem)?;

    let given_back = mem.discard(addr, len / 2)?;
    println!("{} MiB given back", given_back / MIB);
    let after = report("given back", &mem)?;
    println!("the host says: {} MiB fewer are resident", before.resident().saturating_sub(after.resident()) / MIB);
    Ok(())
}

/// 8 GiB on either node, and what a PC has besides.
fn layout() -> Result<GuestLayout, Box<dyn Error>> {
    let mut layout = GuestLayout::builder(Platform::X86_64)
        .zone(Zone::new("node0", 8 * GIB).node(0).alignment(2 * MIB))
        .zone(Zone::new("node1", 8 * GIB).node(1).alignment(2 * MIB))
        .zone(Zone::new("firmware", 4 * MIB).kind(RegionKind::Rom).at(GuestAddress(4 * GIB - 4 * MIB)))
        .reserve("ACPI tables", GuestAddress(3 * GIB - MIB), MIB)
        .build()?;
    // Where an operating system of 32 bits finds them, and where there is room for all.
    let (low, high) = (GuestAddress(0)..=GuestAddress(4 * GIB - 1), GuestAddress(4 * GIB)..=GuestAddress(u64::MAX));
    layout.allocate("PCI configuration", 256 * MIB, 256 * MIB, low.clone())?;
    layout.allocate("virtio-net registers", 0x4000, 0x4000, low.clone())?;
    layout.allocate("virtio-blk registers", 0x4000, 0x4000, low)?;
    layout.allocate("frame buffer", 256 * MIB, 256 * MIB, high)?;
    Ok(layout)
}

/// Prints what the host has given to the memory, and answers it.
fn report(when: &str, mem: &GuestMemoryMmap) -> Result<Usage, Box<dyn Error>> {
    let usage: Usage = mem.usage()?.into_iter().sum();
    let huge = usage.huge().map_or_else(|| "unknown".to_string(), |huge| format!("{} MiB", huge / MIB));
    println!("{when}: {} MiB resident, of which in huge pages: {huge} ({:?})", usage.resident() / MIB, usage.source());
    Ok(usage)
}
