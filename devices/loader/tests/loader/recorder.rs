//! Memory that is not there: it takes writes and remembers where they went. With only `read` and `write`, as a
//! register block or a remote memory has them.

use std::cell::RefCell;
use std::fs::File;

use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemoryRegion, GuestRegionCollection, GuestUsize, MemoryRegionAddress, RegionKind,
};

/// A region whose bytes are zero until they are written, in any size.
#[derive(Debug)]
pub(crate) struct Recorder {
    start: GuestAddress,
    len: GuestUsize,
    kind: RegionKind,
    /// What was written: offsets and bytes, as they came; a write that goes on where the last one ended is one with it.
    written: RefCell<Vec<(u64, Vec<u8>)>>,
    /// A file that somebody makes empty when the next byte is written.
    sabotage: RefCell<Option<File>>,
}

impl Recorder {
    /// RAM.
    pub(crate) fn memory(ranges: &[(u64, u64)]) -> GuestRegionCollection<Self> {
        let ranges: Vec<_> = ranges.iter().map(|&(start, len)| (start, len, RegionKind::Ram)).collect();
        Self::memory_of_kinds(&ranges)
    }

    pub(crate) fn memory_of_kinds(ranges: &[(u64, u64, RegionKind)]) -> GuestRegionCollection<Self> {
        let region = |&(start, len, kind)| Self {
            start: GuestAddress(start),
            len,
            kind,
            written: RefCell::default(),
            sabotage: RefCell::default(),
        };
        GuestRegionCollection::from_regions(ranges.iter().map(region).collect()).unwrap()
    }

    /// The guest addresses that were written, first and last, as they came.
    pub(crate) fn written(&self) -> Vec<(u64, u64)> {
        let ends = |(offset, bytes): &(u64, Vec<u8>)| {
            let first = self.start.0 + offset;
            (first, first + (bytes.len() as u64 - 1))
        };
        self.written.borrow().iter().map(ends).collect()
    }

    /// Makes `file` empty as soon as something is written here.
    pub(crate) fn empty_while_writing(&self, file: &File) {
        *self.sabotage.borrow_mut() = Some(file.try_clone().unwrap());
    }

    pub(crate) fn forget(&self) {
        self.written.borrow_mut().clear();
    }

    fn left(&self, addr: MemoryRegionAddress) -> Result<usize, Error> {
        match self.len.checked_sub(addr.0) {
            None | Some(0) => Err(Error::OutOfBounds { offset: addr.0, len: self.len }),
            Some(left) => Ok(usize::try_from(left).unwrap_or(usize::MAX)),
        }
    }
}

impl Bytes<MemoryRegionAddress> for Recorder {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        // At most 500 at a time, as a device with a small buffer: the caller has to go on.
        let buf = &buf[..buf.len().min(self.left(addr)?).min(500)];
        if let Some(file) = self.sabotage.take() {
            file.set_len(0).unwrap();
        }
        let mut written = self.written.borrow_mut();
        match written.last_mut() {
            Some((offset, bytes)) if *offset + bytes.len() as u64 == addr.0 => bytes.extend(buf),
            _ => written.push((addr.0, buf.to_vec())),
        }
        Ok(buf.len())
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let count = buf.len().min(self.left(addr)?);
        buf[..count].fill(0);
        for (offset, bytes) in &*self.written.borrow() {
            for (at, &byte) in (*offset..).zip(bytes).filter(|&(at, _)| at >= addr.0) {
                if let Some(target) = buf[..count].get_mut(usize::try_from(at - addr.0).unwrap()) {
                    *target = byte;
                }
            }
        }
        Ok(count)
    }
}

impl GuestMemoryRegion for Recorder {
    fn len(&self) -> GuestUsize {
        self.len
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn kind(&self) -> RegionKind {
        self.kind
    }
}
