//! Many pieces of guest memory in one transfer: scatter and gather without a copy.
//!
//! | type              | what it is                                                                               |
//! |-------------------|------------------------------------------------------------------------------------------|
//! | [`GuestBuffers`]  | pieces of guest memory, checked as a whole, as an array of iovecs; borrowed, or owned     |
//! | [`IoSlice`]       | one of the iovecs                                                                        |
//! | `TransferError`   | how far a transfer came, and why no further; on Linux, as the two below                  |
//! | `Received`        | what a message from a socket was                                                         |
//! | `DirectFile`      | a file to and from any pieces, also with `O_DIRECT`                                      |
//! | [`Segment`]       | an address and a length, as a driver gives them                                          |
//! | [`Reader`]        | segments that a device reads, as one run of bytes, piece by piece or as buffers          |
//! | [`Writer`]        | segments that a device writes, likewise                                                  |
//! | [`PinnedSlice`]   | a piece that was found once and stays: for rings, which are accessed again and again     |
//! | [`PinnedRef`]     | the place of one value, checked when it was found: an access costs hardly more than that |
//! | `uring`           | many transfers of a file's under way at a time (feature `io-uring`)                      |
//!
//! A driver gives a device addresses and lengths. Made into buffers, all of them are found and checked before a byte moves;
//! what lies together in the host is one iovec; and then the kernel reads or writes all of it in one system call. What has
//! arrived is marked as dirty by [`complete`](GuestBuffers::complete), in the pieces where it landed. Whatever was handed
//! out to be written, and of which nobody says how much was written, is marked whole. The buffers' own system calls
//! (`preadv`, `pwritev`, `readv`, `writev`, `recvmsg`, `sendmsg`) say it themselves.
//!
//! ```
//! use memory_model::buffers::GuestBuffers;
//! use memory_model::io_memory::Access;
//! use memory_model::{GuestAddress, GuestMemoryMmap, IoAddress};
//!
//! let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)])?;
//! let ranges = [(IoAddress(0x100), 0x10), (IoAddress(0x110), 0x10), (IoAddress(0xff0), 0x20)];
//! let mut buffers = GuestBuffers::new(&mem, ranges, Access::Write)?;
//! // The first two lie together; the third is in two regions.
//! let lens: Vec<_> = buffers.as_iovecs().iter().map(|iovec| iovec.len()).collect();
//! assert_eq!((buffers.len(), lens), (0x40, vec![0x20, 0x10, 0x10]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

#[cfg(target_os = "linux")]
mod direct;
mod guest_buffers;
mod io_slice;
mod making;
#[cfg(target_os = "linux")]
mod message;
mod owned;
mod pinned;
mod reader;
mod segments;
#[cfg(target_os = "linux")]
mod transfer;
#[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod uring;
mod writer;

#[cfg(target_os = "linux")]
pub use direct::DirectFile;
pub use guest_buffers::GuestBuffers;
pub use io_slice::IoSlice;
#[cfg(target_os = "linux")]
pub use message::Received;
pub use pinned::{PinnedRef, PinnedSlice};
pub use reader::Reader;
pub use segments::Segment;
#[cfg(target_os = "linux")]
pub use transfer::TransferError;
pub use writer::Writer;
