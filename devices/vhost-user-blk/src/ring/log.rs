use std::sync::{Arc, Mutex, PoisonError};

use super::Log;

/// Where a ring's thread finds the migration's log: for the used ring, which has an address of its own there, and to see whether
/// marks were dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct RingLog(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    log: Log,
    /// The address at which writes to the used ring are logged; `None` if they are not.
    used: Option<u64>,
}

impl RingLog {
    /// From now on, and for all that is in the used ring and not logged yet.
    pub(crate) fn set_log(&self, log: Log) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).log = log;
    }

    /// As there. Answers what it was.
    pub(crate) fn set_used(&self, addr: Option<u64>) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut state.used, addr)
    }

    /// After the used ring, of `len` bytes, was written: logs that, if it is to be. Answers how many marks were dropped.
    pub(super) fn used_ring_written(&self, len: u64) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = &state.log else { return 0 };
        if let (Some(addr), false) = (state.used, cfg!(feature = "unlogged")) {
            log.mark(addr, len);
        }
        log.dropped()
    }
}
