use alloc::string::String;
use core::fmt;

use super::AllocError;
use crate::{GuestAddress, GuestUsize};

/// What a layout is made of, for errors to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Item {
    /// A [`Zone`](super::Zone).
    Zone,
    /// Where no zone is laid.
    Hole,
    /// Where nothing is allocated.
    Reservation,
    /// What was allocated.
    Allocation,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Zone => "zone",
            Self::Hole => "hole",
            Self::Reservation => "reservation",
            Self::Allocation => "allocation",
        })
    }
}

/// Something of a layout and where it is, for errors to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub item: Item,
    /// What it is called.
    pub name: String,
    /// Its first address.
    pub start: GuestAddress,
    /// Its last address.
    pub last: GuestAddress,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ({}..={})", self.item, self.name, self.start, self.last)
    }
}

/// Why there is no such layout, or why it has no such room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A guest has memory.
    #[error("the layout has no zone: a guest has some memory")]
    NoZones,
    /// Addresses have 1 to 64 bits.
    #[error("addresses of {0} bits were asked for: they have 1 to 64")]
    AddressBits(u32),
    /// Something has no byte.
    #[error("{item} {name:?} is empty: give it a size, or leave it out")]
    Empty {
        /// What it is.
        item: Item,
        /// What it is called.
        name: String,
    },
    /// Two of the same sort have the same name.
    #[error("there are two {item}s called {name:?}: call one of them something else")]
    DuplicateName {
        /// What they are.
        item: Item,
        /// What both are called.
        name: String,
    },
    /// What was to be left out is not there.
    #[error("the platform has no {item} called {name:?} to be left out")]
    UnknownName {
        /// What it would be.
        item: Item,
        /// What it would be called.
        name: String,
    },
    /// A zone's alignment is not a power of two.
    #[error("zone {name:?} is to be aligned to {alignment:#x}, which is not a power of two")]
    NotPowerOfTwo {
        /// The zone.
        name: String,
        /// The alignment asked for, in bytes.
        alignment: u64,
    },
    /// A zone's size is not a multiple of its alignment.
    #[error("zone {name:?} has {len:#x} bytes, which is no multiple of its alignment {alignment:#x}: round it up")]
    MisalignedSize {
        /// The zone.
        name: String,
        /// Its size, in bytes.
        len: GuestUsize,
        /// Its alignment, in bytes.
        alignment: u64,
    },
    /// A zone's fixed place is not a multiple of its alignment.
    #[error("zone {name:?} is to be at {start}, which is no multiple of its alignment {alignment:#x}: move it")]
    MisalignedStart {
        /// The zone.
        name: String,
        /// Its first address.
        start: GuestAddress,
        /// Its alignment, in bytes.
        alignment: u64,
    },
    /// Something goes past the guest's last address.
    #[error(
        "{item} {name:?} of {len:#x} bytes at {start} does not fit below 2^{address_bits}: move it down, make it smaller, \
         or give addresses more bits"
    )]
    PastEnd {
        /// What it is.
        item: Item,
        /// What it is called.
        name: String,
        /// Its first address.
        start: GuestAddress,
        /// Its length in bytes.
        len: GuestUsize,
        /// How many bits the guest's addresses have.
        address_bits: u32,
    },
    /// Two things share addresses and must not.
    #[error("{first} overlaps {second}: move one, or leave it out")]
    Overlap {
        /// The one that begins lower; of an allocation, what was asked for.
        first: Place,
        /// The other.
        second: Place,
    },
    /// The zones do not fit between the holes.
    #[error(
        "zone {name:?} has {len:#x} bytes, and there is no room for {missing:#x} of them below 2^{address_bits}: make it \
         smaller, or give addresses more bits"
    )]
    NoRoom {
        /// The first zone that does not fit.
        name: String,
        /// Its size, in bytes.
        len: GuestUsize,
        /// For how many of its bytes there is no room.
        missing: GuestUsize,
        /// How many bits the guest's addresses have.
        address_bits: u32,
    },
    /// An allocation is not to be had.
    #[error("{name:?} cannot be allocated: {source}")]
    Allocation {
        /// What it would be called.
        name: String,
        /// Why not.
        source: AllocError,
    },
    /// No allocation begins at this address.
    #[error("no allocation begins at {0}: free it by the address that allocating it answered")]
    NotAllocated(GuestAddress),
}
