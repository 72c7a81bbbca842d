//! bzImage kernels (`boot.rst`, "Loading The Rest of The Kernel").

use std::fs::File;

use memory_model::{Address, GuestAddress, GuestMemory};

use crate::source::Source;
use crate::{Error, KernelFormat, LoadedKernel, LoadedRange, RangeKind, SetupHeader};

/// `boot.rst`: "It should be loaded at address [...] 0x100000 for bzImage kernels".
const DEFAULT_ADDR: GuestAddress = GuestAddress(0x10_0000);
/// `boot.rst`, "64-bit Boot Protocol": the entry is the start of the code plus this.
const ENTRY_64_OFFSET: u64 = 0x200;
/// `boot.rst`: "The size of the protected-mode code in 16-byte paragraphs".
pub(crate) const PARAGRAPH: u64 = 16;
pub(crate) const LAST_BELOW_4G: GuestAddress = GuestAddress(u32::MAX as u64);

/// Loads a bzImage's protected-mode code at `addr`, or at 0x100000.
///
/// `syssize` counts paragraphs of 16 bytes, rounded up. A file that ends within the last paragraph is loaded up to its
/// end, as not every build pads it (memtest86+, iPXE).
///
/// The setup header is answered, to be put into the zero page ([`write_boot_params`](crate::write_boot_params)); the
/// real-mode code in front of it, which needs a BIOS, is not loaded. Neither is what follows the code, such as a
/// signature. Boot protocols from 2.02 (Linux 2.4) on.
///
/// The kernel unpacks itself into memory that it names by `init_size`, whose place is reported as
/// [`RangeKind::Workspace`] and has to be RAM: it begins at `pref_address`, or at `addr`, aligned, if that is higher
/// and the kernel is relocatable. (`boot.rst` leaves out that a relocatable kernel, too, goes up to `pref_address`: see
/// `LOAD_PHYSICAL_ADDR` in Linux' `arch/x86/boot/compressed/head_64.S`.)
///
/// # Errors
///
/// [`Error::UnknownFormat`], [`Error::Truncated`], [`Error::BadField`], [`Error::NothingToLoad`],
/// [`Error::EntryOutside`]: the file. [`Error::NotRelocatable`], [`Error::TooHigh`]: the address is not for this kernel.
/// [`Error::OutsideMemory`], [`Error::NotRam`]: the code or its workspace. Memory is untouched then. [`Error::Io`], also before;
/// [`Error::Copy`], when part of memory was written.
pub fn load_bzimage<M>(memory: &M, file: &File, addr: Option<GuestAddress>) -> Result<LoadedKernel, Error>
where
    M: GuestMemory + ?Sized,
{
    let source = Source::new(file)?;
    let header = SetupHeader::read(&source)?;
    let addr = addr.unwrap_or(DEFAULT_ADDR);
    if addr != DEFAULT_ADDR && !header.is_relocatable() {
        return Err(Error::NotRelocatable { wanted: addr, fixed: DEFAULT_ADDR });
    }

    let offset = header.setup_len();
    source.check("real-mode code", 0, offset)?;
    let len = code_len(&source, &header, offset)?;
    if len == 0 {
        return Err(Error::NothingToLoad);
    }
    let entry_64 = entry_64(&header, addr, len)?;

    let code = LoadedRange::new(RangeKind::ProtectedMode, addr, len);
    let workspace = workspace(&header, addr)?;
    for range in [Some(code), workspace].into_iter().flatten() {
        range.check_in(memory)?;
        if !header.is_loadable_above_4g() {
            range.check_up_to(LAST_BELOW_4G)?;
        }
    }

    source.load(memory, code, offset)?;
    let mut ranges: Vec<_> = [Some(code), workspace].into_iter().flatten().collect();
    ranges.sort_by_key(|range| range.addr);
    Ok(LoadedKernel { format: KernelFormat::BzImage { header, entry_64 }, entry: addr, ranges })
}

/// Bytes of protected-mode code in the file, from `offset` on.
fn code_len(source: &Source<'_>, header: &SetupHeader, offset: u64) -> Result<u64, Error> {
    let left = source.len().saturating_sub(offset);
    match header.code_len() {
        Some(len) if len.saturating_sub(left) < PARAGRAPH => Ok(len.min(left)),
        Some(len) => source.check("protected-mode code", offset, len).map(|()| len),
        None => Ok(left),
    }
}

fn entry_64(header: &SetupHeader, addr: GuestAddress, len: u64) -> Result<Option<GuestAddress>, Error> {
    if !header.has_entry_64() {
        return Ok(None);
    }
    match addr.checked_add(ENTRY_64_OFFSET) {
        Some(entry) if len > ENTRY_64_OFFSET => Ok(Some(entry)),
        _ => Err(Error::EntryOutside { what: "64-bit entry", addr: addr.0.saturating_add(ENTRY_64_OFFSET) }),
    }
}

/// The memory where the kernel unpacks itself, if it says how much that is.
fn workspace(header: &SetupHeader, addr: GuestAddress) -> Result<Option<LoadedRange>, Error> {
    let len = header.init_size().into();
    if len == 0 {
        return Ok(None);
    }
    let preferred = GuestAddress(header.pref_address());
    let start = if header.is_relocatable() {
        let alignment = header.kernel_alignment();
        if !alignment.is_power_of_two() {
            let (value, wanted) = (alignment.into(), "a power of two");
            return Err(Error::BadField { field: "kernel_alignment", value, wanted });
        }
        let overflow = Error::AddressOverflow { addr: addr.0, offset: alignment.into() };
        addr.checked_align_up(alignment.into()).ok_or(overflow)?.max(preferred)
    } else if preferred == GuestAddress(0) {
        addr
    } else {
        preferred
    };
    Ok(Some(LoadedRange::new(RangeKind::Workspace, start, len)))
}
