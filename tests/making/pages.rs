//! Transparent huge pages, and that all that shapes pages is said before there are any.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use memory_model::mmap::{HugePages, Lock, MmapRegion, MmapRegionBuilder, NumaPolicy, Prefault};

use super::areas::Areas;
use super::kernel::{mapping_of, numa_map};
use super::{has_kernel, page};

const SIZE: usize = 64 << 20;

/// What the host says of transparent huge pages: `always`, `madvise`, `never`; says so if there are none.
fn offered() -> Option<String> {
    if !has_kernel() {
        return None;
    }
    let thp = Path::new("/sys/kernel/mm/transparent_hugepage");
    let chosen = |file: &Path| {
        let choices = fs::read_to_string(thp.join(file)).ok()?;
        Some(choices.split_once('[')?.1.split_once(']')?.0.to_owned())
    };
    let size = fs::read_to_string(thp.join("hpage_pmd_size")).unwrap_or_default().trim().parse::<u64>();
    // Pages of this size may have a choice of their own.
    let own = size.ok().and_then(|size| chosen(Path::new(&format!("hugepages-{}kB/enabled", size / 1024))));
    let chosen = own.filter(|own| own != "inherit").or_else(|| chosen(Path::new("enabled")));
    let offered = chosen.filter(|chosen| chosen != "never");
    if offered.is_none() {
        memory_model_test_support::skip!("no transparent huge pages");
    }
    offered
}

fn ways() -> [Prefault; 2] {
    [Prefault::Populate, Prefault::Parallel { threads: NonZeroUsize::new(2).unwrap() }]
}

/// Bytes of 64 MiB that are on huge pages.
fn huge(option: impl Fn(MmapRegionBuilder) -> MmapRegionBuilder) -> usize {
    let region = option(MmapRegion::builder(SIZE)).build().unwrap();
    let areas = Areas::of(&region);
    assert_eq!(areas.bytes("Rss"), SIZE);
    areas.bytes("AnonHugePages")
}

#[test]
fn a_prefault_makes_huge_pages_where_they_are_wanted() {
    let Some(offered) = offered() else { return };
    for prefault in ways() {
        assert_eq!(huge(|mapping| mapping.huge_pages(HugePages::Transparent).prefault(prefault)), SIZE);
        assert_eq!(huge(|mapping| mapping.huge_pages(HugePages::Never).prefault(prefault)), 0);
        let by_host = huge(|mapping| mapping.prefault(prefault));
        assert_eq!(by_host, if offered == "always" { SIZE } else { 0 });
    }
}

#[test]
fn locking_makes_huge_pages_where_they_are_wanted() {
    if offered().is_none() {
        return;
    }
    if MmapRegion::builder(SIZE).lock(Lock::OnFault).build().is_err() {
        return memory_model_test_support::skip!("host limit: RLIMIT_MEMLOCK");
    }
    assert_eq!(huge(|mapping| mapping.huge_pages(HugePages::Transparent).lock(Lock::Now)), SIZE);
    assert_eq!(huge(|mapping| mapping.huge_pages(HugePages::Never).lock(Lock::Now)), 0);
}

#[test]
fn all_that_shapes_pages_is_said_before_there_are_any() {
    if !has_kernel() {
        return;
    }
    let usual = || MmapRegion::builder(16 * page()).memfd("making: order").private();
    let mut wanted = vec!["dd"];
    let mut builder = usual().prefault(Prefault::Populate);
    let mut add = |flag, option: fn(MmapRegionBuilder) -> MmapRegionBuilder| match option(usual()).build() {
        Ok(_) => {
            builder = option(builder.clone());
            wanted.push(flag);
        }
        Err(error) => memory_model_test_support::skip!("host limit: {error}"),
    };
    add("dc", |mapping| mapping.fork(false));
    add("hg", |mapping| mapping.huge_pages(HugePages::Transparent));
    add("mg", |mapping| mapping.mergeable(true));
    add("lo", |mapping| mapping.lock(Lock::Now));
    add("bound", |mapping| mapping.numa(NumaPolicy::Bind(vec![0])));
    let mut told = 0;
    let region = builder.build_with_progress(|now| {
        told += 1;
        if now.done == 0 {
            let mapping = mapping_of("making: order");
            let areas = Areas::within(mapping.range.clone());
            assert_eq!(areas.bytes("Rss"), 0, "there are pages");
            let mut has = areas.flags();
            has.extend(
                numa_map(mapping.range.start).filter(|map| map.contains(" bind:0 ")).map(|_| "bound".to_owned()),
            );
            assert!(wanted.iter().all(|flag| has.iter().any(|has| has == flag)), "{wanted:?} in {has:?}");
        }
        ControlFlow::Continue(())
    });
    assert_eq!(Areas::of(&region.unwrap()).bytes("Rss"), 16 * page());
    assert_eq!(told, 2);
}
