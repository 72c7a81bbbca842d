//! Ranges: their unions, and the pieces in which they are sent.

use std::ops::Range;

use memory_model::dirty::{DirtyRange, union};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{cases, joined, range};

fn positions(range: DirtyRange) -> Range<u128> {
    let start = u128::from(range.start);
    start..start + u128::from(range.len)
}

/// Ranges among 64 positions, at either end of the address space or somewhere.
fn sources() -> impl Strategy<Value = Vec<Vec<DirtyRange>>> {
    let base = prop_oneof![Just(0), Just(0x1000), Just(0_u64.wrapping_sub(64))];
    let one = (0_u64..64).prop_flat_map(|start| (Just(start), prop_oneof![0..=64 - start, 0..=4.min(64 - start)]));
    (base, vec(vec(one, 0..6), 0..4)).prop_map(|(base, sources)| {
        let moved = |source: Vec<_>| source.into_iter().map(|(start, len)| range(base + start, len)).collect();
        sources.into_iter().map(moved).collect()
    })
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_union_is_what_any_source_has(sources in sources()) {
        let expected = joined(sources.iter().flatten().copied().map(positions).collect());
        prop_assert_eq!(union(sources), expected);
    }

    #[test]
    fn chunks_are_the_range_in_order(
        start in prop_oneof![0..1000_u64, u64::MAX - 1000..=u64::MAX],
        len in 0..=1000_u64,
        size in prop_oneof![0..70_u64, any::<u64>()],
    ) {
        let len = len.min((u64::MAX - start).saturating_add(1));
        let mut next = u128::from(start);
        for chunk in range(start, len).chunks(size) {
            prop_assert_eq!(u128::from(chunk.start), next);
            next += u128::from(chunk.len);
            prop_assert!(chunk.len > 0 && chunk.len <= size.max(1));
            prop_assert!(chunk.len == size.max(1) || next == u128::from(start) + u128::from(len), "a short one in between");
        }
        prop_assert_eq!(next, u128::from(start) + u128::from(len));
    }
}

#[test]
fn the_last_byte_of_all_is_in_a_union_and_in_a_chunk() {
    let (low, high) = (range(u64::MAX - 0x1fff, 0x1000), range(u64::MAX - 0xfff, 0x1000));
    assert_eq!(union([[high], [low]]), [range(u64::MAX - 0x1fff, 0x2000)]);
    assert_eq!(union([[high, high]]), [high]);
    assert_eq!(high.chunks(0x800).last(), Some(range(u64::MAX - 0x7ff, 0x800)));
}

#[test]
fn no_ranges_are_none() {
    assert_eq!(union::<Vec<DirtyRange>>([]), []);
    assert_eq!(union([[range(7, 0)]]), []);
    assert_eq!(range(7, 0).chunks(1).count(), 0);
}

/// What is sent at once of a page of a GiB: nobody collects the chunks.
#[test]
fn chunks_of_all_there_is_are_made_one_by_one() {
    assert_eq!(range(1, u64::MAX).chunks(u64::MAX).collect::<Vec<_>>(), [range(1, u64::MAX)]);
    assert_eq!(range(0, u64::MAX).chunks(1).nth(2), Some(range(2, 1)));
}
