//! The guest memories: the same 4 MiB file, mapped by each contender.
//!
//! As all of them read and write the same pages of the same file, none is luckier than another with the caches, and
//! what one has done can be checked through another.

use std::fs::File;
use std::sync::Arc;

use contenders::{Random, memory_file};
use memory_model::GuestMemoryMmap;

use crate::ours::MemoryModel;
use crate::raw::Raw;

/// Bytes of memory, in any number of regions.
const TOTAL: u64 = 4 << 20;

/// Where a guest address begins, so that no contender gains from address 0.
const BASE: u64 = 1 << 20;

/// Where regions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A hole as large as a region after each of them.
    Apart,
    /// Each begins where the one before ends.
    Adjacent,
    /// Holes from a page to a terabyte, at random.
    Scattered,
}

/// All memories, and the raw pointer to the same bytes.
pub(crate) struct World {
    pub(crate) raw: Raw,
    file: Arc<File>,
}

/// The memories of one layout.
pub(crate) struct Place {
    pub(crate) regions: usize,
    pub(crate) layout: Layout,
    pub(crate) memory_model: MemoryModel,
    pub(crate) vm_memory: vm_memory::GuestMemoryMmap,
    /// Where each region begins, in guest addresses.
    starts: Vec<u64>,
    /// The size of each region.
    size: u64,
}

impl World {
    /// Memory that holds noise.
    pub(crate) fn new() -> Self {
        let file = memory_file("memory", bytes(TOTAL));
        Self { raw: Raw::new(&file, bytes(TOTAL)), file: Arc::new(file) }
    }

    /// The memory, as so many regions.
    pub(crate) fn place(&self, regions: usize, layout: Layout) -> Place {
        let size = TOTAL / regions as u64;
        let mut random = Random::new(regions as u64);
        let mut start = BASE;
        let mut starts = Vec::with_capacity(regions);
        for _ in 0..regions {
            starts.push(start);
            start += size
                + match layout {
                    Layout::Apart => size,
                    Layout::Adjacent => 0,
                    // 4 KiB << 28 is 1 TiB.
                    Layout::Scattered => 0x1000 << random.below(29),
                };
        }
        // Guest address, length and position in the file of each region.
        let pieces = || starts.iter().zip(0..).map(|(&start, index)| (start, bytes(size), index * size));
        let ours = pieces().map(|(start, len, offset)| {
            let file = memory_model::guest_memory::FileOffset::from_arc(Arc::clone(&self.file), offset);
            (memory_model::GuestAddress(start), len, Some(file))
        });
        let theirs = pieces().map(|(start, len, offset)| {
            let file = vm_memory::FileOffset::from_arc(Arc::clone(&self.file), offset);
            (vm_memory::GuestAddress(start), len, Some(file))
        });
        let memory_model = GuestMemoryMmap::from_ranges_with_files(&ours.collect::<Vec<_>>());
        let vm_memory = vm_memory::GuestMemoryMmap::from_ranges_with_files(theirs.collect::<Vec<_>>());
        Place {
            regions,
            layout,
            memory_model: MemoryModel(memory_model.expect("the file can be mapped")),
            vm_memory: vm_memory.expect("the file can be mapped"),
            starts,
            size,
        }
    }
}

impl Place {
    /// The guest address of a position in the file.
    pub(crate) fn guest(&self, offset: u64) -> u64 {
        self.starts[bytes(offset / self.size)] + offset % self.size
    }

    /// The size of each region.
    pub(crate) fn region_size(&self) -> u64 {
        self.size
    }
}

/// Positions for typed accesses, random and spread over all memory: the same for all contenders and layouts.
///
/// Of each page, which with 1,024 regions is a region, one cache line is used, any of them, and of that both halves
/// ([`At`](contenders::At) says why). So every row finds the same 1,024 lines, for which the second-level cache has
/// room enough, and what differs is how they are found. The pages lie side by side for the sake of processors on
/// which it takes longer than an access to find a page that is far from others.
pub(crate) fn spots(count: usize) -> Vec<u64> {
    let mut random = Random::new(1);
    let lines: Vec<u64> = (0..TOTAL / 4096).map(|page| page * 64 + random.below(64)).collect();
    (0..count).map(|_| lines[bytes(random.below(TOTAL / 4096))] * 64 + random.below(2) * 32).collect()
}

/// Positions for slices: multiples of 8 in the first 16 KiB, so that small ones stay in the first-level cache.
pub(crate) fn starts(count: usize) -> Vec<u64> {
    let mut random = Random::new(0);
    (0..count).map(|_| random.below(2048) * 8).collect()
}

/// All sizes here are of this machine's memory.
fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("4 MiB and less")
}
