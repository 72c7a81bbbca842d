//! Which regions there are, which are refused, and why.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use memory_model_vhost_user_blk::inflight::{Error, Inflight, QueueInflight};
use memory_model_virtio::blk::Journal;
use vhost::vhost_user::message::VhostUserInflight;

fn file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn refused(message: VhostUserInflight, file: File) -> Error {
    Inflight::open(&message, file, 4, 256).unwrap_err()
}

#[test]
fn a_region_is_kept_and_opened_again() {
    let (inflight, message, file) = Inflight::create(2, 128).unwrap();
    let mut part = inflight.queue(1).unwrap();
    part.recover(128, 7).unwrap();
    for head in [100, 3] {
        part.taken(head);
    }
    drop((part, inflight));
    let inflight = Inflight::open(&message, file, 2, 128).unwrap();
    assert_eq!(inflight.queue(0).unwrap().recover(128, 0).unwrap(), [0_u16; 0]);
    let mut part = inflight.queue(1).unwrap();
    drop(inflight);
    assert_eq!(part.recover(128, 7).unwrap(), [100, 3], "a part keeps the region");
}

#[test]
fn a_new_region_is_of_zeros_and_cannot_be_cut_short() {
    let (_inflight, message, file) = Inflight::create(1, 1024).unwrap();
    let mut bytes = vec![0xee; message.mmap_size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert!(file.set_len(0).is_err());
}

/// At an offset, with room to spare.
#[test]
fn a_front_end_may_have_made_the_region() {
    let file = file(0x3000);
    let message = VhostUserInflight::new(0x2000, 0x1000, 1, 256);
    let inflight = Inflight::open(&message, file.try_clone().unwrap(), 1, 256).unwrap();
    inflight.queue(0).unwrap().recover(256, 0x1234).unwrap();
    let mut idx = [0; 2];
    file.read_exact_at(&mut idx, 0x1000 + 14).unwrap();
    assert_eq!(u16::from_ne_bytes(idx), 0x1234);
}

#[test]
fn numbers_that_make_no_region_are_refused() {
    for (num_queues, queue_size) in [(0, 1), (1, 0), (0, 0)] {
        let message = VhostUserInflight::new(0x1000, 0, num_queues, queue_size);
        assert!(matches!(refused(message, file(0x1000)), Error::Empty { .. }));
        assert!(matches!(Inflight::create(num_queues, queue_size).err().unwrap(), Error::Empty { .. }));
    }
    for (num_queues, queue_size) in [(5, 1), (1, 257), (u16::MAX, u16::MAX)] {
        let error = refused(VhostUserInflight::new(u64::MAX, 0, num_queues, queue_size), file(0x1000));
        assert!(matches!(error, Error::TooMany { max_queues: 4, max_queue_size: 256, .. }), "{error}");
    }
    for num_queues in [257, u16::MAX] {
        assert!(matches!(Inflight::create(num_queues, u16::MAX).err().unwrap(), Error::Queues(n) if n == num_queues));
    }
    // If the device had as many, too.
    let message = VhostUserInflight::new(u64::MAX, 0, u16::MAX, u16::MAX);
    assert!(matches!(Inflight::open(&message, file(0x1000), u16::MAX, u16::MAX), Err(Error::Queues(u16::MAX))));

    let needed = 4 * (16 + 16 * 256 + 48);
    for size in [0, 1, needed - 1] {
        let error = refused(VhostUserInflight::new(size, 0, 4, 256), file(0x10_0000));
        assert!(matches!(error, Error::TooSmall { needed: n, .. } if n == needed), "{error}");
    }
    let message = VhostUserInflight::new(needed - 1, 0, 4, 256);
    let expected = "an inflight region of 0x40ff bytes is too small: 4 queues of 256 descriptors need 0x4100";
    assert_eq!(refused(message, file(0x10_0000)).to_string(), expected);
}

#[test]
fn places_that_are_not_in_the_file_are_refused() {
    let size = 0x2000;
    for offset in [0x1000, 0x2000, 1 << 40, u64::MAX - 0xfff, u64::MAX] {
        let error = refused(VhostUserInflight::new(size, offset, 1, 256), file(0x2fff));
        assert!(matches!(error, Error::PastEndOfFile { file_len: 0x2fff, .. }), "{error}");
    }
    // What is claimed counts, if less is needed, too.
    let error = refused(VhostUserInflight::new(u64::MAX, 0, 1, 16), file(0x1000));
    assert!(matches!(error, Error::PastEndOfFile { .. }), "{error}");
    for offset in [1, 64, 0xfff] {
        let error = refused(VhostUserInflight::new(size, offset, 1, 256), file(0x4000));
        assert!(matches!(error, Error::Map(_)) && error.to_string().contains("page size"), "{error}");
    }
    let device = File::options().read(true).write(true).open("/dev/zero").unwrap();
    assert!(matches!(refused(VhostUserInflight::new(size, 0, 1, 256), device), Error::NotAFile));
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(size).unwrap();
    let read_only = File::open(named.path()).unwrap();
    assert!(matches!(refused(VhostUserInflight::new(size, 0, 1, 256), read_only), Error::Map(_)));
}

#[test]
fn a_refused_region_is_closed() {
    let (reader, writer) = UnixStream::pair().unwrap();
    let file = File::from(OwnedFd::from(writer));
    assert!(matches!(refused(VhostUserInflight::new(0x2000, 0, 1, 256), file), Error::NotAFile));
    assert_eq!(std::io::read_to_string(reader).unwrap(), "", "the end, as nobody can write to it");
}

#[test]
fn a_part_goes_to_its_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<QueueInflight>();
    is_send::<Inflight>();
}
