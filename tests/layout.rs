//! A guest's addresses: where memory is laid, what is left for devices, and what the map looks like.
//!
//! | module        | what it shows                                                              |
//! |---------------|----------------------------------------------------------------------------|
//! | [`platforms`] | each platform's ranges, for sizes around each edge                         |
//! | [`zones`]     | alignment, fixed places, holes and reservations of one's own               |
//! | [`errors`]    | what cannot be laid out or allocated, and the error's every field          |
//! | [`map`]       | entries cover all addresses once; the table, to the letter                 |
//! | [`picture`]   | the picture is XML, and no text overlaps another, whatever the layout      |
//! | [`allocator`] | the allocator against a bitmap                                             |
//! | [`random`]    | random layouts against what must hold for each                             |

#![cfg(feature = "alloc")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "layout/allocator.rs"]
mod allocator;
#[path = "layout/errors.rs"]
mod errors;
#[path = "layout/map.rs"]
mod map;
#[path = "layout/picture.rs"]
mod picture;
#[path = "layout/platforms.rs"]
mod platforms;
#[path = "layout/random.rs"]
mod random;
#[path = "layout/xml.rs"]
mod xml;
#[path = "layout/zones.rs"]
mod zones;

use memory_model::layout::GuestLayout;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Where memory is: first address and length.
fn ranges(layout: &GuestLayout) -> Vec<(u64, u64)> {
    layout.ranges().iter().map(|range| (range.start.0, range.len)).collect()
}
