//! Mappings that somebody else has made.

use memory_model::mmap::{
    Error, HugePageSize, HugePages, Lock, MmapRegion, MmapRegionBuilder, NumaPolicy, Prefault, Protection,
};
use memory_model::{Bytes, FileOffset, VolatileMemory};

use super::child::in_child;
use super::kernel::{leaves_nothing, mapping_at};
use super::raw::Somebodys;
use super::{contents, file, page};

#[test]
fn a_borrowed_mapping_is_not_unmapped() {
    let memory = Somebodys::new(4 * page(), None);
    let address = memory.start.as_ptr().addr();
    for region in [memory.lend_bytes(3 * page()).unwrap(), memory.lend(MmapRegion::builder(3 * page())).unwrap()] {
        assert_eq!((super::start(&region), region.len()), (address, 3 * page()));
        assert!(region.file_offset().is_none() && !region.is_read_only() && region.hugetlb().is_none());
        region.as_volatile_slice().write_slice(b"still there", 100).unwrap();
        drop(region);
        let mapping = mapping_at(address).unwrap();
        assert!(mapping.range.end >= address + 4 * page() && mapping.access.starts_with("rw-"), "{mapping:x?}");
    }
    let again = memory.lend_bytes(4 * page()).unwrap();
    assert_eq!(again.as_volatile_slice().read_obj::<[u8; 11]>(100).unwrap(), *b"still there");
}

/// It may begin and end anywhere.
#[test]
fn a_borrowed_mapping_may_be_a_part() {
    let memory = Somebodys::new(2 * page(), None);
    let region = memory.lend_bytes(page() + 5).unwrap();
    region.as_volatile_slice().fill(7, page() + 5, 0).unwrap();
    assert_eq!(contents(&memory.lend_bytes(page() + 6).unwrap())[page() + 4..], [7, 0]);
}

#[test]
fn a_borrowed_mapping_is_what_it_was_described_as() {
    let file = file(2 * page());
    let memory = Somebodys::new(2 * page(), Some(&file));
    let region = memory.lend(MmapRegion::builder(2 * page()).file(file.clone())).unwrap();
    assert_eq!(region.file_offset().unwrap().start(), 0);
    drop(region);
    let read_only = MmapRegion::builder(2 * page()).file(file.clone()).protection(Protection::ReadOnly);
    let region = memory.lend(read_only).unwrap();
    assert!(region.is_read_only());
    // The mapping's is not ours to change.
    let error = region.protect(Protection::ReadWrite).unwrap_err();
    assert!(matches!(error, Error::Borrowed("another protection")), "{error}");
    assert!(region.is_read_only());
    // What cannot be so is seen.
    let past = memory.lend(MmapRegion::builder(2 * page() + 1).file(file.clone()));
    assert!(matches!(past, Err(Error::PastEndOfFile { .. })), "{past:?}");
    let odd = memory.lend(MmapRegion::builder(1).file(FileOffset::new(file.file().try_clone().unwrap(), 1)));
    assert!(matches!(odd, Err(Error::MisalignedFileOffset { .. })), "{odd:?}");
    assert!(matches!(memory.lend_bytes(0), Err(Error::Empty)));
    assert!(matches!(memory.lend_bytes(usize::MAX), Err(Error::TooLarge { .. })));
    let huge = HugePages::Hugetlb(HugePageSize::MIB_2);
    let small = memory.lend(MmapRegion::builder(page()).huge_pages(huge));
    assert!(matches!(small, Err(Error::HugePages { .. })), "{small:?}");
    assert!(memory.lend(MmapRegion::builder(page()).shared().lock(Lock::Now)).is_ok());
}

type Description = fn(MmapRegionBuilder) -> MmapRegionBuilder;

const OF_ITS_MAKER: [(&str, Description); 8] = [
    ("a memfd", |mapping| mapping.memfd("making")),
    ("an alignment", |mapping| mapping.alignment(page())),
    ("a NUMA policy", |mapping| mapping.numa(NumaPolicy::Preferred(0))),
    ("a prefault", |mapping| mapping.prefault(Prefault::Populate)),
    ("advice on merging", |mapping| mapping.mergeable(true)),
    ("advice on children", |mapping| mapping.fork(false)),
    ("advice on core dumps", |mapping| mapping.dump(true)),
    ("a reservation", |mapping| mapping.reserve(true)),
];

#[test]
fn what_only_its_maker_can_do_is_refused() {
    in_child!(what_only_its_maker_can_do_is_refused, {
        let memory = Somebodys::new(page(), None);
        for (what, option) in OF_ITS_MAKER {
            let error = leaves_nothing(|| memory.lend(option(MmapRegion::builder(page()))));
            assert!(matches!(error, Error::Borrowed(said) if said == what), "{error}");
            assert_eq!(error.to_string(), format!("a borrowed mapping cannot be given {what}: ask whoever made it"));
        }
    });
}
