//! Implementations of the crate's traits that break their contract. Each operation on them ends, in an error where
//! the result cannot be right; it does not panic, and no byte outside of the requested range is touched.
//!
//! | module        | what is broken                                                                      |
//! |---------------|-------------------------------------------------------------------------------------|
//! | [`slices`]    | `get_slice` of a region: empty, shorter, longer, another place                      |
//! | [`moves`]     | `read` and `write` of a region: 0 for ever, fewer bytes, more than asked            |
//! | [`places`]    | `len`, `start_addr`, `last_addr` that change; `find_region` and the like of a memory |
//! | [`translated`] | `translate` of an IOMMU: empty for ever, shorter, longer, endless                  |
//! | [`streams`]   | `read_volatile` and `write_volatile`: 0 for ever, more than asked, errors for ever  |
//! | [`maps`]      | `arc_regions`, `find_arc_region`, `changes` of a map that changes                   |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "broken/ground.rs"]
mod ground;
#[path = "broken/maps.rs"]
mod maps;
#[path = "broken/moves.rs"]
mod moves;
#[path = "broken/places.rs"]
mod places;
#[path = "broken/slices.rs"]
mod slices;
#[path = "broken/streams.rs"]
mod streams;
#[path = "broken/translated.rs"]
mod translated;
