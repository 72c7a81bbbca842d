use super::{Error, GuestMemoryMmap, GuestRegionMmap};
use crate::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, GuestUsize, MemoryRegionAddress};

/// The part of a range that one region has.
pub(super) struct Piece<'a> {
    pub(super) region: &'a GuestRegionMmap,
    pub(super) offset: MemoryRegionAddress,
    /// In bytes, at least one.
    pub(super) len: GuestUsize,
}

/// The pieces of ranges of guest addresses, if all of them are memory.
pub(super) fn pieces(
    memory: &GuestMemoryMmap,
    ranges: impl IntoIterator<Item = (GuestAddress, GuestUsize)>,
) -> Result<Vec<Piece<'_>>, Error> {
    let mut pieces = Vec::new();
    for (addr, len) in ranges {
        let mut done: u64 = 0;
        while let Some(left) = len.checked_sub(done).filter(|&left| left > 0) {
            let at = addr.checked_add(done).ok_or(Error::Wraps { addr, len })?;
            let (region, offset) = memory.to_region_addr(at).ok_or(Error::Hole { addr, len, hole: at })?;
            let len = left.min(region.len().saturating_sub(offset.0));
            pieces.push(Piece { region, offset, len });
            done = done.saturating_add(len);
        }
    }
    Ok(pieces)
}
