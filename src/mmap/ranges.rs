//! Ranges of offsets, sorted; those that touch are one.

use std::ops::Range;

/// Offsets, as many as are put in.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// # Invariant
    /// None is empty, and each ends below the start of the next.
    sorted: Vec<Range<usize>>,
}

impl Ranges {
    /// Puts in what is not there yet.
    pub(super) fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        // Those that overlap it or touch it become one with it.
        let first = self.sorted.partition_point(|known| known.end < range.start);
        let behind = self.sorted.partition_point(|known| known.start <= range.end);
        let start = self.sorted.get(first).map_or(range.start, |known| known.start.min(range.start));
        let last = behind.checked_sub(1).and_then(|last| self.sorted.get(last));
        let end = last.map_or(range.end, |known| known.end.max(range.end));
        self.sorted.splice(first..behind.max(first), std::iter::once(start..end));
    }

    /// Takes out what is there.
    pub(super) fn remove(&mut self, range: &Range<usize>) {
        if range.is_empty() {
            return;
        }
        let first = self.sorted.partition_point(|known| known.end <= range.start);
        let behind = self.sorted.partition_point(|known| known.start < range.end);
        let Some(touched) = self.sorted.get(first..behind).filter(|touched| !touched.is_empty()) else { return };
        let (start, end) = (touched[0].start, touched[touched.len() - 1].end);
        let left = [start..range.start, range.end..end].into_iter().filter(|left| !left.is_empty());
        self.sorted.splice(first..behind, left.collect::<Vec<_>>());
    }

    /// What of `range` is in, ascending.
    pub(super) fn inside(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.sorted.partition_point(|known| known.end <= range.start);
        let known = self.sorted.get(first..).unwrap_or_default().iter();
        known
            .map(move |known| known.start.max(range.start)..known.end.min(range.end))
            .take_while(|part| !part.is_empty())
    }

    /// What of `range` is not in, ascending.
    pub(super) fn outside(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut at = range.start;
        let mut inside = self.inside(range.clone());
        std::iter::from_fn(move || {
            while at < range.end {
                let next = inside.next().unwrap_or(range.end..range.end);
                let part = at..next.start;
                at = next.end;
                if !part.is_empty() {
                    return Some(part);
                }
            }
            None
        })
    }

    /// Whether one of them overlaps `range` or ends where it starts or starts where it ends.
    pub(super) fn touches(&self, range: &Range<usize>) -> bool {
        let first = self.sorted.partition_point(|known| known.end < range.start);
        self.sorted.get(first).is_some_and(|known| known.start <= range.end)
    }

    /// Number of ranges.
    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// All of them, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        self.sorted.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where runs of `wanted` begin and end.
    fn runs(bits: &[bool], wanted: bool, within: Range<usize>) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in within.filter(|&at| bits[at] == wanted) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn they_are_what_a_bit_for_each_offset_says(
            ops in prop::collection::vec((any::<bool>(), 0_usize..40, 0_usize..12), 1..40),
            (from, len) in (0_usize..40, 0_usize..40),
        ) {
            let (mut ranges, mut bits) = (Ranges::default(), [false; 80]);
            for (put_in, start, len) in ops {
                bits[start..start + len].fill(put_in);
                if put_in {
                    ranges.insert(start..start + len);
                } else {
                    ranges.remove(&(start..start + len));
                }
                prop_assert_eq!(ranges.iter().collect::<Vec<_>>(), runs(&bits, true, 0..80));
            }
            let within = from..from + len;
            let (first, last) = (within.start.saturating_sub(1), within.end.min(79));
            prop_assert_eq!(ranges.count(), ranges.iter().count());
            if len > 0 {
                prop_assert_eq!(ranges.touches(&within), bits[first..=last].contains(&true));
            }
            prop_assert_eq!(ranges.inside(within.clone()).collect::<Vec<_>>(), runs(&bits, true, within.clone()));
            prop_assert_eq!(ranges.outside(within.clone()).collect::<Vec<_>>(), runs(&bits, false, within));
        }
    }
}
