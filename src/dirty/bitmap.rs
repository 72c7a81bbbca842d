use alloc::boxed::Box;
use core::fmt;

#[cfg(not(loom))]
use zerocopy::FromZeros;

use super::{Harvest, barrier};
use crate::sync::{AtomicU64, Ordering, fence, in_order};

/// Which pages were written: a bit for each.
///
/// Any number of threads mark while one harvests. Above the bits stands a summary, of which each bit says that of eight
/// words, a cache line, one may have a bit: so looking for what is dirty costs as much as there is dirty, and hardly what
/// there is of memory. Memory for a part of the bitmap is needed once that part was dirty.
///
/// ```
/// use memory_model::dirty::{DirtyBitmap, DirtyRange};
///
/// let bitmap = DirtyBitmap::new(1 << 40, 4096)?; // a TiB
/// bitmap.mark(0x1fff, 2); // the last byte of one page, and the first of the next
/// bitmap.mark(0x3000, 0x1000);
/// let harvest = bitmap.harvest();
/// assert_eq!(harvest.ranges().collect::<Vec<_>>(), [DirtyRange { start: 0x1000, len: 0x3000 }]);
/// harvest.commit();
/// assert!(!bitmap.is_dirty(0x3000, 0x1000));
/// # Ok::<(), memory_model::dirty::Error>(())
/// ```
pub struct DirtyBitmap {
    page_shift: u32,
    /// How many bytes it covers, from 0 on.
    len: u64,
    /// The summary, a bit for each eight words; then the words, a bit for each page. Beside each other, so that those of a
    /// small region are in one cache line.
    bits: Box<[AtomicU64]>,
    summary_len: usize,
}

/// Why a bitmap cannot be made, or a memory not be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A page is a power of two of bytes.
    #[error("a page size of {0:#x} bytes was asked for: it must be a power of two")]
    PageSize(u64),
    /// There is not as much memory, or the host cannot address it.
    #[error("the {0:#x} bytes of a dirty bitmap are not to be had: choose larger pages")]
    OutOfMemory(u64),
    /// A region has no tracker, and does not say that it needs none.
    #[error(
        "the region {:#x}..={:#x} has no tracker, so its dirty pages would be lost: return one from \
         `GuestMemoryRegion::tracker`, or true from `is_untracked` if there is nothing to copy",
        region.0, region.1
    )]
    NoTracker {
        /// First and last address of the region.
        region: (u64, u64),
    },
    /// The slices of a region do not mark in the tracker that the region returns, or that tracker has another base or length.
    #[error(
        "the slices of the region {:#x}..={:#x} do not mark in its tracker, or the tracker is that of a region with another \
         start or length, so dirty pages would be lost: give each region one tracker, and `GuestSlice::new` the same one",
        region.0, region.1
    )]
    OtherTracker {
        /// First and last address of the region.
        region: (u64, u64),
    },
}

/// The bits of a word, as a power of two.
pub(super) const WORD_SHIFT: u32 = 6;
/// The words that one bit of the summary stands for, as a power of two: a cache line.
pub(super) const LINE_SHIFT: u32 = 3;

impl DirtyBitmap {
    /// A bitmap of `len` bytes of memory, in pages of `page_size` bytes, none of them dirty.
    ///
    /// # Errors
    ///
    /// [`Error::PageSize`], [`Error::OutOfMemory`].
    pub fn new(len: u64, page_size: u64) -> Result<Self, Error> {
        if !page_size.is_power_of_two() {
            return Err(Error::PageSize(page_size));
        }
        barrier::prepare();
        let page_shift = page_size.trailing_zeros();
        let words = len.div_ceil(page_size).div_ceil(1 << WORD_SHIFT);
        let summary = words.div_ceil(1 << (LINE_SHIFT + WORD_SHIFT));
        let bits = zeroed(summary.saturating_add(words))?;
        // As many as there are: no truncation.
        Ok(Self { page_shift, len, bits, summary_len: index(summary) })
    }

    /// A bit for each page.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.bits.get(self.summary_len..).unwrap_or_default()
    }

    /// A bit for each eight words.
    #[inline]
    pub(super) fn summary(&self) -> &[AtomicU64] {
        self.bits.get(..self.summary_len).unwrap_or_default()
    }

    /// The size of a page in bytes.
    pub fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// How many bytes of memory it covers, from offset 0 on.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Marks the pages that have any of `len` bytes from `start`. What lies beyond its end is left out. To be called after
    /// the data is there.
    #[inline]
    pub fn mark(&self, start: u64, len: u64) {
        barrier::own();
        let Some((first, last)) = self.pages(start, len) else { return };
        if first >> WORD_SHIFT == last >> WORD_SHIFT {
            self.mark_word(first >> WORD_SHIFT, mask(first, last));
        } else {
            self.mark_words(first, last);
        }
    }

    /// Marks the bits of `mask` in one word, and what is above it.
    ///
    /// What is set already is only looked at: a locked instruction costs as much as the rest. That is right because
    /// whoever harvests takes the bits, has all threads pass a barrier, and then reads pages: had the bit been taken
    /// before it was found here, then what was written before this is read after the barrier.
    #[inline]
    pub(super) fn mark_word(&self, word: u64, mask: u64) {
        self.mark_bits(word, mask);
        self.mark_lines(word >> LINE_SHIFT, word >> LINE_SHIFT);
    }

    /// Marks pages of several words.
    #[inline(never)]
    fn mark_words(&self, first: u64, last: u64) {
        let (first_word, last_word) = (first >> WORD_SHIFT, last >> WORD_SHIFT);
        let mut whole = first_word..last_word.saturating_add(1);
        if mask(first, first | 63) != u64::MAX {
            self.mark_bits(first_word, mask(first, first | 63));
            whole.start = whole.start.saturating_add(1);
        }
        if mask(last & !63, last) != u64::MAX {
            self.mark_bits(last_word, mask(last & !63, last));
            whole.end = last_word;
        }
        let mut stored = false;
        for word in self.words().get(index(whole.start)..index(whole.end)).unwrap_or_default() {
            if word.load(Ordering::Acquire) != u64::MAX {
                // Release: after the data.
                word.store(u64::MAX, Ordering::Release);
                stored = true;
            }
        }
        if stored {
            // The words are there before the summary is looked at, as after the `fetch_or` in `mark_bits`.
            fence(Ordering::SeqCst);
        }
        self.mark_lines(first_word >> LINE_SHIFT, last_word >> LINE_SHIFT);
    }

    /// Marks the bits of one word, and nothing above.
    #[inline]
    fn mark_bits(&self, word: u64, mask: u64) {
        let Some(bits) = self.words().get(index(word)) else { return };
        // Acquire: the summary is looked at after this, so that what is set there is not from before a harvest that has
        // taken the bit here. Pairs with the harvest's exchanges, which go the other way.
        if bits.load(Ordering::Acquire) & mask != mask {
            // SeqCst: also, the bit is there before the summary is looked at.
            bits.fetch_or(mask, Ordering::SeqCst);
            in_order();
        }
    }

    /// Marks in the summary that lines of words have bits.
    #[inline]
    fn mark_lines(&self, first: u64, last: u64) {
        for word in (first >> WORD_SHIFT)..=(last >> WORD_SHIFT) {
            let mask = mask(first.max(word << WORD_SHIFT), last.min((word << WORD_SHIFT) | 63));
            let Some(bits) = self.summary().get(index(word)) else { return };
            // SeqCst: not before a bit below was set. Pairs with the load below the summary in `Harvest::take_bits`.
            if bits.load(Ordering::SeqCst) & mask != mask {
                bits.fetch_or(mask, Ordering::SeqCst);
            }
        }
    }

    /// The first and last page that have any of `len` bytes from `start`.
    #[inline]
    fn pages(&self, start: u64, len: u64) -> Option<(u64, u64)> {
        let last = start.saturating_add(len.checked_sub(1)?).min(self.len.checked_sub(1)?);
        (start <= last).then_some((start >> self.page_shift, last >> self.page_shift))
    }

    /// Whether any page is dirty that has any of `len` bytes from `start`.
    pub fn is_dirty(&self, start: u64, len: u64) -> bool {
        self.words_of(start, len).any(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }

    /// Makes clean the pages that lie wholly in `len` bytes from `start`: their contents do not matter, or were sent
    /// otherwise after this. The last page, which the end of the memory may cut, lies wholly in what goes to that end.
    pub fn clear(&self, start: u64, len: u64) {
        let page = self.page_size();
        let end = start.saturating_add(len).min(self.len);
        let end = if end == self.len { end } else { end >> self.page_shift << self.page_shift };
        let Some(start) = start.checked_next_multiple_of(page) else { return };
        for (word, mask) in self.words_of(start, end.saturating_sub(start)) {
            word.fetch_and(!mask, Ordering::SeqCst);
        }
        barrier::all_threads(&[]);
    }

    /// The words with the pages that have any of `len` bytes from `start`, and which of their bits.
    fn words_of(&self, start: u64, len: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let pages = self.pages(start, len).into_iter();
        pages.flat_map(move |(first, last)| {
            ((first >> WORD_SHIFT)..=(last >> WORD_SHIFT)).filter_map(move |word| {
                let bits = mask(first.max(word << WORD_SHIFT), last.min((word << WORD_SHIFT) | 63));
                Some((self.words().get(index(word))?, bits))
            })
        })
    }

    /// Marks what raw words say, of which each bit, the lowest first, is a page of `page_size` bytes from `start` on: as
    /// `KVM_GET_DIRTY_LOG` gives them. Their pages may be larger or smaller than this bitmap's.
    ///
    /// # Errors
    ///
    /// [`Error::PageSize`].
    pub fn merge(&self, start: u64, words: &[u64], page_size: u64) -> Result<(), Error> {
        if !page_size.is_power_of_two() {
            return Err(Error::PageSize(page_size));
        }
        let shift = page_size.trailing_zeros();
        let first_page = start >> self.page_shift;
        let same =
            shift == self.page_shift && start == first_page << shift && first_page.trailing_zeros() >= WORD_SHIFT;
        for (number, &word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            if same {
                self.merge_word((first_page >> WORD_SHIFT).saturating_add(number as u64), word);
                continue;
            }
            for (bit, count) in runs(word) {
                let page = ((number as u64) << WORD_SHIFT) | u64::from(bit);
                let at = page.checked_mul(page_size).and_then(|at| at.checked_add(start));
                if let Some(at) = at {
                    self.mark(at, u64::from(count).saturating_mul(page_size));
                }
            }
        }
        Ok(())
    }

    /// Marks a word that lies as this bitmap's do, as far as there are pages.
    fn merge_word(&self, word: u64, bits: u64) {
        let Some(last) = self.len.checked_sub(1).map(|last| last >> self.page_shift) else { return };
        let bits = match word.cmp(&(last >> WORD_SHIFT)) {
            core::cmp::Ordering::Less => bits,
            core::cmp::Ordering::Equal => bits & mask(0, last & 63),
            core::cmp::Ordering::Greater => return,
        };
        if bits != 0 {
            self.mark_word(word, bits);
        }
    }

    /// Takes what is dirty, and leaves it clean. What is marked meanwhile is in this harvest or in the next.
    ///
    /// It returns after a barrier: whoever finds a page in it reads, from then on, what was written before the page was
    /// marked. Unless the harvest is [committed](Harvest::commit), its pages are dirty again.
    ///
    /// Costs about as much as there is dirty: of a bitmap of 12 TiB without a dirty page some microseconds.
    #[must_use = "what was taken is put back at once"]
    pub fn harvest(&self) -> Harvest<'_> {
        Harvest::take(self)
    }
}

/// So many words of zeroes.
#[cfg(loom)]
#[expect(clippy::unnecessary_wraps, reason = "as the real one")]
fn zeroed(words: u64) -> Result<Box<[AtomicU64]>, Error> {
    Ok((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// So many words of zeroes, which cost no memory until they are written.
#[cfg(not(loom))]
fn zeroed(words: u64) -> Result<Box<[AtomicU64]>, Error> {
    let out_of_memory = Error::OutOfMemory(words.saturating_mul(8));
    let words = usize::try_from(words).ok().ok_or(out_of_memory)?;
    <[AtomicU64]>::new_box_zeroed_with_elems(words).ok().ok_or(out_of_memory)
}

/// The bits of a word from that of page `first` to that of page `last`, both in the word.
#[inline]
pub(super) fn mask(first: u64, last: u64) -> u64 {
    (u64::MAX << (first & 63)) & (u64::MAX >> (!last & 63))
}

#[inline]
fn index(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

/// The runs of ones in a word, the lowest first: the first bit, and how many.
pub(super) fn runs(word: u64) -> impl Iterator<Item = (u32, u32)> {
    let mut rest = word;
    core::iter::from_fn(move || {
        let first = rest.trailing_zeros();
        if first == u64::BITS {
            return None;
        }
        let count = (rest >> first).trailing_ones();
        // Up to the whole word.
        rest &= u64::MAX.checked_shl(first.saturating_add(count)).unwrap_or(0);
        Some((first, count))
    })
}

impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirtyBitmap({:#x} bytes, pages of {:#x})", self.len, self.page_size())
    }
}
