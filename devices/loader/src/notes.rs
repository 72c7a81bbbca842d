//! Search for the PVH entry in an ELF file's notes (Xen's `public/elfnote.h`).

use object::LittleEndian;
use object::elf::PT_NOTE;
use object::read::elf::ProgramHeader;

use crate::Error;
use crate::source::Source;

/// Bytes of one note segment that are searched. Linux has half a KiB of notes.
const MAX_NOTES: u64 = 64 << 10;
/// The size of a note's header and the name `"Xen\0"`. The content follows without padding, whether notes are padded
/// to 4 or to 8 bytes.
const HEAD: usize = 16;
const XEN: &[u8; 4] = b"Xen\0";
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// `n_namesz` of Xen's notes.
const NAME_LEN: u32 = 4;

/// Returns the first address in a `XEN_ELFNOTE_PHYS32_ENTRY` note that `accept` turns into an entry.
///
/// Notes are optional. A segment is searched at each byte for such a note, rather than walked from note to note: the
/// padding between notes is not always that of `p_align`, and a malformed note must not hide the others. Of each segment
/// the first 64 KiB are read, as far as they lie in the file.
pub(crate) fn find_pvh_entry<P, T>(
    headers: &[P],
    source: &Source<'_>,
    accept: impl Fn(u64) -> Option<T>,
) -> Result<Option<T>, Error>
where
    P: ProgramHeader<Endian = LittleEndian>,
{
    let mut notes = Vec::new();
    for header in headers.iter().filter(|header| header.p_type(LittleEndian) == PT_NOTE) {
        let (offset, len): (u64, u64) = (header.p_offset(LittleEndian).into(), header.p_filesz(LittleEndian).into());
        let len = len.min(MAX_NOTES).min(source.len().saturating_sub(offset));
        notes.resize(usize::try_from(len).unwrap_or_default(), 0);
        if notes.is_empty() {
            continue;
        }
        source.read("note segment", offset, &mut notes)?;
        let entry = (0..notes.len()).find_map(|at| accept(pvh_address(notes.get(at..)?)?));
        if entry.is_some() {
            return Ok(entry);
        }
    }
    Ok(None)
}

/// The address in a PVH entry note that `bytes` begin with. Linux writes 8 bytes in 64-bit kernels and 4 in others.
fn pvh_address(bytes: &[u8]) -> Option<u64> {
    let (head, content) = bytes.split_first_chunk::<HEAD>()?;
    let (name_len, head) = head.split_first_chunk()?;
    let (content_len, head) = head.split_first_chunk()?;
    let (kind, name) = head.split_first_chunk()?;
    if u32::from_le_bytes(*name_len) != NAME_LEN || u32::from_le_bytes(*kind) != XEN_ELFNOTE_PHYS32_ENTRY || name != XEN
    {
        return None;
    }
    match u32::from_le_bytes(*content_len) {
        4 => content.first_chunk().map(|bytes| u32::from_le_bytes(*bytes).into()),
        8 => content.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}
