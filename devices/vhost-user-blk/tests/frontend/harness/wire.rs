//! Messages, good and bad: twelve bytes of header, a body, and descriptors.
//!
//! The format is vhost-user's (QEMU, docs/interop/vhost-user.rst); numbers are in the machine's byte order.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::daemon::SOON;

/// What a message asks for.
pub(crate) mod code {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const SET_CONFIG: u32 = 25;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

pub(crate) const VERSION: u32 = 1;
pub(crate) const REPLY: u32 = 1 << 2;
pub(crate) const NEED_REPLY: u32 = 1 << 3;

/// How a message begins.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) size: u32,
}

/// The state of a ring: its size, its base, or whether it is enabled.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct VringState {
    pub(crate) index: u32,
    pub(crate) num: u32,
}

/// Where a ring's parts are, as the front-end sees them; and where the used ring is in the log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct VringAddr {
    pub(crate) index: u32,
    /// Bit 0: writes of the used ring are logged.
    pub(crate) flags: u32,
    pub(crate) desc: u64,
    pub(crate) used: u64,
    pub(crate) avail: u64,
    pub(crate) log: u64,
}

/// A region of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Region {
    pub(crate) guest: u64,
    pub(crate) size: u64,
    /// Where the front-end has it.
    pub(crate) user: u64,
    /// Where it begins in its file.
    pub(crate) offset: u64,
}

/// A part of a file: for the log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Extent {
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

/// Where it is recorded which requests are under way.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Inflight {
    pub(crate) size: u64,
    pub(crate) offset: u64,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    pub(crate) padding: u32,
}

impl Inflight {
    /// The bytes that are sent: 20 or 24, depending on who compiled the front-end. QEMU sends what is here.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// An access of the configuration space; the bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Config {
    pub(crate) offset: u32,
    pub(crate) size: u32,
    pub(crate) flags: u32,
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was acknowledged: 0 is success.
    Ack(u64),
    /// The connection was ended.
    Ended,
}

impl Answer {
    /// Whether the message was not accepted.
    pub(crate) fn is_refusal(self) -> bool {
        self != Self::Ack(0)
    }
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    /// The start of the body.
    pub(crate) fn get<T: FromBytes>(&self) -> T {
        T::read_from_prefix(&self.body).unwrap_or_else(|_| panic!("too short: {self:?}")).0
    }
}

/// The front-end's end of a connection.
pub(crate) struct Wire {
    pub(crate) socket: UnixStream,
}

impl Wire {
    pub(crate) fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        Self { socket }
    }

    /// Sends bytes as they are, the descriptors with the first of them. False if the connection has ended.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut rest = bytes;
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        while !rest.is_empty() {
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if is_end(error) => return false,
                Err(error) => panic!("cannot send: {error}"),
            }
            control.clear();
        }
        true
    }

    /// Sends a message.
    pub(crate) fn send(&self, code: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let header = Header { code, flags: VERSION | flags, size: body.len().try_into().unwrap() };
        self.send_bytes(&[header.as_bytes(), body].concat(), fds)
    }

    /// Fills `buffer`; false if the connection ends before the first byte.
    fn fill(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> bool {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slice = &mut [IoSliceMut::new(&mut buffer[filled..])];
            let count = match recvmsg(&self.socket, slice, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message.bytes,
                Err(error) if is_end(error) => 0,
                Err(error) => panic!("no message: {error}"),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if count == 0 {
                return false;
            }
            filled += count;
        }
        true
    }

    /// The next message; `None` if the connection has ended.
    pub(crate) fn receive(&self) -> Option<Message> {
        let mut fds = vec![];
        let mut header = [0; size_of::<Header>()];
        if !self.fill(&mut header, &mut fds) {
            return None;
        }
        let header = Header::read_from_bytes(&header).unwrap();
        assert!(header.size <= 4096, "{header:?}");
        let mut body = vec![0; header.size as usize];
        self.fill(&mut body, &mut fds).then_some(Message { header, body, fds })
    }

    /// Waits until the connection has ended; whatever comes before is ignored.
    pub(crate) fn until_end(&self) {
        while self.receive().is_some() {}
    }

    /// Asks, and waits for the reply. `None` if the connection ends.
    pub(crate) fn ask(&self, code: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Message> {
        if !self.send(code, flags, body, fds) {
            return None;
        }
        let reply = self.receive()?;
        assert_eq!((reply.header.code, reply.header.flags & !NEED_REPLY), (code, VERSION | REPLY), "{reply:?}");
        Some(reply)
    }

    /// Sends a message that has no reply of its own, and waits for the acknowledgement.
    pub(crate) fn tell(&self, code: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Answer {
        match self.ask(code, NEED_REPLY, body, fds) {
            Some(reply) => Answer::Ack(reply.get()),
            None => Answer::Ended,
        }
    }
}

fn is_end(error: Errno) -> bool {
    matches!(error, Errno::PIPE | Errno::CONNRESET)
}
