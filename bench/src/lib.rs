//! What the benchmark `peers` runs on all contenders, and vm-memory as one of them; and virtio-queue, for `virtio`.
//!
//! | module      | what is in it                                          |
//! |-------------|--------------------------------------------------------|
//! | `contender` | the operations, and the types that they move           |
//! | `ends`      | where slices and streams come from and go to           |
//! | `loops`     | the loops that are timed                               |
//! | `queue`     | virtio-queue                                           |
//! | `vm`        | vm-memory; memory-model and raw are in the benchmark   |

#![expect(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "whatever goes wrong ends the benchmark with a message"
)]

mod contender;
mod ends;
mod loops;
mod queue;
mod vm;

pub use contender::{Contender, Pair, Plain};
pub use ends::{Ends, Random, memory_file, noise};
pub use loops::{At, Type, Work, run};
pub use queue::run_virtio_queue;
pub use vm::run_vm_memory;
