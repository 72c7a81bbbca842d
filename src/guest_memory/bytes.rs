//! `Bytes<GuestAddress>` for every guest memory: finds the region, relays the access to the region's own method with its
//! type, and goes on in the next region where one ends.

use core::sync::atomic::Ordering;

use super::memory::piece;
use super::{Error, GuestAddress, GuestMemory, GuestMemoryRegion, MemoryRegionAddress};
use crate::bytes::{advance, check_count};
use crate::{AtomicAccess, Bytes, DataInit};
#[cfg(feature = "std")]
use crate::{ReadVolatile, WriteVolatile};

impl<M: GuestMemory + ?Sized> Bytes<GuestAddress> for M {
    type E = Error;

    fn write(&self, buf: &[u8], addr: GuestAddress) -> Result<usize, Error> {
        some(self, addr, buf.len(), |region, offset, done, len| region.write(part(buf, done, len), offset))
    }

    fn read(&self, buf: &mut [u8], addr: GuestAddress) -> Result<usize, Error> {
        some(self, addr, buf.len(), |region, offset, done, len| region.read(part_mut(buf, done, len), offset))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: GuestAddress) -> Result<(), Error> {
        match whole(self, addr, buf.len()) {
            Some((region, offset)) => region.write_slice(buf, offset),
            None => write_slice_elsewhere(self, buf, addr),
        }
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: GuestAddress) -> Result<(), Error> {
        match whole(self, addr, buf.len()) {
            Some((region, offset)) => region.read_slice(buf, offset),
            None => read_slice_elsewhere(self, buf, addr),
        }
    }

    #[inline(always)]
    fn write_obj<T: DataInit>(&self, val: T, addr: GuestAddress) -> Result<(), Error> {
        match whole(self, addr, size_of::<T>()) {
            Some((region, offset)) => region.write_obj(val, offset),
            None => write_elsewhere(self, val, addr),
        }
    }

    #[inline(always)]
    fn read_obj<T: DataInit>(&self, addr: GuestAddress) -> Result<T, Error> {
        match whole(self, addr, size_of::<T>()) {
            Some((region, offset)) => region.read_obj(offset),
            None => read_elsewhere(self, addr),
        }
    }

    #[inline(always)]
    fn fill(&self, byte: u8, len: usize, addr: GuestAddress) -> Result<(), Error> {
        match whole(self, addr, len) {
            Some((region, offset)) => region.fill(byte, len, offset),
            None => fill_elsewhere(self, byte, len, addr),
        }
    }

    #[inline(always)]
    fn load<T: AtomicAccess>(&self, addr: GuestAddress, order: Ordering) -> Result<T, Error> {
        match whole(self, addr, size_of::<T>()) {
            Some((region, offset)) => region.load(offset, order),
            None => load_elsewhere(self, addr, order),
        }
    }

    #[inline(always)]
    fn store<T: AtomicAccess>(&self, val: T, addr: GuestAddress, order: Ordering) -> Result<(), Error> {
        match whole(self, addr, size_of::<T>()) {
            Some((region, offset)) => region.store(val, offset, order),
            None => store_elsewhere(self, val, addr, order),
        }
    }

    #[inline(always)]
    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: GuestAddress,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        match whole(self, addr, size_of::<T>()) {
            Some((region, offset)) => region.compare_exchange(current, new, offset, success, failure),
            None => compare_exchange_elsewhere(self, current, new, addr, success, failure),
        }
    }

    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: GuestAddress, src: &mut S, count: usize) -> Result<usize, Error> {
        some(self, addr, count, |region, offset, _, len| region.write_from(offset, src, len))
    }

    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: GuestAddress, src: &mut S, count: usize) -> Result<(), Error> {
        all(self, addr, count, |region, offset, _, len| region.write_all_from(offset, src, len))
    }

    #[cfg(feature = "std")]
    fn read_into<D: WriteVolatile>(&self, addr: GuestAddress, dst: &mut D, count: usize) -> Result<usize, Error> {
        some(self, addr, count, |region, offset, _, len| region.read_into(offset, dst, len))
    }

    #[cfg(feature = "std")]
    fn read_all_into<D: WriteVolatile>(&self, addr: GuestAddress, dst: &mut D, count: usize) -> Result<(), Error> {
        all(self, addr, count, |region, offset, _, len| region.read_all_into(offset, dst, len))
    }
}

/// The region that has all of `len` bytes at `addr`, and the offset in it, if that is easily found.
#[inline(always)]
fn whole<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    len: usize,
) -> Option<(&M::Region, MemoryRegionAddress)> {
    let (region, offset) = memory.guess_region_addr(addr)?;
    // The same comparisons as the region's own, so that these do for both.
    (offset.0 <= region.len().checked_sub(len as u64)?).then_some((region, offset))
}

#[inline]
fn find<M: GuestMemory + ?Sized>(memory: &M, addr: GuestAddress) -> Result<(&M::Region, MemoryRegionAddress), Error> {
    memory.to_region_addr(addr).ok_or(Error::InvalidGuestAddress(addr))
}

#[inline]
fn part(buf: &[u8], start: usize, len: usize) -> &[u8] {
    buf.get(start..).and_then(|rest| rest.get(..len)).unwrap_or_default()
}

#[inline]
fn part_mut(buf: &mut [u8], start: usize, len: usize) -> &mut [u8] {
    buf.get_mut(start..).and_then(|rest| rest.get_mut(..len)).unwrap_or_default()
}

/// Does `step(region, offset, done, len)` for one region after the other, until one does less than it was asked to or
/// memory ends. Only where nothing was done is that an error; or where a step says that something was lost.
fn some<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    count: usize,
    mut step: impl FnMut(&M::Region, MemoryRegionAddress, usize, usize) -> Result<usize, Error>,
) -> Result<usize, Error> {
    let mut done: usize = 0;
    while let Some(left) = count.checked_sub(done).filter(|&left| left > 0) {
        let Some((region, offset, len)) = advance(addr, done).and_then(|addr| piece(memory, addr, left)) else {
            if done == 0 {
                return Err(Error::InvalidGuestAddress(addr));
            }
            break;
        };
        match step(region, offset, done, len) {
            Ok(moved) => {
                done = done.saturating_add(check_count(len, moved)?);
                if moved < len {
                    break;
                }
            }
            Err(Error::PartialBuffer { expected, completed }) => {
                let completed = completed.saturating_add(done);
                return Err(Error::PartialBuffer { expected: expected.saturating_add(done), completed });
            }
            Err(error) if done == 0 || matches!(error, Error::Overrun { .. }) => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Does `step(region, offset, done, len)` for one region after the other, all of `count` bytes.
fn all<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    count: usize,
    mut step: impl FnMut(&M::Region, MemoryRegionAddress, usize, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut done: usize = 0;
    while let Some(left) = count.checked_sub(done).filter(|&left| left > 0) {
        let Some((region, offset, len)) = advance(addr, done).and_then(|addr| piece(memory, addr, left)) else {
            return Err(Error::InvalidGuestAddress(addr).of_whole(done, count));
        };
        step(region, offset, done, len).map_err(|error| error.of_whole(done, count))?;
        done = done.saturating_add(len);
    }
    Ok(())
}

// What the guess has not found: in another region, in several, or nowhere.

#[inline(never)]
fn write_slice_elsewhere<M: GuestMemory + ?Sized>(memory: &M, buf: &[u8], addr: GuestAddress) -> Result<(), Error> {
    all(memory, addr, buf.len(), |region, offset, done, len| region.write_slice(part(buf, done, len), offset))
}

#[inline(never)]
fn read_slice_elsewhere<M: GuestMemory + ?Sized>(memory: &M, buf: &mut [u8], addr: GuestAddress) -> Result<(), Error> {
    all(memory, addr, buf.len(), |region, offset, done, len| region.read_slice(part_mut(buf, done, len), offset))
}

#[inline(never)]
fn fill_elsewhere<M: GuestMemory + ?Sized>(memory: &M, byte: u8, len: usize, addr: GuestAddress) -> Result<(), Error> {
    all(memory, addr, len, |region, offset, _, len| region.fill(byte, len, offset))
}

#[inline(never)]
fn write_elsewhere<M: GuestMemory + ?Sized, T: DataInit>(memory: &M, val: T, addr: GuestAddress) -> Result<(), Error> {
    match piece(memory, addr, size_of::<T>()) {
        Some((region, offset, len)) if len == size_of::<T>() => region.write_obj(val, offset),
        _ => write_slice_elsewhere(memory, val.as_slice(), addr),
    }
}

#[inline(never)]
fn read_elsewhere<M: GuestMemory + ?Sized, T: DataInit>(memory: &M, addr: GuestAddress) -> Result<T, Error> {
    match piece(memory, addr, size_of::<T>()) {
        Some((region, offset, len)) if len == size_of::<T>() => region.read_obj(offset),
        _ => {
            let mut value = T::zeroed();
            read_slice_elsewhere(memory, value.as_mut_slice(), addr)?;
            Ok(value)
        }
    }
}

#[inline(never)]
fn load_elsewhere<M: GuestMemory + ?Sized, T: AtomicAccess>(
    memory: &M,
    addr: GuestAddress,
    order: Ordering,
) -> Result<T, Error> {
    let (region, offset) = find(memory, addr)?;
    region.load(offset, order)
}

#[inline(never)]
fn store_elsewhere<M: GuestMemory + ?Sized, T: AtomicAccess>(
    memory: &M,
    val: T,
    addr: GuestAddress,
    order: Ordering,
) -> Result<(), Error> {
    let (region, offset) = find(memory, addr)?;
    region.store(val, offset, order)
}

#[inline(never)]
fn compare_exchange_elsewhere<M: GuestMemory + ?Sized, T: AtomicAccess>(
    memory: &M,
    current: T,
    new: T,
    addr: GuestAddress,
    success: Ordering,
    failure: Ordering,
) -> Result<Result<T, T>, Error> {
    let (region, offset) = find(memory, addr)?;
    region.compare_exchange(current, new, offset, success, failure)
}
