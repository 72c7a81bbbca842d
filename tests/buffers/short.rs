//! Short transfers: they cost what they move, populate nothing else, and mark what may have been written. Streams and buffers
//! have the same rule.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use memory_model::buffers::{GuestBuffers, Segment, Writer};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::mmap::{HugePages, Protection};
use memory_model::stream::{FileAt, Source};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion, ReadVolatile, VolatileSlice,
};

use crate::direct::direct_file;
use crate::ground::{BASE, Bad, Guest, Marks, Plan, at, data, io, page, recovers};
use crate::raw::{allow_long_messages, memfd, packets, pipe, set_direct};

/// What reads from a socket or a pipe.
type Read = fn(&GuestMemoryMmap, &UnixStream, usize, usize) -> usize;

/// Each reads once to a position, with so many bytes offered.
const READS: [(&str, Read); 4] = [
    ("readv", |mem, socket, start, len| {
        let ranges = [(io(start), len)];
        GuestBuffers::new(mem, ranges, Access::Write).unwrap().readv(socket).unwrap()
    }),
    ("recvmsg", |mem, socket, start, len| {
        let ranges = [(io(start), len)];
        let mut buffers = GuestBuffers::new(mem, ranges, Access::Write).unwrap();
        buffers.recvmsg(socket, 0).unwrap().len
    }),
    ("write_from", |mem, mut socket, start, len| mem.write_from(at(start), &mut socket, len).unwrap()),
    ("readv_exact", |mem, socket, start, len| {
        let ranges = [(io(start), len)];
        let read = GuestBuffers::new(mem, ranges, Access::Write).unwrap().readv_exact(socket);
        read.unwrap_err().completed
    }),
];

#[test]
fn a_short_read_populates_nothing_and_marks_a_bounded_number_of_pages() {
    const SIZE: usize = 1 << 30;
    for (what, read) in READS {
        let mappings = [
            MmapRegion::builder(SIZE).reserve(false).huge_pages(HugePages::Never),
            MmapRegion::builder(SIZE).memfd("buffers: short").reserve(false).huge_pages(HugePages::Never),
        ];
        for mapping in mappings {
            // Where there is no such advice, or not so much address space.
            let Ok(mapping) = mapping.build() else {
                return memory_model_test_support::skip!("host limit: no mapping of 1 GiB");
            };
            let region = GuestRegionMmap::new(mapping, GuestAddress(BASE)).unwrap();
            let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
            let log = mem.start_tracking(4096).unwrap();
            let resident = || mem.regions().next().unwrap().usage().unwrap().resident();
            let before = resident();
            let (mut peer, socket) = UnixStream::pair().unwrap();
            peer.write_all(&data(64)).unwrap();
            drop(peer);
            assert_eq!(read(&mem, &socket, 5 * page() + 8, SIZE / 2), 64, "{what}");
            // A page, however many the host makes of it at once (folios of 64 KiB, say).
            assert!(resident() - before <= 1 << 20, "{what}: {} bytes were populated", resident() - before);
            check_window(
                what,
                &log.harvest().ranges().map(|range| (range.start - BASE, range.len)).collect::<Vec<_>>(),
            );
        }
    }
}

/// Checks that the page of the packet is marked, and no more beside than a packet has.
fn check_window(what: &str, marked: &[(u64, u64)]) {
    let first = (5 * page()) as u64 & !0xfff;
    assert!(marked.len() == 1 && marked[0].0 == first, "{what}: {marked:x?}");
    assert!(marked[0].1 <= 45 * (64 << 10) + 4096, "{what}: {marked:x?}");
}

#[test]
fn a_short_read_into_a_small_buffer_marks_only_what_it_transferred() {
    // Otherwise no page can be looked at: all of a small buffer is marked.
    if !recovers() {
        return;
    }
    for (what, read) in READS {
        let guest = Guest::of(&[1, 30]);
        let marks = Marks::of(&guest.mem);
        let (mut peer, socket) = UnixStream::pair().unwrap();
        peer.write_all(&data(64)).unwrap();
        drop(peer);
        assert_eq!(read(&guest.mem, &socket, 100, 32 << 10), 64, "{what}");
        assert_eq!(marks.take(), [(100, 64)], "{what}");
    }
}

#[test]
fn a_short_read_from_a_file_at_a_position_marks_only_what_it_transferred() {
    let guest = Guest::of(&[3, 30]);
    let marks = Marks::of(&guest.mem);
    let file = memfd(0);
    file.write_all_at(&data(64), 0).unwrap();
    guest.buffers(&[(100, 20 * page())], Access::Write).preadv(&file, 0).unwrap();
    assert_eq!(marks.take(), [(100, 64)]);
    guest.mem.write_from(at(100), &mut FileAt::new(&file, 0), 20 * page()).unwrap();
    assert_eq!(marks.take(), [(100, 64)]);
    guest.mem.write_from(at(100), &mut &data(64)[..], 20 * page()).unwrap();
    assert_eq!(marks.take(), [(100, 64)]);
}

/// Many packets are read one by one: each costs what it has, whatever is left of the buffers.
#[test]
fn many_packets_into_a_large_buffer() {
    const COUNT: usize = 2000;
    let mapping = MmapRegion::builder(1 << 30).reserve(false).huge_pages(HugePages::Never);
    let Ok(mapping) = mapping.build() else {
        return memory_model_test_support::skip!("host limit: no mapping of 1 GiB");
    };
    let region = GuestRegionMmap::new(mapping, GuestAddress(BASE)).unwrap();
    let mem = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let _log = mem.start_tracking(4096).unwrap();
    let (mut peer, socket) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || (0..COUNT).for_each(|_| peer.write_all(&data(64)).unwrap()));
    let mut buffers = GuestBuffers::new(&mem, [(io(0), 1 << 30)], Access::Write).unwrap();
    assert_eq!(buffers.readv_exact(&socket).unwrap_err().completed, COUNT * 64);
    sender.join().unwrap();
    assert!(mem.regions().next().unwrap().usage().unwrap().resident() <= 2 << 20);
}

/// Checks that each byte that has changed is marked.
#[track_caller]
fn check_changed(what: &str, guest: &Guest, marks: &Marks) {
    let marked = marks.take();
    for number in (0..guest.pages.len()).filter(|&number| guest.pages[number] == Some(true)) {
        let mut found = vec![0; page()];
        guest.mem.read_slice(&mut found, at(number * page())).unwrap();
        for position in (number * page()..(number + 1) * page()).filter(|at| found[at % page()] != guest.bytes[*at]) {
            let is_marked = marked.iter().any(|&(start, len)| (start..start + len).contains(&position));
            assert!(is_marked, "{what}: {position:#x} was written, marked is {marked:x?}");
        }
    }
}

#[test]
fn a_packet_that_a_bad_page_cuts_is_marked_up_to_the_page() {
    if !recovers() {
        return;
    }
    for (what, read) in READS {
        // Into few pages, of which the kernel says whether they are resident, and into many.
        for (pages, number) in [(4, 2), (40, 10)] {
            for bad in [Bad::Unplugged(number), Bad::Truncated(number)] {
                let guest = Guest::new(&[Plan { gap: 0, pages, bad: Some(bad) }]);
                let marks = Marks::of(&guest.mem);
                let (mut peer, socket) = UnixStream::pair().unwrap();
                peer.write_all(&data(64)).unwrap();
                peer.write_all(&data((number + 1) * page())).unwrap();
                drop(peer);
                let moved = read(&guest.mem, &socket, 0, pages * page());
                assert!((64..=number * page()).contains(&moved), "{what}: {moved}");
                check_changed(what, &guest, &marks);
            }
        }
    }
}

#[test]
fn a_direct_read_by_a_stream_marks_what_the_kernel_does_not_count() {
    let Some(file) = direct_file(&data(700)) else { return };
    let guest = Guest::of(&[4]);
    let marks = Marks::of(&guest.mem);
    assert_eq!(guest.mem.write_from(at(0), &mut &file, 2 * page()).unwrap(), 700);
    check_changed("write_from", &guest, &marks);
}

/// A source that uses all that it is given, and counts a few bytes.
struct Scratch(usize);

impl ReadVolatile for Scratch {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        buf.fill(0xaa, buf.len(), 0).unwrap();
        let count = self.0.min(10).min(buf.len());
        self.0 -= count;
        Ok(count)
    }
}

#[test]
fn all_is_marked_that_a_source_of_the_callers_was_offered() {
    let guest = Guest::of(&[3, 3]);
    let marks = Marks::of(&guest.mem);
    assert_eq!(guest.mem.write_from(at(page()), &mut Scratch(10), 2 * page()).unwrap(), 10);
    check_changed("write_from", &guest, &marks);
    let guest = Guest::of(&[2 << 20 >> 12]);
    let marks = Marks::of(&guest.mem);
    guest.mem.write_all_from(at(1), &mut Scratch(25), (2 << 20) - 1).unwrap_err();
    check_changed("write_all_from", &guest, &marks);
}

#[test]
fn a_read_that_would_block_marks_nothing() {
    let guest = Guest::of(&[4]);
    let marks = Marks::of(&guest.mem);
    let (_peer, socket) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    guest.mem.write_from(at(0), &mut &socket, 2 * page()).unwrap_err();
    guest.buffers(&[(0, 2 * page())], Access::Write).readv(&socket).unwrap_err();
    assert_eq!(marks.take(), []);
}

/// A source that claims twice as much as it was offered.
struct Claims;

impl ReadVolatile for Claims {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        Ok(2 * buf.len())
    }
}

#[test]
fn a_claim_of_more_than_a_step_has_offered_is_an_error() {
    const SIZE: usize = 8 << 20;
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), SIZE)]).unwrap();
    let result = mem.write_all_from(GuestAddress(BASE), &mut Claims, SIZE / 2);
    assert!(matches!(result, Err(Error::Overrun { .. })), "{result:?}");
    let segments = [Segment { addr: io(0), len: 8 << 20 }];
    let result = Writer::new(&mem, &segments).write_all_from(&mut Claims, SIZE as u64);
    assert!(matches!(result, Err(Error::Overrun { .. })), "{result:?}");
}

/// A source that counts a few bytes of what it was offered, and records how much that is at most.
struct Offered(usize);

impl ReadVolatile for Offered {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.0 = self.0.max(buf.len());
        Ok(buf.len().min(1 << 16))
    }
}

#[test]
fn each_step_of_many_offers_a_bounded_number_of_bytes() {
    const SIZE: usize = 8 << 20;
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), SIZE)]).unwrap();
    let mut src = Offered(0);
    mem.write_all_from(GuestAddress(BASE), &mut src, SIZE).unwrap();
    assert_eq!(src.0, 1 << 20);
    let (mut src, segments) = (Offered(0), [Segment { addr: io(0), len: 8 << 20 }]);
    Writer::new(&mem, &segments).write_all_from(&mut src, SIZE as u64).unwrap();
    assert_eq!(src.0, 1 << 20);
}

/// Pieces that follow each other are one for the kernel: any number of them may come before tracked memory.
#[test]
fn what_is_written_behind_many_small_pieces_is_marked() {
    let pages = 2;
    let mem = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(BASE), pages * page()),
        (GuestAddress(BASE + 0x100_0000), pages * page()),
    ]);
    let mem = mem.unwrap();
    let Some(file) = direct_file(&data(700)) else { return };
    let bitmap = std::sync::Arc::new(memory_model::dirty::DirtyBitmap::new(0x200_0000, 1).unwrap());
    let sink = memory_model::dirty::Sink::Bitmap { bitmap: std::sync::Arc::clone(&bitmap), base: BASE };
    let tracked = mem.regions().nth(1).unwrap();
    memory_model::guest_memory::GuestMemoryRegion::tracker(tracked).unwrap().attach(sink);
    // A byte each, and one piece for the kernel.
    let ranges = (0..page()).map(|at| (io(at), 1)).chain([(io(0x100_0000), page())]);
    let mut buffers = GuestBuffers::new(&mem, ranges, Access::Write).unwrap();
    assert_eq!(buffers.preadv(&file, 0).unwrap(), 700);
    drop(buffers);
    // The file system may write zeros, or not: all that was offered is marked.
    let marked: Vec<_> = bitmap.harvest().ranges().map(|range| (range.start, range.len)).collect();
    assert_eq!(marked, [(0x100_0000, page() as u64)]);
}

/// The most that a stream copies at once.
const PACKET: usize = 45 * (64 << 10);

#[test]
fn a_packet_of_a_pipe_of_packets_marks_no_more_than_a_packet() {
    let pages = (8 << 20) / page();
    let guest = Guest::of(&[pages]);
    let marks = Marks::of(&guest.mem);
    let (out, mut into) = pipe(libc::O_DIRECT);
    // pipe2(2) sets it of the other end only.
    set_direct(&out);
    into.write_all(&data(64)).unwrap();
    assert_eq!(guest.buffers(&[(0, pages * page())], Access::Write).readv(&out).unwrap(), 64);
    assert_eq!(marks.take(), [(0, 64 + PACKET)]);
}

#[test]
fn a_bad_page_at_the_start_marks_no_more_than_a_packet() {
    if !recovers() {
        return;
    }
    let pages = (8 << 20) / page();
    let guest = Guest::new(&[Plan { gap: 0, pages, bad: Some(Bad::Unplugged(0)) }]);
    let marks = Marks::of(&guest.mem);
    for (what, read) in [("readv", true), ("recvmsg", false)] {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        peer.write_all(&data(64)).unwrap();
        let mut buffers = guest.buffers(&[(0, pages * page())], Access::Write);
        let result =
            if read { buffers.readv(&socket) } else { buffers.recvmsg(&socket, 0).map(|received| received.len) };
        assert!(matches!(result, Err(Error::Fault { .. })), "{what}: {result:?}");
        assert_eq!(marks.take(), [(0, PACKET)], "{what}");
    }
    let (mut peer, mut socket) = UnixStream::pair().unwrap();
    peer.write_all(&data(64)).unwrap();
    let result = guest.mem.write_from(at(0), &mut socket, pages * page());
    assert!(matches!(result, Err(Error::Fault { .. })), "{result:?}");
    assert_eq!(marks.take(), [(0, PACKET)]);
}

/// Each piece costs a system call: of many nothing is asked.
#[test]
fn the_rest_in_many_pieces_is_marked_without_asking() {
    let guest = Guest::of(&[16]);
    let marks = Marks::of(&guest.mem);
    let (mut peer, socket) = UnixStream::pair().unwrap();
    peer.write_all(&data(64)).unwrap();
    let ranges: Vec<_> = (0..100).map(|number| (number * 128, 64)).collect();
    assert_eq!(guest.buffers(&ranges, Access::Write).readv(&socket).unwrap(), 64);
    assert_eq!(marks.take(), ranges);
}

/// A socket during whose read a page cannot be written for a moment.
struct Changed<'a>(&'a Guest, &'a UnixStream);

impl ReadVolatile for Changed<'_> {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let region = self.0.mem.regions().next().unwrap();
        region.protect(Protection::ReadOnly).unwrap();
        region.protect(Protection::ReadWrite).unwrap();
        self.1.read_volatile(buf)
    }
    fn source(&self) -> Source<'_> {
        Source::Descriptor(self.1.as_fd())
    }
}

#[test]
fn the_rest_is_marked_if_protection_changes_during_a_short_read() {
    if !recovers() {
        return;
    }
    let guest = Guest::of(&[8]);
    let marks = Marks::of(&guest.mem);
    let (mut peer, socket) = UnixStream::pair().unwrap();
    peer.write_all(&data(64)).unwrap();
    assert_eq!(guest.mem.write_from(at(0), &mut Changed(&guest, &socket), 8192).unwrap(), 64);
    assert_eq!(marks.take(), [(0, 8192)]);
}

#[test]
fn a_bad_page_far_within_a_message_that_goes_out_is_its_error() {
    if !recovers() {
        return;
    }
    let [socket, _peer] = packets();
    if !allow_long_messages(&socket) {
        return memory_model_test_support::skip!("no root: a socket that sends messages of 2 MiB");
    }
    let (pages, bad) = ((2 << 20) / page(), (3 << 19) / page());
    let guest = Guest::new(&[Plan { gap: 0, pages, bad: Some(Bad::Unplugged(bad)) }]);
    let result = guest.buffers(&[(0, pages * page())], Access::Read).writev(&socket);
    assert!(matches!(result, Err(Error::Fault { addr, completed: 0 }) if addr == at(bad * page())), "{result:?}");
}
