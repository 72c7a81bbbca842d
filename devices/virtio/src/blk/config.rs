//! What the driver learns about the disk: feature bits and configuration space (VIRTIO 1.2, 5.2.3 and 5.2.4).

use memory_model::{Le16, Le32, Le64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A segment of a request's data has at most `size_max` bytes.
pub const F_SIZE_MAX: u64 = 1 << 1;
/// A request has at most `seg_max` data segments.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The disk is read-only.
pub const F_RO: u64 = 1 << 5;
/// `blk_size` is the size of the disk's blocks.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The disk has a cache, and [`T_FLUSH`](super::T_FLUSH) makes writes stable.
pub const F_FLUSH: u64 = 1 << 9;
/// There are `num_queues` queues.
pub const F_MQ: u64 = 1 << 12;
/// Sectors can be discarded.
pub const F_DISCARD: u64 = 1 << 13;
/// Sectors can be zeroed.
pub const F_WRITE_ZEROES: u64 = 1 << 14;
/// Bytes in a segment, at most: a request of 1 MiB can be one segment, if its memory is contiguous. Only the driver is bound
/// by it.
pub(super) const MAX_SEGMENT_SIZE: u32 = 1 << 20;
/// Ranges in a discard or write-zeroes request, at most.
pub(super) const MAX_RANGES: usize = 16;
/// Sectors in a range to be discarded, at most: 2 GiB, as that costs little.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Sectors in a range to be zeroed, at most: 16 MiB, as they may have to be written.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;

/// `struct virtio_blk_config` (VIRTIO 1.2, 5.2.4).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ConfigSpace {
    pub(super) capacity: Le64,
    pub(super) size_max: Le32,
    pub(super) seg_max: Le32,
    pub(super) geometry: [u8; 4],
    pub(super) blk_size: Le32,
    pub(super) topology: [u8; 8],
    pub(super) writeback: u8,
    pub(super) unused0: u8,
    pub(super) num_queues: Le16,
    pub(super) max_discard_sectors: Le32,
    pub(super) max_discard_seg: Le32,
    pub(super) discard_sector_alignment: Le32,
    pub(super) max_write_zeroes_sectors: Le32,
    pub(super) max_write_zeroes_seg: Le32,
    pub(super) write_zeroes_may_unmap: u8,
    pub(super) unused1: [u8; 3],
    pub(super) max_secure_erase_sectors: Le32,
    pub(super) max_secure_erase_seg: Le32,
    pub(super) secure_erase_sector_alignment: Le32,
}

const _: () = assert!(
    size_of::<ConfigSpace>() == 72
        && std::mem::offset_of!(ConfigSpace, size_max) == 8
        && std::mem::offset_of!(ConfigSpace, blk_size) == 20
        && std::mem::offset_of!(ConfigSpace, num_queues) == 34
        && std::mem::offset_of!(ConfigSpace, max_discard_sectors) == 36
        && std::mem::offset_of!(ConfigSpace, write_zeroes_may_unmap) == 56,
    "VIRTIO 1.2, 5.2.4: the layout of struct virtio_blk_config"
);
