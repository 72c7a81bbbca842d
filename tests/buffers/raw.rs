//! System calls that these tests need.

#![expect(unsafe_code, reason = "makes pipes and sockets, and interrupts the process")]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn done(answer: c_int) -> c_int {
    assert!(answer >= 0, "{}", io::Error::last_os_error());
    answer
}

/// New descriptors, which nobody else has.
fn own(ends: [c_int; 2]) -> [OwnedFd; 2] {
    // SAFETY: open, and nobody else's.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) })
}

/// A pipe: the end to read from, and the one to write to; neither blocks if they are not to.
pub(crate) fn pipe(flags: c_int) -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors to the array.
    done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) });
    let [read, write] = own(ends);
    (read.into(), write.into())
}

/// Sockets of packets, each of which is sent and received whole.
pub(crate) fn packets() -> [OwnedFd; 2] {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: writes two descriptors to the array.
    done(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    own(ends)
}

/// A file in memory of so many zeros.
pub(crate) fn memfd(len: usize) -> File {
    // SAFETY: the name is a string that ends with NUL.
    let fd = done(unsafe { libc::memfd_create(c"buffers".as_ptr(), libc::MFD_CLOEXEC) });
    // SAFETY: a new descriptor, which nobody else has.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64).unwrap();
    file
}

/// Sends a descriptor with a byte.
pub(crate) fn send_fd(to: &impl AsRawFd, fd: &impl AsRawFd) {
    let mut byte = *b"x";
    let mut iovec = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0_u64; 8];
    let len = u32::try_from(size_of::<c_int>()).unwrap();
    // SAFETY: a struct of integers and pointers, which may all be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iovec;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: computes a length.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(len) }.try_into().unwrap();
    // SAFETY: the header has room for one.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: computes a length.
    let whole = unsafe { libc::CMSG_LEN(len) };
    let filled = libc::cmsghdr {
        cmsg_len: whole.try_into().unwrap(),
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // SAFETY: there is room for it.
    unsafe { first.write(filled) };
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: there is room for a descriptor.
    unsafe { data.cast::<c_int>().write_unaligned(fd.as_raw_fd()) };
    // SAFETY: the header describes what is there.
    let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &raw const header, 0) };
    assert_eq!(sent, 1, "{}", io::Error::last_os_error());
}

/// Sets `O_DIRECT` of a descriptor that is open.
pub(crate) fn set_direct(fd: &impl AsRawFd) {
    // SAFETY: has no effect on memory.
    done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_DIRECT) });
}

/// Lets a socket send messages of some MiB: false without the privilege.
pub(crate) fn allow_long_messages(socket: &impl AsRawFd) -> bool {
    let len: c_int = 8 << 20;
    let size = libc::socklen_t::try_from(size_of::<c_int>()).unwrap();
    let level = libc::SOL_SOCKET;
    // SAFETY: the kernel reads an integer.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, libc::SO_SNDBUFFORCE, (&raw const len).cast(), size) == 0 }
}

/// How often a pipe or socket was written to that nobody reads, as the process is told by a signal, since this was called first.
pub(crate) fn broken_pipes() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn count(_: c_int) {
        COUNT.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler does nothing but count.
    let before = unsafe { libc::signal(libc::SIGPIPE, count as extern "C" fn(c_int) as usize) };
    assert_ne!(before, libc::SIG_ERR);
    COUNT.load(Ordering::SeqCst)
}

extern "C" fn nothing(_: c_int) {}

/// Interrupts this thread every 20 ms, by a signal that has calls fail and does nothing else, until it is dropped. One at a
/// time.
pub(crate) struct Interrupts {
    timer: libc::timer_t,
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl Interrupts {
    pub(crate) fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: a struct of integers and pointers, which may all be zero: no flags, so no call goes on by itself.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        // SAFETY: the handler does nothing.
        done(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()) });
        // SAFETY: as above.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGUSR1;
        // SAFETY: has no effect on memory.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: reads the event and writes the timer.
        done(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) });
        let each = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let period = libc::itimerspec { it_interval: each, it_value: each };
        // SAFETY: the timer exists; the times are read.
        done(unsafe { libc::timer_settime(timer, 0, &raw const period, ptr::null_mut()) });
        Self { timer, _alone: alone }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // SAFETY: it exists, and is this value's.
        done(unsafe { libc::timer_delete(self.timer) });
    }
}
