//! [`Bytes`]: one set of methods for every memory, whoever provides it and whichever address it speaks.

mod atomic;
#[cfg(feature = "std")]
mod chunked;
mod error;
mod forward;
mod slice;

use core::sync::atomic::Ordering;

pub use atomic::AtomicAccess;
pub use error::Error;
pub(crate) use forward::forward_bytes;

#[cfg(feature = "std")]
use chunked::Until;

use crate::{Address, DataInit};
#[cfg(feature = "std")]
use crate::{ReadVolatile, WriteVolatile};

/// What a transfer that is provided in terms of `read` and `write` goes through: never as large as a length that
/// somebody else chose.
const CHUNK: usize = 512;

/// Memory whose bytes are read and written by address.
///
/// `A` says whose address: `GuestAddress` for a guest's memory, `MemoryRegionAddress` inside a region, `IoAddress` as a
/// device sees it, `usize` inside a slice. All of them keep the same promises:
///
/// | case | rule |
/// |------|------|
/// | length 0 | succeeds at every address, touches nothing |
/// | nothing at the start | an error, such as `InvalidGuestAddress` |
/// | memory ends on the way | `read`, `write` and streams say how far they came; the exact forms answer `PartialBuffer`, and what was done stays done |
/// | a page that cannot be accessed | `read`, `write` and streams say how far they came; the exact forms answer `Fault`: the first bad address, and how many bytes were done before it. Those after it are untouched |
/// | memory that is never written | a write is as one to a page that cannot be accessed, and answers `ReadOnly`; of a stream, no byte is taken for it |
/// | past the end of the address space | as the end of memory: never wraps, never panics |
/// | 1, 2, 4, 8 naturally aligned bytes | one machine access: never torn |
/// | anything else | any order, any width: may tear |
/// | atomics | naturally aligned, else `Misaligned`; never across the end, else `PartialBuffer`; nothing is touched then. An `Ordering` that does not fit the operation acts as `SeqCst` |
///
/// The bytes may change at any time: two reads of the same address may differ. Read once, check the copy, use the copy.
///
/// ```
/// use memory_model::{Bytes, VolatileSlice};
///
/// let mut buffer = [0_u8; 8];
/// let memory = VolatileSlice::from(&mut buffer[..]);
/// assert_eq!(memory.write(b"0123456789", 4)?, 4); // as far as it goes
/// assert!(memory.write_slice(b"0123456789", 4).is_err()); // all or an error
/// assert_eq!(memory.read_obj::<[u8; 4]>(4)?, *b"0123");
/// assert!(memory.write_slice(&[], usize::MAX).is_ok());
/// # Ok::<(), memory_model::volatile_memory::Error>(())
/// ```
///
/// # Implementing it
///
/// Only [`read`](Self::read) and [`write`](Self::write) are required: a register block, a remote memory, a test double
/// is done with these two. Everything else is provided in terms of them; real memory overrides the rest, too, so that
/// a typed access stays one instruction. The provided atomics refuse.
pub trait Bytes<A: Address> {
    /// The memory's error.
    type E: From<Error>;

    /// Writes to memory at `addr` what `buf` holds, as far as memory goes, and answers how many bytes that is.
    ///
    /// # Errors
    ///
    /// Only if not a single byte could be written: there is no memory at `addr`, or it cannot be accessed.
    fn write(&self, buf: &[u8], addr: A) -> Result<usize, Self::E>;

    /// Fills `buf` from memory at `addr`, as far as memory goes, and answers how many bytes that is.
    ///
    /// # Errors
    ///
    /// Only if not a single byte could be read: there is no memory at `addr`, or it cannot be accessed.
    fn read(&self, buf: &mut [u8], addr: A) -> Result<usize, Self::E>;

    /// Writes all of `buf` to memory at `addr`.
    ///
    /// # Errors
    ///
    /// Stops at the first byte that is not there, and says how many came before it, which stay written. For guest
    /// memory that is `PartialBuffer` or `Fault`.
    fn write_slice(&self, buf: &[u8], addr: A) -> Result<(), Self::E> {
        transfer_all(addr, buf.len(), |done, addr| {
            end_after(done, self.write(buf.get(done..).unwrap_or_default(), addr))
        })
    }

    /// Fills all of `buf` from memory at `addr`.
    ///
    /// # Errors
    ///
    /// Stops at the first byte that is not there, and says how many came before it: the start of `buf` then holds
    /// those bytes. For guest memory that is `PartialBuffer` or `Fault`.
    fn read_slice(&self, buf: &mut [u8], addr: A) -> Result<(), Self::E> {
        transfer_all(addr, buf.len(), |done, addr| {
            end_after(done, self.read(buf.get_mut(done..).unwrap_or_default(), addr))
        })
    }

    /// Writes a value to memory at `addr`: one access if it has 1, 2, 4 or 8 bytes and is to lie naturally aligned.
    ///
    /// # Errors
    ///
    /// As for [`write_slice`](Self::write_slice).
    fn write_obj<T: DataInit>(&self, val: T, addr: A) -> Result<(), Self::E> {
        self.write_slice(val.as_slice(), addr)
    }

    /// Reads a value from memory at `addr`: one access if it has 1, 2, 4 or 8 bytes and lies naturally aligned.
    ///
    /// # Errors
    ///
    /// As for [`read_slice`](Self::read_slice).
    fn read_obj<T: DataInit>(&self, addr: A) -> Result<T, Self::E> {
        let mut value = T::zeroed();
        self.read_slice(value.as_mut_slice(), addr)?;
        Ok(value)
    }

    /// Writes `byte` to `len` bytes of memory from `addr`.
    ///
    /// # Errors
    ///
    /// As for [`write_slice`](Self::write_slice).
    fn fill(&self, byte: u8, len: usize, addr: A) -> Result<(), Self::E> {
        let chunk = [byte; CHUNK];
        transfer_all(addr, len, |done, addr| {
            end_after(done, self.write(chunk.get(..len - done).unwrap_or(&chunk), addr))
        })
    }

    /// Loads a value from memory at `addr` atomically.
    ///
    /// # Errors
    ///
    /// `Misaligned` or `PartialBuffer`, see above; `Unsupported` where the memory has no atomics.
    fn load<T: AtomicAccess>(&self, addr: A, order: Ordering) -> Result<T, Self::E> {
        let _ = (addr, order);
        Err(Error::Unsupported.into())
    }

    /// Stores a value to memory at `addr` atomically.
    ///
    /// # Errors
    ///
    /// `Misaligned` or `PartialBuffer`, see above; `Unsupported` where the memory has no atomics.
    fn store<T: AtomicAccess>(&self, val: T, addr: A, order: Ordering) -> Result<(), Self::E> {
        let _ = (val, addr, order);
        Err(Error::Unsupported.into())
    }

    /// Stores `new` to memory at `addr` if it holds `current`, as one atomic access. Answers what it held: as `Ok` if
    /// `new` was stored, else as `Err`. Values are equal if their bytes are.
    ///
    /// # Errors
    ///
    /// `Misaligned` or `PartialBuffer`, see above; `Unsupported` where the memory has no atomics. Memory that may not be
    /// written is `ReadOnly` or a `Fault`; whether also where `current` does not match is the processor's choice.
    fn compare_exchange<T: AtomicAccess>(
        &self,
        current: T,
        new: T,
        addr: A,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Result<T, T>, Self::E> {
        let _ = (current, new, addr, success, failure);
        Err(Error::Unsupported.into())
    }

    /// Writes into memory at `addr` up to `count` bytes that come from `src`, and answers how many came. The first
    /// short read ends it.
    ///
    /// # Errors
    ///
    /// Only if nothing was transferred: there is no memory at `addr`, or `src` failed, an interruption included. Of an
    /// error of `src` after that, only the shorter count tells; the next call meets it again. And `PartialBuffer` from
    /// memory without host addresses that took less than it was given: then the bytes between `completed` and
    /// `expected` were taken from `src`, and are lost.
    #[cfg(feature = "std")]
    fn write_from<S: ReadVolatile>(&self, addr: A, src: &mut S, count: usize) -> Result<usize, Self::E> {
        chunked::from_stream(self, addr, src, count, Until::Short).some()
    }

    /// Writes into memory at `addr` exactly `count` bytes that come from `src`, in as many steps as it takes; goes on
    /// after interruptions and short reads.
    ///
    /// # Errors
    ///
    /// `PartialBuffer` if memory or `src` ends before; `Io` if `src` fails, which does not say how many bytes came
    /// before it: use [`write_from`](Self::write_from) with a source that may have to wait.
    #[cfg(feature = "std")]
    fn write_all_from<S: ReadVolatile>(&self, addr: A, src: &mut S, count: usize) -> Result<(), Self::E> {
        chunked::from_stream(self, addr, src, count, Until::End).all(count)
    }

    /// Reads from memory at `addr` up to `count` bytes, which go into `dst`, and answers how many went. The first short
    /// write ends it.
    ///
    /// # Errors
    ///
    /// Only if nothing was transferred: there is no memory at `addr`, or `dst` failed, an interruption included. Of an
    /// error of `dst` after that, only the shorter count tells; the next call meets it again.
    #[cfg(feature = "std")]
    fn read_into<D: WriteVolatile>(&self, addr: A, dst: &mut D, count: usize) -> Result<usize, Self::E> {
        chunked::to_stream(self, addr, dst, count, Until::Short).some()
    }

    /// Reads from memory at `addr` exactly `count` bytes, which go into `dst`, in as many steps as it takes; goes on
    /// after interruptions and short writes.
    ///
    /// # Errors
    ///
    /// `PartialBuffer` if memory ends before, or `dst` takes no more; `Io` if `dst` fails, which does not say how many
    /// bytes went before: use [`read_into`](Self::read_into) with a sink that may have to wait.
    #[cfg(feature = "std")]
    fn read_all_into<D: WriteVolatile>(&self, addr: A, dst: &mut D, count: usize) -> Result<(), Self::E> {
        chunked::to_stream(self, addr, dst, count, Until::End).all(count)
    }
}

/// Repeats `step(completed, address)` until `expected` bytes are done. A step that does nothing is the end of memory;
/// one that claims too much is an error.
fn transfer_all<A: Address, E: From<Error>>(
    addr: A,
    expected: usize,
    mut step: impl FnMut(usize, A) -> Result<usize, E>,
) -> Result<(), E> {
    let mut completed = 0;
    while completed < expected {
        let moved = match advance(addr, completed) {
            Some(addr) => check_count(expected - completed, step(completed, addr)?)?,
            None => 0,
        };
        if moved == 0 {
            return Err(Error::PartialBuffer { expected, completed }.into());
        }
        completed += moved;
    }
    Ok(())
}

/// An error after some bytes were done is the end of memory there, so that their number is told and not lost; whoever
/// goes on from there meets the cause.
fn end_after<E>(completed: usize, result: Result<usize, E>) -> Result<usize, E> {
    if completed > 0 { Ok(result.unwrap_or(0)) } else { result }
}

/// The address `completed` bytes on; `None` past the end of the address space.
#[inline]
pub(crate) fn advance<A: Address>(addr: A, completed: usize) -> Option<A> {
    addr.checked_add(A::V::try_from(completed).ok()?)
}

/// `claimed`, unless it is more than was asked for.
#[inline]
pub(crate) fn check_count(expected: usize, claimed: usize) -> Result<usize, Error> {
    if claimed <= expected { Ok(claimed) } else { Err(Error::Overrun { expected, claimed }) }
}
