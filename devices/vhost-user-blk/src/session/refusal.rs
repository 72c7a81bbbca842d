use std::io;

use memory_model::atomic::MapError;
use memory_model::guest_memory::RegionError;
use memory_model::{GuestAddress, mmap};
use memory_model_virtio::ConfigError;
use vhost::vhost_user;

use crate::inflight;

/// Why a message is refused. What it asks for is not done, in no part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the device has no {what} {bits:#x}")]
    Features { what: &'static str, bits: u64 },
    #[error("there is no ring {index}: the device has {count}")]
    NoRing { index: u32, count: usize },
    #[error("ring {index} is in use: its {what} cannot be changed before it is stopped")]
    RingRuns { index: u32, what: &'static str },
    #[error("ring {index} cannot have {size} entries: a power of two up to {max} can")]
    RingSize { index: u32, size: u32, max: u16 },
    #[error("ring {index} cannot go on at {base}: an index has 16 bits")]
    RingBase { index: u32, base: u32 },
    #[error("ring {index}: its {part} is at {user_addr:#x} of the front-end, where no memory region is")]
    RingAddress { index: u16, part: &'static str, user_addr: u64 },
    #[error("ring {index}: {source}")]
    RingConfig { index: u16, source: ConfigError },
    #[error("ring {index}: its used index cannot be read: {source}")]
    RingMemory { index: u16, source: memory_model::guest_memory::Error },
    #[error("ring {index}: {what}: {source}")]
    RingSystem { index: u32, what: &'static str, source: io::Error },
    #[error("the region of {len:#x} bytes at {addr} (front-end {user_addr:#x}) {what}")]
    Region { addr: GuestAddress, len: u64, user_addr: u64, what: &'static str },
    #[error("the region of {len:#x} bytes at {addr} cannot be mapped from {offset:#x} of its file: {source}")]
    Mapping { addr: GuestAddress, len: u64, offset: u64, source: mmap::Error },
    #[error("the memory table cannot be: {0}")]
    Table(#[from] RegionError),
    #[error("{0}")]
    Map(#[from] MapError),
    #[error("{count} memory regions are more than the {max} slots")]
    Slots { count: usize, max: usize },
    #[error("{regions} regions came with {files} files")]
    Files { regions: usize, files: usize },
    #[error("the log of {len:#x} bytes cannot be mapped from {offset:#x} of its file: {source}")]
    Log { len: u64, offset: u64, source: mmap::Error },
    #[error("writes cannot be logged: {0}")]
    Untracked(#[from] memory_model::dirty::Error),
    #[error("{0}")]
    Inflight(#[from] inflight::Error),
    #[error("{0} is not what this device does")]
    Unsupported(&'static str),
    #[error("the connection has ended while the image was waited for")]
    Ended,
    #[error("{0}")]
    Fatal(String),
}

impl From<Refusal> for vhost_user::Error {
    fn from(refusal: Refusal) -> Self {
        Self::ReqHandlerError(io::Error::other(refusal))
    }
}
