//! The file behind a disk: its sectors, and how they are read, written, discarded and zeroed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use memory_model::IoMemory;
use memory_model::buffers::{Reader, Writer};
use memory_model::guest_memory::Error;
use memory_model::stream::FileAt;

use super::format::SECTOR_SIZE;

/// A file as so many sectors.
#[derive(Debug)]
pub(super) struct Sectors {
    file: File,
    /// The file's length in bytes, when it was opened as a disk.
    len: u64,
    capacity: u64,
}

/// Contiguous sectors of the disk, as a place in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Where it begins, in bytes from the start of the file.
    pub(super) start: u64,
    /// How many bytes of it the file has.
    pub(super) in_file: u64,
    /// How many bytes follow that only exist on the disk, as zeros.
    pub(super) padding: u64,
}

impl Sectors {
    /// The sectors of `file`: one more for an incomplete one at its end.
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        // A block device's length is where its end is, and not in its metadata.
        let len = if metadata.is_file() { metadata.len() } else { file.seek(SeekFrom::End(0))? };
        Ok(Self { file, len, capacity: len.div_ceil(SECTOR_SIZE) })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The number of sectors.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the last sector is incomplete in the file.
    pub(super) fn is_padded(&self) -> bool {
        self.len % SECTOR_SIZE != 0
    }

    /// Where `bytes` bytes from `sector` on are; `None` if they are no whole sectors, or not on the disk.
    pub(super) fn extent(&self, sector: u64, bytes: u64) -> Option<Extent> {
        let end = sector.checked_add(bytes / SECTOR_SIZE)?;
        if bytes % SECTOR_SIZE != 0 || end > self.capacity {
            return None;
        }
        let start = sector.checked_mul(SECTOR_SIZE)?;
        let in_file = self.len.saturating_sub(start).min(bytes);
        Some(Extent { start, in_file, padding: bytes.saturating_sub(in_file) })
    }

    /// Reads the extent into `data`, which has as many bytes.
    pub(super) fn read<I: IoMemory>(&self, extent: Extent, data: &mut Writer<'_, I>) -> Result<(), Error> {
        let Extent { start, in_file, padding } = extent;
        if !read_in_place(&self.file, start, data, in_file)? {
            data.write_all_from(&mut FileAt::new(&self.file, start), in_file)?;
        }
        data.fill(0, padding)
    }

    /// Writes the extent from `data`, which has as many bytes.
    pub(super) fn write<I: IoMemory>(&self, extent: Extent, data: &mut Reader<'_, I>) -> Result<(), Error> {
        let Extent { start, in_file, .. } = extent;
        if !write_in_place(&self.file, start, data, in_file)? {
            data.read_all_into(&mut FileAt::new(&self.file, start), in_file)?;
        }
        Ok(())
    }

    /// Gives the extent's storage back, if the file system can; what is read there later may be anything.
    pub(super) fn discard(&self, extent: Extent) -> io::Result<()> {
        // Advice only (VIRTIO 1.2, 5.2.6.2), so where it cannot be taken, that is fine.
        deallocate(&self.file, extent.start, extent.in_file).map(|_| ())
    }

    /// Makes the extent read as zeros, and gives its storage back if that `may_unmap`.
    pub(super) fn zero(&self, extent: Extent, may_unmap: bool) -> io::Result<()> {
        let Extent { start, in_file, .. } = extent;
        if (may_unmap && deallocate(&self.file, start, in_file)?) || zero_range(&self.file, start, in_file)? {
            return Ok(());
        }
        write_zeros(&self.file, start, in_file)
    }
}

#[cfg(target_os = "linux")]
mod by_iovecs {
    use std::fs::File;

    use memory_model::IoMemory;
    use memory_model::buffers::{GuestBuffers, Reader, Writer};
    use memory_model::guest_memory::Error;
    use memory_model::io_memory::Access;

    /// Whether the next `count` bytes of `data` are now the file's from `start` on; not where memory has no host addresses.
    pub(super) fn read_in_place<I: IoMemory>(
        file: &File,
        start: u64,
        data: &mut Writer<'_, I>,
        count: u64,
    ) -> Result<bool, Error> {
        let mut buffers = GuestBuffers::empty(Access::Write);
        match data.append_to(&mut buffers, count) {
            Ok(()) => Ok(buffers.preadv_exact(file, start).map(|()| true)?),
            Err(Error::NoHostMemory(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the file has the next `count` bytes of `data` from `start` on; not where memory has no host addresses.
    pub(super) fn write_in_place<I: IoMemory>(
        file: &File,
        start: u64,
        data: &mut Reader<'_, I>,
        count: u64,
    ) -> Result<bool, Error> {
        let mut buffers = GuestBuffers::empty(Access::Read);
        match data.append_to(&mut buffers, count) {
            Ok(()) => Ok(buffers.pwritev_all(file, start).map(|()| true)?),
            Err(Error::NoHostMemory(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
#[cfg(target_os = "linux")]
use by_iovecs::{read_in_place, write_in_place};

#[cfg(not(target_os = "linux"))]
fn read_in_place<I: IoMemory>(_: &File, _: u64, _: &mut Writer<'_, I>, _: u64) -> Result<bool, Error> {
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn write_in_place<I: IoMemory>(_: &File, _: u64, _: &mut Reader<'_, I>, _: u64) -> Result<bool, Error> {
    Ok(false)
}

/// What is written where the file system cannot zero by itself.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

fn write_zeros(file: &File, mut start: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let chunk = ZEROS.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(&ZEROS);
        file.write_all_at(chunk, start)?;
        start = start.saturating_add(chunk.len() as u64);
        len = len.saturating_sub(chunk.len() as u64);
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod by_fallocate {
    use std::fs::File;
    use std::io;

    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;

    /// Whether the range is now a hole, which reads as zeros.
    pub(super) fn deallocate(file: &File, start: u64, len: u64) -> io::Result<bool> {
        try_fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, len)
    }

    /// Whether the range now reads as zeros.
    pub(super) fn zero_range(file: &File, start: u64, len: u64) -> io::Result<bool> {
        try_fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, start, len)
    }

    fn try_fallocate(file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true); // which fallocate(2) refuses
        }
        loop {
            match fallocate(file, how, start, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                // This file, or this system, has no such thing.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
#[cfg(any(target_os = "linux", target_os = "android"))]
use by_fallocate::{deallocate, zero_range};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn deallocate(_: &File, _: u64, len: u64) -> io::Result<bool> {
    Ok(len == 0)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn zero_range(_: &File, _: u64, len: u64) -> io::Result<bool> {
    Ok(len == 0)
}
