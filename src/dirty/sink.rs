use std::sync::Arc;

use super::{DirtyBitmap, LogBitmap};

/// Where writes are marked besides a region's own logs: see [`Tracker::attach`](super::Tracker::attach).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sink {
    /// In a bitmap of the caller's, of which offset 0 is the address `base`.
    Bitmap {
        /// The bitmap.
        bitmap: Arc<DirtyBitmap>,
        /// The address that its first byte stands for. Writes below it are not marked.
        base: u64,
    },
    /// In a bitmap that another process harvests, by address.
    Log(Arc<LogBitmap>),
}

impl Sink {
    /// Whether both are the same bitmap.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bitmap { bitmap: a, .. }, Self::Bitmap { bitmap: b, .. }) => Arc::ptr_eq(a, b),
            (Self::Log(a), Self::Log(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(super) fn mark(&self, start: u64, len: u64) {
        match self {
            Self::Bitmap { bitmap, base } => mark_from(bitmap, *base, start, len),
            Self::Log(log) => log.mark(start, len),
        }
    }
}

/// Marks by address in a bitmap of which offset 0 is the address `base`.
pub(super) fn mark_from(bitmap: &DirtyBitmap, base: u64, start: u64, len: u64) {
    match start.checked_sub(base) {
        Some(offset) => bitmap.mark(offset, len),
        None => bitmap.mark(0, len.saturating_sub(base.saturating_sub(start))),
    }
}
