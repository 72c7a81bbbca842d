//! What was said of a mapping holds for the pages that come in place of those given back.

use std::fs;
use std::process::Command;

use memory_model::mmap::{HugePages, Lock, MmapRegion, MmapRegionBuilder, NumaPolicy};
use memory_model::{Bytes, VolatileMemory};

use super::kernel::Areas;
use super::{BACKINGS, contents, has_kernel, page};

/// The mappings from a page below a mapping to a page above it, as far as they are there: where, and for what.
fn neighbourhood(region: &MmapRegion) -> Vec<(usize, usize, String)> {
    let start = region.as_volatile_slice().as_ptr().addr();
    let (below, above) = (start - page(), start + region.len() + page());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let from = usize::from_str_radix(from, 16).ok()?.max(below);
        let to = usize::from_str_radix(to, 16).ok()?.min(above);
        (from < to).then(|| (from, to, rest.split(' ').next().unwrap_or_default().to_owned()))
    };
    maps.lines().filter_map(line).collect()
}

/// The NUMA policies of a mapping; none where the host has no such books.
fn numa_policies(region: &MmapRegion) -> Vec<String> {
    let start = region.as_volatile_slice().as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let policy = |line: &str| {
        let mut words = line.split(' ');
        let at = usize::from_str_radix(words.next()?, 16).ok()?;
        (start..start + region.len()).contains(&at).then(|| words.next().unwrap_or_default().to_owned())
    };
    let mut policies: Vec<_> = maps.lines().filter_map(policy).collect();
    policies.dedup();
    policies
}

#[test]
fn the_policy_of_a_mapping_stays() {
    if !has_kernel() {
        return;
    }
    let policies: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 7] = [
        |mapping| mapping,
        |mapping| mapping.numa(NumaPolicy::Bind(vec![0])),
        |mapping| mapping.huge_pages(HugePages::Transparent),
        |mapping| mapping.huge_pages(HugePages::Never).fork(false),
        |mapping| mapping.mergeable(true),
        |mapping| mapping.lock(Lock::OnFault),
        |mapping| mapping.dump(true).reserve(true),
    ];
    for backing in &BACKINGS {
        for (number, policy) in policies.into_iter().enumerate() {
            let mapping = policy((backing.describe)(MmapRegion::builder(16 * page())));
            let region = match mapping.build() {
                Ok(region) => region,
                Err(error) => {
                    memory_model_test_support::skip!("host limit: {}: {error}", backing.name);
                    continue;
                }
            };
            region.as_volatile_slice().fill(1, region.len(), 0).unwrap();
            let (areas, around, numa) = (Areas::of(&region), neighbourhood(&region), numa_policies(&region));
            if !backing.discard(&region, 3 * page(), 7 * page()) {
                continue;
            }
            let after = Areas::of(&region);
            assert_eq!(after.flags(), areas.flags(), "{}, {number}", backing.name);
            assert_eq!(numa_policies(&region), numa, "{}, {number}", backing.name);
            if backing.is_overlaid() {
                assert_eq!((areas.count(), after.count()), (1, 3), "{}, {number}: one more, and one cut", backing.name);
                continue;
            }
            // Locked at once, then on fault: the range is an area of its own.
            if backing.name == "memfd, locked" && after.count() == 3 {
                continue;
            }
            assert_eq!((areas.count(), after.count()), (1, 1), "{}, {number}", backing.name);
            assert_eq!(neighbourhood(&region), around, "{}, {number}: with its guard pages", backing.name);
        }
    }
}

#[test]
fn locked_pages_are_locked_when_they_come_back() {
    if !has_kernel() {
        return;
    }
    for backing in BACKINGS.iter().filter(|backing| backing.name.contains("locked")) {
        let Some(region) = backing.map(16) else { continue };
        region.as_volatile_slice().fill(1, region.len(), 0).unwrap();
        assert_eq!(Areas::of(&region).bytes("Locked"), region.len(), "{}", backing.name);
        assert!(backing.discard(&region, 3 * page(), 7 * page()));
        assert_eq!(Areas::of(&region).bytes("Locked"), region.len() - 7 * page(), "{}: not made yet", backing.name);
        region.as_volatile_slice().fill(1, 7 * page(), 3 * page()).unwrap();
        assert_eq!(Areas::of(&region).bytes("Locked"), region.len(), "{}", backing.name);
    }
}

#[test]
fn a_process_that_locks_all_it_has_gives_back_too() {
    const CHILD: &str = "DISCARD_OF_LOCKED_MEMORY";
    if !has_kernel() {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        return give_back_locked();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["policies::a_process_that_locks_all_it_has_gives_back_too", "--exact", "--nocapture"])
        .args(["--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    eprint!("{said}");
    assert!(child.status.success(), "{:?}", child.status);
}

/// In a process of its own.
fn give_back_locked() {
    let regions: Vec<_> = BACKINGS.iter().filter_map(|backing| Some((backing, backing.map(8)?))).collect();
    #[expect(unsafe_code, reason = "locks mappings behind their owners' backs")]
    // SAFETY: locking changes no byte.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if locked != 0 {
        return memory_model_test_support::skip!("host limit: mlockall: {}", std::io::Error::last_os_error());
    }
    // Those that were there before, and those mapped since.
    let more: Vec<_> = BACKINGS.iter().filter_map(|backing| Some((backing, backing.map(8)?))).collect();
    for (backing, region) in regions.iter().chain(&more) {
        region.as_volatile_slice().fill(0xa5, region.len(), 0).unwrap();
        let before = Areas::of(region);
        if !backing.discard(region, page() + 1, 5 * page()) {
            continue;
        }
        let gone = 2 * page()..6 * page();
        // A hole in a large folio of a file system's cache takes all of the folio out of the page table.
        assert!(before.bytes("Rss") - Areas::of(region).bytes("Rss") >= gone.len(), "{}", backing.name);
        for (offset, byte) in contents(region).into_iter().enumerate() {
            let expected = if gone.contains(&offset) { backing.after(offset) } else { 0xa5 };
            assert_eq!(byte, expected, "{}: byte {offset:#x}", backing.name);
        }
        region.as_volatile_slice().fill(1, region.len(), 0).unwrap();
        let after = Areas::of(region);
        assert_eq!(after.flags(), before.flags(), "{}", backing.name);
        assert!(after.flags().iter().any(|flag| flag == "lo"), "{}", backing.name);
        assert_eq!(after.bytes("Locked"), region.len(), "{}", backing.name);
    }
}
