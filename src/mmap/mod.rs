//! The default backend: guest memory that is mapped into this process by mmap(2).
//!
//! | type                       | what it is                                                               |
//! |----------------------------|--------------------------------------------------------------------------|
//! | [`MmapRegion`]             | a mapping, unmapped when dropped; not yet at a guest address             |
//! | [`MmapRegionBuilder`]      | what there is to choose about one: backing, pages, policy, locks, guards |
//! | [`GuestRegionMmap`]        | a mapping at a guest address, with a name and what else a VMM keeps      |
//! | [`GuestMemoryMmap`]        | a guest's memory made of these                                           |
//! | [`GuestMemoryMmapBuilder`] | the memory of a layout, with a policy for each zone                      |
//! | [`Usage`]                  | what the kernel accounts for a mapping                                   |
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
//!
//! let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)])?;
//! let addr = GuestAddress(0xffc);
//! mem.write_slice(b"crosses", addr)?;
//! // One region by itself ends where it ends.
//! let region = mem.find_region(addr).ok_or("no memory there")?;
//! assert!(region.write_slice(b"crosses", addr).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod builder;
mod details;
mod discard;
mod error;
mod guest_region;
mod memory;
mod numa;
mod options;
mod overlay;
mod pieces;
mod place;
mod plug;
mod prefault;
mod protect;
mod ranges;
mod region;
mod region_bytes;
mod step;
mod table;
mod usage;
mod zones;

pub use builder::MmapRegionBuilder;
pub use error::Error;
pub use guest_region::GuestRegionMmap;
pub use memory::GuestMemoryMmap;
pub use numa::NumaPolicy;
pub use options::{Discarded, HugePageSize, HugePages, Lock, Prefault, Progress, Protection, Seals};
pub use region::MmapRegion;
pub use step::Step;
pub use usage::{Usage, UsageSource};
pub use zones::GuestMemoryMmapBuilder;

pub use crate::guest_memory::FileOffset;
