//! Parts of a region unplugged and plugged again: what accesses say, what the kernel has left, and who hears of it.
//!
//! | module        | what it shows                                                                        |
//! |---------------|--------------------------------------------------------------------------------------|
//! | [`every`]     | every operation, through all that wraps memory, at and beside what is unplugged      |
//! | [`pages`]     | pages are freed, read as zero again, and are marked; whatever the memory is made of   |
//! | [`others`]    | what else is done to a region: protection, discard, prefault, its table, its usage   |
//! | [`errors`]    | whatever a guest chooses as a range; and memory whose faults would end the process   |
//! | [`refused`]   | system calls that fail                                                               |
//! | [`hugetlb`]   | pages of the hugetlb pool                                                            |
//! | [`random`]    | many calls against a model                                                           |
//! | [`listeners`] | order, refusal, roll-back, and that only what changes is told                        |
//! | [`failing`]   | regions and listeners that fail while it is undone                                    |
//! | [`threads`]   | accesses on several threads meanwhile                                                |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "making/child.rs"]
#[expect(dead_code, reason = "no child ends by a signal here")]
mod child;
#[path = "plug/errors.rs"]
mod errors;
#[path = "plug/every.rs"]
mod every;
#[path = "plug/failing.rs"]
mod failing;
#[path = "plug/ground.rs"]
mod ground;
#[path = "plug/hugetlb.rs"]
mod hugetlb;
#[path = "plug/listeners.rs"]
mod listeners;
#[path = "marks/mod.rs"]
mod marks;
#[path = "plug/others.rs"]
mod others;
#[path = "plug/pages.rs"]
mod pages;
#[path = "plug/random.rs"]
mod random;
#[path = "plug/raw.rs"]
mod raw;
#[path = "plug/refused.rs"]
mod refused;
#[cfg(target_pointer_width = "64")]
#[path = "making/seccomp.rs"]
mod seccomp;
#[path = "plug/threads.rs"]
mod threads;
