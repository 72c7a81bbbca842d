//! The daemon, as a process of its own, and what can be seen of it from outside.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// For whatever must happen soon, on a machine that may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How often is looked for what cannot be waited for.
pub(crate) const MOMENT: Duration = Duration::from_millis(2);

/// Waits until `done`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "not in {SOON:?}: {what}");
        sleep(MOMENT);
    }
}

/// A folder with an image, for daemons' sockets and what they say.
pub(crate) struct Place {
    dir: TempDir,
}

/// The first sectors of an image are written, each with its own bytes.
pub(crate) const WRITTEN: u64 = 4096;
/// The sectors of an image: 64 MiB.
pub(crate) const SECTORS: u64 = 1 << 17;

/// What is in a sector at first.
pub(crate) fn sector(number: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    if number < WRITTEN {
        for (word, place) in bytes.chunks_exact_mut(8).zip(0_u64..) {
            word.copy_from_slice(&((number << 16) | (place << 8) | 0xa5).to_le_bytes());
        }
    }
    bytes
}

/// What is in sectors at first.
pub(crate) fn sectors(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(sector).collect()
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { dir: TempDir::new().unwrap() };
        let image = File::create(place.image()).unwrap();
        image.set_len(SECTORS * 512).unwrap();
        fs::write(place.path("head"), sectors(0, WRITTEN)).unwrap();
        std::io::copy(&mut File::open(place.path("head")).unwrap(), &mut &image).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.path("image")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// The image's bytes in these sectors.
    pub(crate) fn on_disk(&self, first: u64, count: u64) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; usize::try_from(count * 512).unwrap()];
        File::open(self.image()).unwrap().read_exact_at(&mut bytes, first * 512).unwrap();
        bytes
    }
}

/// A daemon. When it is dropped it must still live, and have had nothing to say but what was asked for; then it is killed.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    silent: bool,
    over: Option<ExitStatus>,
}

impl Daemon {
    /// Starts one that serves the place's image, with more options, and waits until it can be connected to.
    pub(crate) fn start(place: &Place, options: &[&str]) -> Self {
        let socket = place.socket();
        let daemon = Self::run(place, &socket, &place.image(), options);
        drop(daemon.connect());
        daemon
    }

    /// Starts one, whatever comes of it.
    pub(crate) fn run(place: &Place, socket: &Path, image: &Path, options: &[&str]) -> Self {
        let unique = fs::read_dir(place.dir.path()).unwrap().count();
        let (stdout, stderr) = (place.path(&format!("stdout-{unique}")), place.path(&format!("stderr-{unique}")));
        let child = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"))
            .arg("--socket")
            .arg(socket)
            .arg("--image")
            .arg(image)
            .args(options)
            .stdin(Stdio::null())
            .stdout(File::create_new(&stdout).unwrap())
            .stderr(File::create_new(&stderr).unwrap())
            .spawn()
            .unwrap();
        let silent = !options.contains(&"--log");
        Self { child, socket: socket.to_owned(), stdout, stderr, silent, over: None }
    }

    /// A connection, as soon as there can be one.
    pub(crate) fn connect(&self) -> UnixStream {
        let end = Instant::now() + SOON;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < end, "cannot connect: {error}\n{}", self.stderr()),
            }
            sleep(MOMENT);
        }
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// What its descriptors are of.
    pub(crate) fn fds(&self) -> Vec<String> {
        let links = fs::read_dir(self.proc("fd")).unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    /// Its mappings, a line each.
    pub(crate) fn mappings(&self) -> Vec<String> {
        fs::read_to_string(self.proc("maps")).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// How many descriptors and mappings it has of files with `name` in theirs.
    pub(crate) fn holds(&self, name: &str) -> (usize, usize) {
        let count = |lines: Vec<String>| lines.iter().filter(|line| line.contains(name)).count();
        (count(self.fds()), count(self.mappings()))
    }

    /// Its resident memory, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    fn threads(&self) -> usize {
        fs::read_dir(self.proc("task")).unwrap().count()
    }

    /// How many descriptors it has when nobody is connected any more: when none has been opened or closed for a while.
    pub(crate) fn idle_fds(&self) -> usize {
        eventually("no thread but the first is left", || self.threads() == 1);
        let (mut count, mut since) = (self.fds().len(), Instant::now());
        while since.elapsed() < Duration::from_millis(20) {
            sleep(MOMENT);
            let now = self.fds().len();
            if now != count {
                (count, since) = (now, Instant::now());
            }
        }
        count
    }

    /// The processor time that it has used, in the kernel's ticks: 10 milliseconds each.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        // What comes before may have blanks in it. Then: utime and stime are the fields 14 and 15 of all.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
        fields.take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Ends it without any warning.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.over = Some(self.child.wait().unwrap());
    }

    /// Its status, when it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.over = Some(status);
                return status;
            }
            assert!(Instant::now() < end, "it does not end\n{}", self.stderr());
            sleep(MOMENT);
        }
    }

    /// Waits until what it has told on standard error has `text` in it.
    #[track_caller]
    pub(crate) fn tells(&self, text: &str) {
        let end = Instant::now() + SOON;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < end, "\"{text}\" is not in:\n{}", self.stderr());
            sleep(MOMENT);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let status = self.over.or_else(|| self.child.try_wait().unwrap());
        if status.is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        let stderr = self.stderr();
        if std::thread::panicking() {
            eprintln!("the daemon's status: {status:?}; its standard error:\n{stderr}");
            return;
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        if self.over.is_none() {
            assert!(status.is_none(), "the daemon has ended: {status:?}\n{stderr}");
            assert!(!self.silent || stderr.is_empty(), "it was to be silent:\n{stderr}");
        }
    }
}
