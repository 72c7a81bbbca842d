//! Memory of your own: regions of different kinds behind one address space, and a device that does not notice.
//!
//! ```console
//! cargo run --example custom_region
//! ```
//!
//! The memory has RAM, and a block of registers whose reads and writes run code: a doorbell that counts, and a sink that
//! sums what it is given. `forward_region!` makes one region type of the two. The virtio-blk device of the `disk` example,
//! unchanged, finds its rings in RAM and copies sectors into RAM and into the sink alike. The driver rings the doorbell by
//! writing to a guest address. A dirty log reports the pages of RAM that were written.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::error::Error as StdError;
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap, GuestUsize, IoAddress,
    MemoryRegionAddress, MmapRegion, forward_region,
};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_OK, T_IN};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};

/// Registers at a guest address. What is read and written here is no memory: it is answered by code.
pub(crate) struct Registers {
    start: GuestAddress,
    doorbell: AtomicU32,
    sum: AtomicU64,
}

impl Registers {
    /// Writing any byte here rings.
    const DOORBELL: u64 = 0x00;
    /// 8 bytes, little-endian: the sum of all bytes that the sink was given. Read-only.
    const SUM: u64 = 0x08;
    /// Takes whatever is written to it, until the end of the block.
    const SINK: u64 = 0x1000;
    const LEN: u64 = 0x2000;
}

/// The two methods that every region has. All others have defaults that call them.
impl Bytes<MemoryRegionAddress> for Registers {
    type E = Error;

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let sum = self.sum.load(Ordering::Relaxed).to_le_bytes();
        match addr.0.checked_sub(Self::SUM).and_then(|offset| sum.get(usize::try_from(offset).ok()?..)) {
            Some(bytes) if !bytes.is_empty() => {
                let count = bytes.len().min(buf.len());
                buf.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                Ok(count)
            }
            _ if addr.0 < Self::LEN => {
                buf.fill(0); // what is not defined reads as zero
                Ok(buf.len())
            }
            _ => Err(Error::OutOfBounds { offset: addr.0, len: Self::LEN }),
        }
    }

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        match addr.0 {
            Self::DOORBELL => drop(self.doorbell.fetch_add(1, Ordering::Relaxed)),
            Self::SINK..Self::LEN => {
                let sum = buf.iter().map(|&byte| u64::from(byte)).sum();
                self.sum.fetch_add(sum, Ordering::Relaxed);
            }
            offset if offset < Self::LEN => return Err(Error::Unsupported),
            offset => return Err(Error::OutOfBounds { offset, len: Self::LEN }),
        }
        Ok(buf.len())
    }
}

impl GuestMemoryRegion for Registers {
    fn len(&self) -> GuestUsize {
        Self::LEN
    }
    fn start_addr(&self) -> GuestAddress {
        self.start
    }
    /// The registers are no memory: a copy of the guest has none of their bytes.
    fn is_untracked(&self) -> bool {
        true
    }
}

/// A region of this machine. Each access is that of the region inside, so RAM keeps its atomics, its kind and its dirty pages.
pub(crate) enum Region {
    Ram(GuestRegionMmap),
    Registers(Registers),
}
forward_region! {
    impl for Region {
        Self::Ram(region) => region,
        Self::Registers(region) => region,
    }
}

/// RAM from address 0 and the registers.
pub(crate) fn memory(ram: usize) -> Result<GuestRegionCollection<Region>, Box<dyn StdError>> {
    let ram = GuestRegionMmap::new(MmapRegion::new(ram)?, GuestAddress(0))?;
    let registers = Registers { start: REGISTERS, doorbell: AtomicU32::new(0), sum: AtomicU64::new(0) };
    Ok(GuestRegionCollection::from_regions(vec![Region::Ram(ram), Region::Registers(registers)])?)
}

/// The address of the registers.
pub(crate) const REGISTERS: GuestAddress = GuestAddress(0xd000_0000);

fn main() -> Result<(), Box<dyn StdError>> {
    let mem = memory(1 << 20)?;

    // A disk of 8 sectors, every byte of which is the number of its sector.
    let mut file = tempfile::tempfile()?;
    let sectors: Vec<u8> = (0..8_u8).flat_map(|sector| [sector; 512]).collect();
    file.write_all(&sectors)?;
    let disk = Block::new(file, BlockOptions { read_only: true, ..BlockOptions::default() })?;
    let config = QueueConfig::contiguous(IoAddress(0x1000), 16)?;
    let log = mem.start_tracking(4096)?;
    let (mut driver, mut queue) = (DriverQueue::new(&mem, config)?, Queue::new(config)?);

    // Sectors 2 and 3: the first half into RAM, the second into the sink.
    mem.write_obj(RequestHeader::new(T_IN, 2), GuestAddress(0x8000))?;
    let header = Segment { addr: IoAddress(0x8000), len: 16 };
    let to_ram = Segment { addr: IoAddress(0x9000), len: 512 };
    let to_sink = Segment { addr: IoAddress(REGISTERS.0 + Registers::SINK), len: 512 };
    let status = Segment { addr: IoAddress(0x8010), len: 1 };
    driver.add(&mem, &[header], &[to_ram, to_sink, status])?;
    if driver.publish(&mem)? {
        mem.write_obj(1_u32, REGISTERS)?; // the doorbell is a guest address like any other
    }
    let processed = disk.process_queue(&mut queue, &mem)?;

    let rings = mem.regions().find_map(|region| match region {
        Region::Registers(registers) => Some(registers.doorbell.load(Ordering::Relaxed)),
        Region::Ram(_) => None,
    });
    let in_ram = mem.read_obj::<[u8; 512]>(GuestAddress(0x9000))?;
    let sum: u64 = u64::from_le(mem.read_obj(GuestAddress(REGISTERS.0 + Registers::SUM))?);
    println!("the doorbell rang {} time(s), {} request(s) were served", rings.unwrap_or(0), processed.requests);
    println!(
        "status {}, RAM holds {:?}.., the sink summed {sum}",
        mem.read_obj::<u8>(GuestAddress(0x8010))?,
        &in_ram[..4]
    );
    let dirty: Vec<_> = log.harvest().ranges().map(|range| range.start).collect();
    println!("dirty ranges of RAM begin at {dirty:#x?}");
    if mem.read_obj::<u8>(GuestAddress(0x8010))? != S_OK || in_ram != [2; 512] || sum != 3 * 512 || rings != Some(1) {
        return Err("the device did not do what was asked of it".into());
    }
    Ok(())
}
