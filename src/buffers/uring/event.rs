//! The descriptor that an engine's user polls.

#![expect(unsafe_code, reason = "makes an eventfd")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// An eventfd(2) that can be read while its counter is not zero.
///
/// Safe code can get at it, also to read and write it: nothing but wake-ups depends on its counter.
pub(super) struct Event(File);

impl Event {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: has no effect on memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Makes it readable.
    pub(super) fn raise(&self) -> io::Result<()> {
        // Not zero, in any byte order, and far from the largest.
        unless_blocked((&self.0).write(&[1; 8]))
    }

    /// Makes it unreadable until it is raised again.
    pub(super) fn clear(&self) -> io::Result<()> {
        unless_blocked((&self.0).read(&mut [0; 8]))
    }
}

/// A counter that is full is readable, and one that is zero is not.
fn unless_blocked(outcome: io::Result<usize>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
