//! Files, sockets and buffers as the other end of a transfer from or to volatile memory.
//!
//! The standard library's `Read` takes a `&mut [u8]`, which guest memory must never be. [`ReadVolatile`] and
//! [`WriteVolatile`] take a [`VolatileSlice`] instead, and hand its pointer to the kernel, or copy its bytes.
//!
//! A slice's own methods and [`Bytes::write_from`](crate::Bytes::write_from) are how a device uses them.

#![expect(unsafe_code, reason = "hands slices to read(2), write(2), pread(2) and pwrite(2)")]

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Stdout, StdoutLock, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    unix::net::UnixStream,
};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
use libc::{off_t as FileOffset, pread, pwrite};
// With 64 bits for the position on hosts of 32 bits, too.
#[cfg(any(target_os = "linux", target_os = "android"))]
use libc::{off64_t as FileOffset, pread64 as pread, pwrite64 as pwrite};

use crate::VolatileSlice;

mod changes;
mod uncounted;

pub(crate) use changes::Changes;
pub(crate) use uncounted::FAULT_WINDOW;
pub use uncounted::Source;
#[cfg(target_os = "linux")]
pub(crate) use uncounted::socket_kind;

/// A source of bytes for volatile memory: `std::io::Read` without the reference.
///
/// A source may write to all of the buffer that it is given. Where guest memory is filled by one, all of that buffer is marked
/// as dirty. The sources of this module write what they count, and rarely more, and just that is marked.
pub trait ReadVolatile {
    /// Fills `buf` from its start with what there is, in one step, and answers how many bytes that is: 0 if `buf` is
    /// empty or the source is at its end, and never more than `buf` has.
    ///
    /// # Errors
    ///
    /// As for [`std::io::Read::read`]: then nothing was taken from the source.
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize>;

    /// Fills all of `buf`, in as many steps as it takes, and goes on after an interruption.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the source ends before; `InvalidData` if it claims to have read more than it was asked to;
    /// whatever [`read_volatile`](Self::read_volatile) answers. What was read before is in `buf`.
    fn read_exact_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
        transfer_all(buf, ErrorKind::UnexpectedEof, |rest| self.read_volatile(rest))
    }

    /// What fills the buffer, for what is marked as dirty: by default, code that may use all of it.
    #[doc(hidden)]
    fn source(&self) -> Source<'_> {
        Source::Any
    }
}

/// A sink of bytes from volatile memory: `std::io::Write` without the reference.
pub trait WriteVolatile {
    /// Takes bytes from the start of `buf`, in one step, and answers how many it took: 0 if `buf` is empty or the sink
    /// takes no more, and never more than `buf` has.
    ///
    /// # Errors
    ///
    /// As for [`std::io::Write::write`]: then nothing was taken.
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize>;

    /// Takes all of `buf`, in as many steps as it takes, and goes on after an interruption.
    ///
    /// # Errors
    ///
    /// `WriteZero` if the sink takes no more; `InvalidData` if it claims to have written more than it was given;
    /// whatever [`write_volatile`](Self::write_volatile) answers. What was written before stays written.
    fn write_all_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
        transfer_all(buf, ErrorKind::WriteZero, |rest| self.write_volatile(rest))
    }
}

/// Repeats `step` on what is left of `buf` until nothing is; a step that moves nothing is the error `at_end`.
fn transfer_all(
    buf: &VolatileSlice<'_>,
    at_end: ErrorKind,
    mut step: impl FnMut(&VolatileSlice<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    let mut rest = *buf;
    while !rest.is_empty() {
        match step(&rest) {
            Ok(0) => return Err(at_end.into()),
            Ok(count) => rest = rest.offset(count).or(Err(ErrorKind::InvalidData))?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl<R: ReadVolatile + ?Sized> ReadVolatile for &mut R {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        (**self).read_volatile(buf)
    }
    fn read_exact_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
        (**self).read_exact_volatile(buf)
    }
    fn source(&self) -> Source<'_> {
        (**self).source()
    }
}

impl<W: WriteVolatile + ?Sized> WriteVolatile for &mut W {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        (**self).write_volatile(buf)
    }
    fn write_all_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
        (**self).write_all_volatile(buf)
    }
}

/// A system call's answer as the standard library's: `-1` is `errno`.
#[cfg(unix)]
fn answer(returned: libc::ssize_t) -> io::Result<usize> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned.unsigned_abs()) }
}

#[cfg(unix)]
fn read_fd(fd: BorrowedFd<'_>, buf: &VolatileSlice<'_>) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes, all of the slice's, which is valid for the call; it reports a page
    // that cannot be written as EFAULT. The descriptor is open, as it is borrowed.
    answer(unsafe { libc::read(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) })
}

#[cfg(unix)]
fn write_fd(fd: BorrowedFd<'_>, buf: &VolatileSlice<'_>) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `len` bytes, all of the slice's, which is valid for the call; it reports a page
    // that cannot be read as EFAULT. The descriptor is open, as it is borrowed.
    answer(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) })
}

macro_rules! fd_streams {
    (in: $($In:ty),*; sockets: $($Socket:ty),*; out: $($Out:ty),*;) => {
        $(
            #[cfg(unix)]
            impl ReadVolatile for $Socket {
                fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                    read_fd(self.as_fd(), buf)
                }
                fn source(&self) -> Source<'_> {
                    Source::SOCKET
                }
            }
        )*
        $(
            #[cfg(unix)]
            impl ReadVolatile for $In {
                fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                    read_fd(self.as_fd(), buf)
                }
                fn source(&self) -> Source<'_> {
                    Source::Descriptor(self.as_fd())
                }
            }
        )*
        $(
            #[cfg(unix)]
            impl WriteVolatile for $Out {
                fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                    write_fd(self.as_fd(), buf)
                }
            }
        )*
    };
}
fd_streams! {
    in: File, &File, OwnedFd, BorrowedFd<'_>, ChildStdout, ChildStderr;
    sockets: UnixStream, &UnixStream, TcpStream, &TcpStream;
    out: File, &File, OwnedFd, BorrowedFd<'_>, UnixStream, &UnixStream, TcpStream, &TcpStream, ChildStdin;
}

#[cfg(unix)]
impl WriteVolatile for StdoutLock<'_> {
    /// Writes past the standard library's buffer, after what is in it.
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.flush()?;
        write_fd(self.as_fd(), buf)
    }
}

#[cfg(unix)]
impl WriteVolatile for Stdout {
    /// Writes past the standard library's buffer, after what is in it.
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.lock().write_volatile(buf)
    }
}

/// A file from a position on: a stream that leaves the file's own cursor alone, by `pread` and `pwrite`.
///
/// Several threads may each have one on the same file.
///
/// ```
/// use memory_model::{Bytes, VolatileSlice, stream::FileAt};
/// # use std::io::Write;
/// # let mut file = tempfile::tempfile()?;
/// # file.write_all(b"the quick brown fox")?;
/// let mut buffer = [0; 5];
/// VolatileSlice::from(&mut buffer[..]).write_all_from(0, &mut FileAt::new(&file, 4), 5)?;
/// assert_eq!(&buffer, b"quick");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(unix)]
#[derive(Debug)]
pub struct FileAt<'a> {
    fd: BorrowedFd<'a>,
    position: u64,
}

#[cfg(unix)]
impl<'a> FileAt<'a> {
    /// The stream that begins at `position`, in bytes from the start of `file`.
    pub fn new(file: &'a impl AsFd, position: u64) -> Self {
        Self { fd: file.as_fd(), position }
    }

    /// Where the next transfer begins, in bytes from the start of the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// One transfer by `call`, which gets the position, and the step by what it moved.
    fn step(&mut self, call: impl FnOnce(FileOffset) -> libc::ssize_t) -> io::Result<usize> {
        let position = FileOffset::try_from(self.position).or(Err(ErrorKind::InvalidInput))?;
        let count = answer(call(position))?;
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}

#[cfg(unix)]
impl ReadVolatile for FileAt<'_> {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: as in `read_fd`.
        self.step(|position| unsafe { pread(fd, buf.as_ptr().cast(), buf.len(), position) })
    }
    fn source(&self) -> Source<'_> {
        Source::File(self.fd)
    }
}

#[cfg(unix)]
impl WriteVolatile for FileAt<'_> {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: as in `write_fd`.
        self.step(|position| unsafe { pwrite(fd, buf.as_ptr().cast(), buf.len(), position) })
    }
}

impl ReadVolatile for &[u8] {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let count = buf.copy_from(self)?;
        *self = self.get(count..).unwrap_or_default();
        Ok(count)
    }
    fn source(&self) -> Source<'_> {
        Source::Exact
    }
}

impl WriteVolatile for &mut [u8] {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let count = buf.copy_to(self)?;
        let (_, rest) = std::mem::take(self).split_at_mut(count);
        *self = rest;
        Ok(count)
    }
}

impl WriteVolatile for Vec<u8> {
    /// Appends all of `buf`.
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let start = self.len();
        self.try_reserve(buf.len())?;
        self.resize(start + buf.len(), 0);
        let copied = buf.copy_to(self.get_mut(start..).unwrap_or_default());
        if copied.is_err() {
            self.truncate(start);
        }
        Ok(copied?)
    }
}

impl<T: AsRef<[u8]>> ReadVolatile for Cursor<T> {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let start = usize::try_from(self.position()).unwrap_or(usize::MAX);
        let mut rest = self.get_ref().as_ref().get(start..).unwrap_or_default();
        let count = rest.read_volatile(buf)?;
        self.set_position(self.position().saturating_add(count as u64));
        Ok(count)
    }
    fn source(&self) -> Source<'_> {
        Source::Exact
    }
}

impl WriteVolatile for Cursor<&mut [u8]> {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let start = usize::try_from(self.position()).unwrap_or(usize::MAX);
        let mut rest = self.get_mut().get_mut(start..).unwrap_or_default();
        let count = rest.write_volatile(buf)?;
        self.set_position(self.position().saturating_add(count as u64));
        Ok(count)
    }
}

impl WriteVolatile for Cursor<Vec<u8>> {
    /// Writes over what is there, and appends the rest; a gap before the position becomes zeros.
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let start = usize::try_from(self.position()).or(Err(ErrorKind::OutOfMemory))?;
        let end = start.checked_add(buf.len()).ok_or(ErrorKind::OutOfMemory)?;
        let bytes = self.get_mut();
        let len = bytes.len();
        bytes.try_reserve(end.saturating_sub(len))?;
        bytes.resize(end.max(len), 0);
        let copied = buf.copy_to(bytes.get_mut(start..end).unwrap_or_default());
        if copied.is_err() {
            bytes.truncate(len);
        }
        let count = copied?;
        self.set_position(end as u64);
        Ok(count)
    }
}
