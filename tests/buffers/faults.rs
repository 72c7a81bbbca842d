//! Pages that cannot be accessed: what lies before them is moved, and where they begin is told.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use memory_model::GuestMemory;
use memory_model::buffers::{GuestBuffers, TransferError};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::mmap::Protection;

use crate::ground::{BASE, Bad, Guest, Marks, Plan, at, data, page, recovers};
use crate::raw::{memfd, packets, pipe};

/// Two good pages, and one that is bad in each way: which position is bad.
fn guests() -> Vec<(Guest, usize)> {
    if !recovers() {
        return vec![];
    }
    let first = Plan::good(0, 1);
    let bad = |bad| vec![first, Plan { gap: 0, pages: 3, bad: Some(bad) }];
    vec![
        (Guest::new(&bad(Bad::Unplugged(1))), 2 * page()),
        (Guest::new(&bad(Bad::Truncated(1))), 2 * page()),
        (Guest::new(&[Plan { gap: 0, pages: 2, bad: Some(Bad::Unplugged(0)) }]), 0),
    ]
}

/// Where a fault was, and what was done before it.
#[track_caller]
fn fault(error: &Error) -> (usize, usize) {
    match *error {
        Error::Fault { addr, completed } => (usize::try_from(addr.0 - BASE).unwrap(), completed),
        ref other => panic!("no fault: {other}"),
    }
}

/// A transfer into memory.
type Call<'a> = &'a dyn Fn(&mut GuestBuffers<'_>) -> Result<usize, Error>;

/// A file, a pipe and a stream with so much to be read.
fn sources(len: usize) -> (File, File, UnixStream) {
    let (file, (read, mut write)) = (memfd(0), pipe(libc::O_NONBLOCK));
    file.write_all_at(&data(len), 0).unwrap();
    // In buffers that the kernel keeps apart, of which it counts only those that were read whole.
    data(len).chunks(70).for_each(|bytes| write.write_all(bytes).unwrap());
    let (mut here, there) = UnixStream::pair().unwrap();
    here.write_all(&data(len)).unwrap();
    (file, read, there)
}

#[test]
fn up_to_the_page_and_then_the_fault() {
    for (mut guest, bad) in guests() {
        let good = bad.min(100);
        // 100 bytes in two pieces up to the page, and 16 in two from it on.
        let ranges = [(bad - good, good * 4 / 10), (bad - good * 6 / 10, good * 6 / 10 + 8), (bad + 20, 8)];
        let (file, read, stream) = sources(2 * good + 40);
        let calls: [(&str, Call<'_>); 4] = [
            ("preadv", &|buffers| buffers.preadv(&file, 0)),
            ("readv of a pipe", &|buffers| buffers.readv(&read)),
            ("readv of a stream", &|buffers| buffers.readv(&stream)),
            ("recvmsg of a stream", &|buffers| buffers.recvmsg(&stream, 0).map(|received| received.len)),
        ];
        for (what, call) in calls {
            let marks = Marks::of(&guest.mem);
            let mut buffers = guest.buffers(&ranges, Access::Write);
            let mut moved = 0;
            // It may take several steps.
            while moved < good {
                let count = call(&mut buffers).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(count > 0, "{what}");
                moved += count;
            }
            assert_eq!((moved, buffers.len()), (good, 16), "{what}");
            assert_eq!(fault(&call(&mut buffers).unwrap_err()), (bad, 0), "{what}");
            assert_eq!(buffers.len(), 16, "{what}");
            drop(buffers);
            assert!(marks.take().iter().any(|&(start, len)| start <= bad && bad < start + len), "{what}");
        }
        for out in [false, true] {
            let (file, read, _) = sources(2 * good + 40);
            let (_read, write) = pipe(libc::O_NONBLOCK);
            let access = if out { Access::Read } else { Access::Write };
            for streaming in [false, true] {
                let mut buffers = guest.buffers(&ranges, access);
                let result = match (out, streaming) {
                    (false, false) => buffers.preadv_exact(&file, 0),
                    (false, true) => buffers.readv_exact(&read),
                    (true, false) => buffers.pwritev_all(&file, 0),
                    (true, true) => buffers.writev_all(&write),
                };
                let TransferError { completed, cause, .. } = result.unwrap_err();
                assert_eq!((completed, fault(&cause), buffers.len()), (good, (bad, good), 16));
                assert_eq!(fault(&Error::from(TransferError { completed, cause })), (bad, good));
            }
        }
        // What was read last are the bytes of a pipe, from their start.
        guest.bytes[bad - good..bad].copy_from_slice(&data(good));
        guest.check();
    }
}

/// What was written to memory and not counted is marked, too: a socket counts whole packets.
#[test]
fn a_count_may_be_less_than_was_written() {
    for (guest, bad) in guests().into_iter().filter(|&(_, bad)| bad > 0) {
        let marks = Marks::of(&guest.mem);
        let (mut here, there) = UnixStream::pair().unwrap();
        for part in [&data(8)[..], &data(100)] {
            here.write_all(part).unwrap();
        }
        // The second part ends beyond the page, after 50 bytes before it.
        let mut buffers = guest.buffers(&[(0, 8), (bad - 50, 80)], Access::Write);
        let count = buffers.readv(&there).unwrap();
        drop(buffers);
        let mut found = [0; 50];
        guest.buffers(&[(bad - 50, 50)], Access::Read).read_slice(&mut found, 0).unwrap();
        let changed = found.iter().zip(bad - 50..).filter(|&(&byte, at)| byte != crate::ground::pattern(at)).count();
        let marked: usize = marks.take().iter().map(|(_, len)| len).sum();
        assert!(
            count >= 8 && marked >= 8 + changed.max(count - 8),
            "{changed} bytes of the second part, {marked} marked"
        );
    }
}

/// A datagram is not cut to what lies before the page.
#[test]
fn messages_are_whole_or_not_at_all() {
    for (guest, bad) in guests().into_iter().filter(|&(_, bad)| bad > 0) {
        let marks = Marks::of(&guest.mem);
        let ranges = [(0, 8), (bad - 8, 16)];
        let [here, there] = packets();
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        assert_eq!(fault(&guest.buffers(&ranges, Access::Read).writev(&here).unwrap_err()), (bad, 0));
        assert_eq!(fault(&guest.buffers(&ranges, Access::Read).sendmsg(&sender, 0).unwrap_err()), (bad, 0));
        receiver.set_nonblocking(true).unwrap();
        assert!(receiver.recv(&mut [0; 64]).is_err(), "nothing was sent");
        assert_eq!(marks.take(), []);
        // The first is lost, and the next is not taken in its place.
        sender.send(&data(20)).unwrap();
        sender.send(b"next").unwrap();
        let mut buffers = guest.buffers(&ranges, Access::Write);
        assert_eq!(fault(&buffers.recvmsg(&receiver, 0).unwrap_err()), (bad, 0));
        assert_eq!(marks.take(), ranges);
        assert_eq!(buffers.recvmsg(&receiver, 0).unwrap().len, 4);
        let mut file = File::from(here);
        file.write_all(&data(20)).unwrap();
        file.write_all(b"next").unwrap();
        let mut buffers = guest.buffers(&ranges, Access::Write);
        assert_eq!(fault(&buffers.readv(&there).unwrap_err()), (bad, 0));
        assert_eq!(File::from(there).read(&mut [0; 64]).unwrap(), 4);
    }
}

/// Memory that has become read-only since the buffers were made.
#[test]
fn read_only_since() {
    if !recovers() {
        return;
    }
    let guest = Guest::of(&[1, 1]);
    let ranges = [(8, 8), (page() - 8, 16)];
    let (file, _, stream) = sources(64);
    let mut buffers = guest.buffers(&ranges, Access::Write);
    guest.mem.find_region(at(page())).unwrap().protect(Protection::ReadOnly).unwrap();
    assert_eq!(buffers.preadv(&file, 0).unwrap(), 16);
    let refused = |error: &Error, done| {
        matches!(*error, Error::ReadOnly { addr, completed }
        if addr == at(page()) && completed == done)
    };
    let error = buffers.preadv(&file, 16).unwrap_err();
    assert!(refused(&error, 0), "{error}");
    let error = buffers.readv(&stream).unwrap_err();
    assert!(refused(&error, 0), "{error}");
    drop(buffers);
    guest.mem.find_region(at(page())).unwrap().protect(Protection::ReadWrite).unwrap();
    let mut buffers = guest.buffers(&ranges, Access::Write);
    guest.mem.find_region(at(page())).unwrap().protect(Protection::ReadOnly).unwrap();
    let error = buffers.readv_exact(&stream).unwrap_err();
    assert!(error.completed == 16 && refused(&error.cause, 16), "{error}");
    // It can be read still.
    let dst = memfd(0);
    guest.buffers(&ranges, Access::Read).pwritev_all(&dst, 0).unwrap();
    assert_eq!(dst.metadata().unwrap().len(), 24);
}

/// A page that nothing is asked of does not matter.
#[test]
fn beyond_the_end_of_the_file() {
    for (guest, bad) in guests().into_iter().filter(|&(_, bad)| bad > 0) {
        let (file, _, _) = sources(0);
        file.write_all_at(&data(60), 0).unwrap();
        let mut buffers = guest.buffers(&[(bad - 100, 200)], Access::Write);
        assert_eq!(buffers.preadv(&file, 0).unwrap(), 60);
        let error = buffers.preadv_exact(&file, 60).unwrap_err();
        assert!(matches!(error.cause, Error::PartialBuffer { expected: 140, completed: 0 }), "{error}");
    }
}
