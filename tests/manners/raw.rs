//! Signals, and memory that raises them.

#![expect(unsafe_code, reason = "installs signal handlers, and touches what must not be touched")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::SeqCst};

use libc::{SIGBUS, SIGSEGV, siginfo_t};
use memory_model::guest_memory::Error;
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// The size of what is mapped here: a page of any host, or some.
pub(crate) const SIZE: usize = 1 << 16;

/// Ends this process some time, whatever it does, and lets it leave no core.
pub(crate) fn limit() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads the struct.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    assert_eq!(limited, 0);
    // SAFETY: has no effect on memory.
    unsafe { libc::alarm(100) };
}

/// A file in memory.
fn memfd() -> File {
    // SAFETY: the name is a string that ends with NUL.
    let fd = unsafe { libc::memfd_create(c"manners".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor, which nobody else has.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(SIZE as u64).unwrap();
    file
}

/// Guest memory whose file is empty: every access is a SIGBUS.
pub(crate) fn empty_memory(recovery: bool) -> GuestMemoryMmap {
    let file = memfd();
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let mapping = MmapRegion::builder(SIZE).file(at).fault_recovery(recovery).build().unwrap();
    file.set_len(0).unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
    GuestMemoryMmap::from_regions(vec![region]).unwrap()
}

/// Checks that an access to bad guest memory is an error.
#[track_caller]
pub(crate) fn check_recovers() {
    for mem in [empty_memory(true), forbidden_memory()] {
        let read = mem.read_obj::<u64>(GuestAddress(0x18));
        assert!(matches!(read, Err(Error::Fault { addr: GuestAddress(0x18), completed: 0 })), "{read:?}");
        let read = mem.read_slice(&mut [0; 100], GuestAddress(0));
        assert!(matches!(read, Err(Error::Fault { addr: GuestAddress(0), completed: 0 })), "{read:?}");
    }
}

/// Guest memory without permissions: every access is a SIGSEGV.
fn forbidden_memory() -> GuestMemoryMmap {
    let mapping = MmapRegion::new(SIZE).unwrap();
    let start = memory_model::VolatileMemory::as_volatile_slice(&mapping).as_ptr();
    // SAFETY: a mapping to which there are no references; faults of slices are errors.
    unsafe { rustix::mm::mprotect(start.cast(), SIZE, rustix::mm::MprotectFlags::empty()) }.unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
    GuestMemoryMmap::from_regions(vec![region]).unwrap()
}

/// Memory without permissions that is not the library's, for ever.
pub(crate) fn forbidden_page() -> *mut u8 {
    let (access, flags) = (rustix::mm::ProtFlags::empty(), rustix::mm::MapFlags::PRIVATE);
    // SAFETY: at an address of the kernel's choice.
    unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), SIZE, access, flags) }.unwrap().cast()
}

/// A slice of private memory that cannot be accessed.
pub(crate) fn forbidden_slice() -> &'static mut [u8] {
    // SAFETY: not null, and nobody else's. That it is mapped without permissions is the point.
    unsafe { std::slice::from_raw_parts_mut(forbidden_page(), 64) }
}

/// Memory of an empty file that is not the library's, and the file, for ever.
pub(crate) fn empty_page() -> (*mut u8, File) {
    let file = memfd();
    let (access, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
    // SAFETY: at an address of the kernel's choice.
    let page = unsafe { rustix::mm::mmap(ptr::null_mut(), SIZE, access, flags, &file, 0) }.unwrap();
    file.set_len(0).unwrap();
    (page.cast(), file)
}

/// Reads a byte as any code might.
#[inline(never)]
pub(crate) fn touch(byte: *const u8) -> u8 {
    // SAFETY: none, if the page is bad. It is what is to be seen.
    unsafe { byte.read_volatile() }
}

/// What a pointer is when it was forgotten to set it: nearly null, as the compiler knows null.
pub(crate) fn null() -> *const u8 {
    black_box(ptr::without_provenance(16))
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "it is to have no end")]
pub(crate) fn overflow(depth: usize) -> usize {
    let frame = black_box([depth; 64]);
    overflow(depth + 1) + black_box(frame)[depth % 64]
}

/// Overflows the stack of the main thread, which the test's harness does not use for tests.
pub(crate) fn overflow_main() -> ! {
    extern "C" fn handle(_: c_int) {
        overflow(0);
    }
    before(libc::SIGUSR1, handle as *const () as usize, 0);
    // SAFETY: has no effect on memory.
    let process = unsafe { libc::getpid() };
    // SAFETY: sends a signal to the main thread, whose number is the process's.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, libc::SIGUSR1) };
    loop {
        std::thread::park();
    }
}

/// Makes `handler` the signal's; answers what was before.
pub(crate) fn before(signal: c_int, handler: usize, flags: c_int) -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction`.
    let mut new = unsafe { action.assume_init() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: changes the set.
    unsafe { libc::sigaddset(&raw mut new.sa_mask, libc::SIGUSR2) };
    // SAFETY: the handlers of these tests are what their flags say, and do only what handlers may.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const new, action.as_mut_ptr()) }, 0);
    // SAFETY: was written just now.
    unsafe { action.assume_init() }
}

/// What the handlers repair: a page without permissions, and a file.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static FILE: AtomicI32 = AtomicI32::new(-1);
/// How often they were called, with what address last, and whether their own mask was in force.
pub(crate) static CALLS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static ADDR: AtomicUsize = AtomicUsize::new(0);
pub(crate) static MASKED: AtomicUsize = AtomicUsize::new(0);

/// Says what is to be repaired by the next call of a handler.
pub(crate) fn to_repair(page: *mut u8, file: &File) {
    PAGE.store(page, SeqCst);
    FILE.store(file.as_raw_fd(), SeqCst);
}

/// A handler without `SA_SIGINFO`.
pub(crate) extern "C" fn repair(signal: c_int) {
    CALLS.fetch_add(1, SeqCst);
    if signal == SIGSEGV {
        // SAFETY: the page is of these tests.
        unsafe { libc::mprotect(PAGE.load(SeqCst).cast(), SIZE, libc::PROT_READ) };
    } else {
        // SAFETY: has no effect on memory but on the file's.
        unsafe { libc::ftruncate(FILE.load(SeqCst), 1 << 16) };
    }
    let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: writes the set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr()) };
    // SAFETY: reads the set.
    let own = unsafe { libc::sigismember(blocked.as_ptr(), libc::SIGUSR2) };
    MASKED.store(usize::from(own == 1), SeqCst);
}

/// A handler with `SA_SIGINFO`.
pub(crate) extern "C" fn repair_at(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    ADDR.store(address(info), SeqCst);
    repair(signal);
}

/// The address of a fault.
fn address(info: *const siginfo_t) -> usize {
    // SAFETY: the kernel's, for the time of the handler.
    let info = unsafe { &*info };
    // SAFETY: these signals have one.
    unsafe { info.si_addr() }.addr()
}

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// The handlers that were there before [`chain`].
static BEFORE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

fn previous(signal: c_int) -> &'static AtomicUsize {
    &BEFORE[usize::from(signal == SIGBUS)]
}

/// Makes [`chain`] the handler.
pub(crate) fn install_chain(signal: c_int) {
    let old = before(signal, chain as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
    assert!(old.sa_flags & libc::SA_SIGINFO != 0);
    previous(signal).store(old.sa_sigaction, SeqCst);
}

/// A handler that repairs its own page, and passes everything else on.
extern "C" fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if address(info).wrapping_sub(PAGE.load(SeqCst).addr()) < SIZE {
        repair_at(signal, info, context);
        return;
    }
    // SAFETY: was installed with SA_SIGINFO.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(previous(signal).load(SeqCst)) };
    handler(signal, info, context);
}

/// A handler that faults itself, once: in the middle of it comes the signal for its second page.
pub(crate) extern "C" fn fault_within(signal: c_int) {
    repair(signal);
    if CALLS.load(SeqCst) == 1 {
        let second = PAGE.load(SeqCst).wrapping_add(SIZE);
        PAGE.store(second, SeqCst);
        touch(second);
    }
}

/// Two pages without permissions, one after the other.
pub(crate) fn two_forbidden_pages() -> *mut u8 {
    let (access, flags) = (rustix::mm::ProtFlags::empty(), rustix::mm::MapFlags::PRIVATE);
    // SAFETY: at an address of the kernel's choice.
    unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * SIZE, access, flags) }.unwrap().cast()
}

/// Sends this thread a signal.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: has no effect on memory.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// Blocks signals in this thread.
pub(crate) fn block(signals: [c_int; 2]) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    for signal in signals {
        // SAFETY: changes the set.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: reads the set.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) }, 0);
}

/// Runs `check` in a thread that the standard library knows nothing of, and which has no alternate stack.
pub(crate) fn in_bare_thread(check: fn()) {
    extern "C" fn start(check: *mut c_void) -> *mut c_void {
        let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: asks only, and writes to `stack`.
        assert_eq!(unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) }, 0);
        // SAFETY: was written just now.
        assert!(unsafe { stack.assume_init() }.ss_flags & libc::SS_DISABLE != 0);
        // SAFETY: what `in_bare_thread` has passed on.
        let check = unsafe { std::mem::transmute::<*mut c_void, fn()>(check) };
        check();
        ptr::null_mut()
    }
    let mut thread = MaybeUninit::<libc::pthread_t>::zeroed();
    // SAFETY: `start` is such a function, and takes what it is given. A panic in it ends the process.
    let made = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), start, check as *mut c_void) };
    assert_eq!(made, 0);
    // SAFETY: was written just now.
    let thread = unsafe { thread.assume_init() };
    // SAFETY: a thread that was not joined before.
    assert_eq!(unsafe { libc::pthread_join(thread, ptr::null_mut()) }, 0);
}

/// Runs `check` in a copy of this process, and answers how that has ended, as waitpid(2) does.
pub(crate) fn in_fork(check: fn()) -> c_int {
    // SAFETY: the copy has one thread; what it does takes no lock that another thread could have held.
    match unsafe { libc::fork() } {
        0 => {
            check();
            // SAFETY: ends the copy, without what the harness does at the end.
            unsafe { libc::_exit(0) }
        }
        copy => {
            assert!(copy > 0, "{}", std::io::Error::last_os_error());
            let mut status = 0;
            // SAFETY: writes the status.
            assert_eq!(unsafe { libc::waitpid(copy, &raw mut status, 0) }, copy);
            status
        }
    }
}

/// A handler that passes everything on to what [`close_circle`] found.
extern "C" fn pass_round(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: was installed with SA_SIGINFO.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(previous(signal).load(SeqCst)) };
    handler(signal, info, context);
}

/// Makes [`pass_round`] the handler, which passes on to the one that is there.
pub(crate) fn install_pass_round(signal: c_int) {
    let old = before(signal, pass_round as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
    previous(signal).store(old.sa_sigaction, SeqCst);
}

/// A handler that installs the default action and sends the signal once more, as crash reporters do.
pub(crate) extern "C" fn report(signal: c_int) {
    CALLS.fetch_add(1, SeqCst);
    before(signal, libc::SIG_DFL, 0);
    raise(signal);
}

/// A handler that counts its calls.
pub(crate) extern "C" fn count(_: c_int) {
    CALLS.fetch_add(1, SeqCst);
}

/// Sends this thread a signal as the kernel reports memory that was lost, and that nobody has accessed yet.
pub(crate) fn raise_lost_memory() {
    let mut info = MaybeUninit::<siginfo_t>::zeroed();
    // SAFETY: zeroes are a valid `siginfo_t`.
    let info = unsafe { info.assume_init_mut() };
    (info.si_signo, info.si_code) = (SIGBUS, libc::BUS_MCEERR_AO);
    // SAFETY: has no effect on memory.
    let process = unsafe { libc::getpid() };
    // SAFETY: has no effect on memory.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    // SAFETY: reads `info`.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, SIGBUS, ptr::from_mut(info)) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// A handler that makes [`count`] its successor.
pub(crate) extern "C" fn hand_over(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    CALLS.fetch_add(10, SeqCst);
    before(signal, count as *const () as usize, 0);
}
