//! Looking for a byte that is not zero.

#![expect(clippy::too_many_lines, reason = "one instruction a line")]

use core::arch::asm;

use super::bulk;
use crate::access::recovery::entry;

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
            "cmp rdx, 16",
            "jae 50f",
            "cmp rdx, 8",
            "jae 28f",
            "cmp rdx, 4",
            "jae 26f",
            "cmp rdx, 2",
            "jae 24f",
            "mov eax, edx",
            "test eax, eax",
            "je 3f",
            "movzx eax, byte ptr [rdi]", // 1
            "jmp 3f",
            "24:", // 2 and 3
            "movzx eax, word ptr [rdi]",
            "movzx r9d, word ptr [rdi + rdx - 2]",
            "or eax, r9d",
            "jmp 3f",
            "26:", // 4 to 7
            "mov eax, dword ptr [rdi]",
            "or eax, dword ptr [rdi + rdx - 4]",
            "jmp 3f",
            "28:", // 8 to 15
            "mov rax, qword ptr [rdi]",
            "or rax, qword ptr [rdi + rdx - 8]",
            "jmp 3f",
            "50:", // 16 and more
            "pxor xmm7, xmm7",
            "xor esi, esi",       // the next offset
            "lea r10, [rdx - 16]", // the tail's
            "lea r9, [rdx - 64]",  // the last offset of a block, if it is one
            "cmp rdx, 64",
            "jb 54f",
            "52:",
            "movdqu xmm0, xmmword ptr [rdi + rsi]",
            "movdqu xmm1, xmmword ptr [rdi + rsi + 16]",
            "movdqu xmm2, xmmword ptr [rdi + rsi + 32]",
            "movdqu xmm3, xmmword ptr [rdi + rsi + 48]",
            "por xmm0, xmm1",
            "por xmm2, xmm3",
            "por xmm0, xmm2",
            "pcmpeqb xmm0, xmm7",
            "pmovmskb eax, xmm0",
            "xor eax, 0xffff",
            "jne 3f",
            "add rsi, 64",
            "cmp rsi, r9",
            "jbe 52b",
            "54:",
            "cmp rsi, r10",
            "jae 56f",
            "movdqu xmm0, xmmword ptr [rdi + rsi]",
            "pcmpeqb xmm0, xmm7",
            "pmovmskb eax, xmm0",
            "xor eax, 0xffff",
            "jne 3f",
            "add rsi, 16",
            "jmp 54b",
            "56:",
            "movdqu xmm0, xmmword ptr [rdi + r10]",
            "pcmpeqb xmm0, xmm7",
            "pmovmskb eax, xmm0",
            "xor eax, 0xffff",
        ], [], src, src, len; in("rdi") src, lateout("rax") some, clobber_abi("sysv64"), options(nostack))
    };
    (some == 0, bad)
}
