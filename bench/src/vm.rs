//! vm-memory, without dirty tracking, as a contender.

use std::fs::File;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::{At, Contender, Ends, Plain, Work, run};

/// Does `work` once at each address.
///
/// How well the compiler does on vm-memory depends on which of its generic functions are compiled together:
/// `read_obj::<u64>` of one region took 14, 19 or 57 ns. So they are compiled here, in a crate that has nothing else
/// in it and is divided as suits them best (`profile.bench.package.bench` in the workspace's manifest), whatever
/// becomes of memory-model. Fat LTO compiles the whole program together, and gets 57; in a program that does nothing
/// else it gets 16.
#[inline(never)]
pub fn run_vm_memory(memory: &GuestMemoryMmap, work: Work, addrs: &[At], ends: &mut Ends) -> u64 {
    run(memory, work, addrs, ends)
}

impl Contender for GuestMemoryMmap {
    type E = GuestMemoryError;

    #[inline(always)]
    fn read_obj<T: Plain>(&self, addr: u64) -> Result<T, Self::E> {
        Bytes::read_obj(self, GuestAddress(addr))
    }

    #[inline(always)]
    fn write_obj<T: Plain>(&self, val: T, addr: u64) -> Result<(), Self::E> {
        Bytes::write_obj(self, val, GuestAddress(addr))
    }

    #[inline(always)]
    fn load(&self, addr: u64) -> Result<u16, Self::E> {
        Bytes::load(self, GuestAddress(addr), Ordering::Acquire)
    }

    #[inline(always)]
    fn store(&self, val: u16, addr: u64) -> Result<(), Self::E> {
        Bytes::store(self, val, GuestAddress(addr), Ordering::Release)
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: u64) -> Result<(), Self::E> {
        Bytes::read_slice(self, buf, GuestAddress(addr))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: u64) -> Result<(), Self::E> {
        Bytes::write_slice(self, buf, GuestAddress(addr))
    }

    #[inline(always)]
    fn write_from(&self, addr: u64, mut src: &File, count: usize) -> Result<usize, Self::E> {
        self.read_volatile_from(GuestAddress(addr), &mut src, count)
    }
}
