//! One buffer of a queue: segments in memory, seen as two runs of bytes.

use memory_model::guest_memory::Error;
use memory_model::{DataInit, IoAddress, IoMemory, ReadVolatile, WriteVolatile};

use super::walk::Walked;

/// A contiguous part of a buffer, in device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The address of its first byte.
    pub addr: IoAddress,
    /// Its length in bytes.
    pub len: u32,
}

/// One buffer that the driver has made available: bytes for the device to read, then bytes for it to write.
///
/// Lives until the queue is used again; a device that handles several at once keeps the head, and a copy of the
/// segments.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'q> {
    head: u16,
    readable: Readable<'q>,
    writable: Writable<'q>,
}

impl<'q> Chain<'q> {
    #[inline]
    pub(super) fn new(walked: &Walked, segments: &'q [Segment]) -> Self {
        let (readable, writable) = segments.split_at_checked(walked.readable).unwrap_or_default();
        Self {
            head: walked.head,
            readable: Readable(Run { segments: readable, len: walked.readable_bytes }),
            writable: Writable(Run { segments: writable, len: walked.writable_bytes }),
        }
    }

    /// The index of the first descriptor: the chain's name in the used ring.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The device-readable bytes.
    #[inline]
    pub fn readable(&self) -> Readable<'q> {
        self.readable
    }

    /// The device-writable bytes.
    #[inline]
    pub fn writable(&self) -> Writable<'q> {
        self.writable
    }
}

/// Segments as one run of bytes.
#[derive(Clone, Copy, Debug)]
struct Run<'q> {
    segments: &'q [Segment],
    /// The sum of the segments' lengths.
    len: u64,
}

impl<'q> Run<'q> {
    #[inline]
    fn parts(self, offset: u64, len: u64) -> Parts<'q> {
        Parts { segments: self.segments, skip: offset, left: len }
    }

    /// Does `step(part, done)` for all parts of a range, if the run has it.
    #[inline]
    fn each(
        self,
        offset: u64,
        len: u64,
        mut step: impl FnMut(Segment, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::PartialBuffer { expected: usize::try_from(len).unwrap_or(usize::MAX), completed: 0 });
        }
        let mut done: usize = 0;
        for part in self.parts(offset, len) {
            step(part, done)?;
            done = done.saturating_add(part.len as usize);
        }
        Ok(())
    }

    /// The address of a range that lies in one segment.
    #[inline]
    fn whole(self, offset: u64, len: usize) -> Option<IoAddress> {
        let part = self.parts(offset, len as u64).next()?;
        (part.len as usize == len).then_some(part.addr)
    }
}

/// The parts of a range of a chain's bytes, each contiguous, in order.
#[derive(Clone, Debug)]
pub struct Parts<'q> {
    segments: &'q [Segment],
    /// The bytes before the range.
    skip: u64,
    /// The bytes of the range that are still to come.
    left: u64,
}

impl Iterator for Parts<'_> {
    type Item = Segment;

    #[inline]
    fn next(&mut self) -> Option<Segment> {
        while self.left > 0 {
            let (&Segment { addr, len }, rest) = self.segments.split_first()?;
            self.segments = rest;
            // What of the segment lies in the range, if anything does.
            match u32::try_from(self.skip).ok().and_then(|skip| len.checked_sub(skip)).filter(|&len| len > 0) {
                None => self.skip = self.skip.saturating_sub(u64::from(len)),
                Some(reach) => {
                    let part = u32::try_from(self.left).unwrap_or(u32::MAX).min(reach);
                    // Inside the segment, which does not wrap.
                    let addr = IoAddress(addr.0.wrapping_add(self.skip));
                    self.skip = 0;
                    self.left = self.left.saturating_sub(u64::from(part));
                    return Some(Segment { addr, len: part });
                }
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Parts<'_> {}

macro_rules! run {
    ($(#[$doc:meta])* $T:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $T<'q>(Run<'q>);

        impl<'q> $T<'q> {
            /// The number of bytes, at most 2^32.
            #[inline]
            pub fn len(&self) -> u64 {
                self.0.len
            }

            /// Whether there is no byte.
            #[inline]
            pub fn is_empty(&self) -> bool {
                self.0.len == 0
            }

            /// The segments, as the driver has divided the bytes. A device makes nothing of the division (VIRTIO 1.2,
            /// 2.7.4.1).
            #[inline]
            pub fn segments(&self) -> &'q [Segment] {
                self.0.segments
            }

            /// The contiguous parts of `len` bytes from `offset`, in order; fewer if there are not as many.
            #[inline]
            pub fn parts(&self, offset: u64, len: u64) -> Parts<'q> {
                self.0.parts(offset, len)
            }
        }
    };
}

run! {
    /// The device-readable bytes of a chain, in whichever segments they are.
    ///
    /// Each access fails with `PartialBuffer { completed: 0, .. }`, and touches nothing, if the chain has not as many
    /// bytes. Other errors are the memory's, of the segment that it fails in; the segments before it are done.
    Readable
}

run! {
    /// The device-writable bytes of a chain, in whichever segments they are.
    ///
    /// Each access fails with `PartialBuffer { completed: 0, .. }`, and touches nothing, if the chain has not as many
    /// bytes. Other errors are the memory's, of the segment that it fails in; the segments before it are done.
    Writable
}

impl Readable<'_> {
    /// Reads a value at `offset`, which may be divided between segments.
    ///
    /// # Errors
    ///
    /// As for the type.
    #[inline]
    pub fn read_obj<T: DataInit>(&self, mem: &impl IoMemory, offset: u64) -> Result<T, Error> {
        if let Some(addr) = self.0.whole(offset, size_of::<T>()) {
            return mem.read_obj(addr);
        }
        let mut value = T::zeroed();
        self.read_slice(mem, value.as_mut_slice(), offset)?;
        Ok(value)
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn read_slice(&self, mem: &impl IoMemory, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.0.each(offset, buf.len() as u64, |part, done| {
            let rest = buf.get_mut(done..).unwrap_or_default();
            mem.read_slice(rest.get_mut(..part.len as usize).unwrap_or_default(), part.addr)
        })
    }

    /// Reads `count` bytes from `offset` on, which go into `dst`.
    ///
    /// # Errors
    ///
    /// As for the type, and those of `dst`.
    pub fn read_all_into(
        &self,
        mem: &impl IoMemory,
        offset: u64,
        dst: &mut impl WriteVolatile,
        count: u64,
    ) -> Result<(), Error> {
        self.0.each(offset, count, |part, _| mem.read_all_into(part.addr, dst, part.len as usize))
    }
}

impl Writable<'_> {
    /// Writes a value at `offset`, which may be divided between segments.
    ///
    /// # Errors
    ///
    /// As for the type.
    #[inline]
    pub fn write_obj<T: DataInit>(&self, mem: &impl IoMemory, val: T, offset: u64) -> Result<(), Error> {
        match self.0.whole(offset, size_of::<T>()) {
            Some(addr) => mem.write_obj(val, addr),
            None => self.write_slice(mem, val.as_slice(), offset),
        }
    }

    /// Writes all of `buf` from `offset` on.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn write_slice(&self, mem: &impl IoMemory, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.0.each(offset, buf.len() as u64, |part, done| {
            let rest = buf.get(done..).unwrap_or_default();
            mem.write_slice(rest.get(..part.len as usize).unwrap_or_default(), part.addr)
        })
    }

    /// Writes `byte` to `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn fill(&self, mem: &impl IoMemory, byte: u8, offset: u64, len: u64) -> Result<(), Error> {
        self.0.each(offset, len, |part, _| mem.fill(byte, part.len as usize, part.addr))
    }

    /// Writes `count` bytes from `offset` on, which come from `src`.
    ///
    /// # Errors
    ///
    /// As for the type, and those of `src`.
    pub fn write_all_from(
        &self,
        mem: &impl IoMemory,
        offset: u64,
        src: &mut impl ReadVolatile,
        count: u64,
    ) -> Result<(), Error> {
        self.0.each(offset, count, |part, _| mem.write_all_from(part.addr, src, part.len as usize))
    }
}
