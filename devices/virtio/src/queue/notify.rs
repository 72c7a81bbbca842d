//! Who wants to be told of what: notification suppression in both directions (VIRTIO 1.2, 2.7.7 and 2.7.10).
//!
//! Both directions have the same shape. One side publishes an index, then looks whether the other wants to be told; the
//! other says that it wants to be told, then looks at the index again. Each has a full fence between the two steps, so
//! at least one of them sees what the other wrote, and no wake-up is lost.

use std::sync::atomic::{Ordering, fence};

use memory_model::IoMemory;

use super::{Queue, QueueError};
use crate::ring::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY, crosses};

/// As many entries as there are indices: whichever the driver waits for is among them.
pub(super) const ALL: u32 = 1 << 16;

impl Queue {
    /// Whether the driver wants to be told of what was used since the last call. To be asked after a batch of
    /// [`add_used`](Queue::add_used).
    ///
    /// Without event index the driver's flag decides (VIRTIO 1.2, 2.7.7.2); with it, whether the entry of index
    /// `used_event` is among those used since.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`]; or the reason for which the queue was broken before. A driver is told then, too.
    pub fn needs_notification<I: IoMemory>(&mut self, mem: &I) -> Result<bool, QueueError> {
        self.unless_broken(|queue| {
            let count = std::mem::take(&mut queue.unannounced);
            if count == 0 {
                return Ok(false);
            }
            // SeqCst: pairs with the driver's `mb()` between allowing notifications, by its flag or `used_event`, and
            // looking at `used.idx` again (VIRTIO 1.2, 2.7.14): `add_used` has stored that index before.
            fence(Ordering::SeqCst);
            let event_idx = queue.config().event_idx;
            let addr = if event_idx { queue.rings.used_event() } else { queue.rings.avail_flags() };
            let wish = queue.pins.avail(queue.config(), mem).load(addr, Ordering::Relaxed)?;
            Ok(match (event_idx, wish) {
                (true, event) => crosses(event, queue.next_used, count),
                (false, flags) => flags & AVAIL_F_NO_INTERRUPT == 0,
            })
        })
    }

    /// Asks the driver to notify the device when it makes buffers available, and answers whether some are already: then
    /// it may not notify of those, and they are to be handled first.
    ///
    /// With event index that is `avail_event`, else the flag (VIRTIO 1.2, 2.7.10.2).
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`], [`QueueError::AvailIndex`]; or the reason for which the queue was broken before.
    pub fn enable_notifications<I: IoMemory>(&mut self, mem: &I) -> Result<bool, QueueError> {
        self.unless_broken(|queue| {
            let (addr, wish) = if queue.config().event_idx {
                (queue.rings.avail_event(), queue.next_avail)
            } else {
                (queue.rings.used_flags(), 0)
            };
            // Relaxed: the fence follows.
            queue.pins.used(queue.config(), mem).store(wish, addr, Ordering::Relaxed)?;
            // SeqCst: pairs with the driver's barrier between moving `avail.idx` and reading `used.flags` or
            // `avail_event` (VIRTIO 1.2, 2.7.13.4.1).
            fence(Ordering::SeqCst);
            Ok(queue.load_avail_idx(mem)? > 0)
        })
    }

    /// Tells the driver that it need not notify the device, which looks by itself. Advice only: the driver may notify
    /// all the same (VIRTIO 1.2, 2.7.10.2).
    ///
    /// With event index nothing is to be done: the driver notifies once, when it passes the `avail_event` of the last
    /// [`enable_notifications`](Self::enable_notifications).
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`]; or the reason for which the queue was broken before.
    pub fn disable_notifications<I: IoMemory>(&mut self, mem: &I) -> Result<(), QueueError> {
        self.unless_broken(|queue| {
            if queue.config().event_idx {
                return Ok(());
            }
            let ring = queue.pins.used(queue.config(), mem);
            // Relaxed: it is advice.
            ring.store(USED_F_NO_NOTIFY, queue.rings.used_flags(), Ordering::Relaxed)
        })
    }
}
