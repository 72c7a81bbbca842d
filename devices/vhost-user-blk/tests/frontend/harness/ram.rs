//! A guest's memory: files that the front-end and the daemon share.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, IoAddress};
use memory_model_virtio::Segment;
use rustix::fs::{MemfdFlags, memfd_create};

use super::wire::Region;

/// What the names of the guest's files have in them.
pub(crate) const RAM: &str = "guest-ram";
/// What the names of logs have in them.
pub(crate) const LOG: &str = "dirty-log";

/// A new file in memory.
pub(crate) fn memfd(name: &str, size: u64) -> File {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Regions of guest memory with their files, and how the guest sees them.
pub(crate) struct Ram {
    pub(crate) regions: Vec<(Region, File)>,
    pub(crate) mem: GuestMemoryMmap,
}

impl Ram {
    /// As much as most tests need: 16 MiB from 0 on.
    pub(crate) fn small() -> Self {
        Self::new(&[(0, 16 << 20)])
    }

    /// Regions at these guest addresses, of these sizes, each in a file of its own. The front-end has them where nobody
    /// would take its addresses for the guest's, and in another order.
    pub(crate) fn new(ranges: &[(u64, u64)]) -> Self {
        let regions = ranges.iter().zip(1_u64..).map(|(&(guest, size), number)| {
            let user = (0x7f00_0000_0000 - (number << 34)) | (guest & 0xf000);
            (Region { guest, size, user, offset: 0 }, memfd(RAM, size))
        });
        Self::of(regions.collect())
    }

    /// Regions that are as they are told.
    pub(crate) fn of(regions: Vec<(Region, File)>) -> Self {
        let ranges = regions.iter().map(|(region, file)| {
            let at = FileOffset::new(file.try_clone().unwrap(), region.offset);
            (GuestAddress(region.guest), region.size as usize, Some(at))
        });
        let ranges: Vec<_> = ranges.collect();
        let mem = GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap();
        Self { regions, mem }
    }

    /// The same memory, without some of its regions, or with its regions in another order.
    pub(crate) fn subset(&self, numbers: impl IntoIterator<Item = usize>) -> Self {
        let region = |number: usize| {
            let (region, file) = &self.regions[number];
            (*region, file.try_clone().unwrap())
        };
        Self::of(numbers.into_iter().map(region).collect())
    }

    /// Where the front-end has what the guest has at `guest`.
    pub(crate) fn user(&self, guest: u64) -> u64 {
        let has = |region: &&(Region, File)| guest.wrapping_sub(region.0.guest) < region.0.size;
        let (region, _) = self.regions.iter().find(has).expect("an address of the guest's memory");
        region.user + (guest - region.guest)
    }

    pub(crate) fn file(&self, number: usize) -> BorrowedFd<'_> {
        self.regions[number].1.as_fd()
    }

    /// The guest's bytes.
    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn gather(&self, segments: &[Segment]) -> Vec<u8> {
        segments.iter().flat_map(|segment| self.bytes(segment.addr.0, segment.len as usize)).collect()
    }

    pub(crate) fn set(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }
}

pub(crate) fn segment(addr: u64, len: u32) -> Segment {
    Segment { addr: IoAddress(addr), len }
}
