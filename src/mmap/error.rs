use std::io;

use crate::guest_memory::RegionError;

/// Why memory could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A mapping has at least one byte.
    #[error("a mapping of 0 bytes was asked for: leave it out, or give its size")]
    Empty,
    /// No mapping can be as large.
    #[error("a mapping of {size:#x} bytes is larger than this host can address (at most {:#x})", isize::MAX)]
    TooLarge {
        /// The size asked for, in bytes.
        size: usize,
    },
    /// A mapping begins at a whole page of its file.
    #[error("file offset {start:#x} is not a multiple of the page size {page_size:#x}: round it down")]
    MisalignedFileOffset {
        /// The offset asked for, in bytes.
        start: u64,
        /// The host's page size, in bytes.
        page_size: usize,
    },
    /// The file ends before the mapping would; accesses beyond its end would fault.
    #[error(
        "mapping {size:#x} bytes at file offset {start:#x} goes past the file's {file_len:#x} bytes: grow it first"
    )]
    PastEndOfFile {
        /// The offset asked for, in bytes.
        start: u64,
        /// The size asked for, in bytes.
        size: usize,
        /// The length of the file, in bytes.
        file_len: u64,
    },
    /// The file could not be examined.
    #[error("the length of the file to be mapped is not to be had: {0}")]
    FileLength(#[source] io::Error),
    /// mmap(2) refused.
    #[error("mmap of {size:#x} bytes failed: {source}{}", hint(source))]
    Map {
        /// The size asked for, in bytes.
        size: usize,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The handlers that make an error of a page that cannot be accessed could not be installed.
    #[cfg(feature = "fault-recovery")]
    #[error(
        "the handlers of SIGSEGV and SIGBUS cannot be installed: {0} (do it before a seccomp filter, or do without)"
    )]
    FaultRecovery(#[source] io::Error),
    /// The mappings do not make a guest's memory.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// What to do about what the kernel answered.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (a shared mapping needs a file that is open for reading and writing)",
        io::ErrorKind::OutOfMemory => " (the limits on address space, or on the number of mappings, are reached)",
        _ => "",
    }
}
