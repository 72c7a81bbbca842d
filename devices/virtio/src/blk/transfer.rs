//! What a request that is under way has in memory: its data, and the place of its answer.

use std::sync::Arc;

use memory_model::atomic::RegionMap;
use memory_model::buffers::{GuestBuffers, Reader, Writer};
use memory_model::guest_memory::Error;
use memory_model::io_memory::IoMemory;

use super::file::Extent;
use super::journal::{Answer, Outcome};
use crate::queue::QueueError;

/// What is to be transferred, and from where in the file on.
pub(super) enum Transfer {
    Read(u64, GuestBuffers<'static>),
    Write(u64, GuestBuffers<'static>),
    Flush,
}

impl Transfer {
    pub(super) fn read<I>(extent: Extent, data: &mut Writer<'_, I>) -> Result<Self, Error>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        let buffers = data.owned_buffers(extent.in_file)?;
        data.fill(0, extent.padding)?;
        Ok(Self::Read(extent.start, buffers))
    }

    pub(super) fn write<I>(extent: Extent, data: &mut Reader<'_, I>) -> Result<Self, Error>
    where
        I: IoMemory<Physical: RegionMap<Region: Send + Sync + 'static>>,
    {
        Ok(Self::Write(extent.start, data.owned_buffers(extent.in_file)?))
    }
}

/// Where a request is answered.
#[derive(Debug)]
pub(super) struct End {
    pub(super) head: u16,
    /// The request's type.
    pub(super) kind: u32,
    /// The device-writable bytes before the status.
    pub(super) data_len: u64,
    /// Where the status goes.
    pub(super) status: GuestBuffers<'static>,
}

impl End {
    /// Writes the status of a request that has had so many bytes of data written to memory, and so many to the disk.
    pub(super) fn answer(&mut self, status: u8, data_written: u64, written: u64) -> Result<Answer, QueueError> {
        self.status.write_slice(&[status], 0).map_err(|error| lost(self.head, error))?;
        let outcome = Outcome { kind: self.kind, bytes: data_written.saturating_add(written), status };
        Ok(Answer::new(outcome, data_written, self.data_len))
    }
}

/// The answer to the request at `head` cannot be written.
pub(super) fn lost(head: u16, error: Error) -> QueueError {
    QueueError::AnswerLost { head, source: Arc::new(error) }
}
