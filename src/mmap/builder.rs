use std::ops::ControlFlow;
use std::ptr::NonNull;

use super::options::Sharing;
use super::{
    Discarded, Error, FileOffset, HugePages, Lock, MmapRegion, NumaPolicy, Prefault, Progress, Protection, Seals, build,
};

/// How a mapping is made: from [`MmapRegion::builder`].
///
/// Unless it is told otherwise, memory is anonymous and private, made when it is touched, not in core dumps, and has a
/// page without access before and behind it. The steps are taken in the order that works, whichever order they are asked
/// for in: a memfd made, sized and sealed; addresses reserved; mapped; bound to NUMA nodes; advised on huge pages, dumps,
/// children and merging; locked; made. A step that is refused names itself, what the kernel answered and what to do, and
/// leaves neither a mapping nor a file.
///
/// ```
/// use memory_model::VolatileMemory;
/// use memory_model::mmap::{HugePages, MmapRegion};
///
/// // Memory that a vhost-user back-end can map, too, of transparent huge pages where the host has them.
/// let region = MmapRegion::builder(64 << 20).memfd("guest").huge_pages(HugePages::Transparent).build()?;
/// let at = region.file_offset().ok_or("a memfd is a file")?;
/// assert_eq!((region.len(), at.file().metadata()?.len()), (64 << 20, 64 << 20));
/// assert!(at.file().set_len(0).is_err(), "sealed: nobody takes the memory away");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is mapped before `build`"]
pub struct MmapRegionBuilder {
    pub(super) size: usize,
    pub(super) backing: Backing,
    pub(super) sharing: Option<Sharing>,
    pub(super) seals: Seals,
    pub(super) huge_pages: HugePages,
    pub(super) alignment: usize,
    /// What the host address is to be, modulo the alignment.
    pub(super) phase: u64,
    pub(super) numa: Option<NumaPolicy>,
    pub(super) reserve: Option<bool>,
    pub(super) prefault: Prefault,
    pub(super) lock: Lock,
    pub(super) discarded: Discarded,
    pub(super) protection: Protection,
    pub(super) flags: Flags,
}

/// What memory is made of.
#[derive(Clone, Debug)]
pub(super) enum Backing {
    Anonymous,
    /// A memfd of this name, to be made.
    Memfd(String),
    File(FileOffset),
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Flags: u8 {
        const GUARDS = 1;
        const DUMP = 1 << 1;
        const FORK = 1 << 2;
        const MERGE = 1 << 3;
        const FAULT_RECOVERY = 1 << 4;
    }
}

impl MmapRegionBuilder {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            backing: Backing::Anonymous,
            sharing: None,
            seals: Seals::all(),
            huge_pages: HugePages::Host,
            alignment: 0,
            phase: 0,
            numa: None,
            reserve: None,
            prefault: Prefault::None,
            lock: Lock::None,
            discarded: Discarded::Zeros,
            protection: Protection::ReadWrite,
            flags: Flags::GUARDS | Flags::FORK | Flags::FAULT_RECOVERY,
        }
    }

    /// Maps a file, shared unless [`private`](Self::private) is asked for. Of a file on hugetlbfs the pages are as large
    /// as that file system's.
    pub fn file(self, file: FileOffset) -> Self {
        Self { backing: Backing::File(file), ..self }
    }

    /// Maps a new memfd, shared unless [`private`](Self::private) is asked for: memory that other processes can map, once
    /// they are given the file ([`MmapRegion::file_offset`]). `/proc/PID/maps` has the name. See `memfd_create(2)`.
    pub fn memfd(self, name: impl Into<String>) -> Self {
        Self { backing: Backing::Memfd(name.into()), ..self }
    }

    /// What can no longer be done to the memfd. Unless told otherwise all three: a memfd that can be cut short can be
    /// taken away under the mapping. For other memory nothing.
    pub fn seals(self, seals: Seals) -> Self {
        Self { seals, ..self }
    }

    /// What is written is seen by all who map the same memory, and by the file; by child processes, if it is anonymous.
    /// Usual for a file and a memfd.
    pub fn shared(self) -> Self {
        Self { sharing: Some(Sharing::Shared), ..self }
    }

    /// What is written stays in this process: of a file, the mapping is a copy on write. Usual for anonymous memory.
    pub fn private(self) -> Self {
        Self { sharing: Some(Sharing::Private), ..self }
    }

    /// The pages that it is made of.
    pub fn huge_pages(self, pages: HugePages) -> Self {
        Self { huge_pages: pages, ..self }
    }

    /// The host address is a multiple of so many bytes, a power of two. Unless told otherwise of what a huge page
    /// needs: of the page size for less memory than that, of hugetlb pages their size.
    pub fn alignment(self, bytes: usize) -> Self {
        Self { alignment: bytes, ..self }
    }

    /// On which of the host's NUMA nodes pages are made; unless told otherwise, on the one whose processor first touches
    /// them. Of a memfd, and of a file in memory, for all who map it.
    pub fn numa(self, policy: NumaPolicy) -> Self {
        Self { numa: Some(policy), ..self }
    }

    /// Whether the host sets memory aside for all of it now, so that it cannot lack later; or else it is promised more
    /// than there may be. Unless told otherwise only for hugetlb pages. For other private memory the host does so only if
    /// `vm.overcommit_memory` says that it counts; shared memory is counted page by page, as it is touched.
    pub fn reserve(self, on: bool) -> Self {
        Self { reserve: Some(on), ..self }
    }

    /// Whether pages are made before they are touched. They come from where [`numa`](Self::numa) says, as large as
    /// [`huge_pages`](Self::huge_pages) says. Those of a file are read, and others written, without a change.
    pub fn prefault(self, prefault: Prefault) -> Self {
        Self { prefault, ..self }
    }

    /// Whether pages are kept from being swapped out.
    pub fn lock(self, lock: Lock) -> Self {
        Self { lock, ..self }
    }

    /// Selects what discarded pages of a private file mapping read as; [`Discarded::Zeros`] is the default. All other
    /// mappings ignore it. See [`MmapRegion::discard`] for what zeros cost.
    pub fn discarded(self, discarded: Discarded) -> Self {
        Self { discarded, ..self }
    }

    /// What can be done with the memory: read-only for the firmware in a file. See also [`MmapRegion::protect`].
    pub fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// Whether core dumps have it; unless told otherwise, they do not: a guest's memory is large, and the guest's own.
    pub fn dump(self, on: bool) -> Self {
        self.flag(Flags::DUMP, on)
    }

    /// Whether child processes have it, as is usual. Without, a fork(2) copies no page tables for it, and a child that
    /// touches it dies.
    pub fn fork(self, on: bool) -> Self {
        self.flag(Flags::FORK, on)
    }

    /// Whether the host may make one of equal pages, of several guests, too: `MADV_MERGEABLE`. Guests can find out by
    /// timing what others have in memory.
    pub fn mergeable(self, on: bool) -> Self {
        self.flag(Flags::MERGE, on)
    }

    /// Whether a page without access lies before and behind the memory, as is usual: what goes past an end then hits no
    /// other mapping, neither ours nor another library's.
    pub fn guard_pages(self, on: bool) -> Self {
        self.flag(Flags::GUARDS, on)
    }

    /// Whether to install the handlers that make an error of a page that cannot be accessed, unless they are there
    /// already: [`install`](crate::fault_recovery::install). Usual. Without them, and without any other mapping that has
    /// installed them, such a page ends the process: for a program that must keep its signal handlers as they are.
    #[cfg(feature = "fault-recovery")]
    pub fn fault_recovery(self, on: bool) -> Self {
        self.flag(Flags::FAULT_RECOVERY, on)
    }

    fn flag(mut self, flag: Flags, on: bool) -> Self {
        self.flags.set(flag, on);
        self
    }

    /// Maps it.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::TooLarge`], [`Error::Alignment`], [`Error::NoNode`], [`Error::Node`]; for huge pages
    /// [`Error::HugePages`], [`Error::HugetlbFile`]; for a file [`Error::MisalignedFileOffset`], and
    /// [`Error::PastEndOfFile`] if it does not have all the bytes; [`Error::Refused`] if the kernel refuses a step,
    /// [`Error::FaultRecovery`] if it refuses the handlers, [`Error::NoRecovery`] if read-only memory is to do without
    /// them. Nothing is left mapped then, and no file open.
    pub fn build(self) -> Result<MmapRegion, Error> {
        self.build_with_progress(|_| ControlFlow::Continue(()))
    }

    /// As [`build`](Self::build), and tells how far the [`prefault`](Self::prefault) is: once at its start, and whenever
    /// some 16 MiB more are done, in the calling thread. It breaks off when it is told to.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::ops::ControlFlow;
    /// use memory_model::mmap::{Error, MmapRegion, Prefault};
    ///
    /// let prefault = Prefault::Parallel { threads: NonZeroUsize::MIN.saturating_add(1) };
    /// let builder = MmapRegion::builder(64 << 20).prefault(prefault);
    /// let cancelled = builder.build_with_progress(|progress| match progress.done * 2 < progress.total {
    ///     true => ControlFlow::Continue(()),
    ///     false => ControlFlow::Break(()),
    /// });
    /// assert!(matches!(cancelled, Err(Error::Cancelled { .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build), and [`Error::Cancelled`].
    pub fn build_with_progress(self, progress: impl FnMut(Progress) -> ControlFlow<()>) -> Result<MmapRegion, Error> {
        build::build(&self, progress)
    }

    /// The mapping at `start` that somebody else has made and unmaps, as it has been described: its size, its file, if
    /// it is shared, its huge pages, whether it is locked ([`lock`](Self::lock)) and can be written. What it was
    /// described as is what [`MmapRegion::discard`] goes by. Nothing else about it can be chosen.
    ///
    /// # Errors
    ///
    /// [`Error::Borrowed`] for what only making a mapping can do; else as for [`build`](Self::build).
    ///
    /// # Safety
    ///
    /// As for [`MmapRegion::from_raw`], and the mapping is as it has been described.
    #[expect(unsafe_code, reason = "the caller vouches for the mapping")]
    pub unsafe fn from_raw(self, start: NonNull<u8>) -> Result<MmapRegion, Error> {
        // SAFETY: the caller vouches for all that it asks for.
        unsafe { build::borrow(&self, start) }
    }
}
