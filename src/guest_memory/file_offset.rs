use std::fs::File;
use std::sync::Arc;

/// A position in a file: where the memory that maps it begins. A clone is a handle to the same open file.
#[derive(Clone, Debug)]
pub struct FileOffset {
    file: Arc<File>,
    start: u64,
}

impl FileOffset {
    /// The position `start` bytes into `file`.
    pub fn new(file: File, start: u64) -> Self {
        Self::from_arc(Arc::new(file), start)
    }

    /// The position `start` bytes into a file that is shared already.
    pub fn from_arc(file: Arc<File>, start: u64) -> Self {
        Self { file, start }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, to be shared further.
    pub fn arc(&self) -> &Arc<File> {
        &self.file
    }

    /// The position, in bytes from the start of the file.
    pub fn start(&self) -> u64 {
        self.start
    }
}
