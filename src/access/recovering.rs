//! Bulk operations on the engines that recover from faults: what is to be done when a run of instructions has found a bad
//! address.

use super::{Fault, Plain, Probe, arch};

/// The widest unit. All of it is read before any of it is written.
type Wide = u128;
const WIDE: usize = size_of::<Wide>();

/// # Safety
///
/// As for [`super::copy_out`].
#[inline(always)]
pub(super) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    let bad = if is_short(len) {
        // SAFETY: the caller's promise: 16 bytes from either end.
        match (unsafe { Wide::read(src) }, unsafe { Wide::read(src.wrapping_add(len - WIDE)) }) {
            (Ok(first), Ok(last)) => {
                // SAFETY: as above.
                unsafe { dst.cast::<Wide>().write_unaligned(first) };
                // SAFETY: as above.
                unsafe { dst.wrapping_add(len - WIDE).cast::<Wide>().write_unaligned(last) };
                0
            }
            (Err(fault), _) | (_, Err(fault)) => fault.addr,
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { arch::copy(dst, src, len, src, src) }
    };
    if bad == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise, with the bad address of the same copy.
    Err(unsafe { finish_copy(bad, src, dst, src) })
}

/// # Safety
///
/// As for [`super::copy_in`].
#[inline(always)]
pub(super) unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    let bad = if is_short(len) {
        // SAFETY: the caller's promise: 16 bytes from either end.
        let first = unsafe { src.cast::<Wide>().read_unaligned() };
        // SAFETY: as above.
        let last = unsafe { src.wrapping_add(len - WIDE).cast::<Wide>().read_unaligned() };
        // SAFETY: as above.
        let written = unsafe { Wide::write(dst, first) };
        // SAFETY: as above.
        match written.and_then(|()| unsafe { Wide::write(dst.wrapping_add(len - WIDE), last) }) {
            Ok(()) => 0,
            Err(fault) => fault.addr,
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { arch::copy(dst, src, len, dst, dst) }
    };
    if bad == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise, with the bad address of the same copy.
    Err(unsafe { finish_copy(bad, src, dst, dst) })
}

/// Whether a copy is done by two wide units, one from either end, without a call.
#[inline(always)]
fn is_short(len: usize) -> bool {
    (WIDE..=2 * WIDE).contains(&len)
}

/// # Safety
///
/// As for [`super::copy_out`] or [`super::copy_in`], with the address that such a copy has found bad, and the end of it
/// that is shared memory.
#[cold]
#[inline(never)]
unsafe fn finish_copy(bad: usize, src: *const u8, dst: *mut u8, guest: *const u8) -> Fault {
    // SAFETY: the caller's promise, for a shorter copy.
    finish(bad, |bad| Fault::new(bad, guest), |len| unsafe { arch::copy(dst, src, len, guest, guest) })
}

/// # Safety
///
/// As for [`super::fill`].
#[inline]
pub(super) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    match unsafe { arch::fill(dst, byte, len) } {
        0 => Ok(()),
        // SAFETY: the caller's promise, for fewer bytes.
        bad => Err(finish(bad, |bad| Fault::new(bad, dst), |len| unsafe { arch::fill(dst, byte, len) })),
    }
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

/// Whether what lies before a bad address has a byte that is not zero: what was read together with the bad byte was not
/// looked at.
///
/// # Safety
///
/// As for [`super::is_zero`], with the bytes before `bad`.
#[cold]
unsafe fn is_zero_before(src: *const u8, mut bad: usize) -> Result<bool, Fault> {
    loop {
        let fault = Fault::new(bad, src);
        // SAFETY: the caller's promise.
        match unsafe { arch::is_zero(src, fault.completed) } {
            (true, 0) => return Err(fault),
            (false, 0) => return Ok(false),
            // What was there a moment ago is gone meanwhile.
            (_, lower) => bad = lower,
        }
    }
}

/// Does what lies before a bad address whole: of an operation that has stopped there, some of it may be done. `run` does
/// so many bytes from the start once more, and answers the first bad address of those, or 0.
#[cold]
fn finish(mut bad: usize, fault: impl Fn(usize) -> Fault, run: impl Fn(usize) -> usize) -> Fault {
    loop {
        let fault = fault(bad);
        if fault.completed == 0 {
            return fault;
        }
        // What was there a moment ago may be gone meanwhile: then there is less to be done, down to nothing.
        bad = run(fault.completed);
        if bad == 0 {
            return fault;
        }
    }
}

/// # Safety
///
/// As for [`super::copy`].
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    let apart = |lower: usize, upper: usize| upper.wrapping_sub(lower) >= len;
    if !apart(src.addr(), dst.addr()) || !apart(dst.addr(), src.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { copy_overlapping(src, dst, len) };
    }
    // SAFETY: the caller's promise; they do not overlap.
    let run = |len| unsafe { arch::copy(dst, src, len, src, dst) };
    let offset = |bad: usize, start: usize| Some(bad.wrapping_sub(start)).filter(|&offset| offset < len);
    let fault = |bad| {
        let completed = offset(bad, src.addr()).or(offset(bad, dst.addr())).unwrap_or(0);
        Fault { addr: bad, completed }
    };
    match run(len) {
        0 => Ok(()),
        bad => Err(finish(bad, fault, run)),
    }
}

/// A copy of which a part may be read after another part was written over it: it cannot be done twice, and downwards it
/// does first what is last. So bad addresses are looked for before.
///
/// # Safety
///
/// As for [`super::copy`].
#[cold]
unsafe fn copy_overlapping(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    let unreadable = unsafe { super::probe(src, len, Probe::Read) }.err();
    let len = unreadable.map_or(len, |fault| fault.completed);
    // SAFETY: the caller's promise.
    let unwritable = unsafe { super::probe(dst, len, Probe::Write) }.err();
    let len = unwritable.map_or(len, |fault| fault.completed);
    // What is found bad after that became so meanwhile. Nothing is to be done for a copy to itself.
    if dst.addr() < src.addr() {
        // SAFETY: the caller's promise.
        unsafe { upwards(src, dst, len) }?;
    } else if dst.addr() > src.addr() {
        // SAFETY: the caller's promise.
        unsafe { downwards(src, dst, len) }.map_err(|fault| Fault { completed: 0, ..fault })?;
    }
    unwritable.or(unreadable).map_or(Ok(()), Err)
}

/// # Safety
///
/// As for [`super::copy`], with `dst` below `src`.
unsafe fn upwards(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
    let body = len - len % WIDE;
    // SAFETY: all units are within `len`.
    (0..body).step_by(WIDE).try_for_each(|offset| unsafe { unit::<Wide>(src, dst, offset) })?;
    // SAFETY: as above.
    (body..len).try_for_each(|offset| unsafe { unit::<u8>(src, dst, offset) })
}

/// # Safety
///
/// As for [`super::copy`], with `dst` above `src`.
unsafe fn downwards(src: *const u8, dst: *mut u8, len: usize) -> Result<(), Fault> {
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
unsafe fn unit<U: Plain>(src: *const u8, dst: *mut u8, offset: usize) -> Result<(), Fault> {
    let (from, to) = (src.wrapping_add(offset), dst.wrapping_add(offset));
    // Bytes of the unit before the bad one are not done.
    let before = |fault: Fault| Fault { completed: offset, ..fault };
    // SAFETY: the caller's promise.
    let value = unsafe { U::read(from) }.map_err(before)?;
    // SAFETY: the caller's promise.
    unsafe { U::write(to, value) }.map_err(before)
}
