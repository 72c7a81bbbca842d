//! A region in ordinary memory that shows when it is used after its end, and can be counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryRegion, GuestRegionCollection, GuestUsize, MemoryRegionAddress,
};
use zerocopy::IntoBytes;

pub(crate) type Map = GuestMemoryAtomic<GuestRegionCollection<Ram>>;

/// What its words hold while it lives, each one's address added.
pub(crate) const ALIVE: u64 = 0xa11f_e000_0000_0000;

/// Reads as words of [`ALIVE`] and their address; writes are refused.
#[derive(Debug)]
pub(crate) struct Ram {
    start: GuestAddress,
    words: Vec<AtomicU64>,
    living: Arc<AtomicUsize>,
}

impl Ram {
    /// `len` bytes, a multiple of 8; it counts in `living` while it lives.
    pub(crate) fn new(start: u64, len: u64, living: &Arc<AtomicUsize>) -> Arc<Self> {
        living.fetch_add(1, Ordering::SeqCst);
        let words = (0..len / 8).map(|word| AtomicU64::new(ALIVE + start + word * 8)).collect();
        Arc::new(Self { start: GuestAddress(start), words, living: Arc::clone(living) })
    }
}

/// A map of regions, first address and length of each, and how many live.
pub(crate) fn map(ranges: &[(u64, u64)]) -> (Map, Arc<AtomicUsize>) {
    let living = Arc::default();
    let regions = ranges.iter().map(|&(start, len)| Ram::new(start, len, &living)).collect();
    (GuestMemoryAtomic::new(GuestRegionCollection::from_arc_regions(regions).unwrap()), living)
}

/// First address and length of each.
pub(crate) fn ranges(mem: &GuestRegionCollection<Ram>) -> Vec<(u64, u64)> {
    mem.arc_regions().iter().map(|region| (region.start_addr().0, region.len())).collect()
}

impl Drop for Ram {
    fn drop(&mut self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
        self.living.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Bytes<MemoryRegionAddress> for Ram {
    type E = Error;

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let word = usize::try_from(addr.0 / 8).ok().and_then(|word| self.words.get(word));
        let word = word.ok_or(Error::OutOfBounds { offset: addr.0, len: self.len() })?;
        let word = word.load(Ordering::Relaxed);
        let bytes = word.as_bytes();
        let count = buf.len().min(bytes.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write(&self, _: &[u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
}

impl GuestMemoryRegion for Ram {
    fn len(&self) -> GuestUsize {
        self.words.len() as u64 * 8
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }
}
