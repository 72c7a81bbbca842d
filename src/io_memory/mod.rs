//! Memory as a device sees it.
//!
//! A device puts [`IoAddress`]es on the bus. Without an IOMMU they are guest-physical addresses, and every
//! [`GuestMemory`] answers them one to one, at no cost. Behind an IOMMU they are translated first, and the device does
//! not notice: it is written once, against [`IoMemory`].
//!
//! ```
//! use memory_model::{Bytes, IoAddress, IoMemory};
//!
//! /// A device that knows nothing of mappings, regions or translation.
//! fn count_bytes<I: IoMemory>(mem: &I, table: IoAddress) -> Result<u64, memory_model::guest_memory::Error> {
//!     mem.read_obj::<u64>(table)
//! }
//! # use memory_model::{GuestAddress, GuestMemoryMmap};
//! # let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
//! # assert_eq!(count_bytes(&mem, IoAddress(8))?, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The two kinds of address do not mix:
//!
//! ```compile_fail,E0308
//! use memory_model::{Bytes, GuestAddress, IoMemory, guest_memory};
//!
//! fn device<I: IoMemory>(mem: &I, addr: GuestAddress) -> Result<u64, guest_memory::Error> {
//!     mem.read_obj::<u64>(addr) // expected `IoAddress`, found `GuestAddress`
//! }
//! ```

use crate::bytes::forward_bytes;
use crate::guest_memory::{self, address, wrong_length};
use crate::{Bytes, GuestAddress, GuestMemory, GuestSlice};

address! {
    /// What a device puts on the bus: an IOVA, or a guest-physical address where there is no IOMMU.
    IoAddress
}

/// What a device is about to do with memory. An IOMMU may allow one and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read it: the driver's buffer is device-readable.
    Read,
    /// Write it: the driver's buffer is device-writable.
    Write,
    /// Read and write it, as an atomic update does.
    ReadWrite,
}

/// A part of a translated range: contiguous in guest-physical memory, as far as the translation knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The guest-physical address of its first byte.
    pub addr: GuestAddress,
    /// Its length in bytes.
    pub len: usize,
}

/// Memory as a device sees it: read and written by [`IoAddress`].
///
/// A device takes `&I`, or holds a `D: Deref<Target = I>`, and names no other bound.
pub trait IoMemory: Bytes<IoAddress, E = guest_memory::Error> {
    /// The guest-physical memory behind it.
    type Physical: GuestMemory;

    /// The guest-physical memory behind it.
    fn physical(&self) -> &Self::Physical;

    /// A number that this memory alone has in this process, with the translations that it has now: what was found by one that
    /// answers the same holds. `None` if it cannot say.
    ///
    /// Provided is that of [`physical`](Self::physical). That is right where addresses are always translated in the same way;
    /// an IOMMU must answer [another](guest_memory::new_generation) as soon as a translation, or a permission, is not what it
    /// was, and when the physical memory has changed.
    #[inline]
    fn io_generation(&self) -> Option<u64> {
        self.physical().generation()
    }

    /// Where the `len` bytes at `addr` lie in guest-physical memory, in order; nothing for no bytes, for which it is not called.
    /// The first error is the last item. Whether there is memory at a fragment's address shows when it is accessed.
    ///
    /// No fragment is empty, and together they have `len` bytes: else the access that uses the translation fails with
    /// [`PartialBuffer`](guest_memory::Error::PartialBuffer) or [`Overrun`](guest_memory::Error::Overrun).
    fn translate(
        &self,
        addr: IoAddress,
        len: usize,
        access: Access,
    ) -> impl Iterator<Item = Result<Fragment, guest_memory::Error>>;

    /// The `len` bytes at `addr` as slices of host memory, in order; nothing for no bytes. The first error is the last
    /// item: of the translation, or as for [`GuestMemory::get_slices`].
    fn io_slices(
        &self,
        addr: IoAddress,
        len: usize,
        access: Access,
    ) -> impl Iterator<Item = Result<GuestSlice<'_>, guest_memory::Error>> {
        let mut failed = false;
        fragments(self, addr, len, access)
            .flat_map(|fragment| {
                let (slices, error) = match fragment {
                    Ok(Fragment { addr, len }) => (Some(self.physical().get_slices(addr, len)), None),
                    Err(error) => (None, Some(Err(error))),
                };
                slices.into_iter().flatten().chain(error)
            })
            .take_while(move |item| !core::mem::replace(&mut failed, item.is_err()))
    }
}

/// Returns the fragments of a translation, checked. None is empty, and together they have `len` bytes; else the last item is an
/// error. So this ends also if the translation does not.
#[inline]
pub(crate) fn fragments<I: IoMemory + ?Sized>(
    mem: &I,
    addr: IoAddress,
    len: usize,
    access: Access,
) -> impl Iterator<Item = Result<Fragment, guest_memory::Error>> {
    let mut translation = (len > 0).then(|| mem.translate(addr, len, access));
    let mut completed: usize = 0;
    core::iter::from_fn(move || {
        let checked = match translation.as_mut()?.next() {
            None if completed == len => None,
            None => Some(Err(wrong_length(len, completed))),
            Some(Ok(fragment)) => {
                completed = completed.saturating_add(fragment.len);
                let is_right = fragment.len > 0 && completed <= len;
                Some(if is_right { Ok(fragment) } else { Err(wrong_length(len, completed)) })
            }
            Some(error) => Some(error),
        };
        if !matches!(checked, Some(Ok(_))) {
            translation = None;
        }
        checked
    })
}

forward_bytes! {
    impl [M: GuestMemory + ?Sized] Bytes<IoAddress> for M {
        |self, addr| *self, GuestAddress(addr.0);
        |error| error
    }
}

impl<M: GuestMemory> IoMemory for M {
    type Physical = M;

    #[inline]
    fn physical(&self) -> &M {
        self
    }

    fn translate(
        &self,
        addr: IoAddress,
        len: usize,
        _access: Access,
    ) -> impl Iterator<Item = Result<Fragment, guest_memory::Error>> {
        (len > 0).then_some(Ok(Fragment { addr: GuestAddress(addr.0), len })).into_iter()
    }
}
