//! Bitmaps in memory that another process harvests: which bits of which bytes, and that a peer who gives less memory than
//! it should, or takes some away, does no harm.

#![expect(unsafe_code, reason = "provides memory that begins in the middle of a mapping")]

use std::collections::BTreeSet;
use std::sync::Arc;

use memory_model::dirty::LogBitmap;
use memory_model::{Bytes, GuestAddress, MmapRegion, VolatileMemory, VolatileSlice, volatile_memory};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::cases;

const PAGE: u64 = 4096;

/// A part of a mapping.
struct Part {
    mapping: MmapRegion,
    start: usize,
    len: usize,
}

impl Part {
    fn new(start: usize, len: usize) -> Arc<Self> {
        Arc::new(Self { mapping: MmapRegion::new(start + len + 64).unwrap(), start, len })
    }

    /// What it holds; and nothing else was written.
    fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.mapping.len()];
        self.mapping.as_volatile_slice().read_slice(&mut all, 0).unwrap();
        let outside = all[..self.start].iter().chain(&all[self.start + self.len..]);
        assert!(outside.copied().all(|byte| byte == 0), "bytes beside the bitmap were written");
        all[self.start..][..self.len].to_vec()
    }
}

// SAFETY: answers for a part of the mapping as the mapping does.
unsafe impl VolatileMemory for Part {
    fn len(&self) -> usize {
        self.len
    }

    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        self.mapping.get_slice(self.start, self.len)?.subslice(offset, count)
    }
}

/// The pages of so many bytes.
fn pages(start: u64, len: u64) -> std::ops::Range<u64> {
    let end = u128::from(start) + u128::from(len);
    if len == 0 { 0..0 } else { start / PAGE..u64::try_from(end.div_ceil(PAGE.into())).unwrap() }
}

fn bits(pages: &BTreeSet<u64>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for page in pages {
        if let Some(byte) = usize::try_from(page / 8).ok().and_then(|at| bytes.get_mut(at)) {
            *byte |= 1 << (page % 8);
        }
    }
    bytes
}

/// A place in the first 300 pages, which are more than there are bits for.
fn span() -> impl Strategy<Value = (u64, u64)> {
    let start = prop_oneof![
        (0..300_u64, prop_oneof![Just(0), Just(1), Just(PAGE - 1), 0..PAGE]).prop_map(|(page, at)| page * PAGE + at),
        (0..10_u64).prop_map(|below| u64::MAX - below),
        any::<u64>(),
    ];
    let len = prop_oneof![0..3_u64, 0..3 * PAGE, 0..200 * PAGE, any::<u64>()];
    (start, len).prop_map(|(start, len)| (start, len.min((u64::MAX - start).saturating_add(1))))
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn a_bit_for_each_page_wherever_the_bitmap_begins_and_ends(
        start in 0..20_usize,
        len in 0..35_usize,
        base in prop_oneof![Just(0), Just(1), 0..300_u64, Just(u64::MAX / PAGE)],
        spans in vec(span(), 0..10),
    ) {
        let memory = Part::new(start, len);
        let log = LogBitmap::from_base(Arc::clone(&memory), GuestAddress(base * PAGE + base % PAGE));
        let (mut marked, mut dropped) = (BTreeSet::new(), 0);
        for (start, len_of_span) in spans {
            log.mark(start, len_of_span);
            let pages = pages(start, len_of_span);
            let here = base..base.saturating_add(len as u64 * 8);
            marked.extend((pages.start.max(here.start)..pages.end.min(here.end)).map(|page| page - base));
            dropped += pages.end.saturating_sub(pages.start.max(here.end));
            dropped += pages.end.min(here.start).saturating_sub(pages.start);
            prop_assert_eq!(memory.bytes(), bits(&marked, len));
            prop_assert_eq!(log.dropped(), dropped);
        }
    }
}

/// As the specification of vhost-user has it: of the byte at page / 8 the bit page % 8.
#[test]
fn the_bits_are_those_of_the_specification() {
    for page in 0..512 {
        let memory = Part::new(0, 64);
        LogBitmap::new(Arc::clone(&memory)).mark(page * PAGE + 17, 1);
        let bytes = memory.bytes();
        let set =
            (0..64).flat_map(|at| (0..8).map(move |bit| (at, bit))).filter(|&(at, bit)| bytes[at] >> bit & 1 == 1);
        let set: Vec<_> = set.map(|(at, bit)| at as u64 * 8 + bit).collect();
        assert_eq!(set, [page]);
    }
}

/// Bits that the peer has set or cleared are the peer's business: each mark sets its own, and no other changes.
#[test]
fn marks_leave_other_bits_alone_and_are_made_again_after_the_peer_took_them() {
    let memory = Part::new(3, 24);
    let log = LogBitmap::new(Arc::clone(&memory));
    for round in 0..3 {
        memory.as_volatile_slice().fill(0b1010_1010, 24, 0).unwrap();
        log.mark(64 * PAGE, PAGE);
        log.mark(70 * PAGE, 2 * PAGE);
        let mut expected = [0b1010_1010; 24];
        expected[8] |= 0b1100_0001;
        assert_eq!(memory.bytes(), expected, "round {round}");
    }
}

#[test]
fn all_of_the_address_space_is_marked_in_no_time_in_a_bitmap_that_ends() {
    let memory = Part::new(0, 9);
    let log = LogBitmap::new(Arc::clone(&memory));
    log.mark(0, u64::MAX);
    assert_eq!(memory.bytes(), [0xff; 9]);
    assert_eq!(log.dropped(), (1 << 52) - 72);
    log.mark(u64::MAX, 1);
    log.mark(u64::MAX - 1, 2);
    assert_eq!(log.dropped(), (1 << 52) - 72 + 2);
}

#[test]
fn a_bitmap_of_no_bytes() {
    let log = LogBitmap::new(Part::new(0, 0));
    log.mark(0, 0);
    assert_eq!(log.dropped(), 0);
    log.mark(0, PAGE + 1);
    assert_eq!(log.dropped(), 2);
}

#[test]
#[cfg(feature = "fault-recovery")]
fn a_peer_that_shrinks_its_bitmap_loses_marks_and_stops_nobody() {
    use memory_model::{FileOffset, fault_recovery};

    let page = rustix::param::page_size();
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * page as u64).unwrap();
    let memory = Arc::new(MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), 2 * page).unwrap());
    if !fault_recovery::is_installed() {
        memory_model_test_support::skip!("no fault recovery on this target");
        return;
    }
    let log = LogBitmap::new(Arc::clone(&memory));
    let bits = page as u64 * 8;
    log.mark((bits - 1) * PAGE, 2 * PAGE);
    assert_eq!(log.dropped(), 0);
    file.set_len(page as u64).unwrap();
    log.mark((bits - 1) * PAGE, 2 * PAGE);
    assert_eq!(log.dropped(), 1);
    log.mark((bits + 100) * PAGE, 100 * PAGE);
    assert_eq!(log.dropped(), 101);
    log.mark(0, u64::MAX);
    assert_eq!(log.dropped(), 101 + (1 << 52) - bits);
    // What it gives back is marked again.
    file.set_len(2 * page as u64).unwrap();
    assert_eq!(memory.as_volatile_slice().read_obj::<u8>(page).unwrap(), 0);
    log.mark(bits * PAGE, 1);
    assert_eq!(memory.as_volatile_slice().read_obj::<u8>(page).unwrap(), 1);
    assert_eq!(log.dropped(), 101 + (1 << 52) - bits);
    let first = memory.as_volatile_slice().read_obj::<[u8; 16]>(page - 16).unwrap();
    assert_eq!(first, [0xff; 16]);
}

/// Eight threads set all bits one by one, while a peer takes them away: each is taken at least once.
#[test]
fn no_mark_is_lost_to_a_peer_that_takes_bits_meanwhile() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LEN: usize = 67;
    let memory = Part::new(5, LEN);
    let log = LogBitmap::new(Arc::clone(&memory));
    let mut taken = vec![0_u8; LEN];
    let writing = AtomicUsize::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (log, writing) = (&log, &writing);
            scope.spawn(move || {
                (thread..LEN as u64 * 8).step_by(8).for_each(|page| log.mark(page * PAGE, 1));
                writing.fetch_sub(1, Ordering::Release);
            });
        }
        loop {
            let last = writing.load(Ordering::Acquire) == 0;
            for (at, taken) in taken.iter_mut().enumerate() {
                let slice = memory.as_volatile_slice();
                loop {
                    let held: u8 = slice.load(at, Ordering::Relaxed).unwrap();
                    let swapped = slice.compare_exchange(held, 0, at, Ordering::AcqRel, Ordering::Relaxed).unwrap();
                    if swapped.is_ok() {
                        *taken |= held;
                        break;
                    }
                }
            }
            if last {
                break;
            }
        }
    });
    assert_eq!(taken, vec![0xff; LEN]);
    assert_eq!(log.dropped(), 0);
}
