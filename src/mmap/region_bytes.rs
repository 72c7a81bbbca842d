//! `Bytes<MemoryRegionAddress>` of a mapped region.
//!
//! The operations that devices spend their time with attempt the access and are inlined whole; whatever stops it is
//! left to a cold function, which ends the call. The others are the [`GuestSlice`](crate::GuestSlice)'s.

use core::sync::atomic::Ordering;

use super::GuestRegionMmap;
use super::guest_region::index;
use crate::access;
use crate::guest_memory::Error;
use crate::volatile_memory::Stop;
use crate::{
    AtomicAccess, Bytes, DataInit, GuestMemoryRegion, MemoryRegionAddress, ReadVolatile, VolatileSlice, WriteVolatile,
};

impl Bytes<MemoryRegionAddress> for GuestRegionMmap {
    type E = Error;

    #[inline]
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.whole().write(buf, index(addr.0)).map_err(|error| by_offset(error, addr))
    }

    #[inline]
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.whole().read(buf, index(addr.0)).map_err(|error| by_offset(error, addr))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<(), Error> {
        match self.writable().try_write_slice(buf, index(addr.0)) {
            Ok(()) => {
                self.wrote(addr, buf.len());
                Ok(())
            }
            Err(stop) => write_slice_stopped(self, buf, addr, stop),
        }
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<(), Error> {
        match self.mapping.as_slice().try_read_slice(buf, index(addr.0)) {
            Ok(()) => Ok(()),
            Err(stop) => read_slice_stopped(self, buf, addr, stop),
        }
    }

    #[inline(always)]
    fn write_obj<T: DataInit>(&self, val: T, addr: MemoryRegionAddress) -> Result<(), Error> {
        match self.writable().try_write(val, index(addr.0)) {
            Ok(()) => {
                self.wrote_value::<T>(addr);
                Ok(())
            }
            Err(stop) => write_obj_stopped(self, val, addr, stop),
        }
    }

    #[inline(always)]
    fn read_obj<T: DataInit>(&self, addr: MemoryRegionAddress) -> Result<T, Error> {
        match self.mapping.as_slice().try_read(index(addr.0)) {
            Ok(value) => Ok(value),
            Err(stop) => read_obj_stopped(self, addr, stop),
        }
    }

    #[inline(always)]
    fn fill(&self, byte: u8, len: usize, addr: MemoryRegionAddress) -> Result<(), Error> {
        match self.writable().try_fill(byte, len, index(addr.0)) {
            Ok(()) => {
                self.wrote(addr, len);
                Ok(())
            }
            Err(stop) => fill_stopped(self, byte, len, addr, stop),
        }
    }

    #[inline(always)]
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T, Error> {
        match self.mapping.as_slice().try_load(index(addr.0), order) {
            Ok(unit) => Ok(T::from_unit(unit)),
            Err(stop) => load_stopped(self, addr, order, stop),
        }
    }

    #[inline(always)]
    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<(), Error> {
        match self.writable().try_store(val.to_unit(), index(addr.0), order) {
            Ok(()) => {
                self.wrote_value::<T>(addr);
                Ok(())
            }
            Err(stop) => store_stopped(self, val, addr, order, stop),
        }
    }

    #[inline(always)]
    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: MemoryRegionAddress,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        let (current_unit, new_unit) = (current.to_unit(), new.to_unit());
        match self.writable().try_compare_exchange(current_unit, new_unit, index(addr.0), success, failure) {
            Ok(Ok(held)) => {
                self.wrote_value::<T>(addr);
                Ok(Ok(T::from_unit(held)))
            }
            Ok(Err(held)) => Ok(Err(T::from_unit(held))),
            Err(stop) => compare_exchange_stopped(self, (current, new), addr, (success, failure), stop),
        }
    }

    fn write_from<S: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut S,
        count: usize,
    ) -> Result<usize, Error> {
        self.whole().write_from(index(addr.0), src, count).map_err(|error| by_offset(error, addr))
    }

    fn write_all_from<S: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut S,
        count: usize,
    ) -> Result<(), Error> {
        self.whole().write_all_from(index(addr.0), src, count).map_err(|error| by_offset(error, addr))
    }

    fn read_into<D: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut D,
        count: usize,
    ) -> Result<usize, Error> {
        self.whole().read_into(index(addr.0), dst, count).map_err(|error| by_offset(error, addr))
    }

    fn read_all_into<D: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut D,
        count: usize,
    ) -> Result<(), Error> {
        self.whole().read_all_into(index(addr.0), dst, count).map_err(|error| by_offset(error, addr))
    }
}

impl GuestRegionMmap {
    /// Marks what was written.
    #[inline(always)]
    fn wrote(&self, addr: MemoryRegionAddress, len: usize) {
        if self.tracker.is_on() && len > 0 {
            self.tracker.mark_offset(addr.0, len as u64);
        }
    }

    /// Marks the value that was written.
    #[inline(always)]
    fn wrote_value<T>(&self, addr: MemoryRegionAddress) {
        if self.tracker.is_on() && size_of::<T>() > 0 {
            self.tracker.mark_value(addr.0, size_of::<T>() as u64);
        }
    }

    /// All of the region, to write to it: nothing, where the hardware would not refuse a write with an error but must.
    #[inline(always)]
    fn writable(&self) -> VolatileSlice<'_> {
        let refused = !access::RECOVERS && self.mapping.read_only.load(Ordering::Relaxed);
        if refused { VolatileSlice::default() } else { self.mapping.as_slice() }
    }

    /// The error of an access that met a page that cannot be accessed.
    fn fault(&self, addr: MemoryRegionAddress, stop: Stop) -> Option<Error> {
        let fault = stop.fault(self.mapping.as_slice(), index(addr.0))?;
        Some(Error::from_slice(fault, self.start_addr()))
    }

    /// As [`fault`](Self::fault), of a write of `len` bytes. What it may have written is marked: all before the page, and more
    /// if the page became inaccessible during the write.
    fn write_fault(&self, addr: MemoryRegionAddress, len: usize, stop: Stop) -> Option<Error> {
        let fault = self.fault(addr, stop)?;
        let reached = stop.reached(self.mapping.as_slice(), index(addr.0), len);
        self.tracker.mark(self.tracker.base().wrapping_add(addr.0), reached);
        Some(if self.mapping.is_read_only() { fault.of_read_only() } else { fault })
    }
}

/// The error of an access to the whole region, for a caller who gave an offset.
#[cold]
#[inline(never)]
fn by_offset(error: Error, addr: MemoryRegionAddress) -> Error {
    match error {
        Error::OutOfBounds { len, .. } => Error::OutOfBounds { offset: addr.0, len },
        other => other,
    }
}

// What an access answers that has stopped at a fault; else, as it reaches past the region or is misaligned, the access by
// the slice, which does what can be done of it.

#[cold]
#[inline(never)]
fn fill_stopped(
    region: &GuestRegionMmap,
    byte: u8,
    len: usize,
    addr: MemoryRegionAddress,
    stop: Stop,
) -> Result<(), Error> {
    match region.write_fault(addr, len, stop) {
        Some(fault) => Err(fault),
        None => region.whole().fill(byte, len, index(addr.0)).map_err(|error| by_offset(error, addr)),
    }
}

#[cold]
#[inline(never)]
fn compare_exchange_stopped<T: AtomicAccess>(
    region: &GuestRegionMmap,
    (current, new): (T, T),
    addr: MemoryRegionAddress,
    (success, failure): (Ordering, Ordering),
    stop: Stop,
) -> Result<Result<T, T>, Error> {
    if let Some(fault) = region.write_fault(addr, 0, stop) {
        return Err(fault);
    }
    let exchanged = region.whole().compare_exchange(current, new, index(addr.0), success, failure);
    exchanged.map_err(|error| by_offset(error, addr))
}

#[cold]
#[inline(never)]
fn write_slice_stopped(
    region: &GuestRegionMmap,
    buf: &[u8],
    addr: MemoryRegionAddress,
    stop: Stop,
) -> Result<(), Error> {
    match region.write_fault(addr, buf.len(), stop) {
        Some(fault) => Err(fault),
        None => region.whole().write_slice(buf, index(addr.0)).map_err(|error| by_offset(error, addr)),
    }
}

#[cold]
#[inline(never)]
fn read_slice_stopped(
    region: &GuestRegionMmap,
    buf: &mut [u8],
    addr: MemoryRegionAddress,
    stop: Stop,
) -> Result<(), Error> {
    match region.fault(addr, stop) {
        Some(fault) => Err(fault),
        None => region.whole().read_slice(buf, index(addr.0)).map_err(|error| by_offset(error, addr)),
    }
}

#[cold]
#[inline(never)]
fn write_obj_stopped<T: DataInit>(
    region: &GuestRegionMmap,
    val: T,
    addr: MemoryRegionAddress,
    stop: Stop,
) -> Result<(), Error> {
    let stop = region.mapping.as_slice().finish_write(val, index(addr.0), stop);
    write_slice_stopped(region, val.as_slice(), addr, stop)
}

#[cold]
#[inline(never)]
fn read_obj_stopped<T: DataInit>(region: &GuestRegionMmap, addr: MemoryRegionAddress, stop: Stop) -> Result<T, Error> {
    match region.fault(addr, stop) {
        Some(fault) => Err(fault),
        None => region.whole().read_obj(index(addr.0)).map_err(|error| by_offset(error, addr)),
    }
}

#[cold]
#[inline(never)]
fn load_stopped<T: AtomicAccess>(
    region: &GuestRegionMmap,
    addr: MemoryRegionAddress,
    order: Ordering,
    stop: Stop,
) -> Result<T, Error> {
    match region.fault(addr, stop) {
        Some(fault) => Err(fault),
        None => region.whole().load(index(addr.0), order).map_err(|error| by_offset(error, addr)),
    }
}

#[cold]
#[inline(never)]
fn store_stopped<T: AtomicAccess>(
    region: &GuestRegionMmap,
    val: T,
    addr: MemoryRegionAddress,
    order: Ordering,
    stop: Stop,
) -> Result<(), Error> {
    match region.write_fault(addr, 0, stop) {
        Some(fault) => Err(fault),
        None => region.whole().store(val, index(addr.0), order).map_err(|error| by_offset(error, addr)),
    }
}
