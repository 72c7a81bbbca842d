use memory_model::{Bytes, GuestAddress, GuestMemory};

use crate::{Error, LoadedRange, RangeKind};

/// Writes the kernel's command line at `addr`, and a zero after it (`boot.rst`, "The Kernel Command Line").
///
/// `max` is the longest that the kernel reads, in bytes without the zero:
/// [`LoadedKernel::command_line_max`](crate::LoadedKernel::command_line_max).
///
/// # Errors
///
/// [`Error::CommandLineTooLong`], where the kernel would drop the end without a word; [`Error::CommandLineNul`];
/// [`Error::OutsideMemory`]; [`Error::NotRam`]. Memory is untouched then. [`Error::Copy`] if it could be written only in part.
pub fn write_command_line<M>(memory: &M, addr: GuestAddress, text: &str, max: u32) -> Result<LoadedRange, Error>
where
    M: GuestMemory + ?Sized,
{
    let len = text.len();
    if u32::try_from(len).map_or(true, |len| len > max) {
        return Err(Error::CommandLineTooLong { len, max });
    }
    if let Some(at) = text.bytes().position(|byte| byte == 0) {
        return Err(Error::CommandLineNul { at });
    }
    let range = LoadedRange::new(RangeKind::CommandLine, addr, (len as u64).saturating_add(1));
    range.check_in(memory)?;
    let bytes: Vec<u8> = text.bytes().chain([0]).collect();
    memory.write_slice(&bytes, addr).map_err(|source| Error::Copy { range, source })?;
    Ok(range)
}
