use super::{Error, FileOffset, GuestRegionMmap, MmapRegion};
use crate::{GuestAddress, GuestRegionCollection};

/// A guest's memory, made of mappings.
pub type GuestMemoryMmap = GuestRegionCollection<GuestRegionMmap>;

impl GuestMemoryMmap {
    /// Anonymous memory of a size in bytes at each address, in whichever order they are.
    ///
    /// # Errors
    ///
    /// [`Error::Region`] if they overlap or go past the end of the address space; else as for
    /// [`MmapRegionBuilder::build`](super::MmapRegionBuilder::build). Nothing is left mapped then.
    pub fn from_ranges(ranges: &[(GuestAddress, usize)]) -> Result<Self, Error> {
        Self::from_regions_iter(ranges.iter().map(|&(start, size)| (start, size, None)))
    }

    /// Memory of a size in bytes at each address: of the file, shared, where there is one, else anonymous.
    ///
    /// # Errors
    ///
    /// As for [`from_ranges`](Self::from_ranges).
    pub fn from_ranges_with_files(ranges: &[(GuestAddress, usize, Option<FileOffset>)]) -> Result<Self, Error> {
        Self::from_regions_iter(ranges.iter().cloned())
    }

    fn from_regions_iter(
        ranges: impl Iterator<Item = (GuestAddress, usize, Option<FileOffset>)>,
    ) -> Result<Self, Error> {
        let regions = ranges.map(|(start, size, file)| {
            let mapping = match file {
                Some(file) => MmapRegion::from_file(file, size)?,
                None => MmapRegion::new(size)?,
            };
            Ok(GuestRegionMmap::new(mapping, start)?)
        });
        Ok(Self::from_regions(regions.collect::<Result<Vec<_>, Error>>()?)?)
    }
}
