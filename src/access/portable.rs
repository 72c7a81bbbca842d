//! The engine for every target: relaxed atomics, a unit at a time. It cannot recover from a fault, so it never fails.
//!
//! A bulk copy goes in machine words where both ends allow it. Needs atomics of 64 bits, which every target with `std`
//! that this crate is tested on has.

use core::mem::transmute_copy;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{CopyFault, Fault, Plain, Unit, load_order, store_order};

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

/// Whether `width` bytes at `addr` are one machine access: 1, 2, 4 or 8 of them, naturally aligned.
#[inline]
fn is_unit(addr: usize, width: usize) -> bool {
    matches!(width, 1 | 2 | 4 | 8) && addr & (width - 1) == 0
}

macro_rules! plain {
    ($($U:ident),*) => {$(
        impl Plain for $U {
            #[inline]
            unsafe fn read(src: *const u8) -> Result<Self, Fault> {
                let mut value: Self = 0;
                // SAFETY: the caller's promise for `src`; `value` is ours and as large.
                unsafe { copy_out(src, (&raw mut value).cast(), size_of::<Self>()) }?;
                Ok(value)
            }

            #[inline]
            unsafe fn write(dst: *mut u8, value: Self) -> Result<(), Fault> {
                // SAFETY: the caller's promise for `dst`; `value` is ours and as large.
                unsafe { copy_in(dst, (&raw const value).cast(), size_of::<Self>()) }
            }
        }
    )*};
}
plain!(u8, u16, u32, u64, u128);

macro_rules! units {
    ($($U:ident: $Atomic:ident),*) => {$(
        // SAFETY: one of the four that the trait names.
        unsafe impl Unit for $U {
            #[inline]
            unsafe fn load(src: *const Self, order: Ordering) -> Result<Self, Fault> {
                // SAFETY: aligned, mapped, and accessed by others through atomics only: the caller's promise. The
                // reference to an atomic ends with this line, and is never written through.
                Ok(unsafe { $Atomic::from_ptr(src.cast_mut()) }.load(load_order(order)))
            }

            #[inline]
            unsafe fn store(dst: *mut Self, value: Self, order: Ordering) -> Result<(), Fault> {
                // SAFETY: as in `load`, and writable.
                unsafe { $Atomic::from_ptr(dst) }.store(value, store_order(order));
                Ok(())
            }

            #[inline]
            unsafe fn compare_exchange(
                dst: *mut Self,
                current: Self,
                new: Self,
                success: Ordering,
                failure: Ordering,
            ) -> Result<Result<Self, Self>, Fault> {
                // SAFETY: as in `store`.
                let target = unsafe { $Atomic::from_ptr(dst) };
                Ok(target.compare_exchange(current, new, success, load_order(failure)))
            }

            #[inline]
            unsafe fn fetch_or(dst: *mut Self, bits: Self, order: Ordering) -> Result<Self, Fault> {
                // SAFETY: as in `store`.
                Ok(unsafe { $Atomic::from_ptr(dst) }.fetch_or(bits, order))
            }
        }
    )*};
}
units!(u8: AtomicU8, u16: AtomicU16, u32: AtomicU32, u64: AtomicU64);

/// The unit of a bulk copy.
#[cfg(target_pointer_width = "64")]
type Word = u64;
#[cfg(not(target_pointer_width = "64"))]
type Word = u32;

const WORD: usize = size_of::<Word>();

/// Does `len` bytes at `addr` upwards: `byte(offset)` up to the first word boundary, `word(offset)` as long as a whole
/// word is left, and `byte(offset)` for the rest.
#[inline]
fn by_words(
    addr: usize,
    len: usize,
    mut byte: impl FnMut(usize) -> Result<(), Fault>,
    word: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let head = (addr.wrapping_neg() % WORD).min(len);
    let tail = len - (len - head) % WORD;
    (0..head).try_for_each(&mut byte)?;
    (head..tail).step_by(WORD).try_for_each(word)?;
    (tail..len).try_for_each(byte)
}

/// # Safety
///
/// As for [`super::copy_out`].
#[inline]
pub(super) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    /// # Safety
    /// As for `copy_out` with the unit at `offset` inside it, and `src + offset` aligned for `U`.
    #[inline]
    unsafe fn unit<U: Unit>(src: *const u8, dst: *mut u8, offset: usize) -> Result<(), Fault> {
        // SAFETY: inside the source, by the caller's promise.
        let from = unsafe { src.add(offset) };
        // SAFETY: mapped and aligned, by the caller's promise.
        let value = unsafe { U::load(from.cast(), Ordering::Relaxed) }?;
        // SAFETY: inside the destination, by the caller's promise.
        let to = unsafe { dst.add(offset) };
        // SAFETY: as the line before; the write need not be aligned.
        unsafe { to.cast::<U>().write_unaligned(value) };
        Ok(())
    }
    if is_unit(src.addr(), len) {
        return with_unit!(len, U => {
            // SAFETY: `is_unit` has checked the width and the alignment.
            unsafe { unit::<U>(src, dst, 0) }
        });
    }
    by_words(
        src.addr(),
        len,
        // SAFETY: inside `len`.
        |offset| unsafe { unit::<u8>(src, dst, offset) },
        // SAFETY: inside `len` with all of the word, and `src` is aligned for a word there.
        |offset| unsafe { unit::<Word>(src, dst, offset) },
    )
}

/// # Safety
///
/// As for [`super::copy_in`].
#[inline]
pub(super) unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    /// # Safety
    /// As for `copy_in` with the unit at `offset` inside it, and `dst + offset` aligned for `U`.
    #[inline]
    unsafe fn unit<U: Unit>(dst: *mut u8, src: *const u8, offset: usize) -> Result<(), Fault> {
        // SAFETY: inside the source, by the caller's promise.
        let from = unsafe { src.add(offset) };
        // SAFETY: readable, by the caller's promise; the read need not be aligned.
        let value = unsafe { from.cast::<U>().read_unaligned() };
        // SAFETY: inside the destination, by the caller's promise.
        let to = unsafe { dst.add(offset) };
        // SAFETY: mapped, writable and aligned, by the caller's promise.
        unsafe { U::store(to.cast(), value, Ordering::Relaxed) }
    }
    if is_unit(dst.addr(), len) {
        return with_unit!(len, U => {
            // SAFETY: `is_unit` has checked the width and the alignment.
            unsafe { unit::<U>(dst, src, 0) }
        });
    }
    by_words(
        dst.addr(),
        len,
        // SAFETY: inside `len`.
        |offset| unsafe { unit::<u8>(dst, src, offset) },
        // SAFETY: inside `len` with all of the word, and `dst` is aligned for a word there.
        |offset| unsafe { unit::<Word>(dst, src, offset) },
    )
}

/// # Safety
///
/// As for [`super::copy`].
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
    /// Copies with the widest unit that both ends can use, which is `U`, wherever that is aligned.
    ///
    /// # Safety
    /// As for `copy`, and `src` and `dst` leave the same remainder when divided by `U`'s size.
    #[inline]
    unsafe fn by<U: Unit>(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
        let width = size_of::<U>();
        let head = (dst.addr().wrapping_neg() % width).min(len);
        let body = (len - head) / width * width;
        // Downwards if an upward copy would overwrite bytes that it has still to read.
        if dst.addr().wrapping_sub(src.addr()) < len {
            // SAFETY: every offset ends inside `len`; the units' are at multiples of the width from where both ends
            // are aligned for it.
            (head + body..len).rev().try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })?;
            let mut units = (head..head + body).step_by(width).rev();
            // SAFETY: as above.
            units.try_for_each(|offset| unsafe { unit::<U>(src, dst, offset) })?;
            // SAFETY: as above.
            (0..head).rev().try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })
        } else {
            // SAFETY: as above.
            (0..head).try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })?;
            let mut units = (head..head + body).step_by(width);
            // SAFETY: as above.
            units.try_for_each(|offset| unsafe { unit::<U>(src, dst, offset) })?;
            // SAFETY: as above.
            (head + body..len).try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })
        }
    }
    /// # Safety
    /// As for `copy` with the unit at `offset` inside it, and both ends aligned for `U` there.
    #[inline]
    unsafe fn unit<U: Unit>(src: *const u8, dst: *mut u8, offset: usize) -> Result<(), Fault> {
        // SAFETY: inside the source, by the caller's promise.
        let from = unsafe { src.add(offset) };
        // SAFETY: mapped and aligned, by the caller's promise.
        let value = unsafe { U::load(from.cast(), Ordering::Relaxed) }?;
        // SAFETY: inside the destination, by the caller's promise.
        let to = unsafe { dst.add(offset) };
        // SAFETY: mapped, writable and aligned, by the caller's promise.
        unsafe { U::store(to.cast(), value, Ordering::Relaxed) }
    }
    // The widest unit for which both ends are aligned at the same places, unless the copy is shorter: then one of just
    // that length is one load and one store.
    let apart = (src.addr() ^ dst.addr()).trailing_zeros().min(3);
    let width = 1_usize << apart.min(len.checked_ilog2().unwrap_or(0));
    let copied = with_unit!(width, U => {
        // SAFETY: the caller's promise; the remainders are equal, as the low bits are.
        unsafe { by::<U>(src, dst, len) }
    });
    // This engine does not fail.
    copied.map_err(|_| CopyFault { is_destination: true, offset: 0, completed: 0, reached: len })
}

/// # Safety
///
/// As for [`super::fill`].
pub(super) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) -> Result<(), Fault> {
    /// # Safety
    /// As for `fill` with the unit at `offset` inside it, and `dst + offset` aligned for `U`.
    #[inline]
    unsafe fn unit<U: Unit>(dst: *mut u8, value: U, offset: usize) -> Result<(), Fault> {
        // SAFETY: inside the destination, by the caller's promise.
        let to = unsafe { dst.add(offset) };
        // SAFETY: mapped, writable and aligned, by the caller's promise.
        unsafe { U::store(to.cast(), value, Ordering::Relaxed) }
    }
    // Every byte of it is the same, so that cutting it to a unit's width changes nothing.
    let eight = [byte; 8];
    if is_unit(dst.addr(), len) {
        return with_unit!(len, U => {
            // SAFETY: `is_unit` has checked the width and the alignment.
            unsafe { unit::<U>(dst, repeated(eight), 0) }
        });
    }
    by_words(
        dst.addr(),
        len,
        // SAFETY: inside `len`.
        |offset| unsafe { unit::<u8>(dst, byte, offset) },
        // SAFETY: inside `len` with all of the word, and `dst` is aligned for a word there.
        |offset| unsafe { unit::<Word>(dst, repeated(eight), offset) },
    )
}

/// # Safety
///
/// As for [`super::is_zero`].
pub(super) unsafe fn is_zero(src: *const u8, len: usize) -> Result<bool, Fault> {
    let mut chunk = [0; 256];
    for offset in (0..len).step_by(chunk.len()) {
        let count = chunk.len().min(len - offset);
        // SAFETY: inside the source, by the caller's promise, and inside the chunk.
        unsafe { copy_out(src.add(offset), chunk.as_mut_ptr(), count) }?;
        if chunk.iter().take(count).any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Does nothing: on this target a page that cannot be accessed ends the process.
///
/// # Errors
///
/// None.
#[cfg(feature = "fault-recovery")]
pub fn install() -> std::io::Result<()> {
    Ok(())
}

/// Whether a page that cannot be accessed is an error: never on this target.
#[cfg(feature = "fault-recovery")]
pub fn is_installed() -> bool {
    false
}

/// The unit whose every byte is as in `eight`.
#[inline]
fn repeated<U: Unit>(eight: [u8; 8]) -> U {
    // SAFETY: a unit has at most 8 bytes, and any bits are valid.
    unsafe { transmute_copy(&eight) }
}
