//! Accesses of guest memory in a crate outside the library, as a device's: inlined from there into here, and from here into
//! whoever calls them.
//!
//! Each has its entry in the recovery table where it was inlined, as long as the linker keeps it: `tests/links.rs` links the
//! program of this crate in several ways, and runs it.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, DataInit, GuestAddress, GuestMemory, GuestMemoryMmap, IoAddress, IoMemory, Le16, Le64};

/// Reads a value: generic, so that its code is in the caller's crate.
///
/// # Errors
///
/// As the memory's.
#[inline]
pub fn read<T: DataInit, M: GuestMemory>(mem: &M, addr: GuestAddress) -> Result<T, Error> {
    mem.read_obj(addr)
}

/// Writes a value and reads it again.
///
/// # Errors
///
/// As the memory's.
#[inline]
pub fn exchange<T: DataInit, M: GuestMemory>(mem: &M, value: T, addr: GuestAddress) -> Result<T, Error> {
    mem.write_obj(value, addr)?;
    mem.read_obj(addr)
}

/// Loads an index that a guest moves, as a device does.
///
/// # Errors
///
/// As the memory's.
#[inline]
pub fn index<I: IoMemory>(mem: &I, addr: IoAddress) -> Result<u16, Error> {
    mem.load::<Le16>(addr, Ordering::Acquire).map(Le16::to_native)
}

/// Adds up values, one access each: not generic, so that its code is in this crate.
///
/// # Errors
///
/// As the memory's.
#[inline(never)]
pub fn sum(mem: &GuestMemoryMmap, addr: GuestAddress, count: u64) -> Result<u64, Error> {
    let values = (0..count).map(|number| mem.read_obj::<Le64>(GuestAddress(addr.0 + 8 * number)));
    values.map(|value| value.map(Le64::to_native)).sum()
}

/// Fills all of a buffer of the caller's.
///
/// # Errors
///
/// As the memory's.
#[inline(never)]
pub fn fetch(mem: &GuestMemoryMmap, buf: &mut [u8], addr: GuestAddress) -> Result<(), Error> {
    mem.read_slice(buf, addr)
}
