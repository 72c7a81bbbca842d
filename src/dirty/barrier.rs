//! A barrier that one thread makes all others pass, so that they need none on their own way.
//!
//! Whoever marks pages looks at bits and switches right after it has written the data, and a processor may look before the
//! data has left its store buffer. A barrier in between would cost more than the rest of a mark. So the other side, which
//! is rare, has the kernel run one in every thread: membarrier(2). Where there is none, each mark has its own.

use core::sync::atomic::{AtomicU8, Ordering, compiler_fence, fence};

/// Who sees to barriers.
static WHO: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Nobody has asked yet.
const UNKNOWN: u8 = 0;
/// Each thread its own: for good.
const EACH: u8 = 1;
/// The kernel, for all.
const KERNEL: u8 = 2;

/// To be called before anything is marked that somebody will harvest or take away. It costs a system call once.
pub(crate) fn prepare() {
    if WHO.load(Ordering::Relaxed) == UNKNOWN {
        let who = if membarrier::register() { KERNEL } else { EACH };
        // Who has asked meanwhile has the same answer; or knows already that it holds no longer.
        match WHO.compare_exchange(UNKNOWN, who, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether each thread has to see to its own barriers.
#[inline(always)]
pub(super) fn is_each_ones_own() -> bool {
    WHO.load(Ordering::Relaxed) != KERNEL
}

/// The barrier of whoever marks: of the compiler, mostly.
#[inline(always)]
pub(crate) fn own() {
    if is_each_ones_own() {
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// As [`own`], where it is nobody's own.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn implied() {
    compiler_fence(Ordering::SeqCst);
}

/// What any thread of the process has done before its [`own`] barrier is done when this returns, or the thread sees after
/// that barrier whatever was done before this. Answers whether it is so: the system may refuse.
pub(crate) fn all_threads() -> bool {
    fence(Ordering::SeqCst);
    let done = is_each_ones_own() || membarrier::run();
    if !done {
        // A seccomp filter that came after `prepare`. From now on they help themselves.
        WHO.store(EACH, Ordering::SeqCst);
    }
    done
}

#[cfg(all(feature = "std", target_os = "linux", not(miri)))]
mod membarrier {
    #![expect(unsafe_code, reason = "membarrier(2) has no safe wrapper here")]

    /// Allows [`run`]; answers whether the system can.
    pub(super) fn register() -> bool {
        call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    pub(super) fn run() -> bool {
        call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }

    fn call(command: libc::c_int) -> bool {
        // SAFETY: it takes integers only, and changes no memory.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0_u32, 0_i32) };
        result == 0
    }
}

#[cfg(not(all(feature = "std", target_os = "linux", not(miri))))]
mod membarrier {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn run() -> bool {
        false
    }
}
