use core::convert::identity;

use zerocopy::transmute;

use crate::{Be16, Be32, Be64, BeSize, DataInit, Le16, Le32, Le64, LeSize};

/// Values that guest memory is accessed with atomically: integers of 1, 2, 4 or 8 bytes, of the host's or a fixed byte
/// order.
///
/// Sealed: `u8` to `u64`, `i8` to `i64`, `usize`, `isize`, `Le16` to `Le64`, `Be16` to `Be64`, `LeSize`, `BeSize`.
pub trait AtomicAccess: DataInit + sealed::Atomic {}

pub(crate) mod sealed {
    /// The integer that carries the value through the machine.
    pub trait Atomic: Copy {
        type Unit: crate::access::Unit + crate::DataInit;
        fn to_unit(self) -> Self::Unit;
        fn from_unit(unit: Self::Unit) -> Self;
    }
}

#[cfg(target_pointer_width = "64")]
type SizeUnit = u64;
#[cfg(target_pointer_width = "32")]
type SizeUnit = u32;

macro_rules! atomic_access {
    ($($T:ty as $Unit:ty: $to:expr, $from:expr;)*) => {$(
        impl AtomicAccess for $T {}
        impl sealed::Atomic for $T {
            type Unit = $Unit;
            #[inline(always)]
            fn to_unit(self) -> $Unit {
                $to(self)
            }
            #[inline(always)]
            fn from_unit(unit: $Unit) -> Self {
                $from(unit)
            }
        }
    )*};
}

atomic_access! {
    u8 as u8: identity, identity;
    u16 as u16: identity, identity;
    u32 as u32: identity, identity;
    u64 as u64: identity, identity;
    i8 as u8: |v: i8| transmute!(v), |v: u8| transmute!(v);
    i16 as u16: |v: i16| transmute!(v), |v: u16| transmute!(v);
    i32 as u32: |v: i32| transmute!(v), |v: u32| transmute!(v);
    i64 as u64: |v: i64| transmute!(v), |v: u64| transmute!(v);
    usize as SizeUnit: |v: usize| transmute!(v), |v: SizeUnit| transmute!(v);
    isize as SizeUnit: |v: isize| transmute!(v), |v: SizeUnit| transmute!(v);
    Le16 as u16: |v: Le16| transmute!(v), |v: u16| transmute!(v);
    Le32 as u32: |v: Le32| transmute!(v), |v: u32| transmute!(v);
    Le64 as u64: |v: Le64| transmute!(v), |v: u64| transmute!(v);
    Be16 as u16: |v: Be16| transmute!(v), |v: u16| transmute!(v);
    Be32 as u32: |v: Be32| transmute!(v), |v: u32| transmute!(v);
    Be64 as u64: |v: Be64| transmute!(v), |v: u64| transmute!(v);
    LeSize as SizeUnit: |v: LeSize| transmute!(v), |v: SizeUnit| transmute!(v);
    BeSize as SizeUnit: |v: BeSize| transmute!(v), |v: SizeUnit| transmute!(v);
}
