//! How buffers are made of addresses.

use super::GuestBuffers;
use crate::guest_memory::Error;
use crate::io_memory::{Access, fragments};
use crate::{GuestAddress, GuestMemory, GuestMemoryRegion, GuestSlice, IoAddress, IoMemory};

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
    #[inline(always)]
    pub fn new<I: IoMemory>(
        mem: &'a I,
        ranges: impl IntoIterator<Item = (IoAddress, usize)>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut buffers = Self::empty(access);
        buffers.extend(mem, ranges)?;
        Ok(buffers)
    }

    /// Appends the bytes at addresses of a device's, as [`new`](Self::new) finds them.
    ///
    /// Whoever makes buffers where they are used, [empty](Self::empty) ones, saves copies of them: they are large.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). The bytes before are appended.
    #[inline]
    pub fn extend<I: IoMemory>(
        &mut self,
        mem: &'a I,
        ranges: impl IntoIterator<Item = (IoAddress, usize)>,
    ) -> Result<(), Error> {
        for (addr, len) in ranges {
            for fragment in fragments(mem, addr, len, self.access()) {
                let fragment = fragment?;
                self.push_physical(mem.physical(), fragment.addr, fragment.len)?;
            }
        }
        Ok(())
    }

    /// As [`new`](Self::new), of guest-physical addresses.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub fn physical<M: GuestMemory>(
        mem: &'a M,
        ranges: impl IntoIterator<Item = (GuestAddress, usize)>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut buffers = Self::empty(access);
        for (addr, len) in ranges {
            buffers.push_physical(mem, addr, len)?;
        }
        Ok(buffers)
    }

    /// Appends guest-physical memory, if it may be accessed so.
    #[inline(always)]
    fn push_physical<M: GuestMemory>(&mut self, mem: &'a M, addr: GuestAddress, len: usize) -> Result<(), Error> {
        // All of it is in one region nearly always, and in the likeliest.
        match mem.guess_region_addr(addr).and_then(|(region, offset)| region.find_slice(offset, len)) {
            Some(slice) if slice.len() == len => self.push_checked(slice),
            _ => self.push_pieces(mem, addr, len),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_pieces<M: GuestMemory>(&mut self, mem: &'a M, addr: GuestAddress, len: usize) -> Result<(), Error> {
        mem.get_slices(addr, len).try_for_each(|slice| self.push_checked(slice?))
    }

    /// Appends bytes, if they may be accessed so.
    #[inline(always)]
    pub(super) fn push_checked(&mut self, slice: GuestSlice<'a>) -> Result<(), Error> {
        if self.is_written() && slice.is_read_only() {
            return Err(Error::ReadOnly { addr: slice.addr(), completed: 0 });
        }
        self.push(slice)
    }
}
