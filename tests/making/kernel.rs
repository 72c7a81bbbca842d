//! What a process has mapped and open, as the kernel says.

use std::fs;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use memory_model::mmap::{Error, MmapRegion};

/// A line of /proc/self/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<usize>,
    pub(crate) access: String,
    pub(crate) name: String,
}

/// All that is mapped.
pub(crate) fn mappings() -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mapping = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (from, to) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        let access = fields.next()?.to_owned();
        Some(Mapping { range, access, name: fields.last()?.trim().to_owned() })
    };
    maps.lines().map(|line| mapping(line).unwrap()).collect()
}

/// The mapping that has this address.
pub(crate) fn mapping_at(address: usize) -> Option<Mapping> {
    mappings().into_iter().find(|mapping| mapping.range.contains(&address))
}

/// The mapping of the memfd of this name, which is one.
pub(crate) fn mapping_of(memfd: &str) -> Mapping {
    let link = link(memfd);
    let mut found = mappings().into_iter().filter(|mapping| mapping.name == link);
    let mapping = found.next().unwrap();
    assert_eq!(found.next(), None);
    mapping
}

/// As what the kernel shows a memfd of this name.
pub(crate) fn link(memfd: &str) -> String {
    format!("/memfd:{memfd} (deleted)")
}

/// All that is open, by number.
fn files() -> Vec<(PathBuf, PathBuf)> {
    let mut files: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some((path.clone(), fs::read_link(path).ok()?)))
        // The directory that is being read.
        .filter(|(_, link)| !link.ends_with("fd"))
        .collect();
    files.sort();
    files
}

/// What a file is called in /proc/self/fd.
pub(crate) fn link_of(file: &impl AsRawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap().to_str().unwrap().to_owned()
}

/// How many mappings and open files there are of the memfd of this name.
pub(crate) fn left_of(memfd: &str) -> (usize, usize) {
    let link = link(memfd);
    let mapped = mappings().iter().filter(|mapping| mapping.name == link).count();
    (mapped, files().iter().filter(|(_, file)| file.as_os_str() == link.as_str()).count())
}

/// What is mapped and open, but for the heap and the stack, which grow by themselves.
pub(crate) fn belongings() -> (Vec<Mapping>, Vec<(PathBuf, PathBuf)>) {
    let mut mappings = mappings();
    mappings.retain(|mapping| mapping.name != "[heap]" && mapping.name != "[stack]");
    (mappings, files())
}

/// How many bytes are mapped, but for the heap and the stack.
pub(crate) fn mapped_bytes() -> usize {
    belongings().0.iter().map(|mapping| mapping.range.len()).sum()
}

/// The error that `make` ends with, which is always the same and leaves neither a mapping nor a file: for a process in which
/// nothing else happens.
#[track_caller]
pub(crate) fn leaves_nothing(make: impl Fn() -> Result<MmapRegion, Error>) -> Error {
    // What the first brings with it (handlers, stacks of threads, buffers) may stay.
    let error = make().unwrap_err();
    let before = belongings();
    for _ in 0..3 {
        assert_eq!(make().unwrap_err().to_string(), error.to_string());
    }
    assert_eq!(belongings(), before);
    error
}

/// The line of `/proc/self/numa_maps` for the mapping that begins at an address.
pub(crate) fn numa_map(start: usize) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/numa_maps").ok()?;
    let start = format!("{start:08x} ");
    maps.lines().find(|line| line.starts_with(&start)).map(str::to_owned)
}
