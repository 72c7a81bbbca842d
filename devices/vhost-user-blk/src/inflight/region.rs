use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory_model::{AtomicAccess, Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice, volatile_memory};
use vhost::vhost_user::message::VhostUserInflight;

use super::layout::part_len;
use super::{Error, QueueInflight};

/// The number of queues that vhost-user can name: with 8 bits, where it has a queue's event descriptors.
pub const MAX_QUEUES: u16 = 256;

/// The inflight region of a device: a part for each queue. Stays mapped as long as one of its parts is used.
#[derive(Debug)]
pub struct Inflight {
    region: Arc<MmapRegion>,
    num_queues: u16,
    queue_size: u16,
}

impl Inflight {
    /// A new region for so many queues, each of so many descriptors: a memfd of zeros, sealed so that nobody cuts it short.
    /// With it what the front-end is told of it, and a descriptor to be sent: the answer to `VHOST_USER_GET_INFLIGHT_FD`.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`]; [`Error::Queues`] for more than [`MAX_QUEUES`]; [`Error::Map`], [`Error::File`].
    pub fn create(num_queues: u16, queue_size: u16) -> Result<(Self, VhostUserInflight, File), Error> {
        let size = region_len(num_queues, queue_size)?;
        let region = MmapRegion::builder(to_usize(size)).memfd("inflight").build()?;
        let at = region.file_offset().ok_or(Error::NotAFile)?;
        let file = at.file().try_clone().map_err(Error::File)?;
        let message = VhostUserInflight::new(size, at.start(), num_queues, queue_size);
        Ok((Self { region: Arc::new(region), num_queues, queue_size }, message, file))
    }

    /// The region that a front-end has kept, or made: what `VHOST_USER_SET_INFLIGHT_FD` brings. Nothing is looked at of what
    /// it holds.
    ///
    /// # Errors
    ///
    /// [`Error`] unless the region is of at most `max_queues` queues of at most `max_queue_size` descriptors, and lies in
    /// the file. Nothing stays mapped, and the file is closed.
    pub fn open(message: &VhostUserInflight, file: File, max_queues: u16, max_queue_size: u16) -> Result<Self, Error> {
        // Copies: the message may lie in memory as it came.
        let VhostUserInflight { mmap_size: size, mmap_offset: offset, num_queues, queue_size } = *message;
        if num_queues > max_queues || queue_size > max_queue_size {
            return Err(Error::TooMany { num_queues, queue_size, max_queues, max_queue_size });
        }
        let needed = region_len(num_queues, queue_size)?;
        if size < needed {
            return Err(Error::TooSmall { size, needed, num_queues, queue_size });
        }
        let metadata = file.metadata().map_err(Error::File)?;
        if !metadata.is_file() {
            return Err(Error::NotAFile);
        }
        let file_len = metadata.len();
        if offset.checked_add(size).is_none_or(|end| end > file_len) {
            return Err(Error::PastEndOfFile { offset, size, file_len });
        }
        // No more than is needed, whatever the front-end says there is.
        let region = MmapRegion::from_file(FileOffset::new(file, offset), to_usize(needed))?;
        Ok(Self { region: Arc::new(region), num_queues, queue_size })
    }

    /// The number of queues that it has parts for.
    pub fn num_queues(&self) -> u16 {
        self.num_queues
    }

    /// The number of descriptors that there is room for in each part.
    pub fn queue_size(&self) -> u16 {
        self.queue_size
    }

    /// A queue's part, which nobody else is to use at the same time; `None` if the region has none for it.
    pub fn queue(&self, index: u16) -> Option<QueueInflight> {
        if index >= self.num_queues {
            return None;
        }
        let len = part_len(self.queue_size);
        let part = Part { region: Arc::clone(&self.region), start: usize::from(index).checked_mul(len)?, len };
        Some(QueueInflight::new(part, self.queue_size))
    }
}

/// The bytes of a region for so many queues.
fn region_len(num_queues: u16, queue_size: u16) -> Result<u64, Error> {
    if num_queues == 0 || queue_size == 0 {
        return Err(Error::Empty { num_queues, queue_size });
    }
    if num_queues > MAX_QUEUES {
        return Err(Error::Queues(num_queues));
    }
    Ok(u64::from(num_queues).saturating_mul(part_len(queue_size) as u64))
}

/// Of what no host can map the mapping fails.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// The bytes of a queue's part of a region. Keeps the region mapped.
#[derive(Clone, Debug)]
pub struct Part {
    region: Arc<MmapRegion>,
    start: usize,
    len: usize,
}

impl Part {
    fn slice(&self) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        self.region.get_slice(self.start, self.len)
    }
}

impl Bytes<usize> for Part {
    type E = volatile_memory::Error;

    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Self::E> {
        self.slice()?.write(buf, addr)
    }

    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Self::E> {
        self.slice()?.read(buf, addr)
    }

    #[inline]
    fn load<T: AtomicAccess>(&self, addr: usize, order: Ordering) -> Result<T, Self::E> {
        self.slice()?.load(addr, order)
    }

    #[inline]
    fn store<T: AtomicAccess>(&self, val: T, addr: usize, order: Ordering) -> Result<(), Self::E> {
        self.slice()?.store(val, addr, order)
    }
}
