//! The engine for aarch64: each access to guest bytes is an instruction, or a run of them, with an entry in the recovery
//! table.
//!
//! | register | in a run |
//! |----------|----------|
//! | `x14` | a single access: its address |
//! | `x3`, `x4`, `x2` | a bulk operation: where the guest's bytes begin, where the other guest's bytes begin, how many |
//! | `x15` | 0; after a fault a bad address. The signal handler writes it, and goes on at the end of the run |
//!
//! Plain loads and stores may be misaligned, as the memory is normal, not a device's. Those with an order, and exclusive
//! ones, may not. The orders are C++'s: `ldar` and `stlr` serve for `SeqCst`, too, as no `ldar` passes a `stlr` before it.
//!
//! An exclusive load and store are repeated while somebody else writes to the place in between: a guest that does nothing
//! else can delay `compare_exchange` and `fetch_or`, for which the baseline has no single instruction.
//!
//! The architecture (DDI 0487, "Definition of a precise exception" and "Alignment of data accesses") leaves open what
//! happens when an access crosses from page to page, as a misaligned one, a pair or a vector may:
//! * If both pages are bad, it may end at either, at any byte: [`first_bad`] and `recovering::finish` find the first.
//! * The bytes of a store that lie in a good page may be written or not. Those before a bad one are written once more
//!   (`access::write`, `recovering::finish`), so nothing is amiss if they were. That leaves a store that begins in a bad
//!   page and ends in a good one: no processor is known to write to the latter, so nothing is done about it.

mod bulk;
#[cfg(feature = "fault-recovery")]
mod context;

use core::arch::asm;
use core::mem::transmute;
use core::sync::atomic::Ordering;

use super::recovery::entry;
use super::{Fault, Plain, Unit, load_order, store_order};

pub(super) use bulk::{copy, fill, is_zero};
#[cfg(feature = "fault-recovery")]
pub(super) use context::table;

/// A run of instructions that accesses `$width` bytes at `x14`, with its entry. Answers a bad address, or 0.
macro_rules! single {
    ($width:literal, [$($line:expr),*], $at:expr; $($operands:tt)*) => {{
        let bad: usize;
        asm!(
            "2:", $($line,)* "3:", entry!($width),
            in("x14") $at, inlateout("x15") 0_usize => bad, $($operands)*
        );
        bad
    }};
}

/// The fault of a load of a few bytes at `start`, of which the one at `bad` is bad: the first that is. No call, for which
/// the path of success would need the stack.
///
/// # Safety
///
/// As for [`super::read`], with the byte at `start`.
#[cold]
#[inline(always)]
unsafe fn first_bad(bad: usize, start: *const u8) -> Fault {
    let fault = Fault::new(bad);
    // The bytes before are in the page before, and bad if one is.
    // SAFETY: as for any load.
    let before = unsafe {
        single!(1, ["ldrb {byte:w}, [x14]"], start; byte = lateout(reg) _, options(nostack, preserves_flags, readonly))
    };
    if before == 0 { fault } else { all_bad(start) }
}

/// The fault of an access that lies in one page, all of which is bad.
#[cold]
#[inline]
fn all_bad(start: *const u8) -> Fault {
    Fault::new(start.addr())
}

macro_rules! plain {
    ($($U:ident, $width:literal, $size:literal, $r:literal;)*) => {$(
        impl Plain for $U {
            #[inline(always)]
            unsafe fn read(src: *const u8) -> Result<Self, Fault> {
                let value: Self;
                // SAFETY: reads bytes that are mapped, by the caller's promise, or else recovers; writes two registers,
                // one of which may be the pointer's: a load that faults leaves that as it is. Not `pure`: the bytes may
                // change.
                let bad = unsafe {
                    single!($width, [concat!("ldr", $size, " {value:", $r, "}, [x14]")], src; value = lateout(reg) value,
                        options(nostack, preserves_flags, readonly))
                };
                if bad == 0 {
                    return Ok(value);
                }
                // SAFETY: the caller's promise.
                Err(unsafe { first_bad(bad, src) })
            }

            #[inline(always)]
            unsafe fn write(dst: *mut u8, value: Self) -> Result<(), Fault> {
                // SAFETY: writes bytes that are mapped and not used by Rust, by the caller's promise, or else recovers.
                let bad = unsafe {
                    single!($width, [concat!("str", $size, " {value:", $r, "}, [x14]")], dst; value = in(reg) value,
                        options(nostack, preserves_flags))
                };
                if bad == 0 { Ok(()) } else { Err(Fault::new(bad)) }
            }
        }
    )*};
}

plain! {
    u8, 1, "b", "w";
    u16, 2, "h", "w";
    u32, 4, "", "w";
    u64, 8, "", "x";
}

impl Plain for u128 {
    #[inline(always)]
    unsafe fn read(src: *const u8) -> Result<Self, Fault> {
        let (low, high): (u64, u64);
        // SAFETY: as for the others.
        let bad = unsafe {
            single!(16, ["ldp {low}, {high}, [x14]"], src; low = lateout(reg) low, high = lateout(reg) high,
                options(nostack, preserves_flags, readonly))
        };
        if bad == 0 {
            // SAFETY: both have 16 bytes, of which any are valid.
            return Ok(unsafe { transmute::<[u64; 2], Self>([low, high]) });
        }
        // SAFETY: the caller's promise.
        Err(unsafe { first_bad(bad, src) })
    }

    #[inline(always)]
    unsafe fn write(dst: *mut u8, value: Self) -> Result<(), Fault> {
        // SAFETY: both have 16 bytes, of which any are valid.
        let [low, high] = unsafe { transmute::<Self, [u64; 2]>(value) };
        // SAFETY: as for the others.
        let bad = unsafe {
            single!(16, ["stp {low}, {high}, [x14]"], dst; low = in(reg) low, high = in(reg) high,
                options(nostack, preserves_flags))
        };
        if bad == 0 { Ok(()) } else { Err(Fault::new(bad)) }
    }
}

macro_rules! unit {
    ($($U:ident, $width:literal, $size:literal, $r:literal, $extend:literal;)*) => {$(
        // SAFETY: one of the four that the trait names.
        unsafe impl Unit for $U {
            #[inline(always)]
            unsafe fn load(src: *const Self, order: Ordering) -> Result<Self, Fault> {
                if load_order(order) == Ordering::Relaxed {
                    // SAFETY: the caller's promise.
                    return unsafe { Self::read(src.cast()) };
                }
                let value: Self;
                // SAFETY: as in `read`. Without `readonly`, so that no access after it in the program goes before it.
                let bad = unsafe {
                    single!($width, [concat!("ldar", $size, " {value:", $r, "}, [x14]")], src;
                        value = lateout(reg) value, options(nostack, preserves_flags))
                };
                if bad == 0 { Ok(value) } else { Err(all_bad(src.cast())) }
            }

            #[inline(always)]
            unsafe fn store(dst: *mut Self, value: Self, order: Ordering) -> Result<(), Fault> {
                if store_order(order) == Ordering::Relaxed {
                    // SAFETY: the caller's promise.
                    return unsafe { Self::write(dst.cast(), value) };
                }
                // SAFETY: as in `write`. No access before it in the program goes after it, as it may write anything.
                let bad = unsafe {
                    single!($width, [concat!("stlr", $size, " {value:", $r, "}, [x14]")], dst;
                        value = in(reg) value, options(nostack, preserves_flags))
                };
                if bad == 0 { Ok(()) } else { Err(all_bad(dst.cast())) }
            }

            #[inline(always)]
            unsafe fn compare_exchange(
                dst: *mut Self,
                current: Self,
                new: Self,
                _success: Ordering,
                _failure: Ordering,
            ) -> Result<Result<Self, Self>, Fault> {
                let held: Self;
                // SAFETY: as in `store`. With both orders, which are all at once. The run is the whole loop, whose
                // results share no register with what it needs.
                let bad = unsafe {
                    single!(
                        $width,
                        [
                            concat!("ldaxr", $size, " {held:", $r, "}, [x14]"),
                            concat!("cmp {held:", $r, "}, {current:", $r, "}", $extend),
                            "b.ne 4f",
                            concat!("stlxr", $size, " {failed:w}, {new:", $r, "}, [x14]"),
                            "cbz {failed:w}, 3f",
                            "b 2b",
                            "4:",
                            "clrex"
                        ],
                        dst;
                        held = out(reg) held, failed = out(reg) _, current = in(reg) current, new = in(reg) new,
                        options(nostack)
                    )
                };
                if bad != 0 {
                    return Err(all_bad(dst.cast()));
                }
                Ok(if held == current { Ok(held) } else { Err(held) })
            }

            #[inline(always)]
            unsafe fn fetch_or(dst: *mut Self, bits: Self, _order: Ordering) -> Result<Self, Fault> {
                let held: Self;
                // SAFETY: as in `compare_exchange`.
                let bad = unsafe {
                    single!(
                        $width,
                        [
                            concat!("ldaxr", $size, " {held:", $r, "}, [x14]"),
                            concat!("orr {both:", $r, "}, {held:", $r, "}, {bits:", $r, "}"),
                            concat!("stlxr", $size, " {failed:w}, {both:", $r, "}, [x14]"),
                            "cbnz {failed:w}, 2b"
                        ],
                        dst;
                        held = out(reg) held, both = out(reg) _, failed = out(reg) _, bits = in(reg) bits,
                        options(nostack, preserves_flags)
                    )
                };
                if bad == 0 { Ok(held) } else { Err(all_bad(dst.cast())) }
            }
        }
    )*};
}

unit! {
    u8, 1, "b", "w", ", uxtb";
    u16, 2, "h", "w", ", uxth";
    u32, 4, "", "w", "";
    u64, 8, "", "x", "";
}
