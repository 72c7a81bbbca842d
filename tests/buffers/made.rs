//! What buffers are made of, and what they are refused.

use memory_model::buffers::{GuestBuffers, IoSlice};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::mmap::Protection;
use memory_model::{GuestAddress, GuestMemory, GuestMemoryMmap, IoAddress};

use crate::ground::{Guest, Marks, Plan, at, data, io, page};
use crate::raw::{memfd, pipe};

fn lens(buffers: &mut GuestBuffers<'_>) -> Vec<usize> {
    buffers.as_iovecs().iter().map(IoSlice::len).collect()
}

#[test]
fn pieces_that_follow_each_other_are_one() {
    let guest = Guest::of(&[2, 2]);
    let ranges = [(0, 16), (16, 0), (16, 16), (100, 1), (32, 8), (2 * page() - 4, 8)];
    let mut buffers = guest.buffers(&ranges, Access::Read);
    let found = lens(&mut buffers);
    assert_eq!(found[..3], [32, 1, 8]);
    assert_eq!((found[3..].iter().sum::<usize>(), buffers.len()), (8, 49));
    assert_eq!(buffers.access(), Access::Read);
    // By another way to the same.
    let physical = GuestBuffers::physical(&guest.mem, ranges.map(|(position, len)| (at(position), len)), Access::Read);
    assert_eq!(lens(&mut physical.unwrap()), found);
    let owned = GuestBuffers::owned(&guest.mem, ranges.map(|(position, len)| (io(position), len)), Access::Read);
    assert_eq!(lens(&mut owned.unwrap()), found);
}

#[test]
fn what_is_appended_later_does_not_join_what_is_done() {
    let guest = Guest::of(&[1]);
    let mut buffers = GuestBuffers::empty(Access::Write);
    assert!(buffers.is_empty() && buffers.as_iovecs().is_empty());
    buffers.extend(&guest.mem, [(io(0), 8)]).unwrap();
    buffers.complete(8).unwrap();
    buffers.extend(&guest.mem, [(io(8), 8)]).unwrap();
    assert_eq!((buffers.len(), lens(&mut buffers)), (8, vec![8]));
    buffers.advance(3);
    buffers.extend(&guest.mem, [(io(16), 4)]).unwrap();
    assert_eq!((buffers.len(), lens(&mut buffers)), (9, vec![9]));
    let (first, mut rest) = buffers.split_at(6).unwrap();
    assert_eq!((first.len(), lens(&mut rest)), (6, vec![3]));
}

#[test]
fn no_byte_is_had_everywhere() {
    let guest = Guest::of(&[1]);
    let nowhere = [(IoAddress(0), 0), (IoAddress(u64::MAX), 0)];
    assert!(GuestBuffers::new(&guest.mem, nowhere, Access::Write).unwrap().is_empty());
    assert!(GuestBuffers::owned(&guest.mem, nowhere, Access::Write).unwrap().is_empty());
    assert!(GuestBuffers::new(&GuestMemoryMmap::new(), [], Access::Write).unwrap().is_empty());
    let physical = GuestBuffers::physical(&guest.mem, [(GuestAddress(u64::MAX), 0)], Access::Write);
    assert!(physical.unwrap().is_empty());
}

/// Whether an error is the right one.
type Check = fn(&Error) -> bool;

/// Each way of making has the same errors, whatever the guest says.
#[test]
fn addresses_that_no_memory_has() {
    let guest = Guest::new(&[Plan::good(0, 1), Plan::good(1, 1)]);
    let last = IoAddress(u64::MAX);
    let end = page() - 3;
    let cases: [(IoAddress, usize, Check); 6] = [
        (io(page()), 1, |error| matches!(error, Error::InvalidGuestAddress(addr) if *addr == at(page()))),
        (last, 1, |error| matches!(error, Error::InvalidGuestAddress(GuestAddress(u64::MAX)))),
        (last, usize::MAX, |error| matches!(error, Error::InvalidGuestAddress(GuestAddress(u64::MAX)))),
        (io(end), 4, |error| matches!(error, Error::PartialBuffer { expected: 4, completed: 3 })),
        (io(end), usize::MAX, |error| matches!(error, Error::PartialBuffer { expected: usize::MAX, completed: 3 })),
        (IoAddress(0), 1, |error| matches!(error, Error::InvalidGuestAddress(GuestAddress(0)))),
    ];
    for (addr, len, is_right) in cases {
        let ranges = [(io(0), 8), (addr, len)];
        for error in [
            GuestBuffers::new(&guest.mem, ranges, Access::Write).unwrap_err(),
            GuestBuffers::owned(&guest.mem, ranges, Access::Write).unwrap_err(),
            GuestBuffers::physical(&guest.mem, ranges.map(|(at, len)| (GuestAddress(at.0), len)), Access::Write)
                .unwrap_err(),
        ] {
            assert!(is_right(&error), "{len} bytes at {addr}: {error}");
        }
    }
}

/// A guest may name the same memory again and again: it cannot have more than a call takes.
#[test]
fn more_bytes_than_there_can_be() {
    let region = 1 << 30;
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), region)]).unwrap();
    let most = isize::MAX.unsigned_abs() / region;
    // Where that takes as many pieces as there is memory for.
    if most <= 4 {
        let ranges = |count| (0..count).map(|_| (IoAddress(0), region));
        assert!(GuestBuffers::new(&mem, ranges(most), Access::Read).is_ok());
        let error = GuestBuffers::new(&mem, ranges(most + 1), Access::Read).unwrap_err();
        assert!(matches!(error, Error::PartialBuffer { .. }), "{error}");
    }
}

#[test]
fn memory_that_is_read_only_is_not_to_be_written() {
    let guest = Guest::of(&[1, 1]);
    guest.mem.find_region(at(page())).unwrap().protect(Protection::ReadOnly).unwrap();
    let ranges = [(io(0), page() + 4)];
    for access in [Access::Write, Access::ReadWrite] {
        for error in [
            GuestBuffers::new(&guest.mem, ranges, access).unwrap_err(),
            GuestBuffers::owned(&guest.mem, ranges, access).unwrap_err(),
            GuestBuffers::physical(&guest.mem, [(at(0), page() + 4)], access).unwrap_err(),
        ] {
            assert!(matches!(error, Error::ReadOnly { addr, .. } if addr == at(page())), "{error}");
        }
    }
    let file = memfd(0);
    GuestBuffers::new(&guest.mem, ranges, Access::Read).unwrap().pwritev_all(&file, 0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), page() as u64 + 4);
}

#[test]
fn what_was_made_to_be_read_is_not_written_and_the_reverse() {
    let guest = Guest::of(&[1]);
    let marks = Marks::of(&guest.mem);
    let file = memfd(64);
    let (read, write) = pipe(libc::O_NONBLOCK);
    let mut buffers = guest.buffers(&[(0, 8)], Access::Read);
    assert!(matches!(buffers.preadv(&file, 0), Err(Error::Unsupported)));
    assert!(matches!(buffers.preadv_exact(&file, 0).unwrap_err().cause, Error::Unsupported));
    assert!(matches!(buffers.readv(&file), Err(Error::Unsupported)));
    assert!(matches!(buffers.readv_exact(&read).unwrap_err().cause, Error::Unsupported));
    assert!(matches!(buffers.recvmsg(&file, 0), Err(Error::Unsupported)));
    assert!(matches!(buffers.write_slice(&[1], 0), Err(Error::Unsupported)));
    buffers.complete(4).unwrap();
    drop(buffers);
    let mut buffers = guest.buffers(&[(0, 8)], Access::Write);
    assert!(matches!(buffers.pwritev(&file, 0), Err(Error::Unsupported)));
    assert!(matches!(buffers.pwritev_all(&file, 0).unwrap_err().cause, Error::Unsupported));
    assert!(matches!(buffers.writev(&write), Err(Error::Unsupported)));
    assert!(matches!(buffers.writev_all(&write).unwrap_err().cause, Error::Unsupported));
    assert!(matches!(buffers.sendmsg(&write, 0), Err(Error::Unsupported)));
    assert!(matches!(buffers.read_slice(&mut [1], 0), Err(Error::Unsupported)));
    // Also of no bytes.
    assert!(matches!(guest.buffers(&[], Access::Read).readv(&read), Err(Error::Unsupported)));
    assert_eq!((buffers.len(), marks.take()), (8, vec![]));
    guest.check();
}

#[test]
fn aligned_pieces() {
    let guest = Guest::of(&[4]);
    let aligned = |ranges: &[(usize, usize)], addr, len| guest.buffers(ranges, Access::Read).is_aligned(addr, len);
    assert!(aligned(&[(0, page()), (2 * page(), 512)], 512, 512));
    assert!(!aligned(&[(0, page()), (2 * page(), 512)], 512, 4096));
    assert!(!aligned(&[(0, 512), (1025, 511)], 512, 1));
    assert!(aligned(&[(0, 100), (100, 412)], 512, 512), "together they are");
    assert!(!aligned(&[(0, 512)], 0, 512) && !aligned(&[(0, 512)], 512, 0));
    assert!(aligned(&[], 512, 512));
    let mut buffers = guest.buffers(&[(0, 1024)], Access::Read);
    buffers.advance(1);
    assert!(!buffers.is_aligned(512, 1) && buffers.is_aligned(1, 1));
}

/// What was given away to be written is dirty, unless somebody says how much was; also after it is cut.
#[test]
fn what_was_handed_out_is_dirty() {
    let guest = Guest::of(&[2]);
    let marks = Marks::of(&guest.mem);
    let ranges = [(8, 8), (100, 50)];
    drop(guest.buffers(&ranges, Access::Write));
    assert_eq!(marks.take(), []);
    let mut read = guest.buffers(&ranges, Access::Read);
    assert_eq!(read.as_iovecs().len(), 2);
    drop(read);
    assert_eq!(marks.take(), []);
    for access in [Access::Write, Access::ReadWrite] {
        let mut buffers = guest.buffers(&ranges, access);
        assert_eq!(buffers.as_iovecs().len(), 2);
        drop(buffers);
        assert_eq!(marks.take(), ranges);
        let mut buffers = guest.buffers(&ranges, access);
        assert_eq!(buffers.as_iovecs().len(), 2);
        buffers.complete(10).unwrap();
        drop(buffers);
        assert_eq!(marks.take(), [(8, 8), (100, 2)]);
        let mut buffers = guest.buffers(&ranges, access);
        assert_eq!(buffers.as_iovecs().len(), 2);
        // Of what was handed out before, nobody has said how much has landed.
        let file = memfd(4);
        assert_eq!(buffers.preadv(&file, 0).unwrap(), 4);
        assert_eq!(marks.take(), [(8, 4)]);
        drop(buffers);
        assert_eq!(marks.take(), [(12, 4), (100, 50)]);
    }
    // Cut meanwhile, what is cut off is dirty at once, and the rest when it is dropped.
    let handed_out = || {
        let mut buffers = guest.buffers(&ranges, Access::Write);
        assert_eq!(buffers.as_iovecs().len(), 2);
        buffers
    };
    let mut buffers = handed_out();
    buffers.advance(9);
    assert_eq!(marks.take(), [(8, 8), (100, 1)]);
    buffers.truncate(10);
    assert_eq!(marks.take(), [(111, 39)]);
    drop(buffers);
    assert_eq!(marks.take(), [(101, 10)]);
    let (first, rest) = handed_out().split_at(4).unwrap();
    assert_eq!(marks.take(), []);
    drop(rest);
    assert_eq!(marks.take(), [(12, 4), (100, 50)]);
    drop(first);
    assert_eq!(marks.take(), [(8, 4)]);
    assert!(handed_out().split_at(59).is_err());
    assert_eq!(marks.take(), ranges);
    // Who has forgotten the buffers may still write to them, and to nothing else.
    let mut buffers = guest.buffers(&ranges, Access::Write);
    buffers.write_slice(&data(3), 7).unwrap();
    buffers.truncate(9);
    buffers.advance(1);
    drop(buffers);
    assert_eq!(marks.take(), [(15, 1), (100, 2)]);
}
