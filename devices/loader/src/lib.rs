//! A boot loader over any guest memory: an ELF kernel or a bzImage, an initrd, a command line and the zero page.
//!
//! It knows memory by the traits alone: [`GuestMemory`](memory_model::GuestMemory) and its
//! [`Bytes`](memory_model::Bytes). So it runs in every VMM, over mappings, over memory in another process, over a test
//! double. The file goes straight into the guest, by `pread`: neither the file nor its cursor is held in between.
//!
//! Everything is loaded into RAM only: a region of another [kind](memory_model::RegionKind) is refused
//! ([`Error::NotRam`]). A region type of your own has to say that it is RAM, as it is a device otherwise.
//!
//! The file is not trusted. Each offset, size and address in it is checked against the file and against memory before
//! the first byte is written, so that **a refused file leaves memory as it was**. What can still fail after that, an
//! I/O error, a file that somebody truncates meanwhile, a page that cannot be accessed, is [`Error::Copy`]. The guest
//! does not run yet: nothing is read back from its memory.
//!
//! | function                                    | what it does                                                     |
//! |---------------------------------------------|------------------------------------------------------------------|
//! | [`load_kernel`]                             | looks which format the file has, and loads it                    |
//! | [`load_elf`], [`load_bzimage`]              | load a file of one format                                        |
//! | [`load_initrd`]                             | finds room for an initrd, or takes the address given             |
//! | [`write_command_line`]                      | writes the kernel's command line                                 |
//! | [`write_boot_params`]                       | writes the zero page that tells Linux on x86 about all of these  |
//!
//! Each answers where things lie now, as [`LoadedRange`]s. Their `Display` is a table:
//!
//! ```
//! use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};
//! use memory_model_loader::{E820Entry, BootParams, InitrdPlace, LoadOptions};
//! # use std::{error::Error, fs::File, io::Write};
//! # fn main() -> Result<(), Box<dyn Error>> {
//! # let mut kernel_file = tempfile::tempfile()?;
//! # let mut image = vec![0_u8; 0x78];
//! # image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
//! # for (at, value) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] { image[at] = value; }
//! # image[24..32].copy_from_slice(&0x10_0000_u64.to_le_bytes());
//! # for (at, value) in [(64, 1_u64 | 5 << 32), (88, 0x10_0000), (96, 0x78), (104, 0x2000)] {
//! #     image[at..at + 8].copy_from_slice(&value.to_le_bytes());
//! # }
//! # kernel_file.write_all(&image)?;
//! # let mut initrd_file = tempfile::tempfile()?;
//! # initrd_file.write_all(&[7; 5000])?;
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x80_0000)])?;
//!
//! let kernel = memory_model_loader::load_kernel(&memory, &kernel_file, LoadOptions::default())?;
//! let top = kernel.initrd_last();
//! let initrd = memory_model_loader::load_initrd(&memory, &initrd_file, InitrdPlace::UpTo(top), &kernel.ranges)?;
//! let text = "console=ttyS0";
//! let command_line =
//!     memory_model_loader::write_command_line(&memory, GuestAddress(0x2_0000), text, kernel.command_line_max())?;
//! let zero_page = BootParams {
//!     kernel: &kernel,
//!     command_line,
//!     initrd: Some(initrd),
//!     e820: &E820Entry::ram_of(&memory),
//! };
//! memory_model_loader::write_boot_params(&memory, GuestAddress(0x7000), &zero_page)?;
//!
//! assert_eq!(initrd.addr, GuestAddress(0x7f_e000)); // the highest page from which it fits
//! assert_eq!(
//!     kernel.to_string(),
//!     "ELF64 kernel for machine 62, entry 0x100000\n\
//!      \x20 0x0000000000100000..=0x0000000000100077        0x78 segment 0\n\
//!      \x20 0x0000000000100078..=0x0000000000101fff      0x1f88 zeroes of segment 0\n"
//! );
//! # Ok(())
//! # }
//! ```
//!
//! Sources: the ELF specification (gABI 4.1, chapter 5), Linux' `Documentation/arch/x86/boot.rst` (protocol 2.15) and
//! `zero-page.rst`, and Xen's `public/elfnote.h` for the PVH entry. Nothing is decompressed: a bzImage does that itself.

#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod boot_params;
mod bzimage;
mod command_line;
mod elf;
mod error;
mod format;
mod initrd;
mod kernel;
mod notes;
mod range;
mod setup_header;
mod source;

pub use boot_params::{BootParams, E820Entry, E820Kind, write_boot_params};
pub use bzimage::load_bzimage;
pub use command_line::write_command_line;
pub use elf::load_elf;
pub use error::Error;
pub use format::Found;
pub use initrd::{InitrdPlace, load_initrd};
pub use kernel::{ElfClass, KernelFormat, LoadOptions, LoadedKernel, load_kernel};
pub use range::{LoadedRange, RangeKind};
pub use setup_header::SetupHeader;
