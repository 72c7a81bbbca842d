//! A guest: its QEMU, and what it is told to do.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::process::Process;
use super::qmp::Qmp;
use super::{Lab, initrd, wait_for};

/// How long a boot may take, and how long a command, if nothing else is said: on a busy machine.
const BOOT: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(120);

/// What a guest has.
pub(crate) struct Machine<'a> {
    lab: &'a Lab,
    name: &'a str,
    memory: &'a str,
    processors: u16,
    arguments: Vec<String>,
}

impl<'a> Machine<'a> {
    /// One processor, and less than 512 MiB of memory: a TCG of QEMU before 9.0 loses a processor's writes when it migrates,
    /// if the memory is a multiple of 256 KiB.
    pub(crate) fn new(lab: &'a Lab, name: &'a str) -> Self {
        Self { lab, name, memory: "524280K", processors: 1, arguments: Vec::new() }
    }

    pub(crate) fn processors(mut self, number: u16) -> Self {
        self.processors = number;
        self
    }

    /// Memory that the guest boots with; as much again and more can be plugged.
    pub(crate) fn memory(mut self, size: &'a str) -> Self {
        self.memory = size;
        self
    }

    /// Adds a disk. A connection that is lost is made again, each second.
    pub(crate) fn disk(self, daemon: &Daemon, queues: u16) -> Self {
        self.disk_at(daemon.socket(), queues)
    }

    pub(crate) fn disk_at(mut self, socket: &Path, queues: u16) -> Self {
        let id = format!("disk{}", self.arguments.len());
        self.arguments.extend([
            "-chardev".to_owned(),
            format!("socket,id={id},path={},reconnect=1", socket.display()),
            "-device".to_owned(),
            format!("vhost-user-blk-pci,chardev={id},num-queues={queues},disable-legacy=on"),
        ]);
        self
    }

    /// Starts with what another QEMU sends to `socket`.
    pub(crate) fn incoming(mut self, socket: &Path) -> Self {
        self.arguments.extend(["-incoming".to_owned(), format!("unix:{}", socket.display())]);
        self
    }

    /// Starts QEMU, and waits until the guest can be told what to do.
    pub(crate) fn boot(self) -> Guest {
        let mut guest = self.start();
        guest.answer("the guest to boot", BOOT);
        guest
    }

    /// Starts QEMU.
    pub(crate) fn start(self) -> Guest {
        let lab = self.lab;
        let initrd = lab.path("initrd");
        if !initrd.exists() {
            initrd::build(lab.tools, &lab.path("initrd.d"), &initrd);
        }
        let [control, monitor, serial] =
            ["control", "monitor", "serial"].map(|port| lab.path(&format!("{}.{port}", self.name)));
        let Self { memory, processors, .. } = self;
        let options = [
            "-nodefaults -no-user-config -no-reboot -display none -accel tcg -machine pc,memory-backend=memory"
                .to_owned(),
            // A machine that can have one processor only would do without barriers.
            format!("-smp {processors},maxcpus=2 -m {memory},slots=4,maxmem=4G"),
            format!("-object memory-backend-memfd,id=memory,size={memory},share=on"),
            format!("-kernel {} -initrd {}", lab.tools.kernel.display(), initrd.display()),
            format!("-chardev file,id=serial,path={} -serial chardev:serial", serial.display()),
            // QEMU waits until there is somebody to hear the guest.
            format!("-chardev socket,id=control,path={},server=on,wait=on -serial chardev:control", control.display()),
            format!("-chardev socket,id=monitor,path={},server=on,wait=off", monitor.display()),
            "-mon chardev=monitor,mode=control".to_owned(),
        ];
        let options = options.iter().flat_map(|options| options.split(' ').map(str::to_owned));
        // Pages that the kernel does not zero are written by devices alone.
        let line = "console=ttyS0 panic=-1 init_on_alloc=0";
        let arguments = options.chain(["-append".to_owned(), line.to_owned()]).chain(self.arguments);
        let mut process = Process::start(&lab.tools.qemu, arguments, &lab.path(&format!("{}.log", self.name)));
        let mut connect = |path: &Path| {
            wait_for("QEMU to listen", Duration::from_secs(20), || {
                process.expect_alive();
                UnixStream::connect(path).ok()
            })
        };
        let control = connect(&control);
        let monitor = Qmp::new(connect(&monitor));
        Guest { process, control, received: Vec::new(), qmp: monitor, serial, start: Instant::now(), told: Vec::new() }
    }
}

/// A guest that runs.
pub(crate) struct Guest {
    process: Process,
    control: UnixStream,
    received: Vec<u8>,
    pub(crate) qmp: Qmp,
    serial: PathBuf,
    start: Instant,
    /// What it was told, and when.
    told: Vec<(Duration, String)>,
}

impl Guest {
    /// Lets the guest's shell do a line, and returns what it prints. The line has to succeed.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let (status, output) = self.try_run(line);
        assert!(status == 0, "the guest failed with status {status}: {line}\n{output}");
        output.trim_end().to_owned()
    }

    /// As [`run`](Self::run), with the status.
    pub(crate) fn try_run(&mut self, line: &str) -> (i32, String) {
        assert!(!line.contains('\n'), "one line: {line}");
        self.told.push((self.start.elapsed(), line.to_owned()));
        self.control.write_all(format!("{line}\n").as_bytes()).expect("QEMU takes what the guest is told");
        self.answer(line, COMMAND)
    }

    /// Runs a line in the background, and behind whatever the guest is told meanwhile. What it prints, and whether it
    /// succeeds, tells [`finish`](Self::finish).
    pub(crate) fn begin(&mut self, name: &str, line: &str) {
        // `$$` would be the first shell, that of all others.
        let nice = "renice -n 19 $(exec sh -c 'echo $PPID')";
        self.run(&format!("{{ {nice}; ({line}); echo $? >/tmp/{name}.status; }} >/tmp/{name}.output 2>&1 &"));
    }

    /// Waits for the end of what [`begin`](Self::begin) began, which has to be a success, and returns what it printed.
    pub(crate) fn finish(&mut self, name: &str) -> String {
        let (status, output) = self.try_finish(name);
        assert!(status == 0, "{name} failed in the guest with status {status}:\n{output}");
        output
    }

    /// As [`finish`](Self::finish), with the status.
    pub(crate) fn try_finish(&mut self, name: &str) -> (i32, String) {
        self.try_run(&format!(
            "while [ ! -s /tmp/{name}.status ]; do sleep 0.1; done; cat /tmp/{name}.output; exit $(cat /tmp/{name}.status)"
        ))
    }

    /// Powers the guest off, and waits for the end of QEMU.
    pub(crate) fn power_off(mut self) {
        self.control.write_all(b"poweroff -f\n").expect("QEMU takes what the guest is told");
        let status = self.process.wait(Duration::from_secs(20));
        assert!(status.success(), "QEMU: {status}");
    }

    /// Panics if the guest's kernel has complained about a disk, or about anything that it took for a bug.
    pub(crate) fn expect_no_complaint(&mut self) {
        let found = self.complaints();
        assert!(found.is_empty(), "the guest's kernel complains:\n{found}");
    }

    /// Of what it has complained.
    pub(crate) fn complaints(&mut self) -> String {
        let complaints = "I/O error|EXT4-fs (error|warning)|EXT4-fs.*: error|BUG|WARNING|Call Trace|blocked for more";
        self.run(&format!("dmesg | grep -E '{complaints}' || true"))
    }

    fn answer(&mut self, what: &str, limit: Duration) -> (i32, String) {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((output, rest)) = split(&self.received, 4)
                && let Some((status, rest)) = split(rest, b'\n')
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let answer = (text(status).parse().unwrap(), text(output));
                self.received = rest.to_owned();
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {limit:?} for {what}");
            self.control.set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0; 4096];
            match self.control.read(&mut bytes) {
                Ok(0) => panic!("QEMU ended before this was done: {what}"),
                Ok(len) => self.received.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the guest's port: {error}"),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.control.shutdown(Shutdown::Both));
        if std::thread::panicking() {
            eprintln!("-- what the guest was told:");
            for (when, line) in &self.told[self.told.len().saturating_sub(20)..] {
                eprintln!("{:6.1} s: {line}", when.as_secs_f64());
            }
            eprintln!("-- the end of its console:\n{}", super::process::tail(&self.serial));
        }
    }
}

/// What is before a byte, and what is after it.
fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|&byte| byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}
