//! Memory, with what is marked as dirty in it; regions without host memory; and streams that do not do all at once.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use memory_model::buffers::Segment;
use memory_model::dirty::{DirtyBitmap, Sink};
use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, IoAddress, MemoryRegionAddress, ReadVolatile,
    VolatileSlice, WriteVolatile,
};

pub(crate) fn segment(addr: u64, len: u32) -> Segment {
    Segment { addr: IoAddress(addr), len }
}

/// Memory of some regions: their addresses and lengths.
pub(crate) fn memory(spans: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = spans.iter().map(|&(start, len)| (GuestAddress(start), len)).collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

/// Which bytes are marked as dirty, a bit for each.
pub(crate) struct Marks(Vec<(u64, Arc<DirtyBitmap>)>);

impl Marks {
    /// From now on.
    pub(crate) fn of(mem: &GuestMemoryMmap) -> Self {
        let track = |region: &memory_model::GuestRegionMmap| {
            let base = region.start_addr().0;
            let bitmap = Arc::new(DirtyBitmap::new(region.len(), 1).unwrap());
            region.tracker().unwrap().attach(Sink::Bitmap { bitmap: Arc::clone(&bitmap), base });
            (base, bitmap)
        };
        Self(mem.regions().map(track).collect())
    }

    /// The addresses of those that were marked since it was asked last.
    pub(crate) fn take(&self) -> BTreeSet<u64> {
        let mut marked = BTreeSet::new();
        for (base, bitmap) in &self.0 {
            let harvest = bitmap.harvest();
            marked.extend(harvest.ranges().flat_map(|range| (0..range.len).map(move |n| base + range.start + n)));
            harvest.commit();
        }
        marked
    }
}

/// A region that only its own two methods reach.
pub(crate) struct Device {
    start: GuestAddress,
    bytes: Mutex<Vec<u8>>,
}

impl Device {
    pub(crate) fn new(start: u64, len: usize) -> Self {
        Self { start: GuestAddress(start), bytes: Mutex::new(vec![0; len]) }
    }
}

impl Bytes<MemoryRegionAddress> for Device {
    type E = Error;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let mut bytes = self.bytes.lock().unwrap();
        let place = bytes.iter_mut().skip(usize::try_from(addr.0).unwrap()).zip(buf);
        Ok(place.map(|(to, from)| *to = *from).count())
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let bytes = self.bytes.lock().unwrap();
        let place = bytes.iter().skip(usize::try_from(addr.0).unwrap()).zip(buf);
        Ok(place.map(|(from, to)| *to = *from).count())
    }
}

impl GuestMemoryRegion for Device {
    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }
}

/// The other end of a transfer: a few bytes at a time, now and then interrupted, until it has had as many as it holds.
pub(crate) struct Slow {
    pub(crate) bytes: Vec<u8>,
    done: usize,
    /// What comes after the last byte: the end, or an error.
    fails: bool,
    calls: usize,
}

impl Slow {
    pub(crate) fn new(bytes: Vec<u8>, fails: bool) -> Self {
        Self { bytes, done: 0, fails, calls: 0 }
    }

    /// What was moved.
    pub(crate) fn moved(&self) -> &[u8] {
        &self.bytes[..self.done]
    }

    /// The bytes of the next step, of `wanted`.
    fn step(&mut self, wanted: usize) -> io::Result<std::ops::Range<usize>> {
        self.calls += 1;
        if self.calls % 3 == 2 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.fails && self.done == self.bytes.len() && wanted > 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(self.done..self.bytes.len().min(self.done + wanted.min(5)))
    }
}

impl ReadVolatile for Slow {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let range = self.step(buf.len())?;
        let count = buf.copy_from(&self.bytes[range])?;
        self.done += count;
        Ok(count)
    }
}

impl WriteVolatile for Slow {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let range = self.step(buf.len())?;
        let count = buf.copy_to(&mut self.bytes[range])?;
        self.done += count;
        Ok(count)
    }
}
