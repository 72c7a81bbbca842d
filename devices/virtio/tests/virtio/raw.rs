//! What `seccomp` needs.

/// The answer of a system call that answers -1 if it fails.
#[track_caller]
pub(crate) fn done(answer: impl Into<std::ffi::c_long>) -> std::ffi::c_long {
    let answer = answer.into();
    assert!(answer >= 0, "{}", std::io::Error::last_os_error());
    answer
}
