//! Private mappings of a file: what is discarded reads as zero, and not as the file.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memory_model::mmap::{Discarded, Error, HugePages, MmapRegion, MmapRegionBuilder, Prefault, Protection};
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, VolatileMemory,
};
use rustix::fs::MemfdFlags;

use super::kernel::Areas;
use super::marks::Marks;
use super::{contents, file, files_byte, has_kernel, page};

/// What is in each page of [`old_file`].
const OLD: u64 = 0xa1a1_a1a1_a1a1_a1a1;

/// A file in memory, every `step`th page of which begins with [`OLD`].
fn old_file(pages: usize, step: usize) -> FileOffset {
    let file = File::from(rustix::fs::memfd_create("discard: old", MemfdFlags::CLOEXEC).unwrap());
    file.set_len((pages * page()) as u64).unwrap();
    for number in (0..pages).step_by(step) {
        file.write_all_at(&OLD.to_le_bytes(), (number * page()) as u64).unwrap();
    }
    FileOffset::new(file, 0)
}

fn old(pages: usize, step: usize) -> MmapRegionBuilder {
    MmapRegion::builder(pages * page()).file(old_file(pages, step)).private().huge_pages(HugePages::Never)
}

fn guest(region: MmapRegion) -> GuestMemoryMmap {
    GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(region, GuestAddress(0)).unwrap()]).unwrap()
}

fn at(number: usize) -> u64 {
    (number * page()) as u64
}

/// The mappings of this process, and those of them in a memory's first region.
fn mappings(mem: &GuestMemoryMmap) -> (usize, usize) {
    let start = mem.get_host_address(GuestAddress(0)).unwrap().addr();
    let end = start + usize::try_from(mem.total_len()).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
    let starts: Vec<_> = starts.collect();
    (starts.len(), starts.iter().filter(|&&at| (start..end).contains(&at)).count())
}

/// Runs a test of this file in a process of its own, in which `work` is done.
fn in_a_child(test: &str, work: impl FnOnce()) {
    const CHILD: &str = "DISCARD_OF_PRIVATE_FILES";
    if std::env::var_os(CHILD).is_some() {
        return work();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([&format!("private::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    eprint!("{}", String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success(), "{:?}", child.status);
}

#[test]
fn forty_thousand_scattered_pages_read_zero_and_leave_mappings_for_others() {
    if !has_kernel() {
        return;
    }
    // Its mappings would be missing to other tests.
    in_a_child("forty_thousand_scattered_pages_read_zero_and_leave_mappings_for_others", || {
        let count = if page() == 4096 { 40_000 } else { 10_000 };
        let mem = guest(old(2 * count + 1, 2).build().unwrap());
        let numbers = (0..count as u64).map(|number| 2 * number * (page() / 4096) as u64);
        let parts = page() as u64 / 4096;
        let numbers = numbers.flat_map(|first| first..first + parts);
        let marks = Marks::of(&mem);
        assert_eq!(mem.discard_pages(numbers, 4096).unwrap(), at(count));
        assert_eq!(marks.take(), [Some(0..=at(2 * count - 1) - 1)]);
        for number in 0..=count {
            let expected = if number == count { OLD } else { 0 };
            assert_eq!(mem.read_obj::<u64>(GuestAddress(at(2 * number))).unwrap(), expected, "page {}", 2 * number);
        }
        let (all, of_it) = mappings(&mem);
        assert!((10_000..=2 * 8192 + 1).contains(&of_it), "{of_it} of {all}");
        // The rest is to be had by others.
        let others: Vec<_> = (0..1000).map(|_| MmapRegion::new(page()).unwrap()).collect();
        // A second memory finds no mappings left for it, and reads zero, too.
        let second = guest(old(64, 1).build().unwrap());
        let before = mappings(&second).1;
        for number in (0..64).step_by(2) {
            second.discard(GuestAddress(at(number)), at(1)).unwrap();
        }
        assert_eq!(mappings(&second).1, before);
        let read = |number: usize| second.read_obj::<u64>(GuestAddress(at(number))).unwrap();
        assert_eq!((0..64).map(read).collect::<Vec<_>>(), [0, OLD].repeat(32));
        drop((others, mem));
        // It has those of the first one now.
        second.discard(GuestAddress(0), at(1)).unwrap();
        assert_eq!(mappings(&second).1, before + 1);
        second.discard(GuestAddress(0), at(64)).unwrap();
        assert_eq!((0..64).map(read).collect::<HashSet<_>>(), HashSet::from([0]));
    });
}

#[test]
fn neighbours_are_one_mapping_in_whatever_order_they_come() {
    if !has_kernel() {
        return;
    }
    let mem = guest(old(600, 1).build().unwrap());
    let discard = |number| {
        assert_eq!(mem.discard(GuestAddress(at(number)), at(1)).unwrap(), at(1));
        // Touched, it has pages that the kernel must not mix up.
        mem.write_obj(number as u64, GuestAddress(at(number))).unwrap();
    };
    (1..599).step_by(2).for_each(discard);
    assert_eq!(mappings(&mem).1, 599);
    (2..598).step_by(2).rev().for_each(discard);
    // Between them are pages that were written since: they keep what they hold.
    assert_eq!(mappings(&mem).1, 599 - 596);
    for number in 1..598 {
        assert_eq!(mem.read_obj::<u64>(GuestAddress(at(number))).unwrap(), number as u64);
    }
    assert_eq!(mem.discard(GuestAddress(0), at(600)).unwrap(), at(600));
    assert_eq!(mappings(&mem).1, 1);
    assert!((0..600).all(|number| mem.read_obj::<u64>(GuestAddress(at(number))).unwrap() == 0));
    let region = mem.find_region(GuestAddress(0)).unwrap();
    assert_eq!(region.usage().unwrap().resident(), 0, "all of it was given back");
}

#[test]
fn other_threads_find_what_was_there_or_zero_and_never_a_fault() {
    if !has_kernel() {
        return;
    }
    let mem = guest(old(512, 1).build().unwrap());
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let (mem, end) = (&mem, &end);
        for reader in 0..2 {
            scope.spawn(move || {
                let mut number = reader;
                while !end.load(Ordering::Relaxed) {
                    number = (number + 7) % 512;
                    let value = mem.read_obj::<u64>(GuestAddress(at(number))).unwrap();
                    assert!([0, OLD, 7].contains(&value), "{value:#x} in page {number}");
                    mem.write_obj(7_u64, GuestAddress(at(number) + 8)).unwrap();
                    mem.read_obj::<u64>(GuestAddress(at(number) + 8)).unwrap();
                }
            });
        }
        let _end = EndAtDrop(end);
        for round in 0..4 {
            for number in (round..512).step_by(4).chain((0..512).step_by(9)) {
                mem.discard(GuestAddress(at(number)), at(1)).unwrap();
                assert_eq!(mem.read_obj::<u64>(GuestAddress(at(number))).unwrap(), 0);
            }
        }
    });
}

/// Lets the other threads end, also when this one panics.
struct EndAtDrop<'a>(&'a AtomicBool);

impl Drop for EndAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_file_shows_again_where_that_was_asked_for() {
    if !has_kernel() {
        return;
    }
    for (discarded, expected) in [(Discarded::Zeros, 0), (Discarded::File, OLD)] {
        let mem = guest(old(8, 1).discarded(discarded).build().unwrap());
        mem.write_obj(1_u64, GuestAddress(at(2))).unwrap();
        mem.discard(GuestAddress(at(2)), at(2)).unwrap();
        assert_eq!(mem.read_obj::<u64>(GuestAddress(at(2))).unwrap(), expected, "{discarded:?}");
        assert_eq!(mem.read_obj::<u64>(GuestAddress(at(4))).unwrap(), OLD, "{discarded:?}");
    }
}

#[test]
fn without_memory_to_map_zeros_are_written() {
    if !has_kernel() || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return;
    }
    in_a_child("without_memory_to_map_zeros_are_written", || {
        let size = 1 << 30;
        let file = old_file(16, 1);
        file.file().set_len(size as u64).unwrap();
        let mem = guest(MmapRegion::builder(size).file(file).private().build().unwrap());
        mem.fill(0xa5, 16 * page(), GuestAddress(0)).unwrap();
        // Not as much again.
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let mapped = status.split(' ').next().unwrap().parse::<usize>().unwrap() * page();
        let limit = (mapped + size / 2) as libc::rlim_t;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        #[expect(unsafe_code, reason = "limits the address space of this process")]
        // SAFETY: reads the struct.
        let limited = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
        assert_eq!(limited, 0);
        assert_eq!(mem.discard(GuestAddress(at(2)), at(2)).unwrap(), at(2));
        assert_eq!(mappings(&mem).1, 1);
        let region = mem.find_region(GuestAddress(0)).unwrap();
        region.unplug(MemoryRegionAddress(at(8)), at(4)).unwrap();
        assert!(mem.read_obj::<u8>(GuestAddress(at(8))).is_err());
        region.plug(MemoryRegionAddress(at(8)), at(4)).unwrap();
        let expected = |number| if matches!(number, 2 | 3 | 8..12) { 0 } else { 0xa5 };
        for number in 0..16 {
            assert_eq!(mem.read_obj::<u8>(GuestAddress(at(number))).unwrap(), expected(number), "{number}");
        }
    });
}

#[test]
fn zeros_are_protected_plugged_and_prefaulted_as_the_file_is() {
    if !has_kernel() || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return;
    }
    let mem = guest(old(16, 1).build().unwrap());
    let region = mem.find_region(GuestAddress(0)).unwrap();
    let discard = |number: usize, count: usize| {
        assert_eq!(mem.discard(GuestAddress(at(number)), at(count)).unwrap(), at(count));
    };
    let reads = |number: usize| mem.read_obj::<u64>(GuestAddress(at(number))).ok();
    discard(2, 2);
    region.unplug(MemoryRegionAddress(at(3)), at(3)).unwrap();
    assert_eq!([1, 2, 3, 4, 5, 6].map(reads), [Some(OLD), Some(0), None, None, None, Some(OLD)]);
    // What is unplugged is none to give back, and stays without access.
    assert_eq!(mem.discard(GuestAddress(at(2)), at(5)).unwrap(), at(2));
    assert_eq!([2, 3, 5, 6, 7].map(reads), [Some(0), None, None, Some(0), Some(OLD)]);
    region.plug(MemoryRegionAddress(0), at(16)).unwrap();
    assert_eq!([1, 2, 3, 5, 6, 7].map(reads), [Some(OLD), Some(0), Some(0), Some(0), Some(0), Some(OLD)]);
    assert_eq!(mappings(&mem).1, 3);
    mem.prefault(GuestAddress(0), at(16), Prefault::Populate, |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(region.usage().unwrap().resident(), at(16));
    region.protect(Protection::ReadOnly).unwrap();
    assert!(matches!(mem.discard(GuestAddress(0), at(1)), Err(Error::ReadOnly)));
    let start = mem.get_host_address(GuestAddress(0)).unwrap().addr();
    let areas = Areas::within(start..start + 16 * page());
    assert!(!areas.flags().iter().any(|flag| flag == "wr"), "{:?}", areas.flags());
    region.protect(Protection::ReadWrite).unwrap();
    mem.fill(1, 16 * page(), GuestAddress(0)).unwrap();
    discard(0, 16);
    assert!((0..16).all(|number| reads(number) == Some(0)));
}

#[test]
fn a_borrowed_private_file_is_filled_with_zeros() {
    if !has_kernel() {
        return;
    }
    let file = file();
    let owner = MmapRegion::builder(8 * page()).file(file.clone()).private().build().unwrap();
    let start = owner.as_volatile_slice().as_ptr();
    for (discarded, is_zero) in [(Discarded::Zeros, true), (Discarded::File, false)] {
        owner.as_volatile_slice().fill(0xa5, owner.len(), 0).unwrap();
        let description = MmapRegion::builder(8 * page()).file(file.clone()).private().discarded(discarded);
        #[expect(unsafe_code, reason = "borrows a mapping")]
        // SAFETY: `owner` has as many bytes there, and is dropped later.
        let borrowed = unsafe { description.from_raw(std::ptr::NonNull::new(start).unwrap()) }.unwrap();
        assert_eq!(borrowed.discard(page(), 2 * page()).unwrap(), 2 * page());
        for (offset, byte) in contents(&owner).into_iter().enumerate() {
            let expected = match (page()..3 * page()).contains(&offset) {
                true if is_zero => 0,
                true => files_byte(offset),
                false => 0xa5,
            };
            assert_eq!(byte, expected, "{discarded:?}: byte {offset:#x}");
        }
        assert_eq!(Areas::of(&owner).count(), 1, "it is not ours to map over");
    }
}

#[test]
fn a_private_region_does_not_offer_its_file_to_others() {
    let region = |builder: MmapRegionBuilder| GuestRegionMmap::new(builder.build().unwrap(), GuestAddress(0)).unwrap();
    let builder = || MmapRegion::builder(8 * page()).file(file());
    assert!(region(builder()).file_offset().is_some());
    assert!(region(builder().private()).file_offset().is_none(), "what is written is not in the file");
    assert!(builder().private().build().unwrap().file_offset().is_some(), "but it is what is mapped");
}
