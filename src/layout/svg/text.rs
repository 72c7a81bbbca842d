//! Text that fits.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// How many cells of a fixed-pitch font a text takes, at most: outside of ASCII a character may take two.
pub(super) fn cells(text: &str) -> u32 {
    text.chars().fold(0, |sum: u32, c| sum.saturating_add(cell(c)))
}

fn cell(c: char) -> u32 {
    if c.is_ascii() { 1 } else { 2 }
}

/// As much of `text` as fits into `room` cells. What is cut off ends in an ellipsis.
pub(super) fn fit(text: &str, room: u32) -> Cow<'_, str> {
    if cells(text) <= room {
        return Cow::Borrowed(text);
    }
    let Some(mut left) = room.checked_sub(cell('…')) else { return Cow::Borrowed("") };
    let fitting = text.chars().take_while(|&c| {
        let rest = left.checked_sub(cell(c));
        left = rest.unwrap_or(0);
        rest.is_some()
    });
    let mut cut: String = fitting.collect();
    cut.push('…');
    Cow::Owned(cut)
}

/// An address with its digits in groups of four: `0xfd_0000_0000`.
pub(super) fn grouped(addr: u64) -> String {
    let digits = format!("{addr:x}");
    let mut text = String::from("0x");
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && digits.len().saturating_sub(position) % 4 == 0 {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// The text of an XML element. What XML cannot hold is replaced.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;

        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '\n' => f.write_char(c),
            '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}'),
            c if c.is_control() => f.write_char('\u{fffd}'),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn what_does_not_fit_is_cut() {
        let cases =
            [("", 0, ""), ("abc", 3, "abc"), ("abcd", 3, "a…"), ("abcd", 2, "…"), ("abcd", 1, ""), ("日本", 3, "…")];
        for (text, room, fitted) in cases {
            assert_eq!(fit(text, room), fitted);
            assert!(cells(&fit(text, room)) <= room);
        }
    }

    #[test]
    fn digits_are_grouped() {
        for (addr, text) in
            [(0, "0x0"), (0xffff, "0xffff"), (0x1_0000, "0x1_0000"), (u64::MAX, "0xffff_ffff_ffff_ffff")]
        {
            assert_eq!(grouped(addr), text);
        }
    }

    #[test]
    fn xml_is_escaped() {
        assert_eq!(
            Escaped("<a & 'b'>\u{0}\u{1b}\u{ffff}\n\"").to_string(),
            "&lt;a &amp; 'b'&gt;\u{fffd}\u{fffd}\u{fffd}\n\""
        );
    }
}
