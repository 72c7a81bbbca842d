//! Processes that end with the test.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::tools::program;
use super::wait_for;

/// A process; killed when this is dropped, however the test ends.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints is appended to `log`.
    ///
    /// Where there is `setpriv`, the kernel kills the process if the thread that calls this is gone: also when the test is
    /// killed, and drops nothing.
    pub(crate) fn start(
        path: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
        log: &Path,
    ) -> Self {
        let mut command = match program("setpriv") {
            Ok(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(path);
                command
            }
            Err(_) => Command::new(path),
        };
        let output = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, child, log: log.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Panics if the process is gone already.
    pub(crate) fn expect_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} has ended: {status}", self.name);
        }
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait_for(&format!("the end of {}", self.name), limit, || self.child.try_wait().unwrap())
    }

    /// SIGKILL, and the end of it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{} ended by itself: {status}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that it is gone.
        drop(self.child.kill());
        let status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("-- {} ({status:?}), the end of {}:\n{}", self.name, self.log.display(), tail(&self.log));
        }
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Runs a program to its end, and panics with what it said if it fails.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
