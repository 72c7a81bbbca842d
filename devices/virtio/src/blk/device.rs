use std::fs::File;
use std::io;
use std::sync::Arc;

use memory_model::buffers::{Reader, Writer};
use memory_model::{DataInit, IoMemory, guest_memory};

use super::budget::Budget;
use super::config::{
    ConfigSpace, F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_SIZE_MAX, F_WRITE_ZEROES,
    MAX_DISCARD_SECTORS, MAX_RANGES, MAX_SEGMENT_SIZE, MAX_WRITE_ZEROES_SECTORS,
};
use super::file::{Extent, Sectors};
use super::format::{
    RANGE_F_UNMAP, Range, RequestHeader, S_IOERR, S_OK, S_UNSUPP, SECTOR_SIZE, T_DISCARD, T_FLUSH, T_GET_ID, T_IN,
    T_OUT, T_WRITE_ZEROES,
};
use super::journal::{Answer, Journal, Outcome};
use crate::queue::{Chain, Queue, QueueError};
use crate::ring::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

const RANGE_LEN: usize = size_of::<Range>();
/// The type of a request whose header cannot be read.
const UNKNOWN_KIND: u32 = u32::MAX;

/// What whoever makes a [`Block`] may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOptions {
    /// Nothing is written to the file. Then its length need not be a multiple of 512: the last sector is filled up with
    /// zeros.
    pub read_only: bool,
    /// The disk's name, which [`T_GET_ID`] reads: ASCII, padded with NUL.
    pub id: [u8; 20],
    /// The number of queues that the transport has for the device, at least 1.
    pub num_queues: u16,
    /// The size of the largest queue that the transport allows: requests are to fit into it.
    pub max_queue_size: u16,
}

impl Default for BlockOptions {
    /// Writable, without a name, one queue of up to 256 entries.
    fn default() -> Self {
        Self { read_only: false, id: [0; 20], num_queues: 1, max_queue_size: 256 }
    }
}

/// What [`Block::process_queue`] has done, and what is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the driver may have to be notified, and requests may be left"]
pub struct Processed {
    /// The number of requests that were answered.
    pub requests: u32,
    /// How many of them did not succeed.
    pub failed: u32,
    /// The driver wants to be notified of used buffers (VIRTIO 1.2, 2.7.7).
    pub notify: bool,
    /// Requests came meanwhile, and the driver may not notify of them: call again, and do not wait.
    pub more: bool,
}

impl Processed {
    /// One more was answered, with this status.
    pub(super) fn count(&mut self, status: u8) {
        self.requests = self.requests.saturating_add(1);
        self.failed = self.failed.saturating_add(u32::from(status != S_OK));
    }
}

/// A virtio block device over a file (VIRTIO 1.2, 5.2).
///
/// Sectors beyond the file's length when it was opened do not exist; if the file is truncated later, reads beyond its
/// end are errors. One device serves all of its queues, from several threads if need be.
#[derive(Debug)]
pub struct Block {
    sectors: Sectors,
    options: BlockOptions,
    /// Writes may wait for a flush. Else each is stable before it is answered.
    writeback: bool,
}

/// Why a request has no success.
pub(super) enum Failure {
    /// [`S_IOERR`].
    Io,
    /// [`S_UNSUPP`].
    Unsupported,
}

impl Failure {
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Io => S_IOERR,
            Self::Unsupported => S_UNSUPP,
        }
    }
}

impl From<guest_memory::Error> for Failure {
    /// No memory there, or the file failed in between.
    fn from(_: guest_memory::Error) -> Self {
        Self::Io
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Block {
    /// The disk that `file` holds: a regular file, or a block device.
    ///
    /// Until [`set_features`](Self::set_features) says that the driver will flush, each write is made stable before it
    /// is answered.
    ///
    /// # Errors
    ///
    /// The file's length cannot be found. `InvalidInput` if it is no multiple of 512 and the disk is to be writable:
    /// fill the file up, or open it read-only; or if there is no queue.
    pub fn new(file: File, options: BlockOptions) -> io::Result<Self> {
        let sectors = Sectors::new(file)?;
        if sectors.is_padded() && !options.read_only {
            let message = "the length of a writable disk must be a multiple of 512 bytes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if options.num_queues == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a disk has at least one queue"));
        }
        Ok(Self { sectors, options, writeback: false })
    }

    /// The disk's size in sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        self.sectors.capacity()
    }

    /// The feature bits that the device offers (VIRTIO 1.2, 5.2.3 and 6), those of its queues among them.
    pub fn features(&self) -> u64 {
        let queues = if self.options.num_queues > 1 { F_MQ } else { 0 };
        let writes = if self.options.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | queues | writes
    }

    /// Tells the device which feature bits were negotiated; to be called before the queues are used. A driver that has
    /// not accepted [`F_FLUSH`] sends no flushes, so its writes are made stable one by one (VIRTIO 1.2, 5.2.6.2).
    pub fn set_features(&mut self, negotiated: u64) {
        self.writeback = negotiated & self.features() & F_FLUSH != 0;
    }

    /// Fills `buf` from `offset` in the configuration space (VIRTIO 1.2, 5.2.4), in bytes. Beyond its end are zeros.
    pub fn read_config(&self, offset: u64, buf: &mut [u8]) {
        let writable = !self.options.read_only;
        let if_writable = |limit: u32| if writable { limit } else { 0 };
        let ranges = if_writable(u32::try_from(MAX_RANGES).unwrap_or(u32::MAX));
        let space = ConfigSpace {
            capacity: self.capacity().into(),
            size_max: MAX_SEGMENT_SIZE.into(),
            // A chain has no more descriptors than the queue, in a table or not; header and status have one each.
            seg_max: u32::from(self.options.max_queue_size.saturating_sub(2).max(1)).into(),
            blk_size: 512.into(),
            num_queues: self.options.num_queues.into(),
            max_discard_sectors: if_writable(MAX_DISCARD_SECTORS).into(),
            max_discard_seg: ranges.into(),
            discard_sector_alignment: if_writable(1).into(),
            max_write_zeroes_sectors: if_writable(MAX_WRITE_ZEROES_SECTORS).into(),
            max_write_zeroes_seg: ranges.into(),
            write_zeroes_may_unmap: writable.into(),
            ..ConfigSpace::default()
        };
        let bytes = usize::try_from(offset).ok().and_then(|offset| space.as_slice().get(offset..)).unwrap_or_default();
        buf.fill(0);
        for (to, from) in buf.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Answers the requests that are available, and asks for a notification of the next.
    ///
    /// At most as many as the queue has entries: a driver that goes on making requests cannot keep a caller from its
    /// other duties. Fewer, if they are large or wait for the disk: it returns after some 256 KiB, so that the driver is notified
    /// of those. See [`Processed::more`].
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the queue is broken, or breaks: what was answered before stays answered, and the driver is to
    /// be notified.
    pub fn process_queue<I: IoMemory>(&self, queue: &mut Queue, mem: &I) -> Result<Processed, QueueError> {
        self.process_queue_with(queue, mem, &mut ())
    }

    /// As [`process_queue`](Self::process_queue), and tells `journal` of each request.
    ///
    /// # Errors
    ///
    /// As for [`process_queue`](Self::process_queue).
    pub fn process_queue_with<I: IoMemory, J: Journal>(
        &self,
        queue: &mut Queue,
        mem: &I,
        journal: &mut J,
    ) -> Result<Processed, QueueError> {
        let limit = u32::from(queue.size());
        let (mut processed, mut budget) = (Processed::default(), Budget::new());
        loop {
            queue.disable_notifications(mem)?;
            while processed.requests < limit && !budget.is_spent() {
                let Some(chain) = queue.pop(mem)? else { break };
                let head = chain.head();
                journal.taken(head);
                budget.spend(&chain);
                let answer = self.answer(mem, &chain);
                if let Ok(answer) = &answer {
                    budget.spend_on(answer.kind(), self.writeback);
                }
                match answer {
                    Ok(answer) => answer.publish((queue, head), mem, journal, &mut processed)?,
                    Err(reason) => return Err(queue.mark_broken(reason)),
                }
            }
            processed.more = queue.enable_notifications(mem)?;
            if !processed.more || processed.requests >= limit || budget.is_spent() {
                processed.notify = queue.needs_notification(mem)?;
                return Ok(processed);
            }
        }
    }

    /// Answers the requests at `heads`, in that order, which were taken and not answered when the queue was
    /// [resumed](Queue::resume) and are among its buffers in flight: to be called before
    /// [`process_queue`](Self::process_queue), which [`Processed::more`] then says is to follow. They are done again from
    /// their start, whatever was done of them before.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the queue is broken, or breaks: what was answered before stays answered, and the driver is to
    /// be notified. If a head is not in the table, or there twice, or there are more than buffers in flight, nothing is done.
    pub fn resubmit<I: IoMemory, J: Journal>(
        &self,
        queue: &mut Queue,
        mem: &I,
        heads: &[u16],
        journal: &mut J,
    ) -> Result<Processed, QueueError> {
        queue.check_retaken(heads, 0)?;
        let mut processed = Processed { more: true, ..Processed::default() };
        for &head in heads {
            let chain = queue.retake(mem, head)?;
            journal.taken(head);
            match self.answer(mem, &chain) {
                Ok(answer) => answer.publish((queue, head), mem, journal, &mut processed)?,
                Err(reason) => return Err(queue.mark_broken(reason)),
            }
        }
        processed.notify = queue.needs_notification(mem)?;
        Ok(processed)
    }

    /// Does what a request says, and writes its status; nothing but that can fail.
    pub(super) fn answer<I: IoMemory>(&self, mem: &I, chain: &Chain<'_>) -> Result<Answer, QueueError> {
        let (head, writable) = (chain.head(), chain.writable().len());
        let unanswerable = QueueError::Unanswerable { head };
        let Some(data_len) = writable.checked_sub(1) else { return Err(unanswerable) };
        let Ok((mut data, mut end)) = chain.writer(mem).split_at(data_len) else { return Err(unanswerable) };
        let mut request = chain.reader(mem);
        let (kind, task) = self.begin(&mut request, &mut data);
        let result = task.and_then(|task| self.finish(task, &mut request, &mut data));
        let (status, data_written, bytes) = match result {
            Ok(written) => (S_OK, data.bytes_written(), data.bytes_written().saturating_add(written)),
            Err(failure) => (failure.status(), 0, 0),
        };
        end.write_obj(status).map_err(|source| QueueError::AnswerLost { head, source: Arc::new(source) })?;
        Ok(Answer::new(Outcome { kind, bytes, status }, data_written, data_len))
    }

    /// Does what is left of a request, and answers how many bytes were written to the disk.
    fn finish<I: IoMemory>(
        &self,
        task: Task,
        request: &mut Reader<'_, I>,
        data: &mut Writer<'_, I>,
    ) -> Result<u64, Failure> {
        match task {
            Task::Read(extent) => self.sectors.read(extent, data)?,
            Task::Write(extent) => {
                self.sectors.write(extent, request)?;
                self.written()?;
                return Ok(extent.in_file);
            }
            Task::Flush => self.sectors.file().sync_data()?,
            Task::Nothing => {}
        }
        Ok(0)
    }

    /// Checks a request, and does what takes no transfer: `data` is what it has the device write, but for the status. What is
    /// left of `request` is the data to be written to the disk. Answers the request's type, too, or what stands for that.
    pub(super) fn begin<I: IoMemory>(
        &self,
        request: &mut Reader<'_, I>,
        data: &mut Writer<'_, I>,
    ) -> (u32, Result<Task, Failure>) {
        // One fetch: the driver cannot change this copy.
        match request.read_obj::<RequestHeader>() {
            Ok(header) => (header.kind.to_native(), self.check(&header, request, data)),
            Err(error) => (UNKNOWN_KIND, Err(error.into())),
        }
    }

    /// As [`begin`](Self::begin), with the header.
    #[inline]
    fn check<I: IoMemory>(
        &self,
        header: &RequestHeader,
        request: &mut Reader<'_, I>,
        data: &mut Writer<'_, I>,
    ) -> Result<Task, Failure> {
        let sector = header.sector.to_native();
        match header.kind.to_native() {
            T_IN => Ok(Task::Read(self.sectors.extent(sector, data.remaining()).ok_or(Failure::Io)?)),
            T_OUT => {
                let extent = self.sectors.extent(sector, request.remaining()).ok_or(Failure::Io)?;
                self.check_writable().map(|()| Task::Write(extent))
            }
            T_FLUSH => Ok(Task::Flush),
            // The driver's data has 20 bytes (VIRTIO 1.2, 5.2.6.1).
            T_GET_ID => Ok(data.write_slice(&self.options.id).map(|()| Task::Nothing)?),
            T_DISCARD => self.discard(request).map(|()| Task::Nothing),
            T_WRITE_ZEROES => self.write_zeroes(request).map(|()| Task::Nothing),
            _ => Err(Failure::Unsupported),
        }
    }

    fn discard<I: IoMemory>(&self, request: &mut Reader<'_, I>) -> Result<(), Failure> {
        self.each_range(request, MAX_DISCARD_SECTORS, 0, |extent, _| self.sectors.discard(extent))
    }

    fn write_zeroes<I: IoMemory>(&self, request: &mut Reader<'_, I>) -> Result<(), Failure> {
        self.each_range(request, MAX_WRITE_ZEROES_SECTORS, RANGE_F_UNMAP, |extent, flags| {
            self.sectors.zero(extent, flags & RANGE_F_UNMAP != 0)
        })
    }

    /// Does `step` for each range of a request; for none, unless all are good.
    fn each_range<I: IoMemory>(
        &self,
        request: &mut Reader<'_, I>,
        max_sectors: u32,
        known_flags: u32,
        step: impl Fn(Extent, u32) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let bytes = usize::try_from(request.remaining()).unwrap_or(usize::MAX);
        let count = bytes / RANGE_LEN;
        if bytes % RANGE_LEN != 0 || count == 0 || count > MAX_RANGES {
            return Err(Failure::Io);
        }
        // A copy of them all, so that what is done is what was checked.
        let mut ranges = [Range::default(); MAX_RANGES];
        let ranges = ranges.get_mut(..count).unwrap_or_default();
        request.read_slice(zerocopy::IntoBytes::as_mut_bytes(&mut *ranges))?;
        // That a flag is not known goes before all else (VIRTIO 1.2, 5.2.6.2).
        if ranges.iter().any(|range| range.flags.to_native() & !known_flags != 0) {
            return Err(Failure::Unsupported);
        }
        self.check_writable()?;
        let extent = |range: &Range| {
            let sectors = u64::from(range.num_sectors.to_native());
            let bytes = sectors << SECTOR_SIZE.trailing_zeros(); // of 32 bits: does not overflow
            let extent = self.sectors.extent(range.sector.to_native(), bytes);
            extent.filter(|_| sectors <= u64::from(max_sectors)).ok_or(Failure::Io)
        };
        for range in &*ranges {
            extent(range)?;
        }
        for range in &*ranges {
            step(extent(range)?, range.flags.to_native())?;
        }
        self.written()
    }

    #[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn file(&self) -> &File {
        self.sectors.file()
    }

    /// Whether writes may wait for a flush.
    #[cfg(all(feature = "io-uring", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn is_writeback(&self) -> bool {
        self.writeback
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.options.read_only { Err(Failure::Io) } else { Ok(()) }
    }

    /// After something was written: makes it stable, unless the driver will.
    fn written(&self) -> Result<(), Failure> {
        if !self.writeback {
            self.sectors.file().sync_data()?;
        }
        Ok(())
    }
}

/// What is left to be done of a request that was checked.
#[derive(Clone, Copy)]
pub(super) enum Task {
    /// To read this from the file.
    Read(Extent),
    /// To write this to the file, and to make it stable unless the driver will.
    Write(Extent),
    /// To make stable what was written.
    Flush,
    /// All is done.
    Nothing,
}
