//! Notifications: counters that one side increments and the other waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};

/// A counter that never blocks, as QEMU's.
pub(crate) struct Event {
    fd: OwnedFd,
}

impl Event {
    pub(crate) fn new() -> Self {
        Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap() }
    }

    /// Each read of which takes one away, and leaves the rest.
    pub(crate) fn semaphore() -> Self {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        Self { fd: eventfd(0, flags).unwrap() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn add(&self, count: u64) {
        write(&self.fd, &count.to_ne_bytes()).unwrap();
    }

    /// Makes it so full that not even 1 can be added.
    pub(crate) fn fill(&self) {
        while write(&self.fd, &(u64::MAX - 1).to_ne_bytes()).is_err() {
            self.take();
        }
    }

    /// What it has counted since the last time.
    pub(crate) fn take(&self) -> u64 {
        let mut bytes = [0; 8];
        match read(&self.fd, &mut bytes) {
            Ok(_) => u64::from_ne_bytes(bytes),
            Err(Errno::AGAIN) => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until it has counted something; false if it has not by then.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        is_readable(self.fd(), limit)
    }
}

/// Waits until something can be read, or the other end is closed; false if nothing has happened by then.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)).unwrap() != 0
}
