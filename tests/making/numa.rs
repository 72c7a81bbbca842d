//! The host's nodes that pages come from.

use std::fs;

use libc::{MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED};
use memory_model::layout::{GuestLayout, Platform, Zone};
use memory_model::mmap::{Error, MmapRegion, NumaPolicy, Prefault};
use memory_model::{GuestMemoryMmap, VolatileMemory};

use super::kernel::{left_of, numa_map};
use super::{BACKINGS, has_kernel, page, raw, start};

/// The nodes that have memory which this process may use; says so if the kernel does not know nodes.
fn nodes() -> Option<Vec<u32>> {
    let list = fs::read_to_string("/sys/devices/system/node/has_memory").ok().filter(|_| has_kernel());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"));
    let list = list.zip(allowed);
    let probe = MmapRegion::new(page()).unwrap();
    let list = list.filter(|_| raw::policy(probe.as_volatile_slice().as_ptr()).is_ok());
    if list.is_none() {
        memory_model_test_support::skip!("no NUMA support");
    }
    let (with_memory, allowed) = list?;
    let allowed = numbers(allowed);
    Some(numbers(&with_memory).into_iter().filter(|node| allowed.contains(node)).collect())
}

/// The numbers in a list of the kernel's, such as `0-2,5`.
fn numbers(list: &str) -> Vec<u32> {
    let range = |range: &str| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        from.parse::<u32>().unwrap()..=to.parse().unwrap()
    };
    list.trim().split(',').flat_map(range).collect()
}

/// The policy of a mapping, by each of its ends.
fn policy(region: &MmapRegion) -> (i32, Vec<usize>) {
    let first = region.as_volatile_slice().as_ptr();
    let policy = raw::policy(first).unwrap();
    assert_eq!(raw::policy(first.wrapping_add(region.len() - 1)).unwrap(), policy);
    policy
}

/// On how many pages of a node a mapping is.
fn pages_on(region: &MmapRegion, node: u32) -> usize {
    let map = numa_map(start(region)).unwrap();
    let key = format!("N{node}=");
    map.split(' ').find_map(|word| word.strip_prefix(&key)).map_or(0, |pages| pages.parse().unwrap())
}

#[test]
fn a_policy_is_that_of_all_the_memory_and_its_pages_come_from_there() {
    let Some(nodes) = nodes() else { return };
    // In numa_maps, nodes that follow each other are a range.
    let all = nodes.iter().map(|&node| node as usize).collect::<Vec<_>>();
    for backing in BACKINGS {
        let builder = || backing.builder(16 * page() - 5).prefault(Prefault::Populate);
        for &node in &nodes {
            let policies = [
                (NumaPolicy::Bind(vec![node]), MPOL_BIND, "bind"),
                (NumaPolicy::Preferred(node), MPOL_PREFERRED, "prefer"),
                (NumaPolicy::Interleave(vec![node]), MPOL_INTERLEAVE, "interleave"),
            ];
            for (wanted, mode, word) in policies {
                let region = builder().numa(wanted).build().unwrap();
                // Of a file on a disk, the policy is the mapping's, and its pages are wherever the file's are.
                assert_eq!(policy(&region), (mode, vec![node as usize]), "{}", backing.name);
                let map = numa_map(start(&region)).unwrap();
                assert!(map.contains(&format!(" {word}:{node} ")), "{}: {map}", backing.name);
                if !backing.file {
                    assert_eq!(pages_on(&region, node), 16, "{}: {map}", backing.name);
                }
            }
        }
        let region = builder().numa(NumaPolicy::Bind(nodes.clone())).build().unwrap();
        assert_eq!(policy(&region), (MPOL_BIND, all.clone()), "{}", backing.name);
        let region = builder().numa(NumaPolicy::Interleave(nodes.clone())).build().unwrap();
        assert_eq!(policy(&region), (MPOL_INTERLEAVE, all.clone()), "{}", backing.name);
        if !backing.file {
            let counts: Vec<_> = nodes.iter().map(|&node| pages_on(&region, node)).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{}: {counts:?}", backing.name);
        }
    }
}

#[test]
fn without_a_policy_it_has_none() {
    if nodes().is_some() {
        let region = MmapRegion::new(page()).unwrap();
        assert_eq!(policy(&region), (libc::MPOL_DEFAULT, vec![]));
    }
}

/// Where the memfd goes, its policy goes.
#[test]
fn the_policy_of_a_memfd_is_for_all_who_map_it() {
    let Some(nodes) = nodes() else { return };
    let region =
        MmapRegion::builder(4 * page()).memfd("making").numa(NumaPolicy::Bind(vec![nodes[0]])).build().unwrap();
    let again = MmapRegion::from_file(region.file_offset().unwrap().clone(), 4 * page()).unwrap();
    assert_eq!(policy(&again), (MPOL_BIND, vec![nodes[0] as usize]));
}

/// Nodes that nobody can have memory of: some of those that Linux can count.
fn absent(nodes: &[u32]) -> Vec<u32> {
    let absent = (0..1024).filter(|node| !nodes.contains(node)).collect::<Vec<u32>>();
    [absent[0], absent[absent.len() / 2], 1023].into_iter().filter(|node| absent.contains(node)).collect()
}

/// Each policy that has the second node, beside the first where it can.
fn policies(present: u32, node: u32) -> [NumaPolicy; 7] {
    [
        NumaPolicy::Bind(vec![node]),
        NumaPolicy::Bind(vec![present, node]),
        NumaPolicy::Bind(vec![node, present, node]),
        NumaPolicy::Preferred(node),
        NumaPolicy::Interleave(vec![node]),
        NumaPolicy::Interleave(vec![present, node]),
        NumaPolicy::Interleave(vec![node, present]),
    ]
}

fn assert_names(error: &Error, node: u32, policy: &NumaPolicy) {
    assert!(matches!(error, Error::UnusableNode(found) if *found == node), "{policy:?}: {error}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("NUMA node {node} does not exist")), "{message}");
    assert!(message.contains("see /sys/devices/system/node/has_memory"), "{message}");
}

#[test]
fn policy_with_an_absent_node_is_refused_and_the_error_names_it() {
    let Some(nodes) = nodes() else { return };
    for node in absent(&nodes) {
        for policy in policies(nodes[0], node) {
            for backing in BACKINGS {
                let error = backing.builder(page()).numa(policy.clone()).build().unwrap_err();
                assert_names(&error, node, &policy);
            }
            let builder = MmapRegion::builder(page()).memfd("making: node").numa(policy.clone());
            assert_names(&builder.build().unwrap_err(), node, &policy);
        }
    }
    assert_eq!(left_of("making: node"), (0, 0));
}

#[test]
fn zone_policy_with_an_absent_node_is_refused_and_the_error_names_it() {
    let Some(nodes) = nodes() else { return };
    let zones = ["low", "high"].map(|name| Zone::new(name, 1 << 20));
    let [low, high] = zones;
    let layout = GuestLayout::builder(Platform::X86_64).zone(low).zone(high).build().unwrap();
    let node = absent(&nodes)[0];
    for policy in policies(nodes[0], node) {
        let every = GuestMemoryMmap::builder(&layout).every_zone(|zone| zone.numa(policy.clone()));
        assert_names(&every.build().unwrap_err(), node, &policy);
        let one = GuestMemoryMmap::builder(&layout)
            .every_zone(|zone| zone.memfd("making: zone").numa(NumaPolicy::Bind(vec![nodes[0]])))
            .zone("high", |zone| zone.memfd("making: zone").numa(policy.clone()));
        assert_names(&one.build().unwrap_err(), node, &policy);
    }
    assert_eq!(left_of("making: zone"), (0, 0), "the first zone was unmapped");
}

#[test]
fn refused_policy_leaves_a_files_policy_alone() {
    let Some(nodes) = nodes() else { return };
    let region = MmapRegion::builder(page()).memfd("making").numa(NumaPolicy::Bind(vec![nodes[0]])).build().unwrap();
    let file = region.file_offset().unwrap().clone();
    let wanted = NumaPolicy::Interleave(vec![nodes[0], absent(&nodes)[0]]);
    MmapRegion::builder(page()).file(file).numa(wanted).build().unwrap_err();
    assert_eq!(policy(&region), (MPOL_BIND, vec![nodes[0] as usize]));
}
