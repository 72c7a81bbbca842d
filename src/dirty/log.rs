use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{GuestAddress, VolatileMemory, VolatileSlice};

/// A dirty bitmap in memory that another process shares, and harvests: the log of vhost-user (`VHOST_USER_SET_LOG_BASE`).
///
/// A bit for each page of 4096 bytes, from guest address 0 on unless another [`base`](Self::from_base) is given; eight of
/// them in a byte, the lowest first. Bits are set by atomic OR, whether they are set already or not: only the other side
/// knows when it takes them.
///
/// The memory is the peer's, who may make it shorter, or take it away, at any time. A mark that does not fit into it is
/// dropped, and counted: see [`dropped`](Self::dropped).
///
/// ```
/// use std::sync::Arc;
/// use memory_model::dirty::LogBitmap;
/// use memory_model::{Bytes, MmapRegion, VolatileMemory};
///
/// let memory = Arc::new(MmapRegion::builder(0x1000).memfd("log").build()?); // 32768 pages: 128 MiB
/// let log = LogBitmap::new(Arc::clone(&memory));
/// log.mark(0x3ffff, 2); // pages 63 and 64
/// assert_eq!(memory.as_volatile_slice().read_obj::<[u8; 9]>(0)?, [0, 0, 0, 0, 0, 0, 0, 0x80, 1]);
/// log.mark(128 << 20, 1);
/// assert_eq!(log.dropped(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LogBitmap {
    memory: Arc<dyn Shared>,
    /// The number of the page that has the first bit.
    first: u64,
    dropped: AtomicU64,
}

/// The size of a page of the log, as a power of two: vhost-user, "Migration".
const PAGE_SHIFT: u32 = 12;

/// Memory that is shared with the peer.
trait Shared: Send + Sync {
    fn slice(&self) -> VolatileSlice<'_>;
}

impl<M: VolatileMemory + Send + Sync> Shared for M {
    fn slice(&self) -> VolatileSlice<'_> {
        self.as_volatile_slice()
    }
}

impl LogBitmap {
    /// The log that has all of `memory`, from guest address 0 on: cut it to the size that the peer tells.
    pub fn new<M: VolatileMemory + Send + Sync + 'static>(memory: Arc<M>) -> Self {
        Self::from_base(memory, GuestAddress(0))
    }

    /// The log that has all of `memory`, whose first bit is that of the page of guest address `base`. Pages below have none.
    pub fn from_base<M: VolatileMemory + Send + Sync + 'static>(memory: Arc<M>, base: GuestAddress) -> Self {
        Self { memory, first: base.0 >> PAGE_SHIFT, dropped: AtomicU64::new(0) }
    }

    /// Marks the pages that have any of `len` bytes at guest address `start`. To be called after the data is there.
    pub fn mark(&self, start: u64, len: u64) {
        let Some(beyond_first) = len.checked_sub(1) else { return };
        let (first, last) = (start >> PAGE_SHIFT, start.saturating_add(beyond_first) >> PAGE_SHIFT);
        if first < self.first {
            let below = last.min(self.first.saturating_sub(1));
            self.dropped.fetch_add(below.saturating_sub(first).saturating_add(1), Ordering::Relaxed);
        }
        let Some(last) = last.checked_sub(self.first) else { return };
        let log = self.memory.slice();
        let mut page = first.saturating_sub(self.first);
        while page <= last {
            // As many bits as one access has: eight bytes, or one where there are not eight.
            let word = usize::try_from(page >> 6 << 3).unwrap_or(usize::MAX);
            let whole = log.subslice(word, 8).is_ok_and(|word| word.as_ptr().addr() % 8 == 0);
            let in_byte = usize::try_from(page >> 3).unwrap_or(usize::MAX);
            let (bits, done) = if whole {
                let to = last.min(page | 63);
                (log.set_bits(mask(page & 63, to & 63).to_le(), word, Ordering::Release).is_ok(), to)
            } else {
                let to = last.min(page | 7);
                #[expect(clippy::cast_possible_truncation, reason = "bits 0 to 7")]
                let bits = mask(page & 7, to & 7) as u8;
                (log.set_bits(bits, in_byte, Ordering::Release).is_ok(), to)
            };
            if !bits {
                self.dropped.fetch_add(last.saturating_sub(page).saturating_add(1), Ordering::Relaxed);
                return;
            }
            page = done.saturating_add(1);
        }
    }

    /// How many marks of pages were dropped, since it was made, as they did not fit into the memory, lay below the base, or
    /// the memory was not accessible. The peer's mistake, who has to be told, or left.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn mask(first: u64, last: u64) -> u64 {
    (u64::MAX << first) & (u64::MAX >> 63_u64.saturating_sub(last))
}

impl fmt::Debug for LogBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogBitmap({:#x} bytes, {} pages dropped)", self.memory.slice().len(), self.dropped())
    }
}
