//! What lies where in a queue's part of the region: `struct QueueRegionSplit` and, for each descriptor, `struct
//! DescStateSplit`.

/// `features`, u64: none are defined.
pub(super) const FEATURES: usize = 0;
/// `version`, u16: 0 if there is nothing in the part yet.
pub(super) const VERSION: usize = 8;
/// `desc_num`, u16: the number of descriptors that there is room for.
pub(super) const DESC_NUM: usize = 10;
/// `last_batch_head`, u16: the request that was put into the used ring last.
pub(super) const LAST_BATCH_HEAD: usize = 12;
/// `used_idx`, u16: the used ring's index, when all requests before it had been crossed out.
pub(super) const USED_IDX: usize = 14;
/// Where the first descriptor's state begins.
const HEADER_LEN: usize = 16;
/// The length of a descriptor's state.
const DESC_LEN: usize = 16;
/// In a descriptor's state, u8: not 0 if its request is under way.
const INFLIGHT: usize = 0;
/// In a descriptor's state, u16: the request that was used before it, in the same batch.
const NEXT: usize = 6;
/// In a descriptor's state, u64: the place of its request among those that were taken.
const COUNTER: usize = 8;
/// Each part begins at a multiple of so many bytes.
const ALIGN: usize = 64;

/// The version whose layout this is.
pub(super) const THIS_VERSION: u16 = 1;

pub(super) fn inflight(head: u16) -> usize {
    desc(head).saturating_add(INFLIGHT)
}

pub(super) fn next(head: u16) -> usize {
    desc(head).saturating_add(NEXT)
}

pub(super) fn counter(head: u16) -> usize {
    desc(head).saturating_add(COUNTER)
}

fn desc(head: u16) -> usize {
    usize::from(head).saturating_mul(DESC_LEN).saturating_add(HEADER_LEN)
}

/// The bytes of a part with so many descriptors, up to the next part: little more than 1 MiB at most.
pub(super) fn part_len(queue_size: u16) -> usize {
    desc(queue_size).next_multiple_of(ALIGN)
}
