//! A region whose answers can be broken, a limit against hangs, and every operation at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use memory_model::buffers::{GuestBuffers, PinnedSlice, Reader, Segment, Writer};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestSlice, GuestUsize, IoAddress,
    IoMemory, MemoryRegionAddress, MmapRegion, VolatileMemory,
};

/// Runs a case that may hang, in a thread of its own. The limit is far above what any case needs.
pub(crate) fn ends<T: Send + 'static>(name: impl Into<String>, case: impl FnOnce() -> T + Send + 'static) -> T {
    let (name, (sender, receiver)) = (name.into(), mpsc::channel());
    thread::spawn(move || sender.send(catch_unwind(AssertUnwindSafe(case))));
    match receiver.recv_timeout(Duration::from_secs(120)) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => panic!("{name}: it panicked"),
        Err(error) => panic!("{name}: it hangs ({error})"),
    }
}

/// How a number of bytes is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Right,
    Zero,
    Shorter,
    Longer,
    Most,
}

impl Count {
    pub(crate) const WRONG: [Self; 4] = [Self::Zero, Self::Shorter, Self::Longer, Self::Most];

    pub(crate) fn of(self, right: usize) -> usize {
        match self {
            Self::Right => right,
            Self::Zero => 0,
            Self::Shorter => right / 2,
            Self::Longer => right.saturating_add(1),
            Self::Most => usize::MAX,
        }
    }
}

/// How a region breaks its contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Whether `get_slice` returns slices, and of how many bytes.
    pub(crate) slices: Option<Count>,
    /// Where these begin, in bytes above the right place.
    pub(crate) shift: usize,
    /// What `read` and `write` say to have moved. They move what there is.
    pub(crate) moves: Count,
    /// What `len`, `start_addr` and `last_addr` return, one after the other.
    pub(crate) lens: &'static [u64],
    pub(crate) starts: &'static [u64],
    pub(crate) lasts: &'static [u64],
}

/// The region's first address and its length, if nothing is broken.
pub(crate) const START: u64 = 0x1_0000;
pub(crate) const LEN: usize = 0x8000;

impl Way {
    pub(crate) const RIGHT: Self = Self {
        slices: Some(Count::Right),
        shift: 0,
        moves: Count::Right,
        lens: &[LEN as u64],
        starts: &[START],
        lasts: &[START + LEN as u64 - 1],
    };
}

/// A region of host memory, with its own methods throughout.
pub(crate) struct Broken {
    pub(crate) way: Way,
    pub(crate) mapping: MmapRegion,
    /// How often it was asked.
    asked: AtomicU64,
}

impl Broken {
    pub(crate) fn new(way: Way) -> Self {
        Self { way, mapping: MmapRegion::new(LEN).unwrap(), asked: AtomicU64::new(0) }
    }

    fn pick(&self, answers: &[u64]) -> u64 {
        let asked = usize::try_from(self.asked.fetch_add(1, Ordering::Relaxed)).unwrap();
        answers[asked % answers.len()]
    }
}

fn index(addr: MemoryRegionAddress) -> usize {
    usize::try_from(addr.0).unwrap_or(usize::MAX)
}

impl Bytes<MemoryRegionAddress> for Broken {
    type E = Error;
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let slice = GuestSlice::new(self.mapping.as_volatile_slice(), None, GuestAddress(START));
        slice.write(buf, index(addr)).map(|moved| self.way.moves.of(moved))
    }
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Error> {
        let slice = GuestSlice::new(self.mapping.as_volatile_slice(), None, GuestAddress(START));
        slice.read(buf, index(addr)).map(|moved| self.way.moves.of(moved))
    }
}

impl GuestMemoryRegion for Broken {
    fn len(&self) -> GuestUsize {
        self.pick(self.way.lens)
    }
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.pick(self.way.starts))
    }
    fn last_addr(&self) -> GuestAddress {
        GuestAddress(self.pick(self.way.lasts))
    }
    fn is_untracked(&self) -> bool {
        true
    }
    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<GuestSlice<'_>, Error> {
        let wrong = self.way.slices.ok_or(Error::NoHostMemory(GuestAddress(START)))?;
        let from = index(offset).saturating_add(self.way.shift).min(LEN);
        let slice = GuestSlice::new(self.mapping.as_volatile_slice(), None, GuestAddress(START));
        slice.subslice(from, wrong.of(count).min(LEN - from))
    }
}

pub(crate) fn memory(way: Way) -> GuestRegionCollection<Broken> {
    GuestRegionCollection::from_regions(vec![Broken::new(way)]).unwrap()
}

/// A range in the middle of the region, and one apart from it.
pub(crate) const AT: GuestAddress = GuestAddress(START + 0x2000);
pub(crate) const APART: GuestAddress = GuestAddress(START + 0x5000);
/// More than a chunk of what goes through a buffer.
pub(crate) const SIZE: usize = 0x480;
pub(crate) const SIZE_U32: u32 = 0x480;

/// Does everything that reads or writes memory, for the memory of whatever address. Ends.
pub(crate) fn access_all<A, M>(mem: &M, addr: A)
where
    A: memory_model::Address,
    M: Bytes<A, E = Error>,
{
    let mut buf = [1; SIZE];
    mem.write(&buf, addr).ok();
    mem.read(&mut buf, addr).ok();
    mem.write_slice(&buf, addr).ok();
    mem.read_slice(&mut buf, addr).ok();
    mem.write_obj(1_u64, addr).ok();
    mem.read_obj::<u64>(addr).ok();
    mem.read_obj::<[u8; 300]>(addr).ok();
    mem.fill(3, SIZE, addr).ok();
    mem.load::<u32>(addr, Ordering::SeqCst).ok();
    mem.store(1_u32, addr, Ordering::SeqCst).ok();
    mem.compare_exchange(1_u32, 2, addr, Ordering::SeqCst, Ordering::SeqCst).ok();
    mem.write_from(addr, &mut &buf[..], SIZE).ok();
    mem.write_all_from(addr, &mut &buf[..], SIZE).ok();
    mem.read_into(addr, &mut Vec::new(), SIZE).ok();
    mem.read_all_into(addr, &mut Vec::new(), SIZE).ok();
}

/// Does everything that a memory has. Ends.
pub(crate) fn use_memory<M: GuestMemory>(mem: &M) {
    for addr in [AT, GuestAddress(START), GuestAddress(START + LEN as u64 - 1), GuestAddress(0), GuestAddress(u64::MAX)]
    {
        access_all(mem, addr);
        access_all(mem, IoAddress(addr.0));
        mem.check_range(addr, SIZE);
        mem.address_in_range(addr);
        mem.checked_offset(addr, 1);
        mem.get_slice(addr, SIZE).ok();
        mem.get_host_address(addr).ok();
        assert!(mem.get_slices(addr, SIZE).filter_map(Result::ok).map(|slice| slice.len()).sum::<usize>() <= SIZE);
        for other in [APART, GuestAddress(AT.0 + 0x10), GuestAddress(START), GuestAddress(u64::MAX)] {
            mem.copy(addr, other, SIZE).ok();
        }
        GuestBuffers::physical(mem, [(addr, SIZE)], Access::Write).ok();
        use_device(mem, IoAddress(addr.0));
    }
    mem.last_addr();
    mem.total_len();
    mem.num_regions();
}

/// Does everything that a device does. Ends.
pub(crate) fn use_device<I: IoMemory>(mem: &I, addr: IoAddress) {
    let slices = mem.io_slices(addr, SIZE, Access::Write).filter_map(Result::ok);
    assert!(slices.map(|slice| slice.len()).sum::<usize>() <= SIZE);
    if let Ok(buffers) = GuestBuffers::new(mem, [(addr, SIZE)], Access::Write) {
        assert_eq!(buffers.len(), SIZE);
    }
    let segments = [Segment { addr, len: SIZE_U32 }, Segment { addr, len: 1 }];
    let (mut reader, mut writer) = (Reader::new(mem, &segments), Writer::new(mem, &segments));
    reader.buffers(8).ok();
    reader.read_obj::<u64>().ok();
    reader.read_slice(&mut [0; 700]).ok();
    reader.read_all_into(&mut Vec::new(), 100).ok();
    std::io::copy(&mut reader, &mut std::io::sink()).ok();
    writer.buffers(8).ok();
    writer.write_obj(1_u64).ok();
    writer.write_slice(&[0; 700]).ok();
    writer.write_all_from(&mut &[1; 100][..], 100).ok();
    std::io::Write::write_all(&mut writer, &[1; SIZE]).ok();
}

/// Does everything that keeps regions. Ends.
pub(crate) fn use_map<M: memory_model::atomic::RegionMap<Region: Send + Sync + 'static>>(mem: &M) {
    for addr in [AT.0, START, START + LEN as u64 - 1, 0, u64::MAX] {
        if let Ok(buffers) = GuestBuffers::owned(mem, [(IoAddress(addr), SIZE)], Access::Write) {
            assert_eq!(buffers.len(), SIZE);
        }
        if let Ok(pinned) = PinnedSlice::new(mem, IoAddress(addr), SIZE, Access::ReadWrite) {
            assert_eq!(pinned.len(), SIZE);
        }
        PinnedSlice::physical(mem, GuestAddress(addr), SIZE, Access::ReadWrite).ok();
    }
}
