//! What is measured: the operations, on each contender and for each type.
//!
//! All methods are always inlined into the loops of `loops.rs`, which so are what a user's own loop over the
//! contender's API is.

use std::fmt::Debug;
use std::fs::File;

use memory_model::DataInit;
use vm_memory::ByteValued;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A way to reach guest memory.
pub trait Contender {
    /// Its error.
    type E: Debug;

    /// Reads a value.
    fn read_obj<T: Plain>(&self, addr: u64) -> Result<T, Self::E>;
    /// Writes a value.
    fn write_obj<T: Plain>(&self, val: T, addr: u64) -> Result<(), Self::E>;
    /// Loads a ring's index: Acquire.
    fn load(&self, addr: u64) -> Result<u16, Self::E>;
    /// Stores a ring's index: Release.
    fn store(&self, val: u16, addr: u64) -> Result<(), Self::E>;
    /// Fills `buf`.
    fn read_slice(&self, buf: &mut [u8], addr: u64) -> Result<(), Self::E>;
    /// Writes all of `buf`.
    fn write_slice(&self, buf: &[u8], addr: u64) -> Result<(), Self::E>;
    /// Writes into memory what one read of `src` gives.
    fn write_from(&self, addr: u64, src: &File, count: usize) -> Result<usize, Self::E>;
}

/// A value that travels.
pub trait Plain: DataInit + ByteValued {
    /// Some value for each number.
    fn make(number: u64) -> Self;
    /// Depends on all of the value.
    fn digest(self) -> u64;
}

macro_rules! plain {
    ($($T:ty)*) => {$(
        impl Plain for $T {
            #[inline(always)]
            #[expect(clippy::allow_attributes, reason = "not all of the types are truncated to")]
            #[allow(clippy::cast_possible_truncation, reason = "any value does")]
            fn make(number: u64) -> Self {
                number as Self
            }
            #[inline(always)]
            fn digest(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}
plain!(u8 u16 u32 u64);

/// The size of a descriptor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pair {
    first: u64,
    second: u64,
}

impl Plain for Pair {
    #[inline(always)]
    fn make(number: u64) -> Self {
        Self { first: number, second: !number }
    }
    #[inline(always)]
    fn digest(self) -> u64 {
        self.first.wrapping_add(self.second)
    }
}

#[expect(unsafe_code, reason = "vm-memory has no derive for it")]
// SAFETY: `repr(C)` and two `u64`: no padding, and any bits are valid.
unsafe impl ByteValued for Pair {}
