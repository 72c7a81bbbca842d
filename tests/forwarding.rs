//! Each wrapper and each pointer forwards each method of the trait, and each memory has each method of its own. The names are
//! read from the source, so that a method that is added to a trait fails a test until all of them have it.
//!
//! What the forwarded calls do is shown in `relationships.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The traits, and the files that define them.
const TRAITS: [(&str, &str); 8] = [
    ("Bytes", "src/bytes/mod.rs"),
    ("GuestMemory", "src/guest_memory/memory.rs"),
    ("GuestMemoryRegion", "src/guest_memory/region.rs"),
    ("Pluggable", "src/atomic/plug.rs"),
    ("ReadVolatile", "src/stream/mod.rs"),
    ("VolatileMemory", "src/volatile_memory/mod.rs"),
    ("WriteVolatile", "src/stream/mod.rs"),
    ("Journal", "devices/virtio/src/blk/journal.rs"),
];

/// What forwards, and calls the method of the same name: the file, the lines with which its parts begin, and the traits.
const WRAPPERS: [(&str, &[&str], &[&str]); 8] = [
    ("src/bytes/forward.rs", &["macro_rules! forward_bytes"], &["Bytes"]),
    (
        "src/guest_memory/forward.rs",
        &["macro_rules! forward_region", "macro_rules! __forward_streams", "macro_rules! __forward_file_offset"],
        &["Bytes", "GuestMemoryRegion"],
    ),
    ("src/guest_memory/memory.rs", &["macro_rules! memory_behind"], &["GuestMemory"]),
    ("src/stream/mod.rs", &["impl<R: ReadVolatile + ?Sized> ReadVolatile for &mut R"], &["ReadVolatile"]),
    ("src/stream/mod.rs", &["impl<W: WriteVolatile + ?Sized> WriteVolatile for &mut W"], &["WriteVolatile"]),
    (
        "src/volatile_memory/mod.rs",
        &["unsafe impl<M: VolatileMemory + ?Sized> VolatileMemory for &M"],
        &["VolatileMemory"],
    ),
    ("src/atomic/plug.rs", &["impl Pluggable for GuestRegionMmap"], &["Pluggable"]),
    ("devices/virtio/src/blk/journal.rs", &["impl<J: Journal + ?Sized> Journal for &mut J"], &["Journal"]),
];

/// Memories that have each method of `Bytes` themselves.
const MEMORIES: [(&str, &str); 5] = [
    ("src/buffers/pinned/bytes.rs", "impl Bytes<usize> for PinnedSlice"),
    ("src/bytes/slice.rs", "impl Bytes<usize> for VolatileSlice"),
    ("src/guest_memory/bytes.rs", "impl<M: GuestMemory + ?Sized> Bytes<GuestAddress> for M"),
    ("src/guest_memory/slice.rs", "impl Bytes<usize> for GuestSlice"),
    ("src/mmap/region_bytes.rs", "impl Bytes<MemoryRegionAddress> for GuestRegionMmap"),
];

/// What cannot be forwarded: its type names the memory that it is called on. It calls `to_region_addr`, which is forwarded.
const NOT_FORWARDED: [(&str, &str); 1] = [("GuestMemory", "get_slices")];

/// Returns the source of the workspace; `None` in a package that was unpacked alone.
fn source() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_here = TRAITS.iter().all(|(_, file)| root.join(file).is_file());
    if !is_here {
        memory_model_test_support::skip!("no source code of the library");
    }
    is_here.then(|| root.to_owned())
}

fn read(root: &Path, file: &str) -> String {
    std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The part of formatted source that begins with a line and ends with the next brace without indentation; no comments.
fn part(source: &str, start: &str) -> String {
    let lines = source.lines().skip_while(|line| !line.starts_with(start));
    let part: Vec<_> = lines.take_while(|line| *line != "}").filter(|line| !line.trim().starts_with("//")).collect();
    assert!(!part.is_empty(), "nothing begins with {start:?}");
    part.join("\n")
}

/// The functions that a part defines, each with what follows up to the next.
fn functions(part: &str) -> Vec<(String, &str)> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    part.split("fn ").skip(1).map(|rest| (name(rest), rest)).filter(|(name, _)| !name.is_empty()).collect()
}

fn names(part: &str) -> BTreeSet<String> {
    functions(part).into_iter().map(|(name, _)| name).collect()
}

fn methods_of(root: &Path, name: &str) -> BTreeSet<String> {
    let (_, file) = TRAITS.iter().find(|known| known.0 == name).expect("it is in the list");
    let source = read(root, file);
    let starts = [format!("pub trait {name}"), format!("pub unsafe trait {name}")];
    // Another trait's name may begin with this one's.
    let starts_it = |line: &str| {
        let rest = starts.iter().find_map(|start| line.strip_prefix(start.as_str()));
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    let line = source.lines().find(|line| starts_it(line)).expect("the file defines the trait");
    names(&part(&source, line))
}

#[test]
fn every_wrapper_forwards_every_method_that_its_trait_has() {
    let Some(root) = source() else { return };
    for (file, starts, traits) in WRAPPERS {
        let source = read(&root, file);
        let text: String = starts.iter().map(|start| part(&source, start) + "\n").collect();
        let forwarded = functions(&text);
        for name in traits {
            for method in methods_of(&root, name) {
                if NOT_FORWARDED.contains(&(*name, method.as_str())) {
                    continue;
                }
                let body = forwarded.iter().find(|(forwarded, _)| *forwarded == method);
                let body = body.unwrap_or_else(|| panic!("{file}, {starts:?} does not forward {name}::{method}")).1;
                let calls = [format!("::{method}("), format!(".{method}(")].iter().any(|call| body.contains(call));
                assert!(calls, "{file}, {starts:?}: {method} does not call {name}::{method}");
            }
        }
    }
}

#[test]
fn every_memory_has_every_access_itself() {
    let Some(root) = source() else { return };
    let methods = methods_of(&root, "Bytes");
    for (file, start) in MEMORIES {
        let own = names(&part(&read(&root, file), start));
        let missing: Vec<_> = methods.difference(&own).collect();
        assert!(missing.is_empty(), "{start} in {file} has only the default of {missing:?}");
    }
}

/// A new implementation has to be put into one of the lists above.
#[test]
fn every_implementation_of_bytes_is_in_a_list() {
    let Some(root) = source() else { return };
    let mut folders = vec![root.join("src")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            let file = path.strip_prefix(&root).expect("it is in there").to_string_lossy().into_owned();
            let is_bytes = |line: &&str| line.starts_with("impl") && line.contains("Bytes<") && line.contains(" for ");
            found.extend(text.lines().filter(is_bytes).map(|line| (file.clone(), line.to_owned())));
        }
    }
    let is_known = |(file, line): &&(String, String)| {
        MEMORIES.iter().any(|(known, start)| file == known && line.starts_with(start))
    };
    let new: Vec<_> = found.iter().filter(|found| !is_known(found)).collect();
    assert!(new.is_empty(), "neither forwarded by a macro nor in a list: {new:?}");
    assert_eq!(found.len(), MEMORIES.len());
}
