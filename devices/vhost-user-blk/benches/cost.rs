//! The processor's time that a request takes in the daemon, beside QEMU's own storage daemon.
//!
//! One guest has a disk by each, all of the same image, which lies in the host's cache; it reads past its own cache, from
//! one disk after the other, in rounds. What counts is a disk's cheapest round: the time of all threads of its daemon, in
//! nanoseconds, for each read of the guest. (A read of 1 MiB becomes several requests, as the disk's limits have it.)
//!
//! `scripts/qemu.sh --cost` gets what is needed. Asked for is at most as much as QEMU's daemon for reads of 4 KiB, and 1.05
//! times as much for 1 MiB.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that reports, or stops where it fails")]

use std::fs;
use std::path::PathBuf;

#[path = "../tests/qemu/harness/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod harness;

use harness::Lab;
use harness::daemon::Daemon;
use harness::guest::{Guest, Machine};
use harness::image::noise;
use harness::tools::program;

const MIB: usize = 1 << 20;
const IMAGE: &str = "disk.img";
const IMAGE_LEN: usize = 256 * MIB;
const ROUNDS: usize = 5;
/// What is read at a time, as `dd` has it, and how often.
const READS: [(&str, u32); 2] = [("4k", 8000), ("1M", 256)];
const DISKS: [&str; 4] = ["ours, sync", "QEMU's, threads", "ours, io_uring", "QEMU's, io_uring"];

/// Only reads, as the others do: then they can have the image at the same time.
fn ours(lab: &Lab, name: &str, engine: &str) -> Daemon {
    Daemon::start(lab, name, &lab.path(IMAGE), &["--engine", engine, "--read-only"])
}

fn theirs(lab: &Lab, name: &str, engine: &str) -> Daemon {
    let socket = lab.path(&format!("{name}.sock"));
    let arguments = [
        "--blockdev".to_owned(),
        format!("driver=file,node-name=file,filename={},aio={engine},read-only=on", lab.path(IMAGE).display()),
        "--export".to_owned(),
        format!("type=vhost-user-blk,id=disk,node-name=file,addr.type=unix,addr.path={}", socket.display()),
    ];
    Daemon::start_with(lab, &program("qemu-storage-daemon").unwrap(), name, socket, arguments.into())
}

/// The time that a process has had of the processors, of all its threads.
fn nanoseconds(daemon: &Daemon) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
    let of_thread = |path: PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of_thread(thread.path())).sum()
}

/// How many requests a disk has answered.
fn requests(guest: &mut Guest, disk: &str) -> u64 {
    guest.run(&format!("awk '{{ print $1 }}' /sys/block/{disk}/stat")).parse().unwrap()
}

fn main() {
    let Some(lab) = Lab::open() else { return };
    fs::write(lab.path(IMAGE), noise(7, IMAGE_LEN)).unwrap();
    let daemons = [
        ours(&lab, "sync", "sync"),
        theirs(&lab, "threads", "threads"),
        ours(&lab, "uring", "io-uring"),
        theirs(&lab, "theirs", "io_uring"),
    ];
    let mut machine = Machine::new(&lab, "guest");
    for daemon in &daemons {
        machine = machine.disk(daemon, 1);
    }
    let mut guest = machine.boot();
    for (size, count) in READS {
        let mut least = [u64::MAX; DISKS.len()];
        let mut split = [0; DISKS.len()];
        for _ in 0..ROUNDS {
            for (index, daemon) in daemons.iter().enumerate() {
                let disk = ["vda", "vdb", "vdc", "vdd"][index];
                let before = (nanoseconds(daemon), requests(&mut guest, disk));
                guest.run(&format!("dd if=/dev/{disk} of=/dev/null iflag=direct bs={size} count={count}"));
                split[index] = requests(&mut guest, disk) - before.1;
                least[index] = least[index].min((nanoseconds(daemon) - before.0) / u64::from(count));
            }
        }
        println!("reads of {size}, the cheapest of {ROUNDS} rounds of {count}:");
        for (index, name) in DISKS.iter().enumerate() {
            let requests = f64::from(u32::try_from(split[index]).unwrap()) / f64::from(count);
            let [ours, theirs] = [least[index], least[1]].map(|time| f64::from(u32::try_from(time).unwrap()));
            println!(
                "{name:18} {ours:9.0} ns, {requests:.2} requests each, {:5.2} times QEMU's threads",
                ours / theirs
            );
        }
    }
    guest.power_off();
}
