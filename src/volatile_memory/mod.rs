//! Volatile memory: bytes that may change at any time, whoever holds them.
//!
//! A guest's memory cannot be a `&[u8]`: the guest writes it while the reference lives, which is undefined behaviour
//! before anything is read. A [`VolatileSlice`] is a pointer and a length that are only ever accessed in ways that stay
//! defined meanwhile. Whatever is read is a copy, and the copy no longer changes.
//!
//! | type                 | what it is                                                   |
//! |----------------------|--------------------------------------------------------------|
//! | [`VolatileMemory`]   | whatever can hand out slices of itself                       |
//! | [`VolatileSlice`]    | so many bytes from here: an iovec                            |
//! | [`VolatileRef`]      | the place of one `T`, not necessarily aligned                |
//! | [`VolatileArrayRef`] | the places of so many `T`, one after the other               |
//!
//! Offsets and lengths are in bytes and relative to the slice; ranges include their start and exclude their end. Reading
//! and writing at offsets is [`Bytes<usize>`](crate::Bytes), which [`VolatileSlice`] implements.

#![expect(unsafe_code, reason = "hands out access to bytes that the guest shares")]

mod array;
mod attempt;
mod error;
mod reference;
mod slice;

pub use array::VolatileArrayRef;
pub(crate) use attempt::Stop;
pub use error::Error;
pub use reference::VolatileRef;
pub use slice::VolatileSlice;

use crate::DataInit;

/// Memory that can hand out [`VolatileSlice`]s of itself.
///
/// # Safety
///
/// Whoever implements it vouches, and `unsafe` code relies on it, that [`get_slice`](Self::get_slice) answers
/// * `Ok` exactly for `offset + count <= len()`, with a slice of exactly `count` bytes that keeps [`VolatileSlice`]'s
///   invariants for the borrow of `self`;
/// * from the same place for the same `offset`, as long as `self` is borrowed, and that `len()` stays the same.
pub unsafe trait VolatileMemory {
    /// The length in bytes.
    fn len(&self) -> usize;

    /// The `count` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + count <= len()`.
    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, Error>;

    /// Whether there is no byte in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it.
    fn as_volatile_slice(&self) -> VolatileSlice<'_> {
        // The trait's contract leaves no error to answer with; an implementation that breaks it has no bytes.
        self.get_slice(0, self.len()).unwrap_or_default()
    }

    /// The place of a `T` at `offset`, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + size_of::<T>() <= len()`.
    fn get_ref<T: DataInit>(&self, offset: usize) -> Result<VolatileRef<'_, T>, Error> {
        self.get_slice(offset, size_of::<T>())?.get_ref(0)
    }

    /// The places of `count` values of type `T` from `offset`, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + count * size_of::<T>() <= len()`.
    fn get_array_ref<T: DataInit>(&self, offset: usize, count: usize) -> Result<VolatileArrayRef<'_, T>, Error> {
        // A product that overflows is out of every slice's bounds, as no slice has `usize::MAX` bytes.
        let bytes = count.saturating_mul(size_of::<T>());
        self.get_slice(offset, bytes)?.get_array_ref(0, count)
    }
}

// SAFETY: relayed to an implementation that keeps the contract; the borrow of `self` is within the inner borrow.
unsafe impl<M: VolatileMemory + ?Sized> VolatileMemory for &M {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, Error> {
        (**self).get_slice(offset, count)
    }
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }
    fn as_volatile_slice(&self) -> VolatileSlice<'_> {
        (**self).as_volatile_slice()
    }
    fn get_ref<T: DataInit>(&self, offset: usize) -> Result<VolatileRef<'_, T>, Error> {
        (**self).get_ref(offset)
    }
    fn get_array_ref<T: DataInit>(&self, offset: usize, count: usize) -> Result<VolatileArrayRef<'_, T>, Error> {
        (**self).get_array_ref(offset, count)
    }
}
