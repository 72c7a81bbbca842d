//! A region that is no RAM: only the two required methods of `Bytes`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestAddress, GuestMemoryRegion, GuestUsize, MemoryRegionAddress};

pub(crate) struct Custom {
    pub(crate) start: GuestAddress,
    pub(crate) bytes: Mutex<Vec<u8>>,
    /// How often `read` and `write` were called.
    pub(crate) calls: AtomicUsize,
    /// How many bytes a call moves at most.
    pub(crate) step: usize,
}

impl Custom {
    pub(crate) fn new(start: u64, len: usize) -> Self {
        Self {
            start: GuestAddress(start),
            bytes: Mutex::new(vec![0; len]),
            calls: AtomicUsize::new(0),
            step: usize::MAX,
        }
    }

    fn range(&self, addr: MemoryRegionAddress, wanted: usize) -> Result<std::ops::Range<usize>, Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let len = self.bytes.lock().unwrap().len();
        match usize::try_from(addr.0) {
            Ok(start) if wanted == 0 => Ok(start.min(len)..start.min(len)),
            Ok(start) if start < len => Ok(start..start + wanted.min(len - start).min(self.step)),
            _ => Err(Error::OutOfBounds { offset: addr.0, len: len as u64 }),
        }
    }
}

impl Bytes<MemoryRegionAddress> for Custom {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let range = self.range(addr, buf.len())?;
        let len = range.len();
        self.bytes.lock().unwrap()[range].copy_from_slice(&buf[..len]);
        Ok(len)
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let range = self.range(addr, buf.len())?;
        let len = range.len();
        buf[..len].copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(len)
    }
}

impl GuestMemoryRegion for Custom {
    fn len(&self) -> GuestUsize {
        self.bytes.lock().unwrap().len() as u64
    }
    fn start_addr(&self) -> GuestAddress {
        self.start
    }
}
