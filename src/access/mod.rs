//! The only code that touches racy bytes: memory that a guest, a peer process or another thread may change at any time.
//!
//! This face owns the types, the choice of the width and the meaning of an `Ordering`; the engine behind it owns the
//! instructions. Every function answers `Result<_, Fault>`, so that nothing above changes with the engine. All is
//! `unsafe`: the caller vouches for the range, and for nothing else. In particular nobody has to promise that the bytes
//! stay as they are meanwhile.
//!
//! | engine | targets | a page that cannot be accessed |
//! |--------|---------|--------------------------------|
//! | `x86_64`, `aarch64` | Linux on these | a [`Fault`], once the handlers are installed (`signal`) |
//! | `portable` | all others, Miri, loom | ends the process |

#![expect(unsafe_code, reason = "loads and stores through raw pointers to shared memory are this module's purpose")]

use core::mem::{MaybeUninit, transmute_copy};
use core::sync::atomic::Ordering;

use crate::DataInit;

mod fault;

pub(crate) use fault::{CopyFault, Fault};

/// Chooses the modules of an engine that recovers, and those of one that does not.
macro_rules! cfg_engine {
    (recovering { $($recovering:item)* } else { $($portable:item)* }) => {
        $(
            #[cfg(all(
                target_os = "linux",
                target_pointer_width = "64",
                any(target_arch = "x86_64", target_arch = "aarch64"),
                not(any(miri, loom))
            ))]
            $recovering
        )*
        $(
            #[cfg(not(all(
                target_os = "linux",
                target_pointer_width = "64",
                any(target_arch = "x86_64", target_arch = "aarch64"),
                not(any(miri, loom))
            )))]
            $portable
        )*
    };
}

cfg_engine! {
    recovering {
        mod recovery;
        mod recovering;
        #[cfg(target_arch = "x86_64")]
        mod x86_64;
        #[cfg(target_arch = "aarch64")]
        mod aarch64;
        #[cfg(feature = "fault-recovery")]
        mod signal;

        #[cfg(target_arch = "aarch64")]
        use aarch64 as arch;
        use recovering as engine;
        #[cfg(target_arch = "x86_64")]
        use x86_64 as arch;
        #[cfg(feature = "fault-recovery")]
        pub use signal::{install, is_installed};
        #[cfg(feature = "fault-recovery")]
        pub(crate) use signal::was_installed;

        /// Whether the hardware can be left to refuse an access, as that is then an error: if the handlers are installed.
        pub(crate) const RECOVERS: bool = cfg!(feature = "fault-recovery");
    } else {
        mod portable;

        use portable as engine;
        #[cfg(feature = "fault-recovery")]
        pub use portable::{install, is_installed};
        #[cfg(feature = "fault-recovery")]
        pub(crate) use portable::is_installed as was_installed;

        pub(crate) const RECOVERS: bool = false;
    }
}

/// Whether a page that cannot be accessed is an error, or else ends the process: unless another handler has replaced ours, and
/// does not pass signals on.
#[cfg(feature = "std")]
pub(crate) fn recovers() -> bool {
    #[cfg(feature = "fault-recovery")]
    return was_installed();
    #[cfg(not(feature = "fault-recovery"))]
    return false;
}

/// What an engine moves at once, at any address: one access if it has at most 8 bytes and lies naturally aligned.
pub(crate) trait Plain: Copy {
    /// # Safety
    ///
    /// As for [`read`], with `Self`'s bytes.
    unsafe fn read(src: *const u8) -> Result<Self, Fault>;

    /// Bytes before a bad one are not written.
    ///
    /// # Safety
    ///
    /// As for [`write`], with `Self`'s bytes.
    unsafe fn write(dst: *mut u8, value: Self) -> Result<(), Fault>;
}

/// What one machine instruction moves atomically: an integer of 1, 2, 4 or 8 bytes.
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

    /// Sets the bits of `bits`, as one access; answers what was there.
    ///
    /// # Safety
    ///
    /// As for `store`.
    #[doc(hidden)]
    unsafe fn fetch_or(dst: *mut Self, bits: Self, order: Ordering) -> Result<Self, Fault>;

    /// As `fetch_or`, for those who do not need what was there: one instruction where the CPU has one for this only.
    ///
    /// # Safety
    ///
    /// As for `store`.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn set_bits(dst: *mut Self, bits: Self, order: Ordering) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { Self::fetch_or(dst, bits, order) }.map(drop)
    }
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

/// `$body` with `$U` as the largest unit that is not longer than `$width` bytes, which are 1 to 32.
macro_rules! with_plain {
    ($width:expr, $U:ident => $body:expr) => {
        match $width {
            1 => with_plain!(@ u8, $U => $body),
            2..=3 => with_plain!(@ u16, $U => $body),
            4..=7 => with_plain!(@ u32, $U => $body),
            8..=15 => with_plain!(@ u64, $U => $body),
            _ => with_plain!(@ u128, $U => $body),
        }
    };
    (@ $unit:ident, $U:ident => $body:expr) => {{
        type $U = $unit;
        $body
    }};
}

/// The longest value that goes through registers, in bytes: two units.
const SHORT: usize = 32;

/// Reads a value: in one access if it has 1, 2, 4 or 8 bytes and lies naturally aligned, else in any order and widths.
///
/// # Safety
///
/// The `size_of::<T>()` bytes at `src` are mapped; whoever accesses them concurrently in this process does so through
/// this module.
#[inline(always)]
pub(crate) unsafe fn read<T: DataInit>(src: *const u8) -> Result<T, Fault> {
    /// # Safety
    /// As for `read`, of a `T` that has at least the size of `U`, and at most twice that.
    #[inline(always)]
    unsafe fn by<T: DataInit, U: Plain>(src: *const u8) -> Result<T, Fault> {
        // SAFETY: the caller's promise.
        let first = unsafe { U::read(src) }?;
        let rest = size_of::<T>() - size_of::<U>();
        if rest == 0 {
            // SAFETY: both have the same size, and any bits are a valid `T`.
            return Ok(unsafe { transmute_copy::<U, T>(&first) });
        }
        // The last bytes, some of which may be among the first, too.
        // SAFETY: the caller's promise: it ends where the `T` does.
        let last = unsafe { U::read(src.wrapping_add(rest)) }?;
        let mut value = MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast::<u8>();
        // SAFETY: inside the value, which has at least the size of `U`.
        unsafe { to.cast::<U>().write_unaligned(first) };
        // SAFETY: as above: it ends where the value does.
        unsafe { to.wrapping_add(rest).cast::<U>().write_unaligned(last) };
        // SAFETY: every byte was written, as it has at most twice the size of `U`; any bytes are a valid `T`.
        Ok(unsafe { value.assume_init() })
    }
    let width = size_of::<T>();
    if (1..=SHORT).contains(&width) {
        return with_plain!(width, U => {
            // SAFETY: the caller's promise, and the choice of `U`.
            unsafe { by::<T, U>(src) }
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
    // SAFETY: the caller's promise.
    unsafe { attempt_write(dst, value) }.map_err(|fault| {
        // What lies before the bad address may not be done.
        // SAFETY: the caller's promise for `dst`; no more bytes than the value has, which is ours.
        let before =
            unsafe { engine::copy_in(dst, (&raw const value).cast(), fault.completed(dst).min(size_of::<T>())) };
        let reached = fault.reached(dst, size_of::<T>());
        before.map_or_else(|lower| lower.reaching(dst.addr() + reached), |()| fault)
    })
}

/// As [`write`], but after a fault the bytes before it may not be written.
///
/// # Safety
///
/// As for [`write`].
#[inline(always)]
pub(crate) unsafe fn attempt_write<T: DataInit>(dst: *mut u8, value: T) -> Result<(), Fault> {
    /// # Safety
    /// As for `write`, of a `T` that has at least the size of `U`, and at most twice that.
    #[inline(always)]
    unsafe fn by<T: DataInit, U: Plain>(dst: *mut u8, value: &T) -> Result<(), Fault> {
        // SAFETY: the first bytes of the value, which has no padding, and at least the size of `U`; any are valid.
        let first = unsafe { transmute_copy::<T, U>(value) };
        // SAFETY: the caller's promise.
        unsafe { U::write(dst, first) }?;
        let rest = size_of::<T>() - size_of::<U>();
        if rest == 0 {
            return Ok(());
        }
        let from = (&raw const *value).cast::<u8>().wrapping_add(rest);
        // SAFETY: inside the value: it ends where that does.
        let last = unsafe { from.cast::<U>().read_unaligned() };
        // SAFETY: the caller's promise: it ends where the `T` does.
        unsafe { U::write(dst.wrapping_add(rest), last) }.map_err(|fault| fault.reaching(dst.addr() + size_of::<U>()))
    }
    let width = size_of::<T>();
    if (1..=SHORT).contains(&width) {
        return with_plain!(width, U => {
            // SAFETY: the caller's promise, and the choice of `U`.
            unsafe { by::<T, U>(dst, &value) }
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
#[inline(always)]
pub(crate) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { engine::copy_out(src, dst, len) }
}

/// Copies `len` bytes from private memory at `src` to shared memory at `dst`, upwards.
///
/// # Safety
///
/// `dst` as for [`write`] with `len` bytes; the `len` bytes at `src` may be read, do not change for the time of the
/// call, and do not overlap those at `dst`.
#[inline(always)]
pub(crate) unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
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
pub(crate) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
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

/// Whether the `len` bytes at `src` are all zero. Reads upwards, and no further than to some byte that is not.
///
/// # Safety
///
/// `src` as for [`read`] with `len` bytes.
#[inline]
pub(crate) unsafe fn is_zero(src: *const u8, len: usize) -> Result<bool, Fault> {
    // SAFETY: the caller's promise.
    unsafe { engine::is_zero(src, len) }
}

/// What a [`probe`] does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Reads a byte.
    Read,
    /// Writes a byte as it is, atomically.
    Write,
}

/// Looks for the first of `len` bytes that cannot be accessed, page by page, and changes none.
///
/// # Safety
///
/// `start` as for [`read`], or as for [`write`], with `len` bytes.
pub(crate) unsafe fn probe(start: *const u8, len: usize, access: Probe) -> Result<(), Fault> {
    let first_page = (fault::PAGE - start.addr() % fault::PAGE).min(len);
    for offset in [0].into_iter().filter(|_| len > 0).chain((first_page..len).step_by(fault::PAGE)) {
        let at = start.wrapping_add(offset);
        let probed = match access {
            // SAFETY: the caller's promise, as the offset is below `len`.
            Probe::Read => unsafe { u8::load(at, Ordering::Relaxed) }.map(drop),
            // SAFETY: as above.
            Probe::Write => unsafe { u8::set_bits(at.cast_mut(), 0, Ordering::Relaxed) },
        };
        probed?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
