//! Streams for memory that has no host addresses, in chunks through the stack.

use std::io;

use super::{Bytes, CHUNK, Error, advance, check_count};
use crate::{Address, ReadVolatile, VolatileSlice, WriteVolatile};

/// How long a transfer goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until the first short step of the stream.
    Short,
    /// Until the stream ends, over short steps and interruptions.
    End,
}

/// How far a transfer came, and why not further.
pub(super) struct Moved<E> {
    completed: usize,
    stop: Option<Stop<E>>,
}

enum Stop<E> {
    /// The stream failed.
    Stream(io::Error),
    /// Memory failed, or ends there.
    Memory(E),
    /// An end claims what cannot be, or bytes were lost on the way: worse than a short transfer.
    Broken(Error),
}

impl<E: From<Error>> Moved<E> {
    /// The answer where some bytes are enough.
    pub(super) fn some(self) -> Result<usize, E> {
        match self.stop {
            Some(Stop::Broken(error)) => Err(error.into()),
            Some(Stop::Stream(error)) if self.completed == 0 => Err(Error::Io(error).into()),
            Some(Stop::Memory(error)) if self.completed == 0 => Err(error),
            _ => Ok(self.completed),
        }
    }

    /// The answer where only all of `expected` bytes will do.
    pub(super) fn all(self, expected: usize) -> Result<(), E> {
        match self.stop {
            Some(Stop::Broken(error)) => Err(error.into()),
            Some(Stop::Stream(error)) => Err(Error::Io(error).into()),
            Some(Stop::Memory(error)) if self.completed == 0 => Err(error),
            _ if self.completed == expected => Ok(()),
            _ => Err(Error::PartialBuffer { expected, completed: self.completed }.into()),
        }
    }
}

/// Moves up to `count` bytes from `src` to `memory` at `addr`.
pub(super) fn from_stream<A: Address, M: Bytes<A> + ?Sized>(
    memory: &M,
    addr: A,
    src: &mut impl ReadVolatile,
    count: usize,
    until: Until,
) -> Moved<M::E> {
    let mut chunk = [0; CHUNK];
    run(addr, count, until, |addr, wanted| {
        let buf = VolatileSlice::from(chunk.get_mut(..wanted).unwrap_or_default());
        let came = src.read_volatile(&buf).map_err(Stop::Stream)?;
        let came = check_count(wanted, came).map_err(Stop::Broken)?;
        let mut taken = 0;
        while taken < came {
            let rest = chunk.get(taken..came).unwrap_or_default();
            let moved = match advance(addr, taken).map(|addr| memory.write(rest, addr)) {
                Some(Ok(written)) => check_count(came - taken, written).map_err(Stop::Broken)?,
                Some(Err(error)) if taken == 0 => return Err(Stop::Memory(error)),
                Some(Err(_)) | None => 0,
            };
            if moved == 0 {
                return Err(Stop::Broken(Error::PartialBuffer { expected: came, completed: taken }));
            }
            taken += moved;
        }
        Ok(came)
    })
}

/// Moves up to `count` bytes from `memory` at `addr` to `dst`.
pub(super) fn to_stream<A: Address, M: Bytes<A> + ?Sized>(
    memory: &M,
    addr: A,
    dst: &mut impl WriteVolatile,
    count: usize,
    until: Until,
) -> Moved<M::E> {
    let mut chunk = [0; CHUNK];
    run(addr, count, until, |addr, wanted| {
        let came = memory.read(chunk.get_mut(..wanted).unwrap_or_default(), addr).map_err(Stop::Memory)?;
        let came = check_count(wanted, came).map_err(Stop::Broken)?;
        let buf = VolatileSlice::from(chunk.get_mut(..came).unwrap_or_default());
        let went = dst.write_volatile(&buf).map_err(Stop::Stream)?;
        check_count(came, went).map_err(Stop::Broken)
    })
}

/// Repeats `step(address, wanted)`, which answers how much of a chunk it moved.
fn run<A: Address, E>(
    addr: A,
    count: usize,
    until: Until,
    mut step: impl FnMut(A, usize) -> Result<usize, Stop<E>>,
) -> Moved<E> {
    let mut completed = 0;
    let reason = loop {
        let wanted = CHUNK.min(count - completed);
        let Some(addr) = advance(addr, completed).filter(|_| wanted > 0) else { break None };
        match step(addr, wanted) {
            Ok(moved) => {
                completed += moved;
                if moved == 0 || (moved < wanted && until == Until::Short) {
                    break None;
                }
            }
            Err(Stop::Stream(error)) if until == Until::End && error.kind() == io::ErrorKind::Interrupted => {}
            // What was moved before goes with the loss.
            Err(Stop::Broken(Error::PartialBuffer { expected, completed: taken })) => {
                completed += taken;
                break Some(Stop::Broken(Error::PartialBuffer { expected: completed - taken + expected, completed }));
            }
            Err(other) => break Some(other),
        }
    };
    Moved { completed, stop: reason }
}
