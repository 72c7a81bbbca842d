//! Where the regions of a memory lie.

/// What is behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Host memory: all operations.
    Ram,
    /// Two methods: no atomics, and no host addresses.
    Custom,
}

/// The place of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) len: usize,
    pub(crate) kind: Kind,
    /// Regions are handed to the memory by rank, not by address.
    pub(crate) rank: u8,
}

/// The places of all regions, by ascending address, without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) spans: Vec<Span>,
}

impl Layout {
    /// Regions from `base` upwards, each with a gap before it. Without a base they end with the last address of all.
    pub(crate) fn new(base: Option<u64>, gaps_and_spans: &[(u64, Span)]) -> Self {
        let gaps = gaps_and_spans.iter().skip(1).map(|(gap, _)| gap).sum::<u64>();
        let bytes = gaps_and_spans.iter().map(|(_, span)| span.len as u64).sum::<u64>();
        let mut next = base.unwrap_or(0_u64.wrapping_sub(gaps + bytes));
        let mut spans = Vec::new();
        for (index, &(gap, span)) in gaps_and_spans.iter().enumerate() {
            let start = if index == 0 { next } else { next + gap };
            spans.push(Span { start, ..span });
            next = start.wrapping_add(span.len as u64); // to 0 only after the last
        }
        Self { spans }
    }

    /// All regions of one kind.
    pub(crate) fn of(&self, kind: Kind) -> Self {
        Self { spans: self.spans.iter().map(|&span| Span { kind, ..span }).collect() }
    }

    /// The regions in the order of their ranks.
    pub(crate) fn by_rank(&self) -> Vec<Span> {
        let mut spans = self.spans.clone();
        spans.sort_by_key(|span| span.rank);
        spans
    }

    /// Where something happens: the first byte of each region and the one after its last, and the ends of the space.
    pub(crate) fn edges(&self) -> Vec<u64> {
        let ends = self.spans.iter().flat_map(|span| [span.start, span.start.wrapping_add(span.len as u64)]);
        ends.chain([0, u64::MAX]).collect()
    }
}
