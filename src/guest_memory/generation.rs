use core::sync::atomic::{AtomicU64, Ordering};

/// A number that nobody has had before in this process: never 0, and larger than all that were had before.
///
/// For memories that answer [`GuestMemory::generation`](super::GuestMemory::generation), or
/// [`IoMemory::io_generation`](crate::IoMemory::io_generation), by themselves.
pub fn new_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // Relaxed: each is had once, and in order where one call comes before another. At one for each nanosecond they last for
    // 584 years.
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}
