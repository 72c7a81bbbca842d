use std::io;

use memory_model::buffers::{Reader, Segment, Writer};
use memory_model::guest_memory::Error;
use memory_model::{
    Address, Bytes, GuestMemory, GuestMemoryRegion, IoAddress, MemoryRegionAddress, MmapRegion, ReadVolatile,
    VolatileMemory, VolatileSlice, WriteVolatile, volatile_memory,
};

use crate::ground::{AT, Broken, Count, SIZE, SIZE_U32, START, Way, ends, memory};

/// A source and a sink that move nothing, and say to have moved so much; or that fail.
#[derive(Clone, Copy, Debug)]
enum Stream {
    Says(Count),
    /// The error of a bad address, for ever.
    Fault,
    Fails,
}

const STREAMS: [Stream; 6] = [
    Stream::Says(Count::Zero),
    Stream::Says(Count::Shorter),
    Stream::Says(Count::Longer),
    Stream::Says(Count::Most),
    Stream::Fault,
    Stream::Fails,
];

impl Stream {
    fn step(self, len: usize) -> io::Result<usize> {
        match self {
            Self::Says(count) => Ok(count.of(len)),
            Self::Fault => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Self::Fails => Err(io::Error::other("broken")),
        }
    }
}

impl ReadVolatile for Stream {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.step(buf.len())
    }
}

impl WriteVolatile for Stream {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.step(buf.len())
    }
}

/// Each of the four transfers is an error, but those that may be short where the stream is only short.
fn check<A: Address, M: Bytes<A>>(name: &str, mem: &M, addr: A, stream: Stream) {
    let may_be_short = matches!(stream, Stream::Says(Count::Zero | Count::Shorter));
    let mut stream = stream;
    assert_eq!(mem.write_from(addr, &mut stream, SIZE).is_ok(), may_be_short, "{name}: write_from, {stream:?}");
    assert_eq!(mem.read_into(addr, &mut stream, SIZE).is_ok(), may_be_short, "{name}: read_into, {stream:?}");
    assert!(mem.write_all_from(addr, &mut stream, SIZE).is_err(), "{name}: write_all_from, {stream:?}");
    assert!(mem.read_all_into(addr, &mut stream, SIZE).is_err(), "{name}: read_all_into, {stream:?}");
}

#[test]
fn a_stream_that_moves_nothing_too_much_or_fails_is_an_error() {
    for stream in STREAMS {
        ends(format!("{stream:?}"), move || {
            let mapping = MmapRegion::new(0x4000).unwrap();
            check::<usize, VolatileSlice<'_>>("VolatileSlice", &mapping.as_volatile_slice(), 0x10, stream);
            let mem =
                memory_model::GuestMemoryMmap::from_ranges(&[(memory_model::GuestAddress(START), 0x8000)]).unwrap();
            check("mapped memory", &mem, AT, stream);
            check("mapped memory of a device", &mem, IoAddress(AT.0), stream);
            let region = mem.regions().next().unwrap();
            check("mapped region", region, MemoryRegionAddress(0x10), stream);
            check("mapped region by address", region, AT, stream);
            check("slice", &region.get_slice(MemoryRegionAddress(0), 0x1000).unwrap(), 0x10, stream);
            let own = memory(Way::RIGHT);
            check("memory of one's own", &own, AT, stream);
            check::<_, Broken>("region of one's own", own.regions().next().unwrap(), MemoryRegionAddress(0), stream);
        });
    }
}

#[test]
fn a_reader_and_a_writer_end_over_a_broken_stream() {
    for stream in STREAMS {
        ends(format!("{stream:?}"), move || {
            let mem = memory(Way::RIGHT);
            let segments = [Segment { addr: IoAddress(AT.0), len: SIZE_U32 }];
            let mut end = stream;
            let count = SIZE as u64;
            assert!(Reader::new(&mem, &segments).read_all_into(&mut end, count).is_err(), "{stream:?}");
            assert!(Writer::new(&mem, &segments).write_all_from(&mut end, count).is_err(), "{stream:?}");
        });
    }
}

#[test]
fn exact_forms_of_a_stream_end() {
    for stream in STREAMS {
        ends(format!("{stream:?}"), move || {
            let mapping = MmapRegion::new(0x1000).unwrap();
            let slice = mapping.as_volatile_slice();
            let mut end = stream;
            assert!(end.read_exact_volatile(&slice).is_err(), "{stream:?}");
            assert!(end.write_all_volatile(&slice).is_err(), "{stream:?}");
        });
    }
}

/// A memory of a device's that says it moved more than it was asked to.
#[test]
fn a_reader_and_a_writer_see_that_a_device_memory_moved_too_much() {
    ends("too much", || {
        let segments = [Segment { addr: IoAddress(AT.0), len: SIZE_U32 }];
        let mem = Claims(memory(Way::RIGHT));
        let overrun = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Overrun { .. })), "{result:?}");
        overrun(Reader::new(&mem, &segments).read_all_into(&mut Vec::new(), 100));
        overrun(Writer::new(&mem, &segments).write_all_from(&mut &[1; 100][..], 100));
        let read = io::Read::read(&mut Reader::new(&mem, &segments), &mut [0; 100]);
        let written = io::Write::write(&mut Writer::new(&mem, &segments), &[0; 100]);
        assert!(read.is_err() && written.is_err(), "{read:?}, {written:?}");
    });
}

struct Claims(memory_model::GuestRegionCollection<Broken>);

impl Bytes<IoAddress> for Claims {
    type E = Error;
    fn write(&self, buf: &[u8], _: IoAddress) -> Result<usize, Error> {
        Ok(buf.len() + 1)
    }
    fn read(&self, buf: &mut [u8], _: IoAddress) -> Result<usize, Error> {
        Ok(buf.len() + 1)
    }
    fn write_from<S: ReadVolatile>(&self, _: IoAddress, _: &mut S, count: usize) -> Result<usize, Error> {
        Ok(count + 1)
    }
    fn read_into<D: WriteVolatile>(&self, _: IoAddress, _: &mut D, count: usize) -> Result<usize, Error> {
        Ok(count + 1)
    }
}

impl memory_model::IoMemory for Claims {
    type Physical = memory_model::GuestRegionCollection<Broken>;
    fn physical(&self) -> &Self::Physical {
        &self.0
    }
    fn translate(
        &self,
        addr: IoAddress,
        len: usize,
        access: memory_model::io_memory::Access,
    ) -> impl Iterator<Item = Result<memory_model::io_memory::Fragment, Error>> {
        self.0.translate(addr, len, access)
    }
}

/// The error of a slice is its own.
#[test]
fn a_slice_names_an_overrun() {
    let mapping = MmapRegion::new(0x1000).unwrap();
    let result = mapping.as_volatile_slice().write_from(0, &mut Stream::Says(Count::Longer), 8);
    assert!(matches!(result, Err(volatile_memory::Error::Overrun { expected: 8, claimed: 9 })), "{result:?}");
}
