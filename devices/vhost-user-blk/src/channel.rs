//! The way to the front-end for requests of ours. Nothing is sent on it, and nothing may come.
//!
//! A connection ends when its other end is closed. A channel could be that end, or have it in its receive buffer (unix(7),
//! `SCM_RIGHTS`): then this process would hold it itself, and serve a front-end for ever that has long gone.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, recv, recvmsg, send,
    shutdown,
};

/// Looks at the channel that comes with the next message, and sees to it that nobody can put anything into it any more. The
/// message itself is left as it is.
///
/// # Errors
///
/// It is none: a socket that listens, or the connection's other end. The connection is to be ended.
pub(crate) fn close_entrance(connection: &UnixStream) -> io::Result<()> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    recvmsg(connection, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(channels) = message {
            for channel in channels {
                close(&channel)?;
            }
        }
    }
    // Nobody could read a reply any more, if the channel was the connection's other end.
    match send(connection, &[], SendFlags::NOSIGNAL) {
        Err(Errno::PIPE) => Err(io::Error::new(io::ErrorKind::InvalidInput, "the channel is the connection itself")),
        _ => Ok(()),
    }
}

fn close(channel: &OwnedFd) -> io::Result<()> {
    // What is no such socket at all the framing refuses.
    if socket_domain(channel.as_fd()) != Ok(AddressFamily::UNIX) {
        return Ok(());
    }
    if socket_acceptconn(channel)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the channel is a socket that listens"));
    }
    match shutdown(channel, Shutdown::Read) {
        Ok(()) => {}
        Err(Errno::NOTCONN) => return Err(io::Error::new(io::ErrorKind::NotConnected, "the channel has no other end")),
        Err(errno) => return Err(errno.into()),
    }
    // What was in it before. Descriptors that come with that are closed, as there is no room for them.
    let mut bytes = [0; 4096];
    loop {
        match recv(channel, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((_, 1..)) | Err(Errno::INTR) => {}
            Ok((_, 0)) | Err(_) => return Ok(()),
        }
    }
}
