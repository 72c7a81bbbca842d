//! Memory that can be read at half of it after something else was done.

#![expect(unsafe_code, reason = "handles a signal, and maps what a write reads from")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use libc::{SIGSEGV, siginfo_t};
use memory_model::fault_recovery;

pub(crate) fn page() -> usize {
    rustix::param::page_size()
}

/// A file in memory.
pub(crate) fn memfd() -> File {
    // SAFETY: the name is a string that ends with NUL.
    let fd = unsafe { libc::memfd_create(c"interrupted".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor, which nobody else has.
    unsafe { File::from_raw_fd(fd) }
}

/// The page that cannot be read now, and what is done before it can be: a pointer to a `&dyn Fn()`.
static CLOSED: AtomicUsize = AtomicUsize::new(0);
static CHANGE: AtomicUsize = AtomicUsize::new(0);

/// Bytes, all 0xff, of which the second half is read after something else was done: reading it raises a signal that is not
/// one of guest memory.
pub(crate) struct Trap {
    base: *mut u8,
    len: usize,
    /// One write at a time.
    _alone: MutexGuard<'static, ()>,
}

impl Trap {
    /// Nothing, where a page that cannot be accessed ends the process.
    pub(crate) fn new(len: usize) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        static ONCE: Once = Once::new();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        ONCE.call_once(|| {
            // Before the library's own, which passes on what is not a fault of guest memory.
            // SAFETY: zeroes are a valid `sigaction`.
            let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            action.sa_sigaction = open as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: `open` is what SA_SIGINFO calls.
            assert_eq!(unsafe { libc::sigaction(SIGSEGV, &raw const action, ptr::null_mut()) }, 0);
            fault_recovery::install().unwrap();
        });
        if !fault_recovery::is_installed() {
            memory_model_test_support::skip!("no fault recovery on this target");
            return None;
        }
        let (all, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of its own.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, all, private, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        // SAFETY: all of the mapping.
        unsafe { ptr::write_bytes(base.cast::<u8>(), 0xff, len) };
        Some(Self { base: base.cast(), len, _alone: alone })
    }

    /// Does `write` with the bytes, and `change` when it reads those of the second half for the first time.
    pub(crate) fn at_half<T>(&self, write: impl FnOnce(&[u8]) -> T, change: impl Fn()) -> T {
        let half = self.base.wrapping_add(self.len / 2);
        let change: &dyn Fn() = &change;
        CHANGE.store((&raw const change).expose_provenance(), SeqCst);
        CLOSED.store(half.addr(), SeqCst);
        // SAFETY: a page of the mapping.
        assert_eq!(unsafe { libc::mprotect(half.cast(), page(), libc::PROT_NONE) }, 0);
        // SAFETY: bytes of the mapping, which nobody writes. Who reads those of the closed page has them when it is open.
        let result = write(unsafe { std::slice::from_raw_parts(self.base, self.len) });
        assert_eq!(CLOSED.load(SeqCst), 0, "the second half was not read");
        result
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

extern "C" fn open(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    let closed = CLOSED.swap(0, SeqCst);
    // SAFETY: the kernel gives a valid one.
    let info = unsafe { &*info };
    // SAFETY: of a fault, which has an address.
    let at = unsafe { info.si_addr() }.addr();
    if closed == 0 || !(closed..closed + page()).contains(&at) {
        // It happens again, and ends the process.
        // SAFETY: has no effect on memory.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: a page of the trap's mapping.
    let opened =
        unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(at & !(page() - 1)), page(), libc::PROT_READ) };
    assert_eq!(opened, 0);
    // SAFETY: the thread has been interrupted in `at_half`, where it lives. It holds no lock: it was copying.
    let change = unsafe { *ptr::with_exposed_provenance::<&dyn Fn()>(CHANGE.load(SeqCst)) };
    change();
}
