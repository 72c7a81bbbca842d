//! The daemon: one front-end after the other, until a signal ends it.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::connection;
use crate::error::Error;
use crate::hangup::Hangup;
use crate::image::Image;
use crate::options::Options;
use crate::session::Device;
use crate::stats::Stats;

/// How often statistics are printed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Listens, and serves one front-end after the other, until SIGTERM or SIGINT: then requests that were taken are answered, and
/// the socket is removed.
///
/// # Errors
///
/// [`Error`], if it cannot begin, or go on.
pub fn run(options: Options) -> Result<(), Error> {
    let image = Arc::new(Image::open(options.image.clone(), options.read_only)?);
    let stats = options.stats.then(Stats::new);
    let path = options.socket.clone();
    let device = Arc::new(Device::new(image, options, stats.clone())?);
    let signals = signals().map_err(Error::system("signals cannot be waited for"))?;
    let socket = Socket::bind(path)?;
    let outcome = Daemon { device, signals, socket, stats: stats.as_ref(), serving: None }.run();
    if let Some(stats) = stats {
        print(format_args!("total {}", stats.total()));
    }
    outcome
}

struct Daemon<'a> {
    device: Arc<Device>,
    signals: UnixStream,
    socket: Socket,
    stats: Option<&'a Stats>,
    serving: Option<Serving>,
}

/// The connection that is being served.
struct Serving {
    hangup: Hangup,
    thread: JoinHandle<Result<(), Error>>,
    /// Is closed when the thread has ended.
    ended: UnixStream,
}

/// What has happened.
enum Event {
    Signal,
    Connection,
    Ended,
    Tick,
}

impl Daemon<'_> {
    fn run(mut self) -> Result<(), Error> {
        let mut tick = Instant::now();
        loop {
            if self.stats.is_some() && tick.elapsed() >= INTERVAL {
                tick = Instant::now();
                self.stats.iter().for_each(|stats| print(format_args!("{}", stats.interval())));
            }
            let timeout = self.stats.map(|_| INTERVAL.saturating_sub(tick.elapsed()));
            match self.wait(timeout).map_err(Error::system("nothing can be waited for"))? {
                Event::Signal => {
                    tracing::info!("asked to end");
                    return self.end();
                }
                Event::Ended => self.end()?,
                Event::Connection => self.serve()?,
                Event::Tick => {}
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Event> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // While one is served, others wait to be accepted.
        let (other, event) = match &self.serving {
            Some(serving) => (serving.ended.as_fd(), Event::Ended),
            None => (self.socket.listener.as_fd(), Event::Connection),
        };
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN), PollFd::from_borrowed_fd(other, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [signal, other] = fds.map(|fd| !fd.revents().is_empty());
        Ok(match (signal, other) {
            (true, _) => Event::Signal,
            (_, true) => event,
            _ => Event::Tick,
        })
    }

    fn serve(&mut self) -> Result<(), Error> {
        let connection = match self.socket.listener.accept() {
            Ok((connection, _)) => connection,
            Err(reason) => {
                // It has gone again, or there is no room for it now.
                tracing::warn!(%reason, "a connection is not accepted");
                thread::sleep(Duration::from_millis(10));
                return Ok(());
            }
        };
        tracing::info!("a front-end has connected");
        let system = Error::system;
        connection.set_nonblocking(false).map_err(system("a connection cannot be served"))?;
        let hangup = Hangup::new(&connection).map_err(system("a connection cannot be served"))?;
        let (ended, ends) = UnixStream::pair().map_err(system("a connection cannot be served"))?;
        let (device, by) = (Arc::clone(&self.device), hangup.clone());
        let body = move || {
            let outcome = connection::serve(connection, &by, device);
            drop(ends);
            outcome
        };
        let thread = thread::Builder::new().name("connection".into()).spawn(body);
        let thread = thread.map_err(system("a connection's thread cannot be started"))?;
        self.serving = Some(Serving { hangup, thread, ended });
        Ok(())
    }

    /// Ends the connection that is being served, if there is one, when its requests are answered.
    fn end(&mut self) -> Result<(), Error> {
        let Some(Serving { hangup, thread, ended: _ }) = self.serving.take() else { return Ok(()) };
        hangup.end();
        thread.join().unwrap_or_else(|_| {
            tracing::error!("a connection's thread has panicked");
            Ok(())
        })
    }
}

/// A socket that is listened on, and removed at the end.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    fn bind(path: PathBuf) -> Result<Self, Error> {
        let listener = remove_stale(&path).and_then(|()| UnixListener::bind(&path)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match listener {
            Ok(listener) => Ok(Self { path, listener }),
            Err(source) => Err(Error::Socket { path, source }),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(reason) = fs::remove_file(&self.path) {
            tracing::warn!(%reason, "the socket is not removed");
        }
    }
}

/// Removes what a process has left behind that was killed; nothing that anybody listens on, or that is no socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is there")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// What can be read when the process is asked to end.
fn signals() -> io::Result<UnixStream> {
    let (ours, handlers) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, OwnedFd::from(handlers.try_clone()?))?;
    }
    Ok(ours)
}

/// Prints a line of statistics. Whether anybody reads it does not matter to the disk.
fn print(line: std::fmt::Arguments<'_>) {
    if let Err(reason) = writeln!(io::stdout(), "{line}") {
        tracing::debug!(%reason, "statistics are not printed");
    }
}
