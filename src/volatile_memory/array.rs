use core::marker::PhantomData;

use super::{Error, VolatileRef, VolatileSlice};
use crate::DataInit;

/// The places of so many `T`, one after the other, in volatile memory. They need not be aligned.
///
/// ```
/// use memory_model::{VolatileMemory, VolatileSlice};
///
/// let mut buffer = [0_u8; 16];
/// let slice = VolatileSlice::from(&mut buffer[..]);
/// let words = slice.get_array_ref::<u16>(0, 8)?;
/// words.copy_from(&[1, 2, 3])?;
/// assert_eq!(words.load(2)?, 3);
/// # Ok::<(), memory_model::volatile_memory::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VolatileArrayRef<'a, T> {
    /// # Invariant
    /// As long as `count` values of type `T`.
    slice: VolatileSlice<'a>,
    count: usize,
    values: PhantomData<T>,
}

impl<'a, T: DataInit> VolatileArrayRef<'a, T> {
    /// The `count` elements that `slice`, which must be as long, is the place of.
    #[inline]
    pub(super) fn new(slice: VolatileSlice<'a>, count: usize) -> Self {
        debug_assert_eq!(slice.len(), count * size_of::<T>());
        Self { slice, count, values: PhantomData }
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no element in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all elements.
    #[inline]
    pub fn as_volatile_slice(&self) -> VolatileSlice<'a> {
        self.slice
    }

    /// The place of the element `index`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], in bytes, unless `index < len()`.
    #[inline]
    pub fn ref_at(&self, index: usize) -> Result<VolatileRef<'a, T>, Error> {
        let (size, len) = (size_of::<T>(), self.slice.len());
        let offset = index.saturating_mul(size);
        if index >= self.count {
            return Err(Error::OutOfBounds { offset, count: size, len });
        }
        self.slice.get_ref(offset)
    }

    /// Reads the element `index`, as [`VolatileRef::load`] does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `index < len()`; [`Error::Fault`], with the offset in the array.
    #[inline]
    pub fn load(&self, index: usize) -> Result<T, Error> {
        self.ref_at(index)?.load().map_err(|error| error.rebase(index * size_of::<T>()))
    }

    /// Writes the element `index`, as [`VolatileRef::store`] does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `index < len()`; [`Error::Fault`], with the offset in the array.
    #[inline]
    pub fn store(&self, index: usize, value: T) -> Result<(), Error> {
        self.ref_at(index)?.store(value).map_err(|error| error.rebase(index * size_of::<T>()))
    }

    /// Fills `buf` from the start of the array, as far as both reach, and answers how many elements were copied.
    ///
    /// # Errors
    ///
    /// As for [`VolatileSlice::copy_to`].
    pub fn copy_to(&self, buf: &mut [T]) -> Result<usize, Error> {
        let count = self.count.min(buf.len());
        self.slice.copy_to(buf.get_mut(..count).unwrap_or_default())
    }

    /// Fills the array from `buf`, as far as both reach, and answers how many elements were copied.
    ///
    /// # Errors
    ///
    /// As for [`VolatileSlice::copy_from`].
    pub fn copy_from(&self, buf: &[T]) -> Result<usize, Error> {
        let count = self.count.min(buf.len());
        self.slice.copy_from(buf.get(..count).unwrap_or_default())
    }
}
