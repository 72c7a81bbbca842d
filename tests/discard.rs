//! Pages given back to the host, whatever the memory is made of: what the kernel says, and every byte beside them.
//!
//! | module        | what it shows                                                                 |
//! |---------------|-------------------------------------------------------------------------------|
//! | [`backings`]  | each kind of memory: the kernel's accounts, all bytes at and beside the pages  |
//! | [`errors`]    | whatever a guest chooses as a range                                           |
//! | [`holes`]     | a file system that has none                                                   |
//! | [`hugetlb`]   | pages of the hugetlb pool                                                     |
//! | [`policies`]  | advice, NUMA nodes, locks and guard pages are as before                       |
//! | [`private`]   | zeros in place of a private file's bytes, however many pages and threads there are |
//! | [`random`]    | many calls against a model, with what they mark as dirty                      |
//! | [`userfault`] | who supplies pages on demand is told, once for each system call               |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "discard/backings.rs"]
mod backings;
#[path = "discard/errors.rs"]
mod errors;
#[path = "discard/holes.rs"]
mod holes;
#[path = "discard/hugetlb.rs"]
mod hugetlb;
#[path = "discard/kernel.rs"]
mod kernel;
#[path = "marks/mod.rs"]
mod marks;
#[path = "discard/mounts.rs"]
mod mounts;
#[path = "discard/policies.rs"]
mod policies;
#[path = "discard/private.rs"]
mod private;
#[path = "discard/random.rs"]
mod random;
#[path = "discard/userfault.rs"]
mod userfault;

use memory_model::mmap::{Discarded, Error, HugePages, Lock, MmapRegion, MmapRegionBuilder, Step};
use memory_model::{FileOffset, VolatileMemory};
use rustix::io::Errno;

/// The host's page size.
fn page() -> usize {
    rustix::param::page_size()
}

/// Whether madvise reaches the kernel, which an emulator keeps from it; says so if not.
fn has_kernel() -> bool {
    let emulated = std::env::var_os("CROSS_RUNNER").is_some();
    if emulated {
        memory_model_test_support::skip!("emulated: madvise has no effect");
    }
    !emulated
}

/// A way of mapping memory.
struct Backing {
    name: &'static str,
    /// Whether what is discarded reads as the file again, and not as zero.
    is_the_files: bool,
    describe: fn(MmapRegionBuilder) -> MmapRegionBuilder,
}

/// What a file has at an offset.
fn files_byte(offset: usize) -> u8 {
    u8::try_from(offset % 251).unwrap() | 1
}

/// A file with contents of its own.
fn file() -> FileOffset {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<_> = (0..32 * page()).map(files_byte).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    FileOffset::new(file, 0)
}

const BACKINGS: [Backing; 12] = [
    Backing { name: "anonymous, private", is_the_files: false, describe: |mapping| mapping },
    Backing { name: "anonymous, shared", is_the_files: false, describe: MmapRegionBuilder::shared },
    Backing { name: "memfd, shared", is_the_files: false, describe: |mapping| mapping.memfd("discard") },
    Backing { name: "memfd, private", is_the_files: false, describe: |mapping| mapping.memfd("discard").private() },
    Backing { name: "file, shared", is_the_files: false, describe: |mapping| mapping.file(file()) },
    Backing { name: "file, private", is_the_files: false, describe: |mapping| mapping.file(file()).private() },
    Backing {
        name: "file, private, shown again",
        is_the_files: true,
        describe: |mapping| mapping.file(file()).private().discarded(Discarded::File),
    },
    Backing {
        name: "file, private, locked",
        is_the_files: false,
        describe: |mapping| mapping.file(file()).private().lock(Lock::OnFault),
    },
    Backing { name: "private, locked", is_the_files: false, describe: |mapping| mapping.lock(Lock::Now) },
    Backing { name: "private, locked on fault", is_the_files: false, describe: |mapping| mapping.lock(Lock::OnFault) },
    Backing {
        name: "memfd, locked",
        is_the_files: false,
        describe: |mapping| mapping.memfd("discard").lock(Lock::Now),
    },
    Backing {
        name: "anonymous, shared, locked on fault",
        is_the_files: false,
        describe: |mapping| mapping.shared().lock(Lock::OnFault),
    },
];

impl Backing {
    /// A mapping of `pages` pages, up to 32; `None` where the host has none, or may not lock as many.
    fn map(&self, pages: usize) -> Option<MmapRegion> {
        // Of small pages, which are what is counted.
        let mapping = MmapRegion::builder(pages * page()).huge_pages(HugePages::Never);
        match (self.describe)(mapping).build() {
            Ok(region) => Some(region),
            Err(error) => {
                memory_model_test_support::skip!("host limit: {}: {error}", self.name);
                None
            }
        }
    }

    /// Gives back all whole pages of a range; `false` where the file system has no holes.
    #[track_caller]
    fn discard(&self, region: &MmapRegion, offset: usize, len: usize) -> bool {
        match region.discard(offset, len) {
            Ok(given_back) => {
                let whole = (offset + len) / page() * page() - offset.next_multiple_of(page());
                assert_eq!(given_back, whole, "{}: {len:#x} bytes from {offset:#x}", self.name);
                true
            }
            Err(Error::Refused { step: Step::Discard, source, .. })
                if self.name == "file, shared" && Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) =>
            {
                memory_model_test_support::skip!("file system without holes: {}: {source}", self.name);
                false
            }
            Err(error) => panic!("host limit: {}: {error}", self.name),
        }
    }

    /// Whether pages that are given back become mappings of their own.
    fn is_overlaid(&self) -> bool {
        self.name == "memfd, private" || self.name.starts_with("file, private") && !self.is_the_files
    }

    /// What a byte is after it was given back.
    fn after(&self, offset: usize) -> u8 {
        if self.is_the_files { files_byte(offset) } else { 0 }
    }
}

/// All bytes of a mapping.
fn contents(region: &MmapRegion) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.as_volatile_slice().copy_to(&mut bytes).unwrap();
    bytes
}
