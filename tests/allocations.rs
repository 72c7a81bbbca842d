//! Buffers of up to 16 pieces need no allocation: made, filled by one system call, and completed.

#![cfg(all(feature = "mmap", target_os = "linux"))]

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;

use memory_model::buffers::GuestBuffers;
use memory_model::io_memory::Access;
use memory_model::{GuestAddress, GuestMemoryMmap, IoAddress};

mod counting;

/// How much is allocated meanwhile.
fn count(work: impl FnOnce()) -> usize {
    let before = counting::allocations();
    work();
    counting::allocations() - before
}

/// Pieces in two regions, of which none follows another.
fn chain(pieces: u64) -> impl Iterator<Item = (IoAddress, usize)> {
    (0..pieces).map(|number| (IoAddress((number % 2) * 0x10_0000 + number * 0x800), 0x400))
}

#[test]
fn sixteen_pieces_need_none() {
    let mem =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000), (GuestAddress(0x10_0000), 0x1_0000)]).unwrap();
    let log = mem.start_tracking(4096).unwrap();
    let (file, (here, there)) = (tempfile::tempfile().unwrap(), UnixDatagram::pair().unwrap());
    file.write_all_at(&[1; 16 * 0x400], 0).unwrap();
    for pieces in [1, 15, 16] {
        let len = 0x400 * usize::try_from(pieces).unwrap();
        let allocated = count(|| {
            assert_eq!(GuestBuffers::new(&mem, chain(pieces), Access::Write).unwrap().preadv(&file, 0).unwrap(), len);
            let mut extended = GuestBuffers::empty(Access::Write);
            extended.extend(&mem, chain(pieces)).unwrap();
            assert_eq!(extended.preadv(&file, 0).unwrap(), len);
            GuestBuffers::owned(&mem, chain(pieces), Access::Write).unwrap().preadv_exact(&file, 0).unwrap();
            let mut buffers = GuestBuffers::owned(&mem, chain(pieces), Access::ReadWrite).unwrap();
            assert_eq!(buffers.as_iovecs().len() as u64, pieces);
            buffers.complete(0x401.min(len)).unwrap();
            buffers.pwritev_all(&file, 0x401).unwrap();
            let buffers = GuestBuffers::new(&mem, chain(pieces), Access::Read).unwrap();
            let (mut first, mut rest) = buffers.split_at(0x300).unwrap();
            assert_eq!(first.sendmsg(&here, 0).unwrap(), 0x300);
            rest.truncate(0x100);
            rest.advance(0x80);
            assert_eq!(rest.sendmsg(&here, 0).unwrap(), 0x80);
            let mut buffers = GuestBuffers::new(&mem, chain(pieces), Access::Write).unwrap();
            assert!(!buffers.recvmsg(&there, 0).unwrap().is_truncated);
            assert_eq!(buffers.readv(&there).unwrap(), 0x80);
        });
        assert_eq!(allocated, 0, "{pieces} pieces");
    }
    assert!(count(|| drop(GuestBuffers::new(&mem, chain(17), Access::Write).unwrap())) > 0, "or nothing is counted");
    log.stop_tracking();
}
