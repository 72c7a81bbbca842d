use core::sync::atomic::{AtomicBool, Ordering};

use super::{Error, GuestAddress};
use crate::access::{self, Probe};
use crate::dirty::Tracker;
#[cfg(feature = "std")]
use crate::stream::Changes;
use crate::volatile_memory::{self, Stop};
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
    read_only: Option<&'a AtomicBool>,
}

impl<'a> GuestSlice<'a> {
    /// The bytes of `slice`, which lie at guest address `addr`; writes are marked in `tracker`. For providers of guest
    /// memory.
    #[inline]
    pub fn new(slice: VolatileSlice<'a>, tracker: Option<&'a Tracker>, addr: GuestAddress) -> Self {
        Self { slice, tracker, addr, read_only: None }
    }

    /// With a switch of the provider's: while it is on, the bytes are read and never written, and a write is
    /// [`Error::ReadOnly`].
    ///
    /// The provider takes the permission to write away from the pages, too. Where faults are recovered from it is the
    /// hardware that refuses a write, and the switch says why; so a write that is not refused takes no longer than without.
    #[inline]
    #[must_use]
    pub fn read_only(self, switch: &'a AtomicBool) -> Self {
        Self { read_only: Some(switch), ..self }
    }

    /// No bytes at all, at `addr`.
    pub(crate) fn empty(addr: GuestAddress) -> Self {
        Self::new(VolatileSlice::default(), None, addr)
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

    /// Whether the bytes are read and never written.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        // Relaxed: for who protects pages while others write to them, either answer is right.
        self.read_only.is_some_and(|switch| switch.load(Ordering::Relaxed))
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

    /// The bytes, for whoever [marks](Self::mark) what is written to them.
    #[inline(always)]
    #[cfg(feature = "std")]
    pub(crate) fn as_unmarked(&self) -> VolatileSlice<'a> {
        self.slice
    }

    /// Where writes are marked.
    #[cfg(feature = "std")]
    pub(crate) fn tracker(&self) -> Option<&'a Tracker> {
        self.tracker
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
            Err(_) => outside(self.addr, self.len(), offset, count),
        }
    }

    /// As [`subslice`](Self::subslice), without a reason. To be inlined: what it answers needs no stack.
    #[cfg(feature = "mmap")]
    #[inline(always)]
    pub(crate) fn find_subslice(&self, offset: usize, count: usize) -> Option<Self> {
        let slice = self.slice.subslice(offset, count).ok()?;
        Some(Self { slice, addr: GuestAddress(self.addr.0.wrapping_add(offset as u64)), ..*self })
    }

    /// Fills `buf` from the start of the slice, as far as both reach, and answers how many elements were copied: see
    /// [`VolatileSlice::copy_to`].
    ///
    /// # Errors
    ///
    /// [`Error::Fault`]: `buf` then holds the bytes before the inaccessible page.
    pub fn copy_to<T: DataInit>(&self, buf: &mut [T]) -> Result<usize, Error> {
        self.slice.copy_to(buf).map_err(|error| self.error(error))
    }

    /// Fills the slice from `buf`, as far as both reach, and answers how many elements were copied: see
    /// [`VolatileSlice::copy_from`].
    ///
    /// # Errors
    ///
    /// [`Error::Fault`]: the slice then holds the bytes before the inaccessible page. [`Error::ReadOnly`].
    pub fn copy_from<T: DataInit>(&self, buf: &[T]) -> Result<usize, Error> {
        let len = self.len().min(size_of_val(buf));
        self.ask(0, len)?;
        match self.slice.try_copy_from(buf) {
            Ok(count) => {
                self.mark(0, count.saturating_mul(size_of::<T>()));
                Ok(count)
            }
            Err(fault) => Err(self.write_stopped(0, len, fault.into())),
        }
    }

    /// Copies this slice to `dst`, as far as both reach, and answers how many bytes were copied. The two may overlap.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], if `dst` is; [`Error::Fault`], in either slice: see
    /// [`VolatileSlice::copy_to_volatile_slice`].
    pub fn copy_to_guest_slice(&self, dst: GuestSlice<'_>) -> Result<usize, Error> {
        dst.ask(0, self.len().min(dst.len()))?;
        self.slice.copy_telling_side(dst.slice).map_or_else(
            |fault| {
                dst.mark(0, fault.reached);
                let error = volatile_memory::Error::Fault { addr: fault.offset, completed: fault.completed };
                Err(if fault.is_destination { dst.write_error(error) } else { self.error(error) })
            },
            |count| {
                dst.mark(0, count);
                Ok(count)
            },
        )
    }

    /// Whether all bytes are zero. Reads upwards, and no further than to some byte that is not.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], if the bytes before the inaccessible page are zero.
    pub fn is_zero(&self) -> Result<bool, Error> {
        self.slice.is_zero().map_err(|error| self.error(error))
    }

    /// Sets the bits of `bits` in the value at `offset`, as one atomic access, and returns what it was. A loop on x86-64
    /// and aarch64: see [`VolatileSlice::fetch_or`](crate::VolatileSlice::fetch_or).
    ///
    /// # Errors
    ///
    /// As for [`Bytes::compare_exchange`].
    #[inline]
    pub fn fetch_or<T: AtomicAccess>(&self, bits: T, offset: usize, order: Ordering) -> Result<T, Error> {
        self.ask_atomic::<T>(offset)?;
        self.wrote(offset, self.slice.fetch_or(bits, offset, order), |_| size_of::<T>())
    }

    /// Looks for the first byte that cannot be accessed, page by page, and changes none: [`Error::Fault`], or
    /// [`Error::ReadOnly`].
    pub(crate) fn probe(&self, access: Probe) -> Result<(), Error> {
        if access == Probe::Write {
            self.check_writable(0, self.len())?;
        }
        self.slice.probe(access).map_err(|error| self.error(error))
    }

    /// Answers for a write of `len` bytes at `offset` that the hardware would not refuse with an error.
    #[inline(always)]
    fn ask(&self, offset: usize, len: usize) -> Result<(), Error> {
        if access::RECOVERS { Ok(()) } else { self.check_writable(offset, len) }
    }

    /// As [`ask`](Self::ask), for an atomic access.
    #[inline(always)]
    fn ask_atomic<T: AtomicAccess>(&self, offset: usize) -> Result<(), Error> {
        if !access::RECOVERS && self.is_read_only() {
            // Where there is no such value is said first.
            self.load::<T>(offset, Ordering::Relaxed)?;
            return Err(self.refusal(offset));
        }
        Ok(())
    }

    /// Whether `len` bytes at `offset` may be written, as far as the slice has them.
    fn check_writable(&self, offset: usize, len: usize) -> Result<(), Error> {
        if len > 0 && offset < self.len() && self.is_read_only() { Err(self.refusal(offset)) } else { Ok(()) }
    }

    /// The error of a write at `offset` to read-only memory.
    #[cold]
    fn refusal(&self, offset: usize) -> Error {
        Error::ReadOnly { addr: GuestAddress(self.addr.0.wrapping_add(offset as u64)), completed: 0 }
    }

    /// Marks what an access by `result`, which writes all or nothing, wrote from `offset`, and tells its error in guest
    /// addresses.
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
            Err(error) => Err(self.write_error(error)),
        }
    }

    /// Marks the `len` bytes that an attempt has written at `offset`; of one that has stopped, what it may have written, and
    /// writes by `attempt` what the slice's end has left.
    #[inline(always)]
    fn put(
        &self,
        offset: usize,
        len: usize,
        attempted: Result<(), Stop>,
        attempt: impl FnOnce(usize) -> Result<(), Stop>,
    ) -> Result<(), Error> {
        match attempted {
            Ok(()) => {
                self.mark(offset, len);
                Ok(())
            }
            Err(stop) => self.put_rest(offset, len, stop, attempt),
        }
    }

    #[cold]
    #[inline(never)]
    fn put_rest(
        &self,
        offset: usize,
        len: usize,
        stop: Stop,
        attempt: impl FnOnce(usize) -> Result<(), Stop>,
    ) -> Result<(), Error> {
        if stop.is_fault() {
            return Err(self.write_stopped(offset, len, stop));
        }
        let there = self.len().saturating_sub(offset).min(len);
        if there == 0 && len > 0 {
            return Err(Error::OutOfBounds { offset: offset as u64, len: self.len() as u64 });
        }
        if there > 0 {
            match attempt(there) {
                Ok(()) => self.mark(offset, there),
                Err(stop) => return Err(self.write_stopped(offset, there, stop)),
            }
        }
        if there == len { Ok(()) } else { Err(Error::PartialBuffer { expected: len, completed: there }) }
    }

    #[cold]
    #[inline(never)]
    fn write_obj_stopped<T: DataInit>(&self, val: T, offset: usize, stop: Stop) -> Result<(), Error> {
        let stop = self.slice.finish_write(val, offset, stop);
        self.put_rest(offset, size_of::<T>(), stop, |count| {
            self.slice.try_write_slice(val.as_slice().get(..count).unwrap_or_default(), offset)
        })
    }

    /// The error of a write of `len` bytes at `offset` that has met a page that cannot be accessed. What it may have written
    /// is marked: all before the page, and more if the page became so during the write.
    #[cold]
    #[inline(never)]
    fn write_stopped(&self, offset: usize, len: usize, stop: Stop) -> Error {
        self.mark(offset, stop.reached(self.slice, offset, len));
        self.write_error(stop.fault(self.slice, offset).unwrap_or(volatile_memory::Error::Unsupported))
    }

    /// The error of a write, in guest addresses.
    #[cold]
    fn write_error(&self, error: volatile_memory::Error) -> Error {
        let error = self.error(error);
        if self.is_read_only() { error.of_read_only() } else { error }
    }

    /// Whether somebody looks for what is written.
    #[cfg(feature = "std")]
    pub(crate) fn is_tracked(&self) -> bool {
        self.tracker.is_some_and(Tracker::is_on)
    }

    /// Marks `len` bytes from `offset` as written.
    #[inline(always)]
    pub(crate) fn mark(&self, offset: usize, len: usize) {
        if let Some(tracker) = self.tracker {
            tracker.mark(self.addr.0.wrapping_add(offset as u64), len);
        }
    }

    #[inline(always)]
    fn error(&self, error: volatile_memory::Error) -> Error {
        Error::from_slice(error, self.addr)
    }
}

/// The result of a write that may be partial: an error after some bytes is a shorter write.
#[cold]
#[inline(never)]
fn some_written(error: Error) -> Result<usize, Error> {
    match error {
        Error::Fault { completed, .. } | Error::ReadOnly { completed, .. } | Error::PartialBuffer { completed, .. }
            if completed > 0 =>
        {
            Ok(completed)
        }
        error => Err(error),
    }
}

/// What [`GuestSlice::subslice`] answers of a slice that does not have such bytes. It is the last thing done, so that a
/// slice that has them needs no stack.
#[cold]
#[inline(never)]
fn outside<'a>(addr: GuestAddress, len: usize, offset: usize, count: usize) -> Result<GuestSlice<'a>, Error> {
    match len.checked_sub(offset) {
        _ if count == 0 => Ok(GuestSlice::empty(addr)),
        Some(left) if left > 0 => Err(Error::PartialBuffer { expected: count, completed: left }),
        _ => Err(Error::OutOfBounds { offset: offset as u64, len: len as u64 }),
    }
}

impl Bytes<usize> for GuestSlice<'_> {
    type E = Error;

    #[inline(always)]
    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Error> {
        match self.write_slice(buf, addr) {
            Ok(()) => Ok(buf.len()),
            Err(error) => some_written(error),
        }
    }

    #[inline(always)]
    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Error> {
        self.slice.read(buf, addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: usize) -> Result<(), Error> {
        self.ask(addr, buf.len())?;
        self.put(addr, buf.len(), self.slice.try_write_slice(buf, addr), |count| {
            self.slice.try_write_slice(buf.get(..count).unwrap_or_default(), addr)
        })
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: usize) -> Result<(), Error> {
        self.slice.read_slice(buf, addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn write_obj<T: DataInit>(&self, val: T, addr: usize) -> Result<(), Error> {
        self.ask(addr, size_of::<T>())?;
        match self.slice.try_write(val, addr) {
            Ok(()) => {
                self.mark(addr, size_of::<T>());
                Ok(())
            }
            Err(stop) => self.write_obj_stopped(val, addr, stop),
        }
    }

    #[inline(always)]
    fn read_obj<T: DataInit>(&self, addr: usize) -> Result<T, Error> {
        self.slice.read_obj(addr).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn fill(&self, byte: u8, len: usize, addr: usize) -> Result<(), Error> {
        self.ask(addr, len)?;
        self.put(addr, len, self.slice.try_fill(byte, len, addr), |count| self.slice.try_fill(byte, count, addr))
    }

    #[inline(always)]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Error> {
        self.slice.load(addr, order).map_err(|error| self.error(error))
    }

    #[inline(always)]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
        self.ask_atomic::<T>(addr)?;
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
        self.ask_atomic::<T>(addr)?;
        let exchanged = self.slice.compare_exchange(current, new, addr, success, failure);
        self.wrote(addr, exchanged, |held| if held.is_ok() { size_of::<T>() } else { 0 })
    }

    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<usize, Error> {
        // Before the source is read.
        self.check_writable(addr, count)?;
        let mut src = Accounted { inner: src, slice: self, at: addr, is_one_step: true };
        self.slice.write_from(addr, &mut src, count).map_err(|error| self.write_error(error))
    }

    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<(), Error> {
        // Before the source is read.
        self.check_writable(addr, count)?;
        let mut src = Accounted { inner: src, slice: self, at: addr, is_one_step: false };
        self.slice.write_all_from(addr, &mut src, count).map_err(|error| self.write_error(error))
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

/// A source whose bytes are marked as they arrive, and what it may have written beside: see [`Source`](crate::stream::Source). One that fails, panics,
/// or claims too much may have written anything: all that it could reach is marked.
#[cfg(feature = "std")]
struct Accounted<'a, S> {
    inner: &'a mut S,
    slice: &'a GuestSlice<'a>,
    at: usize,
    /// Whether one step is enough.
    is_one_step: bool,
}

#[cfg(feature = "std")]
impl<S: ReadVolatile> ReadVolatile for Accounted<'_, S> {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> std::io::Result<usize> {
        let asked = buf.len();
        let step = if self.is_one_step { asked } else { self.inner.source().step(asked) };
        let buf = buf.subslice(0, step)?;
        let mut written = Written { slice: self.slice, at: self.at, len: buf.len() };
        let before = Changes::until_now();
        let result = self.inner.read_volatile(&buf);
        match &result {
            Ok(count) if *count <= buf.len() => {
                let rest = buf.len().saturating_sub(*count);
                let is_looked_for = rest > 0 && self.slice.is_tracked();
                let more = if is_looked_for {
                    let rest_slice = || self.slice.subslice(self.at.saturating_add(*count), rest).into_iter();
                    self.inner.source().uncounted(rest, before, rest_slice)
                } else {
                    0
                };
                written.len = count.saturating_add(more);
                self.at = self.at.saturating_add(*count);
            }
            Ok(_) => {}
            Err(error) => written.len = self.inner.source().written_before(error, buf.len()),
        }
        // A claim beyond what was offered is one beyond what was asked for: of a shorter step it would pass for progress.
        result.map(|count| match count.checked_sub(buf.len()) {
            Some(over) if over > 0 => asked.saturating_add(over),
            _ => count,
        })
    }
}

/// What a source has written, or could have. Marked when it is dropped, as a source may panic, too.
#[cfg(feature = "std")]
struct Written<'a> {
    slice: &'a GuestSlice<'a>,
    at: usize,
    len: usize,
}

#[cfg(feature = "std")]
impl Drop for Written<'_> {
    fn drop(&mut self) {
        self.slice.mark(self.at, self.len);
    }
}
