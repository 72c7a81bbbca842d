use alloc::vec::Vec;

/// Bytes that were written: whole pages, coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyRange {
    /// The first byte: an offset in what the bitmap covers, or a guest address, as its source says.
    pub start: u64,
    /// The length in bytes.
    pub len: u64,
}

impl DirtyRange {
    /// The range in pieces of at most `size` bytes, in order: what is sent at once. A size of 0 is one of 1.
    pub fn chunks(self, size: u64) -> impl Iterator<Item = Self> {
        let size = size.max(1);
        let mut rest = self;
        core::iter::from_fn(move || {
            let len = rest.len.min(size);
            let chunk = Self { start: rest.start, len };
            rest = Self { start: rest.start.saturating_add(len), len: rest.len.saturating_sub(len) };
            (len > 0).then_some(chunk)
        })
    }

    /// The same bytes, told from `by` further up.
    #[must_use]
    pub fn offset(self, by: u64) -> Self {
        Self { start: self.start.saturating_add(by), ..self }
    }

    /// Makes it one with `next`, which does not begin before it, if they overlap or touch; answers whether they did. Either
    /// may end at 2^64.
    pub(crate) fn join(&mut self, next: Self) -> bool {
        let distance = next.start.saturating_sub(self.start);
        let one = distance <= self.len;
        if one {
            self.len = self.len.max(distance.saturating_add(next.len));
        }
        one
    }
}

/// What any of `sources` has, sorted and coalesced: the guest's dirty log from the hypervisor, the host's own, a device's.
///
/// ```
/// use memory_model::dirty::{DirtyRange, union};
///
/// let range = |start, len| DirtyRange { start, len };
/// let kvm = vec![range(0x1000, 0x2000), range(0x8000, 0x1000)];
/// let ours = vec![range(0x3000, 0x1000)];
/// assert_eq!(union([kvm, ours]), [range(0x1000, 0x3000), range(0x8000, 0x1000)]);
/// ```
pub fn union<I: IntoIterator<Item = DirtyRange>>(sources: impl IntoIterator<Item = I>) -> Vec<DirtyRange> {
    let mut ranges: Vec<_> = sources.into_iter().flatten().filter(|range| range.len > 0).collect();
    ranges.sort_unstable();
    let mut union: Vec<DirtyRange> = Vec::new();
    for range in ranges {
        if !union.last_mut().is_some_and(|last| last.join(range)) {
            union.push(range);
        }
    }
    union
}
