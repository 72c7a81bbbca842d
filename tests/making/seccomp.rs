//! System calls that fail, or wait for another thread: by seccomp filters, which have the numbers of 64-bit targets.

#![expect(unsafe_code, reason = "installs filters of system calls")]

use std::ffi::{c_int, c_long, c_ulong};
use std::fs::File;
use std::os::fd::FromRawFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::raw::done;

/// Which of the calls of a system call are meant, by an argument's number and its lower 32 bits.
#[derive(Clone, Copy)]
pub(crate) enum Calls {
    All,
    /// Those that have this argument.
    With(u32, u32),
    /// Those that have one of these bits in the argument.
    WithAny(u32, u32),
}

/// Lets a system call of this thread, and of those that it starts, fail from now on.
pub(crate) fn refuse(number: c_long, calls: Calls, errno: c_int) {
    install(number, calls, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(), 0);
}

/// Lets another thread have its say, before each of the calls of this thread that are meant from now on: what it must tell
/// it through is in the answer.
pub(crate) fn announce(number: c_long, calls: Calls) -> Announced {
    let fd = install(number, calls, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: a new descriptor, which nobody else has.
    Announced(unsafe { File::from_raw_fd(fd.try_into().unwrap()) })
}

/// Calls of another thread, which wait.
pub(crate) struct Announced(File);

impl Announced {
    /// The first two arguments of the next call, which then goes on when `meanwhile` is done with them.
    pub(crate) fn next(&self, meanwhile: impl FnOnce(usize, usize)) {
        const RECEIVE: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
        const SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);
        const CONTINUE: u32 = 1;
        // SAFETY: zeroes are a valid one, and what the kernel wants.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: what the operation wants.
        let received = unsafe { Updater::<RECEIVE, _>::new(&mut call) };
        // SAFETY: as above.
        unsafe { ioctl(&self.0, received) }.unwrap();
        let [first, second, ..] = call.data.args.map(|argument| usize::try_from(argument).unwrap());
        meanwhile(first, second);
        let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: CONTINUE };
        // SAFETY: what the operation wants.
        let sent = unsafe { Updater::<SEND, _>::new(&mut answer) };
        // SAFETY: as above.
        unsafe { ioctl(&self.0, sent) }.unwrap();
    }
}

/// Lets a seccomp filter answer a system call with `action`, and answers what seccomp(2) does.
fn install(number: c_long, calls: Calls, action: u32, flags: c_ulong) -> c_long {
    let load = |offset| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let unless = |operation, value, skip| (libc::BPF_JMP | operation | libc::BPF_K, value, 0, skip);
    let answer = |value| (libc::BPF_RET | libc::BPF_K, value, 0, 0);
    // `struct seccomp_data`: the number, the architecture, an address; then the arguments of 64 bits.
    let lower_half = |argument| 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
    let and = match calls {
        Calls::All => vec![],
        Calls::With(argument, value) => vec![load(lower_half(argument)), unless(libc::BPF_JEQ, value, 1)],
        Calls::WithAny(argument, bits) => vec![load(lower_half(argument)), unless(libc::BPF_JSET, bits, 1)],
    };
    let number = unless(libc::BPF_JEQ, u32::try_from(number).unwrap(), u8::try_from(and.len() + 1).unwrap());
    let mut filter: Vec<_> = [load(0), number]
        .into_iter()
        .chain(and)
        .chain([answer(action), answer(libc::SECCOMP_RET_ALLOW)])
        .map(|(code, k, jt, jf)| libc::sock_filter { code: code.try_into().unwrap(), jt, jf, k })
        .collect();
    let program = libc::sock_fprog { len: filter.len().try_into().unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: has no effect on memory.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) });
    // SAFETY: reads the program.
    done(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}
