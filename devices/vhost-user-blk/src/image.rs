//! The file behind the disk, and the lock that keeps two processes from writing it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;

/// For how long a lock is tried: that of a guest that migrates away is held until its rings have drained.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// A file, or a block device.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    read_only: bool,
    /// How many leases there are.
    leases: Mutex<usize>,
}

/// The right to read the image, and to write it unless it is read-only: as long as any lives, the image is locked (flock(2),
/// shared by those who only read). It is advice, to processes that look for it.
#[derive(Debug)]
pub struct Lease(Arc<Image>);

impl Image {
    /// Opens it. It is not locked yet.
    ///
    /// # Errors
    ///
    /// [`Error::Image`].
    pub fn open(path: PathBuf, read_only: bool) -> Result<Self, Error> {
        match open(&path, read_only) {
            Ok(file) => Ok(Self { path, file, read_only, leases: Mutex::new(0) }),
            Err(source) => Err(Error::Image { path, source }),
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether nothing may be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// An error of the image's.
    pub fn error(&self, source: io::Error) -> Error {
        Error::Image { path: self.path.clone(), source }
    }

    /// Locks the image, if this process has not. Waits for another process that has, for up to 5 seconds: `pause` waits for as
    /// long as it is told, and answers whether to go on. `None` if not.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]; [`Error::System`] if the file system has no locks.
    pub fn lease(self: &Arc<Self>, pause: impl Fn(Duration) -> bool) -> Result<Option<Lease>, Error> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if *leases == 0 && !self.lock(pause)? {
            return Ok(None);
        }
        *leases = leases.saturating_add(1);
        Ok(Some(Lease(Arc::clone(self))))
    }

    /// Another lease, if there is one: so that the image stays locked while rings are stopped for a moment.
    pub fn hold(self: &Arc<Self>) -> Option<Lease> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if *leases == 0 {
            return None;
        }
        *leases = leases.saturating_add(1);
        Some(Lease(Arc::clone(self)))
    }

    fn lock(&self, pause: impl Fn(Duration) -> bool) -> Result<bool, Error> {
        let how = if self.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        let begun = Instant::now();
        loop {
            match flock(&self.file, how) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < PATIENCE => {
                    if !pause(PAUSE) {
                        return Ok(false);
                    }
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(Error::Busy { path: self.path.clone() }),
                Err(errno) => return Err(Error::System { what: "the image cannot be locked", source: errno.into() }),
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        *leases = leases.saturating_sub(1);
        if *leases == 0 {
            if let Err(reason) = flock(&self.0.file, FlockOperation::Unlock) {
                tracing::warn!(%reason, "the image stays locked until this process ends");
            }
        }
    }
}

fn open(path: &PathBuf, read_only: bool) -> io::Result<File> {
    // Before it is opened: that would wait for the other end of a pipe.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a regular file nor a block device"));
    }
    File::options().read(true).write(!read_only).open(path)
}
