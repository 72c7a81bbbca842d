//! Accesses on several threads while others plug and unplug: each is done, or is a fault.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::Duration;

use memory_model::guest_memory::Error;
use memory_model::mmap::Protection;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use zerocopy::IntoBytes;

use crate::ground::{has_kernel, offset, page, pages, recovers};

const COUNT: usize = 16;
const START: u64 = 0xa000_0000;

/// Fewer where an emulator does the work.
fn rounds() -> usize {
    if std::env::var_os("CROSS_RUNNER").is_some() { 100 } else { 1500 }
}

fn memories() -> [GuestMemoryMmap; 2] {
    [MmapRegion::builder(COUNT * page()), MmapRegion::builder(COUNT * page()).memfd("plug: threads")].map(|mapping| {
        let region = GuestRegionMmap::new(mapping.build().unwrap(), GuestAddress(START)).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    })
}

/// Numbers without an order; each thread has its own.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }

    /// Some pages.
    fn part(&mut self) -> (usize, usize) {
        let at = self.below(COUNT);
        (at, 1 + self.below(COUNT - at))
    }
}

/// Tells others to stop, also if this thread panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whether it was done: else it was a fault at a byte of the access, which says how far it came.
fn is_done<T>(result: Result<T, Error>, start: usize, len: usize) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::Fault { addr, completed }) => {
            assert_eq!(addr.0, START + (start + completed) as u64);
            assert!(
                completed < len && addr.0 % page() as u64 == 0 || completed == 0,
                "{completed} of {len} at {start:#x}"
            );
            false
        }
        Err(other) => panic!("{other}"),
    }
}

/// Accesses memory in many ways until it is told to stop; how often that went well, and how often it was a fault.
fn access(mem: &GuestMemoryMmap, stop: &AtomicBool, seed: u64) -> [usize; 2] {
    let (mut numbers, mut counts) = (Numbers(seed), [0; 2]);
    let mut buf = vec![0; 3 * page()];
    let slice = mem.get_slice(GuestAddress(START), COUNT * page()).unwrap();
    while !stop.load(Relaxed) {
        let len = 1 + numbers.below(buf.len());
        let start = numbers.below(COUNT * page() - len) / 8 * 8;
        let at = GuestAddress(START + start as u64);
        let done = match numbers.below(8) {
            0 => is_done(mem.read_slice(&mut buf[..len], at), start, len),
            1 => is_done(mem.fill(0xff, len, at), start, len),
            2 => is_done(mem.read_obj::<u64>(at), start, 8),
            3 => is_done(mem.store(u64::MAX, at, Relaxed), start, 8),
            4 => is_done(slice.compare_exchange(0_u64, u64::MAX, start, Relaxed, Relaxed), start, 8),
            5 => is_done(slice.write_slice(&vec![0xff; len], start), start, len),
            6 => is_done(mem.read_all_into(at, &mut Vec::new(), len), start, len),
            _ => is_done(
                mem.load::<u64>(at, Relaxed)
                    .map(|word| assert!(word.as_bytes().iter().all(|byte| [0, 0xff].contains(byte)))),
                start,
                8,
            ),
        };
        counts[usize::from(!done)] += 1;
        assert!(buf.iter().all(|byte| [0, 0xff].contains(byte)), "a byte that nobody has written");
    }
    counts
}

#[test]
fn accesses_are_done_or_are_faults() {
    if !recovers() {
        return;
    }
    for mem in memories() {
        let (region, stop) = (&mem.arc_regions()[0], AtomicBool::new(false));
        thread::scope(|scope| {
            let accesses = [1, 2].map(|seed| {
                scope.spawn({
                    let (mem, stop) = (&mem, &stop);
                    move || access(mem, stop, seed)
                })
            });
            let (mut numbers, stops) = (Numbers(7), Stop(&stop));
            for _ in 0..rounds() {
                let (at, count) = numbers.part();
                region.unplug(offset(at), pages(count)).unwrap();
                let (at, count) = numbers.part();
                region.plug(offset(at), pages(count)).unwrap();
                // The kernel lets who changes a mapping come before who makes its pages.
                thread::sleep(Duration::from_micros(50));
            }
            drop(stops);
            for counts in accesses.map(|thread| thread.join().unwrap()) {
                eprintln!("{} done, {} faults", counts[0], counts[1]);
            }
        });
    }
}

#[test]
fn nothing_is_left_of_what_is_written_at_the_last_moment() {
    if !recovers() || !has_kernel() {
        return;
    }
    for mem in memories() {
        let (region, stop) = (&mem.arc_regions()[0], &AtomicBool::new(false));
        thread::scope(|scope| {
            let writers = [0, 1].map(|_| {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        match region.fill(0xff, COUNT * page(), offset(0)) {
                            Ok(()) | Err(Error::Fault { .. } | Error::ReadOnly { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            });
            let (mut bytes, stops) = (vec![0; COUNT * page()], Stop(stop));
            for _ in 0..rounds() / 2 {
                region.unplug(offset(0), pages(COUNT)).unwrap();
                // So that nobody writes it when it is plugged.
                region.protect(Protection::ReadOnly).unwrap();
                region.plug(offset(0), pages(COUNT)).unwrap();
                region.read_slice(&mut bytes, offset(0)).unwrap();
                assert!(bytes.iter().all(|&byte| byte == 0), "what was written before it was unplugged");
                region.protect(Protection::ReadWrite).unwrap();
                thread::yield_now();
            }
            drop(stops);
            for writer in writers {
                writer.join().unwrap();
            }
        });
    }
}

#[test]
fn whoever_else_changes_the_region_comes_before_or_after() {
    if !recovers() {
        return;
    }
    for mem in memories() {
        let region = &mem.arc_regions()[0];
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 1..3 {
                let (region, refused) = (&region, &refused);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    for _ in 0..rounds() {
                        let (at, count) = numbers.part();
                        if region.unplug(offset(at), pages(count)).is_err() {
                            refused.fetch_add(1, Relaxed);
                        }
                        let (at, count) = numbers.part();
                        region.plug(offset(at), pages(count)).unwrap();
                        // At the start of each range is what was said: nobody has it half done.
                        assert!(
                            region
                                .unplugged_ranges()
                                .windows(2)
                                .all(|two| two[0].offset.0 + two[0].len < two[1].offset.0)
                        );
                    }
                });
            }
            let region = &region;
            scope.spawn(move || {
                let mut numbers = Numbers(9);
                for round in 0..rounds() {
                    let protection = if round % 2 == 0 { Protection::ReadOnly } else { Protection::ReadWrite };
                    region.protect(protection).unwrap();
                    let (at, count) = numbers.part();
                    if protection == Protection::ReadWrite {
                        region.discard(offset(at), pages(count)).unwrap();
                    }
                }
                region.protect(Protection::ReadWrite).unwrap();
            });
        });
        eprintln!("{refused:?} were refused as the memory was read-only");
        for number in 0..COUNT {
            let plugged = region.is_plugged(offset(number), pages(1));
            assert_eq!(region.write_obj(1_u8, offset(number)).is_ok(), plugged, "page {number}");
        }
    }
}

#[test]
fn changes_of_a_map_come_one_after_another() {
    if !recovers() {
        return;
    }
    let map = GuestMemoryAtomic::new(memories().into_iter().next().unwrap());
    thread::scope(|scope| {
        for seed in 1..4 {
            let map = map.clone();
            scope.spawn(move || {
                let mut numbers = Numbers(seed);
                for _ in 0..rounds() / 3 {
                    let (at, count) = numbers.part();
                    map.unplug(GuestAddress(START + pages(at)), pages(count)).unwrap();
                    let (at, count) = numbers.part();
                    map.plug(GuestAddress(START + pages(at)), pages(count)).unwrap();
                }
            });
        }
    });
    map.plug(GuestAddress(START), pages(COUNT)).unwrap();
    map.memory().fill(1, COUNT * page(), GuestAddress(START)).unwrap();
    let region = Arc::clone(&map.memory().arc_regions()[0]);
    assert_eq!(region.unplugged_ranges(), []);
}
