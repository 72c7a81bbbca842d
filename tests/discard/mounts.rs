//! File systems of our own.

#![expect(unsafe_code, reason = "mount(2)")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{io, ptr, thread};

/// A file of `size` bytes on a new file system of this kind; `None` where nobody lets us mount it.
pub(crate) fn file_on(kind: &CStr, options: &CStr, size: usize) -> Option<File> {
    let directory = tempfile::tempdir().unwrap();
    // What a thread mounts for itself ends with it, and with the file.
    let file = thread::scope(|scope| scope.spawn(|| mount(kind, options, directory.path())).join()).unwrap();
    let file = file.and_then(|file| file.set_len(size as u64).map(|()| file));
    file.inspect_err(|error| memory_model_test_support::skip!("no mount: {}: {error}", kind.to_string_lossy())).ok()
}

/// Mounts a file system that only the calling thread sees, and makes a file on it.
fn mount(kind: &CStr, options: &CStr, directory: &Path) -> io::Result<File> {
    let answer = |answer| if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: it takes no pointer.
    answer(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the string ends with 0; those that are null are not used.
    answer(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()) })?;
    let at = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: the strings end with 0.
    answer(unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) })?;
    File::options().read(true).write(true).create_new(true).open(directory.join("memory"))
}
