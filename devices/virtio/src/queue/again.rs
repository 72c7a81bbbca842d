//! Chains that an earlier process took, and did not use.

use memory_model::IoMemory;

use super::{Chain, Queue, QueueError, walk};

impl Queue {
    /// Takes the chain at `head` again, which was taken and not used when the queue was [resumed](Queue::resume): it is
    /// one of those from `next_used` to `next_avail`. The available ring is not looked at, as the driver may have
    /// overwritten the chain's entry, and [`next_avail`](Queue::next_avail) stays.
    ///
    /// That it was under way, and that it is taken again but once, is the caller's promise, as it is for
    /// [`add_used`](Queue::add_used).
    ///
    /// # Errors
    ///
    /// [`QueueError`], as for [`pop`](Queue::pop). The queue is broken from then on.
    pub fn retake<I: IoMemory>(&mut self, mem: &I, head: u16) -> Result<Chain<'_>, QueueError> {
        let walked = self.unless_broken(|queue| {
            let table = queue.pins.descriptors(queue.rings.config(), mem);
            walk::walk(&queue.rings, table, head, &mut queue.segments)
        })?;
        Ok(Chain::new(walked, &self.segments))
    }

    /// Checks that chains can have been under way in this queue, besides `others` of which the device knows.
    pub(crate) fn check_retaken(&mut self, heads: &[u16], others: usize) -> Result<(), QueueError> {
        self.unless_broken(|queue| {
            let in_flight = usize::from(queue.next_avail.wrapping_sub(queue.next_used));
            let room = in_flight.saturating_sub(others);
            if heads.len() > room {
                return Err(QueueError::RetakenCount { count: heads.len(), room });
            }
            let size = queue.size();
            let mut seen = vec![false; usize::from(size)];
            for &head in heads {
                let seen = seen.get_mut(usize::from(head)).ok_or(QueueError::Head { head, size })?;
                if std::mem::replace(seen, true) {
                    return Err(QueueError::RetakenTwice { head });
                }
            }
            Ok(())
        })
    }
}
