//! Every edge that the contract names: each promise of an access, each mistake that the field has made, each unusual
//! memory. A test is named after its rule.

#![cfg(all(feature = "mmap", unix))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "edges/custom.rs"]
mod custom;
#[path = "edges/field.rs"]
mod field;
#[path = "edges/promises.rs"]
mod promises;
#[path = "edges/unusual.rs"]
mod unusual;

use memory_model::{GuestAddress, GuestMemoryMmap};

/// Two adjacent regions, then a hole of a page, then one more.
fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0x1000), 0x1000),
        (GuestAddress(0x2000), 0x1000),
        (GuestAddress(0x4000), 0x1000),
    ])
    .unwrap()
}

/// The first address after the last region but one.
const HOLE: GuestAddress = GuestAddress(0x3000);
