//! Writes that are interrupted when their pages become inaccessible: each page that was changed is marked as dirty, and the
//! address that the error names is the start of the write, or of a page.

#![cfg(all(
    feature = "mmap",
    feature = "fault-recovery",
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::File;
use std::io::Cursor;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use memory_model::guest_memory::Error;
use memory_model::mmap::Protection;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

#[path = "interrupted/raw.rs"]
mod raw;

use raw::{Trap, page};

const BASE: u64 = 0x1000_0000;
const LEN: usize = 256 << 10;

fn pages() -> usize {
    LEN / page() + 2
}

/// Memory of a file, for a write of [`LEN`] bytes somewhere.
struct Ground {
    mem: GuestMemoryMmap,
    file: File,
}

impl Ground {
    fn new() -> Self {
        let file = raw::memfd();
        file.set_len((pages() * page()) as u64).unwrap();
        let at = FileOffset::new(file.try_clone().unwrap(), 0);
        let region = GuestRegionMmap::new(MmapRegion::from_file(at, pages() * page()).unwrap(), GuestAddress(BASE));
        Self { mem: GuestMemoryMmap::from_regions(vec![region.unwrap()]).unwrap(), file }
    }

    fn region(&self) -> &GuestRegionMmap {
        self.mem.regions().next().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; pages() * page()];
        self.region().read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
        bytes
    }

    /// Checks that `write`, of [`LEN`] bytes at `start`, marks each page that it changes. Then all can be written again.
    #[expect(clippy::panic_in_result_fn, reason = "the result is handed on")]
    fn check(&self, what: &str, start: usize, write: impl FnOnce() -> Result<usize, Error>) -> Result<usize, Error> {
        let log = self.mem.start_tracking(4096).unwrap();
        let before = self.bytes();
        let result = write();
        self.region().protect(Protection::ReadWrite).unwrap();
        self.file.set_len((pages() * page()) as u64).unwrap();
        let harvest = log.harvest();
        let ranges: Vec<_> = harvest.ranges().map(|range| range.start..range.start + range.len).collect();
        for (at, _) in before.iter().zip(self.bytes()).enumerate().filter(|(_, (before, after))| *before != after) {
            let addr = BASE + at as u64;
            // What was truncated, and is zero for that reason, is not a write.
            if (start..start + LEN).contains(&at) && before[at] == 0 {
                assert!(
                    ranges.iter().any(|range| range.contains(&addr)),
                    "{what}: {addr:#x} changed, marked: {ranges:x?}"
                );
            }
        }
        match &result {
            Err(Error::Fault { addr, completed } | Error::ReadOnly { addr, completed }) => {
                assert_eq!(addr.0, BASE + (start + completed) as u64, "{what}");
                assert!(*completed == 0 || addr.0 % 4096 == 0, "{what}: {addr:?} is not the start of a page");
                assert!(*completed < LEN);
            }
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => {}
        }
        result
    }
}

type Write = fn(&Ground, &[u8], usize) -> Result<usize, Error>;

/// All that write a slice.
const WRITES: [(&str, Write); 8] = [
    ("a region's write_slice", |ground, bytes, start| {
        ground.region().write_slice(bytes, MemoryRegionAddress(start as u64)).map(|()| LEN)
    }),
    ("a region's write", |ground, bytes, start| ground.region().write(bytes, MemoryRegionAddress(start as u64))),
    ("a memory's write_slice", |ground, bytes, start| {
        ground.mem.write_slice(bytes, GuestAddress(BASE + start as u64)).map(|()| LEN)
    }),
    ("a slice's write_slice", |ground, bytes, start| {
        ground.mem.get_slice(GuestAddress(BASE), pages() * page())?.write_slice(bytes, start).map(|()| LEN)
    }),
    ("a slice's write", |ground, bytes, start| {
        ground.mem.get_slice(GuestAddress(BASE), pages() * page())?.write(bytes, start)
    }),
    ("a slice's copy_from", |ground, bytes, start| {
        ground.mem.get_slice(GuestAddress(BASE + start as u64), LEN)?.copy_from(bytes)
    }),
    ("write_from", |ground, bytes, start| {
        ground.mem.write_from(GuestAddress(BASE + start as u64), &mut Cursor::new(bytes), LEN)
    }),
    ("write_all_from", |ground, mut bytes, start| {
        ground.mem.write_all_from(GuestAddress(BASE + start as u64), &mut bytes, LEN).map(|()| LEN)
    }),
];

#[test]
fn a_write_that_protection_interrupts_marks_each_page_that_it_changed() {
    let Some(trap) = Trap::new(LEN) else { return };
    for (what, write) in WRITES {
        for start in [0, 0x3b8] {
            let ground = Ground::new();
            let result = ground.check(what, start, || {
                trap.at_half(
                    |bytes| write(&ground, bytes, start),
                    || {
                        ground.region().protect(Protection::ReadOnly).unwrap();
                    },
                )
            });
            match result {
                Err(Error::ReadOnly { .. }) => {}
                // Some bytes are enough.
                Ok(count) if count < LEN => {}
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(ground.bytes()[start + LEN / 2 - 1000], 0xff, "it was interrupted at half");
        }
    }
}

#[test]
fn a_write_that_a_truncation_interrupts_marks_each_page_that_it_changed() {
    let Some(trap) = Trap::new(LEN) else { return };
    for (what, write) in WRITES {
        for (start, kept) in [(0, 3), (0x3b8, 3), (0x3b8, 0)] {
            let ground = Ground::new();
            let result = ground.check(what, start, || {
                trap.at_half(
                    |bytes| write(&ground, bytes, start),
                    || {
                        ground.file.set_len((kept * page()) as u64).unwrap();
                    },
                )
            });
            assert!(!matches!(result, Ok(LEN)), "{what}");
        }
    }
}

/// What writes some way.
type Writing<'a> = &'a dyn Fn() -> Result<usize, Error>;

/// Has another thread change the pages again and again while this one writes to them.
fn storm(change: impl Fn(&Ground) + Sync) {
    if Trap::new(LEN).is_none() {
        return;
    }
    let source = Ground::new();
    source.region().fill(0xff, pages() * page(), MemoryRegionAddress(0)).unwrap();
    let both = |ground: &Ground, start: usize| {
        let from = source.mem.get_slice(GuestAddress(BASE + start as u64), LEN)?;
        from.copy_to_guest_slice(ground.mem.get_slice(GuestAddress(BASE + start as u64), LEN)?)
    };
    let (bytes, mut interrupted) = (vec![0xff; LEN], 0);
    for round in 0..80 {
        let (ground, start) = (Ground::new(), [0, 0x3b8][round % 2]);
        let at = MemoryRegionAddress(start as u64);
        let writes: [(&str, Writing<'_>); 4] = [
            ("fill", &|| ground.region().fill(0xff, LEN, at).map(|()| LEN)),
            ("write_slice", &|| ground.region().write_slice(&bytes, at).map(|()| LEN)),
            ("copy_to_guest_slice", &|| both(&ground, start)),
            ("write_from", &|| ground.region().write_from(at, &mut &bytes[..], LEN)),
        ];
        let (what, write) = writes[round / 2 % 4];
        let result = ground.check(what, start, || {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        change(&ground);
                    }
                });
                let _stop = Stop(&stop);
                write()
            })
        });
        interrupted += usize::from(!matches!(result, Ok(LEN)));
    }
    eprintln!("{interrupted} were interrupted");
}

/// Stops a thread, also if this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn no_changed_page_is_unmarked_while_protection_changes() {
    storm(|ground| {
        ground.region().protect(Protection::ReadOnly).unwrap();
        ground.region().protect(Protection::ReadWrite).unwrap();
    });
}

#[test]
fn no_changed_page_is_unmarked_while_a_peer_truncates() {
    storm(|ground| {
        ground.file.set_len((pages() / 2 * page()) as u64).unwrap();
        ground.file.set_len((pages() * page()) as u64).unwrap();
    });
}
