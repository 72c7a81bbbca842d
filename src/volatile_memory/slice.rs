use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::{Error, VolatileArrayRef, VolatileMemory, VolatileRef};
use crate::DataInit;
use crate::access::{self, CopyFault, Probe};

/// So many bytes of volatile memory from here: a pointer and a length, laid out as an `iovec`.
///
/// A slice is a view, as cheap to copy as the reference it stands for. Its reads and writes at offsets are
/// [`Bytes<usize>`](crate::Bytes).
///
/// ```
/// use memory_model::{Bytes, VolatileSlice};
///
/// let mut buffer = [0_u8; 16];
/// let slice = VolatileSlice::from(&mut buffer[..]);
/// slice.write_obj(0x1234_5678_u32.to_le(), 8)?;
/// let (_, tail) = slice.split_at(8)?;
/// assert_eq!(tail.read_obj::<[u8; 2]>(0)?, [0x78, 0x56]);
/// # Ok::<(), memory_model::volatile_memory::Error>(())
/// ```
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VolatileSlice<'a> {
    /// # Invariants
    /// 1. `[ptr, ptr + len)` lies in one allocation or mapping, of at most `isize::MAX` bytes, that is readable and
    ///    writable as far as its owner says, and outlives `'a`.
    /// 2. No Rust reference to those bytes is used during `'a`, and whoever else in this process accesses them
    ///    concurrently does so through `access/`, the kernel, or the guest.
    ptr: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a ()>,
}

#[cfg(all(feature = "std", unix))]
const _: () = assert!(
    size_of::<VolatileSlice<'_>>() == size_of::<libc::iovec>()
        && align_of::<VolatileSlice<'_>>() == align_of::<libc::iovec>()
        && core::mem::offset_of!(VolatileSlice<'_>, ptr) == core::mem::offset_of!(libc::iovec, iov_base)
        && core::mem::offset_of!(VolatileSlice<'_>, len) == core::mem::offset_of!(libc::iovec, iov_len),
    "readv(2) takes an array of slices as it is"
);

// SAFETY: a slice is a licence to make accesses that are sound from any thread at any time (invariant 2).
unsafe impl Send for VolatileSlice<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for VolatileSlice<'_> {}

impl<'a> VolatileSlice<'a> {
    /// The `len` bytes from `ptr`.
    ///
    /// # Safety
    ///
    /// For all of `'a`: `ptr` is not null, the `len` bytes from it (at most `isize::MAX`) lie in one allocation or
    /// mapping that may be read and written, no Rust reference to them is used, and whoever else in this process
    /// accesses them concurrently does so through this crate or the kernel. A mapping may be read-only, or have pages
    /// that cannot be accessed: an access to them is an error with fault recovery, and else ends the process.
    #[inline]
    pub const unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        // SAFETY: not null, by the caller's promise; with the others it makes both invariants true.
        Self { ptr: unsafe { NonNull::new_unchecked(ptr) }, len, memory: PhantomData }
    }

    /// The length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of the first byte, for system calls and other foreign code. What it does through the pointer
    /// is its own responsibility, and is not tracked as dirty.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The `count` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + count <= len()`.
    #[inline]
    pub const fn subslice(&self, offset: usize, count: usize) -> Result<Self, Error> {
        if offset > self.len || count > self.len - offset {
            return Err(Error::OutOfBounds { offset, count, len: self.len });
        }
        // SAFETY: `offset <= len` (checked), so by invariant 1 the result is inside the mapping or one past its end,
        // and the step is at most `isize::MAX` bytes.
        let ptr = unsafe { self.ptr.add(offset) };
        Ok(Self { ptr, len: count, memory: PhantomData }) // part of a valid range: both invariants carry over
    }

    /// All bytes from `offset` on; none if `offset` is the length.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset <= len()`.
    #[inline]
    pub const fn offset(&self, offset: usize) -> Result<Self, Error> {
        self.subslice(offset, self.len.saturating_sub(offset))
    }

    /// The bytes before `mid`, and those from it on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `mid <= len()`.
    #[inline]
    pub fn split_at(&self, mid: usize) -> Result<(Self, Self), Error> {
        Ok((self.subslice(0, mid)?, self.offset(mid)?))
    }

    /// The place of a `T` at `offset`, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + size_of::<T>() <= len()`.
    #[inline]
    pub fn get_ref<T: DataInit>(&self, offset: usize) -> Result<VolatileRef<'a, T>, Error> {
        Ok(VolatileRef::new(self.subslice(offset, size_of::<T>())?))
    }

    /// The places of `count` values of type `T` from `offset`, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] unless `offset + count * size_of::<T>() <= len()`.
    #[inline]
    pub fn get_array_ref<T: DataInit>(&self, offset: usize, count: usize) -> Result<VolatileArrayRef<'a, T>, Error> {
        // A product that overflows is out of every slice's bounds, as no slice has `usize::MAX` bytes.
        let bytes = count.saturating_mul(size_of::<T>());
        Ok(VolatileArrayRef::new(self.subslice(offset, bytes)?, count))
    }

    /// Fills `buf` from the start of the slice, as far as both reach, and answers how many elements were copied.
    ///
    /// Upwards; one access if the copy has 1, 2, 4 or 8 naturally aligned bytes, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`]: `buf` then holds the bytes before the inaccessible page.
    pub fn copy_to<T: DataInit>(&self, buf: &mut [T]) -> Result<usize, Error> {
        let count = self.elements(buf);
        // SAFETY: the source has at least as many bytes (`elements`), which are mapped (invariant 1) and accessed by
        // others as required (invariant 2). The destination is exclusively borrowed, apart from them for the same
        // reason, and any bytes are valid there.
        let copied = unsafe { access::copy_out(self.as_ptr(), buf.as_mut_ptr().cast(), count * size_of::<T>()) };
        copied.map_err(|fault| Error::fault(fault, self.as_ptr()))?;
        Ok(count)
    }

    /// Fills the slice from `buf`, as far as both reach, and answers how many elements were copied.
    ///
    /// Upwards; one access if the copy has 1, 2, 4 or 8 naturally aligned bytes, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`]: the slice then holds the bytes before the inaccessible page.
    pub fn copy_from<T: DataInit>(&self, buf: &[T]) -> Result<usize, Error> {
        self.try_copy_from(buf).map_err(|fault| Error::fault(fault, self.as_ptr()))
    }

    /// Copies this slice to `dst`, as far as both reach, and answers how many bytes were copied. The two may overlap.
    ///
    /// Upwards, unless `dst` begins inside this slice, then downwards; one access if the copy has 1, 2, 4 or 8 bytes
    /// that are naturally aligned at both ends, else it may tear.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], in either slice, with the offset from the start of both: `dst` then holds the bytes before it.
    /// If the page went away during a downward copy, `completed` is 0, and the contents of `dst` are unspecified.
    pub fn copy_to_volatile_slice(&self, dst: VolatileSlice<'_>) -> Result<usize, Error> {
        self.copy_telling_side(dst).map_err(|fault| Error::Fault { addr: fault.offset, completed: fault.completed })
    }

    /// As [`copy_to_volatile_slice`](Self::copy_to_volatile_slice), and tells which slice has the inaccessible page.
    pub(crate) fn copy_telling_side(&self, dst: VolatileSlice<'_>) -> Result<usize, CopyFault> {
        let len = self.len.min(dst.len);
        // SAFETY: both have `len` bytes, mapped and accessed by others as required (invariants 1 and 2).
        unsafe { access::copy(self.as_ptr(), dst.as_ptr(), len) }?;
        Ok(len)
    }

    /// Writes `byte` to all of the slice, upwards.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`]: the bytes before the inaccessible page are written.
    pub(crate) fn fill_all(&self, byte: u8) -> Result<(), Error> {
        // SAFETY: the bytes are mapped and accessed by others as required (invariants 1 and 2).
        unsafe { access::fill(self.as_ptr(), byte, self.len) }.map_err(|fault| Error::fault(fault, self.as_ptr()))
    }

    /// Whether all bytes are zero. Reads upwards, and no further than to some byte that is not.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], if the bytes before the inaccessible page are zero.
    pub fn is_zero(&self) -> Result<bool, Error> {
        // SAFETY: as in `fill_all`.
        unsafe { access::is_zero(self.as_ptr(), self.len) }.map_err(|fault| Error::fault(fault, self.as_ptr()))
    }

    /// Looks for the first byte that cannot be accessed, page by page, and changes none: [`Error::Fault`].
    pub(crate) fn probe(&self, access: Probe) -> Result<(), Error> {
        // SAFETY: as in `fill_all`.
        unsafe { access::probe(self.as_ptr(), self.len, access) }.map_err(|fault| Error::fault(fault, self.as_ptr()))
    }

    /// How many elements a copy between the slice and `buf` has. Elements without bytes are copied by doing nothing.
    pub(super) fn elements<T>(&self, buf: &[T]) -> usize {
        match size_of::<T>() {
            0 => buf.len(),
            size => buf.len().min(self.len / size),
        }
    }
}

impl Default for VolatileSlice<'_> {
    /// No bytes at all.
    fn default() -> Self {
        Self { ptr: NonNull::dangling(), len: 0, memory: PhantomData } // no bytes: both invariants hold of them all
    }
}

impl<'a> From<&'a mut [u8]> for VolatileSlice<'a> {
    /// The bytes of `buf`, for as long as it is borrowed.
    fn from(buf: &'a mut [u8]) -> Self {
        // SAFETY: a slice's bytes are one allocation's, at most `isize::MAX`; the exclusive borrow lasts for all of
        // `'a`, so no reference to them is used meanwhile, and only copies of this slice access them.
        unsafe { Self::new(buf.as_mut_ptr(), buf.len()) }
    }
}

impl fmt::Debug for VolatileSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolatileSlice({:p}, {:#x} bytes)", self.ptr, self.len)
    }
}

// SAFETY: `subslice` answers as the contract wants, from a pointer and a length that do not change.
unsafe impl VolatileMemory for VolatileSlice<'_> {
    fn len(&self) -> usize {
        self.len
    }
    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, Error> {
        self.subslice(offset, count)
    }
}
