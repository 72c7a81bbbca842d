use alloc::string::String;

use crate::{GuestAddress, GuestUsize, RegionKind};

/// A piece of memory that a guest is to have: what a NUMA node has, firmware, a log.
///
/// ```
/// use memory_model::layout::Zone;
/// use memory_model::{GuestAddress, RegionKind};
///
/// // 8 GiB, in whole huge pages.
/// let node = Zone::new("node0", 8 << 30).node(0).alignment(2 << 20);
/// assert_eq!((node.len, node.node), (8 << 30, Some(0)));
/// // Where the processor starts.
/// let firmware = Zone::new("firmware", 4 << 20).kind(RegionKind::Rom).at(GuestAddress(0xffc0_0000));
/// assert_eq!(firmware.at, Some(GuestAddress(0xffc0_0000)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Zone {
    /// What it is called. No two zones of a layout have the same name.
    pub name: String,
    /// Its size in bytes, of all its ranges together.
    pub len: GuestUsize,
    /// What it is to the guest.
    pub kind: RegionKind,
    /// The guest's NUMA node, if it has nodes.
    pub node: Option<u32>,
    /// Each range begins and ends at a multiple of this, in bytes; a power of two.
    pub alignment: u64,
    /// Its place, if that is fixed.
    pub at: Option<GuestAddress>,
}

impl Zone {
    /// RAM of `len` bytes, laid where there is room, aligned to 4 KiB.
    pub fn new(name: impl Into<String>, len: GuestUsize) -> Self {
        Self { name: name.into(), len, kind: RegionKind::Ram, node: None, alignment: 0x1000, at: None }
    }

    /// What it is to the guest: RAM, unless said otherwise.
    #[must_use]
    pub fn kind(self, kind: RegionKind) -> Self {
        Self { kind, ..self }
    }

    /// The guest's NUMA node that it belongs to.
    #[must_use]
    pub fn node(self, node: u32) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Begins and ends each range at a multiple of `alignment`, in bytes: a power of two. For huge pages 2 MiB or 1 GiB.
    #[must_use]
    pub fn alignment(self, alignment: u64) -> Self {
        Self { alignment, ..self }
    }

    /// Puts all of it at `addr`, one range, also into a hole or below the platform's base.
    #[must_use]
    pub fn at(self, addr: GuestAddress) -> Self {
        Self { at: Some(addr), ..self }
    }
}

/// Contiguous addresses of a [`Zone`]: all of it, or what lies between two holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZoneRange {
    /// Which zone: its index in [`GuestLayout::zones`](super::GuestLayout::zones).
    pub zone: usize,
    /// The first address.
    pub start: GuestAddress,
    /// The length in bytes.
    pub len: GuestUsize,
    /// What it is to the guest, as the zone is.
    pub kind: RegionKind,
    /// The guest's NUMA node, as the zone's.
    pub node: Option<u32>,
}
