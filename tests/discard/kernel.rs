//! The kernel's books.

use std::fs;
use std::ops::Range;

use memory_model::VolatileMemory;
use memory_model::mmap::MmapRegion;

/// The areas of /proc/self/smaps that lie in a mapping: their fields in bytes, and their flags.
pub(crate) struct Areas(Vec<String>);

impl Areas {
    pub(crate) fn of(region: &MmapRegion) -> Self {
        let start = region.as_volatile_slice().as_ptr().addr();
        Self::within(start..(start + region.len()).next_multiple_of(super::page()))
    }

    pub(crate) fn within(addresses: Range<usize>) -> Self {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut areas: Vec<String> = Vec::new();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let range = range.and_then(|(from, to)| {
                Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
            });
            if let Some((from, to)) = range {
                inside = from >= addresses.start && to <= addresses.end;
                if inside {
                    areas.push(String::new());
                }
            }
            if let Some(area) = areas.last_mut().filter(|_| inside) {
                area.push_str(line);
                area.push('\n');
            }
        }
        assert!(!areas.is_empty(), "no area of {addresses:x?} in smaps");
        Self(areas)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The sum of a field, in bytes.
    pub(crate) fn bytes(&self, field: &str) -> usize {
        let lines = self.0.iter().flat_map(|area| area.lines());
        let values = lines.filter_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
        values.map(|kib| kib.trim().parse::<usize>().unwrap() * 1024).sum()
    }

    /// The flags of all areas, which have the same. Left out are `sd` (soft-dirty), which the kernel sets by itself, and
    /// `lf` (locked on fault), which a shared mapping has where it was locked at once and then given back.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut areas = self.0.iter().map(|area| -> Vec<String> {
            let flags = area.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap_or_default();
            flags.split_whitespace().filter(|flag| !["sd", "lf"].contains(flag)).map(str::to_owned).collect()
        });
        let first = areas.next().unwrap_or_default();
        assert!(areas.all(|flags| flags == first), "areas differ: {:#?}", self.0);
        first
    }

    /// Whether the mapping is shared.
    pub(crate) fn are_shared(&self) -> bool {
        self.flags().iter().any(|flag| flag == "sh")
    }
}
