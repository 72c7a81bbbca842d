//! The fault of an access, in one word.

/// The smallest page of any host, in bytes. All bytes of a page are accessible, or none.
pub(super) const PAGE: usize = 4096;

/// A page that could not be accessed.
///
/// One word, which an access returns in a register: the address of the page that begins at or before the first bad byte. Its
/// low bits count the pages from there that may have been written nevertheless, because they became inaccessible during the
/// access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    word: usize,
}

/// The low bits of the word. All of them set: as many pages as the access has.
const COUNT: usize = PAGE - 1;

impl Fault {
    /// The fault of an access that met the bad address `bad`.
    #[cfg(any(
        test,
        all(
            target_os = "linux",
            target_pointer_width = "64",
            any(target_arch = "x86_64", target_arch = "aarch64"),
            not(any(miri, loom))
        )
    ))]
    #[inline(always)]
    pub(super) fn new(bad: usize) -> Self {
        Self { word: bad & !COUNT }
    }

    /// The same fault, of an access that may have written the bytes before the address `end`.
    #[cold]
    pub(crate) fn reaching(self, end: usize) -> Self {
        let pages = end.saturating_sub(self.word & !COUNT).div_ceil(PAGE).min(COUNT);
        Self { word: self.word & !COUNT | pages.max(self.word & COUNT) }
    }

    /// The word, which is not zero.
    #[inline(always)]
    pub(crate) fn word(self) -> usize {
        self.word
    }

    /// The fault that has this [word](Self::word).
    #[inline]
    pub(crate) fn from_word(word: usize) -> Self {
        Self { word }
    }

    /// The address of the first byte that was not accessible, of an access from `start` upwards.
    #[inline]
    pub(crate) fn addr(self, start: *const u8) -> usize {
        (self.word & !COUNT).max(start.addr())
    }

    /// The bytes before it, which were transferred.
    #[inline]
    pub(crate) fn completed(self, start: *const u8) -> usize {
        self.addr(start) - start.addr()
    }

    /// The bytes that may have been written, of an access of `len` bytes from `start` upwards: the completed ones, and more
    /// if a page became inaccessible during the access.
    pub(crate) fn reached(self, start: *const u8, len: usize) -> usize {
        match self.word & COUNT {
            0 => self.completed(start),
            COUNT => len,
            pages => ((self.word & !COUNT) + pages * PAGE).saturating_sub(start.addr()),
        }
        .min(len)
    }
}

/// The fault of a copy inside shared memory. Offsets are from the start of both ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyFault {
    /// Whether the bad page is the destination's.
    pub(crate) is_destination: bool,
    /// Where the first bad byte is.
    pub(crate) offset: usize,
    /// The bytes that were copied, from the start.
    pub(crate) completed: usize,
    /// The bytes that may have been written, from the start.
    pub(crate) reached: usize,
}
