//! Many transfers between a file and guest memory under way at a time, by `io_uring` and without.
//!
//! | module          | what it shows                                                               |
//! |-----------------|-----------------------------------------------------------------------------|
//! | [`transfers`]   | what is read and written, beside a model; what is refused                   |
//! | [`lifetimes`]   | memory that is removed meanwhile; engines that are dropped, forgotten, sent |
//! | [`faults`]      | pages that cannot be accessed                                               |
//! | [`marks`]       | what is marked as dirty, and when                                           |
//! | [`polling`]     | a descriptor that says when there are completions                           |
//! | [`fallback`]    | systems that have no `io_uring`, or forbid it                               |
//! | [`allocations`] | there are none                                                              |
//!
//! A read from an empty pipe is under way until somebody writes to it.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "uring/allocations.rs"]
mod allocations;
#[expect(dead_code, reason = "shared with other tests, which need all of it")]
#[path = "making/child.rs"]
mod child;
#[path = "uring/fallback.rs"]
mod fallback;
#[path = "uring/faults.rs"]
mod faults;
#[path = "uring/lifetimes.rs"]
mod lifetimes;
#[path = "uring/marks.rs"]
mod marks;
#[path = "uring/polling.rs"]
mod polling;
#[path = "uring/raw.rs"]
mod raw;
#[expect(dead_code, reason = "shared with other tests, which need all of it")]
#[path = "making/seccomp.rs"]
mod seccomp;
#[path = "uring/transfers.rs"]
mod transfers;

use std::fs::File;
use std::os::unix::fs::FileExt;

use memory_model::buffers::GuestBuffers;
use memory_model::buffers::uring::{Completion, FileEngine};
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};

/// An engine that has `io_uring`. `None`, and says so, where there is none.
fn ring(file: File, requests: u16) -> Option<FileEngine> {
    let engine = FileEngine::new(file, requests).unwrap();
    if let Some(reason) = engine.fallback_reason() {
        memory_model_test_support::skip!("no io_uring: {reason}");
        return None;
    }
    Some(engine)
}

/// Engines of both kinds.
fn both(file: &File, requests: u16) -> impl Iterator<Item = FileEngine> {
    let without = FileEngine::without_io_uring(file.try_clone().unwrap(), requests).unwrap();
    ring(file.try_clone().unwrap(), requests).into_iter().chain([without])
}

/// The bytes from 0 on that files and memory are filled with, which are 1 to 251.
fn pattern(len: usize) -> Vec<u8> {
    (1..=251).cycle().take(len).collect()
}

/// A file of the pattern.
fn file(len: usize) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&pattern(len), 0).unwrap();
    file
}

/// Zeroed memory of regions that touch, from 0 on.
fn memory(sizes: &[usize]) -> GuestMemoryMmap {
    let mut start = 0;
    let range = |&size: &usize| {
        let range = (GuestAddress(start), size);
        start += size as u64;
        range
    };
    GuestMemoryMmap::from_ranges(&sizes.iter().map(range).collect::<Vec<_>>()).unwrap()
}

fn owned(mem: &GuestMemoryMmap, ranges: &[(u64, usize)], access: Access) -> GuestBuffers<'static> {
    let ranges = ranges.iter().map(|&(addr, len)| (IoAddress(addr), len));
    GuestBuffers::owned(mem, ranges, access).unwrap()
}

fn bytes(mem: &GuestMemoryMmap, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
    bytes
}

/// The next completion, which is waited for.
fn next(engine: &mut FileEngine) -> Completion {
    loop {
        engine.wait().unwrap();
        if let Some(completion) = engine.next_completion().unwrap() {
            return completion;
        }
    }
}
