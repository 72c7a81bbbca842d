//! Views of guest memory that were found once and stay: what they keep, what they mark, and what they answer.
//!
//! | module          | what it shows                                                                         |
//! |-----------------|---------------------------------------------------------------------------------------|
//! | [`finding`]     | which bytes can be pinned, and the errors of those that cannot; generations           |
//! | [`every`]       | every operation does, answers and marks what the same slice does that is looked up    |
//! | [`keeping`]     | what a view keeps, in this thread and others, while the map changes                   |
//! | [`values`]      | values that are checked when they are pinned: accesses, faults, marks                 |
//! | [`allocations`] | none, neither of a view nor of a queue whose rings are pinned                         |

#![cfg(all(feature = "mmap", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]
#![expect(clippy::cast_possible_truncation, reason = "numbers that the tests choose, and bytes of them")]

#[path = "pinned/allocations.rs"]
mod allocations;
#[path = "pinned/every.rs"]
mod every;
#[path = "pinned/finding.rs"]
mod finding;
#[path = "pinned/ground.rs"]
mod ground;
#[path = "pinned/keeping.rs"]
mod keeping;
#[path = "marks/mod.rs"]
mod marks;
#[path = "pinned/values.rs"]
mod values;
