//! The zero page, `struct boot_params` (Linux' `Documentation/arch/x86/zero-page.rst`).

use std::mem::offset_of;

use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, RegionKind};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::bzimage::LAST_BELOW_4G;
use crate::setup_header::{Raw as RawHeader, START};
use crate::{Error, LoadedKernel, LoadedRange, RangeKind, SetupHeader};

/// `E820_MAX_ENTRIES_ZEROPAGE` of Linux.
const MAX_E820_ENTRIES: usize = 128;
/// `type_of_loader` of those who have no number assigned.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode` of "vga=normal".
const VIDEO_NORMAL: u16 = 0xffff;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawE820 {
    addr: U64,
    size: U64,
    kind: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ZeroPage {
    before_ext: [u8; 0xc0],
    ext_ramdisk_image: U32,
    ext_ramdisk_size: U32,
    ext_cmd_line_ptr: U32,
    after_ext: [u8; 0x1e8 - 0xcc],
    e820_entries: u8,
    before_header: [u8; 0x1f1 - 0x1e9],
    header: RawHeader,
    after_header: [u8; 0x2d0 - 0x290],
    e820_table: [RawE820; MAX_E820_ENTRIES],
    after_table: [u8; 0x1000 - 0xcd0],
}

const _: () = assert!(size_of::<ZeroPage>() == 0x1000, "zero-page.rst: one page");
const _: () = assert!(offset_of!(ZeroPage, ext_ramdisk_image) == 0xc0, "zero-page.rst: 0C0/004");
const _: () = assert!(offset_of!(ZeroPage, e820_entries) == 0x1e8, "zero-page.rst: 1E8/001");
const _: () = assert!(offset_of!(ZeroPage, header) == START, "zero-page.rst: 1F1, the setup header");
const _: () = assert!(offset_of!(ZeroPage, e820_table) == 0x2d0, "zero-page.rst: 2D0/A00");

/// What the guest may use a range of addresses for (ACPI 6.5, 15.1 "Address Range Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum E820Kind {
    /// Memory for everything.
    Ram = 1,
    /// Not for the guest's use.
    Reserved = 2,
    /// ACPI tables: memory, once they are read.
    Acpi = 3,
    /// ACPI's own memory, to be saved and restored over sleep.
    Nvs = 4,
    /// Memory with errors.
    Unusable = 5,
    /// Memory that keeps its content without power.
    Persistent = 7,
}

/// An entry of the guest's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The first address.
    pub addr: GuestAddress,
    /// The length in bytes.
    pub len: u64,
    /// What it is for.
    pub kind: E820Kind,
}

impl E820Entry {
    /// Returns an entry for each region of RAM, and for what a guest must not mistake for RAM or for free addresses.
    ///
    /// | region             | entry                                                                          |
    /// |--------------------|--------------------------------------------------------------------------------|
    /// | RAM                | [`E820Kind::Ram`]                                                              |
    /// | ROM, reserved      | [`E820Kind::Reserved`]                                                         |
    /// | a device           | none: the guest finds devices by other means                                   |
    /// | any later kind     | [`E820Kind::Reserved`]                                                         |
    ///
    /// What no region's kind says (persistent memory, ACPI tables, reservations within RAM) is for the caller to add.
    pub fn ram_of<M: GuestMemory + ?Sized>(memory: &M) -> Vec<Self> {
        let entry = |region: &M::Region| {
            let kind = match region.kind() {
                RegionKind::Ram => E820Kind::Ram,
                RegionKind::Device => return None,
                _ => E820Kind::Reserved,
            };
            Some(Self { addr: region.start_addr(), len: region.len(), kind })
        };
        memory.regions().filter_map(entry).collect()
    }
}

/// What the zero page tells the kernel.
#[derive(Clone, Copy, Debug)]
pub struct BootParams<'a> {
    /// The kernel. Of an ELF file, which has no setup header, a minimal one is made up.
    pub kernel: &'a LoadedKernel,
    /// The command line: obligatory, as the kernel takes no address for a protocol before 2.02. It may be empty.
    pub command_line: LoadedRange,
    /// The initrd, if there is one.
    pub initrd: Option<LoadedRange>,
    /// The guest's memory map.
    pub e820: &'a [E820Entry],
}

/// Writes the zero page at `addr`: its address is what the kernel finds in `rsi` (or `esi`) at its entry.
///
/// It has the setup header, the places of command line and initrd, and the memory map; "vga=normal", an unassigned
/// loader's number, and zero everywhere else.
///
/// # Errors
///
/// [`Error::OutsideMemory`], [`Error::NotRam`]: the page itself, or what it tells of, is not all RAM. [`Error::Overlap`]: any two of
/// zero page, command line, initrd and kernel. [`Error::TooHigh`]: the kernel cannot reach one of them.
/// [`Error::TooManyE820Entries`]. Memory is untouched then. [`Error::Copy`] if it could be written only in part.
pub fn write_boot_params<M>(memory: &M, addr: GuestAddress, params: &BootParams<'_>) -> Result<LoadedRange, Error>
where
    M: GuestMemory + ?Sized,
{
    let header = params.kernel.setup_header().copied().unwrap_or_else(SetupHeader::of_elf);
    let range = LoadedRange::new(RangeKind::BootParams, addr, size_of::<ZeroPage>() as u64);
    check_places(memory, &header, range, params)?;
    let page = zero_page(&header, params)?;
    memory.write_obj(page, addr).map_err(|source| Error::Copy { range, source })?;
    Ok(range)
}

fn check_places<M: GuestMemory + ?Sized>(
    memory: &M,
    header: &SetupHeader,
    page: LoadedRange,
    params: &BootParams<'_>,
) -> Result<(), Error> {
    let mut taken = params.kernel.ranges.clone();
    for range in [Some(page), Some(params.command_line), params.initrd].into_iter().flatten() {
        range.check_in(memory)?;
        range.check_apart_from(&taken)?;
        if !header.is_loadable_above_4g() {
            range.check_up_to(LAST_BELOW_4G)?;
        }
        taken.push(range);
    }
    match params.initrd {
        // A kernel that may have its initrd above 4 GiB has no use for the older limit.
        Some(initrd) if !header.is_loadable_above_4g() => {
            initrd.check_up_to(GuestAddress(header.initrd_addr_max().into()))
        }
        _ => Ok(()),
    }
}

fn zero_page(header: &SetupHeader, params: &BootParams<'_>) -> Result<ZeroPage, Error> {
    let mut page = ZeroPage::new_zeroed();
    page.header = *header.raw();
    page.header.type_of_loader = LOADER_UNDEFINED;
    page.header.vid_mode = VIDEO_NORMAL.into();
    if params.kernel.setup_header().is_some() {
        // "After loading, the boot loader must set the code32_start field to point to the loaded code"; beyond 4 GiB
        // there is no 32-bit entry.
        page.header.code32_start = halves(params.kernel.entry.0).0;
    }
    (page.header.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(params.command_line.addr.0);
    if let Some(initrd) = params.initrd {
        (page.header.ramdisk_image, page.ext_ramdisk_image) = halves(initrd.addr.0);
        (page.header.ramdisk_size, page.ext_ramdisk_size) = halves(initrd.len);
    }

    let too_many = Error::TooManyE820Entries { count: params.e820.len(), max: MAX_E820_ENTRIES };
    page.e820_entries = match u8::try_from(params.e820.len()) {
        Ok(count) if usize::from(count) <= MAX_E820_ENTRIES => count,
        _ => return Err(too_many),
    };
    for (raw, entry) in page.e820_table.iter_mut().zip(params.e820) {
        *raw = RawE820 { addr: entry.addr.0.into(), size: entry.len.into(), kind: (entry.kind as u32).into() };
    }
    Ok(page)
}

/// The lower and the upper 32 bits.
fn halves(value: u64) -> (U32, U32) {
    let lower = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let upper = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    (lower.into(), upper.into())
}
