use std::fmt;
use std::io::{self, ErrorKind};

use super::segments::{Run, to_io};
use super::{GuestBuffers, Segment};
use crate::atomic::RegionMap;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{DataInit, IoMemory, ReadVolatile};

/// Segments that a device writes, as one run of bytes: from the first to the last, however they are divided.
///
/// Memory of any kind, also such as has no host addresses. Each access finds its bytes by itself, and costs a lookup for
/// each segment that it touches; nothing is allocated. What is written is marked as dirty.
///
/// An access that is to have more bytes than are left is `PartialBuffer { completed: 0, .. }`, and nothing is done. Other
/// errors are the memory's, as of one access to all of the bytes: what came before the first bad byte is done, and the
/// writer goes on behind it. A segment of no bytes is nowhere, and one that would go past the end of the address space ends
/// there.
///
/// ```
/// use memory_model::buffers::{Segment, Writer};
/// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)])?;
/// let segments = [(0x100, 6), (0x200, 3), (0x300, 1)].map(|(addr, len)| Segment { addr: IoAddress(addr), len });
///
/// let (mut data, mut status) = Writer::new(&mem, &segments).split_at(9)?;
/// data.write_all_from(&mut &b"the data"[..], 8)?; // from a file, a socket, or a slice
/// data.fill(0, data.remaining())?;
/// status.write_obj(b'!')?;
/// assert_eq!((mem.read_obj(GuestAddress(0x100))?, mem.read_obj(GuestAddress(0x200))?), (*b"the da", *b"ta\0"));
/// assert_eq!(mem.read_obj::<u8>(GuestAddress(0x300))?, b'!');
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Writer<'a, I> {
    mem: &'a I,
    run: Run<'a>,
}

impl<'a, I: IoMemory> Writer<'a, I> {
    /// A writer of all the bytes of `segments`, in `mem`.
    #[inline]
    pub fn new(mem: &'a I, segments: &'a [Segment]) -> Self {
        Self { mem, run: Run::new(segments) }
    }

    /// The number of bytes that were not written yet.
    #[inline]
    pub fn remaining(&self) -> u64 {
        self.run.left()
    }

    /// The number of bytes that were written, or given as buffers.
    #[inline]
    pub fn bytes_written(&self) -> u64 {
        self.run.done()
    }

    /// Writes a value: one access if it lies in one segment, and as [`Bytes::write_obj`](crate::Bytes::write_obj) has it.
    ///
    /// # Errors
    ///
    /// As for the type.
    #[inline]
    pub fn write_obj<T: DataInit>(&mut self, val: T) -> Result<(), Error> {
        match self.run.whole(size_of::<T>()) {
            Some(addr) => self.run.settle(size_of::<T>(), self.mem.write_obj(val, addr)),
            None => self.write_slice(val.as_slice()),
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn write_slice(&mut self, buf: &[u8]) -> Result<(), Error> {
        self.run.all(buf.len() as u64, |addr, len, done| {
            let rest = buf.get(done..).unwrap_or_default();
            self.mem.write_slice(rest.get(..len).unwrap_or_default(), addr).map(|()| len)
        })
    }

    /// Writes `byte` to the next `count` bytes.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn fill(&mut self, byte: u8, count: u64) -> Result<(), Error> {
        self.run.all(count, |addr, len, _| self.mem.fill(byte, len, addr).map(|()| len))
    }

    /// Writes exactly `count` bytes that come from `src`, in as many steps as it takes; goes on after interruptions and
    /// short reads.
    ///
    /// # Errors
    ///
    /// As for the type; `PartialBuffer` if `src` ends before; `Io` if it fails. In each case
    /// [`bytes_written`](Self::bytes_written) says how far it came.
    pub fn write_all_from<S: ReadVolatile>(&mut self, src: &mut S, count: u64) -> Result<(), Error> {
        self.run.all(count, |addr, len, _| {
            let len = src.source().step(len);
            self.mem.write_from(addr, src, len)
        })
    }

    /// The next `offset` bytes, and those that follow: two writers. The first goes on from what was written already; the
    /// second has written nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset <= remaining()`.
    pub fn split_at(self, offset: u64) -> Result<(Self, Self), Error> {
        let (run, rest) = self.run.split_at(offset)?;
        Ok((Self { run, ..self }, Self { run: rest, ..self }))
    }

    /// The next `count` bytes as buffers, which another writes without a copy in between. All of them are found, and count
    /// as written: whether they are is for the buffers' user to know.
    ///
    /// # Errors
    ///
    /// As for [`GuestBuffers::new`], and `PartialBuffer` as for the type: nothing is done then. Where the answer is
    /// [`Error::NoHostMemory`] the writer's other methods reach the bytes.
    #[inline]
    pub fn buffers(&mut self, count: u64) -> Result<GuestBuffers<'a>, Error> {
        let mut buffers = GuestBuffers::empty(Access::Write);
        self.append_to(&mut buffers, count)?;
        Ok(buffers)
    }

    /// Appends the next `count` bytes to buffers, as [`buffers`](Self::buffers) makes them.
    ///
    /// Whoever makes buffers where they are used, [empty](GuestBuffers::empty) ones, saves copies of them: they are large.
    ///
    /// # Errors
    ///
    /// As for [`buffers`](Self::buffers), but that some bytes may be appended; [`Error::Unsupported`] if the buffers are only to be read.
    #[inline]
    pub fn append_to(&mut self, buffers: &mut GuestBuffers<'a>, count: u64) -> Result<(), Error> {
        if buffers.access() == Access::Read {
            return Err(Error::Unsupported);
        }
        let before = buffers.len();
        buffers.extend(self.mem, self.run.parts(count)?)?;
        self.run.take(count, buffers.len().saturating_sub(before))
    }
}

impl<I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>> Writer<'_, I> {
    /// As [`buffers`](Self::buffers), and owned: as by [`GuestBuffers::owned`].
    ///
    /// # Errors
    ///
    /// As for [`buffers`](Self::buffers).
    pub fn owned_buffers(&mut self, count: u64) -> Result<GuestBuffers<'static>, Error> {
        let buffers = GuestBuffers::owned(self.mem, self.run.parts(count)?, Access::Write)?;
        self.run.take(count, buffers.len())?;
        Ok(buffers)
    }
}

impl<I: IoMemory> io::Write for Writer<'_, I> {
    /// Writes what `buf` holds, as far as there are segments and memory.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.run.some(buf.len(), |addr, len, done| {
            let rest = buf.get(done..).unwrap_or_default();
            self.mem.write(rest.get(..len).unwrap_or_default(), addr)
        });
        written.map_err(|error| to_io(error, ErrorKind::WriteZero))
    }

    /// As [`write_slice`](Writer::write_slice): nothing is done if there is not as much room.
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.write_slice(buf).map_err(|error| to_io(error, ErrorKind::WriteZero))
    }

    /// Does nothing: nothing is kept back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<I> fmt::Debug for Writer<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({:#x} bytes written, {:#x} remaining)", self.run.done(), self.run.left())
    }
}
