//! `Bytes<usize>` of a pinned slice.
//!
//! The operations that rings are accessed with attempt the access and are inlined whole. One that is stopped is done again by
//! the [`GuestSlice`](crate::GuestSlice), which does what can be done of it and says why not all. What the attempt may have
//! written is marked, as the second may write less.

use std::sync::atomic::Ordering;

use super::PinnedSlice;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::volatile_memory::Stop;
use crate::{AtomicAccess, Bytes, DataInit, ReadVolatile, WriteVolatile};

impl Bytes<usize> for PinnedSlice {
    type E = Error;

    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Error> {
        self.writable()?.write(buf, addr)
    }

    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Error> {
        self.readable()?.read(buf, addr)
    }

    fn write_slice(&self, buf: &[u8], addr: usize) -> Result<(), Error> {
        self.writable()?.write_slice(buf, addr)
    }

    fn read_slice(&self, buf: &mut [u8], addr: usize) -> Result<(), Error> {
        self.readable()?.read_slice(buf, addr)
    }

    #[inline(always)]
    fn write_obj<T: DataInit>(&self, val: T, addr: usize) -> Result<(), Error> {
        if !self.is_writable() {
            return write_obj_again(self, val, addr);
        }
        match self.bytes().try_write(val, addr) {
            Ok(()) => {
                self.wrote(addr, size_of::<T>());
                Ok(())
            }
            Err(stop) => write_obj_stopped(self, val, addr, stop),
        }
    }

    #[inline(always)]
    fn read_obj<T: DataInit>(&self, addr: usize) -> Result<T, Error> {
        if self.is_readable() {
            if let Ok(value) = self.bytes().try_read(addr) {
                return Ok(value);
            }
        }
        read_obj_stopped(self, addr)
    }

    fn fill(&self, byte: u8, len: usize, addr: usize) -> Result<(), Error> {
        self.writable()?.fill(byte, len, addr)
    }

    #[inline(always)]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Error> {
        if self.is_readable() {
            if let Ok(unit) = self.bytes().try_load(addr, order) {
                return Ok(T::from_unit(unit));
            }
        }
        load_stopped(self, addr, order)
    }

    #[inline(always)]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
        if self.is_writable() && self.bytes().try_store(val.to_unit(), addr, order).is_ok() {
            self.wrote(addr, size_of::<T>());
            return Ok(());
        }
        store_stopped(self, val, addr, order)
    }

    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: usize,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        if self.access() != Access::ReadWrite {
            return Err(Error::Unsupported);
        }
        self.writable()?.compare_exchange(current, new, addr, success, failure)
    }

    fn write_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<usize, Error> {
        self.writable()?.write_from(addr, src, count)
    }

    fn write_all_from<S: ReadVolatile>(&self, addr: usize, src: &mut S, count: usize) -> Result<(), Error> {
        self.writable()?.write_all_from(addr, src, count)
    }

    fn read_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<usize, Error> {
        self.readable()?.read_into(addr, dst, count)
    }

    fn read_all_into<D: WriteVolatile>(&self, addr: usize, dst: &mut D, count: usize) -> Result<(), Error> {
        self.readable()?.read_all_into(addr, dst, count)
    }
}

#[cold]
#[inline(never)]
fn write_obj_again<T: DataInit>(pinned: &PinnedSlice, val: T, addr: usize) -> Result<(), Error> {
    pinned.writable()?.write_obj(val, addr)
}

#[cold]
#[inline(never)]
fn write_obj_stopped<T: DataInit>(pinned: &PinnedSlice, val: T, addr: usize, stop: Stop) -> Result<(), Error> {
    pinned.wrote(addr, stop.reached(pinned.bytes(), addr, size_of::<T>()));
    write_obj_again(pinned, val, addr)
}

#[cold]
#[inline(never)]
fn read_obj_stopped<T: DataInit>(pinned: &PinnedSlice, addr: usize) -> Result<T, Error> {
    pinned.readable()?.read_obj(addr)
}

#[cold]
#[inline(never)]
fn load_stopped<T: AtomicAccess>(pinned: &PinnedSlice, addr: usize, order: Ordering) -> Result<T, Error> {
    pinned.readable()?.load(addr, order)
}

#[cold]
#[inline(never)]
fn store_stopped<T: AtomicAccess>(pinned: &PinnedSlice, val: T, addr: usize, order: Ordering) -> Result<(), Error> {
    pinned.writable()?.store(val, addr, order)
}
