//! Integers with a fixed byte order, as guests and devices lay them out in memory.
//!
//! Each type has the size and alignment of its native integer and the byte order of its name, whatever the host. They
//! compare and order by value, convert by `From` in both directions, and never by accident: there is no arithmetic, and
//! no deref to the raw bits.
//!
//! In a comparison with a native integer, the value of fixed order stands on the left: `magic == 7`. A native integer does
//! not compare with it, as such an impl would make `n > u32::MAX.into()` ambiguous in every crate of the program, whether
//! it uses these types or not.
//!
//! ```
//! use memory_model::{Be16, DataInit, Le32};
//!
//! let magic = Le32::from(0x7472_6976);
//! assert_eq!(magic.as_slice(), b"virt");
//! assert_eq!(magic, 0x7472_6976);
//! assert!(Be16::from(0x0102) > Be16::from(0x00ff));
//! assert_eq!(u16::from(Be16::from(443)), 443);
//! ```

use core::cmp::Ordering;
use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! endian_type {
    ($T:ident, $native:ident, $to:ident, $from:ident, $order:literal) => {
        #[doc = concat!("A `", stringify!($native), "` in ", $order, "-endian byte order.")]
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $T($native);

        impl $T {
            /// Lays `value` out in this type's byte order.
            #[inline]
            pub const fn new(value: $native) -> Self {
                Self(value.$to())
            }

            /// The value, as the host counts.
            #[inline]
            pub const fn to_native(self) -> $native {
                $native::$from(self.0)
            }
        }

        impl From<$native> for $T {
            #[inline]
            fn from(value: $native) -> Self {
                Self::new(value)
            }
        }

        impl From<$T> for $native {
            #[inline]
            fn from(value: $T) -> Self {
                value.to_native()
            }
        }

        impl PartialEq<$native> for $T {
            #[inline]
            fn eq(&self, other: &$native) -> bool {
                self.to_native() == *other
            }
        }

        impl PartialOrd for $T {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $T {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                self.to_native().cmp(&other.to_native())
            }
        }

        impl PartialOrd<$native> for $T {
            #[inline]
            fn partial_cmp(&self, other: &$native) -> Option<Ordering> {
                Some(self.to_native().cmp(other))
            }
        }

        impl fmt::Display for $T {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.to_native(), f)
            }
        }

        impl fmt::Debug for $T {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($T), "("))?;
                fmt::Debug::fmt(&self.to_native(), f)?;
                f.write_str(")")
            }
        }

        const _: () = assert!(size_of::<$T>() == size_of::<$native>() && align_of::<$T>() == align_of::<$native>());
    };
}

endian_type!(Le16, u16, to_le, from_le, "little");
endian_type!(Le32, u32, to_le, from_le, "little");
endian_type!(Le64, u64, to_le, from_le, "little");
endian_type!(LeSize, usize, to_le, from_le, "little");
endian_type!(Be16, u16, to_be, from_be, "big");
endian_type!(Be32, u32, to_be, from_be, "big");
endian_type!(Be64, u64, to_be, from_be, "big");
endian_type!(BeSize, usize, to_be, from_be, "big");
