//! The setup header of a bzImage (`boot.rst`, "The Real-Mode Kernel Header").

use std::fmt;
use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::bzimage::PARAGRAPH;
use crate::source::Source;
use crate::{Error, Found};

/// Where the magic number `HdrS` stands, in bytes from the start of the file.
pub(crate) const MAGIC_OFFSET: usize = 0x202;
pub(crate) const MAGIC: &[u8; 4] = b"HdrS";
/// Where the header begins in the file, and in the zero page.
pub(crate) const START: usize = 0x1f1;
/// The end of the room that the zero page has for it.
const END: usize = 0x290;

const BOOT_FLAG: u16 = 0xaa55;
/// The opcode of a short jump: the byte after it is the distance to the header's end.
const JUMP_SHORT: u8 = 0xeb;
const OLDEST: u16 = 0x202;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;

/// The header's bytes. No field needs alignment, as the header begins at an odd address.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Raw {
    pub(crate) setup_sects: u8,
    pub(crate) root_flags: U16,
    pub(crate) syssize: U32,
    pub(crate) ram_size: U16,
    pub(crate) vid_mode: U16,
    pub(crate) root_dev: U16,
    pub(crate) boot_flag: U16,
    pub(crate) jump: [u8; 2],
    pub(crate) header: [u8; 4],
    pub(crate) version: U16,
    pub(crate) realmode_swtch: U32,
    pub(crate) start_sys_seg: U16,
    pub(crate) kernel_version: U16,
    pub(crate) type_of_loader: u8,
    pub(crate) loadflags: u8,
    pub(crate) setup_move_size: U16,
    pub(crate) code32_start: U32,
    pub(crate) ramdisk_image: U32,
    pub(crate) ramdisk_size: U32,
    pub(crate) bootsect_kludge: U32,
    pub(crate) heap_end_ptr: U16,
    pub(crate) ext_loader_ver: u8,
    pub(crate) ext_loader_type: u8,
    pub(crate) cmd_line_ptr: U32,
    pub(crate) initrd_addr_max: U32,
    pub(crate) kernel_alignment: U32,
    pub(crate) relocatable_kernel: u8,
    pub(crate) min_alignment: u8,
    pub(crate) xloadflags: U16,
    pub(crate) cmdline_size: U32,
    pub(crate) hardware_subarch: U32,
    pub(crate) hardware_subarch_data: U64,
    pub(crate) payload_offset: U32,
    pub(crate) payload_length: U32,
    pub(crate) setup_data: U64,
    pub(crate) pref_address: U64,
    pub(crate) init_size: U32,
    pub(crate) handover_offset: U32,
    pub(crate) kernel_info_offset: U32,
    pub(crate) rest: [u8; END - 0x26c],
}

const _: () = assert!(size_of::<Raw>() == END - START, "zero-page.rst: the next field begins at 0x290");
const _: () = assert!(START + offset_of!(Raw, header) == MAGIC_OFFSET, "boot.rst: 0202/4 header");
const _: () = assert!(START + offset_of!(Raw, cmd_line_ptr) == 0x228, "boot.rst: 0228/4 cmd_line_ptr");
const _: () = assert!(START + offset_of!(Raw, pref_address) == 0x258, "boot.rst: 0258/8 pref_address");
const _: () = assert!(START + offset_of!(Raw, rest) == 0x26c, "boot.rst: 0268/4 kernel_info_offset is the last");

/// The end of the fields that a protocol's version has, in bytes from the start of the file.
fn end_of_version(version: u16) -> usize {
    match version {
        ..=0x202 => 0x22c,
        0x203 | 0x204 => 0x230,
        0x205 => 0x235,
        0x206 => 0x23c,
        0x207 => 0x248,
        0x208 => 0x250,
        0x209 => 0x258,
        0x20a => 0x264,
        0x20b..=0x20e => 0x268,
        0x20f.. => 0x26c,
    }
}

/// The setup header of a bzImage, as in the file. Fields that its version of the protocol does not have are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SetupHeader {
    raw: Raw,
    end: usize,
}

impl SetupHeader {
    /// `COMMAND_LINE_SIZE` of Linux on x86, without the terminating zero.
    pub(crate) const X86_COMMAND_LINE_MAX: u32 = 2047;
    /// What every Linux on x86 says since protocol 2.03.
    pub(crate) const X86_INITRD_ADDR_MAX: u32 = 0x7fff_ffff;

    /// The header of a file that has one.
    pub(crate) fn read(source: &Source<'_>) -> Result<Self, Error> {
        let found = Found::in_file(source)?;
        if found != Found::BzImage {
            return Err(Error::UnknownFormat { wanted: "a bzImage", found });
        }
        let mut raw = Raw::new_zeroed();
        source.read("setup header", START as u64, raw.as_mut_bytes())?;
        let bad = |field, value, wanted| Err(Error::BadField { field, value, wanted });
        if raw.boot_flag != BOOT_FLAG {
            return bad("boot_flag", raw.boot_flag.get().into(), "0xaa55");
        }
        let version = raw.version.get();
        if version < OLDEST {
            return bad("version", version.into(), "0x202 (Linux 2.4) or later");
        }
        if raw.loadflags & LOADED_HIGH == 0 {
            return bad("loadflags", raw.loadflags.into(), "odd (LOADED_HIGH): a zImage needs a BIOS");
        }
        // "The end of setup header can be calculated": boot.rst, "32-bit Boot Protocol". A short jump is signed.
        let [opcode, distance] = raw.jump;
        let end = MAGIC_OFFSET.saturating_add(distance.into());
        if opcode != JUMP_SHORT || distance > 0x7f || end < end_of_version(version) {
            return bad("jump", u16::from_le_bytes(raw.jump).into(), "a short jump over the fields of the version");
        }
        // Later protocols are compatible, and may have more fields.
        let end = if version > 0x20f { end } else { end_of_version(version) };
        raw.as_mut_bytes().get_mut(end.saturating_sub(START)..).unwrap_or_default().fill(0);
        Ok(Self { raw, end })
    }

    /// What the kernel wants to see if there is none in the file, as it is an ELF file: as little as other VMMs give it.
    pub(crate) fn of_elf() -> Self {
        let mut raw = Raw::new_zeroed();
        raw.boot_flag = BOOT_FLAG.into();
        raw.header = *MAGIC;
        raw.version = 0x20f.into();
        raw.loadflags = LOADED_HIGH;
        raw.xloadflags = (XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G).into();
        raw.kernel_alignment = 0x100_0000.into();
        raw.cmdline_size = Self::X86_COMMAND_LINE_MAX.into();
        raw.initrd_addr_max = Self::X86_INITRD_ADDR_MAX.into();
        Self { raw, end: 0x26c }
    }

    pub(crate) fn raw(&self) -> &Raw {
        &self.raw
    }

    /// The header's bytes: in the file, and in the zero page, they begin at 0x1f1.
    pub fn as_bytes(&self) -> &[u8] {
        self.raw.as_bytes().get(..self.end.saturating_sub(START)).unwrap_or_default()
    }

    /// The version of the boot protocol, major in the upper byte: 0x20f is 2.15.
    pub fn version(&self) -> u16 {
        self.raw.version.get()
    }

    /// The real-mode code in front of the protected-mode code, in bytes.
    pub fn setup_len(&self) -> u64 {
        // "If this field is 0, the real value is 4"; and one more for the boot sector.
        let sectors = if self.raw.setup_sects == 0 { 4 } else { self.raw.setup_sects };
        u64::from(sectors).saturating_add(1).saturating_mul(512)
    }

    /// The length of the protected-mode code in bytes, rounded up to 16 (`syssize`): the file may have up to 15 bytes
    /// less. `None` before protocol 2.04, where the field is too small.
    pub fn code_len(&self) -> Option<u64> {
        (self.version() >= 0x204).then(|| u64::from(self.raw.syssize.get()).saturating_mul(PARAGRAPH))
    }

    /// Whether the kernel runs at any address (`relocatable_kernel`).
    pub fn is_relocatable(&self) -> bool {
        self.raw.relocatable_kernel != 0
    }

    /// The alignment in bytes that a relocatable kernel gives itself; 0 if it does not say.
    pub fn kernel_alignment(&self) -> u32 {
        self.raw.kernel_alignment.get()
    }

    /// Where the kernel would like to run: the address at which it runs if it is not relocatable, and below which it
    /// does not run if it is. 0 if it does not say.
    pub fn pref_address(&self) -> u64 {
        self.raw.pref_address.get()
    }

    /// The memory in bytes that it needs, from where it runs, until it looks at its memory map; 0 if it does not say.
    pub fn init_size(&self) -> u32 {
        self.raw.init_size.get()
    }

    /// The protected-mode code's entry, as the file has it.
    pub fn code32_start(&self) -> u32 {
        self.raw.code32_start.get()
    }

    /// Whether it may be entered in 64-bit mode, 0x200 bytes after the start of the code (`XLF_KERNEL_64`).
    pub fn has_entry_64(&self) -> bool {
        self.raw.xloadflags.get() & XLF_KERNEL_64 != 0
    }

    /// Whether kernel, zero page, command line and initrd may lie above 4 GiB (`XLF_CAN_BE_LOADED_ABOVE_4G`).
    pub fn is_loadable_above_4g(&self) -> bool {
        self.raw.xloadflags.get() & XLF_CAN_BE_LOADED_ABOVE_4G != 0
    }

    /// The longest command line in bytes, without the terminating zero: 255 before protocol 2.06.
    pub fn cmdline_size(&self) -> u32 {
        if self.version() < 0x206 { 255 } else { self.raw.cmdline_size.get() }
    }

    /// The last address that an initrd may take, inclusive: 0x37ffffff before protocol 2.03.
    pub fn initrd_addr_max(&self) -> u32 {
        if self.version() < 0x203 { 0x37ff_ffff } else { self.raw.initrd_addr_max.get() }
    }

    /// Where the packed kernel lies, in bytes from the start of the protected-mode code, and its length in bytes. Both
    /// as in the file, unchecked: the loader has no use for them. 0 before protocol 2.08.
    pub fn payload(&self) -> (u32, u32) {
        (self.raw.payload_offset.get(), self.raw.payload_length.get())
    }
}

impl fmt::Debug for SetupHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetupHeader")
            .field("version", &format_args!("{:#x}", self.version()))
            .field("setup_len", &format_args!("{:#x}", self.setup_len()))
            .field("code_len", &format_args!("{:#x?}", self.code_len()))
            .field("is_relocatable", &self.is_relocatable())
            .field("pref_address", &format_args!("{:#x}", self.pref_address()))
            .field("init_size", &format_args!("{:#x}", self.init_size()))
            .finish_non_exhaustive()
    }
}
