//! Records the tests that this host cannot run, and why.
//!
//! A test that lacks something (KVM, huge pages, a privilege) returns early, and the test runner counts it as passed. Such
//! a test calls [`skip!`], so that the skip is visible and can be checked:
//!
//! * a line on standard error, which the runner does not capture;
//! * the same line at the end of the file that `MEMORY_MODEL_SKIPS` names, if it is set. `.ci/run` sets it, prints the
//!   number of lines, and fails for a line that `.ci/skips` does not allow.

#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::fs::OpenOptions;
use std::io::Write;
use std::{env, thread};

/// Records that the calling test, or a part of it, does not run here. Takes the reason, as `format!` does.
///
/// The reason starts with what is missing, in the same words in all tests, as `.ci/skips` matches them.
///
/// ```
/// # fn open_kvm() -> std::io::Result<()> { Ok(()) }
/// if let Err(error) = open_kvm() {
///     return memory_model_test_support::skip!("no KVM: /dev/kvm: {error}");
/// }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::record(::core::format_args!($($reason)+))
    };
}

/// The function behind [`skip!`].
///
/// # Panics
///
/// If the file that `MEMORY_MODEL_SKIPS` names cannot be written: a skip would go unnoticed.
pub fn record(reason: Arguments<'_>) {
    let line = format!("skipped: {} {}: {reason}\n", binary(), thread::current().name().unwrap_or("?"));
    // Not `eprint!`, which the runner captures. One write, so that the lines of several threads do not mix.
    drop(std::io::stderr().write_all(line.as_bytes()));
    if let Some(path) = env::var_os("MEMORY_MODEL_SKIPS") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "the file that MEMORY_MODEL_SKIPS names: {written:?}");
    }
}

/// The package and the name of this test binary, without the hash that cargo appends.
fn binary() -> String {
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
    let stem = env::current_exe().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let stem = stem.unwrap_or_default();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _)| name);
    format!("{package}/{name}")
}
