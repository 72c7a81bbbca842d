//! What the tests of pinned views share.

use std::sync::Arc;

use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, GuestSlice, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileMemory,
};

/// The guest address of a guest's first byte.
pub(crate) const BASE: u64 = 0x7_4000_0000;

pub(crate) fn page() -> usize {
    rustix::param::page_size()
}

/// The address of a byte of the guest.
pub(crate) fn at(position: usize) -> GuestAddress {
    GuestAddress(BASE + position as u64)
}

/// Memory of so many pages, the first at this one of the guest.
pub(crate) fn region(first: usize, pages: usize) -> Arc<GuestRegionMmap> {
    Arc::new(GuestRegionMmap::new(MmapRegion::new(pages * page()).unwrap(), at(first * page())).unwrap())
}

/// Regions by their first page and the number of pages.
pub(crate) fn memory(regions: &[(usize, usize)]) -> GuestMemoryMmap {
    let regions = regions.iter().map(|&(first, pages)| region(first, pages)).collect();
    GuestMemoryMmap::from_arc_regions(regions).unwrap()
}

/// Whether an access to a page that is not there is an error here, and not the end of the process; says so if not.
pub(crate) fn recovers() -> bool {
    let does = cfg!(all(feature = "fault-recovery", any(target_arch = "x86_64", target_arch = "aarch64")));
    if !does {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
    does
}

/// Memory of a kind of the test's own, of which nothing is marked: with bytes in the host, or without.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) mapping: MmapRegion,
    pub(crate) start: GuestAddress,
    pub(crate) has_bytes: bool,
}

impl Own {
    /// A page of the guest.
    pub(crate) fn new(number: usize, has_bytes: bool) -> Self {
        Self { mapping: MmapRegion::new(page()).unwrap(), start: at(number * page()), has_bytes }
    }

    fn slice(&self) -> GuestSlice<'_> {
        GuestSlice::new(self.mapping.as_volatile_slice(), None, self.start)
    }
}

impl Bytes<MemoryRegionAddress> for Own {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.slice().write(buf, addr.0 as usize)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.slice().read(buf, addr.0 as usize)
    }
}

impl GuestMemoryRegion for Own {
    fn len(&self) -> GuestUsize {
        self.mapping.len() as u64
    }
    fn start_addr(&self) -> GuestAddress {
        self.start
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        if self.has_bytes {
            self.slice().subslice(offset.0 as usize, count)
        } else {
            Err(Error::NoHostMemory(self.start))
        }
    }
}
