#![expect(unsafe_code, reason = "reserves and releases host addresses")]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::{Error, Step};

/// How often other threads may be faster, until that is an error.
const ATTEMPTS: usize = 1000;

/// Host addresses that are this value's own, and are released when it is dropped with whatever is mapped there.
pub(super) struct Place {
    /// # Invariant
    /// `len` bytes from `start`, whole pages, are mappings that belong to nobody else.
    start: NonNull<u8>,
    len: usize,
}

/// Where memory is to lie.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// The length, in whole pages.
    pub(super) len: usize,
    /// A power of two, of at least a page.
    pub(super) alignment: usize,
    /// The address modulo the alignment, in whole pages.
    pub(super) phase: usize,
    /// The length of each of the two guards, in whole pages; or 0.
    pub(super) guard: usize,
}

impl Place {
    /// Maps memory between guards with `map`, which is given its address and must replace nothing that is there; and
    /// answers that address. `size` is what an error says that was to be mapped.
    ///
    /// The addresses are reserved, and released again where the memory is to lie. It cannot just replace the reservation:
    /// where a mapping fails, after the kernel has made room for it (as of hugetlb pages that are too few), there may be
    /// nothing at these addresses, or already another thread's mapping, which would then be unmapped as ours.
    pub(super) fn map(
        wanted: Wanted,
        page_size: usize,
        size: usize,
        map: impl Fn(NonNull<u8>) -> Result<*mut c_void, Errno>,
    ) -> Result<(Self, NonNull<u8>), Error> {
        let refused = |errno: Errno| Error::Refused { step: Step::Map, size, source: errno.into() };
        for _ in 0..ATTEMPTS {
            let (place, start) = Self::reserve(wanted, page_size)?;
            let guards = place.open(start, wanted).map_err(refused)?;
            match map(start) {
                Ok(mapped) if mapped == start.as_ptr().cast() => {
                    let [below, above] = guards.map(ManuallyDrop::new);
                    return Ok((Self { start: below.start, len: below.len + wanted.len + above.len }, start));
                }
                // Linux before 4.17 takes the address for a wish.
                // SAFETY: mapped just now, and of no use to anybody.
                Ok(elsewhere) => unsafe { release(elsewhere.cast(), wanted.len) },
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(refused(errno)),
            }
        }
        Err(refused(Errno::EXIST))
    }

    /// Reserves addresses without access, and answers where the memory between the guards begins.
    fn reserve(wanted: Wanted, page_size: usize) -> Result<(Self, NonNull<u8>), Error> {
        let Wanted { len, alignment, phase, guard } = wanted;
        let too_large = Error::TooLarge { size: len };
        let slack = alignment.saturating_sub(page_size);
        let Some(outer) = guard.checked_mul(2).and_then(|guards| len.checked_add(guards)) else {
            return Err(too_large);
        };
        let Some(all) = outer.checked_add(slack) else { return Err(too_large) };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: at an address of the kernel's choice, so no other mapping is replaced.
        let mapped = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), all, ProtFlags::empty(), flags) };
        let mapped = mapped.map_err(|errno| Error::Refused { step: Step::Reserve, size: all, source: errno.into() })?;
        // The kernel maps nothing at address 0 unless asked to; rustix has made MAP_FAILED an error.
        let Some(base) = NonNull::new(mapped.cast::<u8>()) else { return Err(too_large) };
        let mut place = Self { start: base, len: all };
        // How far the first address behind the lower guard is below one as wanted: whole pages, fewer than an alignment's.
        let behind_guard = base.as_ptr().addr().wrapping_add(guard);
        let below = phase.wrapping_sub(behind_guard) & (alignment - 1);
        place.trim(below, outer);
        let start = place.start.as_ptr().wrapping_add(guard);
        Ok((place, NonNull::new(start).ok_or(too_large)?))
    }

    /// Releases what is between the guards, and answers these.
    fn open(self, start: NonNull<u8>, wanted: Wanted) -> Result<[Self; 2], Errno> {
        let Wanted { len, guard, .. } = wanted;
        let Some(end) = NonNull::new(start.as_ptr().wrapping_add(len)) else { return Err(Errno::NOMEM) };
        // SAFETY: between the guards, which is this value's own (invariant), and where nothing has been mapped yet.
        unsafe { rustix::mm::munmap(start.as_ptr().cast(), len) }?;
        let below = ManuallyDrop::new(self).start;
        Ok([Self { start: below, len: guard }, Self { start: end, len: guard }])
    }

    /// Releases all but `len` bytes from `below` on.
    fn trim(&mut self, below: usize, len: usize) {
        let start = self.start.as_ptr().wrapping_add(below);
        let above = self.len.saturating_sub(below).saturating_sub(len);
        // SAFETY: `below` and `above` bytes are the two ends of what is this value's own (invariant), where nothing has
        // been mapped yet.
        unsafe { release(self.start.as_ptr(), below) };
        // SAFETY: as above.
        unsafe { release(start.wrapping_add(len), above) };
        if let Some(start) = NonNull::new(start) {
            (self.start, self.len) = (start, len);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the addresses are this value's own (invariant); whoever keeps it has no slice of them left.
        unsafe { release(self.start.as_ptr(), self.len) };
    }
}

/// # Safety
///
/// The `len` bytes, whole pages, are nobody's any more.
unsafe fn release(start: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: the caller vouches for it.
        let released = unsafe { rustix::mm::munmap(start.cast(), len) };
        debug_assert!(released.is_ok(), "munmap of addresses of our own failed: {released:?}");
    }
}
