//! The only code that touches racy bytes: memory that a guest, a peer process or another thread may change at any time.
//!
//! This face owns the types, the choice of the width and the meaning of an `Ordering`; the engine behind it owns the
//! instructions. Every function answers `Result<_, Fault>`, so that nothing above changes with the engine. All is
//! `unsafe`: the caller vouches for the range, and for nothing else. In particular nobody has to promise that the bytes
//! stay as they are meanwhile.

#![expect(unsafe_code, reason = "loads and stores through raw pointers to shared memory are this module's purpose")]

use core::mem::{MaybeUninit, transmute_copy};
use core::sync::atomic::Ordering;

use crate::DataInit;

/// `$body` with `$U` as the unit of `$width` bytes, which are 1, 2, 4 or 8.
macro_rules! with_unit {
    (@ $unit:ident, $U:ident => $body:expr) => {{
        type $U = $unit;
        $body
    }};
    ($width:expr, $U:ident => $body:expr) => {
        match $width {
            1 => with_unit!(@ u8, $U => $body),
            2 => with_unit!(@ u16, $U => $body),
            4 => with_unit!(@ u32, $U => $body),
            _ => with_unit!(@ u64, $U => $body),
        }
    };
}

mod portable;
use portable as engine;

/// A page that could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The host address of the first byte that was not accessible.
    pub(crate) addr: usize,
    /// The bytes that were transferred before, from the start of the access.
    pub(crate) completed: usize,
}

/// What one machine instruction moves: an integer of 1, 2, 4 or 8 bytes.
///
/// # Safety
///
/// Implemented for `u8`, `u16`, `u32` and `u64` by the engine, and for nothing else: any bits are valid.
pub unsafe trait Unit: Copy {
    /// Loads in one access. An order that is none for loads acts as `SeqCst`.
    ///
    /// # Safety
    ///
    /// `src` is aligned for `Self` and its bytes are mapped; all others who access them concurrently in this process
    /// do so through this module.
    #[doc(hidden)]
    unsafe fn load(src: *const Self, order: Ordering) -> Result<Self, Fault>;

    /// Stores in one access. An order that is none for stores acts as `SeqCst`.
    ///
    /// # Safety
    ///
    /// As for `load`, and the bytes may be written.
    #[doc(hidden)]
    unsafe fn store(dst: *mut Self, value: Self, order: Ordering) -> Result<(), Fault>;

    /// Stores `new` if the bytes equal `current`, as one access; answers what was there, as `Ok` if it was stored.
    ///
    /// # Safety
    ///
    /// As for `store`.
    #[doc(hidden)]
    unsafe fn compare_exchange(
        dst: *mut Self,
        current: Self,
        new: Self,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<Self, Self>, Fault>;
}

/// The order that a load performs for `order`: one that does not fit acts as `SeqCst`.
#[inline]
fn load_order(order: Ordering) -> Ordering {
    match order {
        Ordering::Relaxed | Ordering::Acquire => order,
        _ => Ordering::SeqCst,
    }
}

/// The order that a store performs for `order`: one that does not fit acts as `SeqCst`.
#[inline]
fn store_order(order: Ordering) -> Ordering {
    match order {
        Ordering::Relaxed | Ordering::Release => order,
        _ => Ordering::SeqCst,
    }
}

/// Reads a value: in one access if it has 1, 2, 4 or 8 bytes and lies naturally aligned, else in any order and widths.
///
/// # Safety
///
/// The `size_of::<T>()` bytes at `src` are mapped; whoever accesses them concurrently in this process does so through
/// this module.
#[inline]
pub(crate) unsafe fn read<T: DataInit>(src: *const u8) -> Result<T, Fault> {
    /// # Safety
    /// As for `read`, and `src` is aligned for `U`, which is as large as `T`.
    #[inline]
    unsafe fn whole<T: DataInit, U: Unit>(src: *const u8) -> Result<T, Fault> {
        // SAFETY: the caller's promise.
        let unit = unsafe { U::load(src.cast(), Ordering::Relaxed) }?;
        // SAFETY: both have the same size, and any bits are a valid `T`.
        Ok(unsafe { transmute_copy::<U, T>(&unit) })
    }
    let width = size_of::<T>();
    if is_unit(src.addr(), width) {
        return with_unit!(width, U => {
            // SAFETY: the caller's promise; `is_unit` has checked the width and the alignment.
            unsafe { whole::<T, U>(src) }
        });
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the caller's promise for `src`; `value` is ours and as large.
    unsafe { engine::copy_out(src, value.as_mut_ptr().cast(), width) }?;
    // SAFETY: every byte was written, and any bytes are a valid `T`.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value: in one access if it has 1, 2, 4 or 8 bytes and is to lie naturally aligned, else in any order and
/// widths.
///
/// # Safety
///
/// As for [`read`], and the bytes may be written.
#[inline]
pub(crate) unsafe fn write<T: DataInit>(dst: *mut u8, value: T) -> Result<(), Fault> {
    /// # Safety
    /// As for `write`, and `dst` is aligned for `U`, which is as large as `T`.
    #[inline]
    unsafe fn whole<T: DataInit, U: Unit>(dst: *mut u8, value: &T) -> Result<(), Fault> {
        // SAFETY: both have the same size, `T` has no padding, and any bits are a valid `U`.
        let unit = unsafe { transmute_copy::<T, U>(value) };
        // SAFETY: the caller's promise.
        unsafe { U::store(dst.cast(), unit, Ordering::Relaxed) }
    }
    let width = size_of::<T>();
    if is_unit(dst.addr(), width) {
        return with_unit!(width, U => {
            // SAFETY: the caller's promise; `is_unit` has checked the width and the alignment.
            unsafe { whole::<T, U>(dst, &value) }
        });
    }
    // SAFETY: the caller's promise for `dst`; `value` is ours and as large.
    unsafe { engine::copy_in(dst, (&raw const value).cast(), width) }
}

/// Copies `len` bytes from shared memory at `src` to private memory at `dst`, upwards.
///
/// # Safety
///
/// `src` as for [`read`] with `len` bytes; the `len` bytes at `dst` may be written, are nobody else's for the time of
/// the call, and do not overlap those at `src`.
#[inline]
pub(crate) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    if is_unit(src.addr(), len) {
        /// # Safety
        /// As for `copy_out`, with `src` aligned for `U`, and `U` as large as the copy.
        #[inline]
        unsafe fn whole<U: Unit>(src: *const u8, dst: *mut u8) -> Result<(), Fault> {
            // SAFETY: the caller's promise for `src`.
            let unit = unsafe { U::load(src.cast(), Ordering::Relaxed) }?;
            // SAFETY: the caller's promise for `dst`; the write need not be aligned.
            unsafe { dst.cast::<U>().write_unaligned(unit) };
            Ok(())
        }
        return with_unit!(len, U => {
            // SAFETY: the caller's promise; `is_unit` has checked the width and the alignment.
            unsafe { whole::<U>(src, dst) }
        });
    }
    // SAFETY: the caller's promise.
    unsafe { engine::copy_out(src, dst, len) }
}

/// Copies `len` bytes from private memory at `src` to shared memory at `dst`, upwards.
///
/// # Safety
///
/// `dst` as for [`write`] with `len` bytes; the `len` bytes at `src` may be read, do not change for the time of the
/// call, and do not overlap those at `dst`.
#[inline]
pub(crate) unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    if is_unit(dst.addr(), len) {
        /// # Safety
        /// As for `copy_in`, with `dst` aligned for `U`, and `U` as large as the copy.
        #[inline]
        unsafe fn whole<U: Unit>(dst: *mut u8, src: *const u8) -> Result<(), Fault> {
            // SAFETY: the caller's promise for `src`; the read need not be aligned.
            let unit = unsafe { src.cast::<U>().read_unaligned() };
            // SAFETY: the caller's promise for `dst`.
            unsafe { U::store(dst.cast(), unit, Ordering::Relaxed) }
        }
        return with_unit!(len, U => {
            // SAFETY: the caller's promise; `is_unit` has checked the width and the alignment.
            unsafe { whole::<U>(dst, src) }
        });
    }
    // SAFETY: the caller's promise.
    unsafe { engine::copy_in(dst, src, len) }
}

/// Copies `len` bytes within shared memory, from `src` to `dst`, which may overlap: upwards, unless `dst` lies inside
/// the source, then downwards.
///
/// # Safety
///
/// `src` as for [`read`] and `dst` as for [`write`], with `len` bytes.
#[inline]
pub(crate) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { engine::copy(src, dst, len) }
}

/// Writes `byte` to the `len` bytes at `dst`, upwards.
///
/// # Safety
///
/// `dst` as for [`write`] with `len` bytes.
#[inline]
pub(crate) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { engine::fill(dst, byte, len) }
}

/// Whether `width` bytes at `addr` are one machine access: 1, 2, 4 or 8 of them, naturally aligned.
#[inline]
fn is_unit(addr: usize, width: usize) -> bool {
    matches!(width, 1 | 2 | 4 | 8) && addr & (width - 1) == 0
}

#[cfg(test)]
mod tests;
