//! Text in columns, and sizes as people write them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// On which side of its column a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of text in columns as wide as they need be, two spaces apart, below a header.
pub(crate) struct Table<const N: usize> {
    header: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(header: [(&'static str, Align); N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row. Control characters, a line's end for instance, are replaced: a row is one line.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cell.replace(char::is_control, "\u{fffd}")));
    }
}

/// Each line but the last has its end; none ends in spaces.
impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = self.header.map(|(title, _)| width(title));
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        let columns = || self.header.iter().map(|&(_, align)| align).zip(widths);
        line(f, self.header.iter().map(|&(title, _)| title).zip(columns()))?;
        for row in &self.rows {
            f.write_str("\n")?;
            line(f, row.iter().map(|cell| &**cell).zip(columns()))?;
        }
        Ok(())
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Writes cells of the given alignments and widths. Spaces are owed until something follows them.
fn line<'a>(f: &mut fmt::Formatter<'_>, cells: impl Iterator<Item = (&'a str, (Align, usize))>) -> fmt::Result {
    let mut owed = 0_usize;
    for (cell, (align, widest)) in cells {
        let padding = widest.saturating_sub(width(cell));
        let (before, after) = if align == Align::Left { (0, padding) } else { (padding, 0) };
        if cell.is_empty() {
            owed = owed.saturating_add(padding);
        } else {
            write!(f, "{:1$}{cell}", "", owed.saturating_add(before))?;
            owed = after;
        }
        owed = owed.saturating_add(2);
    }
    Ok(())
}

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes, exact, in the largest unit that divides it: 16 GiB, 640 KiB, 4097 B.
pub(crate) fn size(bytes: u64) -> impl fmt::Display {
    exact(bytes)
}

/// As [`size`], but of at most five digits: where these do not do, it is rounded, and says so.
pub(crate) fn rough_size(bytes: u64) -> impl fmt::Display {
    let exact = exact(bytes);
    if exact.count < 100_000 {
        return exact;
    }
    // The largest unit of which there are four.
    let thousands = bytes.ilog2().saturating_sub(2) / 10;
    let bits = thousands.saturating_mul(10);
    let half = 1_u64.checked_shl(bits.saturating_sub(1)).unwrap_or(0);
    // Past 2^64 there is nothing to round up to but 16 EiB.
    let count = bytes.checked_add(half).map_or(16, |sum| sum >> bits);
    Size { about: "~", count, unit: unit(thousands) }
}

fn exact(bytes: u64) -> Size {
    // Of zero bytes every unit has none: they are told in bytes.
    let thousands = if bytes == 0 { 0 } else { bytes.trailing_zeros() / 10 };
    Size { about: "", count: bytes >> thousands.saturating_mul(10), unit: unit(thousands) }
}

/// The unit of so many powers of 1024.
fn unit(thousands: u32) -> &'static str {
    usize::try_from(thousands).ok().and_then(|index| UNITS.get(index)).copied().unwrap_or("EiB")
}

struct Size {
    about: &'static str,
    count: u64,
    unit: &'static str,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {}", self.about, self.count, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn sizes_are_exact() {
        let cases = [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1 << 10, "1 KiB"),
            (4097, "4097 B"),
            (640 << 10, "640 KiB"),
            (3 << 30, "3 GiB"),
            ((3 << 30) + 4096, "3145732 KiB"),
            (1 << 40, "1 TiB"),
            (7 << 50, "7 PiB"),
            (15 << 60, "15 EiB"),
            (u64::MAX, "18446744073709551615 B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes).to_string(), text);
        }
    }

    #[test]
    fn rough_sizes_have_few_digits() {
        let cases = [
            (4097, "4097 B"),
            (3071 << 20, "3071 MiB"),
            (99_999, "99999 B"),
            (100_001, "~98 KiB"),
            ((3 << 30) + 4096, "~3072 MiB"),
            ((4 << 30) + 4096, "~4 GiB"),
            ((1 << 48) - (3 << 20), "~256 TiB"),
            ((9 << 59) - 1, "~4 EiB"),
            ((9 << 59) + 1, "~5 EiB"),
            (u64::MAX, "~16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(rough_size(bytes).to_string(), text);
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_end_where_their_text_does() {
        let mut table = Table::new([("name", Align::Left), ("bytes", Align::Right), ("", Align::Left)]);
        assert_eq!(table.to_string(), "name  bytes");
        table.row(["α".into(), "1".into(), "a".into()]);
        table.row([String::new(), "123456".into(), String::new()]);
        table.row(["longer".into(), String::new(), "two\nlines".into()]);
        let lines = ["name     bytes", "α            1  a", "        123456", "longer          two\u{fffd}lines"];
        assert_eq!(table.to_string(), lines.join("\n"));
    }
}
