//! Messages of sockets to and from buffers.

#![expect(unsafe_code, reason = "hands pieces to recvmsg(2) and sendmsg(2)")]

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};
use std::{mem, ptr};

use super::transfer::{Direction, answer, array};
use super::{GuestBuffers, IoSlice};
use crate::guest_memory::Error;
use crate::stream::Source;

/// What [`GuestBuffers::recvmsg`] has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Received {
    /// The bytes that have landed. 0 if the other end of a stream will send no more; or of a datagram without bytes.
    pub len: usize,
    /// Whether a datagram had more bytes than there was room for, which are lost (`MSG_TRUNC`).
    pub is_truncated: bool,
}

impl GuestBuffers<'_> {
    /// Receives from a socket, as recvmsg(2) does: one datagram, or what a stream has. `flags` are `MSG_DONTWAIT`, `MSG_PEEK` and
    /// the like.
    ///
    /// Where the bytes come from is not told. Nor is there room for what comes along with them: descriptors are closed by the
    /// kernel. A datagram that meets a page that cannot be accessed is lost.
    ///
    /// # Errors
    ///
    /// See [`GuestBuffers`](Self#files-pipes-and-sockets). [`Error::Unsupported`] with `MSG_TRUNC`, by which a stream counts bytes
    /// that have not landed.
    pub fn recvmsg(&mut self, fd: impl AsFd, flags: c_int) -> Result<Received, Error> {
        if flags & libc::MSG_TRUNC != 0 {
            return Err(Error::Unsupported);
        }
        let fd = fd.as_fd();
        let mut is_truncated = false;
        let len = self.message(Direction::In, usize::MAX, (fd, Source::SOCKET), |pieces| {
            let mut header = header(pieces);
            // SAFETY: the kernel reads the header and its iovecs, and writes no more than the bytes that these describe, which
            // are guest memory that stays mapped while it is borrowed (the invariant of `IoSlice`), and the header. It reports a
            // page that cannot be written as EFAULT. The descriptor is open, as it is borrowed.
            let received = answer(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) });
            is_truncated = received.is_ok() && header.msg_flags & libc::MSG_TRUNC != 0;
            received
        })?;
        Ok(Received { len, is_truncated })
    }

    /// Sends to a connected socket, as sendmsg(2) does: one datagram, or as much as a stream takes, and answers how many bytes that
    /// were. `flags` are `MSG_DONTWAIT`, `MSG_MORE` and the like. A stream that nobody reads any more is an error, and no
    /// signal (`MSG_NOSIGNAL`).
    ///
    /// Descriptors cannot be sent along.
    ///
    /// # Errors
    ///
    /// See [`GuestBuffers`](Self#files-pipes-and-sockets). `EMSGSIZE` if a datagram is in more than 1,024 pieces, or longer than the
    /// socket sends.
    pub fn sendmsg(&mut self, fd: impl AsFd, flags: c_int) -> Result<usize, Error> {
        let fd = fd.as_fd();
        self.check_message(fd)?;
        self.message(Direction::Out, usize::MAX, (fd, Source::SOCKET), |pieces| {
            let header = header(pieces);
            // SAFETY: as in `recvmsg`, but that the bytes and the header are read.
            answer(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) })
        })
    }
}

/// A message of these pieces, and nothing else.
fn header(pieces: &[IoSlice<'_>]) -> libc::msghdr {
    // SAFETY: a struct of integers and pointers, which may all be zero: no address, and no control data. Its fields, and what
    // lies between them, are other on each target.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let (pointer, count) = array(pieces);
    header.msg_name = ptr::null_mut();
    header.msg_iov = pointer.cast_mut();
    // An `int` or a `size_t`.
    header.msg_iovlen = count.try_into().unwrap_or_default();
    header
}
