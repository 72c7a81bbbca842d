//! What a [barrier](super::barrier) needs of the system.

use core::sync::atomic::{AtomicU8, Ordering};

/// Who runs barriers.
static MODE: AtomicU8 = AtomicU8::new(super::barrier::UNKNOWN);

#[inline(always)]
pub(super) fn mode() -> u8 {
    MODE.load(Ordering::Relaxed)
}

pub(super) fn change_mode(from: u8, to: u8) {
    match MODE.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) | Err(_) => {}
    }
}

pub(super) use system::{drain, register, run};

#[cfg(all(feature = "std", target_os = "linux", not(miri)))]
mod system {
    #![expect(unsafe_code, reason = "membarrier(2) has no safe wrapper here")]

    use std::thread;
    use std::time::{Duration, Instant};

    /// How long [`drain`] waits: five ticks of the slowest kernel timer (`CONFIG_HZ=100`).
    const DRAIN: Duration = Duration::from_millis(50);

    /// Allows [`run`]; returns whether the system can.
    pub(in super::super) fn register() -> bool {
        call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    /// Runs a barrier in all threads; returns whether the system did.
    pub(in super::super) fn run() -> bool {
        call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }

    fn call(command: libc::c_int) -> bool {
        // SAFETY: it takes integers only, and changes no memory.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0_u32, 0_i32) };
        result == 0
    }

    /// Waits until no store is pending in any thread that it has made before this call, and no load has a value from
    /// before this call that a later instruction still depends on.
    ///
    /// A pending store is bounded in time by the hardware. The thread's progress does not matter for that: a store
    /// that waits in a store buffer has retired, needs nothing but its cache line, and no later store of another processor
    /// can overtake it for ever. Interrupts drain the buffer (Intel SDM 3A, "Store Buffer"; AMD APM 2, "Write Buffering"),
    /// and each processor that runs a thread has a timer interrupt in this time. A thread that does not run was switched, which
    /// is a full barrier. On other architectures a store becomes visible in finite time (Arm ARM, "Observability and
    /// completion"), which is below a microsecond for each of the at most some hundred stores of a buffer.
    ///
    /// It makes no system call that a filter may kill the process for, other than those that waiting threads make anyway.
    pub(in super::super) fn drain() {
        let start = Instant::now();
        while start.elapsed() < DRAIN {
            thread::yield_now();
        }
    }
}

#[cfg(not(all(feature = "std", target_os = "linux", not(miri))))]
mod system {
    pub(in super::super) fn register() -> bool {
        false
    }

    pub(in super::super) fn run() -> bool {
        false
    }

    /// Nothing to wait for: each thread had its own barriers from the start.
    pub(in super::super) fn drain() {}
}
