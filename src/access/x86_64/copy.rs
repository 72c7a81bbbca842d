//! Copying upwards.

#![expect(clippy::too_many_lines, reason = "one instruction a line")]

use core::arch::asm;
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::bulk;
use crate::access::recovery::entry;

/// A copy: destination, source, length, and the beginnings of the parts that may fault.
type Copy = unsafe fn(*mut u8, *const u8, usize, *const u8, *const u8) -> usize;

/// The copy for this processor, which the first one finds out. A [`Copy`].
static COPY: AtomicPtr<()> = AtomicPtr::new(copy_first as *mut ());

/// Copies `len` bytes upwards, and answers the first bad address, or 0. A copy of 1, 2, 4 or 8 bytes is one load and one
/// store.
///
/// # Safety
///
/// `src` may be read and `dst` written, `len` bytes each, and they do not overlap; those of the two that `guest` and
/// `other` name (which may be the same) may fault.
#[inline(always)]
pub(in crate::access) unsafe fn copy(
    dst: *mut u8,
    src: *const u8,
    len: usize,
    guest: *const u8,
    other: *const u8,
) -> usize {
    // SAFETY: only functions of this type are ever stored there.
    let copy = unsafe { transmute::<*mut (), Copy>(COPY.load(Ordering::Relaxed)) };
    // SAFETY: the caller's promise.
    unsafe { copy(dst, src, len, guest, other) }
}

/// Chooses the copy for this processor, and makes the first one.
///
/// # Safety
///
/// As for [`copy`].
#[cold]
unsafe fn copy_first(dst: *mut u8, src: *const u8, len: usize, guest: *const u8, other: *const u8) -> usize {
    #[cfg(feature = "std")]
    let has_avx = std::arch::is_x86_feature_detected!("avx");
    #[cfg(not(feature = "std"))]
    let has_avx = cfg!(target_feature = "avx");
    let chosen: Copy = if has_avx { copy_by_32 } else { copy_by_16 };
    COPY.store(chosen as *mut (), Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { chosen(dst, src, len, guest, other) }
}

/// The part for lengths up to 32, which all have in common. It ends at the label 4, or goes on at 50.
macro_rules! up_to_32 {
    () => {
        concat!(
            "cmp rdx, 32\n",
            "ja 50f\n",
            "cmp rdx, 16\n",
            "jae 30f\n",
            "cmp rdx, 8\n",
            "ja 28f\n",
            "je 27f\n",
            "cmp rdx, 4\n",
            "ja 26f\n",
            "je 25f\n",
            "cmp rdx, 2\n",
            "ja 24f\n",
            "je 23f\n",
            "test rdx, rdx\n",
            "je 4f\n",
            "movzx eax, byte ptr [rsi]\n",
            "mov byte ptr [rdi], al\n",
            "jmp 4f\n",
            "23:\n", // 2
            "movzx eax, word ptr [rsi]\n",
            "mov word ptr [rdi], ax\n",
            "jmp 4f\n",
            "24:\n", // 3
            "movzx eax, word ptr [rsi]\n",
            "movzx r9d, byte ptr [rsi + 2]\n",
            "mov word ptr [rdi], ax\n",
            "mov byte ptr [rdi + 2], r9b\n",
            "jmp 4f\n",
            "25:\n", // 4
            "mov eax, dword ptr [rsi]\n",
            "mov dword ptr [rdi], eax\n",
            "jmp 4f\n",
            "26:\n", // 5 to 7
            "mov eax, dword ptr [rsi]\n",
            "mov r9d, dword ptr [rsi + rdx - 4]\n",
            "mov dword ptr [rdi], eax\n",
            "mov dword ptr [rdi + rdx - 4], r9d\n",
            "jmp 4f\n",
            "27:\n", // 8
            "mov rax, qword ptr [rsi]\n",
            "mov qword ptr [rdi], rax\n",
            "jmp 4f\n",
            "28:\n", // 9 to 15
            "mov rax, qword ptr [rsi]\n",
            "mov r9, qword ptr [rsi + rdx - 8]\n",
            "mov qword ptr [rdi], rax\n",
            "mov qword ptr [rdi + rdx - 8], r9\n",
            "jmp 4f\n",
            "30:\n", // 16 to 32
            "movdqu xmm0, xmmword ptr [rsi]\n",
            "movdqu xmm1, xmmword ptr [rsi + rdx - 16]\n",
            "movdqu xmmword ptr [rdi], xmm0\n",
            "movdqu xmmword ptr [rdi + rdx - 16], xmm1\n",
            "jmp 4f\n",
        )
    };
}

/// By vectors of 16 bytes, which every x86-64 has.
///
/// # Safety
///
/// As for [`copy`].
unsafe fn copy_by_16(dst: *mut u8, src: *const u8, len: usize, guest: *const u8, other: *const u8) -> usize {
    // SAFETY: the loads and stores are within `len` bytes of `src` and `dst`: each length class begins and ends as its
    // comparisons say, and the loop (64 bytes, which begin before the last 64) stops where the tail begins.
    unsafe {
        bulk!([
            up_to_32!(),
            "50:",
            "movdqu xmm0, xmmword ptr [rsi]",
            "movdqu xmm1, xmmword ptr [rsi + 16]",
            "cmp rdx, 64",
            "ja 54f",
            "movdqu xmm2, xmmword ptr [rsi + rdx - 32]", // 33 to 64
            "movdqu xmm3, xmmword ptr [rsi + rdx - 16]",
            "movdqu xmmword ptr [rdi], xmm0",
            "movdqu xmmword ptr [rdi + 16], xmm1",
            "movdqu xmmword ptr [rdi + rdx - 32], xmm2",
            "movdqu xmmword ptr [rdi + rdx - 16], xmm3",
            "jmp 3f",
            "54:",
            "movdqu xmm2, xmmword ptr [rsi + 32]",
            "movdqu xmm3, xmmword ptr [rsi + 48]",
            "cmp rdx, 128",
            "ja 56f",
            "movdqu xmm4, xmmword ptr [rsi + rdx - 64]", // 65 to 128
            "movdqu xmm5, xmmword ptr [rsi + rdx - 48]",
            "movdqu xmm6, xmmword ptr [rsi + rdx - 32]",
            "movdqu xmm7, xmmword ptr [rsi + rdx - 16]",
            "movdqu xmmword ptr [rdi], xmm0",
            "movdqu xmmword ptr [rdi + 16], xmm1",
            "movdqu xmmword ptr [rdi + 32], xmm2",
            "movdqu xmmword ptr [rdi + 48], xmm3",
            "movdqu xmmword ptr [rdi + rdx - 64], xmm4",
            "movdqu xmmword ptr [rdi + rdx - 48], xmm5",
            "movdqu xmmword ptr [rdi + rdx - 32], xmm6",
            "movdqu xmmword ptr [rdi + rdx - 16], xmm7",
            "jmp 3f",
            "56:", // 129 and more
            "movdqu xmmword ptr [rdi], xmm0",
            "movdqu xmmword ptr [rdi + 16], xmm1",
            "movdqu xmmword ptr [rdi + 32], xmm2",
            "movdqu xmmword ptr [rdi + 48], xmm3",
            "lea rax, [rdi + 64]", // the next offset: where the destination is aligned
            "and rax, -16",
            "sub rax, rdi",
            "lea r10, [rdx - 64]", // the tail's offset
            ".p2align 5",
            "58:",
            "movdqu xmm0, xmmword ptr [rsi + rax]",
            "movdqu xmm1, xmmword ptr [rsi + rax + 16]",
            "movdqu xmm2, xmmword ptr [rsi + rax + 32]",
            "movdqu xmm3, xmmword ptr [rsi + rax + 48]",
            "movdqa xmmword ptr [rdi + rax], xmm0",
            "movdqa xmmword ptr [rdi + rax + 16], xmm1",
            "movdqa xmmword ptr [rdi + rax + 32], xmm2",
            "movdqa xmmword ptr [rdi + rax + 48], xmm3",
            "add rax, 64",
            "cmp rax, r10",
            "jb 58b",
            "movdqu xmm0, xmmword ptr [rsi + r10]",
            "movdqu xmm1, xmmword ptr [rsi + r10 + 16]",
            "movdqu xmm2, xmmword ptr [rsi + r10 + 32]",
            "movdqu xmm3, xmmword ptr [rsi + r10 + 48]",
            "movdqu xmmword ptr [rdi + r10], xmm0",
            "movdqu xmmword ptr [rdi + r10 + 16], xmm1",
            "movdqu xmmword ptr [rdi + r10 + 32], xmm2",
            "movdqu xmmword ptr [rdi + r10 + 48], xmm3",
        ], [], guest, other, len; in("rdi") dst, in("rsi") src, clobber_abi("sysv64"), options(nostack))
    }
}

/// By vectors of 32 bytes, which processors with AVX have.
///
/// # Safety
///
/// As for [`copy`], and the processor has AVX.
unsafe fn copy_by_32(dst: *mut u8, src: *const u8, len: usize, guest: *const u8, other: *const u8) -> usize {
    // SAFETY: as in `copy_by_16`, with twice the lengths.
    unsafe {
        bulk!([
            up_to_32!(),
            "50:",
            "vmovdqu ymm0, ymmword ptr [rsi]",
            "cmp rdx, 64",
            "ja 52f",
            "vmovdqu ymm1, ymmword ptr [rsi + rdx - 32]", // 33 to 64
            "vmovdqu ymmword ptr [rdi], ymm0",
            "vmovdqu ymmword ptr [rdi + rdx - 32], ymm1",
            "jmp 3f",
            "52:",
            "vmovdqu ymm1, ymmword ptr [rsi + 32]",
            "cmp rdx, 128",
            "ja 54f",
            "vmovdqu ymm2, ymmword ptr [rsi + rdx - 64]", // 65 to 128
            "vmovdqu ymm3, ymmword ptr [rsi + rdx - 32]",
            "vmovdqu ymmword ptr [rdi], ymm0",
            "vmovdqu ymmword ptr [rdi + 32], ymm1",
            "vmovdqu ymmword ptr [rdi + rdx - 64], ymm2",
            "vmovdqu ymmword ptr [rdi + rdx - 32], ymm3",
            "jmp 3f",
            "54:",
            "vmovdqu ymm2, ymmword ptr [rsi + 64]",
            "vmovdqu ymm3, ymmword ptr [rsi + 96]",
            "cmp rdx, 256",
            "ja 56f",
            "vmovdqu ymm4, ymmword ptr [rsi + rdx - 128]", // 129 to 256
            "vmovdqu ymm5, ymmword ptr [rsi + rdx - 96]",
            "vmovdqu ymm6, ymmword ptr [rsi + rdx - 64]",
            "vmovdqu ymm7, ymmword ptr [rsi + rdx - 32]",
            "vmovdqu ymmword ptr [rdi], ymm0",
            "vmovdqu ymmword ptr [rdi + 32], ymm1",
            "vmovdqu ymmword ptr [rdi + 64], ymm2",
            "vmovdqu ymmword ptr [rdi + 96], ymm3",
            "vmovdqu ymmword ptr [rdi + rdx - 128], ymm4",
            "vmovdqu ymmword ptr [rdi + rdx - 96], ymm5",
            "vmovdqu ymmword ptr [rdi + rdx - 64], ymm6",
            "vmovdqu ymmword ptr [rdi + rdx - 32], ymm7",
            "jmp 3f",
            "56:", // 257 and more
            "vmovdqu ymmword ptr [rdi], ymm0",
            "vmovdqu ymmword ptr [rdi + 32], ymm1",
            "vmovdqu ymmword ptr [rdi + 64], ymm2",
            "vmovdqu ymmword ptr [rdi + 96], ymm3",
            "lea rax, [rdi + 128]", // the next offset: where the destination is aligned
            "and rax, -32",
            "sub rax, rdi",
            "lea r10, [rdx - 128]", // the tail's offset
            ".p2align 5",
            "58:",
            "vmovdqu ymm0, ymmword ptr [rsi + rax]",
            "vmovdqu ymm1, ymmword ptr [rsi + rax + 32]",
            "vmovdqu ymm2, ymmword ptr [rsi + rax + 64]",
            "vmovdqu ymm3, ymmword ptr [rsi + rax + 96]",
            "vmovdqa ymmword ptr [rdi + rax], ymm0",
            "vmovdqa ymmword ptr [rdi + rax + 32], ymm1",
            "vmovdqa ymmword ptr [rdi + rax + 64], ymm2",
            "vmovdqa ymmword ptr [rdi + rax + 96], ymm3",
            "sub rax, -128",
            "cmp rax, r10",
            "jb 58b",
            "vmovdqu ymm0, ymmword ptr [rsi + r10]",
            "vmovdqu ymm1, ymmword ptr [rsi + r10 + 32]",
            "vmovdqu ymm2, ymmword ptr [rsi + r10 + 64]",
            "vmovdqu ymm3, ymmword ptr [rsi + r10 + 96]",
            "vmovdqu ymmword ptr [rdi + r10], ymm0",
            "vmovdqu ymmword ptr [rdi + r10 + 32], ymm1",
            "vmovdqu ymmword ptr [rdi + r10 + 64], ymm2",
            "vmovdqu ymmword ptr [rdi + r10 + 96], ymm3",
        ], ["vzeroupper",], guest, other, len; in("rdi") dst, in("rsi") src, clobber_abi("sysv64"), options(nostack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By narrow vectors also on processors that have wide ones.
    #[test]
    fn each_width_copies_just_its_bytes() {
        let source: [u8; 700] = core::array::from_fn(|i| u8::try_from(i % 251).unwrap());
        let has_avx = std::arch::is_x86_feature_detected!("avx");
        let widths: [(Copy, bool); 2] = [(copy_by_16, true), (copy_by_32, has_avx)];
        for copy in widths.into_iter().filter_map(|(copy, has)| has.then_some(copy)) {
            for (len, from, to) in (0..=600).flat_map(|len| [(len, 0, 0), (len, 3, 0), (len, 0, 5), (len, 17, 30)]) {
                let mut copied = [0xee; 700];
                let (src, dst) = (source[from..].as_ptr(), copied[to..].as_mut_ptr());
                // SAFETY: both arrays have the bytes; the processor has the vectors.
                assert_eq!(unsafe { copy(dst, src, len, src, src) }, 0);
                assert_eq!(copied[to..to + len], source[from..from + len]);
                assert!(copied[..to].iter().chain(&copied[to + len..]).all(|&byte| byte == 0xee), "{len} bytes");
            }
        }
    }
}
