//! What recovery needs of the system: the table's bounds, and an interrupted thread's registers.

#![expect(clippy::cast_possible_truncation, reason = "registers have the size of `usize`")]

use core::arch::asm;

use libc::ucontext_t;

use crate::access::recovery::{Interrupted, RawEntry, entry, section};

/// The entries of this program: the first, and the one past the last. There is one at least, which has no instruction, so
/// that the linker always has a section to tell the bounds of.
pub(in crate::access) fn table() -> (*const RawEntry, *const RawEntry) {
    let (start, end);
    // SAFETY: computes two addresses.
    unsafe {
        asm!(
            "2: 3:", entry!(0),
            concat!("adrp {start}, __start_", section!()),
            concat!("add {start}, {start}, :lo12:__start_", section!()),
            concat!("adrp {end}, __stop_", section!()),
            concat!("add {end}, {end}, :lo12:__stop_", section!()),
            start = out(reg) start, end = out(reg) end, options(nostack, nomem, preserves_flags)
        );
    }
    (start, end)
}

impl Interrupted for ucontext_t {
    fn instruction(&self) -> usize {
        self.uc_mcontext.pc as usize
    }

    fn pointer(&self) -> usize {
        get(self, 14)
    }

    fn bulk(&self) -> ([usize; 2], usize) {
        ([get(self, 3), get(self, 4)], get(self, 2))
    }

    fn go_on(&mut self, landing: usize, bad: usize) {
        if let Some(register) = self.uc_mcontext.regs.get_mut(15) {
            *register = bad as u64;
        }
        self.uc_mcontext.pc = landing as u64;
    }
}

/// The general register of this number.
fn get(context: &ucontext_t, register: usize) -> usize {
    context.uc_mcontext.regs.get(register).map_or(0, |&value| value as usize)
}
