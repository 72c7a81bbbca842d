//! A QEMU, a kernel, a disk: what a test, or a benchmark, needs to see a guest use the daemon.
//!
//! | module      | the question it answers                                             |
//! |-------------|---------------------------------------------------------------------|
//! | [`tools`]   | is there a QEMU, and a kernel to boot?                              |
//! | [`process`] | which processes run, and when do they end?                          |
//! | [`daemon`]  | who serves the disk?                                                |
//! | [`initrd`]  | what runs in the guest?                                             |
//! | [`guest`]   | how is it started, and told what to do?                             |
//! | [`qmp`]     | how is QEMU told what to do?                                        |
//! | [`image`]   | what is on the disk?                                                |

pub(crate) mod daemon;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod initrd;
pub(crate) mod process;
pub(crate) mod qmp;
pub(crate) mod tools;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tools::Tools;

/// A place for one test, which has the machine for itself until this is dropped: guests are slow enough one at a time.
pub(crate) struct Lab {
    pub(crate) tools: &'static Tools,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// `None`, and the reason is printed, if there is no QEMU or no kernel.
    pub(crate) fn open() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let tools = Tools::get()?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { tools, folder: tempfile::tempdir().unwrap(), _turn: turn })
    }

    /// The path of a file that is gone with the test. Short, since sockets' paths have to be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Asks until there is an answer; panics after `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
