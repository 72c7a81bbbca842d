//! The operations that are counted.

use std::hint::black_box;

use memory_model::{GuestAddress, GuestMemoryMmap};

/// What is counted, and where it is done.
pub(crate) struct Operation {
    /// Its name in the baseline.
    pub(crate) name: &'static str,
    /// The function in [`counted`].
    pub(crate) function: &'static str,
    /// How many regions the memory has.
    pub(crate) regions: u64,
    /// Whether there is memory at the addresses.
    pub(crate) hits: bool,
    /// Whether writes are tracked, and all pages are dirty already.
    pub(crate) tracked: bool,
    /// Calls the function.
    pub(crate) run: fn(&GuestMemoryMmap, GuestAddress, &mut [u8; 128]),
}

macro_rules! operations {
    ($($name:literal: $function:ident($($len:literal)?) $at:ident, $regions:literal;)*) => {
        /// All of them.
        pub(crate) const OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            function: stringify!($function),
            regions: $regions,
            hits: operations!(@hits $at),
            tracked: operations!(@tracked $at),
            run: |memory, addr, _buf| {
                drop(black_box(counted::$function(memory, addr, $(black_box(&mut _buf[..$len]))?)));
            },
        }),*];
    };
    (@hits misses) => { false };
    (@hits $at:ident) => { true };
    (@tracked dirty) => { true };
    (@tracked $at:ident) => { false };
}

operations! {
    "read_obj_u64": read_obj_u64() hits, 1;
    "read_obj_u64_of_1024_regions": read_obj_u64() hits, 1024;
    "read_obj_u64_in_a_hole": read_obj_u64() misses, 1024;
    "read_obj_16_bytes": read_obj_16_bytes() hits, 1;
    "write_obj_u64": write_obj_u64() hits, 1;
    "write_obj_u64_of_1024_regions": write_obj_u64() hits, 1024;
    "write_obj_u64_to_a_dirty_page": write_obj_u64() dirty, 1;
    "load_u16": load_u16() hits, 1;
    "store_u16": store_u16() hits, 1;
    "compare_exchange_u32": compare_exchange_u32() hits, 1;
    "read_slice_64": read_slice(64) hits, 1;
    "write_slice_128": write_slice(128) hits, 1;
    "fill_64": fill_64() hits, 1;
    "get_slice_64": get_slice_64() hits, 1;
}

/// A function for each kind of operation, so that it can be found by its name.
mod counted {
    use std::sync::atomic::Ordering;

    use contenders::Pair;
    use memory_model::guest_memory::Error;
    use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestSlice};

    type Result<T> = std::result::Result<T, Error>;

    #[inline(never)]
    pub(super) fn read_obj_u64(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<u64> {
        memory.read_obj(addr)
    }

    #[inline(never)]
    pub(super) fn read_obj_16_bytes(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<Pair> {
        memory.read_obj(addr)
    }

    #[inline(never)]
    pub(super) fn write_obj_u64(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<()> {
        memory.write_obj(1_u64, addr)
    }

    #[inline(never)]
    pub(super) fn load_u16(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<u16> {
        memory.load(addr, Ordering::Acquire)
    }

    #[inline(never)]
    pub(super) fn store_u16(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<()> {
        memory.store(1_u16, addr, Ordering::Release)
    }

    #[inline(never)]
    pub(super) fn compare_exchange_u32(
        memory: &GuestMemoryMmap,
        addr: GuestAddress,
    ) -> Result<std::result::Result<u32, u32>> {
        memory.compare_exchange(0_u32, 0, addr, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline(never)]
    pub(super) fn read_slice(memory: &GuestMemoryMmap, addr: GuestAddress, buf: &mut [u8]) -> Result<()> {
        memory.read_slice(buf, addr)
    }

    #[inline(never)]
    pub(super) fn write_slice(memory: &GuestMemoryMmap, addr: GuestAddress, buf: &mut [u8]) -> Result<()> {
        memory.write_slice(buf, addr)
    }

    #[inline(never)]
    pub(super) fn fill_64(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<()> {
        memory.fill(0, 64, addr)
    }

    #[inline(never)]
    pub(super) fn get_slice_64(memory: &GuestMemoryMmap, addr: GuestAddress) -> Result<GuestSlice<'_>> {
        memory.get_slice(addr, 64)
    }
}
