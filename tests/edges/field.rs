//! "What the field has got wrong", as far as there is code for it.

use std::io;
use std::sync::Arc;

use memory_model::dirty::{DirtyBitmap, DirtyRange, Sink, Tracker};
use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionCollection, GuestSlice, ReadVolatile, VolatileMemory,
    VolatileSlice, WriteVolatile,
};

use crate::custom::Custom;
use crate::memory;
use crate::promises::assert_err;

/// A source that gives `step` bytes a call, counting up.
struct Slow {
    step: usize,
    next: u8,
}

impl ReadVolatile for Slow {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let count = self.step.min(buf.len());
        for i in 0..count {
            buf.write_obj(self.next, i).map_err(io::Error::from)?;
            self.next = self.next.wrapping_add(1);
        }
        Ok(count)
    }
}

#[test]
fn a_stream_read_over_a_region_boundary_stops_at_the_first_short_transfer() {
    let mem = memory();
    let addr = GuestAddress(0x1ffa);
    // 3 bytes a call, asked for 6 in the first region: the second region is not reached, and no byte is left out.
    assert_eq!(mem.write_from(addr, &mut Slow { step: 3, next: 1 }, 12).unwrap(), 3);
    assert_eq!(mem.read_obj::<[u8; 12]>(addr).unwrap(), [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    mem.write_all_from(addr, &mut Slow { step: 5, next: 1 }, 12).unwrap();
    assert_eq!(mem.read_obj::<[u8; 12]>(addr).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn device_chosen_addresses_do_not_overflow() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(u64::MAX - 0xfff), 0x1000)]).unwrap();
    assert!(!mem.check_range(GuestAddress(u64::MAX - 3), 16));
    assert!(mem.check_range(GuestAddress(u64::MAX - 3), 4));
    let order = std::sync::atomic::Ordering::SeqCst;
    assert!(mem.load::<u8>(GuestAddress(u64::MAX), order).is_ok());
    assert_err!(mem.load::<u64>(GuestAddress(u64::MAX), order), Error::Misaligned { .. });
    assert!(!memory().check_range(GuestAddress(u64::MAX), usize::MAX));
    assert_eq!(memory().checked_offset(GuestAddress(u64::MAX), usize::MAX), None);
}

#[test]
fn a_cross_region_copy_takes_its_limit_from_what_is_left_after_the_offset() {
    // Regions of different sizes, with offsets in both: the piece is what is left of the shorter rest.
    let ranges = [(0x0, 0x3000), (0x3000, 0x1000), (0x4000, 0x2000), (0x6000, 0x1000)];
    let mem = GuestMemoryMmap::from_ranges(&ranges.map(|(start, len)| (GuestAddress(start), len))).unwrap();
    let text: Vec<u8> = (0..0x1800_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for (src, dst) in [(0x2f80, 0x4801), (0x4801, 0x2f80), (0x800, 0x27ff), (0x3001, 0x2000)] {
        mem.write_slice(&text, GuestAddress(src)).unwrap();
        mem.copy(GuestAddress(src), GuestAddress(dst), text.len()).unwrap();
        let mut copied = vec![0; text.len()];
        mem.read_slice(&mut copied, GuestAddress(dst)).unwrap();
        assert!(copied == text, "{src:#x} to {dst:#x}");
    }
    assert_err!(
        mem.copy(GuestAddress(0), GuestAddress(0x6f00), 0x200),
        Error::PartialBuffer { expected: 0x200, completed: 0x100 }
    );
}

#[test]
fn everything_written_by_safe_code_is_marked_after_a_slice_was_made_before_tracking_began() {
    let (mut buffer, tracker) = ([0_u8; 256], Tracker::new(0x1000));
    let slice = GuestSlice::new(VolatileSlice::from(&mut buffer[..]), Some(&tracker), GuestAddress(0x1000));
    let order = std::sync::atomic::Ordering::SeqCst;
    let marked = |write: &dyn Fn(&GuestSlice<'_>)| {
        // A bit for each byte.
        let bitmap = Arc::new(DirtyBitmap::new(256, 1).unwrap());
        let sink = Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0x1000 };
        tracker.attach(sink.clone());
        write(&slice);
        tracker.detach(&sink);
        let harvest = bitmap.harvest();
        let mut ranges = harvest.ranges();
        let first = ranges.next().map(|range| (range.start, range.start + range.len - 1));
        assert_eq!(ranges.next(), None);
        first
    };
    assert_eq!(marked(&|s| assert_eq!(s.write(b"abc", 8).unwrap(), 3)), Some((8, 10)));
    assert_eq!(marked(&|s| s.write_slice(b"abc", 16).unwrap()), Some((16, 18)));
    assert_eq!(marked(&|s| s.write_obj(0_u64, 24).unwrap()), Some((24, 31)));
    assert_eq!(marked(&|s| s.fill(1, 100, 50).unwrap()), Some((50, 149)));
    assert_eq!(marked(&|s| s.store(1_u32, 32, order).unwrap()), Some((32, 35)));
    let exchange = |held| {
        move |s: &GuestSlice<'_>| {
            assert_eq!(s.compare_exchange(1_u32, 2, 32, order, order).unwrap(), held);
        }
    };
    assert_eq!(marked(&exchange(Ok(1))), Some((32, 35)));
    assert_eq!(marked(&exchange(Err(2))), None, "it failed: nothing was written");
    assert_eq!(
        marked(&|s| assert_eq!(s.write_from(64, &mut Slow { step: 5, next: 0 }, 9).unwrap(), 5)),
        Some((64, 72)),
        "a source of the caller's may have used all that it was offered"
    );
    assert_eq!(marked(&|s| s.write_all_from(64, &mut Slow { step: 5, next: 0 }, 9).unwrap()), Some((64, 72)));
    let copy = |s: &GuestSlice<'_>| {
        let (src, dst) = (s.subslice(0, 10).unwrap(), s.subslice(100, 20).unwrap());
        assert_eq!(src.copy_to_guest_slice(dst).unwrap(), 10);
    };
    assert_eq!(marked(&copy), Some((100, 109)));
    // What was cut short marks just what arrived; what never began marks nothing; reads never mark.
    assert_eq!(marked(&|s| assert_eq!(s.write(&[0; 9], 250).unwrap(), 6)), Some((250, 255)));
    assert_eq!(marked(&|s| assert!(s.write_slice(&[0; 9], 250).is_err())), Some((250, 255)));
    assert_eq!(marked(&|s| assert!(s.write_obj(0_u64, 253).is_err())), Some((253, 255)));
    assert_eq!(marked(&|s| assert!(s.write_slice(&[0; 9], 256).is_err())), None);
    assert_eq!(marked(&|s| assert!(s.store(0_u32, 33, order).is_err())), None);
    let reads = |s: &GuestSlice<'_>| {
        s.read_slice(&mut [0; 9], 3).unwrap();
        s.read_obj::<u64>(8).unwrap();
        s.load::<u32>(8, order).unwrap();
        s.read_all_into(0, &mut Vec::new(), 100).unwrap();
    };
    assert_eq!(marked(&reads), None);
}

#[test]
fn what_is_written_through_a_memory_is_marked_in_its_regions() {
    let mem = memory();
    let log = mem.start_tracking(0x1000).unwrap();
    mem.write_slice(&[1; 0x20], GuestAddress(0x1ff0)).unwrap();
    mem.copy(GuestAddress(0x1ff0), GuestAddress(0x4100), 0x10).unwrap();
    let ranges = [DirtyRange { start: 0x1000, len: 0x2000 }, DirtyRange { start: 0x4000, len: 0x1000 }];
    assert_eq!(log.harvest().ranges().collect::<Vec<_>>(), ranges);
}

#[test]
fn copies_of_elements_without_bytes_do_not_divide_by_zero() {
    let mut buffer = [0_u8; 8];
    let slice = VolatileSlice::from(&mut buffer[..]);
    assert_eq!(slice.copy_to::<[u8; 0]>(&mut [[]; 3]).unwrap(), 3);
    assert_eq!(slice.copy_from::<[u8; 0]>(&[[]; 3]).unwrap(), 3);
    let array = slice.get_array_ref::<[u8; 0]>(4, usize::MAX).unwrap();
    assert_eq!(array.load(usize::MAX - 1).unwrap(), []);
}

#[test]
fn is_empty_is_true_of_what_is_empty() {
    let mut buffer = [0_u8; 8];
    let slice = VolatileSlice::from(&mut buffer[..]);
    assert!(!slice.is_empty() && !VolatileMemory::is_empty(&slice));
    let none = slice.subslice(8, 0).unwrap();
    assert!(none.is_empty() && VolatileMemory::is_empty(&none));
    assert!(slice.get_array_ref::<u64>(0, 0).unwrap().is_empty());
    assert!(!slice.get_array_ref::<u64>(0, 1).unwrap().is_empty());
    let guest = GuestSlice::new(slice, None, GuestAddress(0));
    assert!(!guest.is_empty() && guest.subslice(3, 0).unwrap().is_empty());
}

#[test]
fn an_implementation_that_claims_too_much_or_moves_nothing_is_an_error_and_not_a_hang() {
    struct Liar;
    impl ReadVolatile for Liar {
        fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
            Ok(buf.len() + 1)
        }
    }
    impl WriteVolatile for Liar {
        fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
            Ok(buf.len() + 1)
        }
    }
    let custom = GuestRegionCollection::from_regions(vec![Custom::new(0x1000, 0x100)]).unwrap();
    let addr = GuestAddress(0x1000);
    assert_err!(memory().write_from(addr, &mut Liar, 8), Error::Overrun { expected: 8, claimed: 9 });
    assert_err!(memory().write_all_from(addr, &mut Liar, 8), Error::Overrun { expected: 8, claimed: 9 });
    assert_err!(memory().read_into(addr, &mut Liar, 8), Error::Overrun { expected: 8, claimed: 9 });
    assert_err!(custom.write_from(addr, &mut Liar, 8), Error::Overrun { expected: 8, claimed: 9 });
    assert_err!(custom.read_all_into(addr, &mut Liar, 8), Error::Overrun { expected: 8, claimed: 9 });

    let mut stuck = Custom::new(0x1000, 0x100);
    stuck.step = 0;
    let stuck = GuestRegionCollection::from_regions(vec![stuck]).unwrap();
    assert_err!(stuck.write_slice(b"ab", addr), Error::PartialBuffer { expected: 2, completed: 0 });
    assert_err!(stuck.read_obj::<u64>(addr), Error::PartialBuffer { expected: 8, completed: 0 });
    assert_err!(stuck.fill(1, 2, addr), Error::PartialBuffer { expected: 2, completed: 0 });
    assert_eq!(stuck.write(b"ab", addr).unwrap(), 0);
    // Bytes that were taken from a stream and could not be put anywhere are not lost without saying so.
    let lost = stuck.write_from(addr, &mut Slow { step: 5, next: 0 }, 8);
    assert_err!(lost, Error::PartialBuffer { expected: 5, completed: 0 });
    let ended = memory().write_all_from(addr, &mut &b"abc"[..], 8);
    assert_err!(ended, Error::PartialBuffer { expected: 8, completed: 3 });
}

#[test]
fn a_region_that_moves_little_at_a_time_is_written_whole() {
    let mut custom = Custom::new(0x1000, 0x100);
    custom.step = 3;
    let mem = GuestRegionCollection::from_regions(vec![custom]).unwrap();
    let text: Vec<u8> = (0..200).collect();
    mem.write_slice(&text, GuestAddress(0x1001)).unwrap();
    let mut back = vec![0; 200];
    mem.read_slice(&mut back, GuestAddress(0x1001)).unwrap();
    assert_eq!(back, text);
    mem.fill(9, 100, GuestAddress(0x1010)).unwrap();
    mem.write_all_from(GuestAddress(0x1000), &mut &text[..], 200).unwrap();
    let mut sink = Vec::new();
    mem.read_all_into(GuestAddress(0x1000), &mut sink, 200).unwrap();
    assert_eq!(sink, text);
}
