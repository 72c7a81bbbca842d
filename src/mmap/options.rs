//! What there is to choose from when memory is made.

use std::num::NonZeroUsize;

bitflags::bitflags! {
    /// What can no longer be done to a memfd: fcntl(2), `F_ADD_SEALS`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Seals: u8 {
        /// It does not get shorter. Without this, whoever has the file can take pages away under the mapping.
        const SHRINK = 1;
        /// It does not get longer.
        const GROW = 1 << 1;
        /// No other seals are added: nobody who has the file can forbid writing it, or giving its pages back.
        const SEAL = 1 << 2;
    }
}

/// What can be done with mapped memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protection {
    /// It is read and written.
    #[default]
    ReadWrite,
    /// It is read. A write through guest memory is [`ReadOnly`](crate::guest_memory::Error::ReadOnly); one through a
    /// [`VolatileSlice`](crate::VolatileSlice) of the mapping is
    /// [`Fault`](crate::volatile_memory::Error::Fault) where faults are recovered from, and ends the process elsewhere.
    ReadOnly,
}

/// Contents of the pages of a private file mapping after they are discarded, or unplugged and plugged again.
///
/// Pages of all other mappings read as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Discarded {
    /// Zeros, as a guest expects of a balloon or of virtio-mem.
    #[default]
    Zeros,
    /// The file's bytes, as after `MADV_DONTNEED`: the guest's memory goes back to the state of the snapshot.
    File,
}

/// The size of a page of hugetlb memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HugePageSize {
    log2: u32,
}

impl HugePageSize {
    /// 2 MiB: x86-64, and aarch64 with base pages of 4 KiB.
    pub const MIB_2: Self = Self { log2: 21 };
    /// 1 GiB: most x86-64, and aarch64 with base pages of 4 KiB.
    pub const GIB_1: Self = Self { log2: 30 };

    /// A size in bytes; `None` unless it is a power of two that could be one (Linux encodes sizes below 2^64). Which ones
    /// a host has: `/sys/kernel/mm/hugepages`.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self { log2: bytes.trailing_zeros() }) } else { None }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// As `memfd_create(2)` and mmap(2) want it, above their flags.
    pub(super) fn flag_bits(self) -> u32 {
        self.log2 << libc::MAP_HUGE_SHIFT
    }
}

/// The pages that memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// As the host is set up: `/sys/kernel/mm/transparent_hugepage/enabled`.
    #[default]
    Host,
    /// Transparent huge pages where there are some, small ones elsewhere: `MADV_HUGEPAGE`.
    Transparent,
    /// Small pages: `MADV_NOHUGEPAGE`. What userfaultfd and fine-grained dirty logs want.
    Never,
    /// Pages of the host's hugetlb pool, which exist for this only; the memory and its place in a file are multiples of
    /// their size. They are reserved when they are mapped, unless
    /// [`reserve(false)`](super::MmapRegionBuilder::reserve).
    Hugetlb(HugePageSize),
}

/// Whether pages stay in memory: mlock(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lock {
    /// The host may swap them out.
    #[default]
    None,
    /// All are made and locked at once.
    Now,
    /// Each is locked when it is first touched: `MLOCK_ONFAULT`.
    OnFault,
}

/// Whether pages are made before they are touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prefault {
    /// Each is made when it is first touched.
    #[default]
    None,
    /// All are made, by the calling thread.
    Populate,
    /// All are made, by so many threads of their own.
    Parallel {
        /// The number of threads.
        threads: NonZeroUsize,
    },
}

/// How far a prefault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes whose pages have been made.
    pub done: u64,
    /// Bytes there are to make.
    pub total: u64,
}

/// Who sees what is written to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Whoever maps the same file, and the file.
    Shared,
    /// This process.
    Private,
}
