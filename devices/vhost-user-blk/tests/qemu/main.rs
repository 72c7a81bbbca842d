//! A real QEMU, and a guest with a real kernel that uses our disk.
//!
//! | module        | what it shows                                                                                  |
//! |---------------|------------------------------------------------------------------------------------------------|
//! | [`boot`]      | a file system that the guest mounts, fills and leaves: nothing is lost                         |
//! | [`hotplug`]   | memory that is plugged in while the disk is used, holds the disk's data, and is pulled out     |
//! | [`migration`] | a guest that moves to another QEMU while it reads: nothing is lost, and all without a log      |
//! | [`restart`]   | the daemon killed under load, or ended, and started again: the guest goes on                   |
//! | [`harness`]   | nothing: how the others start QEMU, and tell a guest what to do                                |
//!
//! They are skipped where there is no `qemu-system-x86_64` in `PATH`, or no kernel (`MEMORY_MODEL_KERNEL`); `scripts/qemu.sh`
//! gets both. `MEMORY_MODEL_QEMU=require` makes it a failure, and `MEMORY_MODEL_QEMU=skip` skips them anyway.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests, which are to stop where they fail")]

mod boot;
#[expect(dead_code, reason = "shared with a benchmark, which needs the processes' numbers")]
mod harness;
mod hotplug;
mod migration;
mod restart;
