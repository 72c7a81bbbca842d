use std::fmt;
use std::io::{self, ErrorKind};

use super::segments::{Run, to_io};
use super::{GuestBuffers, Segment};
use crate::atomic::RegionMap;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{DataInit, IoMemory, WriteVolatile};

/// Segments that a device reads, as one run of bytes: from the first to the last, however they are divided.
///
/// Memory of any kind, also such as has no host addresses. Each access finds its bytes by itself, and costs a lookup for
/// each segment that it touches; nothing is allocated. The segments are a copy that the driver cannot change; the bytes may
/// change at any time.
///
/// An access that is to have more bytes than are left is `PartialBuffer { completed: 0, .. }`, and nothing is done. Other
/// errors are the memory's, as of one access to all of the bytes: what came before the first bad byte is done, and the
/// reader goes on behind it. A segment of no bytes is nowhere, and one that would go past the end of the address space ends
/// there.
///
/// ```
/// use memory_model::buffers::{Reader, Segment};
/// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress, Le32, Le64};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// mem.write_slice(b"\x01\0\0\0\x02\0\0\0the ", GuestAddress(0x100))?;
/// mem.write_slice(b"\0\0\0\0data", GuestAddress(0x200))?;
/// let segments = [(0x104, 4), (0x200, 4), (0x108, 4), (0x204, 4)];
/// let segments = segments.map(|(addr, len)| Segment { addr: IoAddress(addr), len });
///
/// let mut reader = Reader::new(&mem, &segments);
/// assert_eq!(reader.read_obj::<Le64>()?, 2); // half of it in the first segment
/// let mut data = Vec::new();
/// reader.read_all_into(&mut data, reader.remaining())?;
/// assert_eq!(data, b"the data");
/// assert!(reader.read_obj::<Le32>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader<'a, I> {
    mem: &'a I,
    run: Run<'a>,
}

impl<'a, I: IoMemory> Reader<'a, I> {
    /// A reader of all the bytes of `segments`, in `mem`.
    #[inline]
    pub fn new(mem: &'a I, segments: &'a [Segment]) -> Self {
        Self { mem, run: Run::new(segments) }
    }

    /// The number of bytes that were not read yet.
    #[inline]
    pub fn remaining(&self) -> u64 {
        self.run.left()
    }

    /// The number of bytes that were read, skipped, or given as buffers.
    #[inline]
    pub fn bytes_read(&self) -> u64 {
        self.run.done()
    }

    /// Reads a value: one access if it lies in one segment, and as [`Bytes::read_obj`](crate::Bytes::read_obj) has it.
    ///
    /// # Errors
    ///
    /// As for the type.
    #[inline]
    pub fn read_obj<T: DataInit>(&mut self) -> Result<T, Error> {
        if let Some(addr) = self.run.whole(size_of::<T>()) {
            return self.run.settle(size_of::<T>(), self.mem.read_obj(addr));
        }
        let mut value = T::zeroed();
        self.read_slice(value.as_mut_slice())?;
        Ok(value)
    }

    /// Fills all of `buf`.
    ///
    /// # Errors
    ///
    /// As for the type: the start of `buf` then holds what was read.
    pub fn read_slice(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        self.run.all(buf.len() as u64, |addr, len, done| {
            let rest = buf.get_mut(done..).unwrap_or_default();
            self.mem.read_slice(rest.get_mut(..len).unwrap_or_default(), addr).map(|()| len)
        })
    }

    /// Reads exactly `count` bytes, which go into `dst`, in as many steps as it takes; goes on after interruptions and short
    /// writes.
    ///
    /// # Errors
    ///
    /// As for the type; `PartialBuffer` if `dst` takes no more; `Io` if it fails. In each case
    /// [`bytes_read`](Self::bytes_read) says how far it came.
    pub fn read_all_into<D: WriteVolatile>(&mut self, dst: &mut D, count: u64) -> Result<(), Error> {
        self.run.all(count, |addr, len, _| self.mem.read_into(addr, dst, len))
    }

    /// Goes on after `count` bytes, wherever they are.
    ///
    /// # Errors
    ///
    /// `PartialBuffer`, as for the type.
    pub fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.run.skip(count)
    }

    /// The next `offset` bytes, and those that follow: two readers. The first goes on from what was read already; the second
    /// has read nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset <= remaining()`.
    pub fn split_at(self, offset: u64) -> Result<(Self, Self), Error> {
        let (run, rest) = self.run.split_at(offset)?;
        Ok((Self { run, ..self }, Self { run: rest, ..self }))
    }

    /// The next `count` bytes as buffers, which another reads without a copy in between. All of them are found, and count
    /// as read.
    ///
    /// # Errors
    ///
    /// As for [`GuestBuffers::new`], and `PartialBuffer` as for the type: nothing is done then. Where the answer is
    /// [`Error::NoHostMemory`] the reader's other methods reach the bytes.
    #[inline]
    pub fn buffers(&mut self, count: u64) -> Result<GuestBuffers<'a>, Error> {
        let mut buffers = GuestBuffers::empty(Access::Read);
        self.append_to(&mut buffers, count)?;
        Ok(buffers)
    }

    /// Appends the next `count` bytes to buffers, as [`buffers`](Self::buffers) makes them.
    ///
    /// Whoever makes buffers where they are used, [empty](GuestBuffers::empty) ones, saves copies of them: they are large.
    ///
    /// # Errors
    ///
    /// As for [`buffers`](Self::buffers), but that some bytes may be appended; [`Error::Unsupported`] if the buffers are to be written.
    #[inline]
    pub fn append_to(&mut self, buffers: &mut GuestBuffers<'a>, count: u64) -> Result<(), Error> {
        if buffers.access() == Access::Write {
            return Err(Error::Unsupported);
        }
        let before = buffers.len();
        buffers.extend(self.mem, self.run.parts(count)?)?;
        self.run.take(count, buffers.len().saturating_sub(before))
    }
}

impl<I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>> Reader<'_, I> {
    /// As [`buffers`](Self::buffers), and owned: as by [`GuestBuffers::owned`].
    ///
    /// # Errors
    ///
    /// As for [`buffers`](Self::buffers).
    pub fn owned_buffers(&mut self, count: u64) -> Result<GuestBuffers<'static>, Error> {
        let buffers = GuestBuffers::owned(self.mem, self.run.parts(count)?, Access::Read)?;
        self.run.take(count, buffers.len())?;
        Ok(buffers)
    }
}

impl<I: IoMemory> io::Read for Reader<'_, I> {
    /// Fills `buf` as far as there are segments and memory.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.run.some(buf.len(), |addr, len, done| {
            let rest = buf.get_mut(done..).unwrap_or_default();
            self.mem.read(rest.get_mut(..len).unwrap_or_default(), addr)
        });
        read.map_err(|error| to_io(error, ErrorKind::UnexpectedEof))
    }

    /// As [`read_slice`](Reader::read_slice): nothing is done if there are not as many bytes.
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.read_slice(buf).map_err(|error| to_io(error, ErrorKind::UnexpectedEof))
    }
}

impl<I> fmt::Debug for Reader<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({:#x} bytes read, {:#x} remaining)", self.run.done(), self.run.left())
    }
}
