//! SIGSEGV and SIGBUS: those of a run of instructions in the recovery table go on at its landing, all others go to whoever
//! handled them before.
//!
//! The handler reads memory that does not change after [`install`], and the interrupted thread's registers; it takes no
//! lock, allocates nothing, and calls nothing that may panic.

use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use libc::{sigaction, siginfo_t, ucontext_t};

use super::arch;
use super::recovery::{Interrupted, RawEntry};

/// An entry of the table, with absolute addresses.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
    landing: usize,
    width: usize,
}

/// The entries by ascending address, in memory that is never freed; null before [`install`].
static RUNS: AtomicPtr<Run> = AtomicPtr::new(ptr::null_mut());
static RUN_COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// What a signal did before.
struct Previous {
    /// A function, `SIG_DFL` or `SIG_IGN`.
    handler: AtomicUsize,
    flags: AtomicI32,
}

impl Previous {
    const fn new() -> Self {
        Self { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) }
    }
}

static PREVIOUS_SEGV: Previous = Previous::new();
static PREVIOUS_BUS: Previous = Previous::new();

/// Installs the handlers that make an [`Error::Fault`](crate::guest_memory::Error::Fault) of a page that cannot be
/// accessed. Once: all calls after the first do nothing.
///
/// The first mapping installs them, unless told not to
/// ([`MmapRegionBuilder::fault_recovery`](crate::mmap::MmapRegionBuilder::fault_recovery)). A program calls this itself
/// if its memory comes from elsewhere, before a seccomp filter forbids sigaction(2), or so that handlers of its own come
/// after.
///
/// A SIGSEGV or SIGBUS that is not a fault of an access of this crate goes on to the handler that was there before, or
/// has the effect that it had, as if these handlers were not there. Whoever installs another afterwards passes on what it
/// does not handle, with all three arguments. Threads need an alternate stack (sigaltstack(2)) as far as the handlers
/// before need one: those of the standard library have it. A thread that blocks these signals is ended by a fault, with
/// the process.
///
/// # Errors
///
/// What sigaction(2) answers, which it does not for these signals; then nothing has changed.
pub fn install() -> io::Result<()> {
    static LOCK: Mutex<()> = Mutex::new(());
    if is_installed() {
        return Ok(());
    }
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if is_installed() {
        return Ok(());
    }
    if RUNS.load(Ordering::Relaxed).is_null() {
        let runs = Vec::leak(runs());
        RUN_COUNT.store(runs.len(), Ordering::Relaxed);
        // Release: pairs with the handler's Acquire: who sees the table sees its entries, and their number.
        RUNS.store(runs.as_mut_ptr(), Ordering::Release);
    }
    replace(libc::SIGSEGV, &PREVIOUS_SEGV)?;
    replace(libc::SIGBUS, &PREVIOUS_BUS)?;
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Whether the handlers are installed: whether a page that cannot be accessed is an error.
pub fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// The table, sorted.
fn runs() -> Vec<Run> {
    let (first, end) = arch::table();
    // SAFETY: the linker has put the section's start and end there, and only this crate's `entry!` writes to it: whole
    // entries, which never change.
    let raw = unsafe { slice::from_raw_parts(first, (end.addr() - first.addr()) / size_of::<RawEntry>()) };
    let from = |field: &i32| (&raw const *field).addr().wrapping_add_signed(*field as isize);
    let run = |raw: &RawEntry| Run {
        start: from(&raw.start),
        end: from(&raw.end),
        landing: from(&raw.landing),
        width: raw.width as usize,
    };
    let mut runs: Vec<_> = raw.iter().map(run).collect();
    runs.sort_unstable_by_key(|run| run.start);
    runs
}

/// Puts our handler in the place of a signal's present one, which `previous` will know.
fn replace(signal: c_int, previous: &Previous) -> io::Result<()> {
    let mut old = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: asks only, and writes to `old`.
    if unsafe { sigaction(signal, ptr::null(), old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a valid `sigaction`, and so is what was written.
    let old = unsafe { old.assume_init() };
    previous.flags.store(old.sa_flags, Ordering::Relaxed);
    previous.handler.store(old.sa_sigaction, Ordering::Relaxed);
    let ours = sigaction {
        sa_sigaction: handle as *const () as usize,
        // What the handler before wants to be blocked, and not, holds while it is called by ours.
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | old.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART),
        ..old
    };
    // SAFETY: `handle` is what SA_SIGINFO calls, and keeps to what a handler may do.
    if unsafe { sigaction(signal, &raw const ours, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel, or a handler that passes its own arguments on, gives valid ones, which nobody else uses
    // meanwhile.
    let facts = unsafe { &*info };
    // SAFETY: as above.
    let interrupted = unsafe { &mut *context.cast::<ucontext_t>() };
    if recover(signal, facts, interrupted).is_none() {
        // SAFETY: as above.
        unsafe { pass_on(signal, info, context) };
    }
}

/// Lets the thread go on at the landing, if the fault is one of an access of ours.
fn recover(signal: c_int, info: &siginfo_t, context: &mut ucontext_t) -> Option<()> {
    if !is_forced(signal, info) {
        return None;
    }
    let instruction = context.instruction();
    let run = find(instruction)?;
    // SAFETY: the kernel sets it for signals that it sends because of a fault.
    let at = unsafe { info.si_addr() }.addr();
    // Lost memory is reported by the page: its first bad byte may lie before the access begins.
    let is_poison = signal == libc::SIGBUS && info.si_code == libc::BUS_MCEERR_AR;
    let page = if is_poison { poisoned_page(info) } else { 1 };
    let at = at & !(page - 1);
    let (starts, len) = if run.width == 0 { context.bulk() } else { ([context.pointer(); 2], run.width) };
    let bad_of = |start: usize| {
        let bad = start.max(at);
        (bad.wrapping_sub(start) < len && bad.wrapping_sub(at) < page).then_some(bad)
    };
    let bad = starts.into_iter().find_map(bad_of)?;
    context.go_on(run.landing, bad);
    Some(())
}

/// Whether the kernel sends the signal because of what the thread has just done, so that it cannot be ignored.
fn is_forced(signal: c_int, info: &siginfo_t) -> bool {
    info.si_code > 0 && !(signal == libc::SIGBUS && info.si_code == libc::BUS_MCEERR_AO)
}

/// The length of the lost memory in bytes, a power of two: a page of some size.
fn poisoned_page(info: &siginfo_t) -> usize {
    /// What follows `si_addr` in the kernel's `siginfo_t` (sigaction(2)).
    #[repr(C)]
    struct Poison {
        head: [c_int; 3],
        addr: *const c_void,
        addr_lsb: u16,
    }
    // SAFETY: `siginfo_t` is larger, and the kernel sets the field for BUS_MCEERR_AR.
    let lsb = unsafe { (*ptr::from_ref(info).cast::<Poison>()).addr_lsb };
    1_usize.checked_shl(lsb.into()).unwrap_or(1)
}

/// The run that has the instruction.
fn find(instruction: usize) -> Option<Run> {
    // Acquire: pairs with the Release in `install`.
    let runs = RUNS.load(Ordering::Acquire);
    if runs.is_null() {
        return None;
    }
    // SAFETY: set together, to memory that is never freed or changed.
    let runs = unsafe { slice::from_raw_parts(runs, RUN_COUNT.load(Ordering::Relaxed)) };
    let after = runs.partition_point(|run| run.start <= instruction);
    runs.get(after.checked_sub(1)?).copied().filter(|run| instruction < run.end)
}

/// Does what would be done if our handler were not there.
///
/// # Safety
///
/// The arguments are those of a signal handler.
unsafe fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = if signal == libc::SIGBUS { &PREVIOUS_BUS } else { &PREVIOUS_SEGV };
    let flags = previous.flags.load(Ordering::Relaxed);
    let handler = previous.handler.load(Ordering::Relaxed);
    // A handler for one signal is called once. What is ignored goes on being ignored.
    let handler = if flags & libc::SA_RESETHAND == 0 || handler == libc::SIG_IGN {
        handler
    } else {
        previous.handler.swap(libc::SIG_DFL, Ordering::Relaxed)
    };
    // SAFETY: the caller's promise.
    let forced = is_forced(signal, unsafe { &*info });
    match handler {
        libc::SIG_IGN if !forced => {}
        libc::SIG_DFL | libc::SIG_IGN => end_by(signal, forced),
        _ if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it with this flag has promised that it is such a function.
            let handler = unsafe { transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: whoever installed it without the flag has promised that it is such a function.
            let handler = unsafe { transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

/// Ends the process by the signal, as it does by default: once the handler has returned.
fn end_by(signal: c_int, forced: bool) {
    let mut default = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction`: SIG_DFL, no flags, nothing blocked. The process ends by it.
    unsafe { sigaction(signal, default.as_mut_ptr(), ptr::null_mut()) };
    if !forced {
        // Nothing will raise it again by itself; it is blocked until the handler returns.
        // SAFETY: sends a signal to this thread.
        unsafe { libc::raise(signal) };
    }
}
