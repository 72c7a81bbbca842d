//! What recovery needs of the system: the table's bounds, and an interrupted thread's registers.

#![expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "registers have no sign, and the size of `usize`"
)]

use core::arch::asm;

use libc::{REG_R8, REG_R11, REG_RCX, REG_RDI, REG_RDX, REG_RIP, ucontext_t};

use crate::access::recovery::{Interrupted, RawEntry, entry, section};

/// The entries of this program: the first, and the one past the last. There is one at least, which has no instruction, so
/// that the linker always has a section to tell the bounds of.
pub(in crate::access) fn table() -> (*const RawEntry, *const RawEntry) {
    let (start, end);
    // SAFETY: computes two addresses.
    unsafe {
        asm!(
            "2: 3:", entry!(0),
            concat!("lea {start}, [rip + __start_", section!(), "]"),
            concat!("lea {end}, [rip + __stop_", section!(), "]"),
            start = out(reg) start, end = out(reg) end, options(nostack, nomem, preserves_flags)
        );
    }
    (start, end)
}

impl Interrupted for ucontext_t {
    fn instruction(&self) -> usize {
        get(self, REG_RIP)
    }

    fn pointer(&self) -> usize {
        get(self, REG_RDI)
    }

    fn bulk(&self) -> ([usize; 2], usize) {
        ([get(self, REG_RCX), get(self, REG_R8)], get(self, REG_RDX))
    }

    fn go_on(&mut self, landing: usize, bad: usize) {
        set(self, REG_R11, bad);
        set(self, REG_RIP, landing);
    }
}

fn get(context: &ucontext_t, register: libc::c_int) -> usize {
    context.uc_mcontext.gregs.get(register as usize).map_or(0, |&value| value as usize)
}

fn set(context: &mut ucontext_t, register: libc::c_int, value: usize) {
    if let Some(register) = context.uc_mcontext.gregs.get_mut(register as usize) {
        *register = value as libc::greg_t;
    }
}
