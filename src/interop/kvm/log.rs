use super::{Error, KvmSlots};

/// KVM's notes of which pages the guest writes: from [`KvmSlots::start_logging`].
///
/// There may be any number; with the last, KVM stops. What was not [fetched](Self::sync) by then is forgotten.
#[derive(Debug)]
#[must_use = "KVM stops when it is dropped"]
pub struct KvmLog {
    slots: KvmSlots,
}

impl KvmLog {
    pub(super) fn new(slots: KvmSlots) -> Self {
        Self { slots }
    }

    /// Fetches the pages that the guest has written since the last time, and marks them as if the host had written them.
    /// To be called right before a harvest. A region that was added since is to be
    /// [followed](crate::guest_memory::DirtyLog::follow) before that: pages that nobody tracks are forgotten.
    ///
    /// Costs a system call for each slot that the guest can write, in which KVM hands out a bit for each page (some 15 us for
    /// each GiB), and protects again each page that was written.
    ///
    /// # Errors
    ///
    /// [`Error::Fetch`], of the first slot that failed. Nothing is lost: what was fetched is marked, the rest is still with
    /// KVM.
    pub fn sync(&self) -> Result<(), Error> {
        self.slots.lock().fetch()
    }

    /// Ends it, as dropping it does.
    ///
    /// # Errors
    ///
    /// [`Error::Set`], if KVM goes on for a slot: that costs time, and does no harm.
    pub fn stop_logging(self) -> Result<(), Error> {
        let slots = self.slots.clone();
        drop(self);
        slots.lock().check_logging()
    }
}

impl Drop for KvmLog {
    fn drop(&mut self) {
        self.slots.lock().stop_logging();
    }
}
