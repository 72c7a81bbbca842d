//! System calls that these tests need.

#![expect(unsafe_code, reason = "changes limits of the process")]

use std::ptr::NonNull;

use memory_model::mmap::{MmapRegion, MmapRegionBuilder};

/// The answer of a system call that answers -1 if it fails.
#[cfg(target_pointer_width = "64")]
#[track_caller]
pub(crate) fn done(answer: impl Into<std::ffi::c_long>) -> std::ffi::c_long {
    let answer = answer.into();
    assert!(answer >= 0, "{}", std::io::Error::last_os_error());
    answer
}

/// Ends this process some time, whatever it does.
pub(crate) fn limit() {
    // SAFETY: has no effect on memory.
    unsafe { libc::alarm(50) };
}

/// A mapping that somebody else has made.
pub(crate) fn borrow(builder: MmapRegionBuilder, start: NonNull<u8>) -> MmapRegion {
    // SAFETY: the test keeps the mapping.
    unsafe { builder.from_raw(start) }.unwrap()
}
