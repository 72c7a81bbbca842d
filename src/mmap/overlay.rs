//! Anonymous memory in place of pages of a privately mapped file.

#![expect(unsafe_code, reason = "maps zeros over pages that were discarded")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MlockFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::build::{refused, shape_pages};
use super::place::{Place, Wanted};
use super::ranges::Ranges;
use super::{Error, Lock, MmapRegion, MmapRegionBuilder, Step};
use crate::stream::Changes;

/// Maximum number of ranges that [`MmapRegion::discard`] maps anew, of all mappings of this process together. Each needs
/// up to two more of the `vm.max_map_count` mappings (65,530 by default) that a process may have.
const MAX_RANGES: usize = 8192;

/// Number of ranges that are mapped anew.
static RANGES: AtomicUsize = AtomicUsize::new(0);

/// Access that the spare memory has, except for a part that is about to be moved.
const READ_WRITE: MprotectFlags = MprotectFlags::READ.union(MprotectFlags::WRITE);

/// Parts of a private file mapping that are anonymous memory now.
///
/// The kernel has one mapping for all adjacent parts, in whatever order they came and whether they were touched: all are
/// moved out of one spare mapping, which gives them one `anon_vma` and consecutive page offsets. So the number of ranges
/// in `covered` is the number of mappings.
pub(super) struct Overlay {
    /// What the file was mapped with: the policies of the memory in its place.
    options: MmapRegionBuilder,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Offsets of whole pages.
    covered: Ranges,
    spare: Option<Spare>,
}

impl Overlay {
    pub(super) fn new(options: &MmapRegionBuilder) -> Self {
        Self { options: options.clone(), state: Mutex::default() }
    }

    /// Excludes other changes of the mapping's pages.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        RANGES.fetch_sub(self.lock().covered.count(), Ordering::Relaxed);
    }
}

impl MmapRegion {
    /// Replaces the file by zeros in whole pages that have no private copy: by anonymous memory, or by private copies
    /// that are filled where there is none. `closed` pages are those that nobody may access. They are mappings of their
    /// own already, and [`MAX_RANGES`] does not apply. What is mapped anew is locked as it is touched, unless `lock` is none.
    pub(super) fn hide_file(&self, pages: Range<usize>, closed: bool, lock: Lock) -> Result<(), Error> {
        let Some(overlay) = &self.overlay else { return self.write_zeros(&pages, closed) };
        let mut state = overlay.lock();
        let parts: Vec<_> = state.covered.outside(pages).collect();
        // All parts are hidden, also after one could not be locked.
        let mut locked = Ok(());
        for part in parts {
            let grows = !state.covered.touches(&part);
            if grows && !take_range(closed) {
                self.write_zeros(&part, closed)?;
                continue;
            }
            let access = if closed { MprotectFlags::empty() } else { self.protection().flags() };
            if state.cover(self, &overlay.options, &part, access).is_ok() {
                locked = locked.and(self.lock_again(&part, lock));
            } else {
                RANGES.fetch_sub(usize::from(grows), Ordering::Relaxed);
                self.write_zeros(&part, closed)?;
            }
        }
        locked
    }

    fn write_zeros(&self, pages: &Range<usize>, closed: bool) -> Result<(), Error> {
        if !closed {
            return self.fill(pages);
        }
        self.set_access(pages, READ_WRITE)?;
        let filled = self.fill(pages);
        self.set_access(pages, MprotectFlags::empty())?;
        filled
    }

    /// Fills pages with zeros. Each becomes a private copy.
    fn fill(&self, pages: &Range<usize>) -> Result<(), Error> {
        let failed = |_| refused(Step::Zero, pages.len(), Errno::FAULT);
        // Of its last page the mapping may have a part only.
        let len = pages.end.min(self.size).saturating_sub(pages.start);
        let bytes = self.as_slice().subslice(pages.start, len).map_err(failed)?;
        bytes.fill_all(0).map_err(failed)
    }

    /// Locks pages as they are touched, where those before them were locked.
    fn lock_again(&self, part: &Range<usize>, lock: Lock) -> Result<(), Error> {
        if lock == Lock::None {
            return Ok(());
        }
        let start = self.start.as_ptr().wrapping_add(part.start).cast();
        // SAFETY: whether pages are locked changes no byte of them.
        let locked = unsafe { rustix::mm::mlock_with(start, part.len(), MlockFlags::ONFAULT) };
        locked.map_err(|errno| refused(Step::Lock, part.len(), errno))
    }
}

/// Counts one more range, if there may be one.
fn take_range(beyond_limit: bool) -> bool {
    let more = |ranges: usize| (beyond_limit || ranges < MAX_RANGES).then_some(ranges.saturating_add(1));
    RANGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl State {
    /// Moves spare memory over a part that shows the file.
    fn cover(
        &mut self,
        region: &MmapRegion,
        options: &MmapRegionBuilder,
        part: &Range<usize>,
        access: MprotectFlags,
    ) -> Result<(), Error> {
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => Spare::map(options, region)?,
        };
        let to = region.start.as_ptr().wrapping_add(part.start);
        // Access first, so that the part never has more or less than it should.
        let protected = if access == READ_WRITE { Ok(()) } else { spare.protect(part, access) };
        if protected.is_err() {
            // Nothing has changed. Other spare memory would have another `anon_vma`.
            self.spare = Some(spare);
            return protected;
        }
        let moved = Changes::make(|| spare.move_to(part, to, access));
        // Spare memory whose access cannot be set back is given up: it is unmapped here.
        if access == READ_WRITE || spare.protect(part, READ_WRITE).is_ok() {
            self.spare = Some(spare);
        }
        moved?;
        // Bridging a gap makes one range of two.
        let before = self.covered.count();
        self.covered.insert(part.clone());
        RANGES.fetch_sub(before.saturating_sub(self.covered.count()), Ordering::Relaxed);
        Ok(())
    }
}

/// Anonymous memory as large as a file mapping, without a page, with the file mapping's policies.
struct Spare {
    /// # Invariant
    /// As many bytes from here as the file mapping has, and a page, are in `place`, and nobody else has their address.
    start: NonNull<u8>,
    _place: Place,
}

impl Spare {
    fn map(options: &MmapRegionBuilder, region: &MmapRegion) -> Result<Self, Error> {
        let page = rustix::param::page_size();
        let len = region.size.checked_next_multiple_of(page).and_then(|len| len.checked_add(page));
        let len = len.ok_or(Error::TooLarge { size: region.size })?;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        let flags = if options.reserve.unwrap_or(false) { flags } else { flags | MapFlags::NORESERVE };
        let wanted = Wanted { len, alignment: page, phase: 0, guard: page };
        let (place, start) = Place::map(wanted, page, len, |start| {
            // SAFETY: a new mapping, which replaces none.
            unsafe { rustix::mm::mmap_anonymous(start.as_ptr().cast(), len, ProtFlags::empty(), flags) }
        })?;
        let spare = Self { start, _place: place };
        let at = start.as_ptr().cast();
        // Where all that the process maps is locked (mlockall), memory that can be accessed would get all of its pages.
        // SAFETY: whether pages are locked changes no byte of them.
        unsafe { rustix::mm::munlock(at, len) }.map_err(|errno| refused(Step::Lock, len, errno))?;
        spare.protect(&(0..len), READ_WRITE)?;
        // The first page makes the `anon_vma`. It lies behind all that is ever moved, so that the mapping keeps it.
        let last = len.saturating_sub(page);
        // SAFETY: within the spare memory, which is writable and nobody else's (invariant).
        unsafe { start.as_ptr().wrapping_add(last).write_volatile(1) };
        // SAFETY: as above; the byte is not read again.
        let forgotten = unsafe { rustix::mm::madvise(at, len, Advice::LinuxDontNeed) };
        forgotten.map_err(|errno| refused(Step::Discard, len, errno))?;
        shape_pages(options, start, len)?;
        Ok(spare)
    }

    fn protect(&self, part: &Range<usize>, access: MprotectFlags) -> Result<(), Error> {
        let start = self.start.as_ptr().wrapping_add(part.start).cast();
        // SAFETY: within the spare memory (invariant), which nobody accesses.
        let changed = unsafe { rustix::mm::mprotect(start, part.len(), access) };
        changed.map_err(|errno| refused(Step::Protect, part.len(), errno))
    }

    /// Maps memory with the policies of a part over what is at `to`, which are the same bytes of the file mapping. Other
    /// threads find there what was before or zeros: the kernel replaces the one by the other with its lock held.
    fn move_to(&self, part: &Range<usize>, to: *mut u8, access: MprotectFlags) -> Result<(), Error> {
        let (from, len) = (self.start.as_ptr().wrapping_add(part.start), part.len());
        let flags = MremapFlags::MAYMOVE | MremapFlags::from_bits_retain(libc::MREMAP_DONTUNMAP.unsigned_abs());
        // SAFETY: `from` is spare memory (invariant), and stays mapped. `to` is the region's own: its bytes may change at
        // any time, and stay mapped.
        let moved = unsafe { rustix::mm::mremap_fixed(from.cast(), len, len, flags, to.cast()) };
        let Err(errno) = moved else { return Ok(()) };
        // The kernel checks what it needs before it unmaps what is there, except for its own memory. Should that have been
        // short, there is a hole now, which must not stay. If there is none, nothing happens.
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        let access = ProtFlags::from_bits_retain(access.bits());
        // SAFETY: a new mapping, which replaces none, where the region's own was.
        match unsafe { rustix::mm::mmap_anonymous(to.cast(), len, access, flags) } {
            Ok(mapped) if mapped == to.cast() => Ok(()),
            Ok(elsewhere) => {
                // Linux before 4.17 takes the address for a wish.
                // SAFETY: mapped just now, and of no use to anybody.
                unsafe { rustix::mm::munmap(elsewhere, len) }.map_err(|errno| refused(Step::Zero, len, errno))?;
                Err(refused(Step::Zero, len, errno))
            }
            Err(_) => Err(refused(Step::Zero, len, errno)),
        }
    }
}
