use std::io;

use super::Step;
use crate::GuestAddress;
use crate::guest_memory::RegionError;

/// Why memory could not be made, shaped or given back.
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
    /// An alignment is a power of two.
    #[error("an alignment of {alignment:#x} bytes was asked for: it must be a power of two")]
    Alignment {
        /// The alignment asked for, in bytes.
        alignment: usize,
    },
    /// What is made of huge pages begins and ends with one.
    #[error("{what} {value:#x} is not a multiple of the huge page size {page_size:#x}: round it up")]
    HugePages {
        /// What it is that does not fit: `the size`, `the file offset`, `the guest address`.
        what: &'static str,
        /// Its value, in bytes.
        value: u64,
        /// The size of the huge pages, in bytes.
        page_size: u64,
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
    /// A mapping that exists was to be described, and something was asked for that only making one can do.
    #[error("a borrowed mapping cannot be given {0}: ask whoever made it")]
    Borrowed(&'static str),
    /// A file's pages are as large as its file system makes them.
    #[error("hugetlb pages of a file come from its file system: take a file on hugetlbfs, or a memfd")]
    HugetlbFile,
    /// A NUMA policy names at least one node.
    #[error("a NUMA policy without a node was asked for: name one, or leave the policy out")]
    NoNode,
    /// No host has as many NUMA nodes.
    #[error("NUMA node {0} was asked for: Linux counts them below {max}", max = super::numa::MAX_NODES)]
    Node(u32),
    /// The process cannot have memory of this NUMA node. Nothing was mapped.
    #[error(
        "NUMA node {0} does not exist, is offline, has no memory, or may not be used by this process: leave it out (see \
         /sys/devices/system/node/has_memory, and Mems_allowed_list in /proc/self/status)"
    )]
    UnusableNode(u32),
    /// The kernel refused a step. Of a mapping that was to be made, nothing is left.
    #[error("{step} of {size:#x} bytes failed: {source}{}", step.hint(source))]
    Refused {
        /// What was asked of it.
        step: Step,
        /// The bytes it was asked for.
        size: usize,
        /// What it answered.
        source: io::Error,
    },
    /// The callback ended a prefault. Of a mapping that was to be made, nothing is left; of one that there is, the pages
    /// that were made stay.
    #[error("the prefault was cancelled after {done:#x} of {total:#x} bytes")]
    Cancelled {
        /// Bytes whose pages had been made.
        done: u64,
        /// Bytes that there were to make.
        total: u64,
    },
    /// Read-only memory was to be given back. Nothing was done.
    #[error("the mapping is read-only: what it holds cannot be given back")]
    ReadOnly,
    /// A write to read-only memory is an error by way of the handlers, and they are not installed.
    #[cfg(feature = "fault-recovery")]
    #[error("read-only memory needs the handlers of SIGSEGV and SIGBUS: call fault_recovery::install() first")]
    NoRecovery,
    /// Memory was to be unplugged where an access to it would end the process. Nothing was done.
    #[error("memory can be unplugged only where an access to it is an error: {}", unrecovered())]
    Unrecovered,
    /// Memory is plugged and unplugged by whole pages. Nothing was done.
    #[error(
        "{len:#x} bytes from offset {offset:#x} are not whole pages of {page_size:#x} bytes: what is plugged or unplugged \
         begins and ends with one"
    )]
    PartOfPage {
        /// Where the range begins, in bytes from the start of the mapping.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The size of the mapping's pages, in bytes.
        page_size: u64,
    },
    /// A change was refused, and what had been done of it could not be undone.
    #[error("{cause}; and of the {len:#x} bytes from offset {offset:#x} some stay changed: {undo}")]
    NotUndone {
        /// Why it was refused.
        cause: Box<Error>,
        /// Why it could not be undone.
        undo: Box<Error>,
        /// Where the first byte is that stays changed, from the start of the mapping.
        offset: u64,
        /// The bytes from there to the last that does.
        len: u64,
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
    /// A policy is of no zone of the layout, or of one that has a policy already. Nothing was mapped.
    #[error("the layout has no zone {0:?}, or it was given a policy twice: name each once, as the layout does")]
    Zone(String),
    /// A range of a mapping goes past its end. Nothing was done.
    #[error("{len:#x} bytes from offset {offset:#x} are not within the {size:#x} bytes of this mapping")]
    OutOfBounds {
        /// Where the range begins, in bytes from the start of the mapping.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The size of the mapping, in bytes.
        size: u64,
    },
    /// A range of guest addresses has a hole. Nothing was done.
    #[error("not all of the {len:#x} bytes at {addr} are memory: there is none at {hole}")]
    Hole {
        /// Where the range begins.
        addr: GuestAddress,
        /// Its length in bytes.
        len: u64,
        /// The first address without memory.
        hole: GuestAddress,
    },
    /// A page number is of no guest address. Nothing was done.
    #[error("page number {number:#x} of pages of {page_size:#x} bytes is past the end of the address space")]
    PageNumber {
        /// The number.
        number: u64,
        /// The size of a page that it counts, in bytes.
        page_size: u64,
    },
    /// A range goes past the end of the address space. Nothing was done.
    #[error("{len:#x} bytes at {addr} go past the end of the address space")]
    Wraps {
        /// Where the range begins.
        addr: GuestAddress,
        /// Its length in bytes.
        len: u64,
    },
    /// Pages could not be given back, others may have been. All of either kind are marked as dirty.
    #[error("the pages from {addr} on are kept: {source} ({given_back:#x} bytes were given back before)")]
    Discard {
        /// Where the range begins that was refused.
        addr: GuestAddress,
        /// Bytes that were given back before it.
        given_back: u64,
        /// Why it was refused.
        source: Box<Error>,
    },
}

/// What to do, so that a page that cannot be accessed is an error.
fn unrecovered() -> &'static str {
    if crate::access::RECOVERS {
        "call fault_recovery::install() first"
    } else {
        "this takes the feature fault-recovery, and x86-64 or aarch64"
    }
}
