//! Where everything is drawn. Lengths are in pixels, `y` grows downwards.

use alloc::vec::Vec;

use super::super::entry::Piece;
use super::super::span::Span;
use super::super::{EntryKind, GuestLayout, Named, ZoneRange};

/// The height of a row of 4 KiB or less.
const LOWEST_ROW: u32 = 26;
/// How far the boxes of what lies inside of something stand off it, above and below.
const INSET: u32 = 3;

/// One line of text: addresses that are all the same.
pub(super) struct Row<'a> {
    pub(super) piece: Piece<'a>,
    pub(super) top: u32,
    pub(super) height: u32,
    /// What the addresses belong to, the outermost first: never empty.
    layers: Vec<Layer<'a>>,
}

/// Something that is drawn as a box.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    Hole(&'a Named),
    Range(&'a ZoneRange),
    Allocation(&'a Named),
    Reservation(&'a Named),
    Unused,
}

/// A box: a layer over adjacent rows.
pub(super) struct Area<'a> {
    pub(super) layer: Layer<'a>,
    /// How many boxes are around it.
    pub(super) level: u32,
    pub(super) top: u32,
    pub(super) height: u32,
    /// How many rows are in it.
    pub(super) rows: usize,
    /// Those of its addresses that are in these rows.
    pub(super) span: Span,
}

/// The rows, the highest addresses first.
pub(super) fn rows<'a>(layout: &'a GuestLayout, top: u32) -> Vec<Row<'a>> {
    let mut next = top;
    let row = |piece: Piece<'a>| {
        let layers = layers(&piece);
        let inside = u32::try_from(layers.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let (_, kind) = piece.name_and_kind();
        // Memory grows faster than room does.
        let steep = if matches!(kind, EntryKind::Hole | EntryKind::Unused) { 1 } else { 2 };
        let doublings = piece.span.len().max(0x1000).ilog2().saturating_sub(12);
        let height = LOWEST_ROW.saturating_add(doublings.saturating_mul(steep));
        let height = height.saturating_add(inside.saturating_mul(2 * INSET));
        let top = next;
        next = next.saturating_add(height);
        Row { piece, top, height, layers }
    };
    layout.pieces().into_iter().rev().map(row).collect()
}

fn layers<'a>(piece: &Piece<'a>) -> Vec<Layer<'a>> {
    let layers = [
        piece.hole.map(Layer::Hole),
        piece.range.map(Layer::Range),
        piece.allocation.map(Layer::Allocation),
        piece.reservation.map(Layer::Reservation),
    ];
    let mut layers: Vec<_> = layers.into_iter().flatten().collect();
    if layers.is_empty() {
        layers.push(Layer::Unused);
    }
    layers
}

/// The boxes: those that are around others first.
pub(super) fn areas<'a>(rows: &[Row<'a>]) -> Vec<Area<'a>> {
    let mut areas: Vec<Area<'a>> = Vec::new();
    let deepest = rows.iter().map(|row| row.layers.len()).max().unwrap_or(0);
    for (level, depth) in (0..deepest).zip(0_u32..) {
        let inset = depth.saturating_mul(INSET);
        let mut continued = false;
        for row in rows {
            let Some(&layer) = row.layers.get(level) else {
                continued = false;
                continue;
            };
            let bottom = row.top.saturating_add(row.height).saturating_sub(inset);
            if let Some(area) = areas.last_mut().filter(|area| continued && area.layer.is(layer)) {
                area.height = bottom.saturating_sub(area.top);
                area.rows = area.rows.saturating_add(1);
                area.span.start = row.piece.span.start;
            } else {
                let top = row.top.saturating_add(inset);
                let height = bottom.saturating_sub(top);
                areas.push(Area { layer, level: depth, top, height, rows: 1, span: row.piece.span });
            }
            continued = true;
        }
    }
    areas
}

impl Row<'_> {
    /// How many boxes are around the one with its text.
    pub(super) fn level(&self) -> u32 {
        u32::try_from(self.layers.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }
}

impl Layer<'_> {
    /// Whether they are one thing: of one sort, no two begin at one address.
    fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Hole(one), Self::Hole(other))
            | (Self::Allocation(one), Self::Allocation(other))
            | (Self::Reservation(one), Self::Reservation(other)) => one.span == other.span,
            (Self::Range(one), Self::Range(other)) => one == other,
            _ => false,
        }
    }
}
