//! The event file descriptors by which the two sides wake each other (eventfd(2)).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// One that only this process has.
pub(super) fn own() -> io::Result<File> {
    Ok(File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
}

/// Takes what a peer says is an event file descriptor: one that is not may block, or always be ready.
pub(super) fn accept(file: File) -> io::Result<File> {
    // Where there is no /proc nobody can tell.
    if let Ok(name) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        if name.as_os_str() != "anon_inode:[eventfd]" {
            let message = format!("{} is no event file descriptor", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    }
    // A full one must not keep the device from its work.
    stop_blocking(&file)?;
    Ok(file)
}

/// Makes it non-blocking. The peer has the same description of the file, and may undo that.
fn stop_blocking(event: &File) -> io::Result<()> {
    Ok(fcntl_setfl(event, fcntl_getfl(event)? | OFlags::NONBLOCK)?)
}

/// Frees whoever waits to read it.
pub(super) fn unblock_read(event: &File) {
    match stop_blocking(event) {
        Ok(()) => signal(event),
        Err(error) => tracing::warn!(%error, "an event may block"),
    }
}

/// Frees whoever waits until it is full no more. It stays signalled, if it was.
fn unblock_write(event: &File) {
    match stop_blocking(event).and_then(|()| take(event)) {
        Ok(true) => signal(event),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "an event may block"),
    }
}

/// Takes note of what was signalled, if anything was.
pub(super) fn clear(event: &File) -> io::Result<()> {
    take(event).map(drop)
}

/// As [`clear`]; and answers whether anything was.
fn take(event: &File) -> io::Result<bool> {
    let mut count = [0; 8];
    match (&*event).read(&mut count) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Signals. One that is full has been signalled already.
pub(super) fn signal(event: &File) {
    #[expect(clippy::host_endian_bytes, reason = "the kernel's u64")]
    let one = 1_u64.to_ne_bytes();
    match (&*event).write(&one) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => tracing::warn!(%error, "an event was not signalled"),
    }
}

/// An event of the peer's that it may exchange for another at any time, or take away.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchangeable(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    event: Option<Arc<File>>,
    /// Those that were exchanged while somebody signalled them.
    old: Vec<Arc<File>>,
}

impl Exchangeable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, event: Option<File>) {
        let mut state = self.state();
        let old = std::mem::replace(&mut state.event, event.map(Arc::new));
        state.old.extend(old);
        state.old.retain(|event| Arc::strong_count(event) > 1);
    }

    /// Signals it. If the peer has made it to block that may take until somebody [unblocks](Self::unblock) it.
    pub(super) fn signal(&self) {
        // Nothing is held meanwhile that another thread needs.
        let event = self.state().event.clone();
        if let Some(event) = event {
            signal(&event);
        }
    }

    /// Frees whoever waits in [`signal`](Self::signal).
    pub(super) fn unblock(&self) {
        let state = self.state();
        state.event.iter().chain(&state.old).for_each(|event| unblock_write(event));
    }
}
