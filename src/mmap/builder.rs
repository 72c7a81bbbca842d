use super::{Error, FileOffset, MmapRegion};

/// How a mapping is made: from [`MmapRegion::builder`].
///
/// ```
/// use memory_model::{FileOffset, MmapRegion, VolatileMemory};
///
/// let file = tempfile::tempfile()?;
/// file.set_len(0x3000)?;
/// // A copy of the file's second page on: writes stay in this process.
/// let region = MmapRegion::builder(0x2000).file(FileOffset::new(file, 0x1000)).private().build()?;
/// assert_eq!(region.len(), 0x2000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is mapped before `build`"]
pub struct MmapRegionBuilder {
    pub(super) size: usize,
    pub(super) file: Option<FileOffset>,
    pub(super) sharing: Option<Sharing>,
    #[cfg(feature = "fault-recovery")]
    pub(super) fault_recovery: bool,
}

/// Who sees what is written to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Whoever maps the same file, and the file.
    Shared,
    /// This process.
    Private,
}

impl MmapRegionBuilder {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            file: None,
            sharing: None,
            #[cfg(feature = "fault-recovery")]
            fault_recovery: true,
        }
    }

    /// Maps a file, shared unless [`private`](Self::private) is asked for. Without a file, memory is anonymous.
    pub fn file(self, file: FileOffset) -> Self {
        Self { file: Some(file), ..self }
    }

    /// What is written is seen by all who map the same memory, and by the file. Usual for a file.
    pub fn shared(self) -> Self {
        Self { sharing: Some(Sharing::Shared), ..self }
    }

    /// What is written stays in this process: of a file, the mapping is a copy on write. Usual without a file.
    pub fn private(self) -> Self {
        Self { sharing: Some(Sharing::Private), ..self }
    }

    /// Whether to install the handlers that make an error of a page that cannot be accessed, unless they are there
    /// already: [`install`](crate::fault_recovery::install). Usual. Without them, and without any other mapping that has
    /// installed them, such a page ends the process: for a program that must keep its signal handlers as they are.
    #[cfg(feature = "fault-recovery")]
    pub fn fault_recovery(self, on: bool) -> Self {
        Self { fault_recovery: on, ..self }
    }

    /// Maps it.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::TooLarge`]; for a file [`Error::MisalignedFileOffset`], and [`Error::PastEndOfFile`] if
    /// it does not have all the bytes; [`Error::Map`] if the kernel refuses, [`Error::FaultRecovery`] if it refuses the
    /// handlers. Nothing is left mapped then.
    pub fn build(self) -> Result<MmapRegion, Error> {
        MmapRegion::map(self)
    }
}
