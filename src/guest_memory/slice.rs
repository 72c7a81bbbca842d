use core::sync::atomic::Ordering;

use super::{Error, GuestAddress};
use crate::access::Probe;
use crate::dirty::Tracker;
use crate::volatile_memory::{self, CopyError};
use crate::{AtomicAccess, Bytes, DataInit, VolatileSlice};
#[cfg(feature = "std")]
use crate::{ReadVolatile, WriteVolatile};

/// So many bytes of guest memory, contiguous in host memory, whose writes are marked as dirty.
///
/// Reads and writes at offsets are [`Bytes<usize>`]; their errors name guest addresses. It does not turn into a
/// [`VolatileSlice`], as writes through that would not be marked.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'a> {
    slice: VolatileSlice<'a>,
    tracker: Option<&'a Tracker>,
    addr: GuestAddress,
}

impl<'a> GuestSlice<'a> {
    /// The bytes of `slice`, which lie at guest address `addr`; writes are marked in `tracker`. For providers of guest
    /// memory.
    #[inline]
    pub fn new(slice: VolatileSlice<'a>, tracker: Option<&'a Tracker>, addr: GuestAddress) -> Self {
        Self { slice, tracker, addr }
    }

    /// No bytes at all, at `addr`.
    pub(super) fn empty(addr: GuestAddress) -> Self {
        Self { slice: VolatileSlice::default(), tracker: None, addr }
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there is no byte in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The guest address of the first byte.
    #[inline]
    pub fn addr(&self) -> GuestAddress {
        self.addr
    }

    /// The host address of the first byte, for system calls and other foreign code. What it does through the pointer is
    /// its own responsibility, and is not marked as dirty.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.slice.as_ptr()
    }

    /// The `count` bytes from `offset`. No byte is had everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] if `offset` lies outside; [`Error::PartialBuffer`] if the slice ends before `count`.
    #[inline]
    pub fn subslice(&self, offset: usize, count: usize) -> Result<Self, Error> {
        match self.slice.subslice(offset, count) {
            // The address of a byte of the slice, or the one past its last: not beyond 2^64, or never asked for.
            Ok(slice) => Ok(Self { slice, addr: GuestAddress(self.addr.0.wrapping_add(offset as u64)), ..*self }),
            Err(_) if count == 0 => Ok(Self::empty(self.addr)),
            Err(_) if offset < self.len() => {
                Err(Error::PartialBuffer { expected: count, completed: self.len().saturating_sub(offset) })
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Copies this slice to `dst`, as far as both reach, and answers how many bytes were copied. The two may overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], in either slice; see [`VolatileSlice::copy_to_volatile_slice`].
    pub fn copy_to_guest_slice(&self, dst: GuestSlice<'_>) -> Result<usize, Error> {
        match self.slice.copy_telling_side(dst.slice) {
            Ok(count) => {
                dst.mark(0, count);
                Ok(count)
            }
            Err(side) => {
                // The copy may have gone upwards or downwards, so all that it could reach is marked.
                dst.mark(0, self.len().min(dst.len()));
                Err(match side {
                    CopyError::Source(error) => self.error(error),
                    CopyError::Destination(error) => dst.error(error),
                })
            }
        }
    }

    /// Whether all bytes are zero. Reads upwards, and no further than to some byte that is not.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], if the bytes before the inaccessible page are zero.
    pub fn is_zero(&self) -> Result<bool, Error> {
        self.slice.is_zero().map_err(|error| self.error(error))
    }

    /// Sets the bits of `bits` in the value at `offset`, as one atomic access, and answers what it was.
    ///
    /// # Errors
    ///
    /// As for [`Bytes::compare_exchange`].
    #[inline]
    pub fn fetch_or<T: AtomicAccess>(&self, bits: T, offset: usize, order: Ordering) -> Result<T, Error> {
        self.wrote(offset, self.slice.fetch_or(bits, offset, order), |_| size_of::<T>())
    }

    /// Looks for the first byte that cannot be accessed, page by page, and changes none: [`Error::Fault`].
    pub(super) fn probe(&self, access: Probe) -> Result<(), Error> {
        self.slice.probe(access).map_err(|error| self.error(error))
    }

    /// Marks what an access by `result` wrote from `offset`, and tells its error in guest addresses.
    #[inline(always)]
    fn wrote<T>(
        &self,
        offset: usize,
        result: Result<T, volatile_memory::Error>,
        count: impl FnOnce(&T) -> usize,
    ) -> Result<T, Error> {
        match result {
            Ok(value) => {
                self.mark(offset, count(&value));
                Ok(value)
            }
            Err(error) => Err(self.wrote_some(offset, error)),
        }
    }

    /// Marks what was written before an error.
    #[cold]
    #[inline(never)]
    fn wrote_some(self, offset: usize, error: volatile_memory::Error) -> Error {
        if let volatile_memory::Error::PartialBuffer { completed, .. }
        | volatile_memory::Error::Fault { completed, .. } = &error
        {
            self.mark(offset, *completed);
        }
        self.error(error)
    }

    #[inline(always)]
    fn mark(&self, offset: usize, len: usize) {
        if let Some(tracker) = self.tracker {
            tracker.mark(self.addr.0.wrapping_add(offset as u64), len);
        }
    }

    #[inline(always)]
    fn error(&self, error: volatile_memory::Error) -> Error {
        Error::from_slice(error, self.addr)
    }
}

impl Bytes<usize> for GuestSlice<'_> {
    type E = Error;

    #[inline(always)]
    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Error> {
        self.wrote(addr, self.slice.write(buf, addr), |&count| count)
    }

    #[inline(always)]
    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Error> {
        self.slice.read(buf, addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: usize) -> Result<(), Error> {
        self.wrote(addr, self.slice.write_slice(buf, addr), |()| buf.len())
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: usize) -> Result<(), Error> {
        self.slice.read_slice(buf, addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn write_obj<T: DataInit>(&self, val: T, addr: usize) -> Result<(), Error> {
        self.wrote(addr, self.slice.write_obj(val, addr), |()| size_of::<T>())
    }

    #[inline(always)]
    fn read_obj<T: DataInit>(&self, addr: usize) -> Result<T, Error> {
        self.slice.read_obj(addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn fill(&self, byte: u8, len: usize, addr: usize) -> Result<(), Error> {
        self.wrote(addr, self.slice.fill(byte, len, addr), |()| len)
    }

    #[inline(always)]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Error> {
        self.slice.load(addr, order).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
        self.wrote(addr, self.slice.store(val, addr, order), |()| size_of::<T>())
    }

    #[inline(always)]
    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: usize,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        let exchanged = self.slice.compare_exchange(current, new, addr, success, failure);
        self.wrote(addr, exchanged, |held| if held.is_ok() { size_of::<T>() } else { 0 })
    }

    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<usize, Error> {
        let mut src = Accounted { inner: src, slice: self, at: addr };
        self.slice.write_from(addr, &mut src, count).map_err(|error| self.error(error))
    }

    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<(), Error> {
        let mut src = Accounted { inner: src, slice: self, at: addr };
        self.slice.write_all_from(addr, &mut src, count).map_err(|error| self.error(error))
    }

    #[cfg(feature = "std")]
    fn read_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<usize, Error> {
        self.slice.read_into(addr, dst, count).map_err(|error| self.error(error))
    }

    #[cfg(feature = "std")]
    fn read_all_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<(), Error> {
        self.slice.read_all_into(addr, dst, count).map_err(|error| self.error(error))
    }
}

/// A source whose bytes are marked as they arrive. One that fails, or claims too much, may have written anything: all
/// that it could reach is marked.
#[cfg(feature = "std")]
struct Accounted<'a, S> {
    inner: &'a mut S,
    slice: &'a GuestSlice<'a>,
    at: usize,
}

#[cfg(feature = "std")]
impl<S: ReadVolatile> ReadVolatile for Accounted<'_, S> {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> std::io::Result<usize> {
        let result = self.inner.read_volatile(buf);
        match result {
            Ok(count) if count <= buf.len() => {
                self.slice.mark(self.at, count);
                self.at = self.at.saturating_add(count);
            }
            _ => self.slice.mark(self.at, buf.len()),
        }
        result
    }
}
