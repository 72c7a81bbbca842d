//! Segments that wrap, are nowhere, are empty, or more than can be counted; regions that lie; pages that are bad.

use std::fs::File;
use std::io::{Read, Write};

use memory_model::buffers::{Reader, Writer};
use memory_model::guest_memory::Error;
use memory_model::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollection, MemoryRegionAddress,
    fault_recovery,
};

use crate::ground::{Marks, memory, segment};
use crate::model::End;

fn end<T: std::fmt::Debug>(result: Result<T, Error>) -> End {
    result.unwrap_err().into()
}

#[test]
fn a_segment_past_the_end_of_the_address_space_ends_there() {
    let mem = memory(&[(u64::MAX - 15, 16), (0, 16)]);
    mem.write_slice(b"the last sixteen", GuestAddress(u64::MAX - 15)).unwrap();
    let segments = [segment(u64::MAX - 3, 8), segment(0, 4)];
    let partial = |expected, completed| End::Partial { expected, completed };

    let mut reader = Reader::new(&mem, &segments);
    assert_eq!(reader.remaining(), 12, "as the driver says");
    assert_eq!(end(reader.buffers(8)), partial(8, 4));
    assert_eq!((reader.read_obj::<[u8; 4]>().unwrap(), reader.bytes_read()), (*b"teen", 4));
    assert_eq!(end(reader.read_obj::<u8>()), partial(1, 0));
    assert_eq!(end(reader.read_slice(&mut [0; 5])), partial(5, 0));
    assert_eq!(end(reader.buffers(1)), partial(1, 0));
    assert_eq!(end(reader.read_all_into(&mut Vec::new(), 2)), partial(2, 0));
    assert!(reader.buffers(0).unwrap().is_empty());
    // What is past the end can be skipped, as it is bytes of the run; what follows is there.
    reader.skip(4).unwrap();
    assert_eq!(reader.read_obj::<u32>().unwrap(), 0);

    let marks = Marks::of(&mem);
    let mut writer = Writer::new(&mem, &segments);
    assert_eq!(end(writer.fill(7, 12)), partial(12, 4));
    assert_eq!((writer.bytes_written(), writer.remaining()), (4, 8));
    assert_eq!(end(writer.write_obj(1_u32)), partial(4, 0));
    assert_eq!(marks.take().into_iter().collect::<Vec<_>>(), (u64::MAX - 3..=u64::MAX).collect::<Vec<_>>());
    assert_eq!(mem.read_obj::<[u8; 16]>(GuestAddress(0)).unwrap(), [0; 16], "nothing has come round");
}

#[test]
fn segments_of_no_bytes_are_nowhere() {
    let mem = memory(&[(0x1000, 0x10)]);
    let nowhere = segment(0x5000, 0);
    let segments = [nowhere, segment(0x1000, 1), nowhere, segment(u64::MAX, 0), segment(0x1001, 3), nowhere];
    let mut writer = Writer::new(&mem, &segments);
    writer.write_obj(0x0403_0201_u32.to_le()).unwrap();
    assert_eq!((writer.remaining(), end(writer.write_obj(1_u8))), (0, End::Partial { expected: 1, completed: 0 }));
    writer.write_slice(&[]).unwrap();
    let mut reader = Reader::new(&mem, &segments);
    assert_eq!(reader.buffers(4).unwrap().len(), 4);
    reader.skip(0).unwrap();
    assert!(Reader::new(&mem, &[nowhere; 3]).read_obj::<u8>().is_err());
    assert_eq!(Reader::new(&mem, &[]).remaining(), 0);
    assert!(Reader::new(&mem, &[]).read_obj::<[u8; 0]>().is_ok());
}

#[test]
fn there_may_be_more_bytes_than_32_bits_count() {
    let top = 0x2_0000_0000_u64;
    let mem = memory(&[(top, 0x100)]);
    mem.write_slice(b"the end!", GuestAddress(top + 0xf8)).unwrap();
    // Each ends with the memory.
    let segments = [segment(top + 0x100 - u64::from(u32::MAX), u32::MAX); 3];
    let all = 3 * u64::from(u32::MAX);
    let reader = || Reader::new(&mem, &segments);
    assert_eq!(reader().remaining(), all);
    let mut at_end = reader();
    at_end.skip(all - 8).unwrap();
    assert_eq!((at_end.read_obj::<[u8; 8]>().unwrap(), at_end.remaining()), (*b"the end!", 0));
    let (_, mut second) = reader().split_at(u64::from(u32::MAX) * 2 - 4).unwrap();
    assert_eq!(second.read_obj::<[u8; 4]>().unwrap(), *b"end!");
    assert_eq!(end(second.read_obj::<u8>()), End::Nowhere(segments[0].addr.0));
    assert!(reader().buffers(all).is_err());
    // As many as the host can count.
    let expected = usize::try_from(all + 1).unwrap_or(usize::MAX) as u64;
    assert_eq!(end(reader().skip(all + 1)), End::Partial { expected, completed: 0 });
    assert!(reader().skip(u64::MAX).is_err());
    assert!(Writer::new(&mem, &segments).fill(0, u64::MAX).is_err());
    assert_eq!(mem.read_obj::<[u8; 8]>(GuestAddress(top + 0xf8)).unwrap(), *b"the end!");
}

/// A region of 16 bytes that says of each transfer that it has moved so many.
struct Liar(usize);

impl Bytes<MemoryRegionAddress> for Liar {
    type E = Error;
    fn write(&self, _: &[u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Ok(self.0)
    }
    fn read(&self, _: &mut [u8], _: MemoryRegionAddress) -> Result<usize, Error> {
        Ok(self.0)
    }
}

impl GuestMemoryRegion for Liar {
    fn len(&self) -> u64 {
        16
    }
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(0)
    }
}

#[test]
fn a_region_that_moves_nothing_or_too_much_is_an_error_and_no_hang() {
    let segments = [segment(0, 4), segment(8, 8)];
    let partial = End::Partial { expected: 12, completed: 0 };
    let mem = GuestRegionCollection::from_regions(vec![Liar(0)]).unwrap();
    let (mut reader, mut writer) = (Reader::new(&mem, &segments), Writer::new(&mem, &segments));
    assert_eq!((reader.read(&mut [0; 12]).unwrap(), writer.write(&[0; 12]).unwrap()), (0, 0));
    assert_eq!(end(reader.read_slice(&mut [0; 12])), partial);
    assert_eq!(end(reader.read_all_into(&mut Vec::new(), 12)), partial);
    assert_eq!(end(writer.fill(0, 12)), partial);
    assert_eq!((reader.bytes_read(), writer.bytes_written()), (0, 0));

    let mem = GuestRegionCollection::from_regions(vec![Liar(100)]).unwrap();
    let (mut reader, mut writer) = (Reader::new(&mem, &segments), Writer::new(&mem, &segments));
    assert!(matches!(reader.read_slice(&mut [0; 12]), Err(Error::Overrun { expected: 4, claimed: 100 })));
    assert!(matches!(reader.read_all_into(&mut Vec::new(), 12), Err(Error::Overrun { claimed: 100, .. })));
    assert!(matches!(writer.write_slice(&[0; 12]), Err(Error::Overrun { expected: 4, claimed: 100 })));
    assert!(reader.read(&mut [0; 12]).is_err() && writer.write(&[0; 12]).is_err());
    assert_eq!((reader.bytes_read(), writer.bytes_written()), (0, 0));
}

/// Memory of two pages of a file that loses the second.
fn shrunk() -> Option<(GuestMemoryMmap, File, u64)> {
    let page = u64::try_from(rustix::param::page_size()).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * page).unwrap();
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let size = usize::try_from(2 * page).unwrap();
    let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), size, Some(at))]).unwrap();
    file.set_len(page).unwrap();
    if !fault_recovery::is_installed() {
        memory_model_test_support::skip!("no fault recovery on this target");
        return None;
    }
    Some((mem, file, page))
}

#[test]
fn a_page_that_cannot_be_accessed_is_told_with_what_came_before_it() {
    let Some((mem, _file, page)) = shrunk() else { return };
    let segments = [segment(page - 12, 2), segment(page - 6, 8)];
    let is_at_edge = |result: Result<(), Error>, done: usize| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Fault { addr, completed } if addr.0 == page && completed == done), "{error}");
    };
    let mut reader = Reader::new(&mem, &segments);
    is_at_edge(reader.read_slice(&mut [0; 10]), 8);
    assert_eq!(reader.bytes_read(), 8);
    is_at_edge(reader.read_obj::<u8>().map(drop), 0);
    let mut reader = Reader::new(&mem, &segments);
    reader.skip(2).unwrap();
    is_at_edge(reader.read_obj::<u64>().map(drop), 6);
    assert_eq!(reader.bytes_read(), 8);

    let marks = Marks::of(&mem);
    let mut writer = Writer::new(&mem, &segments);
    is_at_edge(writer.write_slice(&[1; 10]), 8);
    assert_eq!(writer.bytes_written(), 8);
    let written: Vec<_> = (page - 12..page - 10).chain(page - 6..page).collect();
    assert_eq!(marks.take().into_iter().collect::<Vec<_>>(), written);
    is_at_edge(writer.fill(2, 2), 0);
    is_at_edge(writer.write_all_from(&mut &[3; 2][..], 2), 0);
    assert_eq!(writer.bytes_written(), 8);
    // Buffers are found, not accessed.
    assert_eq!(Reader::new(&mem, &segments).buffers(10).unwrap().len(), 10);
}
