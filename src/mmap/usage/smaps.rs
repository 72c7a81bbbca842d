//! Reads /proc/self/smaps.
//!
//! By hand: a crate that models all of it (procfs) fails on lines that do not matter here, such as any file's name that is
//! not UTF-8, and takes three times as long, as it keeps everything.

use std::io::{self, BufRead};

use super::{Details, Span, Usage};

/// What smaps counts for each span. `None` for one that it does not cover, or with areas that reach beyond it and
/// have pages.
pub(super) fn count(spans: &[Span], mut smaps: impl BufRead) -> io::Result<Vec<Option<Usage>>> {
    let mut tally = Tally::new(spans);
    let mut area: Option<Area> = None;
    let mut line = Vec::new();
    while smaps.read_until(b'\n', &mut line)? != 0 {
        match Line::parse(&line).ok_or(io::ErrorKind::InvalidData)? {
            Line::Area { start, end } => {
                if let Some(whole) = area.replace(Area::new(start, end)) {
                    tally.add(&whole);
                }
            }
            Line::Field { name, value } => area.as_mut().ok_or(io::ErrorKind::InvalidData)?.set(name, value),
            Line::Other => {}
        }
        line.clear();
    }
    if let Some(whole) = area {
        tally.add(&whole);
    }
    Ok(tally.finish())
}

/// A line, as far as it matters.
enum Line<'a> {
    /// The first of an area: addresses, the last exclusive.
    Area { start: u64, end: u64 },
    /// A number of bytes.
    Field { name: &'a [u8], value: u64 },
    /// What is not a number of bytes.
    Other,
}

impl<'a> Line<'a> {
    /// `None` for what is not of smaps.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let first = words.next()?;
        // `Rss:    8 kB`; the first line of an area names a file, of which nothing is known: it is not looked at.
        if let Some(name) = first.strip_suffix(b":") {
            let Some((value, b"kB")) = words.next().zip(words.next()) else { return Some(Self::Other) };
            let value = number(value, 10)?.checked_mul(1024)?;
            return Some(Self::Field { name, value });
        }
        let dash = first.iter().position(|&byte| byte == b'-')?;
        let (start, end) = (number(&first[..dash], 16)?, number(&first[dash + 1..], 16)?);
        Some(Self::Area { start, end })
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// An area of the process's memory that the kernel accounts for as one.
struct Area {
    start: u64,
    end: u64,
    page_size: u64,
    resident: u64,
    details: Details,
}

impl Area {
    fn new(start: u64, end: u64) -> Self {
        Self { start, end, page_size: 1, resident: 0, details: Details { swapped: 0, huge: 0, shared: 0 } }
    }

    /// Fields that a kernel does not have are 0: those of pages that it does not have either.
    fn set(&mut self, name: &[u8], value: u64) {
        let Details { swapped, huge, shared } = &mut self.details;
        match name {
            b"KernelPageSize" => self.page_size = value,
            b"Rss" => self.resident += value,
            b"Swap" => *swapped += value,
            b"AnonHugePages" | b"ShmemPmdMapped" | b"FilePmdMapped" => *huge += value,
            b"Shared_Clean" | b"Shared_Dirty" => *shared += value,
            b"Shared_Hugetlb" | b"Private_Hugetlb" => {
                self.resident += value;
                *huge += value;
                if name == b"Shared_Hugetlb" {
                    *shared += value;
                }
            }
            _ => {}
        }
    }
}

/// Adds areas, which come in the order of their addresses, to the spans that hold them.
struct Tally {
    /// In the order of their addresses.
    entries: Vec<Entry>,
    /// How many of them end before the area that came last.
    passed: usize,
}

struct Entry {
    /// Which of the spans asked for.
    index: usize,
    span: Span,
    usage: Usage,
    /// Bytes of the areas added.
    covered: u64,
}

impl Tally {
    fn new(spans: &[Span]) -> Self {
        let entry = |(index, &span)| Entry { index, span, usage: Usage::NONE, covered: 0 };
        let mut entries: Vec<_> = spans.iter().enumerate().map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.span.start);
        Self { entries, passed: 0 }
    }

    fn add(&mut self, area: &Area) {
        while self.entries.get(self.passed).is_some_and(|entry| entry.span.end <= area.start) {
            self.passed += 1;
        }
        if area.resident == 0 && area.details == (Details { swapped: 0, huge: 0, shared: 0 }) {
            self.cover(area);
            return;
        }
        // Of those left only the first can hold all of the area: spans do not overlap. What somebody else has mapped
        // may, and all but one of such spans are then not covered.
        let Some(entry) = self.entries.get_mut(self.passed) else { return };
        // An area ends at a whole page, however large those are.
        let end = entry.span.end.checked_next_multiple_of(area.page_size);
        if entry.span.start <= area.start && end.is_some_and(|end| area.end <= end) {
            entry.covered += area.end.min(entry.span.end).saturating_sub(area.start);
            entry.usage = entry.usage.plus(Usage { resident: area.resident, details: Some(area.details) });
        }
    }

    /// Adds an area without pages, whose parts are everybody's: what is unplugged may be one with guard pages beside it.
    fn cover(&mut self, area: &Area) {
        for entry in self.entries.iter_mut().skip(self.passed).take_while(|entry| entry.span.start < area.end) {
            let (start, end) = (area.start.max(entry.span.start), area.end.min(entry.span.end));
            entry.covered += end.saturating_sub(start);
        }
    }

    /// Each span's, in the order in which they were given.
    fn finish(self) -> Vec<Option<Usage>> {
        let mut usages = vec![None; self.entries.len()];
        for Entry { index, span, usage, covered } in self.entries {
            if covered == span.end - span.start {
                usages[index] = Some(usage);
            }
        }
        usages
    }
}
