#![expect(unsafe_code, reason = "a place that was checked when it was found is accessed without a check")]

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use super::PinnedSlice;
use crate::access::{self, Unit};
use crate::atomic::RegionMap;
use crate::dirty::Tracker;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{AtomicAccess, Bytes, DataInit, GuestAddress, IoAddress, IoMemory};

/// The place of one `T` in guest memory that was found once and stays, as a [`PinnedSlice`] does.
///
/// It was checked when it was found, so a load is a pointer's and a test, and a store has a look at the switch of dirty
/// tracking besides.
///
/// ```
/// use std::sync::atomic::Ordering;
///
/// use memory_model::buffers::PinnedRef;
/// use memory_model::io_memory::Access;
/// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress, Le16};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// let idx = PinnedRef::<Le16>::new(&mem, IoAddress(0x402), Access::ReadWrite)?;
/// idx.store(Le16::new(7), Ordering::Release)?;
/// assert_eq!(idx.load(Ordering::Acquire)?, 7);
/// assert_eq!(mem.read_obj::<u16>(GuestAddress(0x402))?, 7_u16.to_le());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PinnedRef<T> {
    /// # Invariant
    /// As long as a `T`; and if that is 1, 2, 4 or 8 bytes, it lies at a host address that is a multiple of that.
    bytes: PinnedSlice,
    /// Where its bytes are marked, if they have a tracker and may be written: one look says both. It is borrowed as they are.
    tracker: Option<&'static Tracker>,
    value: PhantomData<T>,
}

/// The same, to be read in any case.
fn with_reading(access: Access) -> Access {
    if access == Access::Read { access } else { Access::ReadWrite }
}

impl<T: DataInit> PinnedRef<T> {
    /// The `T` at an address of a device's, to be accessed so; one that is to be written is to be read, too.
    ///
    /// # Errors
    ///
    /// As for [`PinnedSlice::new`]. [`Error::Misaligned`] if it has 1, 2, 4 or 8 bytes and its host address is no multiple of
    /// that: an access would not be one of the machine's.
    pub fn new<I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>>(
        mem: &I,
        addr: IoAddress,
        access: Access,
    ) -> Result<Self, Error> {
        Self::of(PinnedSlice::new(mem, addr, size_of::<T>(), with_reading(access))?)
    }

    /// As [`new`](Self::new), at a guest-physical address.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn physical<M: RegionMap<Region: Send + Sync + 'static>>(
        mem: &M,
        addr: GuestAddress,
        access: Access,
    ) -> Result<Self, Error> {
        Self::of(PinnedSlice::physical(mem, addr, size_of::<T>(), with_reading(access))?)
    }

    /// The `T` that the bytes, which are as many, are the place of.
    pub(super) fn of(bytes: PinnedSlice) -> Result<Self, Error> {
        bytes.readable()?;
        let align = size_of::<T>();
        if matches!(align, 1 | 2 | 4 | 8) && bytes.slice.as_ptr().addr().checked_rem(align) != Some(0) {
            return Err(Error::Misaligned { addr: bytes.addr(), align });
        }
        let tracker = bytes.slice.tracker().filter(|_| bytes.access != Access::Read);
        Ok(Self { bytes, tracker, value: PhantomData })
    }

    /// Its bytes.
    #[inline]
    pub fn as_pinned_slice(&self) -> &PinnedSlice {
        &self.bytes
    }

    /// The guest-physical address of the first byte.
    #[inline]
    pub fn addr(&self) -> GuestAddress {
        self.bytes.addr()
    }

    /// The number of the map that it was found in: see [`PinnedSlice::generation`].
    #[inline]
    pub fn generation(&self) -> Option<u64> {
        self.bytes.generation()
    }

    /// Whether `mem` has the value there for certain: see [`PinnedSlice::is_current`].
    #[inline(always)]
    pub fn is_current<I: IoMemory>(&self, mem: &I) -> bool {
        self.bytes.is_current(mem)
    }

    /// Reads the value: one access if it has 1, 2, 4 or 8 bytes, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`].
    #[inline(always)]
    pub fn read(&self) -> Result<T, Error> {
        // SAFETY: the slice has the bytes of a `T` (invariant); they are there as long as `self.bytes` is (its invariant 1),
        // and so the slice keeps what `access` asks for.
        match unsafe { access::read(self.bytes.slice.as_ptr()) } {
            Ok(value) => Ok(value),
            Err(_) => self.read_again(),
        }
    }

    /// Writes the value: one access if it has 1, 2, 4 or 8 bytes, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], or [`Error::ReadOnly`] if the region has become so: the bytes before it are written.
    /// [`Error::Unsupported`] if it is only to be read.
    #[inline(always)]
    pub fn write(&self, value: T) -> Result<(), Error> {
        if let Some(tracker) = self.tracker.filter(|_| self.bytes.is_left_to_hardware()) {
            // SAFETY: as in `read`.
            return match unsafe { access::attempt_write(self.bytes.slice.as_ptr(), value) } {
                Ok(()) => {
                    self.wrote(tracker);
                    Ok(())
                }
                Err(fault) => self.write_stopped(value, fault),
            };
        }
        self.write_again(value)
    }

    /// Marks what was written.
    #[inline(always)]
    fn wrote(&self, tracker: &Tracker) {
        if tracker.is_on() {
            self.mark();
        }
    }

    #[cold]
    #[inline(never)]
    fn mark(&self) {
        self.bytes.wrote(0, size_of::<T>());
    }

    /// What [`read`](Self::read) answers that was stopped: the page may be there again.
    #[cold]
    #[inline(never)]
    fn read_again(&self) -> Result<T, Error> {
        self.bytes.readable()?.read_obj(0)
    }

    /// As [`write_again`](Self::write_again), after an attempt. What that may have written is marked, also where nothing is
    /// written now.
    #[cold]
    #[inline(never)]
    fn write_stopped(&self, value: T, fault: access::Fault) -> Result<(), Error> {
        self.bytes.wrote(0, fault.reached(self.bytes.slice.as_ptr(), size_of::<T>()));
        self.write_again(value)
    }

    #[cold]
    #[inline(never)]
    fn write_again(&self, value: T) -> Result<(), Error> {
        self.bytes.writable()?.write_obj(value, 0)
    }
}

impl<T: AtomicAccess> PinnedRef<T> {
    /// Loads the value in one access.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`].
    #[inline(always)]
    pub fn load(&self, order: Ordering) -> Result<T, Error> {
        // SAFETY: as in `read`; and the unit, which is as long as the `T`, is aligned (invariant).
        match unsafe { T::Unit::load(self.bytes.slice.as_ptr().cast(), order) } {
            Ok(unit) => Ok(T::from_unit(unit)),
            Err(_) => self.load_again(order),
        }
    }

    /// Stores the value in one access.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], or [`Error::ReadOnly`] if the region has become so; [`Error::Unsupported`] if it is only to be read.
    #[inline(always)]
    pub fn store(&self, value: T, order: Ordering) -> Result<(), Error> {
        if let Some(tracker) = self.tracker.filter(|_| self.bytes.is_left_to_hardware()) {
            // SAFETY: as in `load`.
            if unsafe { T::Unit::store(self.bytes.slice.as_ptr().cast(), value.to_unit(), order) }.is_ok() {
                self.wrote(tracker);
                return Ok(());
            }
        }
        self.store_again(value, order)
    }

    /// Stores `new` if the value equals `current`, in one access; answers what was there, as `Ok` if it was stored.
    ///
    /// # Errors
    ///
    /// As for [`store`](Self::store).
    #[inline]
    pub fn compare_exchange(
        &self,
        current: T,
        new: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Error> {
        self.bytes.compare_exchange(current, new, 0, success, failure)
    }

    #[cold]
    #[inline(never)]
    fn load_again(&self, order: Ordering) -> Result<T, Error> {
        self.bytes.readable()?.load(0, order)
    }

    #[cold]
    #[inline(never)]
    fn store_again(&self, value: T, order: Ordering) -> Result<(), Error> {
        self.bytes.writable()?.store(value, 0, order)
    }
}
