//! Operations on runs of bytes.

#![expect(clippy::too_many_lines, reason = "one instruction a line")]

use core::arch::asm;

use crate::access::recovery::entry;

/// A bulk operation: a run with its registers, and its entry. It goes on at the label 3, at its end, after a fault, and
/// answers a byte of the page that met it, or 0. It may use `x5` to `x8`, `v0` to `v7` and the flags, and
/// change what is in `x0` and `x1`.
///
/// All go upwards, and a store is made only after all before it: so after a fault the bytes before the bad one may or may
/// not be done, and those after it are untouched.
macro_rules! bulk {
    ([$($line:literal,)*], $guest:expr, $other:expr, $len:expr; $($operands:tt)*) => {{
        let bad: usize;
        asm!(
            "2:", $($line,)* "3:", entry!(0),
            in("x2") $len, in("x3") $guest, in("x4") $other, inlateout("x15") 0_usize => bad,
            out("x6") _, out("x7") _, out("x8") _, out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _,
            out("v5") _, out("v6") _, out("v7") _, $($operands)*, options(nostack)
        );
        bad
    }};
}

/// Copies `len` bytes upwards, and answers the first bad address, or 0. A copy of 1, 2, 4 or 8 bytes is one load and one
/// store.
///
/// # Safety
///
/// `src` may be read and `dst` written, `len` bytes each, and they do not overlap; those of the two that `guest` and
/// `other` name (which may be the same) may fault.
#[inline(never)]
pub(in crate::access) unsafe fn copy(
    dst: *mut u8,
    src: *const u8,
    len: usize,
    guest: *const u8,
    other: *const u8,
) -> usize {
    // SAFETY: the loads and stores are within `len` bytes of `src` and `dst`: each length class begins and ends as its
    // comparisons say, and the loop (64 bytes, which begin before the last 64) stops where the tail begins.
    unsafe {
        bulk!([
            "cmp x2, #16",
            "b.hs 30f",
            "tbnz x2, #3, 28f",
            "tbnz x2, #2, 26f",
            "tbnz x2, #1, 24f",
            "cbz x2, 3f",
            "ldrb w5, [x1]", // 1
            "strb w5, [x0]",
            "b 3f",
            "24:", // 2 and 3
            "ldrh w5, [x1]",
            "tbnz x2, #0, 25f",
            "strh w5, [x0]",
            "b 3f",
            "25:", // 3
            "ldrb w6, [x1, #2]",
            "strh w5, [x0]",
            "strb w6, [x0, #2]",
            "b 3f",
            "26:", // 4 to 7
            "ldr w5, [x1]",
            "tst x2, #3",
            "b.ne 27f",
            "str w5, [x0]",
            "b 3f",
            "27:", // 5 to 7
            "add x6, x1, x2",
            "ldur w6, [x6, #-4]",
            "add x7, x0, x2",
            "str w5, [x0]",
            "stur w6, [x7, #-4]",
            "b 3f",
            "28:", // 8 to 15
            "ldr x5, [x1]",
            "tst x2, #7",
            "b.ne 29f",
            "str x5, [x0]",
            "b 3f",
            "29:", // 9 to 15
            "add x6, x1, x2",
            "ldur x6, [x6, #-8]",
            "add x7, x0, x2",
            "str x5, [x0]",
            "stur x6, [x7, #-8]",
            "b 3f",
            "30:",
            "add x5, x1, x2", // where the source ends
            "add x6, x0, x2", // where the destination ends
            "cmp x2, #32",
            "b.hi 32f",
            "ldr q0, [x1]", // 16 to 32
            "ldur q1, [x5, #-16]",
            "str q0, [x0]",
            "stur q1, [x6, #-16]",
            "b 3f",
            "32:",
            "ldp q0, q1, [x1]",
            "cmp x2, #64",
            "b.hi 34f",
            "ldp q2, q3, [x5, #-32]", // 33 to 64
            "stp q0, q1, [x0]",
            "stp q2, q3, [x6, #-32]",
            "b 3f",
            "34:",
            "ldp q2, q3, [x1, #32]",
            "cmp x2, #128",
            "b.hi 36f",
            "ldp q4, q5, [x5, #-64]", // 65 to 128
            "ldp q6, q7, [x5, #-32]",
            "stp q0, q1, [x0]",
            "stp q2, q3, [x0, #32]",
            "stp q4, q5, [x6, #-64]",
            "stp q6, q7, [x6, #-32]",
            "b 3f",
            "36:", // 129 and more
            "stp q0, q1, [x0]",
            "stp q2, q3, [x0, #32]",
            "and x7, x0, #15", // the loop begins where the destination is aligned: so much before the next 64 bytes
            "sub x1, x1, x7",
            "sub x0, x0, x7",
            "sub x8, x6, #128", // 64 before the tail, as the loop's pointers are 64 behind
            ".p2align 4",
            "38:",
            "ldp q0, q1, [x1, #64]",
            "ldp q2, q3, [x1, #96]",
            "add x1, x1, #64",
            "stp q0, q1, [x0, #64]",
            "stp q2, q3, [x0, #96]",
            "add x0, x0, #64",
            "cmp x0, x8",
            "b.lo 38b",
            "ldp q0, q1, [x5, #-64]",
            "ldp q2, q3, [x5, #-32]",
            "stp q0, q1, [x6, #-64]",
            "stp q2, q3, [x6, #-32]",
        ], guest, other, len; inout("x0") dst => _, inout("x1") src => _, out("x5") _)
    }
}

/// Writes `byte` to `len` bytes, upwards, and answers the first bad address, or 0. 1, 2, 4 or 8 bytes are one store.
///
/// # Safety
///
/// `dst` may be written, `len` bytes, or faults.
#[inline(never)]
pub(in crate::access) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) -> usize {
    let eight = u64::from(byte) * 0x0101_0101_0101_0101;
    // SAFETY: the stores are within `len` bytes of `dst`, as in `copy`.
    unsafe {
        bulk!([
            "cmp x2, #16",
            "b.hs 30f",
            "tbnz x2, #3, 28f",
            "tbnz x2, #2, 26f",
            "tbnz x2, #1, 24f",
            "cbz x2, 3f",
            "strb w5, [x0]", // 1
            "b 3f",
            "24:", // 2 and 3
            "strh w5, [x0]",
            "tbz x2, #0, 3f",
            "strb w5, [x0, #2]",
            "b 3f",
            "26:", // 4 to 7
            "str w5, [x0]",
            "tst x2, #3",
            "b.eq 3f",
            "add x6, x0, x2",
            "stur w5, [x6, #-4]",
            "b 3f",
            "28:", // 8 to 15
            "str x5, [x0]",
            "tst x2, #7",
            "b.eq 3f",
            "add x6, x0, x2",
            "stur x5, [x6, #-8]",
            "b 3f",
            "30:", // 16 and more
            "dup v0.2d, x5",
            "add x6, x0, x2", // where it ends
            "str q0, [x0]",
            "add x0, x0, #16", // the next place: where it is aligned
            "and x0, x0, #-16",
            "sub x7, x6, #64", // the last place of a block
            "sub x8, x6, #16", // the tail's
            "cmp x0, x7",
            "b.hi 54f",
            ".p2align 4",
            "52:",
            "stp q0, q0, [x0]",
            "stp q0, q0, [x0, #32]",
            "add x0, x0, #64",
            "cmp x0, x7",
            "b.ls 52b",
            "54:",
            "cmp x0, x8",
            "b.hs 56f",
            "str q0, [x0]",
            "add x0, x0, #16",
            "b 54b",
            "56:",
            "str q0, [x8]",
        ], dst, dst, len; inout("x0") dst => _, in("x5") eight)
    }
}

/// Whether `len` bytes are zero, read upwards until one is not; and the first bad address, or 0.
///
/// # Safety
///
/// `src` may be read, `len` bytes, or faults.
#[inline(never)]
pub(in crate::access) unsafe fn is_zero(src: *const u8, len: usize) -> (bool, usize) {
    let some: u64;
    // SAFETY: the loads are within `len` bytes of `src`, as in `copy`.
    let bad = unsafe {
        bulk!([
            "cmp x2, #16",
            "b.hs 30f",
            "tbnz x2, #3, 28f",
            "tbnz x2, #2, 26f",
            "tbnz x2, #1, 24f",
            "mov x5, #0",
            "cbz x2, 3f",
            "ldrb w5, [x0]", // 1
            "b 3f",
            "24:", // 2 and 3
            "add x6, x0, x2",
            "ldrh w5, [x0]",
            "ldurh w6, [x6, #-2]",
            "orr w5, w5, w6",
            "b 3f",
            "26:", // 4 to 7
            "add x6, x0, x2",
            "ldr w5, [x0]",
            "ldur w6, [x6, #-4]",
            "orr w5, w5, w6",
            "b 3f",
            "28:", // 8 to 15
            "add x6, x0, x2",
            "ldr x5, [x0]",
            "ldur x6, [x6, #-8]",
            "orr x5, x5, x6",
            "b 3f",
            "30:", // 16 and more
            "add x6, x0, x2",  // where it ends
            "sub x7, x6, #64", // the last place of a block
            "sub x8, x6, #16", // the tail's
            "cmp x0, x7",
            "b.hi 54f",
            ".p2align 4",
            "52:",
            "ldp q0, q1, [x0]",
            "ldp q2, q3, [x0, #32]",
            "orr v0.16b, v0.16b, v1.16b",
            "orr v2.16b, v2.16b, v3.16b",
            "orr v0.16b, v0.16b, v2.16b",
            "umaxp v0.4s, v0.4s, v0.4s", // the lower half is zero if all is
            "fmov x5, d0",
            "cbnz x5, 3f",
            "add x0, x0, #64",
            "cmp x0, x7",
            "b.ls 52b",
            "54:",
            "cmp x0, x8",
            "b.hs 56f",
            "ldp x5, x6, [x0]",
            "orr x5, x5, x6",
            "cbnz x5, 3f",
            "add x0, x0, #16",
            "b 54b",
            "56:",
            "ldp x5, x6, [x8]",
            "orr x5, x5, x6",
        ], src, src, len; inout("x0") src => _, out("x5") some)
    };
    (some == 0, bad)
}
