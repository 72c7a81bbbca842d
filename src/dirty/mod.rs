//! Which guest memory was written, and the switch for it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A region's switch for dirty tracking, and the span of addresses written while it is on.
///
/// A provider keeps one beside each region and hands it to every [`GuestSlice`](crate::GuestSlice) it makes; writes
/// through the slice are marked after the data is there. The switch is read at each write, so a slice made before
/// tracking began marks, too. Off, a write pays a load and a predicted branch.
///
/// Addresses are raw: whatever the provider gave the slice as its address, for guest memory a guest-physical one.
///
/// ```
/// use memory_model::{Bytes, GuestAddress, GuestSlice, VolatileSlice, dirty::Tracker};
///
/// let (mut buffer, tracker) = ([0_u8; 64], Tracker::default());
/// let slice = GuestSlice::new(VolatileSlice::from(&mut buffer[..]), Some(&tracker), GuestAddress(0x1000));
/// tracker.start();
/// slice.write_obj(1_u32, 8)?;
/// slice.write_obj(1_u8, 32)?;
/// assert_eq!(tracker.stop(), Some(0x1008..=0x1020));
/// # Ok::<(), memory_model::guest_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct Tracker {
    on: AtomicBool,
    first: AtomicU64,
    last: AtomicU64,
}

impl Tracker {
    /// A tracker that is off.
    pub const fn new() -> Self {
        Self { on: AtomicBool::new(false), first: AtomicU64::new(u64::MAX), last: AtomicU64::new(0) }
    }

    /// Switches tracking on, with nothing dirty.
    pub fn start(&self) {
        self.first.store(u64::MAX, Ordering::Relaxed);
        self.last.store(0, Ordering::Relaxed);
        // SeqCst: whoever writes after this, by any happens-before, finds the span reset and the switch on.
        self.on.store(true, Ordering::SeqCst);
    }

    /// Switches tracking off. Answers the addresses from the first to the last byte written since it was on, both
    /// inclusive; `None` if there was none. A write that runs meanwhile may be in it or not.
    pub fn stop(&self) -> Option<core::ops::RangeInclusive<u64>> {
        self.on.store(false, Ordering::SeqCst);
        let (first, last) = (self.first.load(Ordering::SeqCst), self.last.load(Ordering::SeqCst));
        (first <= last).then_some(first..=last)
    }

    /// Whether it is on.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Marks `len` bytes from `start` as written. To be called after the data is there.
    #[inline]
    pub(crate) fn mark(&self, start: u64, len: usize) {
        if self.is_on() && len > 0 {
            self.record(start, len);
        }
    }

    #[cold]
    fn record(&self, start: u64, len: usize) {
        self.first.fetch_min(start, Ordering::Release);
        self.last.fetch_max(start.saturating_add(len as u64 - 1), Ordering::Release);
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}
