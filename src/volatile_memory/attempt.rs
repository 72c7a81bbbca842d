//! The paths of an access that succeeds, to be inlined: what else there may be is left to a cold function of the caller's.

use core::sync::atomic::Ordering;

use super::{Error, VolatileSlice};
use crate::DataInit;
use crate::access::{self, Fault, Unit};

/// Why an attempt was not made, or did not do all: in a register, so that the path of success has no need of the stack.
#[derive(Clone, Copy)]
pub(crate) struct Stop {
    /// The first bad host address; 0 if the slice has no such bytes, or not at such an alignment.
    bad: usize,
}

impl Stop {
    const NO_PLACE: Self = Self { bad: 0 };

    /// The error of an access from `offset`, if it met a page that cannot be accessed.
    #[inline]
    pub(crate) fn fault(self, slice: VolatileSlice<'_>, offset: usize) -> Option<Error> {
        let addr = self.bad.wrapping_sub(slice.as_ptr().addr());
        (self.bad != 0).then_some(Error::Fault { addr, completed: addr.saturating_sub(offset) })
    }
}

impl From<Fault> for Stop {
    #[inline(always)]
    fn from(fault: Fault) -> Self {
        Self { bad: fault.addr }
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

    /// Writes what [`try_write`](Self::try_write) has left out, and answers how many bytes before the bad one are written.
    pub(crate) fn finish_write<T: DataInit>(&self, value: T, offset: usize, stop: Stop) -> Stop {
        let completed = stop.bad.saturating_sub(self.as_ptr().addr().saturating_add(offset));
        let before = value.as_slice().get(..completed).unwrap_or_default();
        self.try_write_slice(before, offset).err().unwrap_or(stop)
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
