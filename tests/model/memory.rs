//! Memories to call: a region of two methods, regions of two kinds, and a memory that is no collection.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(all(feature = "mmap", unix))]
use memory_model::GuestRegionMmap;
use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress};

use super::layout::Span;

/// A region that does no more than a region has to: `read` and `write`, as far as it goes.
#[derive(Debug)]
pub(crate) struct CustomRegion {
    start: GuestAddress,
    bytes: Mutex<Vec<u8>>,
}

impl CustomRegion {
    pub(crate) fn new(span: Span) -> Self {
        Self { start: GuestAddress(span.start), bytes: Mutex::new(vec![0; span.len]) }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes from `addr` on, at most `len` of them.
fn reachable(bytes: &mut [u8], addr: MemoryRegionAddress, len: usize) -> Result<&mut [u8], Error> {
    let end = bytes.len();
    let start = usize::try_from(addr.0).ok().filter(|&start| start < end);
    match start {
        Some(start) => Ok(&mut bytes[start..start + len.min(end - start)]),
        None if len == 0 => Ok(&mut []),
        None => Err(Error::OutOfBounds { offset: addr.0, len: end as u64 }),
    }
}

impl Bytes<MemoryRegionAddress> for CustomRegion {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let mut bytes = self.bytes();
        let part = reachable(&mut bytes, addr, buf.len())?;
        part.copy_from_slice(&buf[..part.len()]);
        Ok(part.len())
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let mut bytes = self.bytes();
        let part = reachable(&mut bytes, addr, buf.len())?;
        buf[..part.len()].copy_from_slice(part);
        Ok(part.len())
    }
}

impl GuestMemoryRegion for CustomRegion {
    fn len(&self) -> GuestUsize {
        self.bytes().len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }
}

/// A region of either kind.
#[derive(Debug)]
pub(crate) enum MixedRegion {
    #[cfg(all(feature = "mmap", unix))]
    Ram(GuestRegionMmap),
    Custom(CustomRegion),
}

/// Evaluates `$body`, in which `$region` is the region of either kind.
macro_rules! either {
    ($self:expr, $region:ident => $body:expr) => {
        match $self {
            #[cfg(all(feature = "mmap", unix))]
            MixedRegion::Ram($region) => $body,
            MixedRegion::Custom($region) => $body,
        }
    };
}

/// Forwards methods of `Bytes` to the region of either kind.
macro_rules! forward {
    ($(fn $method:ident$([$T:ident: $($Bound:tt)*])?($($arg:ident: $Arg:ty),*) -> $Answer:ty;)*) => {$(
        fn $method$(<$T: $($Bound)*>)?(&self, $($arg: $Arg),*) -> Result<$Answer, Error> {
            either!(self, region => region.$method($($arg),*))
        }
    )*};
}

impl Bytes<MemoryRegionAddress> for MixedRegion {
    type E = Error;

    forward! {
        fn write(buf: &[u8], addr: MemoryRegionAddress) -> usize;
        fn read(buf: &mut [u8], addr: MemoryRegionAddress) -> usize;
        fn write_slice(buf: &[u8], addr: MemoryRegionAddress) -> ();
        fn read_slice(buf: &mut [u8], addr: MemoryRegionAddress) -> ();
        fn write_obj[T: memory_model::DataInit](val: T, addr: MemoryRegionAddress) -> ();
        fn read_obj[T: memory_model::DataInit](addr: MemoryRegionAddress) -> T;
        fn fill(byte: u8, len: usize, addr: MemoryRegionAddress) -> ();
        fn load[T: memory_model::AtomicAccess](addr: MemoryRegionAddress, order: std::sync::atomic::Ordering) -> T;
        fn store[T: memory_model::AtomicAccess](
            val: T, addr: MemoryRegionAddress, order: std::sync::atomic::Ordering
        ) -> ();
        fn compare_exchange[T: memory_model::AtomicAccess](
            current: T, new: T, addr: MemoryRegionAddress,
            success: std::sync::atomic::Ordering, failure: std::sync::atomic::Ordering
        ) -> Result<T, T>;
        fn write_from[S: memory_model::ReadVolatile](addr: MemoryRegionAddress, src: &mut S, count: usize) -> usize;
        fn write_all_from[S: memory_model::ReadVolatile](addr: MemoryRegionAddress, src: &mut S, count: usize) -> ();
        fn read_into[D: memory_model::WriteVolatile](addr: MemoryRegionAddress, dst: &mut D, count: usize) -> usize;
        fn read_all_into[D: memory_model::WriteVolatile](addr: MemoryRegionAddress, dst: &mut D, count: usize) -> ();
    }
}

impl GuestMemoryRegion for MixedRegion {
    fn len(&self) -> GuestUsize {
        either!(self, region => region.len())
    }

    fn start_addr(&self) -> GuestAddress {
        either!(self, region => region.start_addr())
    }

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        either!(self, region => region.get_slice(offset, count))
    }
}

/// A memory of the user's own: the three required methods, and no index.
#[derive(Debug)]
pub(crate) struct ListMemory {
    /// By ascending address.
    regions: Vec<MixedRegion>,
}

impl ListMemory {
    pub(crate) fn new(mut regions: Vec<MixedRegion>) -> Self {
        regions.sort_by_key(GuestMemoryRegion::start_addr);
        Self { regions }
    }
}

impl GuestMemory for ListMemory {
    type Region = MixedRegion;

    fn num_regions(&self) -> usize {
        self.regions.len()
    }

    fn find_region(&self, addr: GuestAddress) -> Option<&MixedRegion> {
        self.regions.iter().find(|region| region.to_region_addr(addr).is_some())
    }

    fn regions(&self) -> impl Iterator<Item = &MixedRegion> {
        self.regions.iter()
    }
}
