//! A guest boots, mounts an ext4 file system from our disk, fills it, and powers off.

use std::fs;
use std::path::Path;

use crate::harness::Lab;
use crate::harness::daemon::Daemon;
use crate::harness::guest::{Guest, Machine};
use crate::harness::image::{check_ext4, dump_ext4, make_ext4, noise, sha256};

/// Lets the guest read a file that the host wrote, and write others in many ways, with `queues` processors at a time.
fn use_file_system(guest: &mut Guest, queues: u16, given: &Path) {
    guest.run("mount -t ext4 /dev/vda /mnt");
    assert_eq!(guest.run("sha256sum </mnt/given"), format!("{}  -", sha256(given)), "what the guest reads");
    // Both through the cache and past it, in requests of many sizes.
    guest.begin("cached", "cp /mnt/given /mnt/cached");
    guest.begin("small", &format!("taskset {queues} dd if=/mnt/given of=/mnt/small bs=4k iflag=direct oflag=direct"));
    guest.begin("large", "taskset 1 dd if=/mnt/given of=/mnt/large bs=256k iflag=direct oflag=direct");
    guest.begin("numbers", "mkdir -p /mnt/a/b && seq 20000 >/mnt/a/b/numbers && sync");
    guest.begin("gone", "cp /mnt/given /mnt/gone && sync && rm /mnt/gone && fstrim /mnt");
    for name in ["cached", "small", "large", "numbers", "gone"] {
        guest.finish(name);
    }
    guest.run("umount /mnt && sync");
    guest.expect_no_complaint();
}

fn boot(queues: u16, options: &[&str]) {
    let Some(lab) = Lab::open() else { return };
    let (files, image) = (lab.path("files"), lab.path("disk.img"));
    fs::create_dir(&files).unwrap();
    fs::write(files.join("given"), noise(1, 4 << 20)).unwrap();
    make_ext4(&image, 64, &files);

    let queues_option = queues.to_string();
    let mut daemon = Daemon::start(&lab, "daemon", &image, &[&["--queues", &queues_option], options].concat());
    let mut guest = Machine::new(&lab, "guest").processors(queues).disk(&daemon, queues).boot();
    assert_eq!(guest.run("ls /sys/block/vda/mq | wc -l"), queues.to_string(), "queues");
    use_file_system(&mut guest, queues, &files.join("given"));
    let interrupts = guest.run("grep -E 'virtio0-req' /proc/interrupts");
    assert_eq!(interrupts.lines().count(), usize::from(queues), "{interrupts}");
    for line in interrupts.lines() {
        assert!(line.split_whitespace().skip(1).any(|count| count.parse::<u64>().is_ok_and(|it| it > 10)), "{line}");
    }
    guest.power_off();
    daemon.terminate();

    check_ext4(&image);
    let dumped = lab.path("dumped");
    dump_ext4(&image, &dumped);
    let expected = sha256(&files.join("given"));
    for name in ["given", "cached", "small", "large"] {
        assert_eq!(sha256(&dumped.join(name)), expected, "{name}");
    }
    let numbers = fs::read_to_string(dumped.join("a/b/numbers")).unwrap();
    assert!(numbers.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=20_000), "a/b/numbers");
    assert!(!dumped.join("gone").exists());
}

#[test]
fn one_queue() {
    boot(1, &[]);
}

#[test]
fn two_queues() {
    boot(2, &[]);
}

#[test]
fn io_uring() {
    boot(1, &["--engine", "io-uring"]);
}

/// QEMU then sends the memory as one table.
#[test]
fn without_memory_slots() {
    boot(1, &["--without", "mem-slots"]);
}
