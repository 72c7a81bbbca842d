//! Pages that stay in memory.

use std::num::NonZeroUsize;

use memory_model::mmap::{HugePages, Lock, MmapRegion, MmapRegionBuilder, Prefault, Protection};
use memory_model::{Bytes, VolatileMemory};

use super::areas::Areas;
use super::{BACKINGS, contents, files_bytes, has_kernel, page};

const PAGES: usize = 12;

/// Makes it; or says that this process may not lock so much.
fn make(builder: MmapRegionBuilder) -> Option<MmapRegion> {
    match builder.build() {
        Ok(region) => Some(region),
        Err(error) => {
            memory_model_test_support::skip!("host limit: {error}");
            None
        }
    }
}

/// How many pages are resident, and how many are locked.
fn counts(region: &MmapRegion) -> (usize, usize) {
    let areas = Areas::of(region);
    (areas.bytes("Rss") / page(), areas.bytes("Locked") / page())
}

#[test]
fn pages_are_locked_now_or_as_they_are_touched() {
    if !has_kernel() {
        return;
    }
    for backing in BACKINGS {
        // Of small pages: one touch makes all of a larger one.
        let builder = || backing.builder(PAGES * page()).huge_pages(HugePages::Never);
        let Some(region) = make(builder().lock(Lock::Now)) else { return };
        assert_eq!(counts(&region), (PAGES, PAGES), "{}", backing.name);
        let before = if backing.file { files_bytes(PAGES * page()) } else { vec![0; PAGES * page()] };
        assert_eq!(contents(&region), before, "{}", backing.name);

        let Some(region) = make(builder().lock(Lock::OnFault)) else { return };
        assert_eq!(counts(&region), (0, 0), "{}", backing.name);
        region.as_volatile_slice().write_obj(1_u8, 5 * page()).unwrap();
        // Of a file, pages nearby may be mapped, too.
        let (resident, locked) = counts(&region);
        assert!(locked == resident && (resident == 1 || backing.file), "{}: {resident}", backing.name);

        let region = builder().build().unwrap();
        region.as_volatile_slice().write_obj(1_u8, 5 * page()).unwrap();
        assert_eq!(counts(&region).1, 0, "{}", backing.name);
    }
}

#[test]
fn pages_that_are_made_beforehand_are_locked() {
    if !has_kernel() {
        return;
    }
    let parallel = Prefault::Parallel { threads: NonZeroUsize::new(3).unwrap() };
    for backing in BACKINGS {
        for (lock, prefault) in
            [Lock::Now, Lock::OnFault].iter().flat_map(|lock| [(lock, Prefault::Populate), (lock, parallel)])
        {
            let Some(region) = make(backing.builder(PAGES * page()).lock(*lock).prefault(prefault)) else { return };
            assert_eq!(counts(&region), (PAGES, PAGES), "{}: {lock:?} {prefault:?}", backing.name);
        }
    }
}

#[test]
fn read_only_memory_is_locked() {
    if has_kernel() {
        let file = super::file(PAGES * page());
        let builder = MmapRegion::builder(PAGES * page()).file(file).protection(Protection::ReadOnly);
        let Some(region) = make(builder.lock(Lock::Now)) else { return };
        assert_eq!(counts(&region), (PAGES, PAGES));
    }
}
