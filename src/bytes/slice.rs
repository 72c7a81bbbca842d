//! `Bytes<usize>` for volatile slices: every access narrows the slice first, and tells faults by the slice's offsets.

use core::sync::atomic::Ordering;
#[cfg(feature = "std")]
use std::io;

#[cfg(feature = "std")]
use super::check_count;
use super::{AtomicAccess, Bytes};
use crate::volatile_memory::Error;
use crate::{DataInit, VolatileRef, VolatileSlice};
#[cfg(feature = "std")]
use crate::{ReadVolatile, WriteVolatile};

impl Bytes<usize> for VolatileSlice<'_> {
    type E = Error;

    #[inline]
    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, buf.len())?;
        some_done(part.copy_from(buf).map_err(|error| error.rebase(addr)))
    }

    #[inline]
    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, buf.len())?;
        some_done(part.copy_to(buf).map_err(|error| error.rebase(addr)))
    }

    #[inline]
    fn write_slice(&self, buf: &[u8], addr: usize) -> Result<(), Error> {
        let part = reachable(self, addr, buf.len())?;
        complete(buf.len(), part.copy_from(buf).map_err(|error| error.rebase(addr)))
    }

    #[inline]
    fn read_slice(&self, buf: &mut [u8], addr: usize) -> Result<(), Error> {
        let part = reachable(self, addr, buf.len())?;
        complete(buf.len(), part.copy_to(buf).map_err(|error| error.rebase(addr)))
    }

    #[inline]
    fn write_obj<T: DataInit>(&self, val: T, addr: usize) -> Result<(), Error> {
        match self.get_ref::<T>(addr) {
            Ok(place) => place.store(val).map_err(|error| error.rebase(addr)),
            Err(_) => self.write_slice(val.as_slice(), addr),
        }
    }

    #[inline]
    fn read_obj<T: DataInit>(&self, addr: usize) -> Result<T, Error> {
        match self.get_ref::<T>(addr) {
            Ok(place) => place.load().map_err(|error| error.rebase(addr)),
            Err(_) => read_cut(self, addr),
        }
    }

    #[inline]
    fn fill(&self, byte: u8, len: usize, addr: usize) -> Result<(), Error> {
        let part = reachable(self, addr, len)?;
        complete(len, part.fill_all(byte).map(|()| part.len()).map_err(|error| error.rebase(addr)))
    }

    #[inline]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Error> {
        let unit = atomic::<T>(self, addr)?.atomic_load(order).map_err(|error| error.rebase(addr))?;
        Ok(T::from_unit(unit))
    }

    #[inline]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
        atomic::<T>(self, addr)?.atomic_store(val.to_unit(), order).map_err(|error| error.rebase(addr))
    }

    #[inline]
    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: usize,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        let place = atomic::<T>(self, addr)?;
        let exchanged = place.atomic_compare_exchange(current.to_unit(), new.to_unit(), success, failure);
        Ok(match exchanged.map_err(|error| error.rebase(addr))? {
            Ok(held) => Ok(T::from_unit(held)),
            Err(held) => Err(T::from_unit(held)),
        })
    }

    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, count)?;
        if part.is_empty() {
            return Ok(0);
        }
        Ok(check_count(part.len(), src.read_volatile(&part).map_err(Error::Io)?)?)
    }

    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<(), Error> {
        transfer_all(reachable(self, addr, count)?, count, |rest| src.read_volatile(rest))
    }

    #[cfg(feature = "std")]
    fn read_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, count)?;
        if part.is_empty() {
            return Ok(0);
        }
        Ok(check_count(part.len(), dst.write_volatile(&part).map_err(Error::Io)?)?)
    }

    #[cfg(feature = "std")]
    fn read_all_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<(), Error> {
        transfer_all(reachable(self, addr, count)?, count, |rest| dst.write_volatile(rest))
    }
}

/// The part of the `len` bytes from `addr` that the slice has; not even one, where some are wanted, is an error.
#[inline]
fn reachable<'a>(slice: &VolatileSlice<'a>, addr: usize, len: usize) -> Result<VolatileSlice<'a>, Error> {
    if len == 0 {
        return Ok(VolatileSlice::default());
    }
    if addr >= slice.len() {
        return Err(Error::OutOfBounds { offset: addr, count: len, len: slice.len() });
    }
    slice.subslice(addr, len.min(slice.len() - addr))
}

/// The place of an atomic access, or why there is none.
#[inline]
fn atomic<'a, T: AtomicAccess>(slice: &VolatileSlice<'a>, addr: usize) -> Result<VolatileRef<'a, T::Unit>, Error> {
    slice.get_ref(addr).map_err(|error| {
        let size = size_of::<T>();
        if addr >= slice.len() {
            error
        } else if slice.as_ptr().addr().wrapping_add(addr) % size != 0 {
            Error::Misaligned { addr, align: size }
        } else {
            Error::PartialBuffer { expected: size, completed: 0 }
        }
    })
}

/// Reads a value that the slice's end cuts: an error, unless it has no bytes.
#[cold]
fn read_cut<T: DataInit>(slice: &VolatileSlice<'_>, addr: usize) -> Result<T, Error> {
    let mut value = T::zeroed();
    slice.read_slice(value.as_mut_slice(), addr)?;
    Ok(value)
}

/// The answer of a transfer that may be partial: a fault after some bytes is a shorter transfer.
#[inline]
fn some_done(result: Result<usize, Error>) -> Result<usize, Error> {
    match result {
        Err(Error::Fault { completed, .. }) if completed > 0 => Ok(completed),
        other => other,
    }
}

/// The answer of a transfer that must be whole.
#[inline]
fn complete(expected: usize, result: Result<usize, Error>) -> Result<(), Error> {
    match result? {
        completed if completed == expected => Ok(()),
        completed => Err(Error::PartialBuffer { expected, completed }),
    }
}

/// Repeats `step` on what is left of `part`, all that there is of `count` bytes, until nothing is or it moves nothing.
#[cfg(feature = "std")]
fn transfer_all(
    part: VolatileSlice<'_>,
    count: usize,
    mut step: impl FnMut(&VolatileSlice<'_>) -> io::Result<usize>,
) -> Result<(), Error> {
    let mut rest = part;
    while !rest.is_empty() {
        match step(&rest) {
            Ok(0) => break,
            Ok(moved) => rest = rest.offset(check_count(rest.len(), moved)?)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io(error)),
        }
    }
    complete(count, Ok(part.len() - rest.len()))
}
