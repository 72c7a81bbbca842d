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
//! was offered, the kernel says which pages are resident (mincore(2)): what it has written is, and only that is looked at. For
//! a large one that takes half as long as a packet itself: there the longest packet is marked without asking.
//!
//! A call that was interrupted, or would block, has written nothing. After another error all is marked that was offered.

use std::io::{self, ErrorKind};
#[cfg(unix)]
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(target_os = "linux")]
use crate::access::{self, Probe};
#[cfg(target_os = "linux")]
use crate::guest_memory::Error;
use crate::guest_memory::GuestSlice;

/// The most bytes of one packet: 8 * 65535 (`GRO_MAX_SIZE`), rounded up. Those of Unix sockets have less than 200 KiB, the
/// buffers of a pipe a page.
const PACKET: usize = 512 << 10;

/// If no more was offered, a page that cannot be accessed is looked for: the buffers of a network device.
const SMALL: usize = 64 << 10;

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

    /// Whether a transfer that has failed so has written nothing.
    pub(crate) fn is_untouched_by(self, error: &io::Error) -> bool {
        !matches!(self, Source::Any) && matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
    }

    /// How many bytes may have been written beyond those that a short transfer has counted, of the `len` bytes that follow
    /// these. `rest` has them in pieces.
    pub(crate) fn uncounted<'s, I: Iterator<Item = GuestSlice<'s>>>(self, len: usize, rest: impl Fn() -> I) -> usize {
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
            Source::Descriptor(_) | Source::Socket(_) if len <= SMALL => before_bad_page(rest),
            #[cfg(unix)]
            Source::Descriptor(_) => len.min(PACKET),
            Source::Socket(_) => len.min(PACKET),
        }
    }
}

/// Whether it is open with `O_DIRECT`, or that cannot be found out.
#[cfg(target_os = "linux")]
fn is_direct(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: has no effect on memory. The descriptor is open, as it is borrowed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags < 0 || flags & libc::O_DIRECT != 0
}

/// As above: other systems have other rules.
#[cfg(all(unix, not(target_os = "linux")))]
fn is_direct(fd: BorrowedFd<'_>) -> bool {
    let _ = fd.as_raw_fd();
    true
}

/// How many bytes come before a page that cannot be accessed, or may be one.
#[cfg(target_os = "linux")]
fn before_bad_page<'s, I: Iterator<Item = GuestSlice<'s>>>(rest: impl Fn() -> I) -> usize {
    // Where faults are not recovered from, such a page ends the process.
    if !access::recovers() {
        return 0;
    }
    let mut near = 0_usize;
    for slice in rest() {
        let resident = resident(slice.as_ptr(), slice.len());
        near = near.saturating_add(resident);
        if resident < slice.len() {
            // Not there, or not accessible: nothing was written behind.
            return near;
        }
    }
    let mut done = 0_usize;
    for slice in rest() {
        if slice.is_read_only() {
            return done;
        }
        if let Err(Error::Fault { completed, .. }) = slice.probe(Probe::Read) {
            return done.saturating_add(completed);
        }
        done = done.saturating_add(slice.len());
    }
    // All can be accessed: no copy has met a page that cannot.
    0
}

/// How many of `len` bytes, at most [`SMALL`], are resident, from the first on. All, if the kernel does not say.
#[cfg(target_os = "linux")]
fn resident(start: *const u8, len: usize) -> usize {
    /// As many pages as the bytes can have.
    const PAGES: usize = SMALL / 4096 + 1;
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
