//! The same without `io_uring`: each step is a system call, made when it is begun.

#![expect(unsafe_code, reason = "hands iovecs to preadv(2) and pwritev(2)")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::event::Event;
use super::request::{Kind, errno};
use super::table::Step;

/// The engine's event, which is raised while there are completions.
pub(super) struct Calls {
    event: Event,
    is_set: bool,
}

impl Calls {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { event: Event::new()?, is_set: false })
    }

    /// Says whether there are completions.
    pub(super) fn set(&mut self, is_set: bool) -> io::Result<()> {
        if self.is_set != is_set {
            (if is_set { self.event.raise() } else { self.event.clear() })?;
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
