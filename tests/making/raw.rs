//! System calls that these tests need, and memory that is touched as it must not be.

#![expect(unsafe_code, reason = "changes the process, and memory that the library does not know")]

use std::ffi::{CStr, c_int, c_long, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::ptr::{self, NonNull};

use memory_model::FileOffset;
use memory_model::mmap::{Error, MmapRegion, MmapRegionBuilder};

/// The answer of a system call that answers -1 if it fails.
#[track_caller]
pub(crate) fn done(answer: impl Into<c_long>) -> c_long {
    let answer = answer.into();
    assert!(answer >= 0, "{}", io::Error::last_os_error());
    answer
}

/// Ends this process some time, whatever it does, and lets it leave no core.
pub(crate) fn limit() {
    // SAFETY: has no effect on memory.
    unsafe { libc::alarm(50) };
    set_limit(libc::RLIMIT_CORE, 0);
}

/// A limit of this process.
#[cfg(target_env = "gnu")]
pub(crate) type Limit = libc::__rlimit_resource_t;
/// A limit of this process.
#[cfg(not(target_env = "gnu"))]
pub(crate) type Limit = c_int;

/// Sets a limit, and answers what it was. It may be raised again.
pub(crate) fn set_limit(limit: Limit, to: usize) -> usize {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the struct.
    done(unsafe { libc::getrlimit(limit, &raw mut now) });
    let before = now.rlim_cur;
    now.rlim_cur = libc::rlim_t::try_from(to).unwrap_or(libc::RLIM_INFINITY).min(now.rlim_max);
    // SAFETY: reads the struct.
    done(unsafe { libc::setrlimit(limit, &raw const now) });
    usize::try_from(before).unwrap_or(usize::MAX)
}

/// Lets a signal have no effect.
pub(crate) fn ignore(signal: c_int) {
    // SAFETY: no handler is installed.
    assert_ne!(unsafe { libc::signal(signal, libc::SIG_IGN) }, libc::SIG_ERR);
}

/// Whether this process is root, and may become another user.
pub(crate) fn is_root() -> bool {
    // SAFETY: has no effect on memory.
    unsafe { libc::geteuid() == 0 }
}

/// Becomes another user, who may nothing special and has no other processes.
pub(crate) fn become_nobody() {
    if is_root() {
        // SAFETY: has no effect on memory.
        done(unsafe { libc::setuid(0x0dd_u32 << 16 | 0xba11) });
    }
}

/// Reads a byte, and writes it back.
pub(crate) fn touch(byte: *mut u8) {
    // SAFETY: none, if the page is bad. It is what is to be seen.
    let value = unsafe { byte.read_volatile() };
    // SAFETY: as above.
    unsafe { byte.write_volatile(value) };
}

/// What `body` ends with in a child by fork(2), by its exit code.
pub(crate) fn in_fork(body: impl FnOnce() -> u8) -> c_int {
    // SAFETY: the child does no more than `body`, which allocates nothing.
    let child = done(unsafe { libc::fork() });
    if child == 0 {
        let code = body();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code.into()) };
    }
    let mut status = 0;
    // SAFETY: writes the status.
    done(unsafe { libc::waitpid(child.try_into().unwrap(), &raw mut status, 0) });
    assert!(libc::WIFEXITED(status), "{status:#x}");
    libc::WEXITSTATUS(status)
}

/// Memory that this module has mapped, and unmaps.
pub(crate) struct Somebodys {
    pub(crate) start: NonNull<u8>,
    len: usize,
}

impl Somebodys {
    /// Maps some anew; of a file, if there is one.
    pub(crate) fn new(len: usize, file: Option<&FileOffset>) -> Self {
        let (flags, fd, at) = match file {
            Some(at) => (libc::MAP_SHARED, at.file().as_raw_fd(), at.start()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, at.try_into().unwrap()) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: NonNull::new(start.cast()).unwrap(), len }
    }

    /// Maps some at an address, where nothing must be.
    #[cfg(target_pointer_width = "64")]
    pub(crate) fn at(start: usize, len: usize) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let wanted = ptr::without_provenance_mut(start);
        // SAFETY: a new mapping, which replaces none.
        let mapped = unsafe { libc::mmap(wanted, len, access, flags, -1, 0) };
        assert_eq!(mapped, wanted, "{}", io::Error::last_os_error());
        Self { start: NonNull::new(mapped.cast()).unwrap(), len }
    }

    /// As a region that borrows it, described by the builder.
    pub(crate) fn lend(&self, described: MmapRegionBuilder) -> Result<MmapRegion, Error> {
        // SAFETY: mapped as it is described, to which there are no references. The tests drop the region before.
        unsafe { described.from_raw(self.start) }
    }

    /// As a region that borrows it, of so many bytes.
    pub(crate) fn lend_bytes(&self, size: usize) -> Result<MmapRegion, Error> {
        // SAFETY: as above.
        unsafe { MmapRegion::from_raw(self.start, size) }
    }
}

impl Drop for Somebodys {
    fn drop(&mut self) {
        // SAFETY: its own, to which there are no references.
        done(unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) });
    }
}

/// A file that is not open any more: its number is of none.
pub(crate) fn closed(file: File) -> File {
    let fd = file.into_raw_fd();
    // SAFETY: nobody else has it.
    done(unsafe { libc::close(fd) });
    // SAFETY: none; it is forgotten by the test, before anybody opens another.
    unsafe { File::from_raw_fd(fd) }
}

/// The NUMA policy of the memory at an address: its mode, and the nodes.
pub(crate) fn policy(of: *mut u8) -> io::Result<(c_int, Vec<usize>)> {
    const MPOL_F_ADDR: c_ulong = 1 << 1;
    let (mut mode, mut mask) = (0, [0_u8; 1024 / 8]);
    // SAFETY: writes the mode, and as many bits as there are in the mask.
    let answer = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), 1024 as c_ulong, of, MPOL_F_ADDR)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // Words of the kernel's, which are read as bytes: the lowest first, or the lowest of 8 last.
    let byte = |index: usize| if cfg!(target_endian = "big") { index ^ (size_of::<c_ulong>() - 1) } else { index };
    Ok((mode, (0..1024).filter(|node| mask[byte(node / 8)] >> (node % 8) & 1 != 0).collect()))
}

/// Takes the right to lock as much memory as wanted from this thread.
pub(crate) fn drop_ipc_lock() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    // The version, and this thread; of each half of 32 the effective, permitted and inheritable ones.
    let (header, mut sets) = ([VERSION_3, 0], [[0_u32; 3]; 2]);
    // SAFETY: writes the sets.
    done(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) });
    sets[0][0] &= !(1 << CAP_IPC_LOCK);
    // SAFETY: reads the sets.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) });
}

/// A file system that is mounted for this process alone.
pub(crate) struct Mount<'a> {
    at: &'a CStr,
}

impl<'a> Mount<'a> {
    pub(crate) fn new(kind: &CStr, at: &'a CStr, options: &CStr) -> io::Result<Self> {
        let check = |answer| if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: has no effect on memory.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the string ends with NUL.
        check(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()) })?;
        // SAFETY: the strings end with NUL.
        check(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) })?;
        Ok(Self { at })
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // SAFETY: the string ends with NUL.
        done(unsafe { libc::umount2(self.at.as_ptr(), libc::MNT_DETACH) });
    }
}
