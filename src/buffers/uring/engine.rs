#![expect(unsafe_code, reason = "has the kernel use memory until it says that it is done")]

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::process;

use super::super::GuestBuffers;
use super::calls::{self, Calls};
use super::request::{Kind, Request};
use super::ring::Ring;
use super::table::Table;
use crate::guest_memory::Error;
use crate::io_memory::Access;

/// A file, and requests that are under way on it, in any order.
///
/// Made requests are begun by [`submit`](Self::submit), or [`wait`](Self::wait), many by one system call; what is done is
/// handed out by [`next_completion`](Self::next_completion), in the order in which it was done. An event loop polls the
/// [descriptor](Self::as_fd) for that. Requests neither wait for each other, nor see what others do, unless they are done.
///
/// A request is finished by the engine: what the kernel has left of it, as with more than 1024 pieces, or after a signal, is
/// given to it again. See the [module](super) for who has the memory meanwhile, and for what is marked as dirty.
///
/// Where there is no `io_uring`, as the system is too old, or it is forbidden (a seccomp filter,
/// `kernel.io_uring_disabled`), or there is not enough memory that may be locked, all is as said, but that `submit` does it,
/// one by one: see [`fallback_reason`](Self::fallback_reason).
///
/// ```
/// use memory_model::buffers::{GuestBuffers, uring::FileEngine};
/// use memory_model::io_memory::Access;
/// use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, IoAddress};
/// # use std::io::Write;
/// # let mut disk = tempfile::tempfile()?;
/// # disk.write_all(&[7; 0x2000])?;
/// let map = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)])?);
/// let mut engine = FileEngine::new(disk, 8)?;
/// for (token, offset) in [(1, 0), (2, 0x1000)] {
///     let ranges = [(IoAddress(offset), 0x800), (IoAddress(offset + 0x2000), 0x800)];
///     engine.read_at(GuestBuffers::owned(&*map.memory(), ranges, Access::Write)?, offset, token)?;
/// }
/// while engine.in_flight() > 0 {
///     engine.wait()?;
///     while let Some(completion) = engine.next_completion()? {
///         assert_eq!(completion.result?, 0x1000);
///     }
/// }
/// assert_eq!(map.memory().read_obj::<[u8; 2]>(GuestAddress(0x2fff))?, [0, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileEngine {
    file: File,
    /// # Invariant
    ///
    /// It is dropped only when the kernel has none of the requests; else never.
    table: ManuallyDrop<Table>,
    /// Dropped in the process only that has made it.
    backend: ManuallyDrop<Backend>,
    fallback_reason: Option<io::Error>,
    process: u32,
}

#[expect(clippy::large_enum_variant, reason = "one for each engine; a ring is what is used")]
enum Backend {
    Ring(Ring),
    Calls(Calls),
}

/// A request that is done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion {
    /// What the request was made with.
    pub token: u64,
    /// The number of bytes transferred, from the first on. Fewer than asked for only where the file has ended, or takes no
    /// more.
    ///
    /// [`Error::Fault`] and [`Error::ReadOnly`] name the first byte in guest memory that could not be accessed, where faults
    /// are recovered from; [`Error::Io`] is of the file, or says that the request was cancelled (`ECANCELED`).
    pub result: Result<usize, Error>,
    /// The number of bytes transferred, from the first on, whatever the result is.
    pub transferred: usize,
    /// What is left of the buffers: nothing if all was transferred. `None` of what had none.
    pub buffers: Option<GuestBuffers<'static>>,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many are under way as can be: take completions first.
    #[error("as many requests are under way as the engine has room for: take completions first")]
    Full,
    /// The memory is to be read, and the request would write to it; or the other way round.
    #[error("the buffers were made to be accessed the other way")]
    Access,
    /// The file has no such place: it would end beyond 2^63.
    #[error("the request would go past the last byte that a file can have")]
    Offset,
}

/// A request that was not taken, with its buffers.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// As they were.
    pub buffers: GuestBuffers<'static>,
}

impl FileEngine {
    /// An engine for so many requests at a time, at most 32768: a regular file's, or a block device's.
    ///
    /// By `io_uring`, if that can be had. It is to be made, and tried, before a seccomp filter forbids that (`io_uring_setup`,
    /// `io_uring_register`, `eventfd2`); needed later are `io_uring_enter` and `read`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for no requests at all; what eventfd(2) says, where there is no `io_uring`.
    pub fn new(file: File, requests: u16) -> io::Result<Self> {
        check(requests)?;
        match Ring::new(requests) {
            Ok(ring) => {
                let capacity = usize::from(requests).min(ring.capacity());
                Ok(Self::with(file, Backend::Ring(ring), capacity, None))
            }
            Err(reason) => {
                let backend = Backend::Calls(Calls::new()?);
                Ok(Self::with(file, backend, usize::from(requests), Some(reason)))
            }
        }
    }

    /// The engine as it is without `io_uring`, also where there is one: [`submit`](Self::submit) waits for each request.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn without_io_uring(file: File, requests: u16) -> io::Result<Self> {
        check(requests)?;
        let reason = io::Error::new(ErrorKind::Unsupported, "it was made to be without io_uring");
        Ok(Self::with(file, Backend::Calls(Calls::new()?), usize::from(requests), Some(reason)))
    }

    fn with(file: File, backend: Backend, capacity: usize, fallback_reason: Option<io::Error>) -> Self {
        Self {
            file,
            table: ManuallyDrop::new(Table::new(capacity)),
            backend: ManuallyDrop::new(backend),
            fallback_reason,
            process: process::id(),
        }
    }

    /// Why requests are not done by `io_uring`; `None` if they are.
    pub fn fallback_reason(&self) -> Option<&io::Error> {
        self.fallback_reason.as_ref()
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many requests there can be at a time.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// How many requests were made whose completions were not handed out.
    pub fn in_flight(&self) -> usize {
        self.table.len()
    }

    /// Makes a request: to read from `offset` in the file, in bytes, and fill `buffers`.
    ///
    /// Where pieces overlap, of one request or of several in flight, the bytes are unspecified: see
    /// [`GuestBuffers`](GuestBuffers#overlapping-pieces).
    ///
    /// # Errors
    ///
    /// [`Refused`], with the buffers.
    #[expect(clippy::result_large_err, reason = "the buffers come back; a box would be one more allocation")]
    pub fn read_at(&mut self, buffers: GuestBuffers<'static>, offset: u64, token: u64) -> Result<(), Refused> {
        let may = buffers.access() != Access::Read;
        self.add(Kind::Read, buffers, may, offset, token)
    }

    /// Makes a request: to write all of `buffers` to the file, from `offset` on, in bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the buffers.
    #[expect(clippy::result_large_err, reason = "the buffers come back; a box would be one more allocation")]
    pub fn write_at(&mut self, buffers: GuestBuffers<'static>, offset: u64, token: u64) -> Result<(), Refused> {
        let may = buffers.access() != Access::Write;
        self.add(Kind::Write, buffers, may, offset, token)
    }

    /// Makes a request: to make stable what was written to the file, by requests that are done, as fdatasync(2) does.
    ///
    /// # Errors
    ///
    /// [`Refusal::Full`].
    pub fn sync_data(&mut self, token: u64) -> Result<(), Refusal> {
        self.add_sync(Kind::SyncData, token)
    }

    /// As [`sync_data`](Self::sync_data), and all that is known about the file, as fsync(2) does.
    ///
    /// # Errors
    ///
    /// [`Refusal::Full`].
    pub fn sync_all(&mut self, token: u64) -> Result<(), Refusal> {
        self.add_sync(Kind::SyncAll, token)
    }

    fn add_sync(&mut self, kind: Kind, token: u64) -> Result<(), Refusal> {
        let number = self.table.claim().ok_or(Refusal::Full)?;
        self.table.add(number, Request::new(token, kind, None, 0));
        Ok(())
    }

    #[expect(clippy::result_large_err, reason = "the buffers come back; a box would be one more allocation")]
    fn add(
        &mut self,
        kind: Kind,
        buffers: GuestBuffers<'static>,
        may: bool,
        offset: u64,
        token: u64,
    ) -> Result<(), Refused> {
        let end = offset.checked_add(buffers.len() as u64).and_then(|end| i64::try_from(end).ok());
        let number = if !may {
            Err(Refusal::Access)
        } else if end.is_none() {
            Err(Refusal::Offset)
        } else {
            self.table.claim().ok_or(Refusal::Full)
        };
        match number {
            Ok(number) => {
                self.table.add(number, Request::new(token, kind, Some(buffers), offset));
                Ok(())
            }
            Err(reason) => Err(Refused { reason, buffers }),
        }
    }

    /// Begins all requests that were made. Costs one system call, if there are any.
    ///
    /// # Errors
    ///
    /// What `io_uring_enter(2)` says: the kernel has no memory (`EAGAIN`), or may not be asked. The requests stay made: this can
    /// be called again.
    pub fn submit(&mut self) -> io::Result<()> {
        self.begin()?;
        match &mut *self.backend {
            Backend::Ring(ring) => ring.flush(),
            Backend::Calls(_) => Ok(()),
        }
    }

    /// Begins all requests that were made, and waits until a completion can be handed out; not if none is under way.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    pub fn wait(&mut self) -> io::Result<()> {
        loop {
            self.begin()?;
            self.land();
            if self.table.goes_on() {
                continue;
            }
            let is_over = self.table.has_done() || self.table.in_kernel() == 0;
            match &mut *self.backend {
                Backend::Ring(ring) if !is_over => ring.enter(1)?,
                Backend::Ring(ring) => return ring.flush(),
                Backend::Calls(_) => return Ok(()),
            }
        }
    }

    /// Hands out a request that is done, if there is one. Never waits.
    ///
    /// Call it until it returns `None`: that clears the [descriptor](Self::as_fd), which is readable again after the next completion.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit), of requests that are to go on. Others can be handed out nevertheless: this can be
    /// called again.
    pub fn next_completion(&mut self) -> io::Result<Option<Completion>> {
        if !self.table.has_done() {
            self.go_on()?;
        }
        if let (Backend::Ring(ring), false) = (&*self.backend, self.table.has_done()) {
            // What the kernel has answered by now is found below; what it answers later raises the event again.
            ring.clear_event()?;
            self.go_on_cleared()?;
        }
        let completion = self.table.take_done();
        if let Backend::Calls(calls) = &mut *self.backend {
            calls.set(self.table.has_done())?;
        }
        Ok(completion)
    }

    /// Cancels all requests, as a device does that is reset. Each has its completion, at once or later: an error, or what it
    /// was, if it was too late.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    pub fn cancel(&mut self) -> io::Result<()> {
        let numbers = self.table.cancel();
        // Requests that the kernel does not have are done at once, and it answers nothing.
        self.raise_if_done()?;
        match &mut *self.backend {
            Backend::Ring(ring) => {
                for number in numbers {
                    // Who is full is so no more when the kernel has looked.
                    if !ring.cancel(number) {
                        ring.enter(0)?;
                        ring.cancel(number);
                    }
                }
                ring.flush()
            }
            Backend::Calls(_) => Ok(()),
        }
    }

    /// Begins the next steps of all requests that wait for it.
    fn begin(&mut self) -> io::Result<()> {
        while let Some(step) = self.table.next_step() {
            let number = step.number;
            match &mut *self.backend {
                Backend::Ring(ring) => {
                    // SAFETY: by the table's invariants, both hold until `land` is called of that number, which `land` does
                    // with answers of the ring's and nothing else; and, as the number is not given another step before, once
                    // for each. The table is not dropped before, or never (see the field).
                    if !unsafe { ring.begin(&self.file, &step) } {
                        self.table.not_begun(number);
                        // Never: there are no more requests than that the queue has room for.
                        ring.enter(0)?;
                    }
                }
                Backend::Calls(calls) => {
                    let answer = calls::call(&self.file, &step);
                    self.table.land(number, answer);
                    calls.set(self.table.has_done())?;
                }
            }
        }
        Ok(())
    }

    /// Takes the kernel's answers, and begins what follows.
    fn go_on(&mut self) -> io::Result<()> {
        self.land();
        // What has failed to be begun before is tried again, too, as nobody else might.
        match &mut *self.backend {
            _ if self.table.goes_on() => self.submit(),
            Backend::Ring(ring) => ring.flush(),
            Backend::Calls(_) => Ok(()),
        }
    }

    /// As [`go_on`](Self::go_on), after the event was cleared: raises it for what was found, also if that fails.
    pub(super) fn go_on_cleared(&mut self) -> io::Result<()> {
        let outcome = self.go_on();
        self.raise_if_done()?;
        outcome
    }

    /// Has the descriptor be readable if a completion can be handed out that the kernel does not raise the event for.
    fn raise_if_done(&mut self) -> io::Result<()> {
        let has_done = self.table.has_done();
        match &mut *self.backend {
            Backend::Ring(ring) if has_done => ring.raise_event(),
            Backend::Ring(_) => Ok(()),
            Backend::Calls(calls) => calls.set(has_done),
        }
    }

    /// Takes the kernel's answers.
    fn land(&mut self) {
        if let Backend::Ring(ring) = &mut *self.backend {
            while let Some((number, answer)) = ring.next_answer() {
                self.table.land(number, answer);
            }
        }
    }

    /// Cancels everything, and waits until the kernel is done with it.
    fn end(&mut self) -> io::Result<()> {
        self.cancel()?;
        while let Backend::Ring(ring) = &mut *self.backend {
            while let Some((number, answer)) = ring.next_answer() {
                self.table.land(number, answer);
            }
            if self.table.in_kernel() == 0 {
                break;
            }
            ring.enter(1)?;
        }
        Ok(())
    }
}

fn check(requests: u16) -> io::Result<()> {
    if requests == 0 { Err(ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

impl AsFd for FileEngine {
    /// An eventfd(2) that is readable (`POLLIN`) while completions can be handed out, and until
    /// [`next_completion`](Self::next_completion) has returned `None`. It may be readable without any.
    ///
    /// It is for polling, and nothing else: reading it loses wake-ups, and making it blocking has `next_completion` block. See the
    /// [module](super).
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.backend {
            Backend::Ring(ring) => ring.as_fd(),
            Backend::Calls(calls) => calls.as_fd(),
        }
    }
}

impl Drop for FileEngine {
    /// Cancels what is under way, and waits for what cannot be cancelled.
    fn drop(&mut self) {
        if process::id() != self.process {
            return; // a child's copy: what it has is its parent's
        }
        if self.end().is_ok() {
            // SAFETY: dropped once, as nothing comes after this. The kernel has none of the requests.
            unsafe { ManuallyDrop::drop(&mut self.table) };
        }
        // SAFETY: dropped once, as nothing comes after this.
        unsafe { ManuallyDrop::drop(&mut self.backend) };
    }
}

impl fmt::Debug for FileEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEngine")
            .field("file", &self.file)
            .field("capacity", &self.capacity())
            .field("in_flight", &self.in_flight())
            .field("fallback_reason", &self.fallback_reason)
            .finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn goes_to_other_threads<T: Send>() {}
    goes_to_other_threads::<FileEngine>();
};
