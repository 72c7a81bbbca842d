//! One front-end's connection: message after message, until either side ends it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::channel;
use crate::error::Error;
use crate::hangup::Hangup;
use crate::session::{Device, Session};

/// The header of a message: request, flags and size, of 32 bits each, in the host's order.
const HEADER_LEN: usize = 12;
const NEED_REPLY: u32 = 1 << 3;
/// How often is looked for the rest of a header, and how long is waited in between.
const PATIENCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// The requests of this device that are answered by a reply of their own, which there is not if they are refused.
const HAVE_REPLIES: [u32; 8] = [
    FrontendReq::GET_FEATURES as u32,
    FrontendReq::SET_LOG_BASE as u32,
    FrontendReq::GET_VRING_BASE as u32,
    FrontendReq::GET_PROTOCOL_FEATURES as u32,
    FrontendReq::GET_QUEUE_NUM as u32,
    FrontendReq::GET_CONFIG as u32,
    FrontendReq::GET_INFLIGHT_FD as u32,
    FrontendReq::GET_MAX_MEM_SLOTS as u32,
];

/// Serves a front-end until it ends the connection, or makes it impossible to go on, or `hangup` ends it. All requests that
/// it has made are answered then, and nothing of it is kept.
///
/// # Errors
///
/// What ends the daemon, and not only the connection.
pub fn serve(connection: UnixStream, hangup: &Hangup, device: Arc<Device>) -> Result<(), Error> {
    let peek = connection.try_clone().map_err(Error::system("a connection cannot be served"))?;
    let session = Arc::new(Mutex::new(Session::new(device, hangup.clone())?));
    let mut handler = BackendReqHandler::from_stream(connection, Arc::clone(&session));
    loop {
        let Some(header) = Header::peek(&peek, hangup) else {
            tracing::warn!("the connection is ended: a message does not come whole");
            return Ok(());
        };
        if header.request == FrontendReq::SET_BACKEND_REQ_FD as u32 {
            if let Err(reason) = channel::close_entrance(&peek) {
                tracing::warn!(%reason, "the connection is ended");
                return Ok(());
            }
        }
        let outcome = handler.handle_request();
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = session.take_fatal() {
            return Err(error);
        }
        match outcome {
            Ok(()) => tracing::debug!(request = header.request, "a message is handled"),
            Err(ProtocolError::SocketRetry(_)) => {}
            Err(ProtocolError::ReqHandlerError(reason)) if header.is_acknowledged() && session.acknowledges() => {
                tracing::warn!(request = header.request, %reason, "a message is refused");
            }
            Err(reason) => {
                match reason {
                    ProtocolError::Disconnected => tracing::info!("the front-end has ended the connection"),
                    reason => tracing::warn!(request = header.request, %reason, "the connection is ended"),
                }
                return Ok(());
            }
        }
    }
}

/// What the next message is, before it is received: what the framing tells of it is only how it was handled.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    request: u32,
    flags: u32,
}

impl Header {
    /// Waits for a message. Of one that is cut off by the connection's end nothing is known; `None` if it does not go on for
    /// some time, or has descriptors in the midst of its header.
    fn peek(connection: &UnixStream, hangup: &Hangup) -> Option<Self> {
        let mut header = [0_u8; HEADER_LEN];
        let mut attempts = 0..PATIENCE;
        loop {
            match recv(connection, &mut header, RecvFlags::PEEK) {
                Ok((_, HEADER_LEN)) => {
                    let [request, flags, _] = zerocopy::transmute!(header);
                    return Some(Self { request, flags });
                }
                // The first bytes of it.
                Ok((_, 1..)) if !hangup.ends_within(PAUSE) => attempts.next()?,
                _ => return Some(Self::default()),
            };
        }
    }

    /// Whether the front-end is told that the message was refused. If not, and it waits for the message's own reply, only the
    /// connection's end tells it; and the framing goes by the protocol's features that it was told last, refused or not.
    fn is_acknowledged(self) -> bool {
        let is_unanswered =
            HAVE_REPLIES.contains(&self.request) || self.request == FrontendReq::SET_PROTOCOL_FEATURES as u32;
        self.flags & NEED_REPLY != 0 && !is_unanswered
    }
}
