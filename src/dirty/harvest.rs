#[cfg(feature = "std")]
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

#[cfg(feature = "std")]
use super::Tracker;
use super::bitmap::{LINE_SHIFT, runs};
use super::{DirtyBitmap, DirtyRange, barrier};
use crate::sync::{AtomicU64, Ordering, in_order};

/// Pages that were taken from a [`DirtyBitmap`]: dropped without a [`commit`](Self::commit), they are dirty again.
#[must_use = "what was taken is put back at once"]
pub struct Harvest<'a> {
    bitmap: &'a DirtyBitmap,
    /// Words that had bits, by their number, ascending, and which.
    taken: Vec<(u64, u64)>,
}

impl<'a> Harvest<'a> {
    /// Takes all that is dirty in `bitmap`.
    pub(super) fn take(bitmap: &'a DirtyBitmap) -> Self {
        let harvest = Self { bitmap, taken: Self::take_bits(bitmap) };
        barrier::all_threads(&[]);
        harvest
    }

    /// Takes for logs what is dirty in their trackers, and what they still have of earlier harvests, with one barrier for
    /// all.
    #[cfg(feature = "std")]
    pub(crate) fn of_logs(logs: impl Iterator<Item = (&'a Tracker, &'a Arc<DirtyBitmap>)> + Clone) -> Vec<Self> {
        let harvests = logs.clone().map(|(tracker, log)| {
            let taken = tracker.take_for(log);
            Self { bitmap: log, taken: merge(taken, Self::take_bits(log)) }
        });
        let harvests: Vec<_> = harvests.collect();
        barrier::all_threads(&logs.map(|(tracker, _)| tracker).collect::<Vec<_>>());
        harvests
    }

    /// Takes the words that have bits: their numbers, ascending, and the bits. Without a barrier.
    pub(super) fn take_bits(bitmap: &DirtyBitmap) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        // From the top down: a bit that is set meanwhile sets that above it afterwards, so that it is in the next harvest
        // if it is not in this.
        each_word(bitmap.summary(), 0..bitmap.summary().len() as u64, Ordering::Relaxed, |number, bits| {
            in_order();
            for line in ones(number, bits) {
                let first = line << LINE_SHIFT;
                let end = first.saturating_add(1 << LINE_SHIFT);
                // SeqCst: not before the summary was taken. An exchange alone does not see to that on all processors
                // (aarch64 without LSE). Pairs with `DirtyBitmap::mark_word`.
                each_word(bitmap.words(), first..end, Ordering::SeqCst, |number, bits| taken.push((number, bits)));
            }
        });
        taken
    }

    /// Marks the pages dirty again.
    fn put_back(&self) {
        for &(word, bits) in &self.taken {
            self.bitmap.mark_word(word, bits);
        }
    }

    /// What is in it: coalesced, by ascending offset.
    pub fn ranges(&self) -> impl Iterator<Item = DirtyRange> {
        let (page_size, len) = (self.bitmap.page_size(), self.bitmap.len());
        let runs = self.taken.iter().flat_map(|&(word, bits)| {
            runs(bits).map(move |(first, count)| (word << 6 | u64::from(first), u64::from(count)))
        });
        let mut runs = runs.peekable();
        core::iter::from_fn(move || {
            let (first, mut count) = runs.next()?;
            while let Some((_, more)) = runs.next_if(|&(next, _)| next == first.saturating_add(count)) {
                count = count.saturating_add(more);
            }
            let start = first.saturating_mul(page_size);
            // The end of the memory may cut the last page.
            Some(DirtyRange { start, len: count.saturating_mul(page_size).min(len.saturating_sub(start)) })
        })
    }

    /// The pages of `page_size` bytes, a power of two, that a range is in, up to the end of the memory.
    #[cfg(feature = "std")]
    pub(crate) fn whole_pages(&self, range: DirtyRange, page_size: u64) -> DirtyRange {
        let below = page_size.saturating_sub(1);
        let start = range.start & !below;
        let end = range.start.saturating_add(range.len).saturating_add(below) & !below;
        DirtyRange { start, len: end.min(self.bitmap.len()).saturating_sub(start) }
    }

    /// The number of pages in it.
    pub fn pages(&self) -> u64 {
        self.taken.iter().map(|(_, bits)| u64::from(bits.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// What was found is dealt with: its pages stay clean, unless they were written meanwhile.
    pub fn commit(mut self) {
        self.taken.clear();
    }
}

/// The words of both, ascending.
#[cfg(feature = "std")]
fn merge(a: Vec<(u64, u64)>, b: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    if b.is_empty() {
        return a;
    }
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let first = x.0.min(y.0);
        let of = |side: &mut core::iter::Peekable<alloc::vec::IntoIter<(u64, u64)>>| {
            side.next_if(|word| word.0 == first).map_or(0, |word| word.1)
        };
        merged.push((first, of(&mut a) | of(&mut b)));
    }
    merged.extend(a.chain(b));
    merged
}

/// Takes the bits of the words of a level, by their numbers, of those that have any by a load of this `order`.
#[inline]
fn each_word(level: &[AtomicU64], numbers: impl Iterator<Item = u64>, order: Ordering, mut with: impl FnMut(u64, u64)) {
    for number in numbers {
        let Some(word) = usize::try_from(number).ok().and_then(|number| level.get(number)) else { return };
        if word.load(order) != 0 {
            // SeqCst: what is below is looked at after this.
            with(number, word.swap(0, Ordering::SeqCst));
        }
    }
}

/// The numbers of the words below, of which a word says that they may have bits.
fn ones(number: u64, bits: u64) -> impl Iterator<Item = u64> {
    let mut rest = bits;
    core::iter::from_fn(move || {
        let first = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (first < u64::BITS).then_some(number << 6 | u64::from(first))
    })
}

impl Drop for Harvest<'_> {
    fn drop(&mut self) {
        self.put_back();
    }
}

impl fmt::Debug for Harvest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Harvest({} pages of {:?})", self.pages(), self.bitmap)
    }
}
