//! What a loaded kernel is, and the one function that loads whichever format there is.

use std::fmt;
use std::fs::File;

use memory_model::{GuestAddress, GuestMemory};

use crate::source::Source;
use crate::{Error, Found, LoadedRange, SetupHeader, load_bzimage, load_elf};

/// Where to load a kernel, for those who do not want it where it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// For ELF: how many bytes above the physical addresses in the file.
    pub elf_bias: u64,
    /// For a bzImage: the address of its protected-mode code, instead of 0x100000.
    pub bzimage_addr: Option<GuestAddress>,
}

/// Whether an ELF file is of 32 or of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfClass {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

/// A loaded kernel's format, and what only that format knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelFormat {
    /// An ELF file.
    Elf {
        /// 32 or 64 bits.
        class: ElfClass,
        /// `e_machine`: 62 for x86-64, 3 for i386, 183 for aarch64, 243 for RISC-V. Any is loaded: whoever cannot run
        /// all checks it.
        machine: u16,
        /// The entry for 32-bit protected mode without paging (PVH), if a note has it (`XEN_ELFNOTE_PHYS32_ENTRY`), and
        /// it lies in the loaded bytes and below 4 GiB.
        pvh_entry: Option<GuestAddress>,
    },
    /// A bzImage.
    BzImage {
        /// The setup header as in the file.
        header: SetupHeader,
        /// The entry for 64-bit mode with identity paging, if it has one (`XLF_KERNEL_64`).
        entry_64: Option<GuestAddress>,
    },
}

/// A kernel in guest memory. Its `Display` is a table of its ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedKernel {
    /// The format.
    pub format: KernelFormat,
    /// The guest-physical address where it begins to run. For ELF `e_entry`, in the mode that the machine's boot
    /// protocol says; for a bzImage the entry for 32-bit protected mode, which is the load address.
    pub entry: GuestAddress,
    /// Where it lies, by ascending address; and what it needs besides, see [`RangeKind::is_written`].
    ///
    /// [`RangeKind::is_written`]: crate::RangeKind::is_written
    pub ranges: Vec<LoadedRange>,
}

impl LoadedKernel {
    /// The setup header of a bzImage.
    pub fn setup_header(&self) -> Option<&SetupHeader> {
        match &self.format {
            KernelFormat::BzImage { header, .. } => Some(header),
            KernelFormat::Elf { .. } => None,
        }
    }

    /// The longest command line that it reads, in bytes without the terminating zero. An ELF file does not say: then
    /// what Linux on x86 reads, 2047.
    pub fn command_line_max(&self) -> u32 {
        self.setup_header().map_or(SetupHeader::X86_COMMAND_LINE_MAX, SetupHeader::cmdline_size)
    }

    /// The last address that an initrd may take, inclusive. An ELF file does not say: then the last below 2 GiB, as
    /// Linux on x86 says of itself.
    pub fn initrd_last(&self) -> GuestAddress {
        GuestAddress(self.setup_header().map_or(SetupHeader::X86_INITRD_ADDR_MAX, SetupHeader::initrd_addr_max).into())
    }
}

impl fmt::Display for LoadedKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry;
        match &self.format {
            KernelFormat::Elf { class, machine, pvh_entry } => {
                let bits = match class {
                    ElfClass::Elf32 => 32,
                    ElfClass::Elf64 => 64,
                };
                write!(f, "ELF{bits} kernel for machine {machine}, entry {entry}")?;
                pvh_entry.map_or(Ok(()), |pvh| write!(f, ", PVH entry {pvh}"))?;
            }
            KernelFormat::BzImage { header, entry_64 } => {
                let [minor, major] = header.version().to_le_bytes();
                write!(f, "bzImage of protocol {major}.{minor:02}, entry {entry}")?;
                entry_64.map_or(Ok(()), |entry| write!(f, ", 64-bit entry {entry}"))?;
            }
        }
        f.write_str("\n")?;
        for range in &self.ranges {
            let (first, last) = (range.addr.0, range.last().0);
            let note = if range.kind.is_written() { "" } else { " (keep free)" };
            writeln!(f, "  {first:#018x}..={last:#018x} {:#11x} {}{note}", range.len, range.kind)?;
        }
        Ok(())
    }
}

/// Loads a kernel, whichever format the file has: by [`load_elf`] or [`load_bzimage`].
///
/// # Errors
///
/// [`Error::UnknownFormat`] if it has none of them, with what it looks like instead; else as for these two.
pub fn load_kernel<M>(memory: &M, file: &File, options: LoadOptions) -> Result<LoadedKernel, Error>
where
    M: GuestMemory + ?Sized,
{
    match Found::in_file(&Source::new(file)?)? {
        Found::Elf => load_elf(memory, file, options.elf_bias),
        Found::BzImage => load_bzimage(memory, file, options.bzimage_addr),
        found => Err(Error::UnknownFormat { wanted: "a kernel that can be loaded (ELF or bzImage)", found }),
    }
}
