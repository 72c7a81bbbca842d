//! [`DataInit`]: values that are no more than their bytes.

#![expect(unsafe_code, reason = "views values as bytes and bytes as values, by the trait's contract")]

use core::mem::MaybeUninit;
use core::slice;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A value that is no more than its bytes: every bit pattern is valid, and no byte is padding.
///
/// Only such values may be read from memory that a guest writes. Everything that derives zerocopy's traits has it, so
/// that no `unsafe` is needed:
///
/// ```
/// use memory_model::{DataInit, Le32, Le64};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// /// The header of a virtio-blk request (VIRTIO 1.2, 5.2.6).
/// #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct BlkHeader {
///     kind: Le32,
///     reserved: Le32,
///     sector: Le64,
/// }
/// let header = BlkHeader::from_slice(&[0; 16]).map(|header| header.sector);
/// # // Alignment of a byte array is not promised, so either answer is right.
/// # assert!(header.is_none_or(|sector| sector == 0));
/// fn travels<T: DataInit>() {}
/// travels::<BlkHeader>();
/// travels::<[BlkHeader; 40]>(); // arrays of any length
/// ```
///
/// A struct of another crate that derives nothing is wrapped, and the wrapper vouches for it:
///
/// ```
/// use memory_model::DataInit;
/// # mod foreign {
/// #     #[derive(Clone, Copy)]
/// #     #[repr(C)]
/// #     pub struct kvm_regs { pub rip: u64, pub rflags: u64 }
/// # }
///
/// #[derive(Clone, Copy)]
/// #[repr(transparent)]
/// struct Registers(foreign::kvm_regs);
///
/// // SAFETY: `kvm_regs` is `repr(C)` and all of its fields are `u64`: no padding, and any bits are valid.
/// unsafe impl DataInit for Registers {}
/// ```
///
/// A type with padding, references or niches is refused:
///
/// ```compile_fail,E0277
/// fn travels<T: memory_model::DataInit>() {}
/// travels::<bool>();
/// ```
///
/// # Safety
///
/// For an `unsafe impl`, all of these hold: any sequence of `size_of::<Self>()` bytes is a valid `Self`; no byte of a
/// `Self` is ever uninitialised (no padding); and it has no interior mutability.
pub unsafe trait DataInit: Copy + Send + Sync {
    /// Views `data` as a `Self`; `None` if its length is not `Self`'s size, or its address not aligned for `Self`.
    fn from_slice(data: &[u8]) -> Option<&Self> {
        if data.len() != size_of::<Self>() || !data.as_ptr().cast::<Self>().is_aligned() {
            return None;
        }
        // SAFETY: the bytes are as many as a `Self` has, aligned for it (both checked), initialised, borrowed as long
        // as the result, and by the trait's contract any bytes are a valid `Self`.
        Some(unsafe { &*data.as_ptr().cast::<Self>() })
    }

    /// Views `data` as a `Self` that may be changed; `None` as for [`from_slice`](Self::from_slice).
    fn from_mut_slice(data: &mut [u8]) -> Option<&mut Self> {
        if data.len() != size_of::<Self>() || !data.as_ptr().cast::<Self>().is_aligned() {
            return None;
        }
        // SAFETY: as in `from_slice`; the borrow is exclusive, and whatever is written to a `Self` leaves initialised
        // bytes, as it has no padding.
        Some(unsafe { &mut *data.as_mut_ptr().cast::<Self>() })
    }

    /// The value's bytes, in memory order.
    #[inline]
    fn as_slice(&self) -> &[u8] {
        // SAFETY: the pointer comes from a reference to `size_of::<Self>()` bytes, all initialised as there is no
        // padding, which do not change during the borrow as there is no interior mutability.
        unsafe { slice::from_raw_parts((&raw const *self).cast::<u8>(), size_of::<Self>()) }
    }

    /// The value's bytes, to be changed.
    #[inline]
    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; the borrow is exclusive, and any bytes written are a valid `Self`.
        unsafe { slice::from_raw_parts_mut((&raw mut *self).cast::<u8>(), size_of::<Self>()) }
    }

    /// The value whose bytes are all zero.
    #[inline]
    fn zeroed() -> Self {
        // SAFETY: all bytes zero is a valid `Self`, as any bytes are.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

// SAFETY: `FromBytes` says that any bytes are valid, `IntoBytes` that none is padding, `Immutable` that there is no
// interior mutability.
unsafe impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Send + Sync> DataInit for T {}
