//! Each public method that can write to guest memory, by name: that it marks, and that none is missing. The names are read
//! from the source, so that a new method has to be put into one of two lists before this passes again.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use memory_model::buffers::PinnedRef;
use memory_model::io_memory::Access;
use memory_model::mmap::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, GuestSlice, MemoryRegionAddress,
};

use crate::ground::memory;

/// A place in the middle of nowhere else, and what else a method may need: a memory, its region and a slice from that place.
struct Ground<'a> {
    mem: &'a GuestMemoryMmap,
    region: &'a GuestRegionMmap,
    slice: GuestSlice<'a>,
}

const AT: u64 = 0x5000;
const MEM: GuestAddress = GuestAddress(AT);
const REGION: MemoryRegionAddress = MemoryRegionAddress(AT);

/// What writes to the page at `AT`, and to no other, by the type or trait and its method.
type Writer = (&'static str, &'static str, fn(&Ground<'_>));

macro_rules! bytes {
    ($($method:literal: |$mem:ident, $at:ident| $write:expr;)*) => {
        [$(
            ("Bytes", $method, (|ground| { let ($mem, $at) = (ground.mem, MEM); $write }) as fn(&Ground<'_>)),
            ("Bytes", $method, |ground| { let ($mem, $at) = (ground.region, MEM); $write }),
            ("Bytes", $method, |ground| { let ($mem, $at) = (ground.region, REGION); $write }),
            ("Bytes", $method, |ground| { let ($mem, $at) = (&ground.slice, 0); $write }),
            ("Bytes", $method, |ground| {
                let ($mem, $at) = (ground.mem, memory_model::IoAddress(AT));
                $write
            }),
        )*]
    };
}

const BYTES: &[Writer] = &bytes! {
    "write": |mem, at| assert_eq!(mem.write(&[1], at).unwrap(), 1);
    "write_slice": |mem, at| mem.write_slice(&[1], at).unwrap();
    "write_obj": |mem, at| mem.write_obj(1_u64, at).unwrap();
    "fill": |mem, at| mem.fill(1, 9, at).unwrap();
    "store": |mem, at| mem.store(1_u32, at, SeqCst).unwrap();
    "compare_exchange": |mem, at| {
        let held: u16 = mem.load(at, SeqCst).unwrap();
        assert_eq!(mem.compare_exchange(held, 7, at, SeqCst, SeqCst).unwrap(), Ok(held));
    };
    "write_from": |mem, at| assert_eq!(mem.write_from(at, &mut &[1, 2][..], 2).unwrap(), 2);
    "write_all_from": |mem, at| mem.write_all_from(at, &mut &[1, 2][..], 2).unwrap();
};

const OTHERS: &[Writer] = &[
    ("GuestMemory", "copy", |ground| ground.mem.copy(GuestAddress(0x100), MEM, 16).unwrap()),
    ("GuestSlice", "fetch_or", |ground| assert!(ground.slice.fetch_or(1_u8, 0, SeqCst).is_ok())),
    ("GuestSlice", "copy_from", |ground| assert_eq!(ground.slice.copy_from(&[1_u16, 2]).unwrap(), 2)),
    ("GuestSlice", "copy_to_guest_slice", |ground| {
        let src = ground.mem.get_slice(GuestAddress(0), 0x20).unwrap();
        assert_eq!(src.copy_to_guest_slice(ground.slice).unwrap(), 0x20);
    }),
    ("GuestRef", "store", |ground| ground.slice.get_ref(1).unwrap().store(5_u32).unwrap()),
    ("GuestArrayRef", "store", |ground| ground.slice.get_array_ref(1, 3).unwrap().store(2, 5_u32).unwrap()),
    ("GuestArrayRef", "copy_from", |ground| {
        assert_eq!(ground.slice.get_array_ref(1, 3).unwrap().copy_from(&[1_u8, 2, 3]).unwrap(), 3);
    }),
    ("PinnedRef", "write", |ground| pinned(ground).write(5).unwrap()),
    ("PinnedRef", "store", |ground| pinned(ground).store(6, SeqCst).unwrap()),
    ("PinnedRef", "compare_exchange", |ground| {
        let held = pinned(ground).load(SeqCst).unwrap();
        assert_eq!(pinned(ground).compare_exchange(held, 7, SeqCst, SeqCst).unwrap(), Ok(held));
    }),
    ("GuestRegionMmap", "discard", |ground| {
        assert_eq!(ground.region.discard(REGION, host_page()).unwrap(), host_page());
    }),
    ("GuestRegionMmap", "plug", |ground| match ground.region.unplug(REGION, host_page()) {
        Ok(()) => ground.region.plug(REGION, host_page()).unwrap(),
        // Nothing can be unplugged, so that nothing is plugged.
        Err(Error::Unrecovered) => ground.region.discard(REGION, host_page()).map(drop).unwrap(),
        Err(error) => panic!("{error}"),
    }),
    ("GuestMemoryMmap", "discard", |ground| assert_eq!(ground.mem.discard(MEM, host_page()).unwrap(), host_page())),
    ("GuestMemoryMmap", "discard_ranges", |ground| {
        assert_eq!(ground.mem.discard_ranges([(MEM, host_page())]).unwrap(), host_page());
    }),
    ("GuestMemoryMmap", "discard_pages", |ground| {
        let numbers = AT / host_page()..=AT / host_page();
        assert_eq!(ground.mem.discard_pages(numbers, host_page()).unwrap(), host_page());
    }),
];

/// What does not write, of all that these types and traits have.
const READS: &[(&str, &[&str])] = &[
    (
        "Bytes",
        &["read", "read_slice", "read_obj", "load", "read_into", "read_all_into"], //
    ),
    (
        "GuestMemory",
        &[
            "address_in_range",
            "check_address",
            "check_range",
            "checked_offset",
            "find_region",
            "generation",
            "get_host_address",
            "get_slice",
            "get_slices",
            "guess_region_addr",
            "last_addr",
            "num_regions",
            "regions",
            "to_region_addr",
            "total_len",
        ],
    ),
    (
        "GuestMemoryRegion",
        &[
            "address_in_range",
            "check_address",
            "checked_offset",
            "file_offset",
            "find_slice",
            "get_host_address",
            "get_slice",
            "is_empty",
            "is_untracked",
            "kind",
            "last_addr",
            "len",
            "start_addr",
            "to_region_addr",
            "tracker",
        ],
    ),
    (
        "GuestSlice",
        &[
            "addr",
            "as_ptr",
            "copy_to",
            "get_array_ref",
            "get_ref",
            "is_empty",
            "is_read_only",
            "is_zero",
            "len",
            "new",
            "read_only",
            "subslice",
        ],
    ),
    ("GuestRef", &["addr", "as_guest_slice", "load"]),
    ("GuestArrayRef", &["as_guest_slice", "copy_to", "is_empty", "len", "load", "ref_at"]),
    (
        "GuestRegionMmap",
        &[
            "guest_memfd",
            "hugetlb",
            "is_plugged",
            "is_read_only",
            "name",
            "new",
            "numa_node",
            "plugged_ranges",
            "protect",
            "set_guest_memfd",
            "set_slot",
            "slot",
            // What it held is not there any more, nor is it zero.
            "unplug",
            "unplugged_ranges",
            "usage",
            "with_kind",
            "with_name",
            "with_numa_node",
        ],
    ),
    ("GuestMemoryMmap", &["builder", "from_ranges", "from_ranges_with_files", "prefault", "usage"]),
    (
        "GuestRegionCollection",
        &[
            "arc_regions",
            "attach",
            "detach",
            "from_arc_regions",
            "from_regions",
            "insert_region",
            "new",
            "remove_region",
            "replace",
            "start_tracking",
        ],
    ),
    ("IoMemory", &["io_generation", "io_slices", "physical", "translate"]),
    // Its writes are those of `Bytes`: see `tests/pinned/every.rs`.
    (
        "PinnedSlice",
        &["access", "addr", "generation", "get_ref", "is_current", "is_empty", "len", "new", "physical", "subslice"],
    ),
    ("PinnedRef", &["addr", "as_pinned_slice", "generation", "is_current", "load", "new", "physical", "read"]),
];

/// The folders in which these types have their methods. Who writes to memory otherwise does so through one of them.
const FOLDERS: [&str; 5] = ["src/bytes", "src/guest_memory", "src/mmap", "src/io_memory", "src/buffers/pinned"];

fn pinned(ground: &Ground<'_>) -> PinnedRef<u32> {
    PinnedRef::physical(ground.mem, MEM, Access::ReadWrite).unwrap()
}

/// A host's page, which a smaller one of the guest's is given back with.
fn host_page() -> u64 {
    rustix::param::page_size() as u64
}

#[test]
fn each_method_that_writes_marks() {
    let mem = &memory(&[(0, 0x10_0000)]);
    let region = mem.find_region(GuestAddress(0)).unwrap();
    // Made before tracking began.
    let ground = Ground { mem, region, slice: mem.get_slice(MEM, 0x100).unwrap() };
    let log = mem.start_tracking(0x1000).unwrap();
    let page = AT / host_page() * host_page();
    for (owner, method, write) in BYTES.iter().chain(OTHERS) {
        for again in [false, true] {
            write(&ground);
            let harvest = log.harvest();
            let ranges: Vec<_> = harvest.ranges().map(|range| (range.start, range.len)).collect();
            harvest.commit();
            let whole = method.starts_with("discard") || *method == "plug";
            let (start, len) = if whole { (page, host_page()) } else { (AT, 0x1000) };
            assert_eq!(ranges, [(start, len)], "{owner}::{method}, again: {again}");
        }
    }
}

#[test]
fn no_method_is_missing() {
    let mut known = BTreeSet::new();
    known.extend(BYTES.iter().chain(OTHERS).map(|(owner, method, _)| ((*owner).to_owned(), (*method).to_owned())));
    for (owner, methods) in READS {
        for method in *methods {
            let is_new = known.insert(((*owner).to_owned(), (*method).to_owned()));
            assert!(is_new, "{owner}::{method} is said both to write and not to");
        }
    }
    let owners: BTreeSet<_> = known.iter().map(|(owner, _)| owner.clone()).collect();
    let mut found = BTreeSet::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(FOLDERS[0]).is_dir() {
        memory_model_test_support::skip!("no source code of the library");
        return;
    }
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.extend(methods(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.retain(|(owner, _)| owners.contains(owner));
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "say in this file whether these write: {new:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "there are none such: {gone:?}");
}

/// The public methods in a file that is formatted, by the type or trait that has them.
fn methods(source: &str) -> BTreeSet<(String, String)> {
    let mut methods = BTreeSet::new();
    let mut owner: Option<(String, bool)> = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("pub trait ") {
            owner = Some((identifier(name), true));
        } else if line.starts_with("impl") && !line.contains(" for ") {
            // After the parameters, if there are any.
            let rest = line.trim_start_matches("impl");
            let rest = rest.strip_prefix('<').map_or(rest, after_parameters);
            owner = Some((identifier(rest.trim_start()), false));
        } else if line == "}" {
            owner = None;
        } else if let (Some((owner, is_trait)), Some(item)) = (&owner, line.strip_prefix("    ")) {
            let item = item.strip_prefix("pub ").or(is_trait.then_some(item)).unwrap_or_default();
            let item = item.strip_prefix("const ").unwrap_or(item);
            let item = item.strip_prefix("unsafe ").unwrap_or(item);
            if let Some(name) = item.strip_prefix("fn ") {
                methods.insert((owner.clone(), identifier(name)));
            }
        }
    }
    methods
}

/// What is behind a list of generic parameters, of which the first `<` is gone.
fn after_parameters(rest: &str) -> &str {
    let mut open = 1;
    let end = rest.find(|character| {
        open += i32::from(character == '<') - i32::from(character == '>');
        open == 0
    });
    rest.get(end.unwrap_or(0) + 1..).unwrap_or_default()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}
