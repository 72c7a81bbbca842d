//! Memory is plugged in while a guest uses its disk, the disk's data lies in it, and it is pulled out again.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::harness::daemon::Daemon;
use crate::harness::guest::{Guest, Machine};
use crate::harness::image::{make_ext4, noise, sha256};
use crate::harness::{Lab, wait_for};

const MIB: usize = 1 << 20;
/// The sizes of the disk's files: one goes into the cache, the other is read past it, over and over.
const CACHED: usize = 32;
const DIRECT: usize = 1;

/// Reads past the cache until `/tmp/stop` exists, and fails if what is read is not always the same.
fn begin_reading(guest: &mut Guest) {
    let read = "dd if=/mnt/direct bs=256k iflag=direct 2>/dev/null | md5sum";
    guest.run(&format!("{read} >/tmp/first"));
    guest.begin(
        "reader",
        &format!(
            "n=0; while [ ! -e /tmp/stop ]; do {read} | cmp - /tmp/first || exit 1; n=$((n + 1)); echo $n >/tmp/rounds; done"
        ),
    );
}

/// Waits for two more rounds of the reader.
fn expect_progress(guest: &mut Guest) {
    let mut rounds = || guest.run("usleep 50000; cat /tmp/rounds 2>/dev/null || echo 0").parse::<u32>().unwrap_or(0);
    let before = rounds();
    wait_for("the guest to read more", Duration::from_secs(60), || (rounds() >= before + 2).then_some(()));
}

/// The pages of files' contents that lie in memory that can be pulled out.
fn cached_in_plugged_memory(guest: &mut Guest) -> u64 {
    let zone = "/proc/zoneinfo | grep -A 40 'zone  Movable' | awk '/nr_zone_(in)?active_file/ { n += $2 } END { print n + 0 }'";
    guest.run(&format!("cat {zone}")).parse().unwrap()
}

fn plug(options: &[&str]) {
    let Some(lab) = Lab::open() else { return };
    let (files, image) = (lab.path("files"), lab.path("disk.img"));
    fs::create_dir(&files).unwrap();
    fs::write(files.join("cached"), noise(3, CACHED * MIB)).unwrap();
    fs::write(files.join("direct"), noise(4, DIRECT * MIB)).unwrap();
    make_ext4(&image, 64, &files);
    let digest = format!("{}  -", sha256(&files.join("cached")));

    let mut daemon = Daemon::start(&lab, "daemon", &image, options);
    let mut guest = Machine::new(&lab, "guest").memory("256M").disk(&daemon, 1).boot();
    guest.run("mount -t ext4 /dev/vda /mnt");
    begin_reading(&mut guest);
    expect_progress(&mut guest);

    guest.qmp.execute(
        "object-add",
        json!({ "qom-type": "memory-backend-memfd", "id": "more", "size": 256 * MIB, "share": true }),
    );
    guest.qmp.execute("device_add", json!({ "driver": "pc-dimm", "id": "dimm", "memdev": "more" }));
    wait_for("the guest to see its new memory", Duration::from_secs(20), || {
        (guest.run("grep -l offline /sys/devices/system/memory/memory*/state | wc -l") == "2").then_some(())
    });
    guest.run(
        "for state in $(grep -l offline /sys/devices/system/memory/memory*/state); do echo online_movable >$state; done",
    );
    expect_progress(&mut guest);

    // What files are read into is taken from movable memory first.
    assert_eq!(guest.run("sha256sum </mnt/cached"), digest);
    let pages = cached_in_plugged_memory(&mut guest);
    assert!(pages * 4096 >= (CACHED * MIB / 2) as u64, "only {pages} pages of the cache lie in the new memory");

    guest.run("echo 1 >/proc/sys/vm/drop_caches");
    guest.qmp.execute("device_del", json!({ "id": "dimm" }));
    // The guest may refuse: if memory is in use that cannot be moved.
    if guest.qmp.event("DEVICE_DELETED", Duration::from_secs(15)).is_some() {
        guest.qmp.execute("object-del", json!({ "id": "more" }));
    } else {
        eprintln!("the guest keeps its memory");
    }
    expect_progress(&mut guest);
    assert_eq!(guest.run("sha256sum </mnt/cached"), digest);

    guest.run("touch /tmp/stop");
    guest.finish("reader");
    guest.expect_no_complaint();
    guest.power_off();
    daemon.terminate();
}

#[test]
fn memory_comes_and_goes() {
    plug(&[]);
}

/// QEMU then sends all of the memory anew, as one table.
#[test]
fn memory_comes_and_goes_as_a_table() {
    plug(&["--without", "mem-slots"]);
}
