use std::fmt;

use super::options::Sharing;
use super::{GuestMemoryMmap, GuestRegionMmap};
use crate::layout::table::{Align, Table, size};
use crate::{GuestMemory, GuestMemoryRegion};

/// As text it is a table: a row for each region, by ascending address; numbers of addresses are hexadecimal. Beside the
/// access stands how much is unplugged, if anything is: `rw, 4 MiB unplugged`.
///
/// ```
/// use memory_model::mmap::MmapRegion;
/// use memory_model::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, RegionKind};
///
/// let ram = MmapRegion::builder(16 << 20).memfd("guest").build()?;
/// let ram = GuestRegionMmap::new(ram, GuestAddress(0))?.with_name("ram").with_numa_node(0);
/// let firmware = GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(0xffff_f000))?.with_kind(RegionKind::Rom);
/// firmware.set_slot(Some(7));
/// let mem = GuestMemoryMmap::from_regions(vec![ram, firmware])?;
/// let text = mem.to_string();
/// let rows: Vec<&str> = text.lines().skip(1).collect();
/// assert!(rows[0].starts_with("       0x0    0xffffff  16 MiB  RAM   rw         0"), "{mem}");
/// assert!(rows[0].contains("shared file +0x0") && rows[0].ends_with("ram"), "{mem}");
/// assert!(rows[1].starts_with("0xfffff000  0xffffffff   4 KiB  ROM   rw               7"), "{mem}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl fmt::Display for GuestMemoryMmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([
            ("first", Align::Right),
            ("last", Align::Right),
            ("size", Align::Right),
            ("kind", Align::Left),
            ("access", Align::Left),
            ("node", Align::Right),
            ("slot", Align::Right),
            ("pages", Align::Right),
            ("backing", Align::Left),
            ("host", Align::Left),
            ("name", Align::Left),
        ]);
        for region in self.regions() {
            let number = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
            table.row([
                region.start_addr().to_string(),
                region.last_addr().to_string(),
                size(region.len()).to_string(),
                region.kind().to_string(),
                access(region),
                number(region.numa_node()),
                number(region.slot()),
                size(region.mapping.page as u64).to_string(),
                backing(region),
                format!("{:p}", region.mapping.start),
                region.name().into(),
            ]);
        }
        fmt::Display::fmt(&table, f)
    }
}

/// What may be done with it, and with how much of it nothing.
fn access(region: &GuestRegionMmap) -> String {
    let plugged = if region.is_read_only() { "r" } else { "rw" };
    match region.unplugged_ranges().iter().map(|range| range.len).sum() {
        0 => plugged.into(),
        unplugged => format!("{plugged}, {} unplugged", size(unplugged)),
    }
}

/// What is mapped, and who sees what is written to it.
fn backing(region: &GuestRegionMmap) -> String {
    let sharing = match region.mapping.sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
    };
    let owner = if region.mapping.place.is_some() { "" } else { "borrowed " };
    match region.mapping.file_offset() {
        Some(at) => format!("{owner}{sharing} file +{:#x}", at.start()),
        None => format!("{owner}{sharing} anonymous"),
    }
}
