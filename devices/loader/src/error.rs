use std::io;

use memory_model::{GuestAddress, RegionKind, guest_memory};

use crate::{Found, LoadedRange};

/// Why something was not loaded. Unless it is [`Copy`](Self::Copy), memory is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("the file cannot be read: {0}")]
    Io(#[source] io::Error),
    /// Only a regular file (or a memfd) has a length to check against, and positions to read from.
    #[error("a pipe, a device or a directory cannot be loaded: copy it into a regular file or a memfd first")]
    NotARegularFile,
    /// The file is no kernel that can be loaded.
    #[error("this is not {wanted}: it is {found}")]
    UnknownFormat {
        /// What was to be loaded.
        wanted: &'static str,
        /// What the file looks like instead.
        found: Found,
    },
    /// The file ends before something that it says it has.
    #[error("the file is cut off: its {what} is {len:#x} bytes from {offset:#x}, but it has only {file_len:#x} bytes")]
    Truncated {
        /// What is missing, or part of it.
        what: &'static str,
        /// Where it should begin, in bytes from the start of the file.
        offset: u64,
        /// How many bytes it should have.
        len: u64,
        /// How many bytes the file has.
        file_len: u64,
    },
    /// A field of a header has a value that it cannot have, or that this loader does not know.
    #[error("{field} is {value:#x}: it must be {wanted}")]
    BadField {
        /// The field's name in the format's specification.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it should be.
        wanted: &'static str,
    },
    /// The file has all headers, but no byte to load.
    #[error("the kernel has no byte to load: the file is an object file or debug information, or it is broken")]
    NothingToLoad,
    /// A segment has more bytes in the file than it takes in memory.
    #[error("segment {segment} has {file_len:#x} bytes in the file but only {memory_len:#x} in memory")]
    SegmentTooLong {
        /// The program header's number, from 0.
        segment: u16,
        /// Its `p_filesz`.
        file_len: u64,
        /// Its `p_memsz`.
        memory_len: u64,
    },
    /// Not every byte of the range is guest memory.
    #[error("there is not guest memory everywhere at the {0}: give the guest more memory, or load it elsewhere")]
    OutsideMemory(LoadedRange),
    /// Part of the range is memory of another kind than RAM. A region type that does not implement
    /// [`kind`](memory_model::GuestMemoryRegion::kind) is a device.
    #[error("the {range} needs RAM, but there is {} at {addr}: load it elsewhere, or correct the region's kind", named(*kind))]
    NotRam {
        /// What should lie there.
        range: LoadedRange,
        /// The first address of the range that is not RAM.
        addr: GuestAddress,
        /// What is there.
        kind: RegionKind,
    },
    /// Two things would lie on top of each other.
    #[error("the {first} and the {second} overlap: move one of them")]
    Overlap {
        /// What lies lower, or was there before.
        first: LoadedRange,
        /// The other.
        second: LoadedRange,
    },
    /// An address is moved past the end of the address space.
    #[error("{addr:#x} moved up by {offset:#x} is past the end of the address space: load it lower")]
    AddressOverflow {
        /// The address in the file.
        addr: u64,
        /// What is added to it.
        offset: u64,
    },
    /// The kernel would be entered where nothing was loaded.
    #[error("the {what} {addr:#x} lies in no byte that the file loads")]
    EntryOutside {
        /// Which entry.
        what: &'static str,
        /// Its address, as in the file.
        addr: u64,
    },
    /// The kernel runs at one address only.
    #[error("this kernel is not relocatable: load it at {fixed}, not at {wanted}")]
    NotRelocatable {
        /// The address asked for.
        wanted: GuestAddress,
        /// The only address it can have.
        fixed: GuestAddress,
    },
    /// The kernel cannot reach what lies there.
    #[error("the {range} goes beyond {last}, the last address that this kernel can have it at: move it down")]
    TooHigh {
        /// What lies too high.
        range: LoadedRange,
        /// The last address that it may take, inclusive.
        last: GuestAddress,
    },
    /// Nowhere is there room for the initrd.
    #[error("no {len:#x} bytes in a row are free in guest memory up to {last}: give the guest more memory")]
    NoRoom {
        /// The initrd's length in bytes.
        len: u64,
        /// The last address that it may take, inclusive.
        last: GuestAddress,
    },
    /// The kernel would cut the command line off.
    #[error("the command line has {len} bytes, and this kernel reads at most {max}: shorten it")]
    CommandLineTooLong {
        /// Its length in bytes, without the terminating zero.
        len: usize,
        /// The longest that the kernel takes.
        max: u32,
    },
    /// The kernel would stop reading at a NUL.
    #[error("byte {at} of the command line is a NUL, where the kernel would stop reading: remove it")]
    CommandLineNul {
        /// Its position, in bytes.
        at: usize,
    },
    /// The zero page has no room for so many.
    #[error("{count} memory map entries do not fit into the zero page, which has room for {max}: merge some")]
    TooManyE820Entries {
        /// The entries given.
        count: usize,
        /// The entries that fit.
        max: usize,
    },
    /// All was checked, but then the transfer failed: an I/O error, a file that was truncated meanwhile, a page that
    /// cannot be accessed. Part of the range may have been written, and the ranges before it in full.
    #[error("the {range} could be loaded only in part: {source}")]
    Copy {
        /// What was being written.
        range: LoadedRange,
        /// Why it ended, and where.
        source: guest_memory::Error,
    },
}

/// A kind of region in a sentence.
fn named(kind: RegionKind) -> &'static str {
    match kind {
        RegionKind::Ram => "RAM",
        RegionKind::Rom => "ROM",
        RegionKind::Device => "a device",
        RegionKind::Reserved => "reserved memory",
        _ => "memory of another kind",
    }
}
