//! Bulk operations on the engines that recover from faults: what is to be done when a run of instructions has found a bad
//! address.
//!
//! Pages may become inaccessible, and accessible again, while an operation runs and while its fault is examined. Then the first
//! bad address may lie inside a page whose first bytes were written before. The fault names the start of that page, or of the
//! operation, and says how far bytes may have been written.

use super::{CopyFault, Fault, Plain, Probe, arch};

/// The widest unit. All of it is read before any of it is written.
type Wide = u128;
const WIDE: usize = size_of::<Wide>();

/// The most bytes before a bad address that a run may not have done, as it reads a block before it writes it; and the most
/// bytes from it on that a run may have done, as its last blocks overlap.
const BLOCK: usize = 256;

/// An address so near to the start of its page may be that of an access which begins before the page: aarch64 may tell any
/// byte of a store.
const VAGUE: usize = if cfg!(target_arch = "aarch64") { 32 } else { 1 };

/// # Safety
///
/// As for [`super::copy_out`].
#[inline(always)]
pub(super) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    if is_short(len) {
        // SAFETY: the caller's promise: 16 bytes from either end.
        match (unsafe { Wide::read(src) }, unsafe { Wide::read(src.wrapping_add(len - WIDE)) }) {
            (Ok(first), Ok(last)) => {
                // SAFETY: as above.
                unsafe { dst.cast::<Wide>().write_unaligned(first) };
                // SAFETY: as above.
                unsafe { dst.wrapping_add(len - WIDE).cast::<Wide>().write_unaligned(last) };
                return Ok(());
            }
            (Err(fault), _) | (_, Err(fault)) => {
                // SAFETY: the caller's promise, with the fault of the same copy.
                return Err(unsafe { finish_short(fault, src, dst, src) });
            }
        }
    }
    // SAFETY: the caller's promise.
    match unsafe { arch::copy(dst, src, len, src, src) } {
        0 => Ok(()),
        // SAFETY: the caller's promise, with the bad address of the same copy.
        bad => Err(unsafe { finish_copy(bad, src, dst, len, src) }),
    }
}

/// # Safety
///
/// As for [`super::copy_in`].
#[inline(always)]
pub(super) unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    if is_short(len) {
        // SAFETY: the caller's promise: 16 bytes from either end.
        let first = unsafe { src.cast::<Wide>().read_unaligned() };
        // SAFETY: as above.
        let last = unsafe { src.wrapping_add(len - WIDE).cast::<Wide>().read_unaligned() };
        // SAFETY: as above.
        let mut written = unsafe { Wide::write(dst, first) };
        if written.is_ok() {
            // SAFETY: as above.
            written = unsafe { Wide::write(dst.wrapping_add(len - WIDE), last) };
            written = written.map_err(|fault| fault.reaching(dst.addr() + WIDE));
        }
        // SAFETY: the caller's promise, with the fault of the same copy.
        return written.map_err(|fault| unsafe { finish_short(fault, src, dst, dst) });
    }
    // SAFETY: the caller's promise.
    match unsafe { arch::copy(dst, src, len, dst, dst) } {
        0 => Ok(()),
        // SAFETY: the caller's promise, with the bad address of the same copy.
        bad => Err(unsafe { finish_copy(bad, src, dst, len, dst) }),
    }
}

/// Whether a copy is done by two wide units, one from either end, without a call.
#[inline(always)]
fn is_short(len: usize) -> bool {
    (WIDE..=2 * WIDE).contains(&len)
}

/// Does what lies before the bad page of a copy by two units.
///
/// # Safety
///
/// As for [`super::copy_out`] or [`super::copy_in`], with the fault of such a copy, and the end of it that is shared memory.
#[cold]
#[inline(never)]
unsafe fn finish_short(fault: Fault, src: *const u8, dst: *mut u8, guest: *const u8) -> Fault {
    let completed = fault.completed(guest);
    // SAFETY: the caller's promise, for a shorter copy.
    match unsafe { arch::copy(dst, src, completed, guest, guest) } {
        0 => fault,
        // It has at most 32 bytes: the page before is bad, too.
        lower => Fault::new(lower).reaching(guest.addr() + fault.reached(guest, 2 * WIDE)),
    }
}

/// # Safety
///
/// As for [`super::copy_out`] or [`super::copy_in`], with the address that such a copy has found bad, and the end of it
/// that is shared memory.
#[cold]
#[inline(never)]
unsafe fn finish_copy(bad: usize, src: *const u8, dst: *mut u8, len: usize, guest: *const u8) -> Fault {
    let run = |from, len| {
        let guest = guest.wrapping_add(from);
        // SAFETY: the caller's promise, for a part of the copy.
        unsafe { arch::copy(dst.wrapping_add(from), src.wrapping_add(from), len, guest, guest) }
    };
    let is_written = |at: usize| {
        // SAFETY: the caller's promise, as the offset is within the copy. One end is private, the other may fault.
        let found = unsafe { u8::read(dst.wrapping_add(at)) };
        // SAFETY: as above.
        guest.addr() == dst.addr() && found.is_ok() && found == unsafe { u8::read(src.wrapping_add(at)) }
    };
    finish(bad, len, [guest.addr(); 2], run, is_written).fault()
}

/// # Safety
///
/// As for [`super::fill`].
#[inline]
pub(super) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    match unsafe { arch::fill(dst, byte, len) } {
        0 => Ok(()),
        // SAFETY: the caller's promise, with the bad address of the same operation.
        bad => Err(unsafe { finish_fill(bad, dst, byte, len) }),
    }
}

/// # Safety
///
/// As for [`super::fill`], with the address that it has found bad.
#[cold]
#[inline(never)]
unsafe fn finish_fill(bad: usize, dst: *mut u8, byte: u8, len: usize) -> Fault {
    // SAFETY: the caller's promise, for fewer bytes.
    let run = |from, len| unsafe { arch::fill(dst.wrapping_add(from), byte, len) };
    // SAFETY: the caller's promise, as the offset is among the bytes.
    let is_written = |at| unsafe { u8::read(dst.wrapping_add(at)) } == Ok(byte);
    finish(bad, len, [dst.addr(); 2], run, is_written).fault()
}

/// # Safety
///
/// As for [`super::is_zero`].
#[inline]
pub(super) unsafe fn is_zero(src: *const u8, len: usize) -> Result<bool, Fault> {
    // SAFETY: the caller's promise.
    match unsafe { arch::is_zero(src, len) } {
        (zero, 0) => Ok(zero),
        // SAFETY: the caller's promise, as the bad byte is one of these.
        (_, bad) => unsafe { is_zero_before(src, bad) },
    }
}

/// Whether what lies before a bad page has a byte that is not zero: what was read together with the bad byte was not
/// looked at.
///
/// # Safety
///
/// As for [`super::is_zero`], with the bytes before `bad`.
#[cold]
unsafe fn is_zero_before(src: *const u8, bad: usize) -> Result<bool, Fault> {
    let mut fault = Fault::new(bad);
    // All before is zero, as it was read upwards.
    let from = (bad - src.addr()).saturating_sub(BLOCK);
    loop {
        let Some(len) = fault.completed(src).checked_sub(from) else { return Err(fault) };
        // SAFETY: the caller's promise.
        match unsafe { arch::is_zero(src.wrapping_add(from), len) } {
            (true, 0) => return Err(fault),
            (false, 0) => return Ok(false),
            // What was there a moment ago is gone.
            (_, lower) => fault = Fault::new(lower),
        }
    }
}

/// Where an operation has stopped. Offsets are from its start.
#[derive(Clone, Copy)]
struct Stopped {
    /// Where the range begins that has the bad page.
    start: usize,
    /// The first bad byte: the start of a page, unless it is 0. All before it is done.
    completed: usize,
    /// The bytes from the start that may have been written.
    reached: usize,
}

impl Stopped {
    /// The stop at the address `bad` of a run of `len` bytes from each of `starts`.
    fn new(bad: usize, len: usize, starts: [usize; 2], is_written: impl Fn(usize) -> bool) -> Self {
        let start = starts.into_iter().find(|&start| bad.wrapping_sub(start) < len).unwrap_or(starts[0]);
        let offset = bad.saturating_sub(start).min(len);
        let completed = Fault::new(bad).completed(core::ptr::without_provenance(start)).min(offset);
        let is_inside = offset > completed && (offset - completed >= VAGUE || is_written(completed));
        let reached = if is_inside {
            // The page became bad when its first bytes were done.
            offset.saturating_add(BLOCK).min(len)
        } else if (completed > 0 || len == WIDE) && len - completed <= BLOCK && is_written(completed) {
            // One of the last blocks has met it, which overlap what was done before.
            len
        } else {
            completed
        };
        Self { start, completed, reached }
    }

    /// The fault, of an operation that has one range.
    fn fault(self) -> Fault {
        let fault = Fault::new(self.start + self.completed);
        if self.reached > self.completed { fault.reaching(self.start + self.reached) } else { fault }
    }
}

/// Does what lies before a bad address whole, of an operation of `len` bytes that has stopped there. `run` does so many bytes
/// from an offset once more, and returns the first bad address of those, or 0; `is_written` says whether the byte at an offset
/// is as the operation writes it.
#[cold]
fn finish(
    bad: usize,
    len: usize,
    starts: [usize; 2],
    run: impl Fn(usize, usize) -> usize,
    is_written: impl Fn(usize) -> bool,
) -> Stopped {
    let mut stopped = Stopped::new(bad, len, starts, &is_written);
    // What lies before that is done, so that a block is left, however long the operation is.
    let from = bad.saturating_sub(stopped.start).min(len).saturating_sub(BLOCK);
    while let Some(rest) = stopped.completed.checked_sub(from).filter(|&rest| rest > 0) {
        let bad = run(from, rest);
        if bad == 0 {
            break;
        }
        // A page before is bad, too, since then or from the beginning: less is to be done.
        let mut lower = Stopped::new(bad, stopped.completed, starts, &is_written);
        if stopped.reached > stopped.completed || lower.completed < from || is_written(lower.completed) {
            lower.reached = stopped.reached;
        }
        stopped = lower;
    }
    stopped
}

/// # Safety
///
/// As for [`super::copy`].
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
    let apart = |lower: usize, upper: usize| upper.wrapping_sub(lower) >= len;
    if !apart(src.addr(), dst.addr()) || !apart(dst.addr(), src.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { copy_overlapping(src, dst, len) };
    }
    let (from, to) = (src, dst);
    // SAFETY: the caller's promise; they do not overlap.
    match unsafe { arch::copy(dst, src, len, src, dst) } {
        0 => Ok(()),
        bad => {
            let run = |done, len| {
                let (src, dst) = (from.wrapping_add(done), to.wrapping_add(done));
                // SAFETY: as above, for a part of the copy.
                unsafe { arch::copy(dst, src, len, src, dst) }
            };
            // The source may have changed since it was read. Only a copy of one unit can meet a bad page at its start twice.
            let is_written = |at| {
                // SAFETY: the first byte of the source.
                let source = unsafe { u8::read(from) };
                // SAFETY: the first byte of the destination.
                at > 0 || source == unsafe { u8::read(to) }
            };
            let Stopped { start, completed, reached } = finish(bad, len, [src.addr(), dst.addr()], run, is_written);
            Err(CopyFault { is_destination: start == dst.addr(), offset: completed, completed, reached })
        }
    }
}

/// A copy of which a part may be read after another part was written over it: it cannot be done twice, and downwards it
/// does first what is last. So bad addresses are looked for before.
///
/// # Safety
///
/// As for [`super::copy`].
#[cold]
unsafe fn copy_overlapping(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
    let found = |fault: Fault, start: *const u8| {
        let completed = fault.completed(start);
        CopyFault { is_destination: start == dst.cast_const(), offset: completed, completed, reached: completed }
    };
    // SAFETY: the caller's promise.
    let unreadable = unsafe { super::probe(src, len, Probe::Read) }.err().map(|fault| found(fault, src));
    let len = unreadable.map_or(len, |fault| fault.completed);
    // SAFETY: the caller's promise.
    let unwritable = unsafe { super::probe(dst, len, Probe::Write) }.err().map(|fault| found(fault, dst));
    let len = unwritable.map_or(len, |fault| fault.completed);
    // What is found bad after that became so since. Nothing is to be done for a copy to itself.
    if dst.addr() < src.addr() {
        // SAFETY: the caller's promise.
        unsafe { upwards(src, dst, len) }?;
    } else if dst.addr() > src.addr() {
        // SAFETY: the caller's promise.
        unsafe { downwards(src, dst, len) }.map_err(|fault| CopyFault { completed: 0, reached: len, ..fault })?;
    }
    unwritable.or(unreadable).map_or(Ok(()), Err)
}

/// # Safety
///
/// As for [`super::copy`], with `dst` below `src`.
unsafe fn upwards(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
    let body = len - len % WIDE;
    for offset in (0..body).step_by(WIDE) {
        // SAFETY: all units are within `len`.
        if let Err(fault) = unsafe { unit::<Wide>(src, dst, offset) } {
            // Bytes of the unit before the bad one are not done.
            // SAFETY: as above.
            (offset..fault.completed).try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })?;
            return Err(fault);
        }
    }
    // SAFETY: as above.
    (body..len).try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })
}

/// # Safety
///
/// As for [`super::copy`], with `dst` above `src`.
unsafe fn downwards(src: *const u8, dst: *mut u8, len: usize) -> Result<(), CopyFault> {
    let body = len - len % WIDE;
    // SAFETY: all units are within `len`.
    (body..len).rev().try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })?;
    // SAFETY: as above.
    (0..body).step_by(WIDE).rev().try_for_each(|offset| unsafe { unit::<Wide>(src, dst, offset) })
}

/// # Safety
///
/// As for [`super::copy`], with all of the unit at `offset`.
#[inline]
unsafe fn unit<U: Plain>(src: *const u8, dst: *mut u8, offset: usize) -> Result<(), CopyFault> {
    let (from, to) = (src.wrapping_add(offset), dst.wrapping_add(offset));
    // Bytes of the bad page before the unit may have been copied.
    let stopped = |fault: Fault, start: *const u8| {
        let completed = fault.completed(start);
        let is_destination = start == dst.cast_const();
        CopyFault { is_destination, offset: completed, completed, reached: offset.max(completed) }
    };
    // SAFETY: the caller's promise.
    let value = unsafe { U::read(from) }.map_err(|fault| stopped(fault, src))?;
    // SAFETY: the caller's promise.
    unsafe { U::write(to, value) }.map_err(|fault| stopped(fault, dst))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: usize = 0x1_43b8;
    const LEN: usize = 11281;

    /// A run that finds these bad addresses, one after another, and then none.
    fn finish_by(bad: &[usize], is_written: bool) -> Stopped {
        let rest = core::cell::Cell::new(&bad[1..]);
        let run = |from: usize, len: usize| {
            assert!(from + len <= LEN && len <= BLOCK, "{len} bytes at {from} are done twice");
            let (&bad, after) = rest.get().split_first().unwrap_or((&0, &[]));
            rest.set(after);
            bad
        };
        finish(bad[0], LEN, [START; 2], run, |_| is_written)
    }

    /// The address that a fault tells, and how far bytes may be written.
    fn told(stopped: Stopped) -> (usize, usize) {
        let start = core::ptr::without_provenance(START);
        let fault = stopped.fault();
        assert_eq!(fault.completed(start), stopped.completed);
        (fault.addr(start), fault.reached(start, LEN))
    }

    #[test]
    fn a_fault_inside_a_page_is_told_by_the_pages_start() {
        // The page was accessible when its first bytes were done.
        let (addr, reached) = told(finish_by(&[0x1_6688], false));
        assert_eq!(addr, 0x1_6000);
        assert!(reached >= 0x2688 - 0x3b8, "{reached:#x}");
        // The first page of the access.
        let (addr, reached) = told(finish_by(&[0x1_43f8], false));
        assert_eq!(addr, START);
        assert!(reached >= 0x40);
    }

    #[test]
    fn a_fault_at_a_pages_start_reaches_no_further() {
        assert_eq!(told(finish_by(&[0x1_6000], false)), (0x1_6000, 0x1c48));
        assert_eq!(told(finish_by(&[START], true)), (START, 0));
    }

    #[test]
    fn a_page_that_the_last_blocks_meet_may_be_written() {
        // The second last block may have written what the last one meets.
        let last_page = (START + LEN) & !0xfff;
        assert_eq!(told(finish_by(&[last_page], false)).0, last_page);
        let len = last_page + 100 - START;
        let stopped = finish(last_page, len, [START; 2], |_, _| 0, |_| true);
        assert_eq!((stopped.completed, stopped.reached), (len - 100, len));
        let stopped = finish(last_page, len, [START; 2], |_, _| 0, |_| false);
        assert_eq!((stopped.completed, stopped.reached), (len - 100, len - 100));
    }

    #[test]
    fn a_page_that_goes_while_the_rest_is_done_is_the_first_bad_one() {
        let (addr, reached) = told(finish_by(&[0x1_6000, 0x1_5f00], false));
        assert_eq!(addr, 0x1_5000);
        assert!(reached >= 0x1c48, "what was written before is forgotten: {reached:#x}");
    }
}
