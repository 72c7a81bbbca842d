use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock};

use super::ranges::Ranges;
use super::{FileOffset, GuestRegionMmap, HugePageSize};
use crate::RegionKind;

/// What a VMM keeps about a region.
#[derive(Debug)]
pub(super) struct Details {
    name: Box<str>,
    pub(super) kind: RegionKind,
    numa_node: Option<u32>,
    /// The slot's number, or [`NO_SLOT`].
    slot: AtomicU64,
    guest_memfd: OnceLock<FileOffset>,
    /// Offsets of whole pages. Who changes what may be done with pages, has it alone. Elsewhere, so that a region stays small.
    pub(super) unplugged: Box<RwLock<Ranges>>,
}

/// More than any number of 32 bits.
const NO_SLOT: u64 = u64::MAX;

impl Details {
    pub(super) fn new() -> Self {
        Self {
            name: Box::default(),
            kind: RegionKind::Ram,
            numa_node: None,
            slot: AtomicU64::new(NO_SLOT),
            guest_memfd: OnceLock::new(),
            unplugged: Box::default(),
        }
    }
}

/// What there is to know about a region, besides its bytes; see also
/// [`kind`](crate::GuestMemoryRegion::kind) and [`file_offset`](crate::GuestMemoryRegion::file_offset).
///
/// ```
/// use memory_model::mmap::{MmapRegion, Protection};
/// use memory_model::{Bytes, GuestAddress, GuestMemoryRegion, GuestRegionMmap, RegionKind, guest_memory};
///
/// let region = GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(0xffff_f000))?
///     .with_name("firmware")
///     .with_kind(RegionKind::Rom);
/// region.write_slice(b"\xf4", GuestAddress(0xffff_fff0))?; // a processor starts here, and halts
/// region.protect(Protection::ReadOnly)?;
/// let refused = region.write_slice(b"\x90", GuestAddress(0xffff_fff0));
/// assert!(matches!(refused, Err(guest_memory::Error::ReadOnly { .. })));
/// assert_eq!((region.name(), region.kind(), region.slot()), ("firmware", RegionKind::Rom, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl GuestRegionMmap {
    /// The region with a name, for people: in tables, in logs. Unless given one, it has the empty one.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.details.name = name.into().into_boxed_str();
        self
    }

    /// The region as of a kind, RAM unless given another. Of [`Rom`](RegionKind::Rom), the host may write it until it is
    /// [protected](Self::protect): that is how its contents come there.
    #[must_use]
    pub fn with_kind(mut self, kind: RegionKind) -> Self {
        self.details.kind = kind;
        self
    }

    /// The region as of one of the guest's NUMA nodes. (Where the host makes its pages is another question:
    /// [`MmapRegionBuilder::numa`](super::MmapRegionBuilder::numa).)
    #[must_use]
    pub fn with_numa_node(mut self, node: u32) -> Self {
        self.details.numa_node = Some(node);
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.details.name
    }

    /// The guest's NUMA node.
    pub fn numa_node(&self) -> Option<u32> {
        self.details.numa_node
    }

    /// The size of the pages of the hugetlb pool that it is made of; `None` for other memory.
    pub fn hugetlb(&self) -> Option<HugePageSize> {
        self.mapping.hugetlb()
    }

    /// The number of the memory slot by which a hypervisor has it (`KVM_SET_USER_MEMORY_REGION2`), once it was
    /// [told](Self::set_slot).
    pub fn slot(&self) -> Option<u32> {
        u32::try_from(self.details.slot.load(Ordering::Relaxed)).ok()
    }

    /// Keeps the number of the memory slot, or forgets it.
    pub fn set_slot(&self, slot: Option<u32>) {
        self.details.slot.store(slot.map_or(NO_SLOT, u64::from), Ordering::Relaxed);
    }

    /// The file of the guest's private memory, which the host cannot map (`KVM_CREATE_GUEST_MEMFD`), and where in it the
    /// region begins; once it was [told](Self::set_guest_memfd).
    pub fn guest_memfd(&self) -> Option<&FileOffset> {
        self.details.guest_memfd.get()
    }

    /// Keeps the file of the guest's private memory.
    ///
    /// # Errors
    ///
    /// That file back, if there is another already: a region's stays the same.
    pub fn set_guest_memfd(&self, file: FileOffset) -> Result<(), FileOffset> {
        self.details.guest_memfd.set(file)
    }

    /// Whether it can be read and not written.
    pub fn is_read_only(&self) -> bool {
        self.mapping.is_read_only()
    }
}
