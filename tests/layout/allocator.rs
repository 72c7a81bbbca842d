//! The allocator against a bitmap: the same answers as looking at one address after the other.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

use memory_model::GuestAddress;
use memory_model::layout::{AddressAllocator, AllocError};
use proptest::collection::vec;
use proptest::prelude::*;

/// How many addresses there are.
const SIZE: usize = 96;

/// What is asked for, in addresses from the first one on.
#[derive(Clone, Debug)]
enum Op {
    Allocate {
        len: usize,
        align_bits: u32,
        within: (Bound<usize>, Bound<usize>),
    },
    AllocateAt {
        start: usize,
        len: usize,
    },
    /// The allocation of that number, if there are as many; else the address of that number.
    Free(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let bound = || {
        prop_oneof![
            2 => Just(Bound::Unbounded),
            1 => (0..SIZE).prop_map(Bound::Included),
            1 => (0..SIZE).prop_map(Bound::Excluded),
        ]
    };
    prop_oneof![
        3 => (0..24_usize, 0..6_u32, (bound(), bound()))
            .prop_map(|(len, align_bits, within)| Op::Allocate { len, align_bits, within }),
        1 => (0..SIZE, 0..24_usize).prop_map(|(start, len)| Op::AllocateAt { start, len }),
        3 => (0..SIZE).prop_map(Op::Free),
    ]
}

/// The naive allocator: which addresses are free, and what begins where.
struct Bitmap {
    base: u64,
    free: [bool; SIZE],
    allocations: BTreeMap<usize, usize>,
}

impl Bitmap {
    fn is_free(&self, start: usize, len: usize) -> bool {
        self.free.get(start..start + len).is_some_and(|bits| bits.iter().all(|&free| free))
    }

    fn take(&mut self, start: usize, len: usize) {
        self.free[start..start + len].fill(false);
        self.allocations.insert(start, len);
    }

    fn allocate(&mut self, len: usize, align: u64, within: (Bound<usize>, Bound<usize>)) -> Option<usize> {
        use std::ops::RangeBounds;

        let fits = |start: usize| {
            let aligned = (self.base + start as u64) % align == 0;
            aligned && self.is_free(start, len) && (start..start + len).all(|addr| within.contains(&addr))
        };
        let start = (0..SIZE).find(|&start| len > 0 && fits(start))?;
        self.take(start, len);
        Some(start)
    }

    /// The free ranges.
    fn free_ranges(&self) -> Vec<RangeInclusive<GuestAddress>> {
        let mut ranges = Vec::new();
        let mut addr = 0;
        while addr < SIZE {
            let len = self.free[addr..].iter().take_while(|&&free| free).count();
            if len > 0 {
                ranges.push(self.at(addr)..=self.at(addr + len - 1));
            }
            addr += len.max(1);
        }
        ranges
    }

    fn at(&self, offset: usize) -> GuestAddress {
        GuestAddress(self.base + offset as u64)
    }
}

/// Makes the call on both and compares the answers, then all that there is to see.
fn step(room: &mut AddressAllocator, bitmap: &mut Bitmap, op: &Op) {
    match *op {
        Op::Allocate { len, align_bits, within } => {
            let align = 1 << align_bits;
            let expected = bitmap.allocate(len, align, within).map(|start| bitmap.at(start));
            let at = |bound: Bound<usize>| bound.map(|offset| bitmap.at(offset));
            let answer = room.allocate(len as u64, align, (at(within.0), at(within.1)));
            assert_eq!(answer.ok(), expected, "{answer:?}");
        }
        Op::AllocateAt { start, len } => {
            let expected = len > 0 && bitmap.is_free(start, len);
            let answer = room.allocate_at(bitmap.at(start), len as u64);
            assert_eq!(answer.is_ok(), expected, "{answer:?}");
            if let Err(AllocError::Taken { addr: taken, .. }) = answer {
                let first = (start..start + len).find(|&addr| !bitmap.is_free(addr, 1));
                assert_eq!(Some(taken.0), first.map(|first| bitmap.base + first as u64));
            }
            if expected {
                bitmap.take(start, len);
            }
        }
        Op::Free(number) => {
            let start = bitmap.allocations.keys().nth(number).copied().unwrap_or(number);
            let expected = bitmap.allocations.remove(&start);
            assert_eq!(room.free(bitmap.at(start)).ok(), expected.map(|len| len as u64));
            if let Some(len) = expected {
                bitmap.free[start..start + len].fill(true);
            }
        }
    }
    let allocations = bitmap.allocations.iter().map(|(&start, &len)| (bitmap.at(start), len as u64));
    assert!(room.allocations().eq(allocations));
    assert_eq!(room.free_ranges().collect::<Vec<_>>(), bitmap.free_ranges());
}

fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 2000 }, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    /// At both ends of the address space, and in the middle, where nothing is aligned.
    #[test]
    fn the_answers_of_a_bitmap(
        base in prop_oneof![Just(0), Just(0xfff3), Just(u64::MAX - (SIZE as u64 - 1))],
        ops in vec(op(), 0..60),
    ) {
        let space = GuestAddress(base)..=GuestAddress(base + (SIZE as u64 - 1));
        let mut room = AddressAllocator::new(space.clone());
        let mut bitmap = Bitmap { base, free: [true; SIZE], allocations: BTreeMap::new() };
        for op in &ops {
            step(&mut room, &mut bitmap, op);
        }
        // Freed, all of it is one range again.
        for start in bitmap.allocations.keys() {
            room.free(bitmap.at(*start)).unwrap();
        }
        prop_assert_eq!(room.allocate(SIZE as u64, 1, ..), Ok(GuestAddress(base)));
        room.free(GuestAddress(base)).unwrap();
        prop_assert_eq!(room, AddressAllocator::new(space));
    }
}

#[test]
fn all_addresses_but_one() {
    let mut room = AddressAllocator::new(GuestAddress(0)..=GuestAddress(u64::MAX));
    assert_eq!(room.allocate(u64::MAX, 1, ..), Ok(GuestAddress(0)));
    assert_eq!(room.allocate(1, 1, ..), Ok(GuestAddress(u64::MAX)));
    assert!(room.allocate(1, 1, ..).is_err());
    assert_eq!(room.free(GuestAddress(u64::MAX)), Ok(1));
    assert_eq!(room.free(GuestAddress(0)), Ok(u64::MAX));
    assert_eq!(room.allocate(1 << 63, 1 << 63, GuestAddress(1)..), Ok(GuestAddress(1 << 63)));
    assert_eq!(room.free_ranges().collect::<Vec<_>>(), [GuestAddress(0)..=GuestAddress((1 << 63) - 1)]);
}

#[test]
fn no_addresses_at_all() {
    let mut room = AddressAllocator::new(GuestAddress(1)..=GuestAddress(0));
    assert_eq!(room.free_ranges().count(), 0);
    assert!(room.allocate(1, 1, ..).is_err() && room.allocate_at(GuestAddress(0), 1).is_err());
}
