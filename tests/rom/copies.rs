//! Copies inside the guest: what comes before the first byte of ROM is copied, told and marked.

use memory_model::guest_memory::Error;
use memory_model::mmap::Protection;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap, GuestSlice,
    GuestUsize, MemoryRegionAddress, MmapRegion,
};

use crate::ground::{Guest, MADE, Made, at, data, exact, pattern, refused, told};

/// Copies, and checks the answer, all of memory, and what was marked.
fn check(guest: &Guest, src: usize, dst: usize, len: usize) {
    let rom = guest.rom_range();
    let done = if rom.contains(&dst) { 0 } else { rom.start.checked_sub(dst).map_or(len, |before| before.min(len)) };
    let what = format!("{len} bytes from {src:#x} to {dst:#x}");
    guest.track();
    assert_eq!(told(guest.mem.copy(at(src), at(dst), len)), exact(dst, len, done), "{what}");
    guest.check_marked(dst, done, &what);
    guest.check(dst, &pattern(src..src + done), &what);
}

#[test]
fn all_ways_around_the_edges() {
    const LENS: [usize; 8] = [1, 3, 8, 16, 33, 100, 150, 300];
    let guest = Guest::new(Made::Region);
    let page = guest.page;
    let around =
        |edge: usize| [200, 100, 33, 16, 7, 1].map(|before| edge - before).into_iter().chain([edge, edge + 50]);
    let places = || around(page).chain(around(2 * page)).chain([0, 2 * page + 400]);
    for (src, dst) in places().flat_map(|src| places().map(move |dst| (src, dst))) {
        for len in LENS {
            // What is marked is checked as one span.
            if dst.max(2 * page) == dst || dst + len <= 2 * page {
                check(&guest, src, dst, len);
            }
        }
    }
}

#[test]
fn however_it_was_made_read_only() {
    for guest in MADE.map(Guest::new) {
        let page = guest.page;
        check(&guest, 0, page, page);
        check(&guest, 2 * page, page, 1);
        // Behind the source, so that it goes downwards; and as long as all of RAM and ROM.
        check(&guest, page - 40, page - 10, 100);
        check(&guest, 0, 10, 2 * page - 10);
        check(&guest, page, page, page);
        check(&guest, page, 2 * page, page);
        // A copy that goes past the end of memory meets the ROM before.
        assert_eq!(refused(guest.mem.copy(at(2 * page), at(page), 5 * page)), (page, 0));
        guest.mem.copy(at(0), at(page), 0).unwrap();
        guest.check(0, &[], "no bytes");
    }
}

#[test]
fn slices() {
    let guest = Guest::new(Made::Mapping);
    let page = guest.page;
    let slice = |position, len| guest.mem.get_slice(at(position), len).unwrap();
    guest.track();
    for (src, dst) in [(0, page), (2 * page, page + 8), (page, page), (page, page + 1), (page + 1, page)] {
        for len in [1, 8, 100, page - 8] {
            assert_eq!(refused(slice(src, len).copy_to_guest_slice(slice(dst, len))), (dst, 0), "{src} {dst} {len}");
        }
        assert_eq!(slice(src, 0).copy_to_guest_slice(slice(dst, 8)).unwrap(), 0);
        assert_eq!(slice(src, 8).copy_to_guest_slice(slice(dst, 0)).unwrap(), 0);
    }
    guest.check_marked(0, 0, "slices");
    assert_eq!(slice(page, page).copy_to_guest_slice(slice(0, 100)).unwrap(), 100);
    guest.check(0, &pattern(page..page + 100), "from ROM");
}

/// Memory whose first region has no host memory, and the second is ROM.
enum Region {
    Remote(GuestRegionMmap),
    Rom(GuestRegionMmap),
}

impl Region {
    fn inner(&self) -> &GuestRegionMmap {
        match self {
            Self::Remote(region) | Self::Rom(region) => region,
        }
    }
}

impl Bytes<MemoryRegionAddress> for Region {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.inner().write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        self.inner().read(buf, addr)
    }
}

impl GuestMemoryRegion for Region {
    fn len(&self) -> GuestUsize {
        self.inner().len()
    }
    fn start_addr(&self) -> GuestAddress {
        self.inner().start_addr()
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        match self {
            Self::Remote(region) => Err(Error::NoHostMemory(region.start_addr())),
            Self::Rom(region) => region.get_slice(offset, count),
        }
    }
}

#[test]
fn from_memory_without_host_addresses() {
    let page = rustix::param::page_size();
    let region = |number| GuestRegionMmap::new(MmapRegion::new(page).unwrap(), at(number * page)).unwrap();
    let regions = vec![Region::Remote(region(0)), Region::Rom(region(1))];
    let mem = GuestRegionCollection::from_regions(regions).unwrap();
    mem.write_slice(&pattern(0..2 * page), at(0)).unwrap();
    mem.find_region(at(page)).unwrap().inner().protect(Protection::ReadOnly).unwrap();
    // Upwards; upwards over the edge; downwards over the edge, in one chunk and in several.
    for (src, dst, len, done) in [
        (0, page + 5, 700, 0),
        (0, page - 100, 700, 100),
        (page - 80, page - 50, 60, 50),
        (page - 1500, page - 1400, 1600, 1400),
    ] {
        assert_eq!(told(mem.copy(at(src), at(dst), len)), exact(dst, len, done));
        let mut expected = pattern(0..2 * page);
        expected.copy_within(src..src + done, dst);
        let mut found = vec![0; 2 * page];
        mem.read_slice(&mut found, at(0)).unwrap();
        assert!(found == expected, "{len} bytes from {src:#x} to {dst:#x}");
        mem.write_slice(&pattern(0..page), at(0)).unwrap();
    }
    assert_eq!(refused(mem.write_slice(&data(2000), at(page - 1000))), (page, 1000));
}
