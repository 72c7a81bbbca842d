//! The host: makes the machine, changes its memory while it runs, and compares what was written with what the log says.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_ioctls::{Kvm, VmFd};
use memory_model::guest_memory::DirtyLog;
use memory_model::interop::kvm::{KvmLog, KvmSlots};
use memory_model::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::guest::{Event, Guest, HALT, LIST_AT, MAILBOX_AT, PROGRAM, PROGRAM_AT, WRITE, WRITTEN, WRITTEN_AT};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAGE: u64 = 4096;
const RAM_SIZE: usize = 0x1_0000;
const DIMM_SIZE: usize = 0x1_0000;
const FIRST_DIMM: GuestAddress = GuestAddress(0x8_0000);
const SECOND_DIMM: GuestAddress = GuestAddress(0xa_0000);

/// How it has ended, unless something was wrong.
pub(crate) enum Ended {
    /// All is as it should be.
    Pass,
    /// There is no KVM here that runs the guest.
    NotHere(String),
}

/// All of it.
pub(crate) fn run() -> Result<Ended> {
    let vm = match Kvm::new().and_then(|kvm| kvm.create_vm()) {
        Ok(vm) => vm,
        Err(error) => return Ok(Ended::NotHere(format!("/dev/kvm makes no VM: {error}"))),
    };
    // Where old Intel processors keep three pages for real mode: away from our memory.
    if let Err(error) = vm.set_tss_address(0xfffb_d000) {
        println!("KVM_SET_TSS_ADDR: {error}");
    }
    let mut host = Host::new(vm)?;
    let guest = match Guest::start(host.slots.vm()) {
        Ok(guest) => guest,
        Err(error) => return Ok(Ended::NotHere(format!("KVM makes no processor: {error}"))),
    };
    println!("a guest of {RAM_SIZE:#x} bytes, which have slot 0, runs and waits for orders");
    host.order(&[0x5000, 0x6000, 0x9000, 0xf000], &[0x6010, 0x7ffc])?;
    match guest.next() {
        Event::CannotRun(why) => return Ok(Ended::NotHere(format!("KVM does not run the guest: {why}"))),
        event => expect(&event, &Event::Done)?,
    }
    host.compare("RAM")?;

    let slot = host.plug(FIRST_DIMM)?;
    host.order(&[0x4000, 0x8_0000, 0x8_f000], &[0x5000, 0x8_7ffc])?;
    expect(&guest.next(), &Event::Done)?;
    host.compare("RAM and what was plugged in")?;

    host.unplug(FIRST_DIMM)?;
    check("the slot of what was plugged in next", &host.plug(SECOND_DIMM)?, &slot)?;
    host.order(&[0xa_3000], &[0xa_3ff8, 0xeffc])?;
    expect(&guest.next(), &Event::Done)?;
    host.compare("RAM and what was plugged in next")?;

    host.map.memory().store(HALT, GuestAddress(MAILBOX_AT), Ordering::Release)?;
    expect(&guest.next(), &Event::Halted)?;
    println!("the guest has halted");
    Ok(Ended::Pass)
}

/// The guest's memory, and what is known of it.
struct Host {
    map: GuestMemoryAtomic<GuestMemoryMmap>,
    slots: KvmSlots,
    kvm_log: KvmLog,
    log: DirtyLog<GuestRegionMmap>,
    /// By whom pages are written, by their numbers.
    writers: BTreeMap<u64, Writers>,
}

/// Who writes a page.
#[derive(Default)]
struct Writers {
    guest: bool,
    host: bool,
}

impl Host {
    /// Memory with the program in it, of which each write is logged from now on.
    fn new(vm: VmFd) -> Result<Self> {
        let slots = KvmSlots::new(vm);
        let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_SIZE)])?);
        map.memory().write_slice(PROGRAM, GuestAddress(PROGRAM_AT))?;
        map.register(Box::new(slots.clone()))?;
        let (kvm_log, log) = (slots.start_logging()?, map.memory().start_tracking(PAGE)?);
        Ok(Self { map, slots, kvm_log, log, writers: BTreeMap::new() })
    }

    /// Plugs memory in, and answers the number of its slot.
    fn plug(&mut self, at: GuestAddress) -> Result<u32> {
        let dimm = Arc::new(GuestRegionMmap::new(MmapRegion::new(DIMM_SIZE)?, at)?);
        self.map.insert_region(Arc::clone(&dimm))?;
        self.log.follow(&self.map.memory())?;
        let slot = dimm.slot().ok_or("KVM has no slot for it")?;
        println!("plugged in while the guest runs: {at}..={}, slot {slot}", dimm.last_addr());
        Ok(slot)
    }

    /// Removes it.
    fn unplug(&mut self, at: GuestAddress) -> Result<()> {
        let dimm = self.map.remove_region(at, DIMM_SIZE as u64)?;
        self.slots.check_removed()?;
        self.log.follow(&self.map.memory())?;
        println!("removed while the guest runs: {at}..={}", dimm.last_addr());
        Ok(())
    }

    /// Has the guest write into the pages at `by_guest`, and writes 8 bytes at each of the addresses `by_host` meanwhile.
    fn order(&mut self, by_guest: &[u64], by_host: &[u64]) -> Result<()> {
        let mut reader = self.map.reader();
        let memory = reader.read();
        for (number, page) in (0..).zip(by_guest.iter().chain(&[0])) {
            memory.write_obj(u16::try_from(page >> 4)?, GuestAddress(LIST_AT + 2 * number))?;
        }
        memory.store(WRITE, GuestAddress(MAILBOX_AT), Ordering::Release)?;
        for &at in by_host {
            memory.write_obj(at, GuestAddress(at))?;
        }
        for page in by_guest.iter().chain(&[MAILBOX_AT]) {
            self.writers.entry(page / PAGE).or_default().guest = true;
        }
        for at in by_host.iter().flat_map(|at| [*at, at + 7]).chain([LIST_AT, MAILBOX_AT]) {
            self.writers.entry(at / PAGE).or_default().host = true;
        }
        Ok(())
    }

    /// Compares the dirty pages with those that were written since the last time.
    fn compare(&mut self, what: &str) -> Result<()> {
        let dirty = self.harvest()?;
        let writers = std::mem::take(&mut self.writers);
        println!("{what}: {} pages were written", writers.len());
        for (page, by) in &writers {
            let by_whom = match (by.guest, by.host) {
                (true, true) => "guest and host",
                (true, false) => "guest",
                _ => "host",
            };
            let found = if dirty.contains(page) { "dirty" } else { "LOST" };
            println!("  {:#7x}  {found}  by {by_whom}", page * PAGE);
        }
        check("the numbers of the dirty pages", &dirty, &writers.keys().copied().collect())?;
        let memory = self.map.memory();
        for page in writers.iter().filter(|(page, by)| by.guest && *page * PAGE != MAILBOX_AT).map(|(page, _)| page) {
            let found: u8 = memory.read_obj(GuestAddress(page * PAGE + WRITTEN_AT))?;
            check("what the guest wrote", &found, &WRITTEN)?;
        }
        check("the numbers of the dirty pages, asked once more", &self.harvest()?, &Vec::new())
    }

    /// The numbers of the dirty pages: by KVM, and by us.
    fn harvest(&self) -> Result<Vec<u64>> {
        self.kvm_log.sync()?;
        let harvest = self.log.harvest();
        let pages = harvest.ranges().flat_map(|range| range.start / PAGE..(range.start + range.len) / PAGE).collect();
        harvest.commit();
        Ok(pages)
    }
}

fn expect(event: &Event, wanted: &Event) -> Result<()> {
    check("what the guest did", event, wanted)
}

fn check<T: PartialEq + Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:x?}, and should be {wanted:x?}").into()) }
}
