//! Ranges of guest memory: what a load reports, and the checks that come before it.

use std::fmt;

use memory_model::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, RegionKind};

use crate::Error;

/// What a range of guest memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeKind {
    /// The bytes of an ELF segment that come from the file; with the program header's number, from 0.
    Segment(u16),
    /// The rest of an ELF segment, which was set to zero (`.bss`); with the program header's number.
    Zeroes(u16),
    /// A bzImage's protected-mode code.
    ProtectedMode,
    /// The memory where a bzImage unpacks itself: nothing was written, and nothing else may lie here.
    Workspace,
    /// The initial file system.
    Initrd,
    /// The command line with its terminating zero.
    CommandLine,
    /// The zero page, Linux' `struct boot_params`.
    BootParams,
}

impl RangeKind {
    /// Whether the load wrote the range; else it is to be kept free.
    pub fn is_written(self) -> bool {
        self != Self::Workspace
    }
}

impl fmt::Display for RangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(number) => write!(f, "segment {number}"),
            Self::Zeroes(number) => write!(f, "zeroes of segment {number}"),
            Self::ProtectedMode => f.write_str("protected-mode kernel"),
            Self::Workspace => f.write_str("workspace to unpack the kernel"),
            Self::Initrd => f.write_str("initrd"),
            Self::CommandLine => f.write_str("command line"),
            Self::BootParams => f.write_str("zero page"),
        }
    }
}

/// A range of guest memory and its use. Its `Display` is one line, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedRange {
    /// What lies there.
    pub kind: RangeKind,
    /// The first address.
    pub addr: GuestAddress,
    /// The length in bytes; never 0 in a report.
    pub len: u64,
}

impl LoadedRange {
    pub(crate) fn new(kind: RangeKind, addr: GuestAddress, len: u64) -> Self {
        Self { kind, addr, len }
    }

    /// The last address, inclusive: the highest there is, if the range would go beyond it.
    pub fn last(&self) -> GuestAddress {
        GuestAddress(self.addr.0.saturating_add(self.len.saturating_sub(1)))
    }

    /// Whether `addr` lies in the range.
    pub fn contains(&self, addr: GuestAddress) -> bool {
        addr.checked_offset_from(self.addr).is_some_and(|offset| offset < self.len)
    }

    /// Whether some address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.len > 0 && other.len > 0 && self.addr <= other.last() && other.addr <= self.last()
    }

    /// Refuses the range unless each of its bytes is RAM; one that wraps is not. So its length fits a `usize`, too.
    pub(crate) fn check_in<M: GuestMemory + ?Sized>(&self, memory: &M) -> Result<(), Error> {
        // On a host of 32 bits a length may be more than memory can have.
        match usize::try_from(self.len) {
            Ok(len) if memory.check_range(self.addr, len) => {}
            _ => return Err(Error::OutsideMemory(*self)),
        }
        let is_other = |region: &&M::Region| {
            region.kind() != RegionKind::Ram && region.start_addr() <= self.last() && self.addr <= region.last_addr()
        };
        match memory.regions().find(is_other).filter(|_| self.len > 0) {
            Some(region) => {
                let addr = region.start_addr().max(self.addr);
                Err(Error::NotRam { range: *self, addr, kind: region.kind() })
            }
            None => Ok(()),
        }
    }

    /// Refuses the range if it overlaps one of the others.
    pub(crate) fn check_apart_from(&self, others: &[Self]) -> Result<(), Error> {
        match others.iter().find(|other| other.overlaps(self)) {
            Some(&first) => Err(Error::Overlap { first, second: *self }),
            None => Ok(()),
        }
    }

    /// Refuses the range if it goes beyond `last`.
    pub(crate) fn check_up_to(&self, last: GuestAddress) -> Result<(), Error> {
        if self.last() <= last { Ok(()) } else { Err(Error::TooHigh { range: *self, last }) }
    }

    /// The length for an access to memory, after [`check_in`](Self::check_in).
    pub(crate) fn access_len(&self) -> Result<usize, Error> {
        usize::try_from(self.len).or(Err(Error::OutsideMemory(*self)))
    }
}

impl fmt::Display for LoadedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ({:#x} bytes)", self.kind, self.addr, self.len)
    }
}
