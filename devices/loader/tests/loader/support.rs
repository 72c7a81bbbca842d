//! Files, memories and what is asked about them.

use std::fs::File;
use std::io::Write;

use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use memory_model_loader::{Error, LoadedKernel, LoadedRange, RangeKind};

/// What memory holds before a load: no file has it, and it is not zero.
pub(crate) const BEFORE: u8 = 0xa5;

pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Memory with [`BEFORE`] everywhere.
pub(crate) fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges.iter().map(|&(start, len)| (GuestAddress(start), len)).collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    reset(&memory);
    memory
}

pub(crate) fn reset(memory: &GuestMemoryMmap) {
    for region in memory.regions() {
        memory.fill(BEFORE, usize::try_from(region.len()).unwrap(), region.start_addr()).unwrap();
    }
}

pub(crate) fn bytes_at(memory: &impl GuestMemory, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
    bytes
}

pub(crate) fn range(kind: RangeKind, addr: u64, len: u64) -> LoadedRange {
    LoadedRange { kind, addr: GuestAddress(addr), len }
}

/// Whether each byte outside of the ranges that were written is as before.
pub(crate) fn is_untouched_outside(memory: &GuestMemoryMmap, ranges: &[LoadedRange]) -> bool {
    memory.regions().all(|region| {
        let start = region.start_addr().0;
        let mut bytes = bytes_at(memory, start, usize::try_from(region.len()).unwrap());
        for range in ranges.iter().filter(|range| range.kind.is_written()) {
            let first = range.addr.0.max(start);
            let last = range.last().0.min(region.last_addr().0);
            if first <= last {
                let position = |addr: u64| usize::try_from(addr - start).unwrap();
                bytes[position(first)..=position(last)].fill(BEFORE);
            }
        }
        bytes == vec![BEFORE; bytes.len()]
    })
}

/// That a load of a file was refused with the error that `expected` describes, and left memory as it was.
pub(crate) fn assert_refused(
    case: &str,
    memory: &GuestMemoryMmap,
    result: &Result<LoadedKernel, Error>,
    expected: impl Fn(&Error) -> bool,
) {
    match result {
        Ok(kernel) => panic!("{case}: was loaded:\n{kernel}"),
        Err(error) => assert!(expected(error), "{case}: refused, but with: {error} ({error:?})"),
    }
    assert!(is_untouched_outside(memory, &[]), "{case}: was refused, but memory has changed");
}

/// A pseudo-random sequence (splitmix64): the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
