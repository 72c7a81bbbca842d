#![cfg_attr(feature = "std", expect(unsafe_code, reason = "bitmaps are found, and taken away, while others mark"))]

#[cfg(feature = "std")]
use std::ptr;

#[cfg(feature = "std")]
use super::bitmap::{LINE_SHIFT, WORD_SHIFT};
#[cfg(feature = "std")]
use super::switchboard::Switchboard;
#[cfg(feature = "std")]
use super::{DirtyBitmap, barrier};
#[cfg(feature = "std")]
use crate::sync::{AtomicPtr, AtomicU8, AtomicU64, Ordering, in_order};

/// A region's switch for dirty tracking: the bitmaps in which its writes are marked, if any.
///
/// A provider keeps one beside each region and hands it to every [`GuestSlice`](crate::GuestSlice) it makes; writes
/// through the slice are marked after the data is there. The switch is read at each write, so a slice made before
/// tracking began marks, too. Off, a write pays a load and a predicted branch. Whoever writes never waits for those who
/// switch.
///
/// Addresses are raw: whatever the provider gave the slice as its address, for guest memory a guest-physical one.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use std::sync::Arc;
/// use memory_model::dirty::{DirtyBitmap, DirtyRange, Sink, Tracker};
/// use memory_model::{Bytes, GuestAddress, GuestSlice, VolatileSlice};
///
/// let (mut buffer, tracker) = ([0_u8; 64], Tracker::new(0x1000));
/// let slice = GuestSlice::new(VolatileSlice::from(&mut buffer[..]), Some(&tracker), GuestAddress(0x1000));
/// let bitmap = Arc::new(DirtyBitmap::new(64, 16).unwrap());
/// let sink = Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0x1000 };
/// tracker.attach(sink.clone());
/// slice.write_obj(1_u32, 14).unwrap();
/// tracker.detach(&sink);
/// slice.write_obj(1_u32, 0x30).unwrap();
/// assert_eq!(bitmap.harvest().ranges().collect::<Vec<_>>(), [DirtyRange { start: 0, len: 0x20 }]);
/// # }
/// ```
///
/// # How it is fast
///
/// The region has a bitmap of its own, for pages of 4096 bytes, which all logs of the region share, and which is kept as
/// long as the tracker: so a write that marks there needs nothing to keep the bitmap alive, and a page that is dirty
/// already costs two loads more. Bitmaps that may be taken away, a peer's and the caller's own, are marked out of line,
/// under a guard.
#[derive(Debug)]
#[repr(C)]
pub struct Tracker {
    /// The address of the region's first byte.
    base: u64,
    /// [`OFF`] or [`ON`].
    #[cfg(feature = "std")]
    on: AtomicU8,
    /// The bytes of which the own bitmap has the pages, if marks are to be made there and nowhere else.
    #[cfg(feature = "std")]
    limit: AtomicU64,
    /// The own bitmap's words and summary, as soon as there is one: until the tracker is dropped.
    #[cfg(feature = "std")]
    words: AtomicPtr<AtomicU64>,
    #[cfg(feature = "std")]
    summary: AtomicPtr<AtomicU64>,
    /// Null, or a box that is this tracker's until it is dropped.
    #[cfg(feature = "std")]
    board: AtomicPtr<Switchboard>,
}

/// The size of the own bitmap's pages, as a power of two.
#[cfg(feature = "std")]
pub(super) const PAGE_SHIFT: u32 = 12;

/// Nothing is marked.
#[cfg(feature = "std")]
const OFF: u8 = 0;
/// Something may be attached, which is looked for at each write. Where each thread has to see to its own barriers, it stays
/// so: to look whether a tracker is off takes a barrier there.
#[cfg(feature = "std")]
const ON: u8 = 1;

#[cfg(feature = "std")]
impl Tracker {
    /// A tracker that is off, of memory whose first byte has the address `base`.
    pub fn new(base: u64) -> Self {
        barrier::prepare();
        Self {
            base,
            on: AtomicU8::new(if barrier::is_each_ones_own() { ON } else { OFF }),
            limit: AtomicU64::new(0),
            words: AtomicPtr::new(ptr::null_mut()),
            summary: AtomicPtr::new(ptr::null_mut()),
            board: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether it is on.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        // After the data. For the compiler only: whoever switches it on has all threads pass a barrier.
        barrier::implied();
        self.on.load(Ordering::Relaxed) != OFF
    }

    /// As [`mark`](Self::mark), by offset, of at least one byte, for a tracker that is on.
    #[cold]
    #[inline(never)]
    pub(crate) fn mark_offset(&self, offset: u64, len: u64) {
        self.mark_value(offset, len);
    }

    /// As [`mark_offset`](Self::mark_offset), inlined: for a value, which is written faster than a function is called. A page
    /// that is dirty already is the commonest case by far.
    #[inline(always)]
    pub(crate) fn mark_value(&self, offset: u64, len: u64) {
        let is_marked = self.with_bits(offset, len, |word, page, above, line| {
            let is_set = |word: &AtomicU64, bit: u64, order| (word.load(order) >> (bit & 63)) & 1 == 1;
            // As `DirtyBitmap::mark_word`; no barrier is needed, or there were no bits.
            is_set(word, page, Ordering::Acquire) && is_set(above, line, Ordering::SeqCst)
        });
        if is_marked != Some(true) {
            self.mark_unmarked(offset, len);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_unmarked(&self, offset: u64, len: u64) {
        let marked = self.with_bits(offset, len, |word, page, above, line| {
            set(word, page, Ordering::Acquire);
            in_order();
            set(above, line, Ordering::SeqCst);
        });
        if marked.is_some() {
            return;
        }
        // What is attached is looked for after the data is there.
        barrier::own();
        if let Some(board) = self.board() {
            board.mark(self.base.wrapping_add(offset), len);
        }
    }

    /// Calls `with` with the bit of the page in which these bytes lie, and that above it, as words and their bits modulo 64: if
    /// the own bitmap is all that there is to mark in, and they lie in one page.
    #[inline(always)]
    fn with_bits<T>(
        &self,
        offset: u64,
        len: u64,
        with: impl FnOnce(&AtomicU64, u64, &AtomicU64, u64) -> T,
    ) -> Option<T> {
        // Acquire: the pointers were written before. Pairs with `switch`.
        let limit = self.limit.load(Ordering::Acquire);
        let last = offset.wrapping_add(len).wrapping_sub(1);
        if last >= limit || (last ^ offset) >> PAGE_SHIFT != 0 {
            return None;
        }
        let (page, line) = (offset >> PAGE_SHIFT, offset >> (PAGE_SHIFT + WORD_SHIFT + LINE_SHIFT));
        // Both are in the bitmap: no truncation.
        let (word, above) = ((page >> WORD_SHIFT) as usize, (line >> WORD_SHIFT) as usize);
        let (words, summary) = (self.words.load(Ordering::Relaxed), self.summary.load(Ordering::Relaxed));
        // SAFETY: the own bitmap has the pages of `limit` bytes, and lives as long as the tracker.
        let word = unsafe { &*words.wrapping_add(word) };
        // SAFETY: as above, of its summary.
        let above = unsafe { &*summary.wrapping_add(above) };
        Some(with(word, page, above, line))
    }

    /// What is attached, if anything ever was.
    pub(super) fn board(&self) -> Option<&Switchboard> {
        // Acquire: what it points to was written before. Pairs with `board_or_new`.
        let board = self.board.load(Ordering::Acquire);
        // SAFETY: null, or a box that lives as long as the tracker.
        unsafe { board.as_ref() }
    }

    /// What is attached.
    pub(super) fn board_or_new(&self) -> &Switchboard {
        if let Some(board) = self.board() {
            return board;
        }
        // On without a board: it was made when each thread had its own barriers. Nobody has switched it, or there were a board.
        let settled = self.on.load(Ordering::Relaxed) == ON;
        let new = Box::into_raw(Box::new(Switchboard::new(self.base, settled)));
        // Release: pairs with `board`.
        let set = self.board.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
        let board = match set {
            Ok(_) => new,
            Err(other) => {
                // SAFETY: it was made here, and nobody else has it.
                drop(unsafe { Box::from_raw(new) });
                other
            }
        };
        // SAFETY: a box that lives as long as the tracker.
        unsafe { &*board }
    }

    /// Whether and how marks are made from now on: if they are, and if all that there is to do is to mark in the own bitmap,
    /// in that. For who changes what is attached, alone.
    ///
    /// # Safety
    ///
    /// The bitmap is of pages of [`PAGE_SHIFT`], always the same, and lives as long as the tracker.
    pub(super) unsafe fn switch(&self, on: bool, alone: Option<&DirtyBitmap>) {
        if let Some(bitmap) = alone {
            self.words.store(bitmap.words().as_ptr().cast_mut(), Ordering::Relaxed);
            self.summary.store(bitmap.summary().as_ptr().cast_mut(), Ordering::Relaxed);
        }
        // Release: after the pointers. Pairs with `mark_offset`.
        self.limit.store(alone.map_or(0, DirtyBitmap::len), Ordering::Release);
        // SeqCst: before the barrier that follows.
        self.on.store(if on || barrier::is_each_ones_own() { ON } else { OFF }, Ordering::SeqCst);
    }

    /// The address of the region's first byte.
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        self.base
    }
}

/// Sets the bit with this number, modulo those of the word, unless a load of this order finds it set.
#[cfg(feature = "std")]
#[inline(always)]
fn set(word: &AtomicU64, bit: u64, order: Ordering) {
    if (word.load(order) >> (bit & 63)) & 1 == 0 {
        word.fetch_or(1 << (bit & 63), Ordering::SeqCst);
    }
}

#[cfg(not(feature = "std"))]
impl Tracker {
    /// A tracker that is off, and stays so: it takes `std` to switch it on.
    pub fn new(base: u64) -> Self {
        Self { base }
    }

    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        false
    }

    pub(crate) fn mark_offset(&self, _offset: u64, _len: u64) {}

    #[cfg(feature = "alloc")]
    pub(super) fn fence_marks(&self) -> bool {
        false
    }

    #[cfg(feature = "alloc")]
    pub(super) fn settle(&self) {}

    #[cfg(feature = "mmap")]
    pub(crate) fn base(&self) -> u64 {
        self.base
    }
}

impl Tracker {
    /// Marks `len` bytes from `start` as written. To be called after the data is there.
    #[inline]
    pub(crate) fn mark(&self, start: u64, len: usize) {
        if self.is_on() && len > 0 {
            self.mark_offset(start.wrapping_sub(self.base), len as u64);
        }
    }
}

#[cfg(feature = "std")]
impl Drop for Tracker {
    fn drop(&mut self) {
        let board = self.board.load(Ordering::Relaxed);
        if !board.is_null() {
            // SAFETY: the box is this tracker's, and nobody can mark by it any more.
            drop(unsafe { Box::from_raw(board) });
        }
    }
}
