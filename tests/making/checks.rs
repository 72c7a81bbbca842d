//! What is refused before the kernel is asked for anything.

use std::os::unix::fs::OpenOptionsExt;

use memory_model::FileOffset;
use memory_model::mmap::{Error, HugePageSize, HugePages, MmapRegion, MmapRegionBuilder, NumaPolicy};

use super::{file, page};

#[track_caller]
fn says(builder: MmapRegionBuilder, message: &str) -> Error {
    let error = builder.build().unwrap_err();
    assert_eq!(error.to_string(), message);
    error
}

#[test]
fn a_mapping_has_bytes_and_no_more_than_can_be_addressed() {
    let error = says(MmapRegion::builder(0), "a mapping of 0 bytes was asked for: leave it out, or give its size");
    assert!(matches!(error, Error::Empty));
    for size in [usize::MAX, usize::MAX - page() + 1, isize::MAX.unsigned_abs(), isize::MAX.unsigned_abs() + 1] {
        let error = MmapRegion::builder(size).build().unwrap_err();
        assert!(matches!(error, Error::TooLarge { size: of } if of == size), "{size:#x}: {error}");
        let (size, limit) = (format!("{size:#x}"), format!("{:#x}", isize::MAX));
        let message = error.to_string();
        assert!(message.contains(&size) && message.contains(&limit), "{message}");
    }
}

#[test]
fn an_alignment_is_a_power_of_two() {
    for alignment in [3, 0x1800, (1 << 21) + 1, usize::MAX] {
        let error = MmapRegion::builder(page()).alignment(alignment).build().unwrap_err();
        assert!(matches!(error, Error::Alignment { alignment: of } if of == alignment), "{error}");
    }
    says(
        MmapRegion::builder(page()).alignment(3),
        "an alignment of 0x3 bytes was asked for: it must be a power of two",
    );
}

#[test]
fn a_policy_names_nodes_that_there_can_be() {
    let none = "a NUMA policy without a node was asked for: name one, or leave the policy out";
    for policy in [NumaPolicy::Bind(vec![]), NumaPolicy::Interleave(vec![])] {
        assert!(matches!(says(MmapRegion::builder(page()).numa(policy), none), Error::NoNode));
    }
    let too_many = |node| format!("NUMA node {node} was asked for: Linux counts them below 1024");
    for node in [1024, u32::MAX] {
        let policies =
            [NumaPolicy::Bind(vec![0, node]), NumaPolicy::Preferred(node), NumaPolicy::Interleave(vec![node, 0])];
        for policy in policies {
            let error = says(MmapRegion::builder(page()).numa(policy), &too_many(node));
            assert!(matches!(error, Error::Node(of) if of == node));
        }
    }
}

#[test]
fn what_is_mapped_is_in_the_file_from_a_whole_page_on() {
    let len = 2 * page() + 100;
    let at = |start| FileOffset::new(file(len).file().try_clone().unwrap(), start);
    let map = |start, size| MmapRegion::builder(size).file(at(start)).build();
    assert!(map(0, len).is_ok());
    assert!(map(2 * page() as u64, 100).is_ok());
    for (start, size) in
        [(0, len + 1), (page() as u64, len), (2 * page() as u64, 101), (u64::MAX - page() as u64 + 1, page())]
    {
        let error = map(start, size).unwrap_err();
        let Error::PastEndOfFile { start: from, size: of, file_len } = error else { panic!("{error}") };
        assert_eq!((from, of, file_len), (start, size, len as u64));
    }
    says(
        MmapRegion::builder(0x10_0000).file(at(0)),
        &format!("mapping 0x100000 bytes at file offset 0x0 goes past the file's {len:#x} bytes: grow it first"),
    );
    for start in [1, page() as u64 - 1, page() as u64 + 512] {
        let error = map(start, 1).unwrap_err();
        let Error::MisalignedFileOffset { start: from, page_size } = error else { panic!("{error}") };
        assert_eq!((from, page_size), (start, page()));
    }
}

/// A device has no length that it could be past.
#[test]
fn a_device_is_as_long_as_its_driver_says() {
    let zero = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/zero");
    let region = MmapRegion::builder(3 * page()).file(FileOffset::new(zero.unwrap(), 0)).private().build().unwrap();
    assert_eq!(super::contents(&region), vec![0; 3 * page()]);
}

#[test]
fn huge_pages_are_whole_and_of_a_file_its_own() {
    let huge = |size| MmapRegion::builder(size).huge_pages(HugePages::Hugetlb(HugePageSize::MIB_2));
    for builder in [huge(0x1000), huge(0x1000).shared(), huge(0x1000).memfd("making")] {
        let error = says(builder, "the size 0x1000 is not a multiple of the huge page size 0x200000: round it up");
        assert!(matches!(error, Error::HugePages { what: "the size", value: 0x1000, page_size: 0x20_0000 }));
    }
    let error = says(
        huge(0x20_0000).file(file(0x20_0000)),
        "hugetlb pages of a file come from its file system: take a file on hugetlbfs, or a memfd",
    );
    assert!(matches!(error, Error::HugetlbFile));
    assert_eq!(HugePageSize::new(3 << 20), None);
    assert_eq!(HugePageSize::new(0), None);
    assert_eq!(HugePageSize::new(2 << 20), Some(HugePageSize::MIB_2));
    assert_eq!(HugePageSize::GIB_1.bytes(), 1 << 30);
}
