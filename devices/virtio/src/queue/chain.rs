//! One buffer of a queue: segments in memory, seen as two runs of bytes.

use memory_model::IoMemory;
use memory_model::buffers::{Reader, Segment, Writer};

use super::walk::Walked;

/// One buffer that the driver has made available: bytes for the device to read, then bytes for it to write.
///
/// Lives until the queue is used again; a device that handles several at once keeps the head, and owned buffers of the
/// bytes.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'q> {
    walked: Walked,
    segments: &'q [Segment],
}

impl<'q> Chain<'q> {
    #[inline]
    pub(super) fn new(walked: Walked, segments: &'q [Segment]) -> Self {
        Self { walked, segments }
    }

    /// The index of the first descriptor: the chain's name in the used ring.
    #[inline]
    pub fn head(&self) -> u16 {
        u16::try_from(self.walked.head).unwrap_or_default()
    }

    /// All segments, device-readable ones first.
    #[inline]
    pub fn segments(&self) -> &'q [Segment] {
        self.segments
    }

    /// Where the device-readable bytes are.
    #[inline]
    pub fn readable(&self) -> Run<'q> {
        let segments = self.segments.get(..self.walked.readable).unwrap_or_default();
        Run { segments, len: self.walked.readable_bytes }
    }

    /// Where the device-writable bytes are.
    #[inline]
    pub fn writable(&self) -> Run<'q> {
        let segments = self.segments.get(self.walked.readable..).unwrap_or_default();
        Run { segments, len: self.walked.writable_bytes }
    }

    /// Reads the device-readable bytes, which are in `mem`.
    #[inline]
    pub fn reader<'a, I: IoMemory>(&self, mem: &'a I) -> Reader<'a, I>
    where
        'q: 'a,
    {
        Reader::new(mem, self.readable().segments)
    }

    /// Writes the device-writable bytes, which are in `mem`.
    #[inline]
    pub fn writer<'a, I: IoMemory>(&self, mem: &'a I) -> Writer<'a, I>
    where
        'q: 'a,
    {
        Writer::new(mem, self.writable().segments)
    }
}

/// Bytes of a chain, as the driver has divided them. A device makes nothing of the division (VIRTIO 1.2, 2.7.4.1).
#[derive(Clone, Copy, Debug)]
pub struct Run<'q> {
    segments: &'q [Segment],
    /// The sum of the segments' lengths.
    len: u64,
}

impl<'q> Run<'q> {
    /// The number of bytes, at most 2^32.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they are, in order. None is empty, nor goes past the end of the address space.
    #[inline]
    pub fn segments(&self) -> &'q [Segment] {
        self.segments
    }
}
