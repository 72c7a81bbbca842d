//! A virtual machine's physical memory.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod access;
pub mod address;
pub mod bytes;
pub mod data_init;
pub mod dirty;
pub mod endian;
pub mod guest_memory;
pub mod io_memory;
#[cfg(all(feature = "mmap", unix))]
pub mod mmap;
#[cfg(feature = "std")]
pub mod stream;
pub mod volatile_memory;

pub use address::{Address, AddressValue};
pub use bytes::{AtomicAccess, Bytes};
pub use data_init::DataInit;
pub use endian::{Be16, Be32, Be64, BeSize, Le16, Le32, Le64, LeSize};
#[cfg(feature = "std")]
pub use guest_memory::FileOffset;
#[cfg(feature = "alloc")]
pub use guest_memory::GuestRegionCollection;
pub use guest_memory::{GuestAddress, GuestMemory, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress};
pub use io_memory::{IoAddress, IoMemory};
#[cfg(all(feature = "mmap", unix))]
pub use mmap::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};
#[cfg(feature = "std")]
pub use stream::{ReadVolatile, WriteVolatile};
pub use volatile_memory::{VolatileArrayRef, VolatileMemory, VolatileRef, VolatileSlice};
