//! The index against a linear search, on the layouts that guests have and on those that are made to hurt.

#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "a test that panics has failed")]

use std::vec;
use std::vec::Vec;

use super::*;

fn linear(ranges: &[Range], addr: u64) -> Option<(usize, u64)> {
    let number = ranges.iter().position(|range| (range.start..=range.last).contains(&addr))?;
    Some((number, addr - ranges[number].start))
}

/// Looks every range's edges up, and what lies beside them, and answers how many tables the longest lookup needs.
fn check(ranges: &[Range]) -> usize {
    let index = Index::new(ranges.to_vec());
    let edges = ranges.iter().flat_map(|range| [range.start, range.last, range.start / 2 + range.last / 2]);
    for addr in edges.chain([0, u64::MAX / 2, u64::MAX]) {
        for addr in [addr.wrapping_sub(1), addr, addr.wrapping_add(1)] {
            assert_eq!(index.find(addr), linear(ranges, addr), "{addr:#x} in {ranges:x?}");
        }
    }
    index.depth()
}

fn range(start: u64, len: u64) -> Range {
    Range { start, last: start + (len - 1) }
}

#[test]
fn nothing_is_found_in_nothing() {
    assert_eq!(check(&[]), 1);
    assert_eq!(Index::default().find(0), None);
}

#[test]
fn one_range_is_found_wherever_it_lies() {
    let whole = Range { start: 0, last: u64::MAX };
    for one in [range(0, 1), range(u64::MAX, 1), range(u64::MAX - 4095, 4096), range(0x1000, 1 << 40), whole] {
        assert_eq!(check(&[one]), 1);
    }
}

#[test]
fn lookups_of_even_layouts_go_through_one_table_however_many_ranges_there_are() {
    for count in [2, 8, 64, 1024, 4096_u64] {
        for (size, distance) in [(1, 1), (1, 3), (4096, 4096), (4096, 1 << 30), (1 << 30, 1 << 30), (4096, 1 << 46)] {
            if (count - 1).checked_mul(distance).is_some() {
                let ranges: Vec<_> = (0..count).map(|i| range(i * distance, size)).collect();
                let sampled = if count <= 64 { check(&ranges) } else { Index::new(ranges).depth() };
                assert_eq!(sampled, 1, "{count} ranges of {size:#x} bytes, {distance:#x} apart");
            }
        }
    }
}

#[test]
fn an_ordinary_guest_needs_few_tables() {
    let low_and_high = [range(0, 0xa0000), range(0x10_0000, 0xbff0_0000), range(0x1_0000_0000, 0x10_0000_0000)];
    assert_eq!(check(&low_and_high), 1);
    // 512 memory slots of 128 MiB behind the same low memory, and a few small ranges below 4 GiB.
    let mut ranges = vec![range(0, 0xa0000), range(0xc_0000, 0x2_0000), range(0x10_0000, 0xbff0_0000)];
    ranges.extend((0..8).map(|i| range(0xfec0_0000 + i * 0x1000, 0x1000)));
    ranges.extend((0..512).map(|i| range((1 << 32) + (i << 27), 1 << 27)));
    assert!(check(&ranges) <= 3);
}

#[test]
fn clusters_in_a_wide_address_space_cost_a_few_tables_and_not_one_more_for_more_ranges() {
    for count in [8, 64, 1024] {
        let far = |cluster: u64| (0..count).map(move |i| range((cluster << 60) + i * 0x2000, 0x1000));
        let ranges: Vec<_> = (0..4).flat_map(far).collect();
        let depth = if count <= 64 { check(&ranges) } else { Index::new(ranges).depth() };
        assert!(depth <= 3, "{depth} tables for clusters of {count}");
    }
}

#[test]
fn the_worst_layout_is_bounded_by_the_width_of_an_address() {
    // Each range is twice as far as the one before: no chunk size suits more than a few.
    let ranges: Vec<_> = (0..63).map(|bit| range(1 << bit, 1)).collect();
    assert!(check(&ranges) <= 11);
}

#[test]
fn random_layouts_agree_with_a_linear_search() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let width = random() % 64;
        let mut starts: Vec<u64> = (0..random() % 40).map(|_| random() >> width).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).copied().chain([u64::MAX]);
        let ranges = starts.iter().zip(ends).map(|(&start, next)| {
            let room = next - start;
            range(start, if room < 2 { 1 } else { 1 + random() % room })
        });
        check(&ranges.collect::<Vec<_>>());
    }
}
