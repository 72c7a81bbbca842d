//! What the tests share: a machine whose guest makes one access at a time.

use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use memory_model::atomic::MapError;
use memory_model::interop::kvm::{Error, KvmSlots};
use memory_model::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    MmapRegion,
};

pub(crate) const PAGE: u64 = 0x1000;

/// Real-mode programs, in the first page: `mov es:[di], al; hlt` and `mov al, es:[di]; hlt`.
const PROGRAMS: &[u8] = &[0x26, 0x88, 0x05, 0xf4, 0x26, 0x8a, 0x05, 0xf4];
const POKE: u64 = 0;
const PEEK: u64 = 4;

/// What came of a guest's access.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It was made; of a read, the value.
    Memory(u8),
    /// There is no memory for it: the VMM is to emulate it.
    Mmio,
    /// KVM cannot go on.
    Failed,
}

pub(crate) struct Machine {
    pub(crate) map: GuestMemoryAtomic<GuestMemoryMmap>,
    pub(crate) slots: KvmSlots,
    pub(crate) vcpu: VcpuFd,
}

/// A VM; or says why there is none.
pub(crate) fn vm() -> Option<VmFd> {
    match Kvm::new().and_then(|kvm| kvm.create_vm()) {
        Ok(vm) => Some(vm),
        Err(error) => {
            memory_model_test_support::skip!("no KVM: /dev/kvm: {error}");
            None
        }
    }
}

/// A region of `len` bytes at `start`.
pub(crate) fn region(start: u64, len: usize) -> Arc<GuestRegionMmap> {
    Arc::new(GuestRegionMmap::new(MmapRegion::new(len).unwrap(), GuestAddress(start)).unwrap())
}

/// What KVM's listener has against a change.
pub(crate) fn refusal(result: Result<(), MapError>) -> Error {
    match result.unwrap_err() {
        MapError::Refused { listener, source, .. } if listener == "KVM" => *source.downcast().unwrap(),
        other => panic!("not refused by KVM: {other}"),
    }
}

impl Machine {
    /// One with memory in its first page, which has slot 0.
    pub(crate) fn new() -> Option<Self> {
        Self::with(KvmSlots::new(vm()?))
    }

    pub(crate) fn with(slots: KvmSlots) -> Option<Self> {
        slots.vm().set_tss_address(0xfffb_d000).unwrap();
        let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_arc_regions(vec![region(0, 0x1000)]).unwrap());
        map.memory().write_slice(PROGRAMS, GuestAddress(0)).unwrap();
        map.register(Box::new(slots.clone())).unwrap();
        let vcpu = slots.vm().create_vcpu(0).unwrap();
        let mut segments = vcpu.get_sregs().unwrap();
        (segments.cs.base, segments.cs.selector) = (0, 0);
        vcpu.set_sregs(&segments).unwrap();
        let mut machine = Self { map, slots, vcpu };
        match machine.peek(0) {
            Access::Memory(byte) if byte == PROGRAMS[0] => Some(machine),
            other => {
                memory_model_test_support::skip!("no KVM: it does not run a guest in real mode: {other:?}");
                None
            }
        }
    }

    /// The guest reads a byte.
    pub(crate) fn peek(&mut self, addr: u64) -> Access {
        self.access(PEEK, addr, 0)
    }

    /// The guest writes a byte.
    pub(crate) fn poke(&mut self, addr: u64, value: u8) -> Access {
        self.access(POKE, addr, value)
    }

    fn access(&mut self, program: u64, addr: u64, value: u8) -> Access {
        let mut segments = self.vcpu.get_sregs().unwrap();
        segments.es.base = addr & !0xf;
        segments.es.selector = u16::try_from(addr >> 4).unwrap();
        self.vcpu.set_sregs(&segments).unwrap();
        let mut registers = self.vcpu.get_regs().unwrap();
        (registers.rip, registers.rflags) = (program, 2);
        (registers.rdi, registers.rax) = (addr & 0xf, u64::from(value));
        self.vcpu.set_regs(&registers).unwrap();
        let mut is_mmio = false;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) if is_mmio => return Access::Mmio,
                Ok(VcpuExit::Hlt) => break,
                Ok(VcpuExit::MmioRead(at, _) | VcpuExit::MmioWrite(at, _)) => {
                    assert_eq!(at, addr);
                    is_mmio = true;
                }
                Err(error) if error.errno() == EINTR => {}
                _ => return Access::Failed,
            }
        }
        Access::Memory(self.vcpu.get_regs().unwrap().rax.to_le_bytes()[0])
    }

    /// Whether KVM has a slot with this number that it logs.
    pub(crate) fn is_logged(&self, slot: u32) -> bool {
        // More than enough for what the tests make.
        self.slots.vm().get_dirty_log(slot, 1 << 24).is_ok()
    }
}

const EINTR: i32 = 4;

/// Whether KVM and the map have the same, at the first byte of each region: the guest finds there what is written here.
pub(crate) fn assert_mirrored(machine: &mut Machine) {
    let memory = machine.map.memory();
    for (number, region) in (1..).zip(memory.arc_regions()) {
        let slot = region.slot().expect("a region has a slot");
        // Not the first byte, which is the program's.
        region.write_obj::<u8>(number, MemoryRegionAddress(0x800)).unwrap();
        assert_eq!(machine.peek(region.start_addr().0 + 0x800), Access::Memory(number), "slot {slot}");
    }
    assert_eq!(machine.slots.in_use(), memory.arc_regions().len());
}

/// Changes KVM's slots behind the crate's back: of this number, at this guest address, `len` bytes of a region.
#[expect(unsafe_code, reason = "what no safe code can do")]
pub(crate) fn meddle(vm: &VmFd, slot: u32, at: u64, region: &GuestRegionMmap, len: u64, flags: u32) {
    let host = region.get_host_address(MemoryRegionAddress(0)).unwrap().expose_provenance() as u64;
    let slot = kvm_userspace_memory_region { slot, flags, guest_phys_addr: at, memory_size: len, userspace_addr: host };
    // SAFETY: the tests keep the region until after the VM.
    unsafe { vm.set_user_memory_region(slot) }.unwrap();
}
