//! Addresses and integers of a fixed byte order, as their users see them.

use std::collections::HashSet;

use memory_model::{
    Address, AtomicAccess, Be16, Be32, Be64, BeSize, Bytes, GuestAddress, IoAddress, Le16, Le32, Le64, LeSize,
    VolatileSlice, impl_address_ops,
};

macro_rules! addresses {
    ($($name:ident: $T:ident($V:ty);)*) => {$(
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        struct $T($V);
        impl_address_ops!($T, $V);

        #[test]
        fn $name() {
            address_arithmetic::<$T>(<$V>::MAX, |v| <$V>::try_from(v).unwrap_or(0));
        }
    )*};
}
addresses! {
    addresses_of_16_bits: Address16(u16);
    addresses_of_32_bits: Address32(u32);
    addresses_of_64_bits: Address64(u64);
    addresses_of_the_hosts_size: AddressSize(usize);
}

#[test]
fn offsets_are_addresses() {
    address_arithmetic::<usize>(usize::MAX, usize::from);
}

/// The arithmetic of any address, in units from either end of its space.
fn address_arithmetic<A: Address + std::fmt::Debug>(max: A::V, v: impl Fn(u16) -> A::V)
where
    A::V: std::fmt::Debug,
{
    let at = |n| A::new(v(n));
    let top = A::new(max);
    assert_eq!(A::default(), at(0));
    assert_eq!(at(7).raw_value(), v(7));
    assert_eq!(at(7).checked_add(v(3)), Some(at(10)));
    assert_eq!(top.checked_add(v(0)), Some(top));
    assert_eq!(top.checked_add(v(1)), None);
    assert_eq!(top.overflowing_add(v(3)), (at(2), true));
    assert_eq!(at(1).overflowing_add(v(3)), (at(4), false));
    assert_eq!(at(7).unchecked_add(v(3)), at(10));
    assert_eq!(at(7).checked_sub(v(7)), Some(at(0)));
    assert_eq!(at(7).checked_sub(v(8)), None);
    assert_eq!(at(2).overflowing_sub(v(3)), (top, true));
    assert_eq!(at(7).unchecked_sub(v(3)), at(4));
    assert_eq!(at(7).checked_offset_from(at(3)), Some(v(4)));
    assert_eq!(at(3).checked_offset_from(at(3)), Some(v(0)));
    assert_eq!(at(3).checked_offset_from(at(4)), None);
    assert_eq!(at(7).unchecked_offset_from(at(3)), v(4));
    assert_eq!(at(0x123).mask(v(0xff)), v(0x23));
    assert_eq!((at(0x123) & v(0xff), at(0x120) | v(3)), (at(0x23), at(0x123)));
    assert_eq!(at(0x123).align_down(v(0x10)), at(0x120));
    assert_eq!(at(0x120).align_down(v(0x10)), at(0x120));
    assert_eq!(at(0x123).align_down(v(1)), at(0x123));
    assert_eq!(at(0x123).checked_align_up(v(0x10)), Some(at(0x130)));
    assert_eq!(at(0x120).checked_align_up(v(0x10)), Some(at(0x120)));
    assert_eq!(at(0x123).checked_align_up(v(1)), Some(at(0x123)));
    assert_eq!(top.checked_align_up(v(0x10)), None);
    assert_eq!(at(0).checked_align_up(v(0)), None, "0 is no power of two");
    assert_eq!(at(0).checked_align_up(v(12)), None, "nor is 12");
    assert!(at(3) < at(4) && top > at(4));
}

#[test]
#[cfg(not(debug_assertions))]
fn unchecked_arithmetic_wraps_in_release_builds() {
    assert_eq!(GuestAddress(u64::MAX).unchecked_add(2), GuestAddress(1));
    assert_eq!(GuestAddress(1).unchecked_sub(2), GuestAddress(u64::MAX));
    assert_eq!(GuestAddress(1).unchecked_offset_from(GuestAddress(2)), u64::MAX);
}

#[test]
#[cfg(debug_assertions)]
fn unchecked_arithmetic_panics_in_debug_builds() {
    let panics = |f: fn() -> u64| std::panic::catch_unwind(f).is_err();
    assert!(panics(|| GuestAddress(u64::MAX).unchecked_add(2).0));
    assert!(panics(|| GuestAddress(1).unchecked_sub(2).0));
    assert!(panics(|| GuestAddress(1).unchecked_offset_from(GuestAddress(2))));
}

#[test]
fn addresses_are_shown_in_hex() {
    assert_eq!(format!("{:?} {0}", GuestAddress(0xfee0_0000)), "GuestAddress(0xfee00000) 0xfee00000");
    assert_eq!(format!("{:?} {0:x}", IoAddress(0x1f)), "IoAddress(0x1f) 1f");
}

/// Bytes at an address where every integer may lie atomically. (An array of `u64` need not be, on 32-bit x86.)
#[repr(align(8))]
struct Aligned([u8; 32]);

/// What all integers of a fixed order do; `bytes` is how `value` lies in memory.
fn integer<T, N>(value: N, bytes: &[u8], smaller: N)
where
    T: From<N> + PartialEq<N> + PartialOrd<N> + Ord + std::hash::Hash + Default + AtomicAccess,
    T: std::fmt::Display + std::fmt::Debug,
    N: From<T> + Eq + Copy + std::fmt::Display + std::fmt::Debug + Default,
{
    let fixed = T::from(value);
    assert_eq!(fixed.as_slice(), bytes);
    assert_eq!(N::from(fixed), value);
    assert_eq!((fixed == value, fixed == smaller), (true, false));
    assert_eq!((fixed > smaller, fixed < value), (true, false));
    assert_eq!(Ord::cmp(&fixed, &T::from(smaller)), std::cmp::Ordering::Greater);
    assert_eq!(fixed.to_string(), value.to_string());
    assert!(format!("{fixed:?}").ends_with(&format!("({value:?})")));
    assert_eq!(T::default(), N::default());
    assert_eq!(HashSet::from([fixed, T::from(value), T::from(smaller)]).len(), 2);
    // In memory, plainly and atomically, misaligned and aligned.
    let mut buffer = Aligned([0; 32]);
    let slice = VolatileSlice::from(&mut buffer.0[..]);
    for at in [0, 8, 3] {
        slice.write_obj(fixed, at).expect("inside");
        let mut read = vec![0; bytes.len()];
        slice.read_slice(&mut read, at).expect("inside");
        assert_eq!(read, bytes);
    }
    let order = std::sync::atomic::Ordering::SeqCst;
    slice.store(T::from(smaller), 16, order).expect("aligned");
    assert_eq!(
        slice.compare_exchange(T::from(smaller), fixed, 16, order, order).expect("aligned"),
        Ok(T::from(smaller))
    );
    assert_eq!(slice.load::<T>(16, order).expect("aligned"), fixed);
}

const FIXED: Le32 = Le32::new(7);

#[test]
fn integers_of_a_fixed_order_lie_in_memory_as_their_names_say() {
    integer::<Le16, u16>(0x0201, &[1, 2], 0x0102);
    integer::<Le32, u32>(0x0403_0201, &[1, 2, 3, 4], 0x0102_0304);
    integer::<Le64, u64>(0x0807_0605_0403_0201, &[1, 2, 3, 4, 5, 6, 7, 8], 0x0102_0304_0506_0708);
    integer::<Be16, u16>(0x0201, &[2, 1], 0x0102);
    integer::<Be32, u32>(0x0403_0201, &[4, 3, 2, 1], 0x0102_0304);
    integer::<Be64, u64>(0x0807_0605_0403_0201, &[8, 7, 6, 5, 4, 3, 2, 1], 0x0102_0304_0506_0708);
    integer::<LeSize, usize>(0x0201, &0x0201_usize.to_le_bytes(), 0x0102);
    integer::<BeSize, usize>(0x0201, &0x0201_usize.to_be_bytes(), 0x0102);
    assert_eq!(FIXED.to_native(), 7);
}
