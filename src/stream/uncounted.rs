//! Bytes that a source may have written beyond those that it counts.
//!
//! | source | may have written |
//! |--------|------------------|
//! | bytes in memory, a cursor | nothing else |
//! | a file that is open with `O_DIRECT` | all that it was offered: the kernel writes zeros beyond the end of the file |
//! | another file, at a position | nothing else: the kernel counts each byte that it copies from its page cache |
//! | a pipe, a socket, a descriptor of unknown kind | the rest of a packet, up to a page that cannot be accessed |
//! | a source that the caller implements | all that it was offered |
//!
//! The kernel counts a packet, or a pipe's buffer, when all of it was copied. A copy that meets an inaccessible page is not
//! counted, and has written what lies before the page. Looking for such a page must not populate memory. Where a small buffer
//! of few pieces was offered, the kernel says which pages are resident (mincore(2)): what it has written is, and only that is
//! looked at. For a large one that takes half as long as a packet itself: there the longest packet is marked without asking.
//!
//! A page that stopped the kernel may be accessible again when it is looked for. Exact marks need that the protection of no
//! mapping has changed during the transfer ([`Changes`]); otherwise all resident bytes are marked. A page that a truncated file
//! has lost is not resident when the file grows again.
//!
//! A call that was interrupted, or would block, has written nothing, unless the source is the caller's: that may have written
//! anything. A stream that reports a page (`EFAULT`) has counted nothing, and has written one packet at most. After another
//! error all is marked that was offered.

use std::io::{self, ErrorKind};
#[cfg(unix)]
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Changes;
#[cfg(target_os = "linux")]
use crate::access::{self, Probe};
#[cfg(target_os = "linux")]
use crate::guest_memory::Error;
use crate::guest_memory::GuestSlice;

/// The most bytes that a stream copies at once: TCP appends segments to a buffer of its queue that has at most 45 fragments
/// (`MAX_SKB_FRAGS`, as configured), of 64 KiB each. That is more than the longest packet (`GRO_MAX_SIZE`, 512 KiB). Those of
/// Unix sockets have less than 200 KiB, the buffers of a pipe a page.
const PACKET: usize = 45 * (64 << 10);

/// If no more was offered, a page that cannot be accessed is looked for: the buffers of a network device.
#[cfg(target_os = "linux")]
const SMALL: usize = 64 << 10;

/// In so many pieces: as many as the bytes can have pages. Each costs a system call.
#[cfg(target_os = "linux")]
const PIECES: usize = SMALL / 4096 + 1;

/// As far as a page is looked for that a system call has met: so much is transferred instead if there is none.
pub(crate) const FAULT_WINDOW: usize = 1 << 20;

/// The most that a source is offered at once that may write to all of it, of a transfer of many steps: so that each step marks
/// a bounded number of pages.
const STEP: usize = 1 << 20;

/// What fills a buffer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// Code that writes just what it counts.
    Exact,
    /// Code that may use all of the buffer.
    Any,
    /// The kernel, from a file at a position.
    #[cfg(unix)]
    File(BorrowedFd<'a>),
    /// The kernel, from any descriptor.
    #[cfg(unix)]
    Descriptor(BorrowedFd<'a>),
    /// The kernel, from a socket.
    Socket(core::marker::PhantomData<&'a ()>),
}

impl Source<'_> {
    /// A socket.
    #[cfg(unix)]
    pub(crate) const SOCKET: Self = Source::Socket(core::marker::PhantomData);

    /// How many of `len` bytes one step offers, of a transfer of many steps.
    pub(crate) fn step(self, len: usize) -> usize {
        if matches!(self, Source::Any) { len.min(STEP) } else { len }
    }

    /// How many of the first `len` bytes may have been written by a transfer of these that has failed.
    pub(crate) fn written_before(self, error: &io::Error, len: usize) -> usize {
        match (self, error.kind()) {
            (Source::Any, _) => len,
            (_, ErrorKind::Interrupted | ErrorKind::WouldBlock) => 0,
            // The kernel reports a page only if it has counted nothing: it has met the page in the first packet.
            #[cfg(target_os = "linux")]
            (Source::Socket(_), _) if is_fault(error) => len.min(PACKET),
            #[cfg(target_os = "linux")]
            (Source::Descriptor(fd), _) if is_fault(error) && !is_direct(fd) && !has_messages(fd) => len.min(PACKET),
            _ => len,
        }
    }

    /// How many bytes may have been written beyond those that a short transfer has counted, of the `len` bytes that follow
    /// these. `rest` has them in pieces, and `before` is of before the transfer.
    pub(crate) fn uncounted<'s, I: Iterator<Item = GuestSlice<'s>>>(
        self,
        len: usize,
        before: Changes,
        rest: impl Fn() -> I,
    ) -> usize {
        #[cfg(not(target_os = "linux"))]
        let _ = (before, rest);
        match self {
            Source::Exact => 0,
            Source::Any => len,
            #[cfg(unix)]
            Source::File(fd) => {
                if is_direct(fd) {
                    len
                } else {
                    0
                }
            }
            #[cfg(unix)]
            Source::Descriptor(fd) if is_direct(fd) => len,
            #[cfg(target_os = "linux")]
            Source::Descriptor(_) | Source::Socket(_) if len <= SMALL => before_bad_page(len, before, rest),
            #[cfg(unix)]
            Source::Descriptor(_) => len.min(PACKET),
            Source::Socket(_) => len.min(PACKET),
        }
    }
}

/// Whether it is open with `O_DIRECT`, or that cannot be found out. Of a pipe this means packets (pipe(2)), which are copied.
#[cfg(target_os = "linux")]
fn is_direct(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: has no effect on memory. The descriptor is open, as it is borrowed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags < 0 || flags & libc::O_DIRECT != 0 && !is_pipe(fd)
}

/// Whether it is a pipe, as far as can be found out.
#[cfg(target_os = "linux")]
fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: has no effect on memory, and fails for all but pipes.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) >= 0 }
}

/// Whether it is a socket of messages, which may have any length.
#[cfg(target_os = "linux")]
fn has_messages(fd: BorrowedFd<'_>) -> bool {
    socket_kind(fd).is_some_and(|kind| kind != libc::SOCK_STREAM)
}

/// The type of a socket (`SO_TYPE`).
#[cfg(target_os = "linux")]
pub(crate) fn socket_kind(fd: BorrowedFd<'_>) -> Option<libc::c_int> {
    let (mut kind, mut len): (libc::c_int, _) = (0, libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0));
    let (value, level) = ((&raw mut kind).cast(), libc::SOL_SOCKET);
    // SAFETY: the kernel writes `len` bytes, which `kind` has, and the length. The descriptor is open, as it is borrowed.
    let answer = unsafe { libc::getsockopt(fd.as_raw_fd(), level, libc::SO_TYPE, value, &raw mut len) };
    (answer == 0).then_some(kind)
}

#[cfg(target_os = "linux")]
fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// As above: other systems have other rules.
#[cfg(all(unix, not(target_os = "linux")))]
fn is_direct(fd: BorrowedFd<'_>) -> bool {
    let _ = fd.as_raw_fd();
    true
}

/// How many of `len` bytes, at most [`SMALL`], come before a page that cannot be accessed, or may be one.
#[cfg(target_os = "linux")]
fn before_bad_page<'s, I: Iterator<Item = GuestSlice<'s>>>(len: usize, before: Changes, rest: impl Fn() -> I) -> usize {
    let mut near = 0_usize;
    for (number, slice) in rest().enumerate() {
        if number == PIECES {
            return len;
        }
        let resident = resident(slice.as_ptr(), slice.len());
        near = near.saturating_add(resident);
        if resident < slice.len() {
            // Not there, or beyond the end of its file: nothing was written behind.
            return near;
        }
    }
    // Where faults are not recovered from no page can be looked at.
    if !access::recovers() {
        return near;
    }
    let bad = first_bad(rest());
    // A page that has stopped the kernel may be there again, and one may be bad only since.
    if before.are_all() { bad.unwrap_or(0) } else { near }
}

/// How many bytes come before the first page that cannot be written, if there is one.
#[cfg(target_os = "linux")]
fn first_bad<'s>(slices: impl Iterator<Item = GuestSlice<'s>>) -> Option<usize> {
    let mut done = 0_usize;
    for slice in slices {
        if slice.is_read_only() {
            return Some(done);
        }
        if let Err(Error::Fault { completed, .. }) = slice.probe(Probe::Read) {
            return Some(done.saturating_add(completed));
        }
        done = done.saturating_add(slice.len());
    }
    None
}

/// How many of `len` bytes, at most [`SMALL`], are resident, from the first on. All, if the kernel does not say.
#[cfg(target_os = "linux")]
fn resident(start: *const u8, len: usize) -> usize {
    /// As many pages as the bytes can have.
    const PAGES: usize = PIECES;
    // SAFETY: has no effect on memory.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(4096);
    let begin = start.addr() % page;
    let mut pages = [0_u8; PAGES];
    let count = begin.saturating_add(len).div_ceil(page);
    let Some(asked) = pages.get_mut(..count).filter(|pages| !pages.is_empty()) else { return len };
    let from = start.wrapping_sub(begin).cast_mut().cast();
    // SAFETY: reads nothing there; the kernel writes a byte for each page.
    if unsafe { libc::mincore(from, count.saturating_mul(page), asked.as_mut_ptr()) } != 0 {
        return len;
    }
    match asked.iter().position(|page| page & 1 == 0) {
        Some(absent) => absent.saturating_mul(page).saturating_sub(begin),
        None => len,
    }
}
