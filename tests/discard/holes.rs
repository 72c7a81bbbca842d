//! A file system that has no holes.

use memory_model::mmap::{Error, MmapRegion, Step};
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use rustix::io::Errno;

use super::marks::Marks;
use super::mounts::file_on;
use super::{has_kernel, page};

#[test]
fn a_file_without_holes_is_kept_and_says_so() {
    if !has_kernel() {
        return;
    }
    let size = 8 * page();
    let Some(file) = file_on(c"ramfs", c"", size) else { return };
    let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size).unwrap();
    let regions = [(mapping, 0), (MmapRegion::new(size).unwrap(), size as u64)];
    let regions = regions.map(|(mapping, at)| GuestRegionMmap::new(mapping, GuestAddress(at)).unwrap());
    let mem = GuestMemoryMmap::from_regions(Vec::from(regions)).unwrap();
    mem.fill(7, 2 * size, GuestAddress(0)).unwrap();
    let marks = Marks::of(&mem);
    let refused = mem.discard(GuestAddress(1), 2 * size as u64 - 1).unwrap_err();
    let Error::Discard { addr: GuestAddress(1), given_back: 0, source } = &refused else { panic!("{refused:?}") };
    let Error::Refused { step: Step::Discard, size: of, source } = &**source else { panic!("{refused:?}") };
    assert_eq!((*of, source.raw_os_error()), (size - page(), Some(Errno::OPNOTSUPP.raw_os_error())));
    assert!(refused.to_string().contains("punch holes"), "{refused}");
    // All that may be gone is dirty, and no more: the next region was not come to.
    assert_eq!(marks.take(), [Some(page() as u64..=size as u64 - 1), None]);
    let mut bytes = vec![0; 2 * size];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 7));
}
