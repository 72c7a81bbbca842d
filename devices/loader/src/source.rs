//! The file: positioned reads that are checked against its length, and leave its cursor alone.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memory_model::stream::FileAt;
use memory_model::{Bytes, GuestMemory};
use object::read::ReadCacheOps;

use crate::{Error, LoadedRange};

/// A regular file, and its length when it was opened here.
pub(crate) struct Source<'a> {
    file: &'a File,
    len: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a File) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(Error::Io)?;
        if !metadata.is_file() {
            return Err(Error::NotARegularFile);
        }
        Ok(Self { file, len: metadata.len() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Refuses a range that is not in the file.
    pub(crate) fn check(&self, what: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Error::Truncated { what, offset, len, file_len: self.len }),
        }
    }

    /// Fills `buf` from `offset` on.
    pub(crate) fn read(&self, what: &'static str, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.check(what, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(Error::Io)
    }

    /// The first `N` bytes; zero where the file has none.
    pub(crate) fn head<const N: usize>(&self) -> Result<[u8; N], Error> {
        let mut head = [0; N];
        let len = usize::try_from(self.len).unwrap_or(N).min(N);
        self.read("start", 0, head.get_mut(..len).unwrap_or_default())?;
        Ok(head)
    }

    /// Fills `range` of guest memory with what the file has from `offset` on. Both were checked.
    pub(crate) fn load<M>(&self, memory: &M, range: LoadedRange, offset: u64) -> Result<(), Error>
    where
        M: GuestMemory + ?Sized,
    {
        let mut stream = FileAt::new(self.file, offset);
        memory
            .write_all_from(range.addr, &mut stream, range.access_len()?)
            .map_err(|source| Error::Copy { range, source })
    }
}

/// The source as `object` reads it. The first I/O error is left in `trouble`, as `object` has no place for it.
pub(crate) struct Reader<'a> {
    source: &'a Source<'a>,
    position: u64,
    trouble: &'a Cell<Option<io::Error>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a Source<'a>, trouble: &'a Cell<Option<io::Error>>) -> Self {
        Self { source, position: 0, trouble }
    }

    /// `object` knows that something failed; the cell knows what.
    fn note<T>(&self, result: io::Result<T>) -> Result<T, ()> {
        result.map_err(|error| self.trouble.set(Some(error)))
    }
}

impl ReadCacheOps for Reader<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        Ok(self.source.len)
    }

    fn seek(&mut self, pos: u64) -> Result<u64, ()> {
        self.position = pos;
        Ok(pos)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        let count = self.note(self.source.file.read_at(buf, self.position))?;
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ()> {
        self.note(self.source.file.read_exact_at(buf, self.position))?;
        self.position = self.position.saturating_add(buf.len() as u64);
        Ok(())
    }
}
