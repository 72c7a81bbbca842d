use super::{GuestAddress, GuestUsize};
use crate::{bytes, volatile_memory};

/// What can go wrong with an access to guest memory. Addresses are the caller's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no memory at this address. Nothing was touched.
    #[error("no guest memory at {0}")]
    InvalidGuestAddress(GuestAddress),
    /// The access begins outside this region or slice. Nothing was touched.
    #[error("offset {offset:#x} is not within the {len:#x} bytes of this region or slice")]
    OutOfBounds {
        /// Where the access begins, in bytes from the start of the region or slice.
        offset: GuestUsize,
        /// The length of the region or slice, in bytes.
        len: GuestUsize,
    },
    /// The memory or the stream ended before the transfer was complete; what was done stays done.
    #[error("only {completed} of {expected} bytes could be had: the memory or the stream ends there")]
    PartialBuffer {
        /// Bytes asked for.
        expected: usize,
        /// Bytes transferred: a retry starts this much further on.
        completed: usize,
    },
    /// A page is not accessible: its file was truncated, it was unmapped, unplugged or protected, or the hardware lost it.
    #[error("the page at {addr} cannot be accessed ({completed} bytes before it were transferred)")]
    Fault {
        /// The first byte that could not be accessed. Pages are examined in units of 4 KiB: where the host's pages are larger,
        /// the address may lie within the page. If several pages become inaccessible during the access, it may lie above the
        /// lowest one.
        addr: GuestAddress,
        /// Bytes transferred before it. Those after it are untouched, unless protection or the file's size changed during the
        /// access: then they may have changed, as far as the access had come, and are marked as dirty.
        completed: usize,
    },
    /// The memory at this address is read and never written: ROM.
    #[error("the memory at {addr} is read-only ({completed} bytes before it were transferred)")]
    ReadOnly {
        /// The first byte that may not be written.
        addr: GuestAddress,
        /// Bytes transferred before it. Those after it are untouched, unless protection or the file's size changed during the
        /// access: then they may have changed, as far as the access had come, and are marked as dirty.
        completed: usize,
    },
    /// An atomic access must be naturally aligned. Nothing was touched.
    #[error("an atomic access at {addr} needs an address that is a multiple of {align} in host memory")]
    Misaligned {
        /// The address of the access.
        addr: GuestAddress,
        /// The alignment needed, in bytes.
        align: usize,
    },
    /// This memory runs code where others have bytes, or is remote: there is no host address for it. Read and write it
    /// by its own methods.
    #[error("the memory at {0} has no host address: only its own reads and writes reach it")]
    NoHostMemory(GuestAddress),
    /// The bytes are not in one piece: those from this address on lie elsewhere in the host than those before. Take them piece
    /// by piece.
    #[error("the memory from {addr} on lies elsewhere in the host than the {completed} bytes before it")]
    Divided {
        /// The first byte that lies elsewhere.
        addr: GuestAddress,
        /// The bytes before it, which lie together.
        completed: usize,
    },
    /// A reader, a writer or a region claims to have transferred more than it was asked to: its result is worthless.
    #[error("a transfer of {expected} bytes claims to have moved {claimed}: its implementation is wrong")]
    Overrun {
        /// Bytes asked for.
        expected: usize,
        /// Bytes claimed.
        claimed: usize,
    },
    /// This memory has no such operation.
    #[error("this memory does not support the operation")]
    Unsupported,
    /// The other end of the transfer, a file or a socket, failed.
    #[cfg(feature = "std")]
    #[error("the stream failed: {0}")]
    Io(#[source] std::io::Error),
}

// Returned on every access: a discriminant and two words.
const _: () = assert!(size_of::<Error>() <= 24);

impl Error {
    /// The same error, of a step of a transfer of `expected` bytes, as the answer of the whole: `done` bytes were
    /// transferred before the step.
    #[cold]
    #[inline(never)]
    pub(crate) fn of_whole(self, done: usize, expected: usize) -> Self {
        match self {
            Self::Fault { addr, completed } => Self::Fault { addr, completed: done.saturating_add(completed) },
            Self::ReadOnly { addr, completed } => Self::ReadOnly { addr, completed: done.saturating_add(completed) },
            Self::PartialBuffer { completed, .. } => {
                Self::PartialBuffer { expected, completed: done.saturating_add(completed) }
            }
            Self::InvalidGuestAddress(_) | Self::OutOfBounds { .. } if done > 0 => {
                Self::PartialBuffer { expected, completed: done }
            }
            other => other,
        }
    }

    /// The same error, of a write to read-only memory: the hardware has refused it.
    #[cold]
    #[inline(never)]
    pub(crate) fn of_read_only(self) -> Self {
        match self {
            Self::Fault { addr, completed } => Self::ReadOnly { addr, completed },
            other => other,
        }
    }

    /// The error of a slice that begins at `base`, told in guest addresses.
    #[cold]
    #[inline(never)]
    pub(crate) fn from_slice(error: volatile_memory::Error, base: GuestAddress) -> Self {
        let at = |offset: usize| GuestAddress(base.0.saturating_add(offset as u64));
        match error {
            volatile_memory::Error::OutOfBounds { offset, len, .. } => {
                Self::OutOfBounds { offset: offset as u64, len: len as u64 }
            }
            volatile_memory::Error::PartialBuffer { expected, completed } => {
                Self::PartialBuffer { expected, completed }
            }
            volatile_memory::Error::Fault { addr, completed } => Self::Fault { addr: at(addr), completed },
            volatile_memory::Error::Misaligned { addr, align } => Self::Misaligned { addr: at(addr), align },
            volatile_memory::Error::Overrun { expected, claimed } => Self::Overrun { expected, claimed },
            volatile_memory::Error::Unsupported => Self::Unsupported,
            #[cfg(feature = "std")]
            volatile_memory::Error::Io(error) => Self::Io(error),
        }
    }
}

impl From<bytes::Error> for Error {
    fn from(error: bytes::Error) -> Self {
        match error {
            bytes::Error::PartialBuffer { expected, completed } => Self::PartialBuffer { expected, completed },
            bytes::Error::Misaligned { addr, align } => Self::Misaligned { addr: GuestAddress(addr), align },
            bytes::Error::Overrun { expected, claimed } => Self::Overrun { expected, claimed },
            bytes::Error::Unsupported => Self::Unsupported,
            #[cfg(feature = "std")]
            bytes::Error::Io(error) => Self::Io(error),
        }
    }
}

/// Why regions do not make a memory, or a region cannot be had from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A region has no byte.
    #[error("the region at {start} is empty: leave it out")]
    Empty {
        /// Its first address.
        start: GuestAddress,
    },
    /// A region would go on past the end of the address space.
    #[error("a region of {len:#x} bytes at {start} does not fit below 2^64: move it down or make it smaller")]
    Wraps {
        /// Its first address.
        start: GuestAddress,
        /// Its length in bytes.
        len: GuestUsize,
    },
    /// Two regions share addresses.
    #[error(
        "the regions {}..={} and {}..={} overlap: an address must mean one byte",
        first.0, first.1, second.0, second.1
    )]
    Overlap {
        /// First and last address of the lower region.
        first: (GuestAddress, GuestAddress),
        /// First and last address of the other.
        second: (GuestAddress, GuestAddress),
    },
    /// There is no region at this address.
    #[error("no region has {len:#x} bytes at {start}: name one exactly as it was inserted")]
    NotFound {
        /// The first address asked for.
        start: GuestAddress,
        /// The length asked for, in bytes.
        len: GuestUsize,
    },
    /// These addresses are a part of a region, or more than it: it can only be removed as a whole.
    #[error(
        "{len:#x} bytes at {start} are not exactly the region {}..={}: it can only be removed as a whole",
        region.0, region.1
    )]
    Part {
        /// The first address asked for, which lies in the region.
        start: GuestAddress,
        /// The length asked for, in bytes.
        len: GuestUsize,
        /// First and last address of the region.
        region: (GuestAddress, GuestAddress),
    },
    /// There are more regions than can be counted.
    #[error("{0} regions are more than the 2^30 that a memory can have")]
    TooMany(usize),
}
