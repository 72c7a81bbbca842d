//! What runs in the guest: busybox, and a shell that does what it is told over the second serial port.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tools::Tools;

/// In the order of their needs. Those that are not there as files are part of the kernel.
const MODULES: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];

/// Each line that comes is a command; what it prints goes back, then a byte 4, its status, and the end of a line. It comes as a
/// whole (`icanon`): a `read` that waits in the midst of a line when a process ends forgets what it has of it.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
exec </dev/console >/dev/console 2>&1
for module in $(cat /modules/order); do
    insmod "/modules/$module.ko"
done
stty -F /dev/ttyS1 raw -echo icanon
exec 3<>/dev/ttyS1
printf '\0040\n' >&3
while IFS= read -r line <&3; do
    (eval "$line") </dev/null >/tmp/.output 2>&1 3>&-
    status=$?
    cat /tmp/.output >&3
    printf '\004%d\n' "$status" >&3
done
"#;

/// Writes the archive to `path`; `scratch` is a folder that is not there yet.
pub(crate) fn build(tools: &Tools, scratch: &Path, path: &Path) {
    for folder in ["bin", "dev", "proc", "sys", "tmp", "mnt", "modules"] {
        fs::create_dir_all(scratch.join(folder)).unwrap();
    }
    fs::copy(&tools.busybox, scratch.join("bin/busybox")).unwrap();
    fs::write(scratch.join("init"), INIT).unwrap();
    fs::set_permissions(scratch.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut order = Vec::new();
    for name in MODULES {
        if let Some(file) = find(&tools.modules.join("kernel/drivers"), &format!("{name}.ko")) {
            fs::copy(file, scratch.join(format!("modules/{name}.ko"))).unwrap();
            order.push(name);
        }
    }
    fs::write(scratch.join("modules/order"), order.join("\n")).unwrap();
    archive(tools, scratch, path);
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| match entry.path() {
        path if path.is_dir() => find(&path, name),
        path => (entry.file_name() == name).then_some(path),
    })
}

fn archive(tools: &Tools, folder: &Path, path: &Path) {
    let mut names = Vec::new();
    list(folder, Path::new(""), &mut names);
    let mut cpio = Command::new(&tools.busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(File::create(path).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = cpio.stdin.take().unwrap();
    for name in names {
        writeln!(input, "{}", name.display()).unwrap();
    }
    drop(input);
    assert!(cpio.wait().unwrap().success(), "cpio failed");
}

/// Folders before what is in them.
fn list(folder: &Path, below: &Path, names: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder.join(below)).unwrap().flatten() {
        let name = below.join(entry.file_name());
        names.push(name.clone());
        if entry.path().is_dir() {
            list(folder, &name, names);
        }
    }
}
