//! Which format a file has, by its first bytes.

use std::fmt;

use crate::source::Source;
use crate::{Error, setup_header};

/// What a file that is no loadable kernel looks like. Its `Display` says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// An empty file.
    Empty,
    /// An ELF file, where another format was asked for.
    Elf,
    /// A bzImage, where another format was asked for.
    BzImage,
    /// A file packed by the program of this name.
    Packed(&'static str),
    /// An uncompressed arm64 `Image`.
    Arm64Image,
    /// An uncompressed RISC-V `Image`.
    RiscvImage,
    /// An EFI application that unpacks a kernel (`vmlinuz.efi`, `CONFIG_EFI_ZBOOT`).
    EfiZboot,
    /// An EFI application.
    EfiApplication,
    /// A boot sector without the header of protocol 2.00 and later: a kernel before 1.3.73, or no kernel.
    BootSector,
    /// Something else, which begins with these bytes.
    Unknown([u8; 8]),
}

/// How far into the file the magic numbers reach.
const HEAD: usize = 0x206;

impl Found {
    pub(crate) fn in_file(source: &Source<'_>) -> Result<Self, Error> {
        let head: [u8; HEAD] = source.head()?;
        let has = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        Ok(match () {
            () if source.len() == 0 => Self::Empty,
            () if has(0, b"\x7fELF") => Self::Elf,
            () if has(setup_header::MAGIC_OFFSET, setup_header::MAGIC) => Self::BzImage,
            () if has(0, b"\x1f\x8b") => Self::Packed("gzip"),
            () if has(0, b"\xfd7zXZ") => Self::Packed("xz"),
            () if has(0, b"\x28\xb5\x2f\xfd") => Self::Packed("zstd"),
            () if has(0, b"\x02\x21\x4c\x18") || has(0, b"\x04\x22\x4d\x18") => Self::Packed("lz4"),
            () if has(0, b"BZh") => Self::Packed("bzip2"),
            () if has(0x38, b"ARM\x64") => Self::Arm64Image,
            () if has(0x38, b"RSC\x05") => Self::RiscvImage,
            () if has(0, b"MZ") && has(4, b"zimg") => Self::EfiZboot,
            () if has(0, b"MZ") => Self::EfiApplication,
            () if has(0x1fe, b"\x55\xaa") => Self::BootSector,
            () => Self::Unknown(head.first_chunk().copied().unwrap_or_default()),
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty file"),
            Self::Elf => f.write_str("an ELF file"),
            Self::BzImage => f.write_str("a bzImage"),
            Self::Packed(by) => write!(f, "packed by {by}: unpack it first"),
            Self::Arm64Image => f.write_str("an arm64 Image: load the ELF file vmlinux instead"),
            Self::RiscvImage => f.write_str("a RISC-V Image: load the ELF file vmlinux instead"),
            Self::EfiZboot => {
                f.write_str("an EFI application with a packed kernel in it: load the ELF file vmlinux instead")
            }
            Self::EfiApplication => f.write_str("an EFI application: it needs firmware to run"),
            Self::BootSector => f.write_str("a boot sector, or a kernel before Linux 1.3.73"),
            Self::Unknown(bytes) => write!(f, "unknown, and begins with {bytes:02x?}"),
        }
    }
}
