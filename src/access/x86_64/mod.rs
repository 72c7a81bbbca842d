//! The engine for x86-64: each access to guest bytes is an instruction, or a run of them, with an entry in the recovery
//! table.
//!
//! | register | in a run |
//! |----------|----------|
//! | `rdi` | a single access: its address |
//! | `rcx`, `r8`, `rdx` | a bulk operation: where the guest's bytes begin, where the other guest's bytes begin, how many |
//! | `r11` | 0; after a fault the first bad address. The signal handler writes it, and goes on at the end of the run |
//!
//! Every x86-64 loads and stores misaligned, too, and loads with acquire and stores with release semantics in any case.
//!
//! Only `fetch_or` is a loop, as no instruction sets bits and returns all that was there. Someone who keeps writing to the
//! same place can delay it. `set_bits` cannot be delayed.

#[cfg(feature = "fault-recovery")]
mod context;
mod copy;
mod fill;
mod zero;

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::recovery::entry;
use super::{Fault, Plain, Unit, load_order, store_order};

#[cfg(feature = "fault-recovery")]
pub(super) use context::table;
pub(super) use copy::copy;
pub(super) use fill::fill;
pub(super) use zero::is_zero;

/// A bulk operation: a run with its registers, and its entry; and from the label 3 on, where a fault goes on, what ends it
/// in any case. A run may also end at the label 4, behind that. It may use all registers that a call may.
///
/// All go upwards, and a store is made only after all before it: so after a fault the bytes before the bad one may or may
/// not be done, and those after it are untouched.
macro_rules! bulk {
    ([$($line:expr,)*], [$($end:literal,)*], $guest:expr, $other:expr, $len:expr; $($operands:tt)*) => {{
        let bad: usize;
        asm!(
            "2:", $($line,)* "3:", $($end,)* "4:", entry!(0),
            in("rcx") $guest, in("r8") $other, in("rdx") $len, inlateout("r11") 0_usize => bad, $($operands)*
        );
        bad
    }};
}
use bulk;

/// One instruction that accesses `$width` bytes at `rdi`, with its entry. Answers the bad address, or 0.
macro_rules! single {
    ($width:literal, $instruction:literal, $at:expr; $($operands:tt)*) => {{
        let bad: usize;
        asm!(
            "2:", $instruction, "3:", entry!($width),
            in("rdi") $at, inlateout("r11") 0_usize => bad, $($operands)*
        );
        bad
    }};
}

/// What goes through a register for a value: an integer of its size, 32 bits for a byte.
macro_rules! to_carrier {
    (u8, $value:expr) => {
        u32::from($value)
    };
    (u128, $value:expr) => {
        // SAFETY: both have 16 bytes, of which any are valid.
        core::mem::transmute::<u128, core::arch::x86_64::__m128i>($value)
    };
    ($U:ident, $value:expr) => {
        $value
    };
}
macro_rules! from_carrier {
    (u8, $value:expr) => {
        $value.to_le_bytes()[0]
    };
    (u128, $value:expr) => {
        // SAFETY: both have 16 bytes, of which any are valid.
        unsafe { core::mem::transmute::<core::arch::x86_64::__m128i, u128>($value) }
    };
    ($U:ident, $value:expr) => {
        $value
    };
}

macro_rules! plain {
    ($($U:ident, $width:literal, $class:ident, $Carrier:ty, $load:literal, $store:literal;)*) => {$(
        impl Plain for $U {
            #[inline(always)]
            unsafe fn read(src: *const u8) -> Result<Self, Fault> {
                let value: $Carrier;
                // SAFETY: reads bytes that are mapped, by the caller's promise, or else recovers; writes two registers.
                // Not `pure`: the bytes may change.
                let bad = unsafe {
                    single!($width, $load, src; value = lateout($class) value,
                        options(nostack, preserves_flags, readonly))
                };
                if bad == 0 { Ok(from_carrier!($U, value)) } else { Err(Fault::new(bad)) }
            }

            #[inline(always)]
            unsafe fn write(dst: *mut u8, value: Self) -> Result<(), Fault> {
                // SAFETY: writes bytes that are mapped and not used by Rust, by the caller's promise, or else recovers.
                let bad = unsafe {
                    single!($width, $store, dst; value = in($class) to_carrier!($U, value),
                        options(nostack, preserves_flags))
                };
                if bad == 0 { Ok(()) } else { Err(Fault::new(bad)) }
            }
        }
    )*};
}

plain! {
    u8, 1, reg, u32, "movzx {value:e}, byte ptr [rdi]", "mov byte ptr [rdi], {value:l}";
    u16, 2, reg, u16, "movzx {value:e}, word ptr [rdi]", "mov word ptr [rdi], {value:x}";
    u32, 4, reg, u32, "mov {value:e}, dword ptr [rdi]", "mov dword ptr [rdi], {value:e}";
    u64, 8, reg, u64, "mov {value:r}, qword ptr [rdi]", "mov qword ptr [rdi], {value:r}";
    u128, 16, xmm_reg, core::arch::x86_64::__m128i, "movdqu {value}, xmmword ptr [rdi]",
        "movdqu xmmword ptr [rdi], {value}";
}

macro_rules! unit {
    ($($U:ident, $width:literal, $Carrier:ty, $load:literal, $store:literal, $exchange:literal, $compare:literal,
        $or:literal;)*) => {$(
        // SAFETY: one of the four that the trait names.
        unsafe impl Unit for $U {
            #[inline(always)]
            unsafe fn load(src: *const Self, order: Ordering) -> Result<Self, Fault> {
                if load_order(order) == Ordering::Relaxed {
                    // SAFETY: the caller's promise.
                    return unsafe { Self::read(src.cast()) };
                }
                let value: $Carrier;
                // SAFETY: as in `read`. Without `readonly`, so that no access after it in the program goes before it.
                let bad = unsafe {
                    single!($width, $load, src; value = lateout(reg) value, options(nostack, preserves_flags))
                };
                if bad == 0 { Ok(from_carrier!($U, value)) } else { Err(Fault::new(bad)) }
            }

            #[inline(always)]
            unsafe fn store(dst: *mut Self, value: Self, order: Ordering) -> Result<(), Fault> {
                let value: $Carrier = to_carrier!($U, value);
                // SAFETY: as in `write`. No access before it in the program goes after it, as it may write anything.
                let bad = unsafe {
                    if store_order(order) == Ordering::SeqCst {
                        single!($width, $exchange, dst; value = inlateout(reg) value => _,
                            options(nostack, preserves_flags))
                    } else {
                        single!($width, $store, dst; value = in(reg) value, options(nostack, preserves_flags))
                    }
                };
                if bad == 0 { Ok(()) } else { Err(Fault::new(bad)) }
            }

            #[inline(always)]
            unsafe fn compare_exchange(
                dst: *mut Self,
                current: Self,
                new: Self,
                _success: Ordering,
                _failure: Ordering,
            ) -> Result<Result<Self, Self>, Fault> {
                let held: $Carrier;
                // SAFETY: as in `store`. A locked instruction has all orders at once.
                let bad = unsafe {
                    single!($width, $compare, dst; new = in(reg) { let new: $Carrier = to_carrier!($U, new); new },
                        inlateout("rax") { let current: $Carrier = to_carrier!($U, current); current } => held,
                        options(nostack))
                };
                if bad != 0 {
                    return Err(Fault::new(bad));
                }
                let held: Self = from_carrier!($U, held);
                Ok(if held == current { Ok(held) } else { Err(held) })
            }

            #[inline]
            unsafe fn fetch_or(dst: *mut Self, bits: Self, order: Ordering) -> Result<Self, Fault> {
                // No instruction sets bits and returns all that was there.
                // SAFETY: the caller's promise.
                let mut held = unsafe { Self::load(dst, Ordering::Relaxed) }?;
                loop {
                    // SAFETY: the caller's promise.
                    match unsafe { Self::compare_exchange(dst, held, held | bits, order, Ordering::Relaxed) }? {
                        Ok(held) => return Ok(held),
                        Err(now) => held = now,
                    }
                }
            }

            #[inline(always)]
            unsafe fn set_bits(dst: *mut Self, bits: Self, _order: Ordering) -> Result<(), Fault> {
                let bits: $Carrier = to_carrier!($U, bits);
                // SAFETY: as in `compare_exchange`.
                let bad = unsafe { single!($width, $or, dst; bits = in(reg) bits, options(nostack)) };
                if bad == 0 { Ok(()) } else { Err(Fault::new(bad)) }
            }
        }
    )*};
}

unit! {
    u8, 1, u32, "movzx {value:e}, byte ptr [rdi]", "mov byte ptr [rdi], {value:l}", "xchg byte ptr [rdi], {value:l}",
        "lock cmpxchg byte ptr [rdi], {new:l}", "lock or byte ptr [rdi], {bits:l}";
    u16, 2, u16, "movzx {value:e}, word ptr [rdi]", "mov word ptr [rdi], {value:x}", "xchg word ptr [rdi], {value:x}",
        "lock cmpxchg word ptr [rdi], {new:x}", "lock or word ptr [rdi], {bits:x}";
    u32, 4, u32, "mov {value:e}, dword ptr [rdi]", "mov dword ptr [rdi], {value:e}", "xchg dword ptr [rdi], {value:e}",
        "lock cmpxchg dword ptr [rdi], {new:e}", "lock or dword ptr [rdi], {bits:e}";
    u64, 8, u64, "mov {value:r}, qword ptr [rdi]", "mov qword ptr [rdi], {value:r}", "xchg qword ptr [rdi], {value:r}",
        "lock cmpxchg qword ptr [rdi], {new:r}", "lock or qword ptr [rdi], {bits:r}";
}
