//! Tests that run themselves once more, in child processes.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, exit};

use memory_model::{MmapRegion, fault_recovery};

use crate::raw;

/// How a child has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// By a signal, or by itself if there is none.
    pub(crate) signal: Option<i32>,
    /// Its exit code was 0.
    pub(crate) success: bool,
    /// What it wrote to standard error, without the numbers of processes and threads.
    pub(crate) said: String,
}

/// Checks that all of them said `words`, were then ended by `signal`, and did not survive it.
#[track_caller]
pub(crate) fn all_by(ended: &[Ended], signal: i32, words: &str) {
    for ended in ended {
        assert_eq!(ended.signal, Some(signal), "{ended:?}");
        assert!(ended.said.contains(words), "{ended:?}");
        assert!(!ended.said.contains("survived"), "{ended:?}");
    }
}

/// Checks that all of them went well.
#[track_caller]
pub(crate) fn all_well(ended: &[Ended]) {
    assert!(ended.iter().all(|ended| ended.success), "{ended:?}");
}

/// Whether faults are errors on this target; says so if they are not.
pub(crate) fn recovers() -> bool {
    let here = cfg!(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")));
    if !here {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
    here
}

/// Runs the test in a child for each of `hows`, where it does `body(how)` and no more; answers how they have ended.
pub(crate) fn run<const N: usize>(test: &str, hows: [&str; N], body: impl FnOnce(&str)) -> [Ended; N] {
    const HOW: &str = "MANNERS_OF_A_CHILD";
    if let Ok(how) = std::env::var(HOW) {
        raw::limit();
        body(&how);
        exit(0);
    }
    // As the harness names it: without the crate.
    let (_, name) = test.split_once("::").unwrap();
    // Under emulation (scripts/cross.sh) the child needs the emulator, too.
    let runner = std::env::var("CROSS_RUNNER").unwrap_or_default();
    let words = || runner.split_whitespace().map(OsString::from).chain([std::env::current_exe().unwrap().into()]);
    hows.map(|how| {
        let mut words = words();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(HOW, how)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).replace(|c: char| c.is_ascii_digit(), "");
        Ended { signal: output.status.signal(), success: output.status.success(), said }
    })
}

/// [`run`] for the test of this name.
macro_rules! in_child {
    ($test:ident, $hows:expr, $body:expr) => {
        $crate::child::run(concat!(module_path!(), "::", stringify!($test)), $hows, $body)
    };
}
pub(crate) use in_child;

/// Without us, and with us.
pub(crate) const BOTH: [&str; 2] = ["without", "with"];

/// Installs the handlers, if that is how, by the first mapping.
pub(crate) fn install(how: &str) {
    if how == "with" {
        drop(MmapRegion::new(1).unwrap());
    }
    assert_eq!(fault_recovery::is_installed(), how == "with");
}
