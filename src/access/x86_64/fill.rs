//! Filling with a byte.

#![expect(clippy::too_many_lines, reason = "one instruction a line")]

use core::arch::asm;

use super::bulk;
use crate::access::recovery::entry;

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
            "movq xmm0, rax",
            "punpcklqdq xmm0, xmm0",
            "cmp rdx, 16",
            "jae 50f",
            "cmp rdx, 8",
            "ja 28f",
            "je 27f",
            "cmp rdx, 4",
            "ja 26f",
            "je 25f",
            "cmp rdx, 2",
            "ja 24f",
            "je 23f",
            "test rdx, rdx",
            "je 3f",
            "mov byte ptr [rdi], al", // 1
            "jmp 3f",
            "23:", // 2
            "mov word ptr [rdi], ax",
            "jmp 3f",
            "24:", // 3
            "mov word ptr [rdi], ax",
            "mov byte ptr [rdi + 2], al",
            "jmp 3f",
            "25:", // 4
            "mov dword ptr [rdi], eax",
            "jmp 3f",
            "26:", // 5 to 7
            "mov dword ptr [rdi], eax",
            "mov dword ptr [rdi + rdx - 4], eax",
            "jmp 3f",
            "27:", // 8
            "mov qword ptr [rdi], rax",
            "jmp 3f",
            "28:", // 9 to 15
            "mov qword ptr [rdi], rax",
            "mov qword ptr [rdi + rdx - 8], rax",
            "jmp 3f",
            "50:",
            "movdqu xmmword ptr [rdi], xmm0", // 16 and more
            "lea r10, [rdx - 16]",            // the tail's offset
            "lea rsi, [rdi + 16]",            // the next offset: where the destination is aligned
            "and rsi, -16",
            "sub rsi, rdi",
            "lea r9, [rdx - 64]", // the last offset of a block, if it is one
            "cmp rdx, 80",
            "jb 54f",
            "52:",
            "movdqa xmmword ptr [rdi + rsi], xmm0",
            "movdqa xmmword ptr [rdi + rsi + 16], xmm0",
            "movdqa xmmword ptr [rdi + rsi + 32], xmm0",
            "movdqa xmmword ptr [rdi + rsi + 48], xmm0",
            "add rsi, 64",
            "cmp rsi, r9",
            "jbe 52b",
            "54:",
            "cmp rsi, r10",
            "jae 56f",
            "movdqa xmmword ptr [rdi + rsi], xmm0",
            "add rsi, 16",
            "jmp 54b",
            "56:",
            "movdqu xmmword ptr [rdi + r10], xmm0",
        ], [], dst, dst, len; in("rdi") dst, in("rax") eight, clobber_abi("sysv64"), options(nostack))
    }
}
