use crate::volatile_memory;

/// What the methods that [`Bytes`](super::Bytes) provides can answer by themselves; converted into the memory's own
/// error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The memory or the stream ended before the transfer was complete; what was done stays done.
    #[error("only {completed} of {expected} bytes could be transferred: the memory or the stream ends there")]
    PartialBuffer {
        /// Bytes asked for.
        expected: usize,
        /// Bytes transferred: a retry starts this much further on.
        completed: usize,
    },
    /// An atomic access must be naturally aligned. Nothing was touched.
    #[error("an atomic access at {addr:#x} needs an address that is a multiple of {align}")]
    Misaligned {
        /// The address, in the address space of the call.
        addr: u64,
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

impl From<Error> for volatile_memory::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::PartialBuffer { expected, completed } => Self::PartialBuffer { expected, completed },
            Error::Misaligned { addr, align } => {
                Self::Misaligned { addr: usize::try_from(addr).unwrap_or(usize::MAX), align }
            }
            Error::Overrun { expected, claimed } => Self::Overrun { expected, claimed },
            Error::Unsupported => Self::Unsupported,
            #[cfg(feature = "std")]
            Error::Io(error) => Self::Io(error),
        }
    }
}
