//! What a request looks like in memory (VIRTIO 1.2, 5.2.6).

use memory_model::{Le32, Le64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The unit of all sector numbers, in bytes (VIRTIO 1.2, 5.2.4), whatever the disk's own.
pub const SECTOR_SIZE: u64 = 512;

/// Reads sectors into device-writable data.
pub const T_IN: u32 = 0;
/// Writes sectors from device-readable data.
pub const T_OUT: u32 = 1;
/// Makes all writes before it stable.
pub const T_FLUSH: u32 = 4;
/// Reads the disk's name, 20 bytes.
pub const T_GET_ID: u32 = 8;
/// Says that ranges of sectors are not needed any more.
pub const T_DISCARD: u32 = 11;
/// Makes ranges of sectors read as zeros.
pub const T_WRITE_ZEROES: u32 = 13;

/// The request is done.
pub const S_OK: u8 = 0;
/// The device or the driver is in error.
pub const S_IOERR: u8 = 1;
/// The device does not know such a request.
pub const S_UNSUPP: u8 = 2;

/// In [`Range::flags`]: zeroed sectors may be deallocated.
pub const RANGE_F_UNMAP: u32 = 1;

/// How a request begins (VIRTIO 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    /// What is to be done: `T_*`.
    pub kind: Le32,
    /// Not used.
    pub reserved: Le32,
    /// For [`T_IN`] and [`T_OUT`] the first sector, else 0.
    pub sector: Le64,
}

impl RequestHeader {
    /// The header of a request of this kind that begins at `sector`.
    pub fn new(kind: u32, sector: u64) -> Self {
        Self { kind: kind.into(), reserved: Le32::default(), sector: sector.into() }
    }
}

/// A range of sectors to be discarded or zeroed (VIRTIO 1.2, 5.2.6, `struct virtio_blk_discard_write_zeroes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// The first sector.
    pub sector: Le64,
    /// The number of sectors.
    pub num_sectors: Le32,
    /// [`RANGE_F_UNMAP`], or 0.
    pub flags: Le32,
}

impl Range {
    /// The range of `num_sectors` sectors from `sector`.
    pub fn new(sector: u64, num_sectors: u32, flags: u32) -> Self {
        Self { sector: sector.into(), num_sectors: num_sectors.into(), flags: flags.into() }
    }
}

const _: () = assert!(size_of::<RequestHeader>() == 16, "VIRTIO 1.2, 5.2.6: le32, le32, le64");
const _: () = assert!(size_of::<Range>() == 16, "VIRTIO 1.2, 5.2.6: le64, le32, le32");
