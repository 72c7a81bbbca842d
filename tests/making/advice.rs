//! What the kernel was told about the memory, and nothing else.

use memory_model::mmap::{Error, HugePages, Lock, MmapRegion, MmapRegionBuilder, Protection, Step};
use memory_model::{Bytes, VolatileMemory};

use super::areas::Areas;
use super::kernel::mapping_at;
use super::{BACKINGS, has_kernel, page, start};

/// The flags that options have an effect on. Private memory that is reserved is accounted for.
const OURS: [&str; 9] = ["dd", "dc", "hg", "nh", "lo", "mg", "nr", "wr", "ac"];

fn flags(region: &MmapRegion) -> Vec<String> {
    let mut flags = Areas::of(region).flags();
    flags.retain(|flag| OURS.contains(&flag.as_str()));
    flags.sort();
    flags
}

/// Checks that an option adds these flags, and takes these away, whatever memory it is asked of.
fn changes(option: fn(MmapRegionBuilder) -> MmapRegionBuilder, added: &[&str], taken: &[&str]) {
    if !has_kernel() {
        return;
    }
    for backing in BACKINGS {
        let usual = flags(&backing.builder(4 * page()).build().unwrap());
        match option(backing.builder(4 * page())).build() {
            // The kernel, or the limits of this process.
            Err(Error::Refused { step: step @ (Step::Merge | Step::HugePages | Step::Lock), source, .. }) => {
                memory_model_test_support::skip!("host limit: {step}: {source}");
            }
            made => {
                let mut wanted: Vec<_> = added.iter().map(|flag| (*flag).to_owned()).collect();
                wanted.extend(usual.into_iter().filter(|flag| !taken.contains(&flag.as_str())));
                wanted.sort();
                // Shared memory is not accounted for by mapping, and its pages are not merged.
                wanted.retain(|flag| !(backing.shared && ["ac", "mg"].contains(&flag.as_str())));
                assert_eq!(flags(&made.unwrap()), wanted, "{}", backing.name);
            }
        }
    }
}

#[test]
fn usually_it_is_left_out_of_dumps_and_not_reserved() {
    let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if overcommit.trim() == "2" {
        memory_model_test_support::skip!("host setting: overcommit reserves all memory");
    } else if has_kernel() {
        let region = MmapRegion::new(page()).unwrap();
        assert_eq!(flags(&region), ["dd", "nr", "wr"]);
        // And nothing that was not asked of it is done to shared memory.
        let region = MmapRegion::builder(page()).memfd("making").build().unwrap();
        assert_eq!(flags(&region), ["dd", "nr", "wr"]);
    }
}

#[test]
fn core_dumps_have_it_if_asked() {
    changes(|mapping| mapping.dump(true), &[], &["dd"]);
    changes(|mapping| mapping.dump(true).dump(false), &[], &[]);
}

#[test]
fn child_processes_have_it_unless_asked() {
    changes(|mapping| mapping.fork(false), &["dc"], &[]);
    changes(|mapping| mapping.fork(true), &[], &[]);
}

#[test]
fn equal_pages_merge_if_asked() {
    changes(|mapping| mapping.mergeable(true), &["mg"], &[]);
    changes(|mapping| mapping.mergeable(false), &[], &[]);
}

#[test]
fn huge_pages_are_wanted_or_not() {
    changes(|mapping| mapping.huge_pages(HugePages::Transparent), &["hg"], &[]);
    changes(|mapping| mapping.huge_pages(HugePages::Never), &["nh"], &[]);
    changes(|mapping| mapping.huge_pages(HugePages::Host), &[], &[]);
}

#[test]
fn pages_are_locked_if_asked() {
    changes(|mapping| mapping.lock(Lock::Now), &["lo"], &[]);
    changes(|mapping| mapping.lock(Lock::OnFault), &["lo"], &[]);
    changes(|mapping| mapping.lock(Lock::None), &[], &[]);
}

#[test]
fn memory_is_set_aside_if_asked() {
    let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if overcommit.trim() == "2" {
        memory_model_test_support::skip!("host setting: overcommit reserves all memory");
    } else {
        changes(|mapping| mapping.reserve(true), &["ac"], &["nr"]);
        changes(|mapping| mapping.reserve(false), &[], &[]);
    }
}

#[test]
fn several_are_several() {
    changes(
        |mapping| mapping.dump(true).fork(false).huge_pages(HugePages::Never).lock(Lock::OnFault),
        &["dc", "nh", "lo"],
        &["dd"],
    );
}

#[test]
fn the_protection_is_that_of_the_pages() {
    changes(|mapping| mapping.protection(Protection::ReadOnly), &[], &["wr"]);
    let access = |region: &MmapRegion| mapping_at(start(region)).unwrap().access;
    for backing in BACKINGS {
        // Not all of the last page is asked for, and all of it is protected.
        let region = backing.builder(3 * page() - 5).protection(Protection::ReadOnly).build().unwrap();
        let kind = if backing.shared { 's' } else { 'p' };
        let check = |expected: &str, read_only| {
            if has_kernel() {
                assert_eq!(access(&region), format!("{expected}{kind}"), "{}", backing.name);
                assert_eq!(mapping_at(start(&region)).unwrap().range.len(), 3 * page(), "{}", backing.name);
            }
            assert_eq!(region.is_read_only(), read_only, "{}", backing.name);
        };
        check("r--", true);
        region.protect(Protection::ReadWrite).unwrap();
        check("rw-", false);
        region.as_volatile_slice().write_obj(7_u8, 3 * page() - 6).unwrap();
        region.protect(Protection::ReadWrite).unwrap();
        check("rw-", false);
        region.protect(Protection::ReadOnly).unwrap();
        check("r--", true);
        region.protect(Protection::ReadOnly).unwrap();
        check("r--", true);
        assert_eq!(region.as_volatile_slice().read_obj::<u8>(3 * page() - 6).unwrap(), 7);
    }
}

/// A file that is open for reading can be mapped to be read, by all, and not to be written.
#[test]
fn firmware_may_be_a_file_that_cannot_be_written() {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), super::files_bytes(page())).unwrap();
    let at = || memory_model::FileOffset::new(std::fs::File::open(path.path()).unwrap(), 0);
    let builder = || MmapRegion::builder(page()).file(at());
    let region = builder().protection(Protection::ReadOnly).build().unwrap();
    assert_eq!(super::contents(&region), super::files_bytes(page()));
    let refused = region.protect(Protection::ReadWrite).unwrap_err();
    let Error::Refused { step: Step::Protect, source, size } = refused else { panic!("{refused}") };
    assert_eq!((source.raw_os_error(), size), (Some(libc::EACCES), page()));
    assert!(region.is_read_only());
    // A copy may be written.
    let copy = builder().private().build().unwrap();
    copy.as_volatile_slice().write_obj(1_u8, 0).unwrap();
}
