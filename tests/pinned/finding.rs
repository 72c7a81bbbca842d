//! Which bytes can be pinned, and the errors of those that cannot; and whether they are still those of the map.

use std::sync::Arc;

use memory_model::buffers::{PinnedRef, PinnedSlice};
use memory_model::guest_memory::{Error, new_generation};
use memory_model::io_memory::{Access, Fragment};
use memory_model::mmap::Protection;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionCollection, GuestRegionMmap,
    IoAddress, IoMemory, MmapRegion,
};

use crate::ground::{BASE, Own, at, memory, page, region};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::ReadWrite];

fn error<T>(result: Result<T, Error>) -> Error {
    result.map(|_| "pinned").unwrap_err()
}

#[test]
fn what_one_region_has_can_be_pinned_and_nothing_else() {
    // Two regions that touch, and a hole behind.
    let (mem, page) = (memory(&[(0, 2), (2, 1)]), page());
    for access in ACCESSES {
        for (position, len) in [(0, 2 * page), (2 * page, page), (2 * page - 1, 1), (3 * page - 9, 9)] {
            let view = PinnedSlice::physical(&mem, at(position), len, access).unwrap();
            assert_eq!((view.addr(), view.len(), view.access(), view.is_empty()), (at(position), len, access, false));
            let view = PinnedSlice::new(&mem, IoAddress(at(position).0), len, access).unwrap();
            assert_eq!((view.addr(), view.len(), view.access()), (at(position), len, access));
        }
        let pin = |position: usize, len| error(PinnedSlice::physical(&mem, at(position), len, access));
        let next = at(2 * page);
        for (before, len) in [(1, 2), (2 * page, 2 * page + 1), (1, usize::MAX)] {
            let divided = pin(2 * page - before, len);
            assert!(
                matches!(divided, Error::Divided { addr, completed } if (addr, completed) == (next, before)),
                "{divided}"
            );
        }
        let cut = pin(3 * page - 3, 4);
        assert!(matches!(cut, Error::PartialBuffer { expected: 4, completed: 3 }), "{cut}");
        assert!(matches!(pin(3 * page, 1), Error::InvalidGuestAddress(addr) if addr == at(3 * page)));
        let below = error(PinnedSlice::physical(&mem, GuestAddress(BASE - 1), 2, access));
        assert!(matches!(below, Error::InvalidGuestAddress(GuestAddress(addr)) if addr == BASE - 1));
    }
}

#[test]
fn memory_may_end_at_the_last_address() {
    let start = GuestAddress(u64::MAX - (page() as u64 - 1));
    let region = GuestRegionMmap::new(MmapRegion::new(page()).unwrap(), start).unwrap();
    let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let pin = |addr, len| PinnedSlice::new(&mem, IoAddress(addr), len, Access::ReadWrite);
    let view = pin(start.0, page()).unwrap();
    view.write_obj(7_u8, page() - 1).unwrap();
    assert_eq!(mem.read_obj::<u8>(GuestAddress(u64::MAX)).unwrap(), 7);
    for (addr, len, completed) in [(u64::MAX, 2, 1), (u64::MAX - 3, usize::MAX, 4), (start.0, page() + 1, page())] {
        let cut = error(pin(addr, len));
        assert!(matches!(cut, Error::PartialBuffer { expected, completed: c } if (expected, c) == (len, completed)));
    }
    assert_eq!(view.subslice(page() - 1, 1).unwrap().addr(), GuestAddress(u64::MAX));
}

#[test]
fn no_byte_is_had_everywhere_and_keeps_nothing() {
    let mem = memory(&[(0, 1)]);
    let before = Arc::strong_count(&mem.arc_regions()[0]);
    for addr in [0, BASE, BASE + page() as u64, u64::MAX] {
        let view = PinnedSlice::new(&mem, IoAddress(addr), 0, Access::ReadWrite).unwrap();
        assert_eq!((view.len(), view.is_empty(), view.generation()), (0, true, mem.generation()));
        view.write_slice(&[], 0).unwrap();
        assert!(view.write_slice(&[1], 0).is_err());
        assert!(view.read_obj::<u8>(0).is_err());
        view.get_ref::<[u8; 0]>(0).unwrap().write([]).unwrap();
        assert_eq!(Arc::strong_count(&mem.arc_regions()[0]), before);
    }
}

#[test]
fn parts_are_those_of_a_slice() {
    let mem = memory(&[(0, 2)]);
    let slice = mem.get_slice(at(8), page()).unwrap();
    let view = PinnedSlice::physical(&mem, at(8), page(), Access::ReadWrite).unwrap();
    let edges = [0, 1, 8, page() - 1, page(), page() + 1, usize::MAX];
    for (offset, count) in edges.iter().flat_map(|&offset| edges.map(|count| (offset, count))) {
        let wanted = slice.subslice(offset, count).map(|part| (part.addr(), part.len()));
        let part = view.subslice(offset, count);
        assert_eq!(format!("{:?}", part.as_ref().map(|part| (part.addr(), part.len()))), format!("{wanted:?}"));
        if let Some(part) = part.ok().filter(|part| !part.is_empty()) {
            part.write_obj(0x5a_u8, count - 1).unwrap();
            assert_eq!(mem.read_obj::<u8>(at(8 + offset + count - 1)).unwrap(), 0x5a);
            mem.write_obj(0_u8, at(8 + offset + count - 1)).unwrap();
        }
    }
}

#[test]
fn memory_without_bytes_in_the_host_is_not_pinned() {
    let mem = GuestRegionCollection::from_regions(vec![Own::new(0, true), Own::new(1, false)]).unwrap();
    let pin = |position, len| PinnedSlice::physical(&mem, at(position), len, Access::ReadWrite);
    pin(0, page()).unwrap().write_obj(3_u32, 4).unwrap();
    assert_eq!(mem.read_obj::<u32>(at(4)).unwrap(), 3);
    assert!(matches!(error(pin(page(), 1)), Error::NoHostMemory(addr) if addr == at(page())));
    assert!(matches!(error(pin(page() - 1, 2)), Error::Divided { addr, completed: 1 } if addr == at(page())));
}

#[test]
fn what_is_read_only_is_pinned_to_be_read() {
    let (mem, page) = (memory(&[(0, 1), (1, 1)]), page());
    mem.arc_regions()[1].protect(Protection::ReadOnly).unwrap();
    for access in [Access::Write, Access::ReadWrite] {
        let refused = error(PinnedSlice::new(&mem, IoAddress(at(page + 2).0), 8, access));
        assert!(matches!(refused, Error::ReadOnly { addr, completed: 0 } if addr == at(page + 2)), "{refused}");
        assert!(matches!(error(PinnedRef::<u8>::physical(&mem, at(page), access)), Error::ReadOnly { .. }));
    }
    let view = PinnedSlice::physical(&mem, at(page), page, Access::Read).unwrap();
    assert_eq!(view.read_obj::<u64>(8).unwrap(), 0);
}

/// Translates page by page.
struct Iommu {
    mem: GuestMemoryMmap,
    /// For each page of the device's, that of the guest, and whether it may be written.
    table: Vec<Option<(usize, bool)>>,
    generation: Option<u64>,
}

impl Bytes<IoAddress> for Iommu {
    type E = Error;
    fn write(&self, _: &[u8], _: IoAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
    fn read(&self, _: &mut [u8], _: IoAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
}

impl IoMemory for Iommu {
    type Physical = GuestMemoryMmap;
    fn physical(&self) -> &GuestMemoryMmap {
        &self.mem
    }
    fn io_generation(&self) -> Option<u64> {
        self.generation
    }
    fn translate(&self, addr: IoAddress, len: usize, access: Access) -> impl Iterator<Item = Result<Fragment, Error>> {
        let (start, end) = (addr.0 as usize, addr.0 as usize + len);
        (start / page()..end.div_ceil(page())).map(move |number| {
            let from = start.max(number * page());
            let to = end.min((number + 1) * page());
            match self.table.get(number).copied().flatten() {
                Some((to_page, writable)) if writable || access == Access::Read => {
                    Ok(Fragment { addr: at(to_page * page() + from % page()), len: to - from })
                }
                _ => Err(Error::InvalidGuestAddress(GuestAddress(from as u64))),
            }
        })
    }
}

#[test]
fn what_a_device_sees_is_pinned_where_it_lies_together() {
    let table = vec![Some((2, true)), Some((3, true)), Some((1, true)), None, Some((0, false)), Some((5, true))];
    let mut iommu = Iommu { mem: memory(&[(0, 4), (4, 2)]), table, generation: None };
    let page = page();
    let pin =
        |iommu: &Iommu, position: usize, len, access| PinnedSlice::new(iommu, IoAddress(position as u64), len, access);
    let view = pin(&iommu, 8, 2 * page - 8, Access::ReadWrite).unwrap();
    assert_eq!((view.addr(), view.len(), view.generation()), (at(2 * page + 8), 2 * page - 8, None));
    assert!(!view.is_current(&iommu), "of no number, nothing is known");
    view.write_obj(7_u16, page).unwrap();
    assert_eq!(iommu.mem.read_obj::<u16>(at(3 * page + 8)).unwrap(), 7);
    // The third page lies before the second.
    let divided = error(pin(&iommu, page, page + 1, Access::Read));
    assert!(
        matches!(divided, Error::Divided { addr, completed } if (addr, completed) == (at(page), page)),
        "{divided}"
    );
    // Not there, and not to be written.
    assert!(matches!(error(pin(&iommu, 2 * page, page + 1, Access::Read)), Error::InvalidGuestAddress(_)));
    assert!(matches!(error(pin(&iommu, 4 * page, 4, Access::ReadWrite)), Error::InvalidGuestAddress(_)));
    // A value that is to be written is to be read, too.
    assert!(PinnedRef::<u32>::new(&iommu, IoAddress(4 * page as u64), Access::Write).is_err());
    let value = PinnedRef::<u32>::new(&iommu, IoAddress(4 * page as u64), Access::Read).unwrap();
    assert!(matches!(value.write(1), Err(Error::Unsupported)));
    // One after the other for the device and the guest, but in two regions.
    iommu.table[4] = Some((3, true));
    iommu.table[5] = Some((4, true));
    let divided = error(pin(&iommu, 5 * page - 8, 16, Access::Write));
    assert!(matches!(divided, Error::Divided { addr, completed: 8 } if addr == at(4 * page)), "{divided}");

    iommu.generation = Some(new_generation());
    let view = pin(&iommu, 0, 8, Access::Read).unwrap();
    assert!(view.is_current(&iommu));
    assert!(!view.is_current(&iommu.mem), "another kind of memory");
    iommu.generation = Some(new_generation());
    assert!(!view.is_current(&iommu));
}

/// A translation that answers what it should not.
struct Wrong(GuestMemoryMmap, usize);

impl Bytes<IoAddress> for Wrong {
    type E = Error;
    fn write(&self, _: &[u8], _: IoAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
    fn read(&self, _: &mut [u8], _: IoAddress) -> Result<usize, Error> {
        Err(Error::Unsupported)
    }
}

impl IoMemory for Wrong {
    type Physical = GuestMemoryMmap;
    fn physical(&self) -> &GuestMemoryMmap {
        &self.0
    }
    fn translate(&self, addr: IoAddress, _: usize, _: Access) -> impl Iterator<Item = Result<Fragment, Error>> {
        [Ok(Fragment { addr: GuestAddress(addr.0), len: self.1 })].into_iter()
    }
}

#[test]
fn a_translation_of_another_length_is_an_error() {
    for (len, answered) in [(8, 4), (8, 16), (8, 0), (8, usize::MAX)] {
        let wrong = Wrong(memory(&[(0, 1)]), answered);
        match error(PinnedSlice::new(&wrong, IoAddress(BASE), len, Access::Read)) {
            Error::PartialBuffer { expected, completed } => assert_eq!((expected, completed), (len, answered)),
            Error::Overrun { expected, claimed } => assert_eq!((expected, claimed), (len, answered)),
            other => panic!("{other}"),
        }
    }
    // No bytes are not translated.
    assert!(PinnedSlice::new(&Wrong(memory(&[(0, 1)]), 8), IoAddress(BASE), 0, Access::Read).unwrap().is_empty());
}

#[test]
fn a_view_is_current_as_long_as_the_map_has_its_number() {
    let (mem, same) = (memory(&[(0, 1)]), memory(&[(0, 1)]));
    assert!(mem.generation().is_some());
    assert_ne!(mem.generation(), same.generation(), "the same places, but other bytes");
    assert_ne!(GuestMemoryMmap::new().generation(), GuestMemoryMmap::new().generation());
    let view = PinnedSlice::new(&mem, IoAddress(BASE), 16, Access::Read).unwrap();
    let value = view.get_ref::<u64>(8).unwrap();
    assert_eq!((view.generation(), value.generation()), (mem.generation(), mem.generation()));
    assert_eq!((view.is_current(&mem.clone()), value.is_current(&&mem)), (true, true));
    assert_eq!((view.is_current(&same), value.is_current(&same)), (false, false));
    assert!(view.subslice(0, 0).unwrap().is_current(&mem));
    assert!(view.clone().is_current(&Arc::new(mem.clone())));

    let map = GuestMemoryAtomic::new(mem.clone());
    assert!(view.is_current(&*map.memory()));
    assert_eq!(Some(map.generation()), mem.generation());
    map.insert_region(region(1, 1)).unwrap();
    let mut reader = map.reader();
    assert!(!view.is_current(&*reader.read()));
    let number = reader.read().io_generation();
    assert_eq!(Some(reader.read().generation()), number);
    // Plugging and unplugging leave the map as it is.
    let view = PinnedSlice::new(&*map.memory(), IoAddress(BASE), 16, Access::Read).unwrap();
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) && std::env::var_os("CROSS_RUNNER").is_none() {
        map.unplug(at(page()), page() as u64).unwrap();
    }
    assert!(view.is_current(&*reader.read()));
    // Without a change there is no other number; after a change back there is: the region might have been another.
    let before = map.generation();
    drop(map.insert_region(region(1, 1)).unwrap_err());
    assert_eq!(map.generation(), before);
    let removed = map.remove_region(at(page()), page() as u64).unwrap();
    map.insert_region(removed).unwrap();
    assert_ne!(map.generation(), before);
    assert_eq!(map.memory().total_len(), 2 * page() as u64);
}
