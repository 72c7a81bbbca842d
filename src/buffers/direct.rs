//! Files without the kernel's page cache.

#![expect(unsafe_code, reason = "asks the kernel how a file is open, and what alignment it wants")]

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::transfer::Direction;
use super::{GuestBuffers, IoSlice, TransferError};
use crate::guest_memory::Error;

/// The most that is copied at once, in bytes.
const BOUNCE: usize = 1 << 20;

/// A file that is read and written from and to any guest memory, also if it is open with `O_DIRECT`, which wants aligned memory,
/// lengths and positions.
///
/// Pieces that are aligned go directly, as many as there are in a row with one system call. What lies between them is copied, up
/// to 1 MiB at once, and a block that is written in part is read first. A file may end within a block: what is written changes
/// no byte but those that were asked for, nor the file's length beyond them.
///
/// Several threads may use it at once. Those that write parts of one block do not undo each other's: such a write has the file
/// alone, all others share it. That holds for all who write by this one value; others, in this process or another, must not
/// write to the same blocks.
///
/// A file that is open without `O_DIRECT` is read and written as it is.
///
/// ```
/// use memory_model::buffers::{DirectFile, GuestBuffers};
/// use memory_model::io_memory::Access;
/// use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
/// # let file = tempfile::tempfile()?;
///
/// let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)])?;
/// mem.write_slice(b"guest", GuestAddress(0xfff))?;
/// let disk = DirectFile::new(file)?;
/// disk.write_at(&mut GuestBuffers::new(&mem, [(IoAddress(0xfff), 5)], Access::Read)?, 512)?;
/// disk.read_at(&mut GuestBuffers::new(&mem, [(IoAddress(0x21), 2), (IoAddress(0x41), 2)], Access::Write)?, 513)?;
/// assert_eq!((&mem.read_obj::<[u8; 2]>(GuestAddress(0x21))?, &mem.read_obj::<[u8; 2]>(GuestAddress(0x41))?), (b"ue", b"st"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    is_direct: bool,
    /// Whether it is no device: it may end anywhere, and be longer.
    is_regular: bool,
    /// What memory has to be aligned to; a power of two.
    memory_align: usize,
    /// What positions and lengths have to be multiples of; a power of two.
    block: usize,
    /// Had alone by whoever writes a part of a block.
    blocks: RwLock<()>,
    /// Room for what is copied, to be used again.
    spare: Mutex<Option<Room>>,
}

/// How the next bytes go.
enum Next {
    /// So many as they are.
    Direct(usize),
    /// So many by a copy.
    Copied(usize),
}

impl DirectFile {
    /// The file, which is open for whatever will be done with it; to write parts of blocks it takes the right to read, too.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is open with `O_APPEND`, which has each write go to its end; those of fcntl(2) and stat(2).
    pub fn new(file: File) -> io::Result<Self> {
        let flags = status_flags(file.as_fd())?;
        if flags & libc::O_APPEND != 0 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "open with O_APPEND, which ignores positions"));
        }
        let is_direct = flags & libc::O_DIRECT != 0;
        let (memory_align, block) = if is_direct { alignment(&file)? } else { (1, 1) };
        let is_regular = file.metadata()?.is_file();
        let (blocks, spare) = (RwLock::default(), Mutex::default());
        Ok(Self { file, is_direct, is_regular, memory_align, block, blocks, spare })
    }

    /// The file. Whoever writes to it past this value must not write to the same blocks at the same time.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is open with `O_DIRECT`.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// What the host address of a piece has to be a multiple of, to go directly.
    pub fn memory_align(&self) -> usize {
        self.memory_align
    }

    /// What the position and length of a piece have to be multiples of, to go directly, in bytes.
    pub fn block_size(&self) -> usize {
        self.block
    }

    /// Fills all of the buffers from `offset`, in bytes from the start of the file.
    ///
    /// Where pieces overlap, the bytes are unspecified: see [`GuestBuffers`](GuestBuffers#overlapping-pieces).
    ///
    /// # Errors
    ///
    /// As for [`GuestBuffers::preadv_exact`].
    pub fn read_at(&self, buffers: &mut GuestBuffers<'_>, offset: u64) -> Result<(), TransferError> {
        self.transfer(buffers, offset, Direction::In)
    }

    /// Writes all of the buffers from `offset` on, in bytes from the start of the file.
    ///
    /// # Errors
    ///
    /// As for [`GuestBuffers::pwritev_all`].
    pub fn write_at(&self, buffers: &mut GuestBuffers<'_>, offset: u64) -> Result<(), TransferError> {
        self.transfer(buffers, offset, Direction::Out)
    }

    fn transfer(&self, buffers: &mut GuestBuffers<'_>, offset: u64, direction: Direction) -> Result<(), TransferError> {
        buffers.check(direction).map_err(|cause| TransferError { completed: 0, cause })?;
        if buffers.is_empty() {
            return Ok(());
        }
        buffers.repeat(|buffers, done| {
            let at = offset.checked_add(done as u64).ok_or_else(|| Error::Io(ErrorKind::InvalidInput.into()))?;
            let most = if direction == Direction::In { self.whole_blocks(at)? } else { usize::MAX };
            match (self.next(buffers.left(), at, most), direction) {
                (Next::Direct(len), Direction::In) => {
                    let _shared = self.share();
                    buffers.preadv_up_to(len, self.file.as_fd(), at)
                }
                (Next::Direct(len), Direction::Out) => {
                    let _shared = self.share();
                    buffers.pwritev_up_to(len, self.file.as_fd(), at)
                }
                (Next::Copied(len), Direction::In) => self.read_copied(buffers, at, len),
                (Next::Copied(len), Direction::Out) => self.write_copied(buffers, at, len),
            }
        })
    }

    fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes from `at` on are in blocks that are whole in the file, as far as that is known: where it ends within a block,
    /// the kernel fills memory with zeros beyond what it counts.
    fn whole_blocks(&self, at: u64) -> Result<usize, Error> {
        if !self.is_direct || !self.is_regular {
            return Ok(usize::MAX);
        }
        let len = self.file.metadata().map_err(Error::Io)?.len().saturating_sub(at);
        Ok(usize::try_from(len).unwrap_or(usize::MAX) & !self.block.wrapping_sub(1))
    }

    /// How the first of these bytes go, which are for the position `at`; directly no more than `most`.
    fn next(&self, pieces: &[IoSlice<'_>], at: u64, most: usize) -> Next {
        let is_block = |ahead: usize| self.in_block(at.wrapping_add(ahead as u64)) == 0;
        let aligned = |piece: &IoSlice<'_>| match piece.as_ptr().addr() & self.memory_align.wrapping_sub(1) {
            0 => piece.len() & !self.block.wrapping_sub(1),
            _ => 0,
        };
        let (mut direct, mut copied) = (0_usize, 0_usize);
        if is_block(0) {
            for piece in pieces {
                let len = aligned(piece);
                direct = direct.saturating_add(len);
                if len < piece.len() {
                    break;
                }
            }
        }
        if direct.min(most) > 0 {
            return Next::Direct(direct.min(most));
        }
        let most = BOUNCE.saturating_sub(self.in_block(at));
        for piece in pieces {
            if copied >= most || (copied > 0 && is_block(copied) && aligned(piece) > 0) {
                break;
            }
            copied = copied.saturating_add(piece.len());
        }
        Next::Copied(copied.min(most))
    }

    /// The offset in its block of a position.
    fn in_block(&self, at: u64) -> usize {
        // Less than a block.
        usize::try_from(at & (self.block as u64).wrapping_sub(1)).unwrap_or(0)
    }

    /// How many bytes the blocks have that have `len` bytes from `before` on.
    fn blocks_of(&self, before: usize, len: usize) -> usize {
        // No more than `BOUNCE`, or a block.
        before.saturating_add(len).checked_next_multiple_of(self.block).unwrap_or(usize::MAX)
    }

    /// Reads `len` bytes by a copy, or fewer.
    fn read_copied(&self, buffers: &mut GuestBuffers<'_>, at: u64, len: usize) -> Result<usize, Error> {
        let before = self.in_block(at);
        let mut room = self.room(self.blocks_of(before, len))?;
        let (bytes, _) = room.parts(self.block);
        let bytes = bytes.get_mut(..self.blocks_of(before, len)).unwrap_or_default();
        let read = {
            let _shared = self.share();
            self.repeat(bytes.len(), before, |done| {
                let rest = bytes.get_mut(done..).unwrap_or_default();
                self.file.read_at(rest, at.saturating_sub(before as u64).saturating_add(done as u64))
            })?
        };
        let found = bytes.get(before..read).unwrap_or_default();
        let found = found.get(..len).unwrap_or(found);
        let copied = some_done(buffers.write_slice(found, 0), found.len())?;
        self.keep(room);
        // What was copied is marked.
        buffers.pass(copied, false);
        Ok(copied)
    }

    /// Writes `len` bytes by a copy, or fewer.
    fn write_copied(&self, buffers: &mut GuestBuffers<'_>, at: u64, len: usize) -> Result<usize, Error> {
        let before = self.in_block(at);
        let mut room = self.room(self.blocks_of(before, len))?;
        let (bytes, edge) = room.parts(self.block);
        let data = bytes.get_mut(before..).and_then(|bytes| bytes.get_mut(..len)).unwrap_or_default();
        let len = some_done(buffers.read_slice(data, 0), len)?;
        let bytes = bytes.get_mut(..self.blocks_of(before, len)).unwrap_or_default();
        let start = at.saturating_sub(before as u64);
        let written = if before == 0 && bytes.len() == len {
            let _shared = self.share();
            self.write_blocks(bytes, start, 0)
        } else {
            let _alone = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
            self.write_parts(bytes, edge, start, before..before.saturating_add(len))
        }?;
        self.keep(room);
        buffers.pass(written, false);
        Ok(written)
    }

    /// Writes the `data` of these bytes, which begin with a block at `start`; the rest stays what it is in the file, by way of
    /// `edge`. Answers how much of the data is written. For who has the file alone.
    fn write_parts(&self, bytes: &mut [u8], edge: &mut [u8], start: u64, data: Range<usize>) -> Result<usize, Error> {
        let mut file_len = None;
        if data.start > 0 {
            self.read_edge(edge, start)?;
            copy(bytes, edge, 0..data.start, 0);
        }
        if data.end < bytes.len() {
            let last = bytes.len().saturating_sub(self.block);
            let at = start.saturating_add(last as u64);
            let found = self.read_edge(edge, at)?;
            copy(bytes, edge, data.end..bytes.len(), data.end.saturating_sub(last));
            if found < self.block {
                // It ends in this block, or before, and is not to have all of it.
                file_len = Some(at.saturating_add(found as u64).max(start.saturating_add(data.end as u64)));
            }
        }
        let written = self.write_blocks(bytes, start, data.start)?;
        match file_len {
            Some(len) if self.is_regular && written > data.len() => self.file.set_len(len).map_err(Error::Io)?,
            _ => {}
        }
        Ok(written.min(data.len()))
    }

    /// Writes whole blocks at `start`, and answers how many bytes after the first `before` were written.
    fn write_blocks(&self, bytes: &[u8], start: u64, before: usize) -> Result<usize, Error> {
        let written = self.repeat(bytes.len(), before, |done| {
            self.file.write_at(bytes.get(done..).unwrap_or_default(), start.saturating_add(done as u64))
        })?;
        Ok(written.saturating_sub(before))
    }

    /// Reads the block at a position, and answers how much of it there is in the file; the rest is zero.
    fn read_edge(&self, edge: &mut [u8], at: u64) -> Result<usize, Error> {
        edge.fill(0);
        self.repeat(edge.len(), 0, |_| self.file.read_at(edge, at))
    }

    /// Repeats `step`, which is given how many bytes were done before it, until `len` are, or it stops within a block. An error is
    /// answered unless more than `before` bytes are done.
    fn repeat(
        &self,
        len: usize,
        before: usize,
        mut step: impl FnMut(usize) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        let mut done = 0_usize;
        while done < len && done & self.block.wrapping_sub(1) == 0 {
            match step(done) {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It comes again.
                Err(_) if done > before => break,
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(done)
    }

    /// Room for so many bytes, and a block more.
    fn room(&self, len: usize) -> Result<Room, Error> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let len = len.saturating_add(self.block);
        match spare {
            Some(room) if room.len >= len => Ok(room),
            _ => Room::new(len, self.memory_align).map_err(Error::Io),
        }
    }

    /// Keeps room to be used again.
    fn keep(&self, room: Room) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
    }
}

/// Copies to a range of bytes from those that begin at `from`.
fn copy(bytes: &mut [u8], src: &[u8], range: Range<usize>, from: usize) {
    let src = src.get(from..).unwrap_or_default();
    if let (Some(bytes), Some(src)) = (bytes.get_mut(range.clone()), src.get(..range.len())) {
        bytes.copy_from_slice(src);
    }
}

/// How many of `len` bytes were copied, if any were.
fn some_done(result: Result<(), Error>, len: usize) -> Result<usize, Error> {
    match result {
        Ok(()) => Ok(len),
        Err(Error::Fault { completed, .. } | Error::ReadOnly { completed, .. }) if completed > 0 => Ok(completed),
        Err(error) => Err(error),
    }
}

/// Aligned memory.
#[derive(Debug)]
struct Room {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Room {
    fn new(len: usize, align: usize) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let size = len.saturating_add(align);
        bytes.try_reserve_exact(size)?;
        bytes.resize(size, 0);
        let start = bytes.as_ptr().align_offset(align);
        Ok(Self { bytes, start, len })
    }

    /// The bytes, and the last block of them.
    fn parts(&mut self, block: usize) -> (&mut [u8], &mut [u8]) {
        let bytes = self.bytes.get_mut(self.start..).and_then(|bytes| bytes.get_mut(..self.len)).unwrap_or_default();
        let mid = bytes.len().saturating_sub(block);
        bytes.split_at_mut(mid)
    }
}

/// The flags that a descriptor is open with.
fn status_flags(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: has no effect on memory. The descriptor is open, as it is borrowed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

/// What memory has to be aligned to, and positions and lengths: both powers of two.
fn alignment(file: &File) -> io::Result<(usize, usize)> {
    let is_usable = |align: &usize| align.is_power_of_two() && *align <= BOUNCE;
    if let Some((memory, block)) = told_alignment(file).filter(|(memory, block)| is_usable(memory) && is_usable(block))
    {
        return Ok((memory, block));
    }
    let metadata = file.metadata()?;
    let block = if metadata.file_type().is_block_device() {
        sector(file)?
    } else {
        // Of 512 to 4096 bytes, whatever it prefers.
        usize::try_from(metadata.blksize()).unwrap_or(usize::MAX).clamp(512, 4096)
    };
    let block = if is_usable(&block) { block } else { 4096 };
    Ok((block, block))
}

/// What the kernel says of memory, and of positions and lengths, if it does: since Linux 6.1, for some file systems.
fn told_alignment(file: &File) -> Option<(usize, usize)> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    let (fd, to) = (file.as_raw_fd(), answer.as_mut_ptr());
    // By its number, as not every C library has it.
    // SAFETY: the path is a string that ends with NUL: an empty one, for the descriptor itself, which is open, as it is borrowed.
    // The kernel writes a struct, for which there is room.
    let returned =
        unsafe { libc::syscall(libc::SYS_statx, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, to) };
    // SAFETY: of integers only, which were zero, unless the kernel has written them.
    let answer = unsafe { answer.assume_init() };
    if returned != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    Some((usize::try_from(answer.stx_dio_mem_align).ok()?, usize::try_from(answer.stx_dio_offset_align).ok()?))
}

/// The size of a sector of a block device, in bytes.
fn sector(file: &File) -> io::Result<usize> {
    let mut size: c_int = 0;
    // SAFETY: the kernel writes an `int`. The descriptor is open, as it is borrowed.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut size) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(size).unwrap_or(0)) }
}
