use core::marker::PhantomData;

use super::{Error, GuestAddress, GuestSlice};
use crate::{Bytes, DataInit};

/// The place of one `T` in guest memory, which need not be aligned: what [`VolatileRef`](crate::VolatileRef) is, of which a
/// store is marked as dirty.
///
/// ```
/// use memory_model::{GuestAddress, GuestMemory, GuestMemoryMmap, Le16};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// let used_idx = mem.get_slice(GuestAddress(0x802), 2)?.get_ref::<Le16>(0)?;
/// used_idx.store(Le16::new(7))?;
/// assert_eq!(used_idx.load()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GuestRef<'a, T> {
    /// As long as a `T`.
    slice: GuestSlice<'a>,
    value: PhantomData<T>,
}

impl<'a, T: DataInit> GuestRef<'a, T> {
    /// The guest address of the first byte.
    #[inline]
    pub fn addr(&self) -> GuestAddress {
        self.slice.addr()
    }

    /// The bytes of the `T`.
    #[inline]
    pub fn as_guest_slice(&self) -> GuestSlice<'a> {
        self.slice
    }

    /// Reads the value: one access if it has 1, 2, 4 or 8 bytes and lies naturally aligned, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] if a page of it cannot be accessed.
    #[inline]
    pub fn load(&self) -> Result<T, Error> {
        self.slice.read_obj(0)
    }

    /// Writes the value: one access if it has 1, 2, 4 or 8 bytes and is to lie naturally aligned, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] if a page of it cannot be accessed: the bytes before it are written. [`Error::ReadOnly`].
    #[inline]
    pub fn store(&self, value: T) -> Result<(), Error> {
        self.slice.write_obj(value, 0)
    }
}

/// The places of so many `T`, one after the other, in guest memory: what [`VolatileArrayRef`](crate::VolatileArrayRef) is, of
/// which a store is marked as dirty. They need not be aligned.
///
/// ```
/// use memory_model::{GuestAddress, GuestMemory, GuestMemoryMmap, Le64};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// let table = mem.get_slice(GuestAddress(0), 0x1000)?.get_array_ref::<Le64>(0, 512)?;
/// table.store(511, Le64::new(3))?;
/// assert_eq!((table.load(511)?, table.ref_at(511)?.addr()), (Le64::new(3), GuestAddress(0xff8)));
/// assert!(table.load(512).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GuestArrayRef<'a, T> {
    /// As long as `count` values of type `T`.
    slice: GuestSlice<'a>,
    count: usize,
    values: PhantomData<T>,
}

impl<'a, T: DataInit> GuestArrayRef<'a, T> {
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
    pub fn as_guest_slice(&self) -> GuestSlice<'a> {
        self.slice
    }

    /// The place of the element `index`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], in bytes, unless `index < len()`.
    #[inline]
    pub fn ref_at(&self, index: usize) -> Result<GuestRef<'a, T>, Error> {
        let offset = index.saturating_mul(size_of::<T>());
        if index >= self.count {
            return Err(Error::OutOfBounds { offset: offset as u64, len: self.slice.len() as u64 });
        }
        self.slice.get_ref(offset)
    }

    /// Reads the element `index`, as [`GuestRef::load`] does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `index < len()`; [`Error::Fault`].
    #[inline]
    pub fn load(&self, index: usize) -> Result<T, Error> {
        self.ref_at(index)?.load()
    }

    /// Writes the element `index`, as [`GuestRef::store`] does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `index < len()`; [`Error::Fault`]; [`Error::ReadOnly`].
    #[inline]
    pub fn store(&self, index: usize, value: T) -> Result<(), Error> {
        self.ref_at(index)?.store(value)
    }

    /// Fills `buf` from the start of the array, as far as both reach, and answers how many elements were copied.
    ///
    /// # Errors
    ///
    /// As for [`GuestSlice::copy_to`].
    pub fn copy_to(&self, buf: &mut [T]) -> Result<usize, Error> {
        let count = self.count.min(buf.len());
        self.slice.copy_to(buf.get_mut(..count).unwrap_or_default())
    }

    /// Fills the array from `buf`, as far as both reach, and answers how many elements were copied.
    ///
    /// # Errors
    ///
    /// As for [`GuestSlice::copy_from`].
    pub fn copy_from(&self, buf: &[T]) -> Result<usize, Error> {
        let count = self.count.min(buf.len());
        self.slice.copy_from(buf.get(..count).unwrap_or_default())
    }
}

impl<'a> GuestSlice<'a> {
    /// The place of the `T` at `offset`.
    ///
    /// # Errors
    ///
    /// As for [`subslice`](Self::subslice), of its bytes.
    #[inline]
    pub fn get_ref<T: DataInit>(&self, offset: usize) -> Result<GuestRef<'a, T>, Error> {
        Ok(GuestRef { slice: self.subslice(offset, size_of::<T>())?, value: PhantomData })
    }

    /// The places of `count` elements, one after the other, from `offset`.
    ///
    /// # Errors
    ///
    /// As for [`subslice`](Self::subslice), of their bytes.
    #[inline]
    pub fn get_array_ref<T: DataInit>(&self, offset: usize, count: usize) -> Result<GuestArrayRef<'a, T>, Error> {
        // A product that overflows is out of every slice's bounds, as no slice has `usize::MAX` bytes.
        let slice = self.subslice(offset, count.saturating_mul(size_of::<T>()))?;
        Ok(GuestArrayRef { slice, count, values: PhantomData })
    }
}
