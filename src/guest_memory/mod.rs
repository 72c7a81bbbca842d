//! Guest-physical memory: which addresses there are, and what lies behind them.
//!
//! A [`GuestMemory`] has [`GuestMemoryRegion`]s, in any number, that do not overlap and may leave holes. Each region
//! reads and writes its own bytes by offset; the memory finds the region and crosses from one to the next. So whoever
//! provides memory writes a region's few methods, and whoever uses it sees one address space.
//!
//! | type                          | what it is                                                              |
//! |-------------------------------|-------------------------------------------------------------------------|
//! | [`GuestAddress`]              | a guest-physical address                                                |
//! | [`MemoryRegionAddress`]       | an offset inside one region                                             |
//! | [`GuestMemoryRegion`]         | a contiguous range of memory                                            |
//! | [`RegionKind`]                | RAM, ROM, a device's, reserved                                          |
//! | [`GuestMemory`]               | all of a guest's memory, and its [`Bytes`](crate::Bytes)                |
//! | [`GuestRegionCollection`]     | regions of one type, sorted, with an index: the usual `GuestMemory`     |
//! | [`RegionRange`], [`PlugState`] | a part of a region, which is memory or only room for it                 |
//! | [`GuestSlice`]                | guest bytes that are contiguous in host memory; writes are marked dirty |
//! | [`GuestRef`], [`GuestArrayRef`] | values in guest memory; stores are marked dirty                       |

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod address;
mod bytes;
#[cfg(feature = "alloc")]
mod collection;
mod copy;
mod error;
#[cfg(feature = "std")]
mod file_offset;
mod forward;
mod generation;
#[cfg(feature = "alloc")]
mod index;
mod kind;
#[cfg(feature = "alloc")]
mod likely;
mod memory;
mod plug;
mod reference;
mod region;
mod slice;
#[cfg(feature = "std")]
mod tracking;

pub(crate) use address::address;
pub use address::{GuestAddress, GuestUsize, MemoryRegionAddress};
#[cfg(feature = "alloc")]
pub use collection::GuestRegionCollection;
pub use error::{Error, RegionError};
#[cfg(feature = "std")]
pub use file_offset::FileOffset;
pub use generation::new_generation;
pub use kind::RegionKind;
pub use memory::{GuestMemory, GuestSlices};
pub use plug::{PlugState, RegionRange};
pub use reference::{GuestArrayRef, GuestRef};
pub use region::GuestMemoryRegion;
#[cfg(feature = "std")]
pub(crate) use region::slice_of;
pub(crate) use region::wrong_length;
pub use slice::GuestSlice;
#[cfg(feature = "std")]
pub use tracking::{DirtyLog, MemoryHarvest};
