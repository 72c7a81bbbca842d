//! Who is told of each request, and when.

use super::device::Processed;
use super::format::S_OK;
use crate::queue::{Queue, QueueError};
use memory_model::IoMemory;

/// Is told of each request as it goes its way: to keep it in memory that outlives the process, or to count it.
///
/// For each request that is answered the three steps come in the order in which they are listed, with the others' in
/// between if several are under way. One that was taken and cannot be answered, as the queue breaks, has no other step.
///
/// A step has no result. A journal that fails keeps its error, and is asked for it after each call of the disk's; what was
/// done meanwhile stays done.
///
/// `()` is the journal of those who need none, and costs nothing; `None` is the one that is not there; of a pair, the first
/// is told first.
///
/// ```
/// use memory_model::IoMemory;
/// use memory_model_virtio::blk::{Block, Journal, Outcome, S_OK};
/// use memory_model_virtio::{Queue, QueueError};
///
/// /// Bytes read and written by requests that succeeded.
/// struct Bytes(u64);
///
/// impl Journal for Bytes {
///     fn used(&mut self, _head: u16, _next_used: u16, outcome: &Outcome) {
///         if outcome.status == S_OK {
///             self.0 += outcome.bytes;
///         }
///     }
/// }
///
/// fn process<I: IoMemory>(disk: &Block, queue: &mut Queue, mem: &I) -> Result<u64, QueueError> {
///     let mut bytes = Bytes(0);
///     while disk.process_queue_with(queue, mem, &mut bytes)?.more {}
///     Ok(bytes.0)
/// }
/// ```
pub trait Journal {
    /// The chain at `head` was taken, from the available ring or [again](Queue::retake), and nothing is done of what it says.
    fn taken(&mut self, head: u16) {
        let _ = head;
    }

    /// The request at `head` is done: its data and status are in memory. It is going to be put into the used ring.
    fn done(&mut self, head: u16) {
        let _ = head;
    }

    /// The request at `head` is in the used ring, whose index is `next_used` now: the driver may have seen that.
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        let _ = (head, next_used, outcome);
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The request's type as the driver wrote it, `T_*` or none of them; `u32::MAX` if its header could not be read.
    pub kind: u32,
    /// How many bytes of data were transferred, in either direction; 0 unless it succeeded. What is discarded or zeroed is not
    /// transferred.
    pub bytes: u64,
    /// The status that the driver reads: `S_*`.
    pub status: u8,
}

impl Outcome {
    /// Whether the driver got what it asked for.
    pub fn is_ok(&self) -> bool {
        self.status == S_OK
    }
}

impl Journal for () {}

impl<J: Journal + ?Sized> Journal for &mut J {
    #[inline]
    fn taken(&mut self, head: u16) {
        (**self).taken(head);
    }

    #[inline]
    fn done(&mut self, head: u16) {
        (**self).done(head);
    }

    #[inline]
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        (**self).used(head, next_used, outcome);
    }
}

impl<J: Journal> Journal for Option<J> {
    #[inline]
    fn taken(&mut self, head: u16) {
        if let Some(journal) = self {
            journal.taken(head);
        }
    }

    #[inline]
    fn done(&mut self, head: u16) {
        if let Some(journal) = self {
            journal.done(head);
        }
    }

    #[inline]
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        if let Some(journal) = self {
            journal.used(head, next_used, outcome);
        }
    }
}

impl<A: Journal, B: Journal> Journal for (A, B) {
    #[inline]
    fn taken(&mut self, head: u16) {
        self.0.taken(head);
        self.1.taken(head);
    }

    #[inline]
    fn done(&mut self, head: u16) {
        self.0.done(head);
        self.1.done(head);
    }

    #[inline]
    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        self.0.used(head, next_used, outcome);
        self.1.used(head, next_used, outcome);
    }
}

/// A request's answer.
pub(super) struct Answer {
    /// Device-writable bytes written, from the first on.
    written: u32,
    outcome: Outcome,
}

impl Answer {
    /// That so many of `data_len` bytes before the status were written.
    pub(super) fn new(outcome: Outcome, data_written: u64, data_len: u64) -> Self {
        // From the start on: the status counts only if all before it was written (VIRTIO 1.2, 2.7.8.2).
        let written = if data_written == data_len { data_len.saturating_add(1) } else { data_written };
        Self { written: u32::try_from(written).unwrap_or(u32::MAX), outcome }
    }

    /// The request's type.
    pub(super) fn kind(&self) -> u32 {
        self.outcome.kind
    }

    /// Gives it to the driver, which looks for it at `head`.
    #[inline]
    pub(super) fn publish<I: IoMemory, J: Journal>(
        &self,
        (queue, head): (&mut Queue, u16),
        mem: &I,
        journal: &mut J,
        processed: &mut Processed,
    ) -> Result<(), QueueError> {
        journal.done(head);
        queue.add_used(mem, head, self.written)?;
        journal.used(head, queue.next_used(), &self.outcome);
        processed.count(self.outcome.status);
        Ok(())
    }
}
