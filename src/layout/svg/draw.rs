//! Writing what was planned.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::super::table::{rough_size, size};
use super::super::{EntryKind, GuestLayout};
use super::plan::{Area, Layer, Row, areas, rows};
use super::style::{KINDS, STYLE, class, node_colour};
use super::text::{Escaped, cells, fit, grouped};

/// The width of a cell of text, rounded up.
const CELL: u32 = 8;
const MARGIN: u32 = 20;
const NOTE: &str = "Not to scale, low addresses at the bottom: each is the first above its line.";
/// Below the heading.
const MAP_TOP: u32 = 104;
const MAP_WIDTH: u32 = 480;
/// From the map's edge to the text beside it.
const BESIDE: u32 = 12;
/// How far what lies inside of something stands off it, left and right.
const INDENT: (u32, u32) = (20, 8);
/// From a box's edge to its text; a node's colour is drawn there.
const PADDING: u32 = 16;
/// The most room for text beside brackets, in cells.
const BRACKET_CELLS: u32 = 26;
/// From the map's edge to that text.
const BRACKET: u32 = 24;

/// A map, drawn.
pub(super) struct Picture<'a> {
    layout: &'a GuestLayout,
    rows: Vec<Row<'a>>,
    areas: Vec<Area<'a>>,
    /// The left edge of the map.
    left: u32,
    /// The right edge of the map.
    right: u32,
    width: u32,
}

impl<'a> Picture<'a> {
    pub(super) fn new(layout: &'a GuestLayout) -> Self {
        let rows = rows(layout, MAP_TOP);
        let areas = areas(&rows);
        let address = cells(&grouped(layout.space.last)).saturating_mul(CELL);
        let left = address.saturating_add(MARGIN + BESIDE);
        let right = left.saturating_add(MAP_WIDTH);
        let mut picture = Self { layout, rows, areas, left, right, width: right.saturating_add(MARGIN) };
        let bracketed = picture.areas.iter().filter(|area| is_bracketed(area));
        let texts =
            bracketed.map(|area| picture.bracket_texts(area)).map(|(name, size)| cells(&name).max(cells(&size)));
        if let Some(widest) = texts.max() {
            let beside = widest.saturating_mul(CELL).saturating_add(BRACKET);
            picture.width = picture.width.saturating_add(beside);
        }
        picture.width = picture.width.max(cells(NOTE).saturating_mul(CELL).saturating_add(2 * MARGIN));
        picture
    }

    fn bottom(&self) -> u32 {
        self.rows.last().map_or(MAP_TOP, |row| row.top.saturating_add(row.height))
    }

    /// The left edge and the width of a box that lies inside of so many others.
    fn extent(&self, level: u32) -> (u32, u32) {
        let (left, right) = (level.saturating_mul(INDENT.0), level.saturating_mul(INDENT.1));
        (self.left.saturating_add(left), MAP_WIDTH.saturating_sub(left.saturating_add(right)))
    }

    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones = self.layout.zones();
        let totals = KINDS.iter().filter_map(|kind| {
            let EntryKind::Memory(memory) = kind else { return None };
            let sum =
                zones.iter().filter(|zone| zone.kind == *memory).fold(0_u64, |sum, zone| sum.saturating_add(zone.len));
            (sum > 0).then(|| format!("{} {kind}", size(sum)))
        });
        let totals = totals.collect::<Vec<_>>().join(", ");
        let room = self.width.saturating_sub(2 * MARGIN) / CELL;
        text(f, (MARGIN, 34), "mm-head", "Guest-physical addresses")?;
        text(f, (MARGIN, 58), "mm-soft", &fit(&totals, room))?;
        text(f, (MARGIN, 78), "mm-soft", NOTE)
    }

    fn area(&self, f: &mut fmt::Formatter<'_>, area: &Area<'_>) -> fmt::Result {
        let (x, width) = self.extent(area.level);
        let (name, kind, node) = self.describe(area.layer);
        let (first, last) = (grouped(area.span.start), grouped(area.span.last));
        write!(f, "<g><title>{kind}")?;
        if let Some(node) = node {
            write!(f, ", node {node}")?;
        }
        if !name.is_empty() {
            write!(f, " {}", Escaped(&name.replace(char::is_control, "\u{fffd}")))?;
        }
        writeln!(f, ": {first} to {last}, {}</title>", size(area.span.len()))?;
        let (y, height, class) = (area.top, area.height, class(kind));
        writeln!(f, r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>"#)?;
        if let Some(node) = node {
            let (x, y, height) = (x.saturating_add(3), y.saturating_add(3), height.saturating_sub(6));
            let colour = node_colour(node);
            writeln!(f, r#"<rect class="mm-node{colour}" x="{x}" y="{y}" width="6" height="{height}" rx="2"/>"#)?;
        }
        writeln!(f, "</g>")
    }

    fn describe<'b>(&'b self, layer: Layer<'b>) -> (&'b str, EntryKind, Option<u32>) {
        match layer {
            Layer::Hole(hole) => (&hole.name, EntryKind::Hole, None),
            Layer::Allocation(allocation) => (&allocation.name, EntryKind::Allocation, None),
            Layer::Reservation(reservation) => (&reservation.name, EntryKind::Reservation, None),
            Layer::Unused => ("", EntryKind::Unused, None),
            Layer::Range(range) => {
                let name = self.layout.zones().get(range.zone).map_or("", |zone| &*zone.name);
                (name, EntryKind::Memory(range.kind), range.node)
            }
        }
    }

    /// The text of a row: its name, what it is, how large.
    fn row(&self, f: &mut fmt::Formatter<'_>, row: &Row<'_>) -> fmt::Result {
        let (x, width) = self.extent(row.level());
        let (name, kind) = row.piece.name_and_kind();
        let y = row.top.saturating_add(row.height / 2).saturating_add(5);
        if matches!(kind, EntryKind::Hole | EntryKind::Unused) {
            self.break_marks(f, row)?;
        }
        let size = rough_size(row.piece.span.len()).to_string();
        let end = x.saturating_add(width).saturating_sub(PADDING);
        end_text(f, (end, y), &size)?;
        let mut what = kind.to_string();
        if let (Some(node), EntryKind::Memory(_)) = (row.piece.zone.and_then(|zone| zone.node), kind) {
            what = format!("{what}, node {node}");
        }
        // Two cells between any two of the three.
        let room = width.saturating_sub(2 * PADDING) / CELL;
        let room = room.saturating_sub(cells(&size)).saturating_sub(cells(&what)).saturating_sub(4);
        let (name, x) = (fit(name, room), x.saturating_add(PADDING));
        if name.is_empty() {
            return text(f, (x, y), "mm-soft", &what);
        }
        let (name, what) = (Escaped(&name), Escaped(&what));
        writeln!(
            f,
            r#"<text x="{x}" y="{y}"><tspan class="mm-name">{name}</tspan><tspan class="mm-soft" dx="14">{what}</tspan></text>"#
        )
    }

    /// Room is cut short: both edges of its box are broken.
    fn break_marks(&self, f: &mut fmt::Formatter<'_>, row: &Row<'_>) -> fmt::Result {
        let y = row.top.saturating_add(row.height / 2);
        for x in [self.left, self.right].map(|x| x.saturating_sub(6)) {
            writeln!(f, r#"<path class="mm-gap" d="M{x} {y}l12 -4"/>"#)?;
            let (above, below) = (y.saturating_sub(3), y.saturating_add(3));
            writeln!(f, r#"<path class="mm-line" d="M{x} {above}l12 -4M{x} {below}l12 -4"/>"#)?;
        }
        Ok(())
    }

    /// The addresses that rows begin at, and the last one.
    fn addresses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = (MAP_TOP, self.layout.space.last);
        let starts = self.rows.iter().map(|row| (row.top.saturating_add(row.height), row.piece.span.start));
        for (y, addr) in core::iter::once(top).chain(starts) {
            let x = self.left.saturating_sub(8);
            writeln!(f, r#"<path class="mm-line" d="M{x} {y}h8"/>"#)?;
            end_text(f, (x.saturating_sub(4), y.saturating_add(4)), &grouped(addr))?;
        }
        Ok(())
    }

    /// Beside a box of several rows: what it is as a whole.
    fn bracket(&self, f: &mut fmt::Formatter<'_>, area: &Area<'_>) -> fmt::Result {
        let (x, y) = (self.right.saturating_add(6), area.top.saturating_add(2));
        let middle = area.top.saturating_add(area.height / 2);
        writeln!(f, r#"<path class="mm-line" d="M{x} {y}h6v{}h-6"/>"#, area.height.saturating_sub(4))?;
        let (name, size) = self.bracket_texts(area);
        let x = self.right.saturating_add(BRACKET);
        text(f, (x, middle.saturating_sub(3)), "mm-name", &name)?;
        text(f, (x, middle.saturating_add(14)), "mm-soft", &size)
    }

    /// The name of a box and its size; of a zone that has others, too, how much of it that is.
    fn bracket_texts(&self, area: &Area<'_>) -> (String, String) {
        let (name, ..) = self.describe(area.layer);
        let len = rough_size(area.span.len()).to_string();
        let zone = match area.layer {
            Layer::Range(range) => self.layout.zones().get(range.zone).filter(|zone| zone.len != area.span.len()),
            _ => None,
        };
        let size = zone.map_or_else(|| len.clone(), |zone| format!("{len} of {}", rough_size(zone.len)));
        (fit(name, BRACKET_CELLS).into_owned(), fit(&size, BRACKET_CELLS).into_owned())
    }

    /// What the colours mean, in as many lines as it takes: class, text, and where. The last one's `y` is the lowest.
    fn legend(&self) -> Vec<(Cow<'static, str>, String, (u32, u32))> {
        let (mut x, mut y) = (MARGIN, self.bottom().saturating_add(36));
        let place = |(class, name): (Cow<'static, str>, String)| {
            let width = cells(&name).saturating_mul(CELL).saturating_add(24);
            if x.saturating_add(width) > self.width.saturating_sub(MARGIN) {
                (x, y) = (MARGIN, y.saturating_add(24));
            }
            let at = (x, y);
            x = x.saturating_add(width).saturating_add(20);
            (class, name, at)
        };
        self.colours().into_iter().map(place).collect()
    }

    /// The classes that occur, and what they mean.
    fn colours(&self) -> Vec<(Cow<'static, str>, String)> {
        let kinds = self.areas.iter().map(|area| self.describe(area.layer).1).collect::<Vec<_>>();
        let mut nodes: Vec<u32> = self.layout.zones().iter().filter_map(|zone| zone.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let kinds =
            KINDS.iter().filter(|kind| kinds.contains(kind)).map(|&kind| (class(kind).into(), kind.to_string()));
        let nodes =
            nodes.into_iter().map(|node| (format!("mm-node{}", node_colour(node)).into(), format!("node {node}")));
        kinds.chain(nodes).collect()
    }
}

fn is_bracketed(area: &Area<'_>) -> bool {
    area.level == 0 && area.rows > 1
}

fn text(f: &mut fmt::Formatter<'_>, (x, y): (u32, u32), class: &str, text: &str) -> fmt::Result {
    writeln!(f, r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#, Escaped(text))
}

fn end_text(f: &mut fmt::Formatter<'_>, (x, y): (u32, u32), text: &str) -> fmt::Result {
    writeln!(f, r#"<text x="{x}" y="{y}" text-anchor="end">{}</text>"#, Escaped(text))
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let legend = self.legend();
        let end = legend.last().map_or(self.bottom(), |(_, _, (_, y))| *y);
        let (width, height) = (self.width, end.saturating_add(MARGIN));
        writeln!(
            f,
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="mm" role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
        )?;
        writeln!(f, "<title>Guest-physical addresses</title>\n<desc>{}</desc>", Escaped(&self.layout.to_string()))?;
        writeln!(f, "<style>\n{STYLE}</style>")?;
        let (inner_width, inner_height) = (width.saturating_sub(1), height.saturating_sub(1));
        writeln!(f, r#"<rect class="mm-page" x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" rx="8"/>"#)?;
        self.heading(f)?;
        self.areas.iter().try_for_each(|area| self.area(f, area))?;
        self.rows.iter().try_for_each(|row| self.row(f, row))?;
        self.addresses(f)?;
        self.areas.iter().filter(|area| is_bracketed(area)).try_for_each(|area| self.bracket(f, area))?;
        for (class, name, (x, y)) in legend {
            let top = y.saturating_sub(11);
            writeln!(f, r#"<rect class="{class}" x="{x}" y="{top}" width="16" height="14" rx="3"/>"#)?;
            text(f, (x.saturating_add(24), y), "mm-soft", &name)?;
        }
        f.write_str("</svg>\n")
    }
}
