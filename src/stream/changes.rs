//! Whether the protection of a mapping may have changed during a transfer.
//!
//! A page that stopped a system call can be accessed again when it is looked for. Both are compared with the changes that this
//! crate has made to its own mappings. One count for all of them is enough: changes are rare, and a change that has nothing to
//! do with the transfer costs a few marks.

#![cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "other systems do not look for pages"))]

use std::sync::atomic::{AtomicUsize, Ordering};

static BEGUN: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// The number of changes that had ended at some time.
#[derive(Clone, Copy)]
pub(crate) struct Changes(usize);

impl Changes {
    /// Those until now.
    pub(crate) fn until_now() -> Self {
        Self(ENDED.load(Ordering::SeqCst))
    }

    /// Whether none was under way then, and none has begun since.
    pub(super) fn are_all(self) -> bool {
        BEGUN.load(Ordering::SeqCst) == self.0
    }

    /// Makes a change.
    #[cfg(feature = "mmap")]
    pub(crate) fn make<T>(change: impl FnOnce() -> T) -> T {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        let made = change();
        ENDED.fetch_add(1, Ordering::SeqCst);
        made
    }
}
