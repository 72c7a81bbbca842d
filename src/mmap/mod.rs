//! The default backend: guest memory that is mapped into this process by mmap(2).
//!
//! | type                | what it is                                                      |
//! |---------------------|-----------------------------------------------------------------|
//! | [`MmapRegion`]      | a mapping, unmapped when dropped; not yet at a guest address    |
//! | [`GuestRegionMmap`] | a mapping at a guest address                                    |
//! | [`GuestMemoryMmap`] | a guest's memory made of these                                  |
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

mod builder;
mod error;
mod guest_region;
mod memory;
mod region;
mod region_bytes;

pub use builder::MmapRegionBuilder;
pub use error::Error;
pub use guest_region::GuestRegionMmap;
pub use memory::GuestMemoryMmap;
pub use region::MmapRegion;

pub use crate::guest_memory::FileOffset;
