//! What is on a disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::process::run;
use super::tools::program;

/// Bytes of no pattern that a bug could produce, always the same for a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Makes an ext4 file system of `mib` MiB, with the files of a folder in it.
pub(crate) fn make_ext4(image: &Path, mib: u64, folder: &Path) {
    fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    run(Command::new(program("mkfs.ext4").unwrap()).args(["-q", "-F", "-b", "4096", "-d"]).arg(folder).arg(image));
}

/// Panics unless a file system that nobody uses is without fault.
pub(crate) fn check_ext4(image: &Path) {
    run(Command::new(program("e2fsck").unwrap()).args(["-f", "-n"]).arg(image));
}

/// Copies all files of an ext4 file system into a folder.
pub(crate) fn dump_ext4(image: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let request = format!("rdump / {}", folder.display());
    run(Command::new(program("debugfs").unwrap()).arg("-R").arg(request).arg(image));
}

/// A file's SHA-256, as `sha256sum` prints it.
pub(crate) fn sha256(path: &Path) -> String {
    let output = run(Command::new(program("sha256sum").unwrap()).arg(path));
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned()
}
