//! Slot numbers.

use std::collections::BTreeSet;

use memory_model::atomic::SlotAllocator;
use proptest::prelude::*;

#[test]
fn a_range_may_be_empty_or_end_at_the_last_number() {
    assert_eq!(SlotAllocator::new(3..3).allocate(), None);
    let mut last = SlotAllocator::new(u32::MAX - 1..u32::MAX);
    assert_eq!((last.allocate(), last.allocate()), (Some(u32::MAX - 1), None));
    assert_eq!(last.in_use(), 1);
}

proptest! {
    #[test]
    fn the_lowest_that_is_free_is_next(first in 0..5_u32, count in 0..20_u32, ops in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
        let mut slots = SlotAllocator::new(first..first + count);
        let mut used = BTreeSet::new();
        for op in ops {
            match op {
                None => {
                    let lowest = (first..first + count).find(|number| !used.contains(number));
                    prop_assert_eq!(slots.allocate(), lowest);
                    used.extend(lowest);
                }
                Some(number) => {
                    let number = u32::from(number % 32);
                    prop_assert_eq!(slots.free(number), used.remove(&number));
                }
            }
            prop_assert_eq!(slots.in_use(), used.len());
        }
    }
}
