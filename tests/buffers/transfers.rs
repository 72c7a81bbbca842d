//! Each call by its ends: of files and pipes, of what there is at the moment, of the pieces that a call takes.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use memory_model::buffers::{GuestBuffers, TransferError};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;

use crate::ground::{Guest, Marks, data, io, page, pattern};
use crate::raw::{Interrupts, memfd, packets, pipe};

/// What there is in a file.
fn file(bytes: &[u8]) -> File {
    let file = memfd(0);
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// The bytes that memory holds at first in these places.
fn patterns(ranges: &[(usize, usize)]) -> Vec<u8> {
    ranges.iter().flat_map(|&(position, len)| (position..position + len).map(pattern)).collect()
}

fn write(guest: &mut Guest, ranges: &[(usize, usize)], bytes: &[u8]) {
    let positions = ranges.iter().flat_map(|&(position, len)| position..position + len);
    for (position, &byte) in positions.zip(bytes) {
        guest.bytes[position] = byte;
    }
}

/// Of 16 pieces in two regions.
fn sixteen() -> Vec<(usize, usize)> {
    (0..16).map(|number| (number * (page() / 2) + 3, 1000)).collect()
}

/// A packet is sent and received by one call, whole.
#[test]
fn one_call_for_all_pieces() {
    let mut guest = Guest::of(&[4, 4]);
    let ranges = sixteen();
    let [here, there] = packets();
    let mut out = guest.buffers(&ranges, Access::Read);
    assert_eq!(out.as_iovecs().len(), 16);
    assert_eq!(out.writev(&here).unwrap(), 16_000);
    assert!(out.is_empty());
    drop(out);
    let mut found = vec![0; 20_000];
    assert_eq!(File::from(there.try_clone().unwrap()).read(&mut found).unwrap(), 16_000);
    assert_eq!(found[..16_000], patterns(&ranges));
    let marks = Marks::of(&guest.mem);
    assert_eq!(File::from(here).write(&data(16_000)).unwrap(), 16_000);
    assert_eq!(guest.buffers(&ranges, Access::Write).readv(&there).unwrap(), 16_000);
    assert_eq!(marks.take(), ranges);
    write(&mut guest, &ranges, &data(16_000));
    guest.check();
}

#[test]
fn the_end_of_a_file() {
    let mut guest = Guest::of(&[4, 4]);
    let (ranges, marks) = (sixteen(), Marks::of(&guest.mem));
    let src = file(&data(2500));
    let mut buffers = guest.buffers(&ranges, Access::Write);
    assert_eq!(buffers.preadv(&src, 0).unwrap(), 2500);
    assert_eq!(buffers.len(), 13_500);
    assert_eq!(buffers.preadv(&src, 2500).unwrap(), 0);
    assert!(matches!(buffers.preadv(&src, u64::MAX), Err(Error::Io(error)) if error.kind() == ErrorKind::InvalidInput));
    let expected = [ranges[0], ranges[1], (ranges[2].0, 500)];
    assert_eq!(marks.take(), expected);
    // From where it was left.
    let TransferError { completed, cause, .. } = buffers.preadv_exact(&src, 2400).unwrap_err();
    assert!(matches!(cause, Error::PartialBuffer { expected: 13_500, completed: 100 }), "{cause}");
    assert_eq!((completed, buffers.len()), (100, 13_400));
    assert_eq!(marks.take(), [(ranges[2].0 + 500, 100)]);
    drop(buffers);
    write(&mut guest, &ranges, &[data(2500), data(2500)[2400..].to_vec()].concat());
    guest.check();
    let mut from_cursor = guest.buffers(&ranges, Access::Write);
    let error = from_cursor.readv_exact(&src).map_or_else(Error::from, |()| panic!("there is no more"));
    // It was written to by position.
    assert!(matches!(error, Error::PartialBuffer { expected: 16_000, completed: 2500 }), "{error}");
}

/// In several steps, as there is more: of a socket that is written to meanwhile.
#[test]
fn exact_forms_go_on() {
    let mut guest = Guest::of(&[4, 4]);
    let ranges = sixteen();
    let (mut here, there) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for bytes in data(16_000).chunks(700) {
                here.write_all(bytes).unwrap();
                thread::yield_now();
            }
        });
        guest.buffers(&ranges, Access::Write).readv_exact(&there).unwrap();
    });
    write(&mut guest, &ranges, &data(16_000));
    guest.check();
    // And a pipe, which holds less than is written.
    let long: Vec<_> = (0..40).flat_map(|_| ranges.clone()).collect();
    let (mut read, write) = pipe(0);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut found = Vec::new();
            read.read_to_end(&mut found).unwrap();
            found
        });
        guest.buffers(&long, Access::Read).writev_all(&write).unwrap();
        drop(write);
        assert!(reader.join().unwrap() == data(16_000).repeat(40));
    });
}

#[test]
fn what_is_not_there_yet() {
    let mut guest = Guest::of(&[1]);
    let (ranges, marks) = ([(0, 100), (200, 300)], Marks::of(&guest.mem));
    let (read, mut write_end) = pipe(libc::O_NONBLOCK);
    let is_later = |error: &Error| matches!(error, Error::Io(error) if error.kind() == ErrorKind::WouldBlock);
    let mut buffers = guest.buffers(&ranges, Access::Write);
    assert!(is_later(&buffers.readv(&read).unwrap_err()));
    let error = buffers.readv_exact(&read).unwrap_err();
    assert!(error.completed == 0 && is_later(&error.cause), "{error}");
    assert_eq!((buffers.len(), marks.take()), (400, vec![]));
    write_end.write_all(&data(150)).unwrap();
    let error = buffers.readv_exact(&read).unwrap_err();
    assert!(error.completed == 150 && is_later(&error.cause), "{error}");
    assert!(error.to_string().starts_with("150 bytes"), "{error}");
    assert!(is_later(&Error::from(error)));
    assert_eq!((buffers.len(), marks.take()), (250, vec![(0, 100), (200, 50)]));
    // Goes on where it was.
    write_end.write_all(&data(400)[150..]).unwrap();
    buffers.readv_exact(&read).unwrap();
    drop(buffers);
    write(&mut guest, &ranges, &data(400));
    guest.check();
    // Nobody writes any more.
    drop(write_end);
    assert_eq!(guest.buffers(&ranges, Access::Write).readv(&read).unwrap(), 0);
    // And the other way.
    let (_read, write_end) = pipe(libc::O_NONBLOCK);
    let full = [(0, page()); 100];
    let mut buffers = guest.buffers(&full, Access::Read);
    let error = buffers.writev_all(&write_end).unwrap_err();
    assert!(is_later(&error.cause) && error.completed > 0, "{error}");
    assert_eq!(buffers.len(), 100 * page() - error.completed);
    assert!(is_later(&buffers.writev(&write_end).unwrap_err()));
}

/// A call that was interrupted has done nothing; those that do all go on.
#[test]
fn interruptions() {
    let mut guest = Guest::of(&[1]);
    let (ranges, marks) = ([(0, 8), (16, 8)], Marks::of(&guest.mem));
    let (read, mut write_end) = pipe(0);
    let mut buffers = guest.buffers(&ranges, Access::Write);
    let _interrupts = Interrupts::new();
    let error = buffers.readv(&read).unwrap_err();
    assert!(matches!(&error, Error::Io(error) if error.kind() == ErrorKind::Interrupted), "{error}");
    assert_eq!((buffers.len(), marks.take()), (16, vec![]));
    thread::scope(|scope| {
        scope.spawn(move || {
            for bytes in data(16).chunks(10) {
                // Some interruptions long.
                thread::sleep(Duration::from_millis(100));
                write_end.write_all(bytes).unwrap();
            }
        });
        buffers.readv_exact(&read).unwrap();
    });
    assert_eq!(marks.take(), ranges);
    drop(buffers);
    write(&mut guest, &ranges, &data(16));
    guest.check();
}

/// The pieces that a call takes are 1,024: of more, the others are left, or follow.
#[test]
fn more_pieces_than_a_call_takes() {
    for count in [1023, 1024, 1025, 3000] {
        let mut guest = Guest::of(&[2, 2]);
        // Two bytes each, and none follows another.
        let ranges: Vec<_> = (0..count).map(|number| (number * 5 % (4 * page() - 2), 2)).collect();
        let src = file(&data(2 * count));
        let mut buffers = guest.buffers(&ranges, Access::Write);
        assert_eq!(buffers.as_iovecs().len(), count);
        buffers.complete(0).unwrap();
        let marks = Marks::of(&guest.mem);
        let some = 2 * count.min(1024);
        assert_eq!(buffers.preadv(&src, 0).unwrap(), some);
        assert_eq!(marks.take().len(), some / 2);
        buffers.preadv_exact(&src, some as u64).unwrap();
        assert_eq!(marks.take().len(), count - some / 2);
        assert!(buffers.is_empty());
        drop(buffers);
        guest.buffers(&ranges, Access::Write).readv_exact(file_at(&src, 0)).unwrap();
        write(&mut guest, &ranges, &data(2 * count));
        guest.check();
        let dst = memfd(0);
        let mut buffers = guest.buffers(&ranges, Access::Read);
        assert_eq!(buffers.pwritev(&dst, 9).unwrap(), some);
        buffers.pwritev_all(&dst, 9 + some as u64).unwrap();
        let mut found = vec![0; 2 * count];
        dst.read_exact_at(&mut found, 9).unwrap();
        assert!(found == data(2 * count));
        let (mut read, write) = pipe(0);
        guest.buffers(&ranges, Access::Read).writev_all(&write).unwrap();
        read.read_exact(&mut found).unwrap();
        assert!(found == data(2 * count));
        // A packet would be cut.
        let [here, _there] = packets();
        let mut buffers = guest.buffers(&ranges, Access::Read);
        match buffers.writev(&here) {
            Ok(sent) => assert!(sent == 2 * count && count <= 1024),
            Err(Error::Io(error)) => assert!(error.raw_os_error() == Some(libc::EMSGSIZE) && count > 1024, "{error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn file_at(file: &File, position: u64) -> &File {
    let mut cursor = file;
    cursor.seek(std::io::SeekFrom::Start(position)).unwrap();
    file
}

/// Also where a pointer has 32 bits.
#[test]
fn positions_beyond_4_gib() {
    let mut guest = Guest::of(&[1]);
    let ranges = [(0, 100), (200, 100)];
    let sparse = tempfile::tempfile().unwrap();
    let position = (5 << 30) + 1;
    guest.buffers(&[(7, 200)], Access::Read).pwritev_all(&sparse, position).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), position + 200);
    let mut buffers = guest.buffers(&ranges, Access::Write);
    assert_eq!(buffers.preadv(&sparse, position).unwrap(), 200);
    drop(buffers);
    let bytes = patterns(&[(7, 200)]);
    write(&mut guest, &ranges, &bytes);
    guest.check();
    guest.buffers(&ranges, Access::Write).preadv_exact(&sparse, 5 << 30).unwrap();
    guest.bytes[0] = 0;
    write(&mut guest, &ranges, &[&[0], &bytes[..199]].concat());
    guest.check();
}

/// No bytes are moved without a call, and any descriptor does.
#[test]
fn no_bytes_at_all() {
    let guest = Guest::of(&[1]);
    let (read, write) = pipe(0);
    let mut empty = guest.buffers(&[], Access::ReadWrite);
    assert_eq!((empty.readv(&read).unwrap(), empty.writev(&write).unwrap()), (0, 0));
    assert_eq!((empty.preadv(&read, 0).unwrap(), empty.pwritev(&read, 0).unwrap()), (0, 0));
    empty.readv_exact(&read).unwrap();
    empty.writev_all(&write).unwrap();
    empty.preadv_exact(&read, 0).unwrap();
    empty.pwritev_all(&read, 0).unwrap();
}

/// After any other error whatever was given to the call may have been written.
#[test]
fn the_other_end_fails() {
    let guest = Guest::of(&[1, 1]);
    let (ranges, marks) = ([(8, 8), (page() - 8, 16)], Marks::of(&guest.mem));
    let (_read, write_end) = pipe(0);
    let mut buffers = guest.buffers(&ranges, Access::Write);
    // Cannot be read, has no positions, is a directory.
    assert!(matches!(buffers.readv(&write_end), Err(Error::Io(error)) if error.raw_os_error() == Some(libc::EBADF)));
    assert_eq!(marks.take(), [(8, 8), (page() - 8, 16)]);
    assert!(matches!(buffers.preadv(&write_end, 0), Err(Error::Io(_))));
    assert_eq!(marks.take(), [(8, 8), (page() - 8, 16)]);
    let error = buffers.preadv_exact(File::open("/").unwrap().as_fd(), 0).unwrap_err();
    assert!(error.completed == 0 && matches!(error.cause, Error::Io(_)), "{error}");
    assert_eq!(marks.take(), [(8, 8), (page() - 8, 16)]);
    assert_eq!(buffers.len(), 24);
    drop(buffers);
    assert_eq!(marks.take(), []);
    // What is only read is not marked.
    let (read, _write) = pipe(0);
    let mut buffers = GuestBuffers::new(&guest.mem, [(io(0), 8)], Access::ReadWrite).unwrap();
    assert!(matches!(buffers.writev(&read), Err(Error::Io(_))));
    drop(buffers);
    assert_eq!(marks.take(), []);
}
