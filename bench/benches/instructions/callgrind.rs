//! Counting: this program in a process of its own, under callgrind, for each operation.

use std::env;
use std::process::Command;

use contenders::Random;
use memory_model::{GuestAddress, GuestMemoryMmap};

use crate::operations::{OPERATIONS, Operation};

/// Before the name of the operation that a process under callgrind is to do.
pub(crate) const CHILD: &str = "--do";

/// At how many addresses an operation is done.
const CALLS: u32 = 64;

/// Bytes of memory, in any number of regions.
const TOTAL: u64 = 4 << 20;

/// What was counted.
pub(crate) struct Run {
    /// The instructions of each operation.
    pub(crate) counts: Vec<(&'static str, u32)>,
    /// The compiler's version.
    pub(crate) compiler: String,
    /// The processor's extensions, as callgrind lets them be seen.
    pub(crate) extensions: String,
}

/// Counts the instructions of all operations.
pub(crate) fn count() -> Run {
    let mut extensions = String::new();
    let counts = OPERATIONS.iter().map(|operation| {
        let (count, seen) = count_one(operation);
        extensions = seen;
        (operation.name, count)
    });
    Run { counts: counts.collect(), compiler: env!("BENCH_COMPILER").into(), extensions }
}

fn count_one(operation: &Operation) -> (u32, String) {
    let function = format!("*::counted::{}", operation.function);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // With the hash that a name may end with, and without.
        .args([format!("--toggle-collect={function}"), format!("--toggle-collect={function}::h*")])
        .arg(env::current_exe().expect("this program is a file"))
        .args([CHILD, operation.name])
        .output()
        .expect("valgrind can be run");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "callgrind failed:\n{log}");
    // "==1234== Collected : 5678"
    let collected = log.lines().find_map(|line| line.split_once("Collected :"));
    let (_, collected) = collected.unwrap_or_else(|| panic!("no count from callgrind:\n{log}"));
    let collected: u32 = collected.trim().parse().expect("callgrind's count is a number");
    assert!(collected > 0, "callgrind has not found {function}");
    // The call is the caller's, and not in it.
    let count = (collected + CALLS / 2) / CALLS + 1;
    (count, String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Does an operation, and says which extensions there are.
pub(crate) fn child(name: &str) {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).expect("an operation's name");
    let (memory, addrs) = memory(operation);
    // Page by page: where the system has no barrier for all threads, the count says so.
    let log = operation.tracked.then(|| memory.start_tracking(4096).expect("a bitmap of 4 MiB is small"));
    if log.is_some() {
        warm_up_all(&memory);
    }
    let mut buf = [0; 128];
    for addr in addrs {
        (operation.run)(&memory, addr, &mut buf);
    }
    println!("{}", extensions());
}

/// Regions with holes of their size in between, and addresses there, all multiples of 16.
fn memory(operation: &Operation) -> (GuestMemoryMmap, Vec<GuestAddress>) {
    let size = TOTAL / operation.regions;
    let start = |region| GuestAddress((2 * region + 1) * size);
    let len = usize::try_from(size).expect("4 MiB and less");
    let ranges: Vec<_> = (0..operation.regions).map(|region| (start(region), len)).collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).expect("4 MiB can be mapped");
    warm_up(&memory, start(0));
    let mut random = Random::new(1);
    let addr = |_| {
        let region = start(random.below(operation.regions));
        let offset = random.below(size / 256) * 256 + random.below(8) * 16;
        GuestAddress(if operation.hits { region.0 + offset } else { region.0 + size + offset })
    };
    (memory, (0..CALLS).map(addr).collect())
}

/// All pages are dirty.
fn warm_up_all(memory: &GuestMemoryMmap) {
    use memory_model::{Bytes, GuestMemory, GuestMemoryRegion, MemoryRegionAddress};

    for region in memory.regions() {
        let len = usize::try_from(region.len()).expect("4 MiB and less");
        region.fill(0, len, MemoryRegionAddress(0)).expect("it is all there");
    }
}

/// What is done on the first call only is not what is counted.
fn warm_up(memory: &GuestMemoryMmap, addr: GuestAddress) {
    use memory_model::Bytes;

    let mut buf = [0; 512];
    memory.read_slice(&mut buf, addr).expect("the address is valid");
    memory.write_slice(&buf, addr).expect("the address is valid");
    memory.fill(0, buf.len(), addr).expect("the address is valid");
}

/// The extensions that matter to how bytes are copied.
#[cfg(target_arch = "x86_64")]
fn extensions() -> String {
    use std::arch::is_x86_feature_detected;

    let all = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("ermsb", is_x86_feature_detected!("ermsb")),
    ];
    all.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn extensions() -> String {
    String::new()
}
