//! SIGSEGV and SIGBUS: those of a run of instructions in the recovery table go on at its landing, all others go to whoever
//! handled them before.
//!
//! The handler reads memory that does not change after [`install`], and the interrupted thread's registers; it takes no
//! lock, allocates nothing, and calls nothing that may panic.

use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
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

/// How often handlers can be put on top of handlers that others have installed.
const LEVELS: usize = 16;

/// Our handler, once for each level. A handler that was installed after one of them, and passes signals on to it, is
/// itself passed signals by another: so no circle is made.
static HANDLERS: [Handler; LEVELS] = [
    handle::<0>,
    handle::<1>,
    handle::<2>,
    handle::<3>,
    handle::<4>,
    handle::<5>,
    handle::<6>,
    handle::<7>,
    handle::<8>,
    handle::<9>,
    handle::<10>,
    handle::<11>,
    handle::<12>,
    handle::<13>,
    handle::<14>,
    handle::<15>,
];

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// The actions that our handlers have replaced, by level, each in one [word](word_of) so that it is never half of another.
static REPLACED_BY_SEGV: Replaced = [const { AtomicUsize::new(UNUSED) }; LEVELS];
static REPLACED_BY_BUS: Replaced = [const { AtomicUsize::new(UNUSED) }; LEVELS];

type Replaced = [AtomicUsize; LEVELS];

/// A level that was never used.
const UNUSED: usize = usize::MAX;
/// Bits of a word that are in no address of user space on these targets: the handler takes three arguments; it is for one
/// signal.
const SIGINFO: usize = 1 << 63;
const RESETHAND: usize = 1 << 62;

fn replaced_by(signal: c_int) -> &'static Replaced {
    if signal == libc::SIGBUS { &REPLACED_BY_BUS } else { &REPLACED_BY_SEGV }
}

/// An action's handler, and how it is called.
fn word_of(action: &sigaction) -> usize {
    let flag = |flag: c_int, bit: usize| if action.sa_flags & flag == 0 { 0 } else { bit };
    if matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
        return action.sa_sigaction;
    }
    action.sa_sigaction & !(SIGINFO | RESETHAND) | flag(libc::SA_SIGINFO, SIGINFO) | flag(libc::SA_RESETHAND, RESETHAND)
}

/// Installs the handlers that make an [`Error::Fault`](crate::guest_memory::Error::Fault) of a page that cannot be
/// accessed. Does nothing while they [are installed](is_installed).
///
/// The first mapping installs them, unless told not to
/// ([`MmapRegionBuilder::fault_recovery`](crate::mmap::MmapRegionBuilder::fault_recovery)). A program calls this itself
/// if its memory comes from elsewhere, before a seccomp filter forbids sigaction(2), or so that handlers of its own come
/// after. If another handler has replaced these since, it installs them before that one. Mappings do not do this: a handler
/// that was installed later may pass signals on.
///
/// A SIGSEGV or SIGBUS that is not a fault of an access of this crate goes on to the handler that was there before, or
/// has the effect that it had, as if these handlers were not there. If that handler installs another action, as the standard
/// library's installs the default action, these handlers are put before that action. In between, for a few instructions, a
/// fault in another thread is not recovered. A handler that leaves by longjmp(3) after it installed another action removes
/// these.
///
/// A handler that is installed afterwards passes on what it does not handle, with all three arguments. If handlers pass a
/// signal round in a circle, these give it its default action the second time. Threads need an alternate stack
/// (sigaltstack(2)) as far as the handlers before need one: those of the standard library have it. A thread that blocks
/// these signals is ended by a fault, with the process.
///
/// Passing a signal on asks sigaction(2) for the present handler, twice. A seccomp filter that kills the process for that call
/// does so then.
///
/// The handlers stay until the process ends. A shared library that has its own copy of this crate must not be unloaded
/// after it installed them (link it with `-z nodelete`): dlclose(3) would unmap the handlers' code.
///
/// # Errors
///
/// The error of sigaction(2). [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) if other handlers have replaced these more
/// than 15 times. One of the two signals may have its handler then.
pub fn install() -> io::Result<()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if RUNS.load(Ordering::Relaxed).is_null() {
        let runs = Vec::leak(runs());
        RUN_COUNT.store(runs.len(), Ordering::Relaxed);
        // Release: pairs with the handler's Acquire: who sees the table sees its entries, and their number.
        RUNS.store(runs.as_mut_ptr(), Ordering::Release);
    }
    if is_installed() {
        return Ok(());
    }
    put_on_top(libc::SIGSEGV)?;
    put_on_top(libc::SIGBUS)?;
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Whether the handlers were installed, and may have been replaced since. Makes no system call, as a seccomp filter may
/// forbid sigaction(2).
pub(crate) fn was_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Returns whether the handlers are installed, so that a page that cannot be accessed is an error.
///
/// `false` once other handlers have replaced them, also ones that pass signals on: then [`install`] installs these again.
/// Asks the kernel, by two calls of sigaction(2). Where a seccomp filter makes these fail, returns whether the handlers
/// were installed.
pub fn is_installed() -> bool {
    let is_replaced = |signal| present(signal).is_ok_and(|now| level(&now).is_none());
    was_installed() && !is_replaced(libc::SIGSEGV) && !is_replaced(libc::SIGBUS)
}

/// A signal's present action.
fn present(signal: c_int) -> io::Result<sigaction> {
    let mut action = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: asks only, and writes to `action`.
    if unsafe { sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a valid `sigaction`, and so is what was written.
    Ok(unsafe { action.assume_init() })
}

/// The level of an action that is ours.
fn level(action: &sigaction) -> Option<usize> {
    HANDLERS.iter().position(|&handler| handler as *const () as usize == action.sa_sigaction)
}

/// A level whose handler passes on to the handler of `word`: one that does, or a new one.
fn level_for(word: usize, replaced: &Replaced) -> Option<usize> {
    replaced.iter().position(|level| {
        // A level that is in use is another's for good: so nobody's previous handler changes.
        let found = level.compare_exchange(UNUSED, word, Ordering::Relaxed, Ordering::Relaxed);
        found.is_ok() || found == Err(word)
    })
}

/// Makes one of our handlers the signal's, in front of what is there, unless one is already. Async-signal-safe. Not inlined,
/// as [`present_word`].
#[inline(never)]
fn put_on_top(signal: c_int) -> io::Result<()> {
    let mut now = present(signal)?;
    // Another thread may install a handler at the same time: that is then put behind ours, too. So often it never does.
    for _ in 0..LEVELS {
        if level(&now).is_some() {
            return Ok(());
        }
        let level = level_for(word_of(&now), replaced_by(signal)).ok_or(io::ErrorKind::QuotaExceeded)?;
        let ours = sigaction {
            sa_sigaction: HANDLERS[level] as *const () as usize,
            // What the handler before wants to be blocked, and not, holds while it is called by ours.
            sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | now.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART),
            ..now
        };
        let displaced = change(signal, &ours)?;
        match self::level(&displaced) {
            // In front of what was installed after `now`: it stays.
            Some(other) if other != level => return change(signal, &displaced).map(drop),
            Some(_) => return Ok(()),
            None if word_of(&displaced) == word_of(&now) => return Ok(()),
            None => change(signal, &displaced)?,
        };
        now = displaced;
    }
    Ok(())
}

/// Makes an action the signal's; returns the one before.
fn change(signal: c_int, action: &sigaction) -> io::Result<sigaction> {
    let mut before = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: `handle` is what SA_SIGINFO calls, and keeps to what a handler may do. All else is what was there before.
    if unsafe { sigaction(signal, action, before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a valid `sigaction`, and so is what was written.
    Ok(unsafe { before.assume_init() })
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

extern "C" fn handle<const LEVEL: usize>(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel, or a handler that passes its own arguments on, gives valid ones, which nobody else uses
    // meanwhile.
    let facts = unsafe { &*info };
    // SAFETY: as above.
    let interrupted = unsafe { &mut *context.cast::<ucontext_t>() };
    if recover(signal, facts, interrupted).is_none() {
        // SAFETY: the address of this thread's errno, which is valid as long as the thread.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let interrupted_errno = unsafe { *errno };
        // SAFETY: the arguments are those of this handler.
        unsafe { pass_on(LEVEL, signal, info, context) };
        // SAFETY: as above.
        unsafe { *errno = interrupted_errno };
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

/// Does what would be done if the handler of this level were not there.
///
/// # Safety
///
/// The arguments are those of a signal handler.
unsafe fn pass_on(level: usize, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(replaced) = replaced_by(signal).get(level) else { return };
    let mut word = replaced.load(Ordering::Relaxed);
    if word & RESETHAND != 0 {
        // A handler for one signal is called once, by whoever exchanges it.
        let called = replaced.compare_exchange(word, libc::SIG_DFL, Ordering::Relaxed, Ordering::Relaxed);
        word = called.unwrap_or_else(|now| now);
    }
    // SAFETY: the caller's promise.
    let forced = is_forced(signal, unsafe { &*info });
    match word {
        libc::SIG_IGN if !forced => {}
        libc::SIG_DFL | libc::SIG_IGN | UNUSED => end_by(signal, forced),
        word => {
            let context = context.cast::<Note>();
            let level = ptr::from_ref(replaced).addr();
            // SAFETY: the caller's promise; and a context begins with the fields of a `Note`.
            let outer = unsafe { (*context).link };
            // SAFETY: null or a context, and so is each that it links, or a `Note`.
            if unsafe { has_note(outer, level) } {
                return end_by(signal, forced);
            }
            let mut note = Note { level, link: outer };
            // SAFETY: as above. The note is unlinked before its frame ends; or a handler leaves by longjmp(3), and this context
            // is not used any more.
            unsafe { (*context).link = &raw mut note };
            let before = present_word(signal);
            // SAFETY: the caller's promise; and whoever installed it has promised that it is what its flags say.
            unsafe { call(word, signal, info, context.cast()) };
            // SAFETY: as above.
            unsafe { (*context).link = outer };
            // The standard library's handler, for instance, makes the default action the signal's, for a fault to come again.
            // Ours goes in front of that, which it then passes the next one on to. If this was a fault that comes again, it
            // ends the process that way.
            // Two threads may do so at once: then it is the same before and after.
            let after = present_word(signal);
            if before != after || after == Some(libc::SIG_DFL) {
                // There is nobody to tell but `is_installed`, which asks itself.
                put_on_top(signal).ok();
            }
        }
    }
}

/// The word of a signal's present action; `None` if it cannot be asked. Not inlined: an alternate stack is small, and another
/// handler is called on the same.
#[inline(never)]
fn present_word(signal: c_int) -> Option<usize> {
    present(signal).ok().map(|now| word_of(&now))
}

/// Calls the handler of a word.
///
/// # Safety
///
/// The arguments are those of a signal handler, and the word is of an action that was installed.
unsafe fn call(word: usize, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let address = word & !(SIGINFO | RESETHAND);
    if word & SIGINFO != 0 {
        // SAFETY: whoever installed it with this flag has promised that it is such a function.
        let handler = unsafe { transmute::<usize, Handler>(address) };
        handler(signal, info, context);
    } else {
        // SAFETY: whoever installed it without the flag has promised that it is such a function.
        let handler = unsafe { transmute::<usize, extern "C" fn(c_int)>(address) };
        handler(signal);
    }
}

/// Says that a level is passing a signal on, so that a circle of handlers is noticed. The first two fields of a `ucontext_t`,
/// so that it can be what a signal's context links: the kernel writes null there and makes no use of it.
///
/// It lies in the handler's stack frame. It needs no allocation, as a thread-local value of a shared library may, and does not
/// outlive a handler that leaves by longjmp(3).
#[repr(C)]
struct Note {
    /// The address of the level's word, which no other level has, nor any other copy of this crate.
    level: usize,
    link: *mut Note,
}

/// Whether there is a level's note among those that are linked.
///
/// # Safety
///
/// `at`, and each link from there, is null or points to a context or a note.
unsafe fn has_note(mut at: *const Note, level: usize) -> bool {
    // Not without end if they are in a circle themselves.
    for _ in 0..64 {
        // SAFETY: the caller's promise.
        let Some(note) = (unsafe { at.as_ref() }) else { return false };
        if note.level == level {
            return true;
        }
        at = note.link;
    }
    false
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
