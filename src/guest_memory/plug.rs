use core::fmt;

use super::{GuestAddress, GuestUsize, MemoryRegionAddress};
use crate::Address;

/// Whether a guest may use memory that a region has room for: what virtio-mem changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlugState {
    /// It is memory.
    Plugged,
    /// It is room for memory: an access is an error.
    Unplugged,
}

impl fmt::Display for PlugState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plugged => "plugged",
            Self::Unplugged => "unplugged",
        })
    }
}

/// A part of a region, of at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionRange {
    /// Where in the region it begins.
    pub offset: MemoryRegionAddress,
    /// Its length in bytes.
    pub len: GuestUsize,
}

impl RegionRange {
    /// Its first and last address, in a region that begins at `start`.
    ///
    /// ```
    /// use memory_model::guest_memory::RegionRange;
    /// use memory_model::{GuestAddress, MemoryRegionAddress};
    ///
    /// let range = RegionRange { offset: MemoryRegionAddress(0x1000), len: 0x1000 };
    /// assert_eq!(range.addresses(GuestAddress(0x8000)), (GuestAddress(0x9000), GuestAddress(0x9fff)));
    /// ```
    pub fn addresses(self, start: GuestAddress) -> (GuestAddress, GuestAddress) {
        let first = GuestAddress(start.0.saturating_add(self.offset.0));
        let last = first.checked_add(self.len.saturating_sub(1));
        (first, last.unwrap_or(GuestAddress(u64::MAX)))
    }
}

impl fmt::Display for RegionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} bytes from offset {:#x}", self.len, self.offset.0)
    }
}
