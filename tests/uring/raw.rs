//! System calls that these tests need.

#![expect(unsafe_code, reason = "changes the process, and polls")]

use std::ffi::{c_int, c_long};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

/// The answer of a system call that answers -1 if it fails.
#[track_caller]
pub(crate) fn done(answer: impl Into<c_long>) -> c_long {
    let answer = answer.into();
    assert!(answer >= 0, "{}", io::Error::last_os_error());
    answer
}

/// Ends this process some time, whatever it does, and lets it leave no core.
pub(crate) fn limit() {
    // SAFETY: has no effect on memory.
    unsafe { libc::alarm(50) };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads the struct.
    done(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) });
}

/// A pipe: the end to read from, and the one to write to.
pub(crate) fn pipe(flags: c_int) -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors to the array.
    done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) });
    // SAFETY: new descriptors, which nobody else has.
    let [read, write] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    (read, write)
}

/// Whether there is something to be read, now or, if it is to `wait`, later.
pub(crate) fn is_readable(of: &impl AsFd, wait: bool) -> bool {
    let mut fd = libc::pollfd { fd: of.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: reads and writes the struct.
        match unsafe { libc::poll(&raw mut fd, 1, if wait { -1 } else { 0 }) } {
            -1 => assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::Interrupted),
            _ => return fd.revents & libc::POLLIN != 0,
        }
    }
}

/// Forks. The child does `body`, and ends; answers what it has ended with.
pub(crate) fn in_fork(body: impl FnOnce()) -> c_int {
    // SAFETY: the child does `body`, which allocates nothing that another thread may hold a lock for: there is no other.
    let child = unsafe { libc::fork() };
    if done(child) == 0 {
        body();
        // SAFETY: ends the child, without what the parent would do at its end.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: writes the status.
    done(unsafe { libc::waitpid(child, &raw mut status, 0) });
    status
}

/// Whether something is mapped at an address.
pub(crate) fn is_mapped(addr: usize) -> bool {
    let mut residency = 0_u8;
    // SAFETY: writes one byte, of the page that begins there.
    let answer = unsafe { libc::mincore(std::ptr::without_provenance_mut(addr), 1, &raw mut residency) };
    answer == 0
}

/// Locks as much memory as wanted, or no more than so much.
pub(crate) fn lock_limit(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: reads the struct.
    done(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) });
}
