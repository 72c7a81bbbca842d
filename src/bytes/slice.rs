//! `Bytes<usize>` for volatile slices: every access narrows the slice first, and tells faults by the slice's offsets.

use core::sync::atomic::Ordering;
#[cfg(feature = "std")]
use std::io;

#[cfg(feature = "std")]
use super::check_count;
use super::{AtomicAccess, Bytes};
#[cfg(feature = "std")]
use crate::access::{self, Probe};
#[cfg(feature = "std")]
use crate::stream::FAULT_WINDOW;
use crate::volatile_memory::{Error, Stop};
use crate::{DataInit, VolatileSlice};
#[cfg(feature = "std")]
use crate::{ReadVolatile, WriteVolatile};

impl VolatileSlice<'_> {
    /// Sets the bits of `bits` in the value at `addr`, as one atomic access, and returns what it was: for logs of dirty
    /// pages that a peer process reads and clears.
    ///
    /// This is a loop on x86-64 (`lock cmpxchg`) and aarch64 (exclusive load and store), as neither has one instruction
    /// for it that returns the value. Someone who keeps writing to the same place can delay it. Marks in a
    /// [`LogBitmap`](crate::dirty::LogBitmap) need no value and are one instruction on x86-64 (`lock or`).
    ///
    /// # Errors
    ///
    /// As for [`Bytes::compare_exchange`].
    #[inline]
    pub fn fetch_or<T: AtomicAccess>(&self, bits: T, addr: usize, order: Ordering) -> Result<T, Error> {
        match self.try_fetch_or(bits.to_unit(), addr, order) {
            Ok(held) => Ok(T::from_unit(held)),
            Err(stop) => Err(atomic_stopped(*self, addr, size_of::<T>(), stop)),
        }
    }

    /// As [`fetch_or`](Self::fetch_or), without the value: one instruction on x86-64.
    #[cfg(feature = "std")]
    #[inline]
    pub(crate) fn set_bits<T: AtomicAccess>(&self, bits: T, addr: usize, order: Ordering) -> Result<(), Error> {
        self.try_set_bits(bits.to_unit(), addr, order).map_err(|stop| atomic_stopped(*self, addr, size_of::<T>(), stop))
    }
}

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
        self.try_write_slice(buf, addr).or_else(|stop| write_stopped(*self, buf, addr, stop))
    }

    #[inline]
    fn read_slice(&self, buf: &mut [u8], addr: usize) -> Result<(), Error> {
        self.try_read_slice(buf, addr).or_else(|stop| read_stopped(*self, buf, addr, stop))
    }

    #[inline]
    fn write_obj<T: DataInit>(&self, val: T, addr: usize) -> Result<(), Error> {
        self.try_write(val, addr).or_else(|stop| write_obj_stopped(*self, val, addr, stop))
    }

    #[inline]
    fn read_obj<T: DataInit>(&self, addr: usize) -> Result<T, Error> {
        self.try_read(addr).or_else(|stop| read_obj_stopped(*self, addr, stop))
    }

    #[inline]
    fn fill(&self, byte: u8, len: usize, addr: usize) -> Result<(), Error> {
        self.try_fill(byte, len, addr).or_else(|stop| fill_stopped(*self, byte, len, addr, stop))
    }

    #[inline]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Error> {
        match self.try_load(addr, order) {
            Ok(unit) => Ok(T::from_unit(unit)),
            Err(stop) => Err(atomic_stopped(*self, addr, size_of::<T>(), stop)),
        }
    }

    #[inline]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
        self.try_store(val.to_unit(), addr, order).map_err(|stop| atomic_stopped(*self, addr, size_of::<T>(), stop))
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
        match self.try_compare_exchange(current.to_unit(), new.to_unit(), addr, success, failure) {
            Ok(Ok(held)) => Ok(Ok(T::from_unit(held))),
            Ok(Err(held)) => Ok(Err(T::from_unit(held))),
            Err(stop) => Err(atomic_stopped(*self, addr, size_of::<T>(), stop)),
        }
    }

    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, count)?;
        if part.is_empty() {
            return Ok(0);
        }
        step(part, Probe::Write, &mut |part| src.read_volatile(part)).map_err(|error| error.rebase(addr))
    }

    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<(), Error> {
        transfer_all(reachable(self, addr, count)?, count, Probe::Write, |rest| src.read_volatile(rest))
            .map_err(|error| error.rebase(addr))
    }

    #[cfg(feature = "std")]
    fn read_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<usize, Error> {
        let part = reachable(self, addr, count)?;
        if part.is_empty() {
            return Ok(0);
        }
        step(part, Probe::Read, &mut |part| dst.write_volatile(part)).map_err(|error| error.rebase(addr))
    }

    #[cfg(feature = "std")]
    fn read_all_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<(), Error> {
        transfer_all(reachable(self, addr, count)?, count, Probe::Read, |rest| dst.write_volatile(rest))
            .map_err(|error| error.rebase(addr))
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

/// What an atomic access answers that did nothing.
#[cold]
#[inline(never)]
fn atomic_stopped(slice: VolatileSlice<'_>, addr: usize, size: usize, stop: Stop) -> Error {
    match stop.fault(slice, addr) {
        Some(fault) => fault,
        None if addr >= slice.len() => Error::OutOfBounds { offset: addr, count: size, len: slice.len() },
        None if slice.as_ptr().addr().wrapping_add(addr) % size != 0 => Error::Misaligned { addr, align: size },
        None => Error::PartialBuffer { expected: size, completed: 0 },
    }
}

/// Fills what the slice's end has left, unless it has met a fault.
#[cold]
#[inline(never)]
fn fill_stopped(slice: VolatileSlice<'_>, byte: u8, len: usize, addr: usize, stop: Stop) -> Result<(), Error> {
    if let Some(fault) = stop.fault(slice, addr) {
        return Err(fault);
    }
    let part = reachable(&slice, addr, len)?;
    complete(len, part.fill_all(byte).map(|()| part.len()).map_err(|error| error.rebase(addr)))
}

/// Writes bytes that the slice's end cuts, unless they have met a fault.
#[cold]
#[inline(never)]
fn write_stopped(slice: VolatileSlice<'_>, buf: &[u8], addr: usize, stop: Stop) -> Result<(), Error> {
    if let Some(fault) = stop.fault(slice, addr) {
        return Err(fault);
    }
    let part = reachable(&slice, addr, buf.len())?;
    complete(buf.len(), part.copy_from(buf).map_err(|error| error.rebase(addr)))
}

/// Reads bytes that the slice's end cuts, unless they have met a fault.
#[cold]
#[inline(never)]
fn read_stopped(slice: VolatileSlice<'_>, buf: &mut [u8], addr: usize, stop: Stop) -> Result<(), Error> {
    if let Some(fault) = stop.fault(slice, addr) {
        return Err(fault);
    }
    let part = reachable(&slice, addr, buf.len())?;
    complete(buf.len(), part.copy_to(buf).map_err(|error| error.rebase(addr)))
}

#[cold]
#[inline(never)]
fn write_obj_stopped<T: DataInit>(slice: VolatileSlice<'_>, val: T, addr: usize, stop: Stop) -> Result<(), Error> {
    write_stopped(slice, val.as_slice(), addr, slice.finish_write(val, addr, stop))
}

#[cold]
#[inline(never)]
fn read_obj_stopped<T: DataInit>(slice: VolatileSlice<'_>, addr: usize, stop: Stop) -> Result<T, Error> {
    let mut value = T::zeroed();
    read_stopped(slice, value.as_mut_slice(), addr, stop)?;
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

/// One step of a stream, with all of `part`, of which it may move less.
#[cfg(feature = "std")]
fn step(
    part: VolatileSlice<'_>,
    access: Probe,
    transfer: &mut impl FnMut(&VolatileSlice<'_>) -> io::Result<usize>,
) -> Result<usize, Error> {
    match transfer(&part) {
        Ok(moved) => Ok(check_count(part.len(), moved)?),
        Err(error) if access::recovers() && is_fault(&error) => step_before_fault(part, access, error, transfer),
        Err(error) => Err(Error::Io(error)),
    }
}

/// Whether the step failed because of the memory: in the kernel, or in a copy of ours.
#[cfg(feature = "std")]
fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT) || met(error).is_some()
}

/// How many bytes a copy of ours has moved before it met an inaccessible page.
#[cfg(feature = "std")]
fn met(error: &io::Error) -> Option<usize> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::Fault { completed, .. } => Some(*completed),
        _ => None,
    }
}

/// The step once more, with no more than what lies before the inaccessible page: the one that met it has moved nothing.
/// Several times, as pages may come and go. The page is looked for near the start, as a step that has moved nothing has touched
/// little: so nothing is populated that was only offered, and each step costs about the same.
#[cfg(feature = "std")]
#[cold]
fn step_before_fault(
    mut part: VolatileSlice<'_>,
    access: Probe,
    mut error: io::Error,
    transfer: &mut impl FnMut(&VolatileSlice<'_>) -> io::Result<usize>,
) -> Result<usize, Error> {
    part = match met(&error) {
        // A copy of ours says where it is.
        Some(completed) if completed > 0 => part.subslice(0, completed.min(part.len()))?,
        _ => part.subslice(0, part.len().min(FAULT_WINDOW))?,
    };
    for _ in 0..8 {
        match part.probe(access) {
            Err(Error::Fault { completed, .. }) if completed > 0 => part = part.subslice(0, completed)?,
            Err(fault) => return Err(fault),
            // It is there again; or it was no byte of this memory.
            Ok(()) => {}
        }
        match transfer(&part) {
            Ok(moved) => return Ok(check_count(part.len(), moved)?),
            Err(again) if is_fault(&again) => error = again,
            Err(other) => return Err(Error::Io(other)),
        }
    }
    Err(Error::Io(error))
}

/// Repeats steps with what is left of `part`, all that there is of `count` bytes, until nothing is or it moves nothing.
#[cfg(feature = "std")]
fn transfer_all(
    part: VolatileSlice<'_>,
    count: usize,
    access: Probe,
    mut transfer: impl FnMut(&VolatileSlice<'_>) -> io::Result<usize>,
) -> Result<(), Error> {
    let mut rest = part;
    while !rest.is_empty() {
        let done = part.len() - rest.len();
        match step(rest, access, &mut transfer) {
            Ok(0) => break,
            Ok(moved) => rest = rest.offset(moved)?,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(Error::Fault { addr, completed }) => {
                return Err(Error::Fault { addr: addr + done, completed: completed + done });
            }
            Err(error) => return Err(error),
        }
    }
    complete(count, Ok(part.len() - rest.len()))
}
