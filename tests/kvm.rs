//! KVM's memory slots mirror a map, and what it notes of the guest's writes is marked as our own are.
//!
//! | module       | what it shows                                                                       |
//! |--------------|-------------------------------------------------------------------------------------|
//! | [`mirror`]   | slots come and go with regions, and their numbers are used again                    |
//! | [`refusals`] | what KVM cannot have leaves the map as it was                                       |
//! | [`kept`]     | a region is mapped as long as KVM may have it                                       |
//! | [`log`]      | the guest's writes are in each log, and what fails loses none                       |
//! | [`lost`]     | writes of a guest that runs are in one of the harvests, while memory comes and goes |
//!
//! Skipped where /dev/kvm does not open, or does not run a guest in real mode.

#![cfg(all(feature = "kvm", target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "kvm/ground.rs"]
mod ground;
#[path = "kvm/kept.rs"]
mod kept;
#[path = "kvm/log.rs"]
mod log;
#[path = "kvm/lost.rs"]
mod lost;
#[path = "kvm/mirror.rs"]
mod mirror;
#[path = "kvm/refusals.rs"]
mod refusals;
