//! Tests that run themselves once more, in child processes that nothing else happens in.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, exit};

/// What a child exits with whose body has ended. (A harness that finds no test of the name succeeds with 0.)
const WELL: i32 = 42;

/// How a child has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    pub(crate) said: String,
}

impl Ended {
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Runs the test in a child for each of `hows`, where it does `body(how)` and no more; answers how they have ended.
pub(crate) fn run(test: &str, hows: &[&str], body: impl FnOnce(&str)) -> Vec<Ended> {
    const HOW: &str = "MAKING_IN_A_CHILD";
    if let Ok(how) = std::env::var(HOW) {
        crate::raw::limit();
        body(&how);
        exit(WELL);
    }
    // As the harness names it: without the crate.
    let (_, name) = test.split_once("::").unwrap();
    // Under emulation (scripts/cross.sh) the child needs the emulator, too.
    let runner = std::env::var("CROSS_RUNNER").unwrap_or_default();
    let words = || runner.split_whitespace().map(OsString::from).chain([std::env::current_exe().unwrap().into()]);
    let run = |how: &&str| {
        let mut words = words();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(HOW, how)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("skipped:") {
            eprintln!("{how}: {said}");
        }
        Ended { status: output.status, said }
    };
    hows.iter().map(run).collect()
}

/// Checks that all of them went well.
#[track_caller]
pub(crate) fn all_well(ended: &[Ended]) {
    for ended in ended {
        assert_eq!(ended.status.code(), Some(WELL), "{}", ended.said);
    }
}

/// [`run`] for the test of this name.
macro_rules! in_child {
    ($test:ident, $hows:expr, $body:expr) => {
        $crate::child::run(concat!(module_path!(), "::", stringify!($test)), $hows, $body)
    };
    ($test:ident, $body:expr) => {
        $crate::child::all_well(&$crate::child::in_child!($test, &[""], |_| $body))
    };
}
pub(crate) use in_child;
