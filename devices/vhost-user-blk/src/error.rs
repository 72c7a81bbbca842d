//! Why the daemon ends.

use std::io;
use std::path::PathBuf;

/// Why the daemon ends. What a front-end does wrong is no such reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image is not there, is no disk, or may not be opened.
    #[error("the image {} cannot be used: {source}", path.display())]
    Image {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made, or somebody listens there.
    #[error("the socket {} cannot be used: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the image's lock, and did not release it.
    #[error("the image {} is in use by another process, as its lock tells: stop that first", path.display())]
    Busy {
        /// Its path.
        path: PathBuf,
    },
    /// This process has no more of something that it needs.
    #[error("{what}: {source}")]
    System {
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The status that the process ends with: see [`Options`](crate::options::Options).
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::System { .. } => 1,
            Self::Image { .. } => 3,
            Self::Socket { .. } => 4,
            Self::Busy { .. } => 5,
        }
    }

    /// Makes an error of an I/O error, from what could not be done.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
