//! A ring: what the front-end has said of it, and the thread that serves it.

mod events;
mod log;
mod server;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use memory_model::dirty::LogBitmap;
use memory_model_virtio::QueueConfig;

pub(crate) use log::RingLog;
pub(crate) use server::{Processor, Records, Server};

use crate::image::Lease;
use events::Exchangeable;

/// How long a thread is waited for before it may be that it is kept.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the front-end has a ring's parts, in its own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// How a ring's thread is told that the driver has made buffers available.
#[derive(Debug)]
enum Kick {
    Event(Arc<File>),
    /// Not at all: it is to look by itself.
    Polled,
}

/// What the front-end has said of a ring.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) addresses: Option<Addresses>,
    /// The index of the available entry that comes next.
    pub(crate) base: u16,
    pub(crate) enabled: bool,
    kick: Option<Kick>,
    call: Exchangeable,
    error: Exchangeable,
    log: RingLog,
    running: Option<Running>,
    /// Whether it could not be started again.
    broken: bool,
}

/// What is asked of a ring's thread, and waited for.
#[derive(Debug)]
enum Command {
    /// To answer what is under way, and to end.
    Stop,
    /// To use the present memory map from now on, to keep nothing of an older one, and to confirm that.
    Refresh(SyncSender<()>),
}

/// A ring's thread.
#[derive(Debug)]
struct Running {
    control: Control,
    thread: JoinHandle<u16>,
    /// Is closed when the thread has ended.
    ended: Receiver<()>,
    /// The image is this process's until the ring has drained.
    _lease: Lease,
}

/// One side's end of what is asked of a thread.
#[derive(Debug)]
struct Control {
    commands: Sender<Command>,
    again: Arc<Again>,
    wake: Arc<File>,
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Commands {
    receiver: Receiver<Command>,
    again: Arc<Again>,
    wake: Arc<File>,
}

/// Events that are to be signalled whether there is something new or not, as they are new. Flags, as nobody waits for them:
/// however often a front-end exchanges an event, it is signalled once.
#[derive(Debug, Default)]
struct Again {
    /// The driver is to be notified.
    call: AtomicBool,
    /// The front-end is to be told that the ring is broken, if it is.
    error: AtomicBool,
}

/// By what a ring's thread is woken, and whom it wakes.
#[derive(Debug)]
pub(crate) struct Events {
    kick: Option<Arc<File>>,
    call: Exchangeable,
    error: Exchangeable,
    commands: Commands,
}

impl Ring {
    /// Whether the front-end has said all that is needed to begin.
    pub(crate) fn is_ready(&self) -> bool {
        self.running.is_none() && self.enabled && self.size > 0 && self.addresses.is_some() && self.kick.is_some()
    }

    /// Whether its thread runs.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Where writes to the used ring are logged.
    pub(crate) fn log(&self) -> &RingLog {
        &self.log
    }

    /// By what the driver tells that buffers are available; `None` if it does not. The ring is stopped, and started by it.
    pub(crate) fn set_kick(&mut self, event: Option<File>) -> io::Result<()> {
        let kick = match event {
            Some(event) => Kick::Event(Arc::new(events::accept(event)?)),
            None => Kick::Polled,
        };
        self.pause();
        self.kick = Some(kick);
        Ok(())
    }

    /// By what the driver is told that buffers are used. If the ring runs it is told at once: of what was used before there was
    /// this event nobody may have heard.
    pub(crate) fn set_call(&self, event: Option<File>) -> io::Result<()> {
        self.call.set(event.map(events::accept).transpose()?);
        if let Some(running) = &self.running {
            running.control.notify(|again| &again.call);
        }
        Ok(())
    }

    /// By what the front-end is told that the ring is broken. If it is, it is told at once: that was signalled by the event
    /// before this one, if there was any.
    pub(crate) fn set_error(&self, event: Option<File>) -> io::Result<()> {
        self.error.set(event.map(events::accept).transpose()?);
        if let Some(running) = &self.running {
            running.control.notify(|again| &again.error);
        } else if self.broken {
            self.error.unblock();
            self.error.signal();
        }
        Ok(())
    }

    /// Tells the front-end that the ring is broken, as it could not be started again.
    pub(crate) fn signal_error(&mut self) {
        self.broken = true;
        self.error.unblock();
        self.error.signal();
    }

    /// Starts the thread: `server` makes what it does of its events.
    pub(crate) fn start(
        &mut self,
        lease: Lease,
        server: impl FnOnce(Events) -> io::Result<Server>,
        name: String,
    ) -> io::Result<()> {
        let wake = Arc::new(events::own()?);
        let (sender, receiver) = channel();
        let kick = match &self.kick {
            Some(Kick::Event(event)) => Some(Arc::clone(event)),
            Some(Kick::Polled) | None => None,
        };
        let (call, error) = (self.call.clone(), self.error.clone());
        let again = Arc::new(Again::default());
        let commands = Commands { receiver, again: Arc::clone(&again), wake: Arc::clone(&wake) };
        let server = server(Events { kick, call, error, commands })?;
        let (ends, ended) = sync_channel(0);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _ends: SyncSender<()> = ends;
            server.run()
        })?;
        let control = Control { commands: sender, again, wake };
        self.broken = false;
        self.running = Some(Running { control, thread, ended, _lease: lease });
        Ok(())
    }

    /// Ends the thread, when it has answered what is under way. The ring can go on where it was.
    pub(crate) fn pause(&mut self) {
        if let Some(Running { control, thread, ended, _lease }) = self.running.take() {
            control.send(Command::Stop);
            self.wait_for(&ended);
            let ended = thread.join();
            self.base = ended.unwrap_or_else(|_| {
                tracing::error!("a ring's thread has panicked");
                self.base
            });
        }
    }

    /// As [`pause`](Self::pause); and the front-end is to start it again.
    pub(crate) fn stop(&mut self) {
        self.pause();
        self.kick = None;
        self.broken = false;
    }

    /// Forgets all that the front-end has said.
    pub(crate) fn reset(&mut self) {
        self.stop();
        *self = Self::default();
    }

    /// Waits until the thread has done something, or has ended. It may be kept by an event that the front-end has made to block,
    /// and nobody else would free it from that.
    pub(crate) fn wait_for(&self, done: &Receiver<()>) {
        while done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            self.call.unblock();
            self.error.unblock();
            if let Some(Kick::Event(event)) = &self.kick {
                events::unblock_read(event);
            }
        }
    }

    /// Has the thread use the present memory map, and let go of older ones. Returns what tells when it does.
    pub(crate) fn refresh(&self) -> Option<Receiver<()>> {
        let running = self.running.as_ref()?;
        let (done, is_done) = sync_channel(1);
        running.control.send(Command::Refresh(done));
        Some(is_done)
    }
}

impl Control {
    fn send(&self, command: Command) {
        // A thread that has ended has done what is asked.
        if self.commands.send(command).is_ok() {
            events::signal(&self.wake);
        }
    }

    /// Has the thread signal an event once more.
    fn notify(&self, event: impl FnOnce(&Again) -> &AtomicBool) {
        // Release: pairs with the thread's swap, which then finds the event that was set before.
        event(&self.again).store(true, Ordering::Release);
        events::signal(&self.wake);
    }
}

impl Commands {
    fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    /// Whether the driver is to be notified, since this was last asked.
    fn takes_call(&self) -> bool {
        take(&self.again.call)
    }

    /// Whether the front-end is to be told of a broken ring, since this was last asked.
    fn takes_error(&self) -> bool {
        take(&self.again.error)
    }

    fn clear(&self) {
        if let Err(error) = events::clear(&self.wake) {
            tracing::error!(%error, "a thread's own event cannot be read");
        }
    }
}

fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Acquire)
}

impl AsFd for Commands {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Where a ring lies for the device: what the thread begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) config: QueueConfig,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
}

/// A log, if there is one.
pub(crate) type Log = Option<Arc<LogBitmap>>;
