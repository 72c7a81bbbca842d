//! Pages made before they are touched, by as many threads as are wanted.

#![expect(unsafe_code, reason = "asks the kernel for pages")]

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use rustix::io::Errno;
use rustix::mm::Advice;

use super::guest_region::index;
use super::options::Sharing;
use super::pieces::pieces;
use super::{Error, GuestMemoryMmap, MmapRegion, Prefault, Progress, Step};
use crate::{Bytes, GuestAddress, GuestUsize, VolatileMemory, VolatileSlice};

/// What is done at once, between two looks at whether to go on: bytes, unless a page is larger.
const CHUNK: usize = 16 << 20;

/// A range of a mapping whose pages are to be made.
pub(super) struct Span<'a> {
    bytes: VolatileSlice<'a>,
    /// The size of a page.
    page: usize,
    /// Whether they are made by a write: for private memory, where a read would find the one page of zeroes. Of somebody's
    /// file that would make dirty what is not.
    write: bool,
}

impl<'a> Span<'a> {
    pub(super) fn of(region: &'a MmapRegion, offset: usize, len: usize) -> Result<Self, Error> {
        let bounds = |_| Error::OutOfBounds { offset: offset as u64, len: len as u64, size: region.len() as u64 };
        let bytes = region.as_slice().subslice(offset, len).map_err(bounds)?;
        let write = !region.is_read_only() && (region.sharing == Sharing::Private || region.file.is_none());
        Ok(Self { bytes, page: region.page, write })
    }

    /// The span in chunks that end at multiples of their size, as host addresses.
    fn chunks(&self) -> impl Iterator<Item = Self> + use<'a> {
        let Self { mut bytes, page, write } = *self;
        let size = CHUNK.max(page);
        std::iter::from_fn(move || {
            let to_boundary = size - bytes.as_ptr().addr() % size;
            let (chunk, rest) = bytes.split_at(to_boundary.min(bytes.len())).ok()?;
            bytes = rest;
            (!chunk.is_empty()).then_some(Self { bytes: chunk, page, write })
        })
    }

    /// Makes the pages.
    fn make(&self) -> io::Result<()> {
        let advice = if self.write { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        let before = self.bytes.as_ptr().addr() % self.page;
        let (start, len) = (self.bytes.as_ptr().wrapping_sub(before), before + self.bytes.len());
        loop {
            // SAFETY: the whole pages around the bytes are of one mapping, as it begins with one; making them changes no
            // byte.
            match unsafe { rustix::mm::madvise(start.cast(), len, advice) } {
                Err(Errno::INTR) => {}
                // Linux before 5.14; or it has not all that it needs for this, for a moment or for ever.
                Err(Errno::INVAL | Errno::AGAIN) => return self.touch(),
                made => return Ok(made?),
            }
        }
    }

    /// Makes the pages by accessing a byte of each, which stays as it is.
    fn touch(&self) -> io::Result<()> {
        let first = self.page - self.bytes.as_ptr().addr() % self.page;
        let places = std::iter::once(0).chain((first..self.bytes.len()).step_by(self.page));
        for place in places {
            let touched = if self.write {
                self.bytes.set_bits(0_u8, place, Ordering::Relaxed)
            } else {
                self.bytes.read_obj::<u8>(place).map(drop)
            };
            touched.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Makes all pages of `spans`, and tells `progress` how far that is.
pub(super) fn run(
    spans: &[Span<'_>],
    prefault: Prefault,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), Error> {
    let total = spans.iter().map(|span| span.bytes.len() as u64).sum();
    let size = usize::try_from(total).unwrap_or(usize::MAX);
    let refused = |source| Error::Refused { step: Step::Prefault, size, source };
    let mut done = 0;
    let mut tell = |more: usize| {
        done += more as u64;
        match progress(Progress { done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled { done, total }),
        }
    };
    let mut chunks = spans.iter().flat_map(Span::chunks);
    match prefault {
        Prefault::None => Ok(()),
        Prefault::Populate => {
            tell(0)?;
            chunks.try_for_each(|chunk| {
                chunk.make().map_err(refused)?;
                tell(chunk.bytes.len())
            })
        }
        Prefault::Parallel { threads } => {
            tell(0)?;
            let chunks = Mutex::new(chunks);
            let next = &|| chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let stop = &AtomicBool::new(false);
            thread::scope(|scope| {
                let _stop = StopAtEnd(stop);
                let (sender, made) = mpsc::channel();
                for _ in 0..threads.get() {
                    let sender = sender.clone();
                    let work = move || work(next, stop, &sender);
                    thread::Builder::new().name("prefault".into()).spawn_scoped(scope, work).map_err(refused)?;
                }
                drop(sender);
                made.into_iter().try_for_each(|made: io::Result<usize>| tell(made.map_err(refused)?))
            })
        }
    }
}

/// Makes chunk after chunk until there is none left, one fails, or nobody wants more.
fn work<'a>(next: impl Fn() -> Option<Span<'a>>, stop: &AtomicBool, results: &mpsc::Sender<io::Result<usize>>) {
    while let Some(chunk) = next().filter(|_| !stop.load(Ordering::Relaxed)) {
        let made = chunk.make().map(|()| chunk.bytes.len());
        let failed = made.is_err();
        if results.send(made).is_err() || failed {
            break;
        }
    }
}

/// Ends the work of the other threads, also when a callback panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl GuestMemoryMmap {
    /// Makes the pages of `len` bytes at `addr`, in one region or several that touch, before they are touched, and tells
    /// `progress` how far that is: once at its start, and whenever some 16 MiB more are done, in the calling thread. It
    /// breaks off when it is told to. No byte is changed, and no page marked as dirty. Several ranges may be prefaulted at
    /// once, and while the guest runs. What is [unplugged](super::GuestRegionMmap::unplug) is left out, and does not count.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::ops::ControlFlow;
    /// use memory_model::{GuestAddress, GuestMemoryMmap, mmap::Prefault};
    ///
    /// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 30)])?;
    /// let two = NonZeroUsize::MIN.saturating_add(1);
    /// mem.prefault(GuestAddress(0), 32 << 20, Prefault::Parallel { threads: two }, |progress| {
    ///     eprintln!("{} of {} MiB", progress.done >> 20, progress.total >> 20);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Hole`] or [`Error::Wraps`] if not all of it is memory: then nothing was done. [`Error::Refused`], also if
    /// some is unplugged meanwhile; [`Error::Cancelled`]: the pages that were made stay.
    pub fn prefault(
        &self,
        addr: GuestAddress,
        len: GuestUsize,
        prefault: Prefault,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let pieces = pieces(self, [(addr, len)])?;
        let mut spans = Vec::new();
        for piece in &pieces {
            let (start, len) = (index(piece.offset.0), index(piece.len));
            for part in piece.region.unplugged().outside(start..start.saturating_add(len)) {
                spans.push(Span::of(&piece.region.mapping, part.start, part.len())?);
            }
        }
        run(&spans, prefault, progress)
    }
}
