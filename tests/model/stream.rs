//! Sources and sinks with the habits of sockets, pipes and worse.

use std::io::{self, ErrorKind};

use memory_model::{Bytes, ReadVolatile, VolatileSlice, WriteVolatile};

/// So many bytes, all different for a while, and never in step with a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) seed: u8,
    pub(crate) len: usize,
}

impl Data {
    pub(crate) fn bytes(self) -> Vec<u8> {
        (0..self.len).map(|index| self.byte(index)).collect()
    }

    fn byte(self, index: usize) -> u8 {
        self.seed.wrapping_add(u8::try_from(index % 251).unwrap_or(0))
    }
}

/// How the other end of a transfer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The first byte that a source gives.
    pub(crate) seed: u8,
    /// The most that one call moves, from 1 to 7; `None` for no limit. (Memory without host addresses makes its calls
    /// in chunks of some hundred bytes, so what larger limits do depends on the memory.)
    pub(crate) per_call: Option<u8>,
    /// Whether each call that does something comes after one that is interrupted.
    pub(crate) interrupted: bool,
    /// How many bytes are moved before `then`.
    pub(crate) limit: usize,
    pub(crate) then: Then,
}

/// What happens after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The end: nothing more is moved.
    End,
    /// So many interruptions; after that it goes on, without a limit.
    Interrupt(u8),
    /// It fails, now and always.
    Fail(ErrorKind),
    /// It moves nothing, and claims to have moved so many bytes more than it was asked to, at least 1.
    Lie(usize),
}

impl Pace {
    /// Moves whatever there is, without end.
    pub(crate) const STEADY: Self =
        Self { seed: 1, per_call: None, interrupted: false, limit: usize::MAX, then: Then::End };

    /// How many bytes are moved before `then`. A lie after some bytes, in a call of its own, takes a limit per call:
    /// else it depends on the memory whether there is a second call.
    fn limit(&self) -> usize {
        match (self.then, self.per_call) {
            (Then::Lie(_), None) => 0,
            _ => self.limit,
        }
    }
}

/// A [`Pace`] on its way: what each call answers.
pub(crate) struct Script {
    pace: Pace,
    moved: usize,
    interrupt: bool,
    interrupts: u8,
    /// Calls since the last byte that was moved.
    idle: u8,
}

impl Script {
    pub(crate) fn new(pace: Pace) -> Self {
        let interrupts = if let Then::Interrupt(count) = pace.then { count } else { 0 };
        Self { pace, moved: 0, interrupt: pace.interrupted, interrupts, idle: 0 }
    }

    /// The answer to a call that may move `wanted` bytes: how many it moves.
    pub(crate) fn step(&mut self, wanted: usize) -> Result<usize, ErrorKind> {
        self.count_idle();
        if self.pace.interrupted {
            self.interrupt = !self.interrupt;
            if !self.interrupt {
                return Err(ErrorKind::Interrupted);
            }
        }
        let mut most = self.pace.per_call.map_or(usize::MAX, usize::from).min(wanted);
        let left = self.pace.limit() - self.moved.min(self.pace.limit());
        match self.pace.then {
            Then::Interrupt(_) if self.interrupts == 0 => {}
            Then::Interrupt(_) if left == 0 => {
                self.interrupts -= 1;
                return Err(ErrorKind::Interrupted);
            }
            Then::Fail(kind) if left == 0 => return Err(kind),
            Then::Lie(excess) if left == 0 => return Ok(wanted + excess),
            _ => most = most.min(left),
        }
        if most > 0 {
            (self.moved, self.idle) = (self.moved + most, 0);
        }
        Ok(most)
    }

    /// Ends a test that would never end.
    fn count_idle(&mut self) {
        self.idle += 1;
        assert!(self.idle < 100, "a stream that moves nothing is asked for ever");
    }

    /// The next `count` bytes of a source.
    pub(crate) fn bytes(&self, count: usize) -> Vec<u8> {
        let data = Data { seed: self.pace.seed, len: 0 };
        (self.moved - count..self.moved).map(|index| data.byte(index)).collect()
    }
}

/// A source or a sink, and the bytes that it gave or took.
pub(crate) struct Stream {
    script: Script,
    pub(crate) moved: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { script: Script::new(pace), moved: Vec::new() }
    }
}

impl ReadVolatile for Stream {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let count = self.script.step(buf.len())?;
        if count <= buf.len() {
            let bytes = self.script.bytes(count);
            buf.write_slice(&bytes, 0)?;
            self.moved.extend(bytes);
        }
        Ok(count)
    }
}

impl WriteVolatile for Stream {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let count = self.script.step(buf.len())?;
        if count <= buf.len() {
            let mut bytes = vec![0; count];
            buf.read_slice(&mut bytes, 0)?;
            self.moved.extend(bytes);
        }
        Ok(count)
    }
}
