//! Bound on the work of one call, after which the driver is notified.

use super::format::{T_DISCARD, T_FLUSH, T_OUT, T_WRITE_ZEROES};
use crate::queue::Chain;

/// Bytes after which a call returns, so that the driver can be notified: to copy them takes some 50 microseconds.
const BYTES: u64 = 256 << 10;

/// What is left of the bytes that one call transfers. The last request may go beyond it.
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn new() -> Self {
        Self(BYTES)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// Accounts for a request's buffers.
    pub(super) fn spend(&mut self, chain: &Chain<'_>) {
        let bytes = chain.readable().len().saturating_add(chain.writable().len());
        self.0 = self.0.saturating_sub(bytes);
    }

    /// Accounts for a request of this type that was done while it was taken. One that waits for the disk, or has the file
    /// system change many sectors, takes as long as many bytes, and is the call's last.
    pub(super) fn spend_on(&mut self, kind: u32, is_writeback: bool) {
        if matches!(kind, T_FLUSH | T_DISCARD | T_WRITE_ZEROES) || (kind == T_OUT && !is_writeback) {
            self.0 = 0;
        }
    }
}
