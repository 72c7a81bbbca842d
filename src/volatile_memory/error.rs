use crate::access::Fault;

/// What can go wrong with an access to volatile memory. Offsets are in bytes from the start of the slice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range begins, or where only the whole will do also ends, outside the slice. Nothing was touched.
    #[error("{count} bytes at offset {offset:#x} are not within the {len:#x} bytes of this slice")]
    OutOfBounds {
        /// Where the range begins.
        offset: usize,
        /// The length of the range; `usize::MAX` if it could not be represented.
        count: usize,
        /// The length of the slice.
        len: usize,
    },
    /// The memory or the stream ended before the transfer was complete; what was done stays done.
    #[error("only {completed} of {expected} bytes could be transferred: the memory or the stream ends there")]
    PartialBuffer {
        /// Bytes asked for.
        expected: usize,
        /// Bytes transferred: a retry starts this much further on.
        completed: usize,
    },
    /// A page is not accessible: its file was truncated, it was unmapped or protected, or the hardware lost it.
    #[error("the page at offset {addr:#x} cannot be accessed ({completed} bytes before it were transferred)")]
    Fault {
        /// Offset of the first byte that could not be accessed.
        addr: usize,
        /// Bytes transferred before it. Those after it are untouched, unless the page became inaccessible during the access:
        /// then they may have changed.
        completed: usize,
    },
    /// An atomic access must be naturally aligned in host memory. Nothing was touched.
    #[error("an atomic access at offset {addr:#x} needs an address that is a multiple of {align}")]
    Misaligned {
        /// Offset of the access.
        addr: usize,
        /// The alignment needed, in bytes.
        align: usize,
    },
    /// A reader, a writer or a memory claims to have transferred more than it was asked to: its result is worthless.
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

impl Error {
    /// The same fault as seen from a slice that begins `offset` bytes before, for narrowed accesses.
    #[cold]
    #[inline(never)]
    pub(crate) fn rebase(self, offset: usize) -> Self {
        match self {
            Self::Fault { addr, completed } => Self::Fault { addr: addr.saturating_add(offset), completed },
            Self::Misaligned { addr, align } => Self::Misaligned { addr: addr.saturating_add(offset), align },
            other => other,
        }
    }

    /// The fault of an access to a slice from its start.
    #[cold]
    #[inline(never)]
    pub(crate) fn fault(fault: Fault, start: *const u8) -> Self {
        let completed = fault.completed(start);
        Self::Fault { addr: completed, completed }
    }
}

#[cfg(feature = "std")]
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            other => Self::other(other),
        }
    }
}
