use std::ops::ControlFlow;
use std::sync::Arc;

use super::builder::Backing;
use super::{
    Error, FileOffset, GuestMemoryMmap, GuestRegionMmap, MmapRegion, MmapRegionBuilder, Prefault, Progress, build,
};
use crate::layout::{GuestLayout, Zone};
use crate::{GuestAddress, GuestUsize};

/// How the memory of a layout is made: from [`GuestMemoryMmap::builder`].
///
/// Each zone has a policy of its own: whatever can be said of a mapping. A zone that is mapped from a file, or from a
/// memfd, which is then one for all of it, has its ranges there one behind the other.
///
/// ```
/// use memory_model::layout::{GuestLayout, Platform, Zone};
/// use memory_model::mmap::HugePages;
/// use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
///
/// let layout = GuestLayout::builder(Platform::X86_64)
///     .zone(Zone::new("node0", 4 << 30).node(0).alignment(2 << 20))
///     .zone(Zone::new("node1", 4 << 30).node(1).alignment(2 << 20))
///     .build()?;
/// let mem = GuestMemoryMmap::builder(&layout)
///     .every_zone(|mapping| mapping.huge_pages(HugePages::Transparent))
///     .zone("node1", |mapping| mapping.memfd("node1"))
///     .build()?;
/// assert_eq!(mem.num_regions(), 3); // node0's second is behind the gap below 4 GiB
/// mem.write_obj(1_u32, GuestAddress(5 << 30))?;
/// println!("{mem}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is mapped before `build`"]
pub struct GuestMemoryMmapBuilder<'a> {
    layout: &'a GuestLayout,
    every: MmapRegionBuilder,
    /// The policies of zones that have their own, by name.
    own: Vec<(String, MmapRegionBuilder)>,
}

impl GuestMemoryMmap {
    /// The memory of a layout, to be described further: a region for each of its zones' ranges, with the zone's name,
    /// kind and node.
    pub fn builder(layout: &GuestLayout) -> GuestMemoryMmapBuilder<'_> {
        // A policy has no size: it is given that of each range.
        GuestMemoryMmapBuilder { layout, every: MmapRegionBuilder::new(0), own: Vec::new() }
    }
}

impl GuestMemoryMmapBuilder<'_> {
    /// How zones are mapped that have no policy of their own.
    pub fn every_zone(mut self, policy: impl FnOnce(MmapRegionBuilder) -> MmapRegionBuilder) -> Self {
        self.every = policy(MmapRegionBuilder::new(0));
        self
    }

    /// How the zone with this name is mapped.
    pub fn zone(
        mut self,
        name: impl Into<String>,
        policy: impl FnOnce(MmapRegionBuilder) -> MmapRegionBuilder,
    ) -> Self {
        self.own.push((name.into(), policy(MmapRegionBuilder::new(0))));
        self
    }

    /// Maps all zones.
    ///
    /// Where a range is large enough, its host address is the guest's modulo the mapping's alignment, so that huge pages
    /// are huge to the guest, too.
    ///
    /// # Errors
    ///
    /// [`Error::Zone`] for a policy of a zone that there is not, or the second of one; else as for
    /// [`MmapRegionBuilder::build`]. Nothing is left mapped then.
    pub fn build(self) -> Result<GuestMemoryMmap, Error> {
        self.build_with_progress(|_| ControlFlow::Continue(()))
    }

    /// As [`build`](Self::build), and tells how far the prefault is, of all zones that ask for one: see
    /// [`MmapRegionBuilder::build_with_progress`].
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build), and [`Error::Cancelled`].
    pub fn build_with_progress(
        self,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<GuestMemoryMmap, Error> {
        self.check_names()?;
        let zones = || self.layout.zones().iter().enumerate();
        let prefaulted = zones().filter(|(_, zone)| self.policy(zone).prefault != Prefault::None);
        let total = prefaulted.fold(0, |sum: u64, (_, zone)| sum.saturating_add(zone.len));
        let (mut before, mut regions) = (0, Vec::new());
        for (number, zone) in zones() {
            let policy = self.policy(zone);
            let file = zone_file(policy, zone)?;
            let mut at = 0;
            for range in self.layout.ranges().iter().filter(|range| range.zone == number) {
                let of_all = |done: u64| done.saturating_add(before);
                let mapping = map(policy, file.as_ref(), at, (range.start, range.len), |now| {
                    progress(Progress { done: of_all(now.done), total })
                });
                let mapping = mapping.map_err(|error| match error {
                    Error::Cancelled { done, .. } => Error::Cancelled { done: of_all(done), total },
                    other => other,
                })?;
                let region = GuestRegionMmap::new(mapping, range.start)?.with_name(&*zone.name).with_kind(zone.kind);
                regions.push(zone.node.into_iter().fold(region, GuestRegionMmap::with_numa_node));
                at = range.len.saturating_add(at);
                if policy.prefault != Prefault::None {
                    before = range.len.saturating_add(before);
                }
            }
        }
        Ok(GuestMemoryMmap::from_regions(regions)?)
    }

    /// Whether each policy is of a zone, and of another than the ones before it.
    fn check_names(&self) -> Result<(), Error> {
        for (number, (name, _)) in self.own.iter().enumerate() {
            let exists = self.layout.zones().iter().any(|zone| zone.name == *name);
            if !exists || self.own.iter().take(number).any(|(other, _)| other == name) {
                return Err(Error::Zone(name.clone()));
            }
        }
        Ok(())
    }

    fn policy(&self, zone: &Zone) -> &MmapRegionBuilder {
        self.own.iter().find(|(name, _)| *name == zone.name).map_or(&self.every, |(_, policy)| policy)
    }
}

/// The file that all of a zone is in.
fn zone_file(policy: &MmapRegionBuilder, zone: &Zone) -> Result<Option<FileOffset>, Error> {
    build::file(&MmapRegionBuilder { size: size(zone.len)?, ..policy.clone() })
}

/// Maps the `range`, of an address and a length in bytes, from `at` on in the zone's file.
fn map(
    policy: &MmapRegionBuilder,
    file: Option<&FileOffset>,
    at: u64,
    (start, len): (GuestAddress, GuestUsize),
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<MmapRegion, Error> {
    let mut options = MmapRegionBuilder { size: size(len)?, phase: start.0, ..policy.clone() };
    if let Some(file) = file {
        // All of the zone is in the file, which was asked before: the sum is at most its length.
        options.backing = Backing::File(FileOffset::from_arc(Arc::clone(file.arc()), file.start().saturating_add(at)));
    }
    options.build_with_progress(progress)
}

fn size(len: GuestUsize) -> Result<usize, Error> {
    usize::try_from(len).ok().ok_or(Error::TooLarge { size: usize::MAX })
}
