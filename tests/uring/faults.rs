//! Pages that cannot be accessed: an error of that request, which names the first such byte.

use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::mmap::{MmapRegion, Protection};
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress, fault_recovery,
};

use crate::{both, bytes, file, next, owned, pattern};

const PAGE: usize = 0x1_0000;

/// Four pages of a file's, all there.
fn guest() -> (GuestMemoryMmap, std::fs::File) {
    let backing = tempfile::tempfile().unwrap();
    backing.set_len(4 * PAGE as u64).unwrap();
    let at = FileOffset::new(backing.try_clone().unwrap(), 0);
    let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0x10_0000), 4 * PAGE, Some(at))]).unwrap();
    (mem, backing)
}

#[test]
fn what_lies_before_a_bad_page_is_done() {
    fault_recovery::install().unwrap();
    let source = file(4 * PAGE);
    for mut engine in both(&source, 4) {
        let (mem, backing) = guest();
        let edge = 0x10_0000 + 2 * PAGE as u64;
        backing.set_len(2 * PAGE as u64).unwrap();
        for before in [0, 1, 100, PAGE, PAGE + 1] {
            let place = edge - before as u64;
            // In one piece, behind another, and before another.
            for (ranges, good) in [
                (vec![(place, before + 200)], before),
                (vec![(0x10_0000, 50), (place, before + 200)], 50 + before),
                (vec![(place, before + 200), (0x10_0000, 50)], before),
                (vec![(0x10_0000, 50), (0x10_0040, 50), (place, before + 1)], 100 + before),
            ] {
                engine.read_at(owned(&mem, &ranges, Access::Write), 7, 1).unwrap();
                let read = next(&mut engine);
                let Err(Error::Fault { addr, completed }) = read.result else { panic!("{before}: {read:?}") };
                assert_eq!((addr.0, completed, read.transferred), (edge, good, good), "{ranges:x?}");
                if before > 0 && ranges.len() == 1 {
                    assert_eq!(bytes(&mem, place, before), pattern(before + 7)[7..]);
                }
                engine.write_at(owned(&mem, &ranges, Access::Read), 5 * PAGE as u64, 2).unwrap();
                let write = next(&mut engine);
                let Err(Error::Fault { addr, completed }) = write.result else { panic!("{before}: {write:?}") };
                assert_eq!((addr.0, completed, write.transferred), (edge, good, good), "{ranges:x?}");
                // The others go on.
                engine.read_at(owned(&mem, &[(0x10_0000, 10)], Access::Write), 0, 3).unwrap();
                assert_eq!(next(&mut engine).result.unwrap(), 10);
            }
        }
    }
}

#[test]
fn memory_that_becomes_read_only_is_not_written() {
    fault_recovery::install().unwrap();
    let source = file(0x1000);
    for mut engine in both(&source, 4) {
        let region = GuestRegionMmap::new(MmapRegion::new(PAGE).unwrap(), GuestAddress(PAGE as u64)).unwrap();
        let low = GuestRegionMmap::new(MmapRegion::new(PAGE).unwrap(), GuestAddress(0)).unwrap();
        let mem = GuestMemoryMmap::from_regions(vec![low, region]).unwrap();
        let buffers = owned(&mem, &[(PAGE as u64 - 30, 100)], Access::Write);
        mem.find_region(GuestAddress(PAGE as u64)).unwrap().protect(Protection::ReadOnly).unwrap();
        engine.read_at(buffers, 0, 1).unwrap();
        let completion = next(&mut engine);
        let Err(Error::ReadOnly { addr, completed }) = completion.result else { panic!("{completion:?}") };
        assert_eq!((addr.0, completed, completion.transferred), (PAGE as u64, 30, 30));
        engine.write_at(owned(&mem, &[(PAGE as u64 - 30, 100)], Access::Read), 0, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 100);
    }
}

#[test]
fn memory_that_was_unplugged_is_an_error() {
    fault_recovery::install().unwrap();
    let source = file(0x1000);
    for mut engine in both(&source, 4) {
        let region = GuestRegionMmap::new(MmapRegion::new(2 * PAGE).unwrap(), GuestAddress(0)).unwrap();
        let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let buffers = owned(&mem, &[(PAGE as u64 - 30, 100)], Access::Write);
        let region = mem.find_region(GuestAddress(0)).unwrap();
        region.unplug(MemoryRegionAddress(PAGE as u64), PAGE as u64).unwrap();
        engine.read_at(buffers, 0, 1).unwrap();
        let completion = next(&mut engine);
        let Err(Error::Fault { addr, completed }) = completion.result else { panic!("{completion:?}") };
        assert_eq!((addr.0, completed), (PAGE as u64, 30));
        mem.write_obj(1_u8, GuestAddress(0)).unwrap();
    }
}
