//! Addresses: positions in one named space.
//!
//! An address is not a number. `GuestAddress` and `IoAddress` count bytes in different spaces, so they are different
//! types, there is no `+` between them, and every step says what it does at the end of the space: `checked_*` answers
//! `None`, `overflowing_*` wraps and says so, `unchecked_*` is for callers who know that it fits.

use core::ops::{Add, BitAnd, BitOr, Not, Sub};

/// The raw integer behind an address type.
pub trait AddressValue {
    /// The integer: `u64` for guest addresses, `u32` for a 32-bit bus, `usize` inside a slice.
    type V: Copy
        + PartialEq
        + Eq
        + PartialOrd
        + Ord
        + TryFrom<usize>
        + Add<Output = Self::V>
        + Sub<Output = Self::V>
        + BitAnd<Output = Self::V>
        + BitOr<Output = Self::V>
        + Not<Output = Self::V>;
}

/// A position in an address space, in bytes from its start.
///
/// A type of your own gets the whole trait from [`impl_address_ops!`](crate::impl_address_ops). `usize` is an address
/// too: the offset inside a slice.
///
/// ```
/// use memory_model::{Address, GuestAddress};
///
/// let end = GuestAddress(u64::MAX - 1);
/// assert_eq!(end.checked_add(1), Some(GuestAddress(u64::MAX)));
/// assert_eq!(end.checked_add(2), None);
/// assert_eq!(end.overflowing_add(2), (GuestAddress(0), true));
/// assert_eq!(GuestAddress(0x1801).align_down(0x1000), GuestAddress(0x1000));
/// assert_eq!(GuestAddress(0x1801).checked_align_up(0x1000), Some(GuestAddress(0x2000)));
/// ```
pub trait Address:
    AddressValue
    + Sized
    + Default
    + Copy
    + Eq
    + PartialEq
    + Ord
    + PartialOrd
    + BitAnd<<Self as AddressValue>::V, Output = Self>
    + BitOr<<Self as AddressValue>::V, Output = Self>
{
    /// The address whose distance from the start of the space is `v` bytes.
    fn new(v: Self::V) -> Self;

    /// The distance from the start of the space, in bytes.
    fn raw_value(&self) -> Self::V;

    /// The raw value's bits that are set in `mask`.
    fn mask(&self, mask: Self::V) -> Self::V {
        self.raw_value() & mask
    }

    /// How many bytes this address lies above `base`; `None` if it lies below.
    fn checked_offset_from(&self, base: Self) -> Option<Self::V> {
        if *self < base { None } else { Some(self.raw_value() - base.raw_value()) }
    }

    /// How many bytes this address lies above `base`. If it lies below, that panics in debug builds, wraps in release
    /// builds, and is never undefined behaviour.
    fn unchecked_offset_from(&self, base: Self) -> Self::V {
        self.raw_value() - base.raw_value()
    }

    /// The address `v` bytes further up; `None` past the end of the space.
    fn checked_add(&self, v: Self::V) -> Option<Self>;

    /// The address `v` bytes further up, and whether it wrapped.
    fn overflowing_add(&self, v: Self::V) -> (Self, bool);

    /// The address `v` bytes further up. Overflow panics in debug builds, wraps in release builds, and is never
    /// undefined behaviour.
    #[must_use]
    fn unchecked_add(&self, v: Self::V) -> Self {
        Self::new(self.raw_value() + v)
    }

    /// The address `v` bytes further down; `None` below the start of the space.
    fn checked_sub(&self, v: Self::V) -> Option<Self>;

    /// The address `v` bytes further down, and whether it wrapped.
    fn overflowing_sub(&self, v: Self::V) -> (Self, bool);

    /// The address `v` bytes further down. Overflow panics in debug builds, wraps in release builds, and is never
    /// undefined behaviour.
    #[must_use]
    fn unchecked_sub(&self, v: Self::V) -> Self {
        Self::new(self.raw_value() - v)
    }

    /// The lowest multiple of `power_of_two` that is not below this address; `None` past the end of the space, and for
    /// a `power_of_two` that is none.
    fn checked_align_up(&self, power_of_two: Self::V) -> Option<Self>;

    /// The highest multiple of `power_of_two` that is not above this address.
    ///
    /// A `power_of_two` that is none is a logic error: it panics in debug builds and gives an unspecified address in
    /// release builds.
    #[must_use]
    fn align_down(&self, power_of_two: Self::V) -> Self;
}

/// Implements [`AddressValue`] and [`Address`](trait@Address) for a tuple struct of one unsigned integer, in any crate.
///
/// The struct derives `Default`, `Clone`, `Copy`, `PartialEq`, `Eq`, `PartialOrd` and `Ord` itself.
///
/// ```
/// use memory_model::{Address, impl_address_ops};
///
/// /// An address on a 32-bit bus.
/// #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
/// struct BusAddress(u32);
/// impl_address_ops!(BusAddress, u32);
///
/// assert_eq!(BusAddress(0xffff_fff0).checked_add(0x10), None);
/// assert_eq!(BusAddress(0x1234) & 0xff, BusAddress(0x34));
/// ```
#[macro_export]
macro_rules! impl_address_ops {
    ($T:ident, $V:ty) => {
        impl $crate::AddressValue for $T {
            type V = $V;
        }
        impl $crate::Address for $T {
            fn new(v: $V) -> Self {
                Self(v)
            }
            fn raw_value(&self) -> $V {
                self.0
            }
            $crate::impl_address_ops!(@arithmetic $V);
        }
        impl ::core::ops::BitAnd<$V> for $T {
            type Output = Self;
            fn bitand(self, other: $V) -> Self {
                Self(self.0 & other)
            }
        }
        impl ::core::ops::BitOr<$V> for $T {
            type Output = Self;
            fn bitor(self, other: $V) -> Self {
                Self(self.0 | other)
            }
        }
    };
    (@arithmetic $V:ty) => {
        #[inline]
        fn checked_add(&self, v: $V) -> Option<Self> {
            <$V>::checked_add($crate::Address::raw_value(self), v).map($crate::Address::new)
        }
        #[inline]
        fn overflowing_add(&self, v: $V) -> (Self, bool) {
            let (sum, wrapped) = <$V>::overflowing_add($crate::Address::raw_value(self), v);
            ($crate::Address::new(sum), wrapped)
        }
        #[inline]
        fn checked_sub(&self, v: $V) -> Option<Self> {
            <$V>::checked_sub($crate::Address::raw_value(self), v).map($crate::Address::new)
        }
        #[inline]
        fn overflowing_sub(&self, v: $V) -> (Self, bool) {
            let (difference, wrapped) = <$V>::overflowing_sub($crate::Address::raw_value(self), v);
            ($crate::Address::new(difference), wrapped)
        }
        #[inline]
        fn checked_align_up(&self, power_of_two: $V) -> Option<Self> {
            if !<$V>::is_power_of_two(power_of_two) {
                return None;
            }
            let low_bits = <$V>::wrapping_sub(power_of_two, 1);
            let sum = <$V>::checked_add($crate::Address::raw_value(self), low_bits)?;
            Some($crate::Address::new(sum & !low_bits))
        }
        #[inline]
        fn align_down(&self, power_of_two: $V) -> Self {
            debug_assert!(<$V>::is_power_of_two(power_of_two), "alignment is not a power of two");
            $crate::Address::new($crate::Address::raw_value(self) & !<$V>::wrapping_sub(power_of_two, 1))
        }
    };
}

impl AddressValue for usize {
    type V = usize;
}

impl Address for usize {
    fn new(v: usize) -> Self {
        v
    }
    fn raw_value(&self) -> usize {
        *self
    }
    crate::impl_address_ops!(@arithmetic usize);
}
