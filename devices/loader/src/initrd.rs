//! The initrd: finding room for it.

use std::fs::File;

use memory_model::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, RegionKind};

use crate::source::Source;
use crate::{Error, LoadedRange, RangeKind};

/// The kernel frees an initrd by pages.
const PAGE: u64 = 4096;

/// Where an initrd is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitrdPlace {
    /// At this address.
    At(GuestAddress),
    /// At the highest page from which it fits without going beyond this address, inclusive:
    /// [`LoadedKernel::initrd_last`](crate::LoadedKernel::initrd_last), as a rule.
    UpTo(GuestAddress),
}

/// Loads an initrd, all of the file, where it overlaps none of the `reserved` ranges.
///
/// It may cross from one region of RAM into the next. `reserved` are the kernel's ranges, those that it is to keep free
/// included, and the caller's own: what lies in RAM already, and what a guest does not find there yet (unplugged parts of
/// a region).
///
/// # Errors
///
/// [`Error::NoRoom`] if it fits nowhere; with an address given, [`Error::OutsideMemory`], [`Error::NotRam`] and
/// [`Error::Overlap`];
/// [`Error::Truncated`] if the file is empty; [`Error::NotARegularFile`]. Memory is untouched then. [`Error::Io`], also
/// before; [`Error::Copy`], when part of memory was written.
pub fn load_initrd<M>(
    memory: &M,
    file: &File,
    place: InitrdPlace,
    reserved: &[LoadedRange],
) -> Result<LoadedRange, Error>
where
    M: GuestMemory + ?Sized,
{
    let source = Source::new(file)?;
    let len = source.len();
    source.check("initrd", 0, len.max(1))?;
    let addr = match place {
        InitrdPlace::At(addr) => addr,
        InitrdPlace::UpTo(last) => find_room(memory, len, last, reserved).ok_or(Error::NoRoom { len, last })?,
    };
    let range = LoadedRange::new(RangeKind::Initrd, addr, len);
    range.check_in(memory)?;
    range.check_apart_from(reserved)?;
    source.load(memory, range, 0)?;
    Ok(range)
}

/// The highest page from which `len` bytes, at least one, fit.
fn find_room<M>(memory: &M, len: u64, last: GuestAddress, reserved: &[LoadedRange]) -> Option<GuestAddress>
where
    M: GuestMemory + ?Sized,
{
    runs(memory).into_iter().rev().find_map(|(run_first, run_last)| {
        // The last byte that the initrd may have: it moves down below whatever is in its way.
        let mut last = last.min(run_last);
        loop {
            let first = last.checked_sub(len.checked_sub(1)?)?.align_down(PAGE);
            if first < run_first {
                return None;
            }
            let candidate = LoadedRange::new(RangeKind::Initrd, first, len);
            match reserved.iter().filter(|range| range.overlaps(&candidate)).min_by_key(|range| range.addr) {
                Some(obstacle) => last = obstacle.addr.checked_sub(1)?,
                None => return Some(first),
            }
        }
    })
}

/// RAM without regard to where a region ends and the next begins: first and last addresses, ascending.
fn runs<M: GuestMemory + ?Sized>(memory: &M) -> Vec<(GuestAddress, GuestAddress)> {
    let mut runs: Vec<(GuestAddress, GuestAddress)> = Vec::new();
    for region in memory.regions().filter(|region| region.kind() == RegionKind::Ram) {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(region.start_addr()) => *last = region.last_addr(),
            _ => runs.push((region.start_addr(), region.last_addr())),
        }
    }
    runs
}
