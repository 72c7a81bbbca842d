//! Values divided between segments in all ways; buffers of them, borrowed and owned.

use std::io::{Read, Write};

use memory_model::buffers::{GuestBuffers, IoSlice, Reader, Segment, Writer};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionCollection, IoMemory, Le16, Le32, Le64};

use crate::ground::{Device, Marks, memory, segment};

const BYTES: [u8; 16] = *b"0123456789abcdef";

/// 16 bytes in three pieces, which lie apart and unaligned.
fn pieces(first: u32, second: u32) -> [Segment; 3] {
    [segment(0x1001, first), segment(0x1103, second), segment(0x1207, 16 - first - second)]
}

/// All divisions of 16 bytes in three, also with none in one.
fn divisions() -> impl Iterator<Item = [Segment; 3]> {
    (0..=16).flat_map(|first| (0..=16 - first).map(move |second| pieces(first, second)))
}

fn divided<M: IoMemory>(mem: &M) {
    for segments in divisions() {
        let mut writer = Writer::new(mem, &segments);
        writer.write_all(&BYTES).unwrap();
        assert!(writer.write_all(b"!").is_err());

        let mut reader = Reader::new(mem, &segments);
        assert_eq!(reader.read_obj::<u8>().unwrap(), b'0', "{segments:?}");
        assert_eq!(reader.read_obj::<Le16>().unwrap(), 0x3231, "{segments:?}");
        assert_eq!(reader.read_obj::<Le32>().unwrap(), 0x3635_3433, "{segments:?}");
        assert_eq!(reader.read_obj::<Le64>().unwrap(), 0x6564_6362_6139_3837, "{segments:?}");
        assert!(reader.read_obj::<Le16>().is_err(), "there is one byte");
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), reader.bytes_read(), reader.remaining()), ("f", 16, 0));

        let mut writer = Writer::new(mem, &segments);
        writer.write_obj(b'F').unwrap();
        writer.write_obj(Le64::new(0x3736_3534_3332_3130)).unwrap();
        writer.write_obj(Le32::new(0x6463_6261)).unwrap();
        assert!(writer.write_obj(Le32::new(0)).is_err(), "there are three bytes");
        assert!(writer.write_all(&[0; 4]).is_err(), "nor does the standard library's method begin");
        writer.write_obj(Le16::new(0x2b2a)).unwrap();
        assert_eq!(Reader::new(mem, &segments).read_obj::<[u8; 16]>().unwrap(), *b"F01234567abcd*+f");
    }
}

#[test]
fn values_are_divided_in_all_ways() {
    divided(&memory(&[(0x1000, 0x103), (0x1103, 3), (0x1106, 0x200)]));
    divided(&GuestRegionCollection::from_regions(vec![Device::new(0x1000, 0x400)]).unwrap());
}

/// A value in one segment is one access: never torn, also if it is marked or the segment is longer.
#[test]
fn a_value_in_one_segment_is_one_access() {
    let mem = memory(&[(0x1000, 0x1000)]);
    let segments = [segment(0x1000, 4), segment(0x1008, 16)];
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 0..20_000_u64 {
                let (_, mut writer) = Writer::new(&mem, &segments).split_at(4).unwrap();
                writer.write_obj((round % 256) * 0x0101_0101_0101_0101).unwrap();
            }
        });
        while !writing.is_finished() {
            let mut reader = Reader::new(&mem, &segments);
            reader.skip(4).unwrap();
            let value = reader.read_obj::<u64>().unwrap();
            assert_eq!(value % 0x0101_0101_0101_0101, 0, "{value:#x} is of two writes");
        }
    });
}

#[test]
fn buffers_are_the_next_bytes() {
    let mem = memory(&[(0x1000, 0x200), (0x1200, 0x100)]);
    let segments = pieces(5, 4);
    Writer::new(&mem, &segments).write_slice(&BYTES).unwrap();
    let mut reader = Reader::new(&mem, &segments);
    reader.skip(3).unwrap();
    let buffers = reader.buffers(10).unwrap();
    assert_eq!((buffers.len(), buffers.access(), reader.bytes_read()), (10, Access::Read, 13));
    let mut copy = [0; 10];
    buffers.read_slice(&mut copy, 0).unwrap();
    assert_eq!(&copy, b"3456789abc");
    assert!(matches!(buffers.write_slice(b"!", 0), Err(Error::Unsupported)));
    assert!(reader.buffers(4).is_err());
    assert_eq!((reader.read_obj::<[u8; 3]>().unwrap(), buffers.len()), (*b"def", 10));

    let marks = Marks::of(&mem);
    let mut writer = Writer::new(&mem, &segments);
    let mut buffers = writer.buffers(7).unwrap();
    assert_eq!((buffers.access(), writer.bytes_written(), writer.remaining()), (Access::Write, 7, 9));
    let lens: Vec<_> = buffers.as_iovecs().iter().map(IoSlice::len).collect();
    assert_eq!(lens, [5, 2]);
    buffers.complete(6).unwrap();
    drop(buffers);
    assert_eq!(marks.take().into_iter().collect::<Vec<_>>(), [0x1001, 0x1002, 0x1003, 0x1004, 0x1005, 0x1103]);
}

#[test]
fn bytes_are_appended_to_buffers() {
    let mem = memory(&[(0x1000, 0x300)]);
    let segments = pieces(5, 4);
    Writer::new(&mem, &segments).write_slice(&BYTES).unwrap();
    let mut buffers = GuestBuffers::empty(Access::ReadWrite);
    let mut reader = Reader::new(&mem, &segments);
    reader.append_to(&mut buffers, 6).unwrap();
    reader.skip(6).unwrap();
    reader.append_to(&mut buffers, 3).unwrap();
    assert!(matches!(reader.append_to(&mut buffers, 2), Err(Error::PartialBuffer { expected: 2, completed: 0 })));
    Writer::new(&mem, &segments).append_to(&mut buffers, 1).unwrap();
    let mut copy = [0; 10];
    buffers.read_slice(&mut copy, 0).unwrap();
    assert_eq!((&copy, buffers.len(), reader.bytes_read()), (b"012345cde0", 10, 15));
    // To be read is what a driver wants written to nobody, and the reverse.
    let (mut to_read, mut to_write) = (GuestBuffers::empty(Access::Read), GuestBuffers::empty(Access::Write));
    assert!(matches!(reader.append_to(&mut to_write, 1), Err(Error::Unsupported)));
    assert!(matches!(Writer::new(&mem, &segments).append_to(&mut to_read, 1), Err(Error::Unsupported)));
    assert_eq!((to_read.len(), to_write.len(), reader.remaining()), (0, 0, 1));
}

#[test]
fn a_hole_among_buffers_is_found_before_a_byte_moves() {
    let mem = memory(&[(0x1000, 0x200), (0x1300, 0x100)]);
    let marks = Marks::of(&mem);
    let segments = [segment(0x11f0, 0x20)];
    let mut writer = Writer::new(&mem, &segments);
    assert!(matches!(writer.buffers(0x20), Err(Error::PartialBuffer { completed: 0x10, .. })));
    assert!(matches!(writer.owned_buffers(0x20), Err(Error::PartialBuffer { completed: 0x10, .. })));
    assert_eq!((writer.bytes_written(), marks.take().len()), (0, 0));
    assert_eq!(writer.buffers(0x10).unwrap().len(), 0x10);
}

#[test]
fn owned_buffers_outlive_the_memory_and_the_segments() {
    let mem: GuestMemoryMmap = memory(&[(0x1000, 0x200), (0x1200, 0x100)]);
    let marks = Marks::of(&mem);
    let (mut from, mut to) = {
        let segments = pieces(5, 4);
        Writer::new(&mem, &segments).write_slice(&BYTES).unwrap();
        let (mut reader, mut writer) = (Reader::new(&mem, &segments), Writer::new(&mem, &segments));
        reader.skip(3).unwrap();
        (reader.owned_buffers(10).unwrap(), writer.owned_buffers(16).unwrap())
    };
    assert_eq!(marks.take().len(), 16);
    drop(mem);
    let mut copy = [0; 10];
    from.read_slice(&mut copy, 0).unwrap();
    assert_eq!((&copy, from.access(), to.access()), (b"3456789abc", Access::Read, Access::Write));
    assert_eq!((from.as_iovecs().len(), to.as_iovecs().len()), (3, 3));
    to.complete(6).unwrap();
    assert_eq!(marks.take().len(), 6);
}

#[test]
fn memory_without_host_addresses_has_no_buffers_and_is_reached_all_the_same() {
    let mem = GuestRegionCollection::from_regions(vec![Device::new(0x1000, 0x400)]).unwrap();
    let segments = pieces(5, 4);
    let mut writer = Writer::new(&mem, &segments);
    assert!(matches!(writer.buffers(16), Err(Error::NoHostMemory(GuestAddress(0x1001)))));
    writer.write_all_from(&mut BYTES.as_slice(), 16).unwrap();
    let mut reader = Reader::new(&mem, &segments);
    assert!(matches!(reader.buffers(16), Err(Error::NoHostMemory(GuestAddress(0x1001)))));
    let mut copy = Vec::new();
    reader.read_all_into(&mut copy, 16).unwrap();
    assert_eq!((copy.as_slice(), reader.bytes_read()), (BYTES.as_slice(), 16));
    assert_eq!(mem.read_obj::<u8>(GuestAddress(0x1103)).unwrap(), b'5');
}
