//! memory-model as a contender.

use std::fs::File;
use std::sync::atomic::Ordering;

use contenders::{Contender, Plain};
use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};

/// Adds nothing: the trait is another crate's, as is the type.
pub(crate) struct MemoryModel(pub(crate) GuestMemoryMmap);

impl Contender for MemoryModel {
    type E = Error;

    #[inline(always)]
    fn read_obj<T: Plain>(&self, addr: u64) -> Result<T, Error> {
        self.0.read_obj(GuestAddress(addr))
    }

    #[inline(always)]
    fn write_obj<T: Plain>(&self, val: T, addr: u64) -> Result<(), Error> {
        self.0.write_obj(val, GuestAddress(addr))
    }

    #[inline(always)]
    fn load(&self, addr: u64) -> Result<u16, Error> {
        self.0.load(GuestAddress(addr), Ordering::Acquire)
    }

    #[inline(always)]
    fn store(&self, val: u16, addr: u64) -> Result<(), Error> {
        self.0.store(val, GuestAddress(addr), Ordering::Release)
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: u64) -> Result<(), Error> {
        self.0.read_slice(buf, GuestAddress(addr))
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: u64) -> Result<(), Error> {
        self.0.write_slice(buf, GuestAddress(addr))
    }

    #[inline(always)]
    fn write_from(&self, addr: u64, mut src: &File, count: usize) -> Result<usize, Error> {
        self.0.write_from(GuestAddress(addr), &mut src, count)
    }
}
