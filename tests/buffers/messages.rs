//! Datagrams: each is one call, whole or cut, and who gets it is told.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixStream};

use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;

use crate::ground::{Guest, Marks, data, page, pattern};
use crate::raw::{broken_pipes, packets, pipe, send_fd};

#[test]
fn a_datagram_that_is_cut_is_told() {
    let mut guest = Guest::of(&[1, 1]);
    let (ranges, marks) = ([(page() - 50, 100), (0, 28)], Marks::of(&guest.mem));
    let (here, there) = UnixDatagram::pair().unwrap();
    for (sent, len, is_truncated) in [(127, 127, false), (128, 128, false), (129, 128, true), (0, 0, false)] {
        here.send(&data(sent)).unwrap();
        here.send(b"next").unwrap();
        let mut buffers = guest.buffers(&ranges, Access::Write);
        let received = buffers.recvmsg(&there, 0).unwrap();
        assert_eq!((received.len, received.is_truncated), (len, is_truncated), "{sent} bytes");
        assert_eq!(buffers.len(), 128 - len);
        let marked: usize = marks.take().iter().map(|(_, len)| len).sum();
        assert_eq!(marked, len);
        // The rest of it is gone.
        let mut next = [0; 8];
        assert_eq!((there.recv(&mut next).unwrap(), &next[..4]), (4, &b"next"[..]));
    }
    for (index, byte) in data(128).into_iter().enumerate() {
        guest.bytes[if index < 100 { page() - 50 + index } else { index - 100 }] = byte;
    }
    guest.check();
}

#[test]
fn one_message_for_all_pieces() {
    let guest = Guest::of(&[2, 2]);
    let ranges: Vec<_> = (0..16).map(|number| (number * (page() / 4), 90)).collect();
    let [here, there] = packets();
    assert_eq!(guest.buffers(&ranges, Access::Read).sendmsg(&here, 0).unwrap(), 1440);
    let mut found = vec![0; 2000];
    assert_eq!(File::from(there).read(&mut found).unwrap(), 1440);
    let expected: Vec<_> = ranges.iter().flat_map(|&(at, len)| (at..at + len).map(pattern)).collect();
    assert_eq!(found[..1440], expected);
    // Of no bytes, which is a message; not to qemu's emulation of the system call, which sends none.
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return memory_model_test_support::skip!("emulated: an empty message is not sent");
    }
    let (here, there) = UnixDatagram::pair().unwrap();
    assert_eq!(guest.buffers(&[], Access::Read).sendmsg(&here, 0).unwrap(), 0);
    there.set_nonblocking(true).unwrap();
    assert_eq!(there.recv(&mut found).unwrap(), 0);
    assert!(there.recv(&mut found).is_err());
}

/// Over the network, what waits and what is only looked at.
#[test]
fn flags() {
    let guest = Guest::of(&[1]);
    let marks = Marks::of(&guest.mem);
    let (here, there) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    here.connect(there.local_addr().unwrap()).unwrap();
    let mut buffers = guest.buffers(&[(0, 4), (8, 4)], Access::Write);
    let nothing = buffers.recvmsg(&there, libc::MSG_DONTWAIT).unwrap_err();
    assert!(matches!(nothing, Error::Io(error) if error.kind() == ErrorKind::WouldBlock));
    assert_eq!(marks.take(), []);
    assert!(matches!(buffers.recvmsg(&there, libc::MSG_TRUNC), Err(Error::Unsupported)));
    assert_eq!(guest.buffers(&[(100, 9)], Access::Read).sendmsg(&here, 0).unwrap(), 9);
    let received = guest.buffers(&[(20, 3)], Access::Write).recvmsg(&there, libc::MSG_PEEK).unwrap();
    assert_eq!((received.len, received.is_truncated), (3, true));
    let received = buffers.recvmsg(&there, 0).unwrap();
    assert_eq!((received.len, received.is_truncated), (8, true));
    assert_eq!(marks.take(), [(0, 4), (8, 4), (20, 3)]);
}

/// A stream is no message: it gives what it has.
#[test]
fn streams() {
    let mut guest = Guest::of(&[1]);
    let (mut here, there) = UnixStream::pair().unwrap();
    here.write_all(&data(30)).unwrap();
    let mut buffers = guest.buffers(&[(0, 10), (20, 5)], Access::Write);
    let received = buffers.recvmsg(&there, 0).unwrap();
    assert_eq!((received.len, received.is_truncated), (15, false));
    drop(buffers);
    let received = guest.buffers(&[(40, 20)], Access::Write).recvmsg(&there, 0).unwrap();
    assert_eq!((received.len, received.is_truncated), (15, false));
    for (start, part) in [(0, 0..10), (20, 10..15), (40, 15..30)] {
        guest.bytes[start..start + part.len()].copy_from_slice(&data(30)[part]);
    }
    guest.check();
    drop(here);
    let received = guest.buffers(&[(40, 20)], Access::Write).recvmsg(&there, 0).unwrap();
    assert_eq!((received.len, received.is_truncated), (0, false));
    // Who has gone is an error, and no signal.
    let before = broken_pipes();
    let gone = guest.buffers(&[(0, 8)], Access::Read).sendmsg(&there, 0).unwrap_err();
    assert!(matches!(&gone, Error::Io(error) if error.kind() == ErrorKind::BrokenPipe), "{gone}");
    assert_eq!(broken_pipes(), before);
}

/// Descriptors that come along are closed.
#[test]
fn descriptors_do_not_stay_open() {
    let guest = Guest::of(&[1]);
    let (here, there) = UnixStream::pair().unwrap();
    let (mut read, write) = pipe(0);
    send_fd(&here, &write);
    drop(write);
    assert_eq!(guest.buffers(&[(0, 10)], Access::Write).recvmsg(&there, 0).unwrap().len, 1);
    // It had another end, or this would wait.
    assert_eq!(read.read(&mut [0; 1]).unwrap(), 0);
}
