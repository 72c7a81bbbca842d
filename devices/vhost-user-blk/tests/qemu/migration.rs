//! A guest moves from one QEMU to another, each with a daemon of its own and both with the same disk, while it reads.
//!
//! What QEMU has sent once it sends again only if it is told that it has changed. A processor's writes QEMU sees; those of
//! the disk it knows from the daemon's log alone. So the guest reads a file into its cache when all of its memory has been
//! sent once: the disk writes those pages, and no processor does, not even to zero them (`init_on_alloc=0`). The copy that
//! arrives is looked at only then, and without reading from the disk again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::daemon::Daemon;
use crate::harness::guest::{Guest, Machine};
use crate::harness::image::{make_ext4, noise, sha256};
use crate::harness::process::run;
use crate::harness::tools::Tools;
use crate::harness::{Lab, wait_for};

const MIB: usize = 1 << 20;
const CACHED: usize = 32;
const LIMIT: Duration = Duration::from_secs(60);

/// What has arrived.
struct Arrived {
    /// Whether the file in the guest's cache is right.
    cached: bool,
    /// Whether all that the guest read past its cache, before, during and after the migration, was right.
    direct: bool,
    /// How many sectors of the disk the guest has read to see that.
    read_again: u64,
    /// Of what its kernel complains: the file system's own blocks are read by the disk, too.
    complaints: String,
}

fn set(guest: &mut Guest, downtime: u64, bandwidth: u64) {
    guest.qmp.execute("migrate-set-parameters", json!({ "downtime-limit": downtime, "max-bandwidth": bandwidth }));
}

/// The state of a migration, and how often QEMU has gone over the guest's memory.
fn progress(guest: &mut Guest) -> (String, u64) {
    let answer = guest.qmp.execute("query-migrate", json!({}));
    let state = answer["status"].as_str().unwrap_or("none").to_owned();
    assert!(state != "failed" && state != "cancelled", "{answer}");
    (state, answer["ram"]["dirty-sync-count"].as_u64().unwrap_or(0))
}

/// How many sectors the guest has read from its disk.
fn sectors_read(guest: &mut Guest) -> u64 {
    guest.run("awk '{ print $3 }' /sys/block/vda/stat").parse().unwrap()
}

fn migrate(lab: &Lab, program: &Path) -> Arrived {
    let (files, image, channel) = (lab.path("files"), lab.path("disk.img"), lab.path("channel"));
    fs::create_dir(&files).unwrap();
    fs::write(files.join("cached"), noise(5, CACHED * MIB)).unwrap();
    fs::write(files.join("direct"), noise(6, MIB)).unwrap();
    make_ext4(&image, 64, &files);

    let mut from_daemon = Daemon::start_other(lab, program, "from-daemon", &image, &[]);
    let mut to_daemon = Daemon::start_other(lab, program, "to-daemon", &image, &[]);
    let mut from = Machine::new(lab, "from").disk(&from_daemon, 1).boot();
    let mut to = Machine::new(lab, "to").disk(&to_daemon, 1).incoming(&channel).start();

    from.run("mount -t ext4 /dev/vda /mnt");
    // Reads past the cache from the beginning to the end, and writes memory faster than QEMU may send it in the end.
    let read = "dd if=/mnt/direct bs=64k iflag=direct 2>/dev/null | md5sum";
    from.run(&format!("{read} >/tmp/first"));
    from.begin(
        "reader",
        &format!(
            "n=0; while [ ! -e /tmp/stop ]; do {read} | cmp - /tmp/first || exit 1; n=$((n + 1)); echo $n >/tmp/rounds; \
             dd if=/dev/zero of=/tmp/busy bs=1M count=4 conv=notrunc 2>/dev/null; done"
        ),
    );
    set(&mut from, 1, 512 << 20);
    from.qmp.execute("migrate", json!({ "uri": format!("unix:{}", channel.display()) }));
    // Once to begin with, and once more when everything has been sent.
    wait_for("all memory to be sent once", LIMIT, || (progress(&mut from).1 >= 2).then_some(()));
    // From here on slowly: it takes no processor's time then, and goes on as long as the guest writes.
    set(&mut from, 1, 8 << 20);
    from.run("cat /mnt/cached >/dev/null");
    let (state, rounds) = progress(&mut from);
    assert_eq!(state, "active", "the migration did not wait for the guest");
    eprintln!("read while memory was sent in round {rounds}");

    set(&mut from, 1000, 0);
    wait_for("the migration", LIMIT, || (progress(&mut from).0 == "completed").then_some(()));
    // The reader goes on, with the other daemon.
    let goes_on =
        "n=$(cat /tmp/rounds); while [ ! -e /tmp/reader.status ] && [ $(cat /tmp/rounds) = $n ]; do usleep 50000; done";
    to.run(goes_on);
    to.run("touch /tmp/stop");
    let direct = to.try_finish("reader").0 == 0;
    let before = sectors_read(&mut to);
    let (_, digest) = to.try_run("sha256sum </mnt/cached");
    let read_again = sectors_read(&mut to) - before;
    let complaints = to.complaints();
    from.qmp.execute("quit", json!({}));
    to.power_off();
    from_daemon.terminate();
    to_daemon.terminate();
    let cached = digest.trim_end() == format!("{}  -", sha256(&files.join("cached")));
    Arrived { cached, direct, read_again, complaints }
}

#[test]
fn nothing_is_lost() {
    let Some(lab) = Lab::open() else { return };
    let arrived = migrate(&lab, Path::new(env!("CARGO_BIN_EXE_vhost-user-blk")));
    assert!(arrived.direct, "what was read past the cache is wrong");
    assert!(arrived.cached, "what was read into the cache is wrong");
    // Where the file lies it may have had to look up.
    assert!(arrived.read_again < 64, "the guest has read {} sectors of its disk again", arrived.read_again);
    assert!(arrived.complaints.is_empty(), "the guest's kernel complains:\n{}", arrived.complaints);
}

/// A daemon that logs nothing, with which the same must fail.
#[test]
fn all_is_lost_without_a_log() {
    // While other tests run.
    let Some(program) = Tools::get().map(|_| unlogged()) else { return };
    let Some(lab) = Lab::open() else { return };
    assert!(!migrate(&lab, &program).cached, "nothing was lost: this shows nothing");
}

/// Builds the daemon that logs nothing. Most of it is built already.
fn unlogged() -> PathBuf {
    // target/debug/vhost-user-blk
    let target = Path::new(env!("CARGO_BIN_EXE_vhost-user-blk")).ancestors().nth(2).unwrap();
    run(Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            env!("CARGO_PKG_NAME"),
            "--example",
            "unlogged",
            "--features",
            "unlogged",
        ])
        .arg("--target-dir")
        .arg(target));
    target.join("debug/examples/unlogged")
}
