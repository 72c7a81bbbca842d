//! A virtual machine's physical memory: making it, mapping it, finding it, reading and writing it.
//!
//! A hypervisor, a virtio device, a boot loader must access a guest's memory without knowing how it is provided, while
//! the guest changes it. This crate gives them traits to be written against, and a backend on mmap(2) to run on:
//!
//! * **nothing that a guest chooses can crash the host**: no address, length or value makes an access panic, overflow or
//!   reach what is not the guest's;
//! * **a page that cannot be accessed is an error**: see [`fault_recovery`];
//! * **an access keeps its type down to the instruction**, and finding a region costs the same for one and for thousands;
//! * **no `unsafe` is needed** to use it, and little to provide memory of your own.
//!
//! # The map
//!
//! Each module uses only those above it.
//!
//! | module              | the question it answers                                          | `unsafe` |
//! |---------------------|------------------------------------------------------------------|----------|
//! | [`address`]         | which byte, and in whose address space?                          | no       |
//! | [`endian`]          | which integer do these bytes mean?                               | no       |
//! | [`data_init`]       | which values may be read from bytes that a guest wrote?          | yes      |
//! | `access` (private)  | which instructions touch bytes that change meanwhile?            | yes      |
//! | [`fault_recovery`]  | what if a page cannot be accessed?                               | yes      |
//! | [`volatile_memory`] | which bytes may be touched, and until when?                      | yes      |
//! | [`stream`]          | how do files and sockets reach them?                             | yes      |
//! | [`bytes`]           | what can be done with memory, whoever provides it?               | no       |
//! | [`dirty`]           | which memory was written?                                        | yes      |
//! | [`guest_memory`]    | which guest addresses are there, and what lies behind them?      | no       |
//! | [`layout`]          | which addresses has the guest, and for what?                     | no       |
//! | [`mmap`]            | where does the memory come from?                                 | yes      |
//! | [`atomic`]          | what if the map changes while it is used?                        | yes      |
//! | [`io_memory`]       | what does a device see?                                          | no       |
//! | [`buffers`]         | how do many pieces of it take part in one transfer?              | yes      |
//! | `interop`           | how do other crates get at it? (feature `kvm`)                   | yes      |
//!
//! # A tour
//!
//! Guest memory is made of regions. Two that touch are one memory; between others there may be holes.
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
//!
//! let mem = GuestMemoryMmap::from_ranges(&[
//!     (GuestAddress(0), 0x10_0000),             // 1 MiB
//!     (GuestAddress(0x10_0000), 0x20_0000),     // 2 MiB, adjacent
//!     (GuestAddress(0x1_0000_0000), 0x10_0000), // 1 MiB above 4 GiB
//! ])?;
//! mem.write_obj(0xdead_beef_u32, GuestAddress(0xf_fffe))?; // crosses from the first region to the second
//! assert_eq!(mem.read_obj::<u32>(GuestAddress(0xf_fffe))?, 0xdead_beef);
//! assert!(mem.read_obj::<u32>(GuestAddress(0x8000_0000)).is_err()); // a hole
//! assert!(mem.check_range(GuestAddress(0x8_0000), 0x20_0000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What a guest wrote is fetched once, as a copy that no longer changes, and in the byte order that its format names.
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, Le16, Le32, Le64};
//! use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//!
//! /// A descriptor of a virtqueue (VIRTIO 1.2, 2.7.5).
//! #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[repr(C)]
//! struct Descriptor {
//!     addr: Le64,
//!     len: Le32,
//!     flags: Le16,
//!     next: Le16,
//! }
//!
//! let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
//! mem.write_slice(&[0, 16, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 7, 0], GuestAddress(0x100))?;
//! let descriptor: Descriptor = mem.read_obj(GuestAddress(0x100))?;
//! assert_eq!((u64::from(descriptor.addr), u16::from(descriptor.next)), (0x1000, 7));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Indices that the guest moves are atomic. An access that cannot be one is an error.
//!
//! ```
//! use std::sync::atomic::Ordering;
//! use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, Le16};
//!
//! let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
//! mem.store(Le16::new(3), GuestAddress(0x202), Ordering::Release)?;
//! assert_eq!(mem.load::<Le16>(GuestAddress(0x202), Ordering::Acquire)?, 3);
//! assert!(mem.load::<u32>(GuestAddress(0x201), Ordering::Acquire).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files and sockets read into guest memory and write from it without a buffer in between.
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};
//! # use std::io::Write;
//! # let mut disk = tempfile::tempfile()?;
//! # disk.write_all(&[7; 0x2000])?;
//! let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)])?;
//! let mut source = memory_model::stream::FileAt::new(&disk, 0x1000);
//! mem.write_all_from(GuestAddress(0x800), &mut source, 0x1000)?; // crosses from region to region
//! assert_eq!(mem.read_obj::<u8>(GuestAddress(0x17ff))?, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A device is written against [`IoMemory`], a loader against [`GuestMemory`]; neither knows who provides it.
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemory, guest_memory::Error};
//!
//! /// Puts a command line where the kernel will look for it, with the zero byte that ends it.
//! fn write_cmdline<M: GuestMemory>(mem: &M, addr: GuestAddress, line: &str) -> Result<(), Error> {
//!     mem.write_slice(line.as_bytes(), addr)?;
//!     mem.write_obj(0_u8, GuestAddress(addr.0 + line.len() as u64))
//! }
//! # let mem = memory_model::GuestMemoryMmap::from_ranges(&[(addr(0), 0x1000)])?;
//! # fn addr(v: u64) -> GuestAddress { GuestAddress(v) }
//! write_cmdline(&mem, GuestAddress(0x400), "console=ttyS0")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! And memory of your own is a region with two methods: here a register that counts how often it was read. [`forward_region!`]
//! puts such a region into one memory with RAM.
//!
//! ```
//! use std::sync::atomic::{AtomicU8, Ordering};
//! use memory_model::guest_memory::Error;
//! use memory_model::{Bytes, GuestAddress, GuestMemoryRegion, GuestRegionCollection, GuestUsize, MemoryRegionAddress};
//!
//! struct Counter(AtomicU8);
//!
//! impl Bytes<MemoryRegionAddress> for Counter {
//!     type E = Error;
//!     fn read(&self, buf: &mut [u8], _: MemoryRegionAddress) -> Result<usize, Error> {
//!         buf.fill(self.0.fetch_add(1, Ordering::Relaxed));
//!         Ok(buf.len())
//!     }
//!     fn write(&self, _: &[u8], _: MemoryRegionAddress) -> Result<usize, Error> {
//!         Err(Error::Unsupported)
//!     }
//! }
//!
//! impl GuestMemoryRegion for Counter {
//!     fn len(&self) -> GuestUsize {
//!         1
//!     }
//!     fn start_addr(&self) -> GuestAddress {
//!         GuestAddress(0xfee0_0000)
//!     }
//! }
//!
//! let mem = GuestRegionCollection::from_regions(vec![Counter(AtomicU8::new(7))])?;
//! assert_eq!(mem.read_obj::<u8>(GuestAddress(0xfee0_0000))?, 7);
//! assert_eq!(mem.read_obj::<u8>(GuestAddress(0xfee0_0000))?, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! * `std` (default): streams, and I/O errors. Without it the crate is `no_std`.
//! * `alloc`: [`GuestRegionCollection`] and memory behind `Arc` and `Box`, without `std`.
//! * `mmap` (default): the backend, on Linux.
//! * `fault-recovery` (default): a page that cannot be accessed, for instance of a file that was truncated while it is
//!   mapped, is an error, on Linux on x86-64 and aarch64. Without it such a page ends the process by SIGBUS.
//! * `io-uring`: `buffers::uring`, many transfers of a file's under way at a time, on Linux on x86-64 and aarch64.
//! * `kvm`: `interop::kvm`, which mirrors a map into the memory slots of KVM and fetches its dirty log, on Linux on x86-64
//!   and aarch64.
//!
//! Needs 64-bit atomics, and pointers of 32 or 64 bits.

#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(all(test, not(feature = "std")))]
extern crate std;

mod access;
pub mod address;
#[cfg(feature = "std")]
pub mod atomic;
#[cfg(feature = "std")]
pub mod buffers;
pub mod bytes;
pub mod data_init;
pub mod dirty;
pub mod endian;
pub mod guest_memory;
#[cfg(all(feature = "kvm", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod interop;
pub mod io_memory;
#[cfg(feature = "alloc")]
pub mod layout;
#[cfg(all(feature = "mmap", target_os = "linux"))]
pub mod mmap;
#[cfg(feature = "std")]
pub mod stream;
#[cfg(feature = "alloc")]
mod sync;
pub mod volatile_memory;

/// A page that cannot be accessed is an error: the signal handlers that see to it.
///
/// A page of guest memory may go away while it is mapped: somebody truncates the file behind it, the pool of huge pages
/// is used up, its protection changes, the hardware loses it. The kernel then sends SIGBUS or SIGSEGV to the thread that
/// touches it, which ends the process. With the handlers installed the access is an error instead
/// ([`Error::Fault`](guest_memory::Error::Fault)): the first bad address, and how many bytes were done before it.
///
/// It costs an access nothing but a test of a register. On Linux on x86-64 and aarch64; elsewhere, and without the
/// feature `fault-recovery`, a fault ends the process.
///
/// ```
/// memory_model::fault_recovery::install()?;
/// # if cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
/// assert!(memory_model::fault_recovery::is_installed());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(feature = "fault-recovery")]
pub mod fault_recovery {
    pub use crate::access::{install, is_installed};
}

pub use address::{Address, AddressValue};
#[cfg(feature = "std")]
pub use atomic::GuestMemoryAtomic;
pub use bytes::{AtomicAccess, Bytes};
pub use data_init::DataInit;
pub use endian::{Be16, Be32, Be64, BeSize, Le16, Le32, Le64, LeSize};
#[cfg(feature = "std")]
pub use guest_memory::FileOffset;
#[cfg(feature = "alloc")]
pub use guest_memory::GuestRegionCollection;
pub use guest_memory::{
    GuestAddress, GuestMemory, GuestMemoryRegion, GuestSlice, GuestUsize, MemoryRegionAddress, RegionKind,
};
pub use io_memory::{IoAddress, IoMemory};
#[cfg(feature = "alloc")]
pub use layout::GuestLayout;
#[cfg(all(feature = "mmap", target_os = "linux"))]
pub use mmap::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};
#[cfg(feature = "std")]
pub use stream::{ReadVolatile, WriteVolatile};
pub use volatile_memory::{VolatileArrayRef, VolatileMemory, VolatileRef, VolatileSlice};
