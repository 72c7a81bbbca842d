use std::io::{self, ErrorKind};

use crate::bytes::check_count;
use crate::guest_memory::Error;
use crate::{Address, IoAddress};

/// A contiguous part of a buffer, in device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The address of its first byte.
    pub addr: IoAddress,
    /// Its length in bytes.
    pub len: u32,
}

/// Segments as one run of bytes, and how far one is with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// Those with bytes that are not done with.
    segments: &'a [Segment],
    /// The bytes of the first that are done with.
    skip: u32,
    /// The bytes that are not done with: no more than the segments have.
    left: u64,
    /// The bytes that are done with.
    done: u64,
}

impl<'a> Run<'a> {
    #[inline]
    pub(super) fn new(segments: &'a [Segment]) -> Self {
        let left = segments.iter().fold(0_u64, |sum, segment| sum.saturating_add(u64::from(segment.len)));
        Self { segments, skip: 0, left, done: 0 }
    }

    #[inline]
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    #[inline]
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// The first of the bytes that are not done with, as far as they lie in one segment and are no more than `most`; at
    /// least one. `None` if there is none, or if it would lie past the end of the address space.
    #[inline]
    fn front(&mut self, most: u64) -> Option<(IoAddress, u32)> {
        let most = most.min(self.left);
        while let Some((first, rest)) = self.segments.split_first().filter(|_| most > 0) {
            let reach = first.len.saturating_sub(self.skip);
            if reach > 0 {
                let len = u32::try_from(most).unwrap_or(u32::MAX).min(reach);
                return Some((first.addr.checked_add(u64::from(self.skip))?, len));
            }
            (self.segments, self.skip) = (rest, 0);
        }
        None
    }

    /// The address of the next `len` bytes, if they lie in one segment and are not none.
    #[inline]
    pub(super) fn whole(&mut self, len: usize) -> Option<IoAddress> {
        let (addr, reach) = self.front(len as u64)?;
        (reach as usize == len).then_some(addr)
    }

    /// Goes on after some bytes of what [`front`](Self::front) has answered.
    #[inline]
    fn pass(&mut self, count: u32) {
        self.skip = self.skip.saturating_add(count);
        self.left = self.left.saturating_sub(u64::from(count));
        self.done = self.done.saturating_add(u64::from(count));
    }

    /// Goes on after what an access to `len` bytes of [`front`](Self::front) has done.
    #[inline]
    pub(super) fn settle<T>(&mut self, len: usize, result: Result<T, Error>) -> Result<T, Error> {
        let done = match &result {
            Ok(_) => len,
            Err(
                Error::PartialBuffer { completed, .. }
                | Error::Fault { completed, .. }
                | Error::ReadOnly { completed, .. },
            ) => len.min(*completed),
            Err(_) => 0,
        };
        self.pass(u32::try_from(done).unwrap_or(u32::MAX));
        result
    }

    /// Goes on after `count` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`] if there are fewer: nothing is done then.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Error> {
        let rest = self.checked(count)?;
        let mut left = count;
        while let Some((first, others)) = self.segments.split_first().filter(|_| left > 0) {
            let reach = first.len.saturating_sub(self.skip);
            if let Some(left) = u32::try_from(left).ok().filter(|&left| left < reach) {
                self.skip = self.skip.saturating_add(left);
                break;
            }
            (self.segments, self.skip) = (others, 0);
            left = left.saturating_sub(u64::from(reach));
        }
        self.left = rest;
        self.done = self.done.saturating_add(count);
        Ok(())
    }

    /// How many bytes are left after the next `count`.
    #[inline]
    fn checked(&self, count: u64) -> Result<u64, Error> {
        self.left.checked_sub(count).ok_or(Error::PartialBuffer { expected: size(count), completed: 0 })
    }

    /// The next `mid` bytes, and those that follow.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless there are as many.
    pub(super) fn split_at(self, mid: u64) -> Result<(Self, Self), Error> {
        let mut rest = Self { done: 0, ..self };
        rest.skip(mid).or(Err(Error::OutOfBounds { offset: mid, len: self.left }))?;
        rest.done = 0;
        Ok((Self { left: mid, ..self }, rest))
    }

    /// The parts of the next `count` bytes, each contiguous, in order. Fewer, where a segment goes past the end of the
    /// address space.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`] if there are not as many.
    pub(super) fn parts(&self, count: u64) -> Result<impl Iterator<Item = (IoAddress, usize)> + use<'a>, Error> {
        self.checked(count)?;
        let mut run = Self { left: count, ..*self };
        Ok(std::iter::from_fn(move || {
            let (addr, len) = run.front(u64::MAX)?;
            run.pass(len);
            Some((addr, len as usize))
        }))
    }

    /// Goes on after `count` bytes, of which `found` are in memory.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`] if these are not all: nothing is done then.
    pub(super) fn take(&mut self, count: u64, found: usize) -> Result<(), Error> {
        if found as u64 != count {
            return Err(Error::PartialBuffer { expected: size(count), completed: found });
        }
        self.skip(count)
    }

    /// Does `step(addr, len, done)`, which answers how many bytes it has moved, until the next `count` bytes are moved.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`], with nothing done, if there are not as many bytes; and after a step that moves none. What
    /// a step answers, but that it is interrupted.
    #[inline]
    pub(super) fn all(
        &mut self,
        count: u64,
        mut step: impl FnMut(IoAddress, usize, usize) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let rest = self.checked(count)?;
        while let Some(left) = self.left.checked_sub(rest).filter(|&left| left > 0) {
            let done = size(count.saturating_sub(left));
            let short = || Error::PartialBuffer { expected: size(count), completed: done };
            let (addr, len) = self.front(left).ok_or_else(short)?;
            match step(addr, len as usize, done) {
                Ok(0) => return Err(short()),
                Ok(moved) => self.settle(check_count(len as usize, moved)?, Ok(()))?,
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.settle(len as usize, Err(error)).map_err(|error| error.of_whole(done, size(count)));
                }
            }
        }
        Ok(())
    }

    /// Does `step(addr, len, done)`, which answers how many bytes it has moved, until one moves less than it was asked to,
    /// or there is an error, or `count` bytes were moved, or all.
    ///
    /// # Errors
    ///
    /// That of the first step.
    pub(super) fn some(
        &mut self,
        count: usize,
        mut step: impl FnMut(IoAddress, usize, usize) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let mut done = 0_usize;
        while let Some((addr, len)) = self.front(count.saturating_sub(done) as u64) {
            match step(addr, len as usize, done) {
                Ok(moved) => {
                    let moved = check_count(len as usize, moved)?;
                    self.settle(moved, Ok(()))?;
                    done = done.saturating_add(moved);
                    if moved < len as usize {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// A number of bytes; of more than the host can address, as many as it can.
#[inline]
fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// An error as the standard library has it: `at_end` where the segments or the memory end.
#[cold]
pub(super) fn to_io(error: Error, at_end: ErrorKind) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::PartialBuffer { .. } => at_end.into(),
        other => io::Error::other(other),
    }
}
