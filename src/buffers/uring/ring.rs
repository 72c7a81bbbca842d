//! The kernel's queues.

#![expect(unsafe_code, reason = "gives the kernel addresses that it reads and writes later")]

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::event::Event;
use super::request::Kind;
use super::table::Step;

/// What the answer to a cancellation is known by. No request has this number.
const CANCELLATION: u64 = u64::MAX;

/// What the answer to the first entry of all is known by.
const TRIAL: u64 = u64::MAX - 1;

/// An `io_uring`.
///
/// # Invariant
///
/// No safe code outside of this file has its descriptor. It could map the queues by that, and change entries that the kernel
/// has not read yet. Users poll the event.
pub(super) struct Ring {
    ring: IoUring,
    /// The kernel adds to it after it has answered.
    event: Event,
}

impl Ring {
    /// A ring for so many requests at a time, or fewer if the kernel has a limit. It was seen to work.
    pub(super) fn new(requests: u16) -> io::Result<Self> {
        // The queues are shared memory: a child could disturb its parent's.
        let ring = IoUring::builder().setup_clamp().dontfork().build(u32::from(requests))?;
        if !ring.params().is_feature_nodrop() {
            // Before Linux 5.5 an answer could get lost.
            return Err(ErrorKind::Unsupported.into());
        }
        let mut ring = Self { ring, event: Event::new()? };
        // Some may make a ring and may not use it. Nothing is pushed before the kernel has taken this one.
        if !ring.push(&opcode::Nop::new().build().user_data(TRIAL)) {
            return Err(ErrorKind::Unsupported.into());
        }
        ring.enter(1)?;
        while ring.next_answer().is_some() {}
        ring.ring.submitter().register_eventfd(ring.event.as_fd().as_raw_fd())?;
        Ok(ring)
    }

    /// How many requests it can have at a time. There is room for as many cancellations besides, in the queue of answers.
    pub(super) fn capacity(&self) -> usize {
        usize::try_from(self.ring.params().sq_entries()).unwrap_or(usize::MAX)
    }

    /// Puts a step into the queue of what the kernel is to begin; false if it is full.
    ///
    /// # Safety
    ///
    /// The step's iovecs stay where and as they are, and the memory that they name stays mapped, until
    /// [`next_answer`](Self::next_answer) has answered the step's number as often as it was pushed; or for ever.
    pub(super) unsafe fn begin(&mut self, file: &File, step: &Step<'_>) -> bool {
        let fd = Fd(file.as_raw_fd());
        // An `IoSlice` is laid out as an iovec.
        let iovecs = step.iovecs.as_ptr().cast::<libc::iovec>();
        // Never more than a system call takes (`Request::hand_out`).
        let count = u32::try_from(step.iovecs.len()).unwrap_or(0);
        let entry = match step.kind {
            Kind::Read => opcode::Readv::new(fd, iovecs, count).offset(step.offset).build(),
            Kind::Write => opcode::Writev::new(fd, iovecs, count).offset(step.offset).build(),
            Kind::SyncData => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Kind::SyncAll => opcode::Fsync::new(fd).build(),
        };
        self.push(&entry.user_data(step.number as u64))
    }

    /// Asks the kernel to cancel a request, if it can; false if the queue is full.
    pub(super) fn cancel(&mut self, number: usize) -> bool {
        self.push(&opcode::AsyncCancel::new(number as u64).build().user_data(CANCELLATION))
    }

    /// Pushes an entry: one without addresses, or whose addresses hold as `begin` demands; false if the queue is full.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the addresses in the entry are those of `begin`, whose caller has promised that they hold until the kernel is
        // done. The entry itself is copied.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Gives the kernel all that was pushed, if anything was.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0) }
    }

    /// Gives the kernel all that was pushed, and waits until there are `wanted` answers that were not taken.
    pub(super) fn enter(&mut self, wanted: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                // It may take some only, where it fails to begin one; that one is answered.
                Ok(taken) if taken > 0 && !self.ring.submission().is_empty() => {}
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Makes the event unreadable until the kernel answers again. Answers that were given before are to be looked for afterwards.
    pub(super) fn clear_event(&self) -> io::Result<()> {
        self.event.clear()
    }

    /// Makes the event readable, for completions that the kernel does not raise it for.
    pub(super) fn raise_event(&self) -> io::Result<()> {
        self.event.raise()
    }

    /// Takes the next answer, to the step of this number.
    pub(super) fn next_answer(&mut self) -> Option<(usize, Result<usize, i32>)> {
        loop {
            // One at a time, and taken from the queue before anything is done about it: none is seen twice.
            let entry = self.ring.completion().next()?;
            // A number of ours; others are not of steps.
            if let Some(number) = usize::try_from(entry.user_data()).ok().filter(|_| entry.user_data() < TRIAL) {
                let answer = usize::try_from(entry.result());
                return Some((number, answer.or(Err(entry.result().saturating_neg()))));
            }
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
