//! Every length and alignment of every bulk operation, against the same on a plain array.

use std::vec::Vec;

use super::*;

/// Bytes of shared memory, aligned for every unit, each different from its neighbours.
#[repr(align(64))]
struct Shared([u8; 256]);

fn pattern(seed: usize) -> [u8; 256] {
    core::array::from_fn(|i| u8::try_from((i * 7 + seed * 13 + 1) % 251).unwrap())
}

const LENGTHS: core::ops::RangeInclusive<usize> = 0..=70;

#[test]
fn copies_move_just_their_bytes_at_every_alignment() {
    for (len, guest_at, own_at) in LENGTHS.flat_map(|len| (0..9).flat_map(move |g| (0..9).map(move |o| (len, g, o)))) {
        let mut shared = Shared(pattern(1));
        let mut own = pattern(2);
        let base = shared.0.as_mut_ptr();
        // SAFETY: inside both arrays.
        unsafe { copy_out(base.wrapping_add(guest_at), own.as_mut_ptr().wrapping_add(own_at), len) }.unwrap();
        let mut expected = pattern(2);
        expected[own_at..own_at + len].copy_from_slice(&pattern(1)[guest_at..guest_at + len]);
        assert_eq!(own, expected, "out of {guest_at} to {own_at}, {len} bytes");

        let own = pattern(3);
        // SAFETY: inside both arrays.
        unsafe { copy_in(base.wrapping_add(guest_at), own.as_ptr().wrapping_add(own_at), len) }.unwrap();
        let mut expected = pattern(1);
        expected[guest_at..guest_at + len].copy_from_slice(&own[own_at..own_at + len]);
        assert_eq!(shared.0, expected, "into {guest_at} from {own_at}, {len} bytes");
    }
}

#[test]
fn copies_within_shared_memory_may_overlap_either_way() {
    for (len, src, dst) in LENGTHS.flat_map(|len| (0..40).flat_map(move |s| (0..40).map(move |d| (len, s, d)))) {
        let mut shared = Shared(pattern(1));
        let base = shared.0.as_mut_ptr();
        // SAFETY: inside the array.
        unsafe { copy(base.wrapping_add(src), base.wrapping_add(dst), len) }.unwrap();
        let mut expected = pattern(1);
        expected.copy_within(src..src + len, dst);
        assert_eq!(shared.0, expected, "{src} to {dst}, {len} bytes");
    }
}

#[test]
fn fills_write_just_their_bytes_at_every_alignment() {
    for (len, at) in LENGTHS.flat_map(|len| (0..9).map(move |at| (len, at))) {
        let mut shared = Shared(pattern(1));
        // SAFETY: inside the array.
        unsafe { fill(shared.0.as_mut_ptr().wrapping_add(at), 0xa5, len) }.unwrap();
        let mut expected = pattern(1);
        expected[at..at + len].fill(0xa5);
        assert_eq!(shared.0, expected, "{len} bytes at {at}");
    }
}

#[test]
fn values_are_read_and_written_whole_at_every_alignment() {
    fn check<T: DataInit + PartialEq + core::fmt::Debug>() {
        for at in 0..20 {
            let mut shared = Shared(pattern(1));
            let base = shared.0.as_mut_ptr();
            let mut value = T::zeroed();
            value.as_mut_slice().copy_from_slice(&pattern(2)[..size_of::<T>()]);
            // SAFETY: inside the array.
            unsafe { write(base.wrapping_add(at), value) }.unwrap();
            // SAFETY: inside the array.
            assert_eq!(unsafe { read::<T>(base.wrapping_add(at)) }, Ok(value), "{} bytes at {at}", size_of::<T>());
            let mut expected = pattern(1);
            expected[at..at + size_of::<T>()].copy_from_slice(value.as_slice());
            assert_eq!(shared.0, expected);
        }
    }
    check::<u8>();
    check::<u16>();
    check::<u32>();
    check::<u64>();
    check::<u128>();
    check::<[u8; 0]>();
    check::<[u8; 3]>();
    check::<[u16; 4]>();
    check::<[u8; 33]>();
}

#[test]
fn an_order_that_does_not_fit_acts_as_seq_cst() {
    use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
    let all = [Relaxed, Acquire, Release, AcqRel, SeqCst];
    assert_eq!(all.map(load_order), [Relaxed, Acquire, SeqCst, SeqCst, SeqCst]);
    assert_eq!(all.map(store_order), [Relaxed, SeqCst, Release, SeqCst, SeqCst]);
    let mut shared = 5_u32;
    let place = &raw mut shared;
    for (success, failure) in all.into_iter().flat_map(|s| all.map(|f| (s, f))) {
        // SAFETY: an aligned integer of our own.
        assert_eq!(unsafe { u32::compare_exchange(place, 5, 5, success, failure) }, Ok(Ok(5)));
        // SAFETY: as above.
        assert_eq!(unsafe { u32::compare_exchange(place, 6, 7, success, failure) }, Ok(Err(5)));
    }
}

#[test]
fn only_aligned_integers_are_one_access() {
    let widths: Vec<_> = (0..=16).filter(|&width| is_unit(64, width)).collect();
    assert_eq!(widths, [1, 2, 4, 8]);
    assert!(!is_unit(65, 2) && !is_unit(66, 4) && !is_unit(68, 8));
    assert!(is_unit(65, 1) && is_unit(66, 2) && is_unit(68, 4));
}
