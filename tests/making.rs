//! Memory that is made as its builder was told: what the kernel says, whichever step of it fails.
//!
//! | module       | what it shows                                                                    |
//! |--------------|----------------------------------------------------------------------------------|
//! | [`advice`]   | core dumps, children, merging, reservation, protection                           |
//! | [`backing`]  | memfds, their names and seals; files; shared and private                         |
//! | [`borrowed`] | mappings of somebody else                                                        |
//! | [`checks`]   | what is refused before the kernel is asked                                       |
//! | [`filtered`] | each system call made to fail, by a seccomp filter                               |
//! | [`hugetlb`]  | pages of the hugetlb pool                                                        |
//! | [`limited`]  | limits of the process, and files that cannot be mapped                           |
//! | [`locks`]    | pages that stay in memory                                                        |
//! | [`numa`]     | the nodes that pages come from                                                   |
//! | [`pages`]    | transparent huge pages, and the order of the steps                               |
//! | [`place`]    | alignment, guard pages, and nothing else                                         |
//! | [`prefault`] | pages made beforehand; progress, cancellation, threads                           |
//!
//! What is mapped and open is counted in child processes, where nothing else goes on: this test once more.

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "making/advice.rs"]
mod advice;
#[path = "discard/kernel.rs"]
mod areas;
#[path = "making/backing.rs"]
mod backing;
#[path = "making/borrowed.rs"]
mod borrowed;
#[path = "making/checks.rs"]
mod checks;
#[path = "making/child.rs"]
mod child;
#[cfg(target_pointer_width = "64")]
#[path = "making/filtered.rs"]
mod filtered;
#[path = "making/hugetlb.rs"]
mod hugetlb;
#[path = "making/kernel.rs"]
mod kernel;
#[path = "making/limited.rs"]
mod limited;
#[path = "making/locks.rs"]
mod locks;
#[path = "making/numa.rs"]
mod numa;
#[path = "making/pages.rs"]
mod pages;
#[path = "making/place.rs"]
mod place;
#[path = "making/prefault.rs"]
mod prefault;
#[path = "making/raw.rs"]
mod raw;
#[cfg(target_pointer_width = "64")]
#[path = "making/seccomp.rs"]
mod seccomp;

use memory_model::mmap::{MmapRegion, MmapRegionBuilder};
use memory_model::{Bytes, FileOffset, VolatileMemory};

/// The host's page size.
fn page() -> usize {
    rustix::param::page_size()
}

/// Whether the kernel's books are about this process, and not about an emulator; says so if not.
fn has_kernel() -> bool {
    let emulated = std::env::var_os("CROSS_RUNNER").is_some();
    if emulated {
        memory_model_test_support::skip!("emulated: madvise has no effect");
    }
    !emulated
}

/// Where a mapping begins.
fn start(region: &MmapRegion) -> usize {
    region.as_volatile_slice().as_ptr().addr()
}

/// All bytes of a mapping.
fn contents(region: &MmapRegion) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.as_volatile_slice().copy_to(&mut bytes).unwrap();
    bytes
}

/// Whether what each page of a mapping begins with is zero, and what the last ends with.
fn is_zero(region: &MmapRegion) -> bool {
    let zero = |offset| region.as_volatile_slice().read_obj::<[u8; 64]>(offset).unwrap() == [0; 64];
    (0..region.len() - 64).step_by(page()).all(zero) && zero(region.len() - 64)
}

/// What files have in these tests.
fn files_bytes(len: usize) -> Vec<u8> {
    let pattern: Vec<u8> = (0..251).map(|byte| byte | 1).collect();
    let mut bytes = pattern.repeat(len / 251 + 1);
    bytes.truncate(len);
    bytes
}

/// A file with contents of its own.
fn file(len: usize) -> FileOffset {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &files_bytes(len), 0).unwrap();
    file.sync_all().unwrap();
    FileOffset::new(file, 0)
}

/// A way of mapping memory.
#[derive(Clone, Copy)]
struct Backing {
    name: &'static str,
    shared: bool,
    /// Whether it begins as a file's bytes.
    file: bool,
    describe: fn(MmapRegionBuilder, usize) -> MmapRegionBuilder,
}

impl Backing {
    fn builder(&self, size: usize) -> MmapRegionBuilder {
        (self.describe)(MmapRegion::builder(size), size)
    }
}

const BACKINGS: [Backing; 6] = [
    Backing { name: "anonymous", shared: false, file: false, describe: |mapping, _| mapping },
    Backing { name: "anonymous, shared", shared: true, file: false, describe: |mapping, _| mapping.shared() },
    Backing { name: "memfd", shared: true, file: false, describe: |mapping, _| mapping.memfd("making") },
    Backing {
        name: "memfd, private",
        shared: false,
        file: false,
        describe: |mapping, _| mapping.memfd("making").private(),
    },
    Backing { name: "file", shared: true, file: true, describe: |mapping, size| mapping.file(file(size)) },
    Backing {
        name: "file, private",
        shared: false,
        file: true,
        describe: |mapping, size| mapping.file(file(size)).private(),
    },
];
