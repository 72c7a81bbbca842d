//! Who serves a disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;
use super::{Lab, wait_for};

/// A daemon that listens on a socket: ours, and it can be started again.
pub(crate) struct Daemon {
    process: Process,
    program: PathBuf,
    arguments: Vec<String>,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts our daemon, and waits until it listens.
    pub(crate) fn start(lab: &Lab, name: &str, image: &Path, options: &[&str]) -> Self {
        Self::start_other(lab, Path::new(env!("CARGO_BIN_EXE_vhost-user-blk")), name, image, options)
    }

    /// As [`start`](Self::start), with another build of it.
    pub(crate) fn start_other(lab: &Lab, program: &Path, name: &str, image: &Path, options: &[&str]) -> Self {
        let socket = lab.path(&format!("{name}.sock"));
        let mut arguments = vec!["--socket".to_owned(), socket.display().to_string()];
        arguments.extend(["--image".to_owned(), image.display().to_string()]);
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        Self::start_with(lab, program, name, socket, arguments)
    }

    /// Starts any program that listens on `socket`.
    pub(crate) fn start_with(lab: &Lab, program: &Path, name: &str, socket: PathBuf, arguments: Vec<String>) -> Self {
        let log = lab.path(&format!("{name}.log"));
        let process = Process::start(program, &arguments, &log);
        let mut daemon = Self { process, program: program.to_owned(), arguments, socket, log };
        daemon.wait_until_it_listens();
        daemon
    }

    /// Starts it again, on the same socket. It has to be gone.
    pub(crate) fn start_again(&mut self) {
        self.process = Process::start(&self.program, &self.arguments, &self.log);
        self.wait_until_it_listens();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM: it has to end with success.
    pub(crate) fn terminate(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(Duration::from_secs(10));
        assert!(status.success(), "the daemon: {status}");
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it printed, each time that it was started.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The kernel's list tells sockets that listen from those that are only bound, and from files that were left behind.
    fn wait_until_it_listens(&mut self) {
        const LISTENS: &str = "00010000";
        let path = self.socket.display().to_string();
        wait_for("the daemon to listen", Duration::from_secs(10), || {
            self.process.expect_alive();
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            sockets
                .lines()
                .any(|line| line.ends_with(&path) && line.split_whitespace().nth(3) == Some(LISTENS))
                .then_some(())
        });
    }
}
