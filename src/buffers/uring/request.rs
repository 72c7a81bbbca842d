use std::io::{self, ErrorKind};

use super::super::{GuestBuffers, IoSlice};
use crate::access::{self, Probe};
use crate::guest_memory::Error;
use crate::stream::FAULT_WINDOW;

/// As many pieces as one system call takes (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// So often a request that gets no further for a reason that may pass is tried again.
const PATIENCE: u8 = 8;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads from the file into memory.
    Read,
    /// Writes from memory to the file.
    Write,
    /// Makes what was written stable, as fdatasync(2) does.
    SyncData,
    /// Makes all stable, as fsync(2) does.
    SyncAll,
}

/// A request, and how far it is.
pub(super) struct Request {
    pub(super) token: u64,
    pub(super) kind: Kind,
    /// What is left of them.
    pub(super) buffers: Option<GuestBuffers<'static>>,
    /// Where in the file the next step begins.
    pub(super) offset: u64,
    /// The bytes transferred.
    pub(super) done: usize,
    /// Whether a step of it was begun.
    is_begun: bool,
    /// The next step goes no further, as there is a page behind that cannot be accessed.
    limit: Option<usize>,
    /// How often it has got no further.
    setbacks: u8,
}

/// What comes after a step.
pub(super) enum Next {
    /// Another.
    Step,
    /// Nothing: that is the result.
    Done(Result<usize, Error>),
}

impl Request {
    pub(super) fn new(token: u64, kind: Kind, buffers: Option<GuestBuffers<'static>>, offset: u64) -> Self {
        Self { token, kind, buffers, offset, done: 0, is_begun: false, limit: None, setbacks: 0 }
    }

    /// Puts the memory of the next step into `iovecs`: from now on somebody may write to it.
    pub(super) fn hand_out(&mut self, iovecs: &mut Vec<IoSlice<'static>>) {
        iovecs.clear();
        self.is_begun = true;
        let Some(buffers) = &mut self.buffers else { return };
        if self.kind == Kind::Read {
            buffers.as_iovecs();
        }
        let mut left = self.limit.unwrap_or(usize::MAX);
        for iovec in buffers.left().iter().take(MAX_PIECES) {
            let (part, _) = iovec.cut(left);
            if part.is_empty() {
                break;
            }
            left = left.saturating_sub(part.len());
            iovecs.push(part);
        }
    }

    /// Takes the kernel's answer to a step: a count, or an `errno`. No step follows if the request is cancelled.
    pub(super) fn answered(&mut self, answer: Result<usize, i32>, is_cancelled: bool) -> Next {
        let next = match answer {
            Ok(count) => self.moved(count),
            Err(errno) => self.failed(errno),
        };
        match next {
            Next::Step if is_cancelled => Next::Done(self.cancelled()),
            Next::Step => Next::Step,
            Next::Done(result) => Next::Done(self.end(result)),
        }
    }

    /// A step has moved so many bytes.
    fn moved(&mut self, count: usize) -> Next {
        let Some(buffers) = &mut self.buffers else { return Next::Done(Ok(0)) };
        let left = buffers.len();
        if count > left {
            return Next::Done(Err(Error::Overrun { expected: left, claimed: count }));
        }
        buffers.advance(count);
        self.done = self.done.saturating_add(count);
        self.offset = self.offset.saturating_add(count as u64);
        // When the limit is reached, the step after it finds out whether the page is still bad.
        self.limit = self.limit.map(|limit| limit.saturating_sub(count)).filter(|&limit| limit > 0);
        if count == 0 || count == left {
            return Next::Done(Ok(self.done)); // the file's end, or that of the buffers
        }
        self.setbacks = 0;
        Next::Step
    }

    /// A step has failed, and moved nothing.
    fn failed(&mut self, errno: i32) -> Next {
        let error = || Error::Io(io::Error::from_raw_os_error(errno));
        match errno {
            // A signal; or the thread has ended that the step was begun by.
            libc::EINTR | libc::ECANCELED => return Next::Step,
            // What lies before a bad page is no multiple of what O_DIRECT wants. If the page is there again, a step without a
            // limit finds out whether the limit was the reason, or the end of the file.
            libc::EINVAL if self.limit.is_some() => {
                if let Some(bad) = self.bad_page() {
                    return Next::Done(Err(self.told(bad)));
                }
                self.limit = None;
                return Next::Step;
            }
            // What is left of a direct transfer that the file's end has cut is none, either.
            libc::EINVAL if self.done > 0 => return Next::Done(Ok(self.done)),
            libc::EAGAIN | libc::EFAULT => {}
            _ => return Next::Done(Err(error())),
        }
        self.setbacks = self.setbacks.saturating_add(1);
        if self.setbacks > PATIENCE {
            return Next::Done(Err(error()));
        }
        if errno == libc::EFAULT {
            match self.bad_page() {
                Some(Error::Fault { completed, .. } | Error::ReadOnly { completed, .. }) if completed > 0 => {
                    self.limit = Some(completed);
                }
                Some(bad) => return Next::Done(Err(self.told(bad))),
                // It is there again, or further on: what was looked at goes first.
                None if access::recovers() => self.limit = Some(FAULT_WINDOW),
                // That cannot be found out.
                None => return Next::Done(Err(error())),
            }
        }
        Next::Step
    }

    /// The first page of what is left that cannot be accessed so, if it is near: a step that has moved nothing has touched little,
    /// and nothing is populated that was only offered.
    fn bad_page(&self) -> Option<Error> {
        let buffers = self.buffers.as_ref().filter(|_| access::recovers())?;
        let access = if self.kind == Kind::Read { Probe::Write } else { Probe::Read };
        let mut before = 0_usize;
        for slice in buffers.slices() {
            let left = FAULT_WINDOW.saturating_sub(before).min(slice.len());
            let part = slice.subslice(0, left).ok().filter(|part| !part.is_empty())?;
            if let Err(bad) = part.probe(access) {
                return Some(bad.of_whole(before, buffers.len()));
            }
            before = before.saturating_add(slice.len());
        }
        None
    }

    /// The error of a page, with as many bytes transferred before as were.
    fn told(&self, bad: Error) -> Error {
        match bad {
            Error::Fault { addr, .. } => Error::Fault { addr, completed: self.done },
            Error::ReadOnly { addr, .. } => Error::ReadOnly { addr, completed: self.done },
            other => other,
        }
    }

    /// The result of a request that is not gone on with.
    pub(super) fn cancelled(&mut self) -> Result<usize, Error> {
        self.end(Err(Error::Io(io::Error::from_raw_os_error(libc::ECANCELED))))
    }

    /// The result of a request of which no step follows: whatever the kernel had and did not fill may have been touched.
    fn end(&mut self, result: Result<usize, Error>) -> Result<usize, Error> {
        let accounted_for = self.buffers.as_mut().map_or(Ok(()), |buffers| {
            if self.kind == Kind::Read && self.is_begun {
                buffers.mark(0, buffers.len());
            }
            buffers.complete(0)
        });
        accounted_for.and(result)
    }
}

/// A failed step's `errno`.
pub(super) fn errno(error: &io::Error) -> i32 {
    let unknown = if error.kind() == ErrorKind::Interrupted { libc::EINTR } else { libc::EIO };
    error.raw_os_error().unwrap_or(unknown)
}
