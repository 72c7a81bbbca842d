use std::collections::BTreeSet;
use std::ops::Range;

/// Numbers for a hypervisor's memory slots: the lowest that is free.
///
/// A region's number is kept by the region, for instance by
/// [`GuestRegionMmap::set_slot`](crate::GuestRegionMmap::set_slot); see the example of [`MapListener`](super::MapListener).
///
/// ```
/// use memory_model::atomic::SlotAllocator;
///
/// let mut slots = SlotAllocator::new(8..10); // KVM_CAP_NR_MEMSLOTS says how many there are
/// assert_eq!((slots.allocate(), slots.allocate(), slots.allocate()), (Some(8), Some(9), None));
/// assert!(slots.free(8));
/// assert!(!slots.free(8), "it is free already");
/// assert_eq!(slots.allocate(), Some(8));
/// ```
#[derive(Debug)]
pub struct SlotAllocator {
    numbers: Range<u32>,
    /// The first that was never used; those below are, or are in `freed`.
    next: u32,
    freed: BTreeSet<u32>,
}

impl SlotAllocator {
    /// All of `numbers`, free.
    pub fn new(numbers: Range<u32>) -> Self {
        Self { next: numbers.start, numbers, freed: BTreeSet::new() }
    }

    /// The lowest number that is free, which is then in use; `None` if all are.
    pub fn allocate(&mut self) -> Option<u32> {
        self.freed.pop_first().or_else(|| {
            let number = Some(self.next).filter(|number| self.numbers.contains(number))?;
            self.next += 1;
            Some(number)
        })
    }

    /// Frees a number, for others to use. Answers whether it was in use.
    pub fn free(&mut self, number: u32) -> bool {
        (self.numbers.start..self.next).contains(&number) && self.freed.insert(number)
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        (self.next.saturating_sub(self.numbers.start) as usize).saturating_sub(self.freed.len())
    }
}
