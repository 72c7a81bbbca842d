//! The slots that KVM has: the only code that gives it addresses of this process.
//!
//! KVM accesses a slot's memory by its address here, at whatever time, until it has deleted the slot. It is sound to give
//! it that address because
//!
//! 1. the address is that of a region's mapping, which exists as long as the region (`MmapRegion`, invariant), at the same
//!    place: a region's mapping does not move, and cannot be taken out of it;
//! 2. the region is kept by the [`Slot`], which never drops it: it is dropped only after KVM has answered that the slot is
//!    deleted, and by then no vCPU accesses it any more, whether it runs or will run, as KVM waits for that. What KVM
//!    otherwise has of the memory are pages, of which it keeps count. Where KVM refuses, where code panics, where the value
//!    is forgotten, the region is kept for ever;
//! 3. the number is this VM's and nobody else's: [`Slots`] has the only safe way to change slots, the VM is given to it
//!    whole, and whoever changes slots by the VM's own `unsafe` method vouches for it. So what KVM deletes is this region,
//!    and its dirty log has the length of this region;
//! 4. that the guest writes while others read and write is what all access here reckons with: there is no reference to the
//!    bytes (`MmapRegion`, `VolatileSlice`);
//! 5. it does not matter who else has the VM or its vCPUs: they have no part in this. In a forked child KVM refuses every
//!    call, as the VM is the parent's; what is then kept for ever is the child's copy.

#![expect(unsafe_code, reason = "gives KVM addresses of this process")]

use std::io;
use std::mem::{self, ManuallyDrop};
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};

use super::Error;
use crate::atomic::SlotAllocator;
use crate::{GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, RegionKind};

/// A slot that KVM has.
#[derive(Debug)]
struct Slot {
    number: u32,
    /// # Invariant
    /// As long as KVM may have the slot, this is not dropped.
    region: ManuallyDrop<Arc<GuestRegionMmap>>,
    host_address: u64,
    flags: u32,
    /// Whether the map has the region, as far as is known here.
    wanted: bool,
}

impl Slot {
    /// Gives KVM the slot, or other flags for it.
    fn set(&mut self, vm: &VmFd, flags: u32) -> Result<(), Error> {
        self.tell(vm, flags, self.region.len()).map_err(|source| Error::Set {
            slot: self.number,
            region: self.ends(),
            source,
        })?;
        self.flags = flags;
        Ok(())
    }

    /// Has KVM delete the slot, and answers the region.
    fn delete(self, vm: &VmFd) -> Result<Arc<GuestRegionMmap>, (Self, io::Error)> {
        match self.tell(vm, 0, 0) {
            Ok(()) => {
                // What KVM knew is gone, and the guest may have written until now.
                if self.is_logged() {
                    self.mark(0, self.region.len());
                }
                Ok(ManuallyDrop::into_inner(self.region))
            }
            Err(error) => Err((self, error)),
        }
    }

    fn tell(&self, vm: &VmFd, flags: u32, len: u64) -> io::Result<()> {
        let slot = kvm_userspace_memory_region {
            slot: self.number,
            flags,
            guest_phys_addr: self.region.start_addr().0,
            memory_size: len,
            userspace_addr: self.host_address,
        };
        // SAFETY: `len` is 0, so that KVM forgets an address; or it is the region's, whose mapping is there until KVM has
        // deleted the slot (1, 2 above). KVM sees to it that slots do not overlap (EEXIST).
        let told = unsafe { vm.set_user_memory_region(slot) };
        told.map_err(Into::into)
    }

    /// Marks the pages that KVM says were written.
    fn fetch(&self, vm: &VmFd, page_size: u64) -> Result<(), Error> {
        // The length is the slot's (3 above): KVM writes as much.
        let words = match usize::try_from(self.region.len()) {
            Ok(len) => vm.get_dirty_log(self.number, len).map_err(io::Error::from),
            Err(error) => Err(io::Error::other(error)),
        };
        let words = words.map_err(|source| Error::Fetch { slot: self.number, region: self.ends(), source })?;
        for (first, count) in runs(&words) {
            self.mark(first.saturating_mul(page_size), count.saturating_mul(page_size));
        }
        Ok(())
    }

    /// Marks what is written, as a write of the host's would.
    fn mark(&self, offset: u64, len: u64) {
        if let Some(tracker) = self.region.tracker() {
            tracker.mark(self.region.start_addr().0.saturating_add(offset), usize::try_from(len).unwrap_or(usize::MAX));
        }
    }

    fn is_writable(&self) -> bool {
        self.flags & KVM_MEM_READONLY == 0
    }

    fn is_logged(&self) -> bool {
        self.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    fn ends(&self) -> (GuestAddress, GuestAddress) {
        ends(&self.region)
    }
}

/// All slots of a VM.
#[derive(Debug)]
pub(super) struct Slots {
    vm: Arc<VmFd>,
    numbers: SlotAllocator,
    table: Vec<Slot>,
    /// How many logs there are.
    logs: usize,
    page_size: u64,
    has_read_only: bool,
}

impl Slots {
    pub(super) fn new(vm: Arc<VmFd>, numbers: Range<u32>) -> Self {
        Self {
            has_read_only: vm.check_extension(Cap::ReadonlyMem),
            vm,
            numbers: SlotAllocator::new(numbers),
            table: Vec::new(),
            logs: 0,
            page_size: rustix::param::page_size() as u64,
        }
    }

    /// Gives KVM a region, or nothing of it.
    pub(super) fn add(&mut self, region: &Arc<GuestRegionMmap>) -> Result<(), Error> {
        // It may have some of these addresses, or the last number. Whether KVM refuses again is told elsewhere.
        self.let_go().ok();
        let (host_address, flags) = self.check(region)?;
        let in_use = self.numbers.in_use();
        let number = self.numbers.allocate().ok_or(Error::NoSlot { in_use, region: ends(region) })?;
        let region = ManuallyDrop::new(Arc::clone(region));
        let mut slot = Slot { number, region, host_address, flags: 0, wanted: true };
        if let Err(refused) = slot.set(&self.vm, flags) {
            // KVM has nothing of it.
            self.numbers.free(number);
            drop(ManuallyDrop::into_inner(slot.region));
            return Err(refused);
        }
        slot.region.set_slot(Some(number));
        self.table.push(slot);
        Ok(())
    }

    /// The address of a region in this process, and the flags of its slot, if KVM can have it.
    fn check(&self, region: &GuestRegionMmap) -> Result<(u64, u32), Error> {
        if region.guest_memfd().is_some() {
            return Err(Error::GuestMemfd { region: ends(region) });
        }
        // Exposed: KVM makes a pointer of it. A region that had no address would be refused as misaligned.
        let host_address =
            region.get_host_address(MemoryRegionAddress(0)).map_or(1, |host| host.expose_provenance() as u64);
        let multiples = [
            ("the guest address", region.start_addr().0),
            ("the size", region.len()),
            ("the host address", host_address),
        ];
        for (what, value) in multiples {
            if value % self.page_size != 0 {
                return Err(Error::Misaligned { what, value, page_size: self.page_size, region: ends(region) });
            }
        }
        let read_only = region.is_read_only() || region.kind() == RegionKind::Rom;
        match (read_only, self.has_read_only) {
            (true, false) => Err(Error::ReadOnly { region: ends(region) }),
            (true, true) => Ok((host_address, KVM_MEM_READONLY)),
            (false, _) if self.logs > 0 => Ok((host_address, KVM_MEM_LOG_DIRTY_PAGES)),
            (false, _) => Ok((host_address, 0)),
        }
    }

    /// Has KVM let go a region.
    pub(super) fn remove(&mut self, region: &Arc<GuestRegionMmap>) {
        for slot in self.table.iter_mut().filter(|slot| Arc::ptr_eq(&slot.region, region)) {
            slot.wanted = false;
        }
        // `check_removed` tells.
        self.let_go().ok();
    }

    /// Has KVM let go what is not wanted any more.
    pub(super) fn let_go(&mut self) -> Result<(), Error> {
        let mut answer = Ok(());
        for slot in mem::take(&mut self.table) {
            if slot.wanted {
                self.table.push(slot);
                continue;
            }
            let number = slot.number;
            match slot.delete(&self.vm) {
                Ok(region) => {
                    self.numbers.free(number);
                    region.set_slot(None);
                }
                Err((slot, source)) => {
                    answer = answer.and(Err(Error::Delete { slot: number, region: slot.ends(), source }));
                    self.table.push(slot);
                }
            }
        }
        answer
    }

    pub(super) fn in_use(&self) -> usize {
        self.table.len()
    }

    /// Has KVM log all slots for one log more.
    pub(super) fn start_logging(&mut self) -> Result<(), Error> {
        self.logs = self.logs.saturating_add(1);
        let vm = &self.vm;
        let mut slots = self.table.iter_mut().filter(|slot| slot.wanted && slot.is_writable() && !slot.is_logged());
        let started = slots.try_for_each(|slot| slot.set(vm, slot.flags | KVM_MEM_LOG_DIRTY_PAGES));
        if started.is_err() {
            self.stop_logging();
        }
        started
    }

    /// One log less; without any, KVM logs no more.
    pub(super) fn stop_logging(&mut self) {
        self.logs = self.logs.saturating_sub(1);
        // Whoever wants to know asks.
        self.check_logging().ok();
    }

    /// Has KVM log no slot, unless there is a log.
    pub(super) fn check_logging(&mut self) -> Result<(), Error> {
        let vm = &self.vm;
        let stopped = self.table.iter_mut().filter(|slot| slot.wanted && slot.is_logged() && self.logs == 0);
        stopped.map(|slot| slot.set(vm, slot.flags & !KVM_MEM_LOG_DIRTY_PAGES)).fold(Ok(()), Result::and)
    }

    /// Marks the pages that the guest has written.
    pub(super) fn fetch(&self) -> Result<(), Error> {
        let mut slots = self.table.iter().filter(|slot| slot.wanted && slot.is_logged());
        slots.try_for_each(|slot| slot.fetch(&self.vm, self.page_size))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.table.iter_mut().for_each(|slot| slot.wanted = false);
        // Of what KVM does not let go, the regions are kept: see `Slot`.
        self.let_go().ok();
    }
}

fn ends(region: &GuestRegionMmap) -> (GuestAddress, GuestAddress) {
    (region.start_addr(), region.last_addr())
}

/// The runs of ones in a bitmap, the lowest bit first: the first, and how many; also from one word to the next.
fn runs(words: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = next(words, at, 0)?;
        at = next(words, first, u64::MAX).unwrap_or(words.len() as u64 * 64);
        Some((first, at - first))
    })
}

/// The first bit from `bit` on that is one, or of the words after `xor`.
fn next(words: &[u64], bit: u64, xor: u64) -> Option<u64> {
    let number = usize::try_from(bit / 64).ok()?;
    let first = (words.get(number)? ^ xor) & (u64::MAX << (bit % 64));
    let rest = words.iter().skip(number + 1).map(|word| word ^ xor);
    let mut words = std::iter::once(first).chain(rest).zip(bit / 64..);
    words.find(|(word, _)| *word != 0).map(|(word, number)| number * 64 + u64::from(word.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn runs_are_what_a_look_at_each_bit_finds() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |end: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % end).unwrap()
        };
        for _ in 0..2000 {
            let mut bits = Vec::new();
            let count = 64 * below(5);
            while bits.len() < count {
                let bit = bits.len() % 2 == 0;
                bits.extend(std::iter::repeat_n(bit, [1, below(10), below(200)][below(3)]));
            }
            bits.truncate(count);
            let word = |bits: &[bool]| bits.iter().rev().fold(0, |word, &bit| word << 1 | u64::from(bit));
            let words: Vec<u64> = bits.chunks(64).map(word).collect();
            let mut wanted: Vec<(u64, u64)> = Vec::new();
            for bit in (0..).zip(&bits).filter_map(|(number, bit)| bit.then_some(number)) {
                match wanted.last_mut() {
                    Some((first, count)) if *first + *count == bit => *count += 1,
                    _ => wanted.push((bit, 1)),
                }
            }
            assert_eq!(runs(&words).collect::<Vec<_>>(), wanted, "{words:x?}");
        }
    }
}
