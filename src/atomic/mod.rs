//! A memory map that changes while it is used.
//!
//! Devices come and go, memory is plugged and unplugged, a guest moves a window: while other threads read and write. A
//! [`GuestMemoryAtomic`] holds the present map, and puts another in its place in one step.
//!
//! | type                    | what it is                                                                      |
//! |-------------------------|---------------------------------------------------------------------------------|
//! | [`GuestMemoryAtomic`]   | a handle to a map that changes: reads it, changes it                            |
//! | [`Reader`]              | a thread's own way to it, where a look costs next to nothing                    |
//! | [`MemoryGuard`]         | the map as it was at a look, until the guard is dropped                         |
//! | [`MemorySnapshot`]      | the map as it was at a look, for as long as it is wanted                        |
//! | [`MapListener`]         | who has to know of each region: a hypervisor's slots, an IOMMU, a peer's table  |
//! | [`SlotAllocator`]       | numbers for such slots                                                          |
//! | [`Pluggable`]           | regions of which parts can be unplugged, as virtio-mem does                     |
//! | [`RegionMap`]           | the memories that can be held: of regions that are shared                       |
//!
//! A view of the map is a snapshot. Whoever has one sees neither half a change nor, until taking the next, a whole one; so a
//! device takes one for each batch of requests, and not for each access. To take one never waits.
//!
//! ```
//! use std::sync::Arc;
//! use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, IoMemory, MmapRegion};
//!
//! /// A device, which knows nothing of all this.
//! fn doorbell<I: IoMemory>(mem: &I) -> Result<u64, memory_model::guest_memory::Error> {
//!     mem.read_obj(memory_model::IoAddress(0x10_0000))
//! }
//!
//! let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)])?);
//! let mut reader = map.reader();
//! assert!(doorbell(&*reader.read()).is_err());
//! // A DIMM is plugged.
//! let dimm = GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(0x10_0000))?;
//! map.insert_region(Arc::new(dimm))?;
//! assert_eq!(doorbell(&*reader.read())?, 0);
//! // And unplugged: nobody uses it any more when this returns, except who keeps a snapshot.
//! let dimm = map.remove_region(GuestAddress(0x10_0000), 0x1000)?;
//! assert!(doorbell(&*reader.read()).is_err());
//! assert_eq!(Arc::strong_count(&dimm), 1);
//! drop(dimm); // unmapped
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What may wait for what
//!
//! Looking ([`read`](Reader::read), [`memory`](GuestMemoryAtomic::memory)) waits for nothing. An update waits for other updates;
//! one that removes a region waits also until each guard is dropped that was there before. So a thread that has a guard
//! may not update, nor may a listener that is called update the same map, nor may the closure of an update, or a listener in
//! [`added`](MapListener::added), keep a guard: these are errors ([`MapError::GuardHeld`], [`MapError::Nested`]). Threads that
//! change several maps may wait for each other: a listener of one map changes another one, or a thread that holds a guard of one
//! map changes another one. The last of them that would complete a circle gets [`MapError::Deadlock`]. A wait for anything else
//! is not found out, for instance if a listener waits for a thread that changes the map. Snapshots are not
//! waited for, as they may be kept for long: what they have stays mapped until they are dropped. Nor does
//! [`plug`](GuestMemoryAtomic::plug) or [`unplug`](GuestMemoryAtomic::unplug) wait for those who read: regions stay as they are, and
//! an access to what is unplugged is an error.

mod calls;
mod error;
mod listener;
#[cfg(all(test, loom))]
mod loom_tests;
mod map;
mod plug;
mod published;
mod slots;
mod update;
mod waits;

pub use error::{ListenerError, MapError};
pub use listener::{ListenerId, MapListener};
pub use map::{GuestMemoryAtomic, RegionMap};
pub use plug::{PlugError, Pluggable};
pub use published::{MemoryGuard, MemorySnapshot, Reader};
pub use slots::SlotAllocator;
