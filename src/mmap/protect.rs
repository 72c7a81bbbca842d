//! What may be done with a mapping's pages: read, written, or nothing.

#![expect(unsafe_code, reason = "changes what may be done with mapped memory")]

use std::ops::Range;

use rustix::mm::MprotectFlags;

use super::build::refused;
use super::{Error, MmapRegion, Protection, Step};
use crate::stream::Changes;

impl Protection {
    pub(super) fn flags(self) -> MprotectFlags {
        match self {
            Self::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
            Self::ReadOnly => MprotectFlags::READ,
        }
    }
}

impl MmapRegion {
    /// Lets the memory be read only, or written again: firmware is loaded, then protected.
    ///
    /// It is not for memory that others write at that moment: such a write is done, or refused, or it is
    /// [`Fault`](crate::guest_memory::Error::Fault); and where faults are not recovered from it may end the process.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; [`Error::NoRecovery`] if a write would end the process; [`Error::Borrowed`] for a mapping that
    /// is not this value's own.
    pub fn protect(&self, protection: Protection) -> Result<(), Error> {
        let len = self.own_len("another protection")?;
        self.protect_parts(protection, std::iter::once(0..len))
    }

    /// The length in whole pages, of a mapping that is this value's own and may thus be given `what`.
    pub(super) fn own_len(&self, what: &'static str) -> Result<usize, Error> {
        self.size.checked_next_multiple_of(self.page).filter(|_| self.place.is_some()).ok_or(Error::Borrowed(what))
    }

    /// As [`protect`](Self::protect), of parts of a mapping of its own, which are whole pages.
    pub(super) fn protect_parts(
        &self,
        protection: Protection,
        parts: impl Iterator<Item = Range<usize>>,
    ) -> Result<(), Error> {
        #[cfg(feature = "fault-recovery")]
        super::build::check_recovery(protection)?;
        // A discard at the same time maps memory with the access that it finds.
        let _alone = self.overlay.as_ref().map(|overlay| overlay.lock());
        let (before, read_only) = (self.protection(), protection == Protection::ReadOnly);
        // Said before the pages refuse, and taken back after they no longer do: who writes is refused by word first.
        if read_only {
            self.set_read_only(true);
        }
        let changed = self.change(parts, protection.flags(), before.flags());
        self.set_read_only(if changed.is_ok() { read_only } else { before == Protection::ReadOnly });
        changed.map_err(Stuck::error)
    }

    /// What may be done with what is plugged.
    pub(super) fn protection(&self) -> Protection {
        if self.is_read_only() { Protection::ReadOnly } else { Protection::ReadWrite }
    }

    /// Lets nothing be done any more with parts of a mapping of its own, which are whole pages.
    pub(super) fn close(&self, parts: impl Iterator<Item = Range<usize>>) -> Result<(), Stuck> {
        self.change(parts, MprotectFlags::empty(), self.protection().flags())
    }

    /// Undoes [`close`](Self::close).
    pub(super) fn open(&self, parts: impl Iterator<Item = Range<usize>>) -> Result<(), Stuck> {
        self.change(parts, self.protection().flags(), MprotectFlags::empty())
    }

    /// Changes what may be done with parts, all of them or none.
    fn change(
        &self,
        parts: impl Iterator<Item = Range<usize>>,
        to: MprotectFlags,
        from: MprotectFlags,
    ) -> Result<(), Stuck> {
        let mut changed: Vec<Range<usize>> = Vec::new();
        for part in parts {
            let Err(cause) = self.set_access(&part, to) else {
                changed.push(part);
                continue;
            };
            // A part of it may be changed, where the kernel has it as several areas. Who refuses to change that back has
            // refused the change, too.
            match self.set_access(&part, from) {
                Ok(()) | Err(_) => {}
            }
            let mut stuck = Stuck { cause, undo: None, parts: Vec::new() };
            for part in changed {
                if let Err(undo) = self.set_access(&part, from) {
                    stuck.undo = Some(undo);
                    stuck.parts.push(part);
                }
            }
            return Err(stuck);
        }
        Ok(())
    }

    pub(super) fn set_access(&self, part: &Range<usize>, flags: MprotectFlags) -> Result<(), Error> {
        let start = self.start.as_ptr().wrapping_add(part.start).cast();
        // SAFETY: whole pages of a mapping of this value's own, accessed through slices only, by which an access may fault.
        let changed = Changes::make(|| unsafe { rustix::mm::mprotect(start, part.len(), flags) });
        changed.map_err(|errno| refused(Step::Protect, part.end.min(self.size).saturating_sub(part.start), errno))
    }
}

/// A change that was not made.
pub(super) struct Stuck {
    pub(super) cause: Error,
    /// If it was made of some parts, and could not be undone.
    pub(super) undo: Option<Error>,
    /// These.
    pub(super) parts: Vec<Range<usize>>,
}

impl Stuck {
    pub(super) fn error(self) -> Error {
        let Some(undo) = self.undo else { return self.cause };
        let first = self.parts.first().map_or(0, |part| part.start);
        let end = self.parts.last().map_or(0, |part| part.end);
        let (offset, len) = (first as u64, end.saturating_sub(first) as u64);
        Error::NotUndone { cause: Box::new(self.cause), undo: Box::new(undo), offset, len }
    }
}
