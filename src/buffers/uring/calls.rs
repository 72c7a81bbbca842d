//! The same without `io_uring`: each step is a system call, made when it is begun.

#![expect(unsafe_code, reason = "hands iovecs to preadv(2) and pwritev(2), and makes an eventfd")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};

use super::request::{Kind, errno};
use super::table::Step;

/// An eventfd that can be read while there are completions.
pub(super) struct Calls {
    event: File,
    is_set: bool,
}

impl Calls {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: has no effect on memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        Ok(Self { event: unsafe { File::from_raw_fd(fd) }, is_set: false })
    }

    /// Says whether there are completions.
    pub(super) fn set(&mut self, is_set: bool) -> io::Result<()> {
        if self.is_set != is_set {
            let mut not_zero = [1; 8];
            if is_set {
                self.event.write_all(&not_zero)?;
            } else {
                self.event.read_exact(&mut not_zero)?;
            }
            self.is_set = is_set;
        }
        Ok(())
    }
}

impl AsFd for Calls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Does a step, to its end.
pub(super) fn call(file: &File, step: &Step<'_>) -> Result<usize, i32> {
    let done = match step.kind {
        Kind::SyncData => file.sync_data().map(|()| 0),
        Kind::SyncAll => file.sync_all().map(|()| 0),
        Kind::Read | Kind::Write => transfer(file, step),
    };
    done.map_err(|error| errno(&error))
}

fn transfer(file: &File, step: &Step<'_>) -> io::Result<usize> {
    let fd = file.as_raw_fd();
    // An `IoSlice` is laid out as an iovec.
    let iovecs = step.iovecs.as_ptr().cast::<libc::iovec>();
    // Never more than a system call takes (`Request::hand_out`).
    let count = libc::c_int::try_from(step.iovecs.len()).unwrap_or(0);
    let offset = libc::off64_t::try_from(step.offset).or(Err(io::ErrorKind::InvalidInput))?;
    let moved = if step.kind == Kind::Read {
        // SAFETY: there are as many iovecs. They name guest memory, which stays mapped as long as the request has its buffers:
        // longer than the call. The kernel writes no more than that, and reports a page that cannot be written as EFAULT.
        unsafe { libc::preadv64(fd, iovecs, count, offset) }
    } else {
        // SAFETY: as above, but that it reads.
        unsafe { libc::pwritev64(fd, iovecs, count, offset) }
    };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(moved.unsigned_abs()) }
}
