//! Pages that cannot be accessed: each access that meets one is an error, which says how far it came, and that is true.
//!
//! | module      | what it shows                                                                        |
//! |-------------|--------------------------------------------------------------------------------------|
//! | [`bulk`]    | every length at every offset around the edge, of each operation on runs of bytes     |
//! | [`copies`]  | copies inside memory: either side bad, or both, or the two the same                  |
//! | [`large`]   | lengths up to 1 MiB                                                                  |
//! | [`wrapped`] | all operations, typed and atomic ones too, through all that wraps memory             |
//! | [`regions`] | accesses that cross from region to region                                            |
//! | [`streams`] | files, pipes, sockets and buffers as the other end: nothing is lost                  |
//! | [`threads`] | many threads at once, and files that shrink and grow meanwhile                       |

#![cfg(all(feature = "fault-recovery", feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "faults/bulk.rs"]
mod bulk;
#[path = "faults/copies.rs"]
mod copies;
#[path = "faults/ends.rs"]
mod ends;
#[path = "faults/every.rs"]
mod every;
#[path = "faults/ground.rs"]
mod ground;
#[path = "faults/large.rs"]
mod large;
#[path = "faults/regions.rs"]
mod regions;
#[path = "faults/streams.rs"]
mod streams;
#[path = "faults/threads.rs"]
mod threads;
#[path = "faults/wrapped.rs"]
mod wrapped;

use memory_model::{MmapRegion, fault_recovery};

/// Whether faults are errors on this target; says so if they are not.
fn recovers() -> bool {
    drop(MmapRegion::new(1).unwrap());
    let installed = fault_recovery::is_installed();
    let promised = cfg!(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")));
    assert!(installed || !promised, "a mapping installs the handlers");
    if !installed {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
    installed
}
