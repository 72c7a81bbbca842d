//! How buffers are made of addresses.

use super::GuestBuffers;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{GuestAddress, GuestMemory, GuestSlice, IoAddress, IoMemory};

impl<'a> GuestBuffers<'a> {
    /// The bytes at addresses of a device's, each with its length in bytes. Ranges may cross from region to region, where
    /// these touch; one of no bytes is nowhere.
    ///
    /// Costs a lookup for each range, and for each region in it.
    ///
    /// # Errors
    ///
    /// That of the first byte that is not there, or may not be accessed so: as for [`IoMemory::io_slices`], and
    /// [`Error::ReadOnly`]. [`Error::PartialBuffer`] if there are more bytes than `isize::MAX`.
    pub fn new<I: IoMemory>(
        mem: &'a I,
        ranges: impl IntoIterator<Item = (IoAddress, usize)>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut buffers = Self::empty(access);
        for (addr, len) in ranges {
            for slice in mem.io_slices(addr, len, access) {
                buffers.push_checked(slice?)?;
            }
        }
        Ok(buffers)
    }

    /// As [`new`](Self::new), of guest-physical addresses.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn physical<M: GuestMemory>(
        mem: &'a M,
        ranges: impl IntoIterator<Item = (GuestAddress, usize)>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut buffers = Self::empty(access);
        for (addr, len) in ranges {
            for slice in mem.get_slices(addr, len) {
                buffers.push_checked(slice?)?;
            }
        }
        Ok(buffers)
    }

    /// Appends bytes, if they may be accessed so.
    pub(super) fn push_checked(&mut self, slice: GuestSlice<'a>) -> Result<(), Error> {
        if self.is_written() && slice.is_read_only() {
            return Err(Error::ReadOnly { addr: slice.addr(), completed: 0 });
        }
        self.push(slice)
    }
}
