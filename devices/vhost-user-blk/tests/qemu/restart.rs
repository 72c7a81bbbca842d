//! The daemon dies, or is ended, while a guest uses its disk, and is started again: the guest sees only that it took a while.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use crate::harness::daemon::Daemon;
use crate::harness::guest::{Guest, Machine};
use crate::harness::image::{check_ext4, dump_ext4, make_ext4, noise};
use crate::harness::{Lab, wait_for};

/// The size of a file that the guest writes, and how many different ones there are.
const FILE: usize = 256 << 10;
const FILES: usize = 16;
/// How much of the disk the file system has, in MiB; what is behind it nobody uses.
const FILE_SYSTEM: u64 = 256;
const BUSY: usize = 96 << 20;

/// A disk with a file system in use: writers in the guest that go on and on.
struct Load {
    given: Vec<u8>,
    /// For each writer, what `dd` is told.
    writers: [&'static str; 4],
}

impl Load {
    fn new(lab: &Lab) -> Self {
        let folder = lab.path("files");
        fs::create_dir(&folder).unwrap();
        let given = noise(2, FILE * FILES);
        fs::write(folder.join("given"), &given).unwrap();
        make_ext4(&lab.path("disk.img"), FILE_SYSTEM, &folder);
        let image = File::options().write(true).open(lab.path("disk.img")).unwrap();
        image.set_len((FILE_SYSTEM << 20) + BUSY as u64).unwrap();
        // A flush takes long, and is overtaken by others' writes: an engine then has both under way.
        Self { given, writers: ["oflag=direct", "conv=fsync", "conv=fsync", "iflag=direct oflag=direct conv=fsync"] }
    }

    /// Each writer has a folder, and in it writes one file after the other, each from another place of what is given.
    fn begin(&self, guest: &mut Guest) {
        // Small requests, and so many of them.
        guest.run("echo 8 >/sys/block/vda/queue/max_sectors_kb");
        guest.run("mount -t ext4 /dev/vda /mnt && cp /mnt/given /tmp/given");
        for (writer, flags) in self.writers.iter().enumerate() {
            // Memory can be read past the cache, too; only the disk's copy is worth it.
            let from = if flags.contains("iflag") { "/mnt/given" } else { "/tmp/given" };
            guest.run(&format!("mkdir /mnt/{writer}"));
            guest.begin(
                &format!("writer{writer}"),
                &format!(
                    "i=0; while [ ! -e /tmp/stop ]; do dd if={from} of=/mnt/{writer}/$i bs={FILE} count=1 \
                     skip=$((i % {FILES})) {flags} || exit 1; i=$((i + 1)); done"
                ),
            );
        }
    }

    /// Waits until each writer has written another two files.
    fn expect_progress(&self, guest: &mut Guest) {
        for writer in 0..self.writers.len() {
            let mut count = || guest.run(&format!("usleep 50000; ls /mnt/{writer} | wc -l")).parse::<u32>().unwrap();
            let before = count();
            wait_for("the guest to write more", Duration::from_secs(60), || (count() >= before + 2).then_some(()));
        }
    }

    /// Ends the writers, and the guest, and looks at all that was written.
    fn end(&self, lab: &Lab, mut guest: Guest, mut daemon: Daemon) {
        guest.run("touch /tmp/stop");
        for writer in 0..self.writers.len() {
            guest.finish(&format!("writer{writer}"));
        }
        let count = |guest: &mut Guest, writer| guest.run(&format!("ls /mnt/{writer} | wc -l")).parse().unwrap();
        let counts: Vec<usize> = (0..self.writers.len()).map(|writer| count(&mut guest, writer)).collect();
        guest.run("umount /mnt");
        guest.expect_no_complaint();
        guest.power_off();
        daemon.terminate();

        check_ext4(&lab.path("disk.img"));
        let dumped = lab.path("dumped");
        dump_ext4(&lab.path("disk.img"), &dumped);
        for (writer, &count) in counts.iter().enumerate() {
            self.check(&dumped.join(writer.to_string()), count);
        }
    }

    fn check(&self, folder: &Path, count: usize) {
        for number in 0..count {
            let start = number % FILES * FILE;
            let file = folder.join(number.to_string());
            let written = fs::read(&file).unwrap();
            assert!(written == self.given[start..start + FILE], "{} is wrong", file.display());
        }
    }
}

/// Kills the daemon while its file is locked by long writes to where nothing is: so it has requests under way.
fn kill_at_work(daemon: &mut Daemon, image: &File) {
    let zeros = vec![0; BUSY];
    let (start, killed) = (Instant::now(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Ends also if the daemon could not be killed.
            while !killed.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(10) {
                image.write_all_at(&zeros, FILE_SYSTEM << 20).unwrap();
            }
        });
        thread::sleep(Duration::from_millis(50));
        daemon.kill();
        killed.store(true, Ordering::Relaxed);
    });
    // The disk's next flush need not write that, if it can be helped.
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(image, flags, FILE_SYSTEM << 20, BUSY as u64).unwrap_or_default();
}

fn killed(options: &[&str]) {
    let Some(lab) = Lab::open() else { return };
    let load = Load::new(&lab);
    let image = File::options().write(true).open(lab.path("disk.img")).unwrap();
    let mut daemon = Daemon::start(&lab, "daemon", &lab.path("disk.img"), &[options, &["--log", "info"]].concat());
    let mut guest = Machine::new(&lab, "guest").disk(&daemon, 1).boot();
    load.begin(&mut guest);
    load.expect_progress(&mut guest);
    // Two that count, or more if the guest happens to ask for nothing at such a time.
    let taken_up = |daemon: &Daemon| daemon.log().matches("requests are taken up again").count();
    for kills in 1.. {
        kill_at_work(&mut daemon, &image);
        daemon.start_again();
        load.expect_progress(&mut guest);
        if taken_up(&daemon) >= 2 {
            break;
        }
        assert!(kills < 8, "no requests were under way: this shows nothing");
    }
    load.end(&lab, guest, daemon);
}

#[test]
fn killed_and_started_again() {
    killed(&[]);
}

#[test]
fn killed_and_started_again_with_io_uring() {
    killed(&["--engine", "io-uring"]);
}

#[test]
fn ended_under_load() {
    let Some(lab) = Lab::open() else { return };
    let load = Load::new(&lab);
    let mut daemon = Daemon::start(&lab, "daemon", &lab.path("disk.img"), &["--engine", "io-uring"]);
    let mut guest = Machine::new(&lab, "guest").disk(&daemon, 1).boot();
    load.begin(&mut guest);
    load.expect_progress(&mut guest);
    daemon.terminate();
    assert!(!daemon.socket().exists(), "the socket is left behind");
    daemon.start_again();
    load.expect_progress(&mut guest);
    load.end(&lab, guest, daemon);
}
