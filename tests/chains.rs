//! Readers and writers over the segments of a driver: as one run of bytes, whatever the segments are, in memory of any kind.
//!
//! | module       | what it shows                                                                                |
//! |--------------|----------------------------------------------------------------------------------------------|
//! | [`random`]   | random operations on random segments over random memory, compared with a plain list of bytes  |
//! | [`hostile`]  | segments that wrap, are nowhere, empty, or too many to count; regions that lie; bad pages     |
//! | [`objects`]  | values divided between segments in all ways; buffers of them, borrowed and owned              |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "chains/ground.rs"]
mod ground;
#[path = "chains/hostile.rs"]
mod hostile;
#[path = "chains/model.rs"]
mod model;
#[path = "chains/objects.rs"]
mod objects;
#[path = "chains/random.rs"]
mod random;
