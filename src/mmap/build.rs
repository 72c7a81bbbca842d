//! The steps by which a mapping is made.

#![expect(unsafe_code, reason = "maps memory")]

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};

use super::builder::{Backing, Flags};
use super::options::Sharing;
use super::overlay::Overlay;
use super::place::{Place, Wanted};
use super::prefault::{self, Span};
use super::{
    Discarded, Error, FileOffset, HugePageSize, HugePages, Lock, MmapRegion, MmapRegionBuilder, Prefault, Progress,
    Protection, Seals, Step,
};
use crate::VolatileMemory;

/// What a builder's options come to.
struct Shape {
    /// The size in whole pages.
    len: usize,
    /// The size of a page: the host's, or a huge one.
    page: usize,
    hugetlb: Option<HugePageSize>,
    sharing: Sharing,
}

pub(super) fn build(
    options: &MmapRegionBuilder,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<MmapRegion, Error> {
    let shape = check(options)?;
    if let Some(policy) = &options.numa {
        policy.check(options.size)?;
    }
    prepare_recovery(options)?;
    let file = open(options, &shape)?;
    let wanted = wanted(options, &shape)?;
    let map = |start| map(options, &shape, file.as_ref(), start);
    let (place, start) = Place::map(wanted, rustix::param::page_size(), options.size, map)?;
    let region = region(options, &shape, start, Some(place), file);
    shape_pages(options, start, shape.len)?;
    make_pages(options, &shape, &region, progress)?;
    Ok(region)
}

/// # Safety
///
/// As for [`MmapRegionBuilder::from_raw`].
pub(super) unsafe fn borrow(options: &MmapRegionBuilder, start: NonNull<u8>) -> Result<MmapRegion, Error> {
    let of_its_maker = [
        (matches!(options.backing, Backing::Memfd(_)), "a memfd"),
        (options.alignment != 0, "an alignment"),
        (options.numa.is_some(), "a NUMA policy"),
        (options.prefault != Prefault::None, "a prefault"),
        (options.reserve.is_some(), "a reservation"),
        (options.flags.contains(Flags::DUMP), "advice on core dumps"),
        (!options.flags.contains(Flags::FORK), "advice on children"),
        (options.flags.contains(Flags::MERGE), "advice on merging"),
    ];
    if let Some((_, what)) = of_its_maker.iter().find(|(wanted, _)| *wanted) {
        return Err(Error::Borrowed(what));
    }
    let shape = check(options)?;
    prepare_recovery(options)?;
    let file = open(options, &shape)?;
    Ok(region(options, &shape, start, None, file))
}

fn region(
    options: &MmapRegionBuilder,
    shape: &Shape,
    start: NonNull<u8>,
    place: Option<Place>,
    file: Option<FileOffset>,
) -> MmapRegion {
    let read_only = options.protection == Protection::ReadOnly;
    // What can be mapped over pages of a file: not over somebody else's, and no pages of the hugetlb pool.
    let hides_file = file.is_some() && shape.sharing == Sharing::Private && options.discarded == Discarded::Zeros;
    let overlaid = hides_file && place.is_some() && shape.hugetlb.is_none();
    MmapRegion {
        start,
        size: options.size,
        read_only: read_only.into(),
        place,
        file,
        sharing: shape.sharing,
        page: shape.page,
        is_hugetlb: shape.hugetlb.is_some(),
        lock: options.lock,
        hides_file,
        overlay: overlaid.then(|| Overlay::new(options).into()),
    }
}

/// What can be checked before anything is done.
fn check(options: &MmapRegionBuilder) -> Result<Shape, Error> {
    let size = options.size;
    if size == 0 {
        return Err(Error::Empty);
    }
    let hugetlb = match (&options.backing, options.huge_pages) {
        (Backing::File(at), pages) => {
            let of_file = hugetlbfs_pages(at, size)?;
            match pages {
                HugePages::Hugetlb(asked) if of_file != Some(asked) => return Err(Error::HugetlbFile),
                _ => of_file,
            }
        }
        (_, HugePages::Hugetlb(page)) => Some(page),
        _ => None,
    };
    let page = match hugetlb {
        Some(page) => usize::try_from(page.bytes()).ok().ok_or(Error::TooLarge { size })?,
        None => rustix::param::page_size(),
    };
    if hugetlb.is_some() && size % page != 0 {
        return Err(Error::HugePages { what: "the size", value: size as u64, page_size: page as u64 });
    }
    let len = size.checked_next_multiple_of(page).filter(|&len| isize::try_from(len).is_ok());
    let usual = match options.backing {
        Backing::Anonymous => Sharing::Private,
        Backing::Memfd(_) | Backing::File(_) => Sharing::Shared,
    };
    let sharing = options.sharing.unwrap_or(usual);
    let shape = Shape { len: len.ok_or(Error::TooLarge { size })?, page, hugetlb, sharing };
    if let Backing::File(at) = &options.backing {
        check_file(at, size, &shape)?;
    }
    Ok(shape)
}

/// The pages of a file on hugetlbfs.
fn hugetlbfs_pages(at: &FileOffset, size: usize) -> Result<Option<HugePageSize>, Error> {
    let status = rustix::fs::fstatfs(at.file()).map_err(|errno| refused(Step::FileLength, size, errno))?;
    // The types of both differ between targets.
    let is_hugetlbfs = i128::from(status.f_type) == i128::from(libc::HUGETLBFS_MAGIC);
    let page = u64::try_from(status.f_bsize).ok().and_then(HugePageSize::new);
    Ok(page.filter(|_| is_hugetlbfs))
}

/// Whether a file has all of the bytes that are to be mapped, from a whole page on.
fn check_file(at: &FileOffset, size: usize, shape: &Shape) -> Result<(), Error> {
    let start = at.start();
    if start % shape.page as u64 != 0 {
        return Err(match shape.hugetlb {
            Some(page) => Error::HugePages { what: "the file offset", value: start, page_size: page.bytes() },
            None => Error::MisalignedFileOffset { start, page_size: shape.page },
        });
    }
    let refused = |source| Error::Refused { step: Step::FileLength, size, source };
    let metadata = at.file().metadata().map_err(refused)?;
    // A device's length is its driver's business.
    if metadata.is_file() && start.checked_add(size as u64).is_none_or(|end| end > metadata.len()) {
        return Err(Error::PastEndOfFile { start, size, file_len: metadata.len() });
    }
    Ok(())
}

#[cfg_attr(not(feature = "fault-recovery"), expect(clippy::unnecessary_wraps, reason = "the feature's errors"))]
fn prepare_recovery(options: &MmapRegionBuilder) -> Result<(), Error> {
    #[cfg(feature = "fault-recovery")]
    {
        // Not again: a handler that has replaced ours since may pass signals on.
        if options.flags.contains(Flags::FAULT_RECOVERY) && !crate::access::was_installed() {
            crate::fault_recovery::install().map_err(Error::FaultRecovery)?;
        }
        check_recovery(options.protection)?;
    }
    #[cfg(not(feature = "fault-recovery"))]
    let MmapRegionBuilder { .. } = options;
    Ok(())
}

/// Whether a write to read-only memory will be an error: where the hardware is to find it, only with the handlers.
#[cfg(feature = "fault-recovery")]
pub(super) fn check_recovery(protection: Protection) -> Result<(), Error> {
    if protection == Protection::ReadOnly && crate::access::RECOVERS && !crate::access::was_installed() {
        return Err(Error::NoRecovery);
    }
    Ok(())
}

pub(super) fn refused(step: Step, size: usize, errno: rustix::io::Errno) -> Error {
    Error::Refused { step, size, source: errno.into() }
}

/// The file that a mapping with these options would be of, for several that share it.
pub(super) fn file(options: &MmapRegionBuilder) -> Result<Option<FileOffset>, Error> {
    open(options, &check(options)?)
}

/// The file to be mapped. A memfd is made, sized and sealed.
fn open(options: &MmapRegionBuilder, shape: &Shape) -> Result<Option<FileOffset>, Error> {
    let name = match &options.backing {
        Backing::Anonymous => return Ok(None),
        Backing::File(at) => return Ok(Some(at.clone())),
        Backing::Memfd(name) => name,
    };
    let size = options.size;
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Some(page) = shape.hugetlb {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(page.flag_bits());
    }
    // Nobody executes a guest's memory. Kernels before 6.3 do not know how to forbid it, and later ones may insist.
    let made = match rustix::fs::memfd_create(name.as_str(), flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name.as_str(), flags),
        made => made,
    };
    let file = made.map_err(|errno| refused(Step::Memfd, size, errno))?;
    rustix::fs::ftruncate(&file, size as u64).map_err(|errno| refused(Step::Resize, size, errno))?;
    let mut seals = SealFlags::empty();
    seals.set(SealFlags::SHRINK, options.seals.contains(Seals::SHRINK));
    seals.set(SealFlags::GROW, options.seals.contains(Seals::GROW));
    seals.set(SealFlags::SEAL, options.seals.contains(Seals::SEAL));
    rustix::fs::fcntl_add_seals(&file, seals).map_err(|errno| refused(Step::Seal, size, errno))?;
    Ok(Some(FileOffset::new(file.into(), 0)))
}

/// Where the mapping is to lie.
fn wanted(options: &MmapRegionBuilder, shape: &Shape) -> Result<Wanted, Error> {
    let page_size = rustix::param::page_size();
    if options.alignment != 0 && !options.alignment.is_power_of_two() {
        return Err(Error::Alignment { alignment: options.alignment });
    }
    // What one entry of the second level of page tables maps, with 8 bytes for each page: a transparent huge page.
    let huge = page_size.saturating_mul(page_size / 8);
    let usual = if shape.len >= huge { huge } else { page_size };
    let alignment = if options.alignment == 0 { usual } else { options.alignment };
    let alignment = alignment.max(shape.page);
    let phase = usize::try_from(options.phase % alignment as u64).unwrap_or(0);
    if shape.hugetlb.is_some() && phase % shape.page != 0 {
        let page_size = shape.page as u64;
        return Err(Error::HugePages { what: "the guest address", value: options.phase, page_size });
    }
    let phase = phase / page_size * page_size;
    let guard = if options.flags.contains(Flags::GUARDS) { page_size } else { 0 };
    Ok(Wanted { len: shape.len, alignment, phase, guard })
}

/// Maps the memory into its place, where nothing is.
fn map(
    options: &MmapRegionBuilder,
    shape: &Shape,
    file: Option<&FileOffset>,
    start: NonNull<u8>,
) -> rustix::io::Result<*mut c_void> {
    let access = match options.protection {
        Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        Protection::ReadOnly => ProtFlags::READ,
    };
    let mut flags = MapFlags::FIXED_NOREPLACE;
    flags |= match shape.sharing {
        Sharing::Shared => MapFlags::SHARED,
        Sharing::Private => MapFlags::PRIVATE,
    };
    // A guest is given more than it will touch. But what there is none left of in the pool is missed when it is touched.
    if !options.reserve.unwrap_or(shape.hugetlb.is_some()) {
        flags |= MapFlags::NORESERVE;
    }
    let (at, len) = (start.as_ptr().cast(), shape.len);
    if let Some(file) = file {
        // SAFETY: a new mapping, which replaces none.
        unsafe { rustix::mm::mmap(at, len, access, flags, file.file(), file.start()) }
    } else {
        if let Some(page) = shape.hugetlb {
            flags |= MapFlags::HUGETLB | MapFlags::from_bits_retain(page.flag_bits());
        }
        // SAFETY: as above.
        unsafe { rustix::mm::mmap_anonymous(at, len, access, flags) }
    }
}

/// Says where pages come from, how large they are, and who gets them. Before there are any.
pub(super) fn shape_pages(options: &MmapRegionBuilder, start: NonNull<u8>, len: usize) -> Result<(), Error> {
    if let Some(policy) = &options.numa {
        let bound = policy.apply(start, len);
        bound.map_err(|source| Error::Refused { step: Step::Bind, size: options.size, source })?;
    }
    let advise = |step, advice| {
        // SAFETY: these kinds of advice change no byte of the mapping, which is new.
        let advised = unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, advice) };
        advised.map_err(|errno| refused(step, options.size, errno))
    };
    match options.huge_pages {
        HugePages::Host | HugePages::Hugetlb(_) => {}
        HugePages::Transparent => advise(Step::HugePages, Advice::LinuxHugepage)?,
        HugePages::Never => advise(Step::HugePages, Advice::LinuxNoHugepage)?,
    }
    if !options.flags.contains(Flags::DUMP) {
        advise(Step::Dump, Advice::LinuxDontDump)?;
    }
    if !options.flags.contains(Flags::FORK) {
        advise(Step::Fork, Advice::LinuxDontFork)?;
    }
    if options.flags.contains(Flags::MERGE) {
        advise(Step::Merge, Advice::LinuxMergeable)?;
    }
    Ok(())
}

/// Locks and makes pages, as asked for. What is to be locked is announced first, as then a limit shows at once; and made
/// by the prefault's threads, if there are some.
fn make_pages(
    options: &MmapRegionBuilder,
    shape: &Shape,
    region: &MmapRegion,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), Error> {
    let locked = |errno| refused(Step::Lock, options.size, errno);
    let start = region.start.as_ptr().cast();
    if options.lock != Lock::None {
        // SAFETY: locking changes no byte of the mapping, which is the region's own.
        unsafe { rustix::mm::mlock_with(start, shape.len, MlockFlags::ONFAULT) }.map_err(locked)?;
    }
    if options.prefault != Prefault::None {
        prefault::run(&[Span::of(region, 0, region.len())?], options.prefault, progress)?;
    }
    if options.lock == Lock::Now {
        // SAFETY: as above.
        unsafe { rustix::mm::mlock(start, shape.len) }.map_err(locked)?;
    }
    Ok(())
}
