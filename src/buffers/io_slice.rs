#![expect(unsafe_code, reason = "a pointer that any thread may give to the kernel")]

use core::fmt;
use core::marker::PhantomData;

use crate::GuestSlice;

/// A pointer and a length, laid out as an `iovec`: bytes of guest memory for a system call.
///
/// They are for the kernel. Safe code has no access through it, as that would not be marked as dirty; nor is it a
/// [`std::io::IoSlice`], which is a `&[u8]`, of bytes that nobody changes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IoSlice<'a> {
    /// # Invariant
    ///
    /// `[ptr, ptr + len)` is, in the address space of the process, guest memory that stays mapped for `'a`: of one
    /// [`GuestSlice`], or of several that follow each other.
    ptr: *mut u8,
    len: usize,
    memory: PhantomData<&'a ()>,
}

const _: () = assert!(
    size_of::<IoSlice<'_>>() == size_of::<libc::iovec>()
        && align_of::<IoSlice<'_>>() == align_of::<libc::iovec>()
        && core::mem::offset_of!(IoSlice<'_>, ptr) == core::mem::offset_of!(libc::iovec, iov_base)
        && core::mem::offset_of!(IoSlice<'_>, len) == core::mem::offset_of!(libc::iovec, iov_len),
    "readv(2) takes an array of them as it is"
);

// SAFETY: it accesses nothing by itself.
unsafe impl Send for IoSlice<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for IoSlice<'_> {}

impl<'a> IoSlice<'a> {
    pub(super) fn new(slice: GuestSlice<'a>) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len(), memory: PhantomData }
    }

    /// The bytes of both, of which `next` follows; their lengths are no more than `isize::MAX` together.
    pub(super) fn joined(self, next: Self) -> Self {
        Self { len: self.len.saturating_add(next.len), ..self }
    }

    /// The host address behind the last byte.
    pub(super) fn end(&self) -> usize {
        // Mapped memory does not end at the last address.
        self.ptr.addr().wrapping_add(self.len)
    }

    /// The first `mid` bytes, and the others: all are first if there are no more.
    pub(super) fn cut(self, mid: usize) -> (Self, Self) {
        let mid = mid.min(self.len);
        let rest = Self { ptr: self.ptr.wrapping_add(mid), len: self.len.saturating_sub(mid), ..self };
        (Self { len: mid, ..self }, rest)
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of the first byte.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }
}

impl fmt::Debug for IoSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoSlice({:p}, {:#x} bytes)", self.ptr, self.len)
    }
}
