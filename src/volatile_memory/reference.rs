use core::marker::PhantomData;

use super::{Error, VolatileSlice};
use crate::access;
use crate::{DataInit, VolatileMemory};

/// The place of one `T` in volatile memory, which need not be aligned.
///
/// ```
/// use memory_model::{VolatileMemory, VolatileSlice};
///
/// let mut buffer = [0_u8; 16];
/// let slice = VolatileSlice::from(&mut buffer[..]);
/// let place = slice.get_ref::<u32>(3)?;
/// place.store(7)?;
/// assert_eq!(place.load()?, 7);
/// # Ok::<(), memory_model::volatile_memory::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VolatileRef<'a, T> {
    /// # Invariant
    /// As long as a `T`.
    slice: VolatileSlice<'a>,
    value: PhantomData<T>,
}

impl<'a, T: DataInit> VolatileRef<'a, T> {
    /// The `T` that `slice`, which must be as long, is the place of.
    #[inline]
    pub(super) fn new(slice: VolatileSlice<'a>) -> Self {
        debug_assert_eq!(slice.len(), size_of::<T>());
        Self { slice, value: PhantomData }
    }

    /// The bytes of the `T`.
    #[inline]
    pub fn as_volatile_slice(&self) -> VolatileSlice<'a> {
        self.slice
    }

    /// Reads the value: one access if it has 1, 2, 4 or 8 bytes and lies naturally aligned, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] if a page of it cannot be accessed.
    #[inline]
    pub fn load(&self) -> Result<T, Error> {
        let src = self.slice.as_ptr();
        // SAFETY: the slice has the bytes of a `T` (invariant), and keeps what `access` asks for (its own invariants).
        unsafe { access::read(src) }.map_err(|fault| Error::fault(fault, src))
    }

    /// Writes the value: one access if it has 1, 2, 4 or 8 bytes and is to lie naturally aligned, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] if a page of it cannot be accessed; the bytes before it are written.
    #[inline]
    pub fn store(&self, value: T) -> Result<(), Error> {
        let dst = self.slice.as_ptr();
        // SAFETY: as in `load`.
        unsafe { access::write(dst, value) }.map_err(|fault| Error::fault(fault, dst))
    }
}

// SAFETY: relayed to the slice, which keeps the contract.
unsafe impl<T: DataInit> VolatileMemory for VolatileRef<'_, T> {
    fn len(&self) -> usize {
        self.slice.len()
    }
    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, Error> {
        self.slice.subslice(offset, count)
    }
}
