use core::fmt;

use smallvec::SmallVec;

use super::IoSlice;
use super::owned::Owners;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{Bytes, GuestSlice};

/// So many pieces need no allocation.
pub(super) const INLINE: usize = 16;

/// Pieces of guest memory that take part in one transfer, in order, as one run of bytes.
///
/// All of it was found, and may be accessed as was said, when it was made; a page that goes away meanwhile is an error of
/// the transfer. Pieces that follow each other in the host are one iovec. Up to 16 need no allocation.
///
/// *Borrowed* buffers live as long as the memory they were made of. *Owned* ones, which are `GuestBuffers<'static>`, keep
/// the regions that they have bytes of, mapped and as they are: an `io_uring` or another thread may have them for as long as
/// it takes, whatever happens to the map meanwhile.
///
/// # Overlapping pieces
///
/// Pieces may overlap. Where pieces that are written do, the bytes are unspecified after a transfer: each is one that was read
/// for some piece. The kernel writes pieces in no defined order, with `O_DIRECT` also within one system call.
///
/// # What is marked as dirty
///
/// Of buffers to be written ([`Access::Write`], [`Access::ReadWrite`]):
///
/// * what [`complete`](Self::complete) says has landed, when it says so;
/// * everything that was [handed out](Self::as_iovecs) and of which nobody has said how much has landed, when the buffers
///   are dropped, or cut;
/// * what [`write_slice`](Self::write_slice) writes;
/// * of the system calls, as `preadv`, just what has landed; but after an error everything that was given to the call, unless
///   that was interrupted or would block. After `EFAULT` from a stream it is no more than a packet.
/// * What the kernel may have written without counting it, where it counts less than it was given. From a file that is open with
///   `O_DIRECT` that is all that was given to the call, as the kernel writes beyond the end of the file. From another file at a
///   position it is nothing. From a pipe or a socket it is what lies before a page that cannot be accessed, which may have cut
///   a packet, if at most 64 KiB in few pieces are left. Otherwise, or if the protection of a mapping changes during the call, the
///   rest is marked without looking, up to the longest packet (2,880 KiB).
///
/// A transfer costs what it moves, and a bounded number of marks. After a short transfer no page is touched that is not
/// resident. After `EFAULT` the first 1 MiB is touched to find the page; of a message that goes out, all of it.
pub struct GuestBuffers<'a> {
    /// The pieces as they are in the guest. Those before `first` are done with.
    slices: SmallVec<[GuestSlice<'a>; INLINE]>,
    /// The same bytes as they are in the host. Those before `first_iovec` are done with.
    iovecs: SmallVec<[IoSlice<'a>; INLINE]>,
    first: usize,
    first_iovec: usize,
    /// The bytes that are not done with, no more than `isize::MAX`.
    len: usize,
    /// The host address where a piece would follow the last one; 0 if there is none.
    end: usize,
    access: Access,
    /// Whether somebody may be writing to them.
    handed_out: bool,
    /// Who keeps them, if they are owned: dropped after all that is to be was marked.
    owners: Owners,
}

impl<'a> GuestBuffers<'a> {
    /// No bytes at all yet: see [`extend`](Self::extend).
    #[inline]
    pub fn empty(access: Access) -> Self {
        Self {
            slices: SmallVec::new(),
            iovecs: SmallVec::new(),
            first: 0,
            first_iovec: 0,
            len: 0,
            end: 0,
            access,
            handed_out: false,
            owners: Owners::default(),
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`] if there are more than a system call may have.
    #[inline(always)]
    pub(super) fn push(&mut self, slice: GuestSlice<'a>) -> Result<(), Error> {
        // Neither is more than `isize::MAX`: it does not wrap.
        let sum = self.len.wrapping_add(slice.len());
        if sum > isize::MAX.unsigned_abs() {
            return Err(Error::PartialBuffer { expected: usize::MAX, completed: 0 });
        }
        if slice.is_empty() {
            return Ok(());
        }
        self.len = sum;
        self.slices.push(slice);
        let iovec = IoSlice::new(slice);
        let follows = iovec.as_ptr().addr() == self.end;
        self.end = iovec.end();
        match self.iovecs.last_mut().filter(|_| follows) {
            Some(last) => *last = last.joined(iovec),
            None => self.iovecs.push(iovec),
        }
        Ok(())
    }

    /// The number of bytes that are not done with.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all is done with.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is done with the memory.
    #[inline]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The pieces, for a system call: of as many bytes as [`len`](Self::len). From now on they may be written to by
    /// somebody, if that is what they are for: until [`complete`](Self::complete) says how much was.
    #[inline]
    pub fn as_iovecs(&mut self) -> &[IoSlice<'_>] {
        self.handed_out |= self.is_written();
        self.left()
    }

    /// The pieces, for whoever looks only.
    #[inline]
    pub(super) fn left(&self) -> &[IoSlice<'a>] {
        self.iovecs.get(self.first_iovec..).unwrap_or_default()
    }

    /// Whether the memory is written to.
    #[inline]
    pub(super) fn is_written(&self) -> bool {
        self.access != Access::Read
    }

    /// Whether each piece begins at a host address that is a multiple of `addr_align`, and has a multiple of `len_align`
    /// bytes: as `O_DIRECT` wants them (`STATX_DIOALIGN`, statx(2)). Of 0 nothing is a multiple.
    pub fn is_aligned(&self, addr_align: usize, len_align: usize) -> bool {
        let is = |number: usize, align: usize| number.checked_rem(align) == Some(0);
        self.left().iter().all(|iovec| is(iovec.as_ptr().addr(), addr_align) && is(iovec.len(), len_align))
    }

    /// The first `count` bytes have landed, where they are to be written: they are marked as dirty. They are done with, and
    /// the rest was not touched.
    ///
    /// # Errors
    ///
    /// [`Error::Overrun`] if there are fewer: all of them are done with.
    pub fn complete(&mut self, count: usize) -> Result<(), Error> {
        let left = self.len;
        self.pass(count.min(left), self.is_written());
        self.handed_out = false;
        if count > left { Err(Error::Overrun { expected: left, claimed: count }) } else { Ok(()) }
    }

    /// Goes on after the first `count` bytes, which are done with; after all, if there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.pass(count.min(self.len), self.handed_out);
    }

    /// Has no more than the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        if count < self.len {
            // The rest, which is marked if somebody may have it.
            drop(self.split_off(count));
        }
    }

    /// The first `mid` bytes, and those that follow.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `mid <= len()`: the buffers are dropped.
    pub fn split_at(mut self, mid: usize) -> Result<(Self, Self), Error> {
        if mid > self.len {
            return Err(Error::OutOfBounds { offset: mid as u64, len: self.len as u64 });
        }
        let rest = self.split_off(mid);
        Ok((self, rest))
    }

    /// Takes what follows the first `mid` bytes, which are no more than there are.
    fn split_off(&mut self, mid: usize) -> Self {
        let mut rest = Self::empty(self.access);
        rest.handed_out = self.handed_out;
        rest.owners = self.owners.clone();
        rest.len = self.len.saturating_sub(mid);
        self.len = mid;
        let mut left = mid;
        for slice in self.slices.get_mut(self.first..).unwrap_or_default() {
            let (own, other) = cut(*slice, left);
            left = left.saturating_sub(own.len());
            *slice = own;
            if !other.is_empty() {
                rest.slices.push(other);
            }
        }
        let mut left = mid;
        for iovec in self.iovecs.get_mut(self.first_iovec..).unwrap_or_default() {
            let (own, other) = iovec.cut(left);
            left = left.saturating_sub(own.len());
            *iovec = own;
            if !other.is_empty() {
                rest.iovecs.push(other);
            }
        }
        self.slices.drain(..self.first);
        self.slices.retain(|slice| !slice.is_empty());
        self.iovecs.drain(..self.first_iovec);
        self.iovecs.retain(|iovec| !iovec.is_empty());
        (self.first, self.first_iovec) = (0, 0);
        rest.end = self.end;
        self.end = self.iovecs.last().map_or(0, IoSlice::end);
        rest
    }

    /// Goes on after `count` bytes, which are no more than there are, and marks them if that is to be.
    pub(super) fn pass(&mut self, count: usize, is_marked: bool) {
        let rest = self.len.saturating_sub(count);
        self.len = rest;
        if rest == 0 {
            self.pass_all(is_marked);
            return;
        }
        let mut left = count;
        for slice in self.slices.get_mut(self.first..).unwrap_or_default() {
            let len = slice.len().min(left);
            if is_marked {
                slice.mark(0, len);
            }
            left = left.saturating_sub(len);
            if len < slice.len() {
                *slice = cut(*slice, len).1;
                break;
            }
            self.first = self.first.saturating_add(1);
        }
        let mut left = count;
        for iovec in self.iovecs.get_mut(self.first_iovec..).unwrap_or_default() {
            if left < iovec.len() {
                *iovec = iovec.cut(left).1;
                break;
            }
            left = left.saturating_sub(iovec.len());
            self.first_iovec = self.first_iovec.saturating_add(1);
        }
    }

    /// As [`pass`](Self::pass), of all that there are.
    fn pass_all(&mut self, is_marked: bool) {
        if is_marked {
            for slice in self.slices.get(self.first..).unwrap_or_default() {
                slice.mark(0, slice.len());
            }
        }
        (self.first, self.first_iovec, self.end) = (self.slices.len(), self.iovecs.len(), 0);
    }

    /// Marks the bytes from `start` to `end`, as far as there are such, and goes on after none.
    #[cfg(target_os = "linux")]
    #[cold]
    pub(super) fn mark(&self, start: usize, end: usize) {
        let mut done = 0_usize;
        for slice in self.slices() {
            if done >= end {
                break;
            }
            let from = start.saturating_sub(done).min(slice.len());
            let to = end.saturating_sub(done).min(slice.len());
            slice.mark(from, to.saturating_sub(from));
            done = done.saturating_add(slice.len());
        }
    }

    /// The bytes from `start` to `end`, in pieces.
    #[cfg(target_os = "linux")]
    pub(super) fn between(&self, start: usize, end: usize) -> impl Iterator<Item = GuestSlice<'_>> {
        let mut done = 0_usize;
        self.slices()
            .map_while(move |slice| {
                let from = start.saturating_sub(done).min(slice.len());
                let to = end.saturating_sub(done).min(slice.len());
                done = done.saturating_add(slice.len());
                (to > 0).then(|| cut(cut(slice, to).0, from).1)
            })
            .filter(|slice| !slice.is_empty())
    }

    /// The pieces as they are in the guest; what is written to one is marked.
    pub(super) fn slices(&self) -> impl Iterator<Item = GuestSlice<'_>> {
        self.slices.get(self.first..).unwrap_or_default().iter().copied()
    }

    /// Fills `buf` from `offset`, in bytes that are not done with.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`], with nothing done, if there are not as many bytes; [`Error::Unsupported`] if they are only
    /// to be written; [`Error::Fault`].
    pub fn read_slice(&self, buf: &mut [u8], offset: usize) -> Result<(), Error> {
        if self.access == Access::Write {
            return Err(Error::Unsupported);
        }
        let len = buf.len();
        self.each(offset, len, |slice, done| {
            let rest = buf.get_mut(done..).unwrap_or_default();
            slice.read_slice(rest.get_mut(..slice.len()).unwrap_or_default(), 0)
        })
    }

    /// Writes all of `buf` to `offset`, in bytes that are not done with.
    ///
    /// # Errors
    ///
    /// [`Error::PartialBuffer`], with nothing done, if there are not as many bytes; [`Error::Unsupported`] if they are only
    /// to be read; [`Error::Fault`].
    pub fn write_slice(&self, buf: &[u8], offset: usize) -> Result<(), Error> {
        if !self.is_written() {
            return Err(Error::Unsupported);
        }
        self.each(offset, buf.len(), |slice, done| {
            let rest = buf.get(done..).unwrap_or_default();
            slice.write_slice(rest.get(..slice.len()).unwrap_or_default(), 0)
        })
    }

    /// Does `step(piece, done)` with all pieces of a range, if there is as much.
    fn each(
        &self,
        offset: usize,
        len: usize,
        mut step: impl FnMut(GuestSlice<'_>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::PartialBuffer { expected: len, completed: 0 });
        }
        let (mut skip, mut done) = (offset, 0_usize);
        for slice in self.slices() {
            let before = skip.min(slice.len());
            skip = skip.saturating_sub(before);
            let count = slice.len().saturating_sub(before).min(len.saturating_sub(done));
            if count > 0 {
                step(slice.subslice(before, count)?, done).map_err(|error| error.of_whole(done, len))?;
            }
            done = done.saturating_add(count);
        }
        Ok(())
    }

    pub(super) fn owners_mut(&mut self) -> &mut Owners {
        &mut self.owners
    }
}

/// The first `mid` bytes, and the others: all are first if there are no more.
fn cut(slice: GuestSlice<'_>, mid: usize) -> (GuestSlice<'_>, GuestSlice<'_>) {
    let mid = mid.min(slice.len());
    // Both are in bounds: no error.
    let part = |offset, count| slice.subslice(offset, count).unwrap_or_else(|_| GuestSlice::empty(slice.addr()));
    (part(0, mid), part(mid, slice.len().saturating_sub(mid)))
}

impl Drop for GuestBuffers<'_> {
    fn drop(&mut self) {
        if self.handed_out {
            self.pass(self.len, true);
        }
    }
}

impl fmt::Debug for GuestBuffers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBuffers")
            .field("len", &self.len)
            .field("access", &self.access)
            .field("iovecs", &self.left())
            .finish_non_exhaustive()
    }
}
