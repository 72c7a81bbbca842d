//! How much of a mapping is in the host's memory, as the kernel accounts for it.

mod mincore;
mod smaps;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::iter::Sum;

use super::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use crate::{GuestMemory, VolatileSlice};

/// What the kernel accounts for a mapping, in bytes.
///
/// It is a mapping's ([`MmapRegion::usage`]), a region's ([`GuestRegionMmap::usage`]), or the sum of several's.
///
/// ```
/// use memory_model::mmap::{Usage, UsageSource};
/// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x40_0000), (GuestAddress(1 << 32), 0x40_0000)])?;
/// mem.write_obj(1u8, GuestAddress(1 << 32))?;
/// let usage: Vec<Usage> = mem.usage()?;
/// # if std::env::var_os("CROSS_RUNNER").is_none() {
/// assert_eq!(usage[0].resident(), 0);
/// assert_ne!(usage[1].resident(), 0);
/// # }
/// let total: Usage = usage.into_iter().sum();
/// match total.source() {
///     UsageSource::Smaps => assert_eq!(total.swapped(), Some(0)),
///     UsageSource::Mincore => assert_eq!(total.swapped(), None),
///     _ => {}
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Which pages count
///
/// By /proc/self/smaps ([proc_pid_smaps(5)](https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html)), as sums of its
/// fields:
///
/// | here       | there                                                                        |
/// |------------|------------------------------------------------------------------------------|
/// | `resident` | `Rss`, which leaves hugetlb pages out, `Shared_Hugetlb`, `Private_Hugetlb`   |
/// | `swapped`  | `Swap`                                                                       |
/// | `huge`     | `AnonHugePages`, `ShmemPmdMapped`, `FilePmdMapped`, and hugetlb pages        |
/// | `shared`   | `Shared_Clean`, `Shared_Dirty`, `Shared_Hugetlb`                             |
///
/// The page of zeros, which a private mapping shows where it was read and not written, is nobody's and counts nowhere.
///
/// By [mincore(2)](https://man7.org/linux/man-pages/man2/mincore.2.html) only `resident` is known, and is not quite the
/// same:
///
/// * of a file, or of shared memory, it counts what is in the page cache, whoever put it there, and not what this mapping
///   has touched; of a file that this process neither owns nor may write, every page;
/// * of private memory it counts the page of zeros where it was read, too.
///
/// Neither is a snapshot: pages come and go while it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    resident: u64,
    /// What smaps alone tells.
    details: Option<Details>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Details {
    swapped: u64,
    huge: u64,
    shared: u64,
}

/// Who answered for a [`Usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageSource {
    /// /proc/self/smaps, which counts pages that are mapped.
    Smaps,
    /// mincore(2), which counts pages that are there to be mapped: where smaps cannot be read, or counts the mapping
    /// together with others beside it.
    Mincore,
}

impl Usage {
    /// Of no memory.
    const NONE: Self = Self { resident: 0, details: Some(Details { swapped: 0, huge: 0, shared: 0 }) };

    /// Bytes in the host's memory.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// Bytes in swap; `None` from mincore(2).
    pub fn swapped(&self) -> Option<u64> {
        self.details.map(|details| details.swapped)
    }

    /// Bytes, of those resident, that huge pages hold and a huge entry maps; `None` from mincore(2).
    pub fn huge(&self) -> Option<u64> {
        self.details.map(|details| details.huge)
    }

    /// Bytes, of those resident, whose pages are mapped more than once: by other processes, or by this one elsewhere.
    /// `None` from mincore(2).
    pub fn shared(&self) -> Option<u64> {
        self.details.map(|details| details.shared)
    }

    /// Who answered. A sum is [`Mincore`](UsageSource::Mincore)'s if any of its parts is, as it then knows no more.
    pub fn source(&self) -> UsageSource {
        match self.details {
            Some(_) => UsageSource::Smaps,
            None => UsageSource::Mincore,
        }
    }

    fn plus(self, other: Self) -> Self {
        let details = self.details.zip(other.details).map(|(a, b)| Details {
            swapped: a.swapped + b.swapped,
            huge: a.huge + b.huge,
            shared: a.shared + b.shared,
        });
        Self { resident: self.resident + other.resident, details }
    }
}

/// All of them together. Of nothing, nothing is used, and [`Smaps`](UsageSource::Smaps) says so.
impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::NONE, Self::plus)
    }
}

impl MmapRegion {
    /// What the kernel accounts for it now.
    ///
    /// smaps is asked first. It counts by areas (VMAs), of which the mapping may have several; but areas with nothing
    /// between them that are alike are one to the kernel, whoever mapped them: guard pages are between. If one of the
    /// mapping's reaches beyond it and has pages, what smaps counts cannot be told apart, and mincore(2) is asked; likewise
    /// where smaps cannot be read, as in a jail without /proc. Pages count as a whole.
    ///
    /// smaps costs as many page table entries as the whole process has, and some microseconds for each of its areas: for a
    /// memory of many regions see [`GuestMemoryMmap::usage`]. mincore(2) costs as many as the mapping has pages, touched
    /// or not.
    ///
    /// # Errors
    ///
    /// What mincore(2) answers. It has to be allowed by a seccomp filter, as have to be openat(2), read(2) and close(2),
    /// which may fail.
    pub fn usage(&self) -> io::Result<Usage> {
        Ok(account(&[self], open_smaps())?.into_iter().sum())
    }
}

impl GuestRegionMmap {
    /// What the kernel accounts for it now: see [`MmapRegion::usage`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn usage(&self) -> io::Result<Usage> {
        self.mapping.usage()
    }
}

impl GuestMemoryMmap {
    /// What the kernel accounts for each region now, in the order of their guest addresses: see [`MmapRegion::usage`].
    ///
    /// smaps is read once for all of them. Their total is their sum.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn usage(&self) -> io::Result<Vec<Usage>> {
        let mappings: Vec<_> = self.regions().map(|region| &region.mapping).collect();
        account(&mappings, open_smaps())
    }
}

fn open_smaps() -> io::Result<impl BufRead> {
    File::open("/proc/self/smaps").map(BufReader::new)
}

/// What each mapping uses, by smaps if it says so, else by mincore(2).
fn account(mappings: &[&MmapRegion], smaps: io::Result<impl BufRead>) -> io::Result<Vec<Usage>> {
    let spans: Vec<_> = mappings.iter().map(|mapping| Span::of(mapping.as_slice())).collect();
    // Whatever is wrong with it, all that is lost are the details.
    let counted = smaps.and_then(|smaps| smaps::count(&spans, smaps)).unwrap_or_else(|_| vec![None; spans.len()]);
    let usages = mappings.iter().zip(counted).map(|(mapping, counted)| match counted {
        Some(usage) => Ok(usage),
        None => Ok(Usage { resident: mincore::resident(mapping.as_slice())?, details: None }),
    });
    usages.collect()
}

/// Where in this process a mapping lies: from its first page on, to behind its last byte.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    fn of(mapping: VolatileSlice<'_>) -> Self {
        let first = mapping.as_ptr().addr() as u64;
        Self { start: first - first % rustix::param::page_size() as u64, end: first + mapping.len() as u64 }
    }
}
