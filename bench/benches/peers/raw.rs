//! The lower bound: one mapping of the whole file, a bounds check, and the pointer.

#![expect(unsafe_code, reason = "what the libraries are measured against is a raw pointer")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use contenders::{Contender, Plain};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Memory as an address and a length: no regions, no tracking, no recovery.
pub(crate) struct Raw {
    /// # Invariants
    /// 1. `[base, base + len)` is one mapping, readable and writable, that lives as long as `self`.
    /// 2. No reference to those bytes exists: the libraries map the same file.
    base: NonNull<u8>,
    len: u64,
}

/// The bounds check failed.
#[derive(Debug)]
pub(crate) struct OutOfBounds;

impl Raw {
    /// Maps the first `len` bytes of `file`, shared.
    pub(crate) fn new(file: &File, len: usize) -> Self {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap(ptr::null_mut(), len, prot, flags, file.as_fd(), 0) };
        let base = NonNull::new(base.expect("the file can be mapped").cast()).expect("not at address 0");
        Self { base, len: len as u64 }
    }

    /// The place of `size` bytes at `addr`: all of them are in the mapping.
    #[inline(always)]
    fn place(&self, addr: u64, size: usize) -> Result<*mut u8, OutOfBounds> {
        match addr.checked_add(size as u64) {
            Some(end) if end <= self.len => {
                let offset = usize::try_from(addr).or(Err(OutOfBounds))?;
                // SAFETY: `offset + size <= len`: inside the mapping or one past its end (invariant 1).
                Ok(unsafe { self.base.as_ptr().add(offset) })
            }
            _ => Err(OutOfBounds),
        }
    }

    /// The place of an atomic at `addr`, which must be its multiple.
    #[inline(always)]
    #[expect(clippy::cast_ptr_alignment, reason = "checked below")]
    fn atomic(&self, addr: u64) -> Result<&AtomicU16, OutOfBounds> {
        let place = self.place(addr, 2)?.cast::<u16>();
        if !place.is_aligned() {
            return Err(OutOfBounds);
        }
        // SAFETY: aligned (checked), mapped while `self` is borrowed (invariant 1).
        Ok(unsafe { AtomicU16::from_ptr(place) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let len = usize::try_from(self.len).expect("it was a usize");
        // SAFETY: nobody else has the pointer, and `self` ends here.
        unsafe { munmap(self.base.as_ptr().cast(), len) }.expect("it is mapped");
    }
}

/// Unaligned throughout, so that one method serves all rows: on x86-64 and aarch64 it is the same instruction.
impl Contender for Raw {
    type E = OutOfBounds;

    #[inline(always)]
    fn read_obj<T: Plain>(&self, addr: u64) -> Result<T, OutOfBounds> {
        let src = self.place(addr, size_of::<T>())?.cast::<T>().cast_const();
        // SAFETY: the bytes are in the mapping, and any bytes are a `T`.
        Ok(unsafe { src.read_unaligned() })
    }

    #[inline(always)]
    fn write_obj<T: Plain>(&self, val: T, addr: u64) -> Result<(), OutOfBounds> {
        let dst = self.place(addr, size_of::<T>())?.cast::<T>();
        // SAFETY: the bytes are in the mapping, to which nobody has a reference (invariant 2).
        unsafe { dst.write_unaligned(val) };
        Ok(())
    }

    #[inline(always)]
    fn load(&self, addr: u64) -> Result<u16, OutOfBounds> {
        Ok(self.atomic(addr)?.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn store(&self, val: u16, addr: u64) -> Result<(), OutOfBounds> {
        self.atomic(addr)?.store(val, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn read_slice(&self, buf: &mut [u8], addr: u64) -> Result<(), OutOfBounds> {
        let src = self.place(addr, buf.len())?;
        // SAFETY: as many bytes are in the mapping, and `buf` is none of it (invariant 2).
        unsafe { ptr::copy_nonoverlapping(src, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    #[inline(always)]
    fn write_slice(&self, buf: &[u8], addr: u64) -> Result<(), OutOfBounds> {
        let dst = self.place(addr, buf.len())?;
        // SAFETY: as many bytes are in the mapping, and `buf` is none of it (invariant 2).
        unsafe { ptr::copy_nonoverlapping(buf.as_ptr(), dst, buf.len()) };
        Ok(())
    }

    #[inline(always)]
    fn write_from(&self, addr: u64, src: &File, count: usize) -> Result<usize, OutOfBounds> {
        let dst = self.place(addr, count)?;
        // SAFETY: the kernel writes at most `count` bytes, which are in the mapping.
        let read = unsafe { libc::read(src.as_raw_fd(), dst.cast(), count) };
        usize::try_from(read).or(Err(OutOfBounds))
    }
}
