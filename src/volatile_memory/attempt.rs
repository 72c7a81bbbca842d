//! The paths of an access that succeeds, to be inlined: what else there may be is left to a cold function of the caller's.

use core::sync::atomic::Ordering;

use super::{Error, VolatileSlice};
use crate::DataInit;
use crate::access::{self, Fault, Unit};

/// Why an attempt was not made, or did not do all: in a register, so that the path of success has no need of the stack.
#[derive(Clone, Copy)]
pub(crate) struct Stop {
    /// The fault, as a word; 0 if the slice has no such bytes, or not at such an alignment.
    fault: usize,
}

impl Stop {
    const NO_PLACE: Self = Self { fault: 0 };

    /// Whether it met a page that cannot be accessed.
    #[inline]
    pub(crate) fn is_fault(self) -> bool {
        self.fault != 0
    }

    #[inline]
    fn as_fault(self) -> Option<Fault> {
        (self.fault != 0).then(|| Fault::from_word(self.fault))
    }

    /// The error of an access from `offset`, if it met a page that cannot be accessed.
    #[inline]
    pub(crate) fn fault(self, slice: VolatileSlice<'_>, offset: usize) -> Option<Error> {
        let start = slice.as_ptr().wrapping_add(offset);
        self.as_fault().map(|fault| Error::fault(fault, start).rebase(offset))
    }

    /// How many bytes may have been written by a write of `len` bytes at `offset`, from there on: more than were completed, if
    /// a page became inaccessible during the write.
    pub(crate) fn reached(self, slice: VolatileSlice<'_>, offset: usize, len: usize) -> usize {
        let start = slice.as_ptr().wrapping_add(offset);
        self.as_fault().map_or(0, |fault| fault.reached(start, len))
    }
}

impl From<Fault> for Stop {
    #[inline(always)]
    fn from(fault: Fault) -> Self {
        Self { fault: fault.word() }
    }
}

impl VolatileSlice<'_> {
    /// The pointer to `count` bytes from `offset`, if the slice has them.
    #[inline(always)]
    fn place(&self, offset: usize, count: usize) -> Result<*mut u8, Stop> {
        if count > self.len() || offset > self.len() - count {
            return Err(Stop::NO_PLACE);
        }
        Ok(self.as_ptr().wrapping_add(offset))
    }

    /// The pointer to a unit at `offset`, if the slice has it, naturally aligned.
    #[inline(always)]
    fn unit_place<U: Unit>(&self, offset: usize) -> Result<*mut U, Stop> {
        let place = self.place(offset, size_of::<U>())?;
        if place.addr() & (size_of::<U>() - 1) == 0 { Ok(place.cast()) } else { Err(Stop::NO_PLACE) }
    }

    #[inline(always)]
    pub(crate) fn try_read<T: DataInit>(&self, offset: usize) -> Result<T, Stop> {
        let src = self.place(offset, size_of::<T>())?;
        // SAFETY: `place` has found all of a `T` in the slice, which keeps what `access` asks for (its invariants).
        unsafe { access::read(src) }.map_err(Stop::from)
    }

    /// After a fault, the bytes before it are not all written: [`finish_write`](Self::finish_write) does it.
    #[inline(always)]
    pub(crate) fn try_write<T: DataInit>(&self, value: T, offset: usize) -> Result<(), Stop> {
        let dst = self.place(offset, size_of::<T>())?;
        // SAFETY: as in `try_read`.
        unsafe { access::attempt_write(dst, value) }.map_err(Stop::from)
    }

    /// Writes what [`try_write`](Self::try_write) has left out, and returns why not all of the value is written.
    pub(crate) fn finish_write<T: DataInit>(&self, value: T, offset: usize, stop: Stop) -> Stop {
        let start = self.as_ptr().wrapping_add(offset);
        let Some(fault) = stop.as_fault() else { return stop };
        let before = value.as_slice().get(..fault.completed(start)).unwrap_or_default();
        match self.try_write_slice(before, offset) {
            Err(Stop { fault: lower }) if lower != 0 => {
                let reached = fault.reached(start, size_of::<T>());
                Fault::from_word(lower).reaching(start.addr() + reached).into()
            }
            _ => stop,
        }
    }

    /// Copies from the start of `buf`, as far as both reach.
    pub(crate) fn try_copy_from<T: DataInit>(&self, buf: &[T]) -> Result<usize, Fault> {
        let count = self.elements(buf);
        // SAFETY: the destination has at least as many bytes (`elements`), which are mapped (invariant 1) and accessed
        // by others as required (invariant 2). The source is borrowed, initialised throughout (no padding), and apart
        // from them by invariant 2.
        unsafe { access::copy_in(self.as_ptr(), buf.as_ptr().cast(), count * size_of::<T>()) }?;
        Ok(count)
    }

    #[inline(always)]
    pub(crate) fn try_read_slice(&self, buf: &mut [u8], offset: usize) -> Result<(), Stop> {
        let src = self.place(offset, buf.len())?;
        // SAFETY: as in `try_read`, for as many bytes as `buf` has; that is exclusively borrowed, so it is apart from them
        // (invariant 2).
        unsafe { access::copy_out(src, buf.as_mut_ptr(), buf.len()) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_write_slice(&self, buf: &[u8], offset: usize) -> Result<(), Stop> {
        let dst = self.place(offset, buf.len())?;
        // SAFETY: as in `try_read_slice`; `buf` is borrowed, so that nothing writes it meanwhile.
        unsafe { access::copy_in(dst, buf.as_ptr(), buf.len()) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_fill(&self, byte: u8, len: usize, offset: usize) -> Result<(), Stop> {
        let dst = self.place(offset, len)?;
        // SAFETY: as in `try_read`, for `len` bytes.
        unsafe { access::fill(dst, byte, len) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_load<U: Unit>(&self, offset: usize, order: Ordering) -> Result<U, Stop> {
        let src = self.unit_place::<U>(offset)?;
        // SAFETY: as in `try_read`, and aligned.
        unsafe { U::load(src, order) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_store<U: Unit>(&self, value: U, offset: usize, order: Ordering) -> Result<(), Stop> {
        let dst = self.unit_place::<U>(offset)?;
        // SAFETY: as in `try_read`, and aligned.
        unsafe { U::store(dst, value, order) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_fetch_or<U: Unit>(&self, bits: U, offset: usize, order: Ordering) -> Result<U, Stop> {
        let dst = self.unit_place::<U>(offset)?;
        // SAFETY: as in `try_read`, and aligned.
        unsafe { U::fetch_or(dst, bits, order) }.map_err(Stop::from)
    }

    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn try_set_bits<U: Unit>(&self, bits: U, offset: usize, order: Ordering) -> Result<(), Stop> {
        let dst = self.unit_place::<U>(offset)?;
        // SAFETY: as in `try_read`, and aligned.
        unsafe { U::set_bits(dst, bits, order) }.map_err(Stop::from)
    }

    #[inline(always)]
    pub(crate) fn try_compare_exchange<U: Unit>(
        &self,
        current: U,
        new: U,
        offset: usize,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<U, U>, Stop> {
        let dst = self.unit_place::<U>(offset)?;
        // SAFETY: as in `try_read`, and aligned.
        unsafe { U::compare_exchange(dst, current, new, success, failure) }.map_err(Stop::from)
    }
}
