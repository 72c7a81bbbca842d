//! What came of a call, so that it can be compared.

use std::io::ErrorKind;

use memory_model::{guest_memory, volatile_memory};

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Answer, Failure>,
    /// What the other end has afterwards: the caller's buffer, the bytes that a sink took or a source gave.
    pub(crate) other_end: Vec<u8>,
}

/// What a call answers when it succeeds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Count(usize),
    /// The bytes of a value.
    Value(Vec<u8>),
    /// What a compare-exchange found, as `Ok` if it stored.
    Found(Result<Vec<u8>, Vec<u8>>),
    /// Address and bytes of each slice, and the error after them.
    Slices(Vec<(u64, Vec<u8>)>, Option<Failure>),
    Is(bool),
    Address(Option<u64>),
}

/// Why a call fails.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no memory at this address.
    Nowhere(u64),
    Partial {
        expected: usize,
        completed: usize,
    },
    Misaligned {
        addr: u64,
        align: usize,
    },
    NoHostMemory(u64),
    /// So many bytes more were claimed than asked for.
    Overrun(usize),
    Unsupported,
    Io(ErrorKind),
    /// None that the contract names for memory that is all there.
    Unexpected(String),
}

impl Outcome {
    /// Of a call without a buffer or a stream.
    pub(crate) fn of(result: Result<Answer, Failure>) -> Self {
        Self { result, other_end: Vec::new() }
    }
}

impl From<guest_memory::Error> for Failure {
    fn from(error: guest_memory::Error) -> Self {
        use guest_memory::Error;
        match error {
            Error::InvalidGuestAddress(addr) => Self::Nowhere(addr.0),
            Error::OutOfBounds { offset, .. } => Self::Nowhere(offset),
            Error::PartialBuffer { expected, completed } => Self::Partial { expected, completed },
            Error::Misaligned { addr, align } => Self::Misaligned { addr: addr.0, align },
            Error::NoHostMemory(addr) => Self::NoHostMemory(addr.0),
            Error::Overrun { expected, claimed } if claimed > expected => Self::Overrun(claimed - expected),
            Error::Unsupported => Self::Unsupported,
            Error::Io(error) => Self::Io(error.kind()),
            other => Self::Unexpected(format!("{other:?}")),
        }
    }
}

impl From<volatile_memory::Error> for Failure {
    fn from(error: volatile_memory::Error) -> Self {
        use volatile_memory::Error;
        match error {
            Error::OutOfBounds { offset, .. } => Self::Nowhere(offset as u64),
            Error::PartialBuffer { expected, completed } => Self::Partial { expected, completed },
            Error::Misaligned { addr, align } => Self::Misaligned { addr: addr as u64, align },
            Error::Overrun { expected, claimed } if claimed > expected => Self::Overrun(claimed - expected),
            Error::Unsupported => Self::Unsupported,
            Error::Io(error) => Self::Io(error.kind()),
            other => Self::Unexpected(format!("{other:?}")),
        }
    }
}
