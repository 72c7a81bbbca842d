//! Transfers between buffers and files, pipes and sockets, each of which is one system call.

#![expect(unsafe_code, reason = "hands pieces to preadv(2) and its like")]

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;

// With 64 bits for the position on hosts of 32 bits, too.
use libc::{off64_t, preadv64, pwritev64};
use smallvec::SmallVec;

use super::guest_buffers::INLINE;
use super::{GuestBuffers, IoSlice};
use crate::access::{self, Probe};
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::stream::{Changes, FAULT_WINDOW, Source, socket_kind};

/// So many pieces one system call takes: `IOV_MAX`.
pub(super) const IOV_MAX: usize = 1024;

/// Pieces for one system call: some that were cut.
type Pieces<'a> = SmallVec<[IoSlice<'a>; INLINE]>;

/// Why a transfer that was to move all bytes has not, and how many it has.
///
/// The bytes that were moved are done with, and the buffers hold the others: whoever wants to goes on with them.
#[derive(Debug, thiserror::Error)]
#[error("{completed} bytes were transferred: {cause}")]
pub struct TransferError {
    /// The bytes that were moved.
    pub completed: usize,
    /// What has ended it: [`Error::PartialBuffer`] at the end of a file or stream, [`Error::Fault`] or [`Error::ReadOnly`] at
    /// a page, [`Error::Io`] if the other end failed, or would block.
    #[source]
    pub cause: Error,
}

impl From<TransferError> for Error {
    /// The cause. Where that is [`Error::Io`], how much was moved before is lost.
    fn from(error: TransferError) -> Self {
        error.cause
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into guest memory.
    In,
    /// Out of guest memory.
    Out,
}

/// # Files, pipes and sockets
///
/// Each method is the system call of its name, once, with as many pieces as that takes: 1,024 (`IOV_MAX`). What it has moved
/// is done with, and marked as dirty where it was written to memory; it may be less than was asked for. Those that end in
/// `_exact` and `_all` go on until all is done, after an interruption (`EINTR`) too.
///
/// They allocate nothing unless there are more pieces, or a page cannot be accessed.
///
/// ## Errors
///
/// * [`Error::Unsupported`], before anything is done: the buffers were made to be read, and the call would write to them, or
///   the reverse.
/// * [`Error::Fault`] and [`Error::ReadOnly`]: no byte was moved, as a page cannot be accessed, which begins at the address.
///   Bytes before it are moved first, and are a shorter transfer, unless the other end takes them for a message that is
///   whole: a datagram, or a frame of a network device. Where faults are not recovered from
///   ([`fault_recovery`](crate::fault_recovery)) it is an [`Error::Io`], of `EFAULT`.
/// * [`Error::Io`]: no byte was moved. `WouldBlock` of a descriptor that does not block, and `Interrupted`, have not touched
///   the memory. After another error any byte may have been written: all that were given to the call are marked as dirty.
///
/// The methods that go on answer a [`TransferError`]: how much was done, and one of these errors; at the end of a file or
/// stream it is [`Error::PartialBuffer`].
impl GuestBuffers<'_> {
    /// Reads a file from `offset`, in bytes from its start, as preadv(2) does, and answers how many bytes that were: 0 at its
    /// end.
    ///
    /// ```
    /// use memory_model::buffers::GuestBuffers;
    /// use memory_model::io_memory::Access;
    /// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
    /// # use std::io::Write;
    /// # let mut file = tempfile::tempfile()?;
    /// # file.write_all(b"the quick brown fox")?;
    ///
    /// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
    /// let mut buffers = GuestBuffers::new(&mem, [(IoAddress(0x10), 2), (IoAddress(0x20), 3)], Access::Write)?;
    /// assert_eq!(buffers.preadv(&file, 4)?, 5);
    /// assert!(buffers.is_empty());
    /// assert_eq!((&mem.read_obj::<[u8; 2]>(GuestAddress(0x10))?, &mem.read_obj::<[u8; 3]>(GuestAddress(0x20))?), (b"qu", b"ick"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets). `InvalidInput` if `offset` is more than `i64::MAX`.
    pub fn preadv(&mut self, fd: impl AsFd, offset: u64) -> Result<usize, Error> {
        self.preadv_up_to(usize::MAX, fd.as_fd(), offset)
    }

    /// As [`preadv`](Self::preadv), of no more than the first `limit` bytes.
    pub(super) fn preadv_up_to(&mut self, limit: usize, fd: BorrowedFd<'_>, offset: u64) -> Result<usize, Error> {
        let offset = position(offset)?;
        self.transfer(Direction::In, limit, (fd, Source::File(fd)), |pieces| {
            let (pointer, count) = array(pieces);
            // SAFETY: the kernel reads `count` iovecs, and writes no more than the bytes they describe: guest memory that stays
            // mapped while it is borrowed (the invariant of `IoSlice`), to which nobody has a reference. It reports a page
            // that cannot be written as EFAULT. The descriptor is open, as it is borrowed.
            answer(unsafe { preadv64(fd.as_raw_fd(), pointer, count, offset) })
        })
    }

    /// As [`preadv`](Self::preadv), until all bytes are there.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets).
    pub fn preadv_exact(&mut self, fd: impl AsFd, offset: u64) -> Result<(), TransferError> {
        let fd = fd.as_fd();
        self.repeat(|buffers, done| buffers.preadv(fd, offset.saturating_add(done as u64)))
    }

    /// Writes to a file from `offset` on, in bytes from its start, as pwritev(2) does, and answers how many bytes that were.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets). `InvalidInput` if `offset` is more than `i64::MAX`.
    pub fn pwritev(&mut self, fd: impl AsFd, offset: u64) -> Result<usize, Error> {
        self.pwritev_up_to(usize::MAX, fd.as_fd(), offset)
    }

    /// As [`pwritev`](Self::pwritev), of no more than the first `limit` bytes.
    pub(super) fn pwritev_up_to(&mut self, limit: usize, fd: BorrowedFd<'_>, offset: u64) -> Result<usize, Error> {
        let offset = position(offset)?;
        self.transfer(Direction::Out, limit, (fd, Source::File(fd)), |pieces| {
            let (pointer, count) = array(pieces);
            // SAFETY: as in `preadv_up_to`, but that the bytes are read.
            answer(unsafe { pwritev64(fd.as_raw_fd(), pointer, count, offset) })
        })
    }

    /// As [`pwritev`](Self::pwritev), until all bytes are written.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets).
    pub fn pwritev_all(&mut self, fd: impl AsFd, offset: u64) -> Result<(), TransferError> {
        let fd = fd.as_fd();
        self.repeat(|buffers, done| buffers.pwritev(fd, offset.saturating_add(done as u64)))
    }

    /// Reads what there is, as readv(2) does, and answers how many bytes that were: 0 at the end.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets).
    pub fn readv(&mut self, fd: impl AsFd) -> Result<usize, Error> {
        let fd = fd.as_fd();
        self.transfer(Direction::In, usize::MAX, (fd, Source::Descriptor(fd)), |pieces| {
            let (pointer, count) = array(pieces);
            // SAFETY: as in `preadv_up_to`.
            answer(unsafe { libc::readv(fd.as_raw_fd(), pointer, count) })
        })
    }

    /// As [`readv`](Self::readv), until all bytes are there.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets).
    pub fn readv_exact(&mut self, fd: impl AsFd) -> Result<(), TransferError> {
        let fd = fd.as_fd();
        self.repeat(|buffers, _| buffers.readv(fd))
    }

    /// Writes, as writev(2) does, and answers how many bytes that were.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets). `EMSGSIZE` if there are more pieces than a system call takes, and the other
    /// end would take those for a message that is whole.
    pub fn writev(&mut self, fd: impl AsFd) -> Result<usize, Error> {
        let fd = fd.as_fd();
        self.check_message(fd)?;
        self.transfer(Direction::Out, usize::MAX, (fd, Source::Descriptor(fd)), |pieces| {
            let (pointer, count) = array(pieces);
            // SAFETY: as in `pwritev_up_to`.
            answer(unsafe { libc::writev(fd.as_raw_fd(), pointer, count) })
        })
    }

    /// As [`writev`](Self::writev), until all bytes are written.
    ///
    /// # Errors
    ///
    /// See [above](Self#files-pipes-and-sockets).
    pub fn writev_all(&mut self, fd: impl AsFd) -> Result<(), TransferError> {
        let fd = fd.as_fd();
        self.repeat(|buffers, _| buffers.writev(fd))
    }

    /// Repeats `step`, which is given how many bytes were done before it, until all are.
    pub(super) fn repeat(
        &mut self,
        mut step: impl FnMut(&mut Self, usize) -> Result<usize, Error>,
    ) -> Result<(), TransferError> {
        let expected = self.len();
        let mut completed = 0_usize;
        loop {
            let cause = match step(self, completed) {
                Ok(_) if self.is_empty() => return Ok(()),
                Ok(0) => Error::PartialBuffer { expected, completed },
                Ok(count) => {
                    completed = completed.saturating_add(count);
                    continue;
                }
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error.of_whole(completed, expected),
            };
            return Err(TransferError { completed, cause });
        }
    }

    /// Whether `fd` may be given as many pieces as there are: in several calls, if it takes no message for whole.
    pub(super) fn check_message(&self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        if self.left().len() > IOV_MAX && !is_stream(fd) {
            return Err(Error::Io(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        Ok(())
    }

    /// One transfer by `call` of no more than the first `limit` bytes, unless there are none.
    fn transfer(
        &mut self,
        direction: Direction,
        limit: usize,
        fd: (BorrowedFd<'_>, Source<'_>),
        call: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        if self.is_empty() {
            return self.check(direction).map(|()| 0);
        }
        self.message(direction, limit, fd, call)
    }

    /// One transfer by `call` of no more than the first `limit` bytes, or of none.
    pub(super) fn message(
        &mut self,
        direction: Direction,
        limit: usize,
        (fd, source): (BorrowedFd<'_>, Source<'_>),
        mut call: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        self.check(direction)?;
        let all = self.left();
        let before = Changes::until_now();
        let (given, result) = if self.len() <= limit && all.len() <= IOV_MAX {
            (self.len(), call(all))
        } else {
            let (len, pieces) = self.first_pieces(limit);
            (len, call(&pieces))
        };
        match result {
            Ok(count) => Ok(self.moved(direction, (source, before), count, given)),
            Err(error) => self.failed(direction, given, (fd, source), error, call),
        }
    }

    /// Whether the memory may be used so.
    pub(super) fn check(&self, direction: Direction) -> Result<(), Error> {
        let other = if direction == Direction::In { Access::Read } else { Access::Write };
        if self.access() == other { Err(Error::Unsupported) } else { Ok(()) }
    }

    /// The first `limit` bytes, or fewer if they are in more pieces than a system call takes; and how many these are.
    fn first_pieces(&self, limit: usize) -> (usize, Pieces<'_>) {
        let mut left = limit;
        let mut pieces = Pieces::new();
        for piece in self.left().iter().take(IOV_MAX) {
            let (piece, _) = piece.cut(left);
            left = left.saturating_sub(piece.len());
            if piece.is_empty() {
                break;
            }
            pieces.push(piece);
        }
        (limit.saturating_sub(left), pieces)
    }

    /// What a transfer of `given` bytes has moved is done with, and marked. So is what may have been written without being
    /// counted (`stream::Source`).
    fn moved(
        &mut self,
        direction: Direction,
        (source, before): (Source<'_>, Changes),
        count: usize,
        given: usize,
    ) -> usize {
        let count = count.min(given);
        if direction == Direction::In && count < given && self.between(count, given).any(|slice| slice.is_tracked()) {
            let more = source.uncounted(given.saturating_sub(count), before, || self.between(count, given));
            self.mark(count, count.saturating_add(more).min(given));
        }
        self.pass(count, direction == Direction::In);
        count
    }

    /// How many of the first `given` bytes come before the first that cannot be accessed, if there is one, and its error.
    fn first_bad(&self, given: usize, access: Probe) -> Option<(usize, Error)> {
        let mut done = 0_usize;
        for slice in self.slices() {
            if done >= given {
                break;
            }
            let Ok(part) = slice.subslice(0, given.saturating_sub(done).min(slice.len())) else { break };
            match part.probe(access) {
                Ok(()) if self.is_written() && part.is_read_only() && !part.is_empty() => {
                    return Some((done, Error::ReadOnly { addr: part.addr(), completed: 0 }));
                }
                Ok(()) => done = done.saturating_add(slice.len()),
                Err(Error::Fault { addr, completed }) => {
                    return Some((done.saturating_add(completed), Error::Fault { addr, completed: 0 }));
                }
                Err(error) => return Some((done, error)),
            }
        }
        None
    }

    /// What a transfer answers of which the first `call`, of `given` bytes, has failed.
    #[cold]
    fn failed(
        &mut self,
        direction: Direction,
        given: usize,
        (fd, source): (BorrowedFd<'_>, Source<'_>),
        error: io::Error,
        call: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        // Of a socket that is read by another call than read(2), too, messages may have any length.
        let source = if matches!(source, Source::Socket(_)) { Source::Descriptor(fd) } else { source };
        if direction == Direction::In {
            self.mark(0, source.written_before(&error, given));
        }
        if access::recovers() && is_fault(&error) {
            self.before_fault(direction, given, (fd, source), error, call)
        } else {
            Err(Error::Io(error))
        }
    }

    /// The transfer once more, with no more than what lies before the page that cannot be accessed: the one that met it has
    /// moved nothing. Several times, as pages may come and go meanwhile.
    fn before_fault(
        &mut self,
        direction: Direction,
        given: usize,
        (fd, source): (BorrowedFd<'_>, Source<'_>),
        mut error: io::Error,
        mut call: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        let access = if direction == Direction::In { Probe::Write } else { Probe::Read };
        let (mut bad, is_stream) = (None, is_stream(fd));
        // A stream that has moved nothing has touched little, and nothing is populated that was only offered. A message that
        // goes out was read up to the page.
        let is_near = is_stream || direction == Direction::In;
        let mut given = if is_near { given.min(FAULT_WINDOW) } else { given };
        for _ in 0..8 {
            if let Some((good, why)) = self.first_bad(given, access) {
                if good == 0 || !is_stream {
                    return Err(why);
                }
                (given, bad) = (good, Some(why));
            } else if !is_stream {
                break;
            }
            let before = Changes::until_now();
            let result = call(&self.first_pieces(given).1);
            match result {
                Ok(count) => return Ok(self.moved(direction, (source, before), count, given)),
                Err(again) if is_fault(&again) => error = again,
                // What is there is no multiple of what O_DIRECT wants.
                Err(refused) if refused.kind() == ErrorKind::InvalidInput => {
                    return Err(bad.unwrap_or(Error::Io(refused)));
                }
                Err(other) => return Err(Error::Io(other)),
            }
        }
        Err(Error::Io(error))
    }
}

/// The array for the kernel, and its length.
pub(super) fn array(pieces: &[IoSlice<'_>]) -> (*const libc::iovec, c_int) {
    // There are no more than IOV_MAX.
    (pieces.as_ptr().cast(), c_int::try_from(pieces.len()).unwrap_or(c_int::MAX))
}

/// A system call's answer as the standard library's: `-1` is `errno`.
pub(super) fn answer(returned: libc::ssize_t) -> io::Result<usize> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned.unsigned_abs()) }
}

/// A position as the kernel takes it.
fn position(offset: u64) -> Result<off64_t, Error> {
    off64_t::try_from(offset).or(Err(Error::Io(ErrorKind::InvalidInput.into())))
}

fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// Whether bytes may be given to `fd`, or taken from it, in several calls instead of one. Datagrams may not, nor what a network
/// device takes for a frame; who knows what another device does.
fn is_stream(fd: BorrowedFd<'_>) -> bool {
    if let Some(kind) = socket_kind(fd) {
        return kind == libc::SOCK_STREAM;
    }
    let metadata = fd.try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_file() || kind.is_fifo() || kind.is_block_device()
    })
}
