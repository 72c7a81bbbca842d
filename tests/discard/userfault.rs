//! Userfaultfd: its reader receives an event for each range that was given back, and poisoned pages become zero.

#![expect(unsafe_code, reason = "userfaultfd(2) by hand")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use memory_model::mmap::{Lock, MmapRegion, MmapRegionBuilder};
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, VolatileMemory};
use rustix::fs::FallocateFlags;
use rustix::mm::UserfaultfdFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::{has_kernel, page};

// <linux/userfaultfd.h>
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_POISON: u64 = 0xc020_aa08;
const UFFD_FEATURE_POISON: u64 = 1 << 14;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;

/// `struct uffd_msg`. The argument of a removal is its start and end, of a fault its flags and its address.
#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    argument: [u64; 2],
    more: u64,
}

/// What happened: in offsets from the start of the mapping.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Removed(u64, u64),
    /// A page was missing, and was given as zero.
    Missing(u64),
}

fn ioctl<const N: usize>(uffd: &impl AsRawFd, request: u64, mut argument: [u64; N]) -> std::io::Result<[u64; N]> {
    // SAFETY: the requests here take as many words, of which the kernel writes some.
    match unsafe { libc::ioctl(uffd.as_raw_fd(), request as _, argument.as_mut_ptr()) } {
        0 => Ok(argument),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Watches a mapping from a thread of its own; `None` where the host does not let it.
pub(crate) fn watch(region: &MmapRegion) -> Option<Receiver<Event>> {
    // SAFETY: it concerns only mappings that are registered with it.
    let uffd = match unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC) } {
        Ok(uffd) => uffd,
        Err(errno) => {
            memory_model_test_support::skip!("no userfaultfd: {errno}");
            return None;
        }
    };
    let start = region.as_volatile_slice().as_ptr().addr() as u64;
    ioctl(&uffd, UFFDIO_API, [UFFD_API, UFFD_FEATURE_EVENT_REMOVE, 0]).unwrap();
    let range = [start, region.len() as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
    if let Err(error) = ioctl(&uffd, UFFDIO_REGISTER, range) {
        memory_model_test_support::skip!("no userfaultfd: UFFDIO_REGISTER: {error}");
        return None;
    }
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        let mut uffd = File::from(uffd);
        loop {
            let mut message = Message::default();
            // Ends with the process.
            uffd.read_exact(message.as_mut_bytes()).unwrap();
            let [first, second] = message.argument;
            let event = match message.event {
                EVENT_REMOVE => Event::Removed(first - start, second - start),
                EVENT_PAGEFAULT => {
                    let at = second / page() as u64 * page() as u64;
                    ioctl(&uffd, UFFDIO_ZEROPAGE, [at, page() as u64, 0, 0]).unwrap();
                    Event::Missing(at - start)
                }
                other => panic!("event {other:#x}"),
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    Some(events)
}

pub(crate) fn next(events: &Receiver<Event>) -> Option<Event> {
    events.recv_timeout(Duration::from_secs(10)).ok()
}

const KINDS: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 3] =
    [|mapping| mapping, MmapRegionBuilder::shared, |mapping| mapping.memfd("watched")];

#[test]
fn it_is_told_of_each_range_and_asked_for_the_pages_anew() {
    if !has_kernel() {
        return;
    }
    let size = page() as u64;
    for (number, kind) in KINDS.into_iter().enumerate() {
        // Shared pages are taken from the file, then from the page table.
        let times = if number == 0 { 1 } else { 2 };
        let region = kind(MmapRegion::builder(2048 * page())).build().unwrap();
        region.as_volatile_slice().fill(7, region.len(), 0).unwrap();
        let Some(events) = watch(&region) else { return };
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        // 1848 pages in three runs, each several times, in no order: 7919 is prime.
        let runs = [(0, 700), (800, 1500), (1600, 2048)];
        let pages: Vec<u64> = runs.iter().flat_map(|&(first, end)| first..end).collect();
        let numbers = (0..10_000).map(|at| pages[at * 7919 % pages.len()]);
        assert_eq!(mem.discard_pages(numbers, size).unwrap(), pages.len() as u64 * size);
        for (first, end) in runs {
            for _ in 0..times {
                assert_eq!(next(&events), Some(Event::Removed(first * size, end * size)));
            }
        }
        assert_eq!(mem.read_obj::<u8>(GuestAddress(841 * size)).unwrap(), 0);
        assert_eq!(next(&events), Some(Event::Missing(841 * size)), "and nothing before: there were three ranges");
        for kept in [700, 799, 1500, 1599] {
            assert_eq!(mem.read_obj::<u8>(GuestAddress(kept * size)).unwrap(), 7);
        }
        // Ranges that overlap or touch, at any byte.
        let ranges = [(703, 2), (701, 2), (702, 2), (710, 1)];
        let ranges = ranges.map(|(first, pages)| (GuestAddress(first * size + 1), pages * size));
        assert_eq!(mem.discard_ranges(ranges).unwrap(), 3 * size);
        for _ in 0..times {
            assert_eq!(next(&events), Some(Event::Removed(702 * size, 705 * size)));
        }
        mem.read_obj::<u8>(GuestAddress(702 * size)).unwrap();
        assert_eq!(next(&events), Some(Event::Missing(702 * size)), "and nothing before: there was one range");
    }
}

#[test]
fn a_hole_in_the_file_would_not_have_told_it() {
    if !has_kernel() {
        return;
    }
    let region = MmapRegion::builder(8 * page()).memfd("watched").build().unwrap();
    region.as_volatile_slice().fill(7, region.len(), 0).unwrap();
    let Some(events) = watch(&region) else { return };
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let file = region.file_offset().unwrap().file();
    rustix::fs::fallocate(file.as_fd(), hole, page() as u64, page() as u64).unwrap();
    assert_eq!(region.as_volatile_slice().read_obj::<u8>(page()).unwrap(), 0);
    assert_eq!(next(&events), Some(Event::Missing(page() as u64)), "the first that it hears of it");
}

#[test]
fn poisoned_pages_read_zero_after_discard() {
    if !has_kernel() || !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return;
    }
    let kinds: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 5] = [
        |mapping| mapping,
        MmapRegionBuilder::shared,
        |mapping| mapping.memfd("poisoned"),
        |mapping| mapping.memfd("poisoned").lock(Lock::OnFault),
        |mapping| mapping.memfd("poisoned").private(),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let Ok(region) = kind(MmapRegion::builder(8 * page())).build() else { continue };
        // SAFETY: it concerns only mappings that are registered with it.
        let uffd = match unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC) } {
            Ok(uffd) => uffd,
            Err(errno) => return memory_model_test_support::skip!("no userfaultfd: {errno}"),
        };
        if let Err(error) = ioctl(&uffd, UFFDIO_API, [UFFD_API, UFFD_FEATURE_POISON, 0]) {
            return memory_model_test_support::skip!("no userfaultfd: UFFD_FEATURE_POISON: {error}");
        }
        let (start, size) = (region.as_volatile_slice().as_ptr().addr() as u64, page() as u64);
        let (all, len) = (start, region.len() as u64);
        ioctl(&uffd, UFFDIO_REGISTER, [all, len, UFFDIO_REGISTER_MODE_MISSING, 0]).unwrap();
        ioctl(&uffd, UFFDIO_POISON, [start + 2 * size, 3 * size, 0, 0]).unwrap();
        let read = |number: usize| region.as_volatile_slice().read_obj::<u8>(number * page()).ok();
        assert_eq!([read(2), read(3), read(4)], [None; 3], "{number}");
        assert_eq!(region.discard(3 * page(), 2 * page()).unwrap(), 2 * page(), "{number}");
        // So that missing pages are the kernel's business again.
        ioctl(&uffd, UFFDIO_UNREGISTER, [all, len]).unwrap();
        assert_eq!([read(2), read(3), read(4)], [None, Some(0), Some(0)], "{number}");
    }
}
