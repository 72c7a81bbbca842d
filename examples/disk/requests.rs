//! Where requests lie in guest memory, and how large they are.

use std::fmt;

use memory_model::IoAddress;
use memory_model_virtio::Segment;

pub(crate) const QUEUE_SIZE: u16 = 64;

/// How many requests are in flight.
pub(crate) const SLOTS: u64 = 4;

/// The longest request, in bytes.
pub(crate) const MAX_LEN: u32 = 1 << 20;

/// Where slots keep their headers, statuses and tables, a page each; and their data. The first slot's data lies across
/// the boundary of the first two regions, the others' one in each region.
const CONTROL: u64 = 0x1_0000;
const BOUNDARY: u64 = 4 << 20;
const DATA: [u64; 3] = [1 << 20, 8 << 20, (1 << 32) + 0x123];

/// One request at a time: its place in guest memory.
#[derive(Clone, Copy)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    /// 16 bytes that the device reads.
    pub(crate) fn header(self) -> Segment {
        Segment { addr: IoAddress(CONTROL + self.0 * 0x1000), len: 16 }
    }

    /// A byte that the device writes.
    pub(crate) fn status(self) -> Segment {
        Segment { addr: IoAddress(CONTROL + self.0 * 0x1000 + 0x20), len: 1 }
    }

    /// An indirect table of some entries.
    pub(crate) fn table(self) -> IoAddress {
        IoAddress(CONTROL + self.0 * 0x1000 + 0x100)
    }

    /// `len` bytes, at most [`MAX_LEN`].
    pub(crate) fn data(self, len: u32, random: &mut Random) -> Segment {
        let addr = match self.0.checked_sub(1) {
            Some(number) => DATA[usize::try_from(number).unwrap_or(0) % DATA.len()],
            // As many bytes below the boundary as chance will have it.
            None => BOUNDARY - random.below(u64::from(len)) - 1,
        };
        Segment { addr: IoAddress(addr), len }
    }
}

/// `data` in up to four segments, as a guest's scattered pages are.
pub(crate) fn scatter(data: Segment, random: &mut Random) -> Vec<Segment> {
    let mut rest = data;
    let mut segments = Vec::new();
    for _ in 0..random.below(4) {
        let len = u32::try_from(random.below(u64::from(rest.len))).unwrap_or(0);
        if len > 0 {
            segments.push(Segment { len, ..rest });
            rest = Segment { addr: IoAddress(rest.addr.0 + u64::from(len)), len: rest.len - len };
        }
    }
    segments.push(rest);
    segments
}

/// How many sectors the next request has, of those that are left on a disk of `sectors`: from one to a MiB, small ones as
/// often as large ones. A small disk is read by small requests, so that there are many.
pub(crate) fn request_sectors(left: u64, sectors: u64, random: &mut Random) -> u64 {
    let largest = (sectors / 64).clamp(8, u64::from(MAX_LEN) / 512);
    let most = largest >> random.below(12);
    (1 + random.below(most.max(1))).min(left)
}

/// Chance that is the same in every run (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// What the driver has done.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stats {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// Requests with data on both sides of the boundary of two regions.
    pub(crate) crossing: u64,
    pub(crate) indirect: u64,
    pub(crate) kicks: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, bytes, crossing, indirect, kicks } = self;
        write!(
            f,
            "requests: {requests} for {bytes} bytes; {crossing} crossed a region boundary, {indirect} by an indirect \
             table; {kicks} notifications"
        )
    }
}
