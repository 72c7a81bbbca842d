//! Who ends a connection from another thread.

use std::fmt;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Ends a front-end's connection: whoever waits for its next message finds that it is gone.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<UnixStream>);

impl Hangup {
    /// Another handle to the connection.
    ///
    /// # Errors
    ///
    /// The process has too many files open.
    pub fn new(connection: &UnixStream) -> std::io::Result<Self> {
        Ok(Self(Arc::new(connection.try_clone()?)))
    }

    /// Ends it, if it has not ended.
    pub fn end(&self) {
        if let Err(reason) = self.0.shutdown(Shutdown::Both) {
            tracing::debug!(%reason, "a connection has ended before it was to end");
        }
    }

    /// Waits, and answers whether either side has ended it by then.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        let limit = Timespec::try_from(limit).ok();
        match poll(&mut fds, limit.as_ref()) {
            Ok(count) => count > 0,
            Err(_) => false, // a signal: it was no wait, and there is another
        }
    }

    /// Ends it, and says why.
    pub(crate) fn because(&self, reason: fmt::Arguments<'_>) {
        tracing::warn!(%reason, "the connection is ended");
        self.end();
    }
}
