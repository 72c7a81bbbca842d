//! A map mirrored into KVM's memory slots, and KVM's dirty log.
//!
//! KVM knows a guest's memory as slots: a number, a guest address, and an address in the process that made the VM. To give
//! it one by `kvm_ioctls` is `unsafe`, as KVM writes there for as long as it has the slot, whatever is mapped there by then.
//! [`KvmSlots`] gives it regions, which it keeps; so a VMM needs no `unsafe` for its guest's memory.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kvm_ioctls::Kvm;
//! use memory_model::interop::kvm::KvmSlots;
//! use memory_model::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
//!
//! let slots = KvmSlots::new(Kvm::new()?.create_vm()?);
//! let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 30)])?);
//! map.register(Box::new(slots.clone()))?; // KVM has slot 0
//! let vcpu = slots.vm().create_vcpu(0)?;
//! // A DIMM is plugged, while the guest runs: slot 1.
//! let dimm = Arc::new(GuestRegionMmap::new(MmapRegion::new(1 << 30)?, GuestAddress(1 << 32))?);
//! map.insert_region(Arc::clone(&dimm))?;
//! assert_eq!(dimm.slot(), Some(1));
//! // What the guest writes and what the host writes, in one log.
//! let kvm_log = slots.start_logging()?;
//! let log = map.memory().start_tracking(4096)?;
//! loop {
//!     kvm_log.sync()?;
//!     let harvest = log.harvest();
//!     for range in harvest.ranges() {
//!         // Send it.
//!     }
//!     harvest.commit();
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The dirty log
//!
//! While it [logs](KvmSlots::start_logging), KVM notes the pages that the guest writes, of all slots and of those that come
//! later; [`sync`](KvmLog::sync) fetches its notes, and marks the pages as if the host had written them: in each
//! [`DirtyLog`](crate::guest_memory::DirtyLog) that follows the region, and whatever else is attached to its
//! [`Tracker`](crate::dirty::Tracker). So it is to be called before each harvest; several logs do not take pages from each
//! other. What KVM itself writes on the guest's behalf is noted, too; what other devices write (vhost) is not.
//!
//! Where a region of the map is removed while KVM logs, what KVM knows dies with the slot, and the guest may write until
//! then: so the whole region is marked. That matters to who still harvests it; a `DirtyLog` forgets it when it next
//! [follows](crate::guest_memory::DirtyLog::follow) the map.
//!
//! Not for a VM with KVM's dirty ring, or with `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: the one keeps its notes elsewhere
//! ([`sync`](KvmLog::sync) is an error), the other repeats them for ever.
//!
//! # Locks
//!
//! A map's update has the map's lock, and takes that of the slots below it. No method here goes the other way, or waits for
//! a vCPU otherwise than KVM does: so a map may be changed, and its log fetched, from any thread, also one of a vCPU.

mod error;
mod log;
mod slots;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use error::Error;
use kvm_ioctls::{Cap, VmFd};
pub use log::KvmLog;
use slots::Slots;

use crate::GuestRegionMmap;
use crate::atomic::{ListenerError, MapListener};

/// A VM's memory slots, which mirror a map: its [`MapListener`].
///
/// A clone is another handle to the same: one is registered, others start logs. See the [module](self) for how. Where the
/// map never changes, to call [`added`](MapListener::added) for each region does, too.
///
/// The number of a region's slot is the lowest that is free, and told by [`GuestRegionMmap::slot`] as long as KVM has it.
/// A region is read-only to the guest if it [is](GuestRegionMmap::is_read_only) when it is added, or if it is
/// [ROM](crate::RegionKind::Rom): what the guest writes there becomes an exit of its vCPU (`KVM_EXIT_MMIO`). If it is
/// protected later, KVM is not told: a guest's write then is such an exit, or fails the `KVM_RUN` (EFAULT).
///
/// # When it is dropped
///
/// KVM has a slot until it is told that it is gone: a vCPU keeps the VM, and its slots, also when this and the [`VmFd`] are
/// closed. So KVM is told when a region is removed, and of all others when the last handle is dropped. If it refuses, the
/// region stays mapped for the life of the process: see [`check_removed`](Self::check_removed). A vCPU that outlives this
/// finds no memory, and does no harm.
#[derive(Clone)]
pub struct KvmSlots {
    vm: Arc<VmFd>,
    slots: Arc<Mutex<Slots>>,
}

impl KvmSlots {
    /// All slots of a VM, of which it has none yet.
    ///
    /// It takes the VM, as nobody else may use the same numbers; [`vm`](Self::vm) lends it.
    pub fn new(vm: VmFd) -> Self {
        Self::with_numbers(vm, 0..u32::MAX)
    }

    /// The slots of a VM that have these numbers, as far as KVM has them (`KVM_CAP_NR_MEMSLOTS`): others are left to the
    /// caller, for memory that is not in the map.
    pub fn with_numbers(vm: VmFd, numbers: Range<u32>) -> Self {
        // What a KVM has that does not say how many.
        const FEW: u32 = 32;
        let count = u32::try_from(vm.check_extension_int(Cap::NrMemslots)).ok().filter(|&count| count > 0);
        let numbers = numbers.start..numbers.end.min(count.unwrap_or(FEW)).max(numbers.start);
        let vm = Arc::new(vm);
        Self { slots: Arc::new(Mutex::new(Slots::new(Arc::clone(&vm), numbers))), vm }
    }

    /// Returns the VM, to make vCPUs and devices. Other slots, which its own `unsafe` method sets, have numbers that are not
    /// among [these](Self::with_numbers).
    ///
    /// Do not call [`VmFd::get_dirty_log`] for one of these slots: use [`start_logging`](Self::start_logging), which loses none of what KVM notes. That
    /// method of `kvm-ioctls` also trusts the size that it is given. With one smaller than the slot's, the kernel writes past the
    /// end of its vector.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Has KVM note from now on which pages the guest writes, until the log is dropped: see the [module](self).
    ///
    /// What it notes before a [`DirtyLog`](crate::guest_memory::DirtyLog) starts that one has, too. Both have to be there
    /// before what is then kept up to date is copied. KVM splits the guest's huge pages meanwhile; the first write to each
    /// page costs a fault.
    ///
    /// # Errors
    ///
    /// [`Error::Set`]: KVM does not log, unless another log has it do so.
    pub fn start_logging(&self) -> Result<KvmLog, Error> {
        self.lock().start_logging()?;
        Ok(KvmLog::new(self.clone()))
    }

    /// Whether KVM has let go all regions that were removed from the map. It is asked once more for those that it has not.
    ///
    /// # Errors
    ///
    /// [`Error::Delete`], of one that it has not: the guest still reaches it, and it stays mapped. Its slot is not used
    /// again. KVM is asked once more whenever a region is added or removed, and at the end.
    pub fn check_removed(&self) -> Result<(), Error> {
        self.lock().let_go()
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.lock().in_use()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Each change of it is one step.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MapListener<GuestRegionMmap> for KvmSlots {
    fn name(&self) -> &'static str {
        "KVM"
    }

    /// Gives KVM a region.
    ///
    /// # Errors
    ///
    /// An [`Error`].
    fn added(&mut self, region: &Arc<GuestRegionMmap>) -> Result<(), ListenerError> {
        Ok(self.lock().add(region)?)
    }

    /// Has KVM let go a region. When this returns, no vCPU accesses it any more, unless KVM
    /// [refuses](Self::check_removed).
    fn removed(&mut self, region: &Arc<GuestRegionMmap>) {
        self.lock().remove(region);
    }
}

impl fmt::Debug for KvmSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(f)
    }
}
