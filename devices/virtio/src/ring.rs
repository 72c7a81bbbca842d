//! What lies in guest memory: the formats of a split virtqueue's parts, and where each field is (VIRTIO 1.2, 2.7).
//!
//! The device's half ([`queue`](crate::queue)) and the driver's half ([`driver`](crate::driver)) share these, and
//! nothing else.

use std::fmt;

use memory_model::{Address, IoAddress, Le16, Le32, Le64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The chain goes on at `next` (VIRTIO 1.2, 2.7.5).
pub const DESC_F_NEXT: u16 = 1;
/// The buffer is device-writable; without it, device-readable (VIRTIO 1.2, 2.7.5).
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors (VIRTIO 1.2, 2.7.5.3).
pub const DESC_F_INDIRECT: u16 = 4;
/// In `avail.flags`: the driver needs no notification of used buffers (VIRTIO 1.2, 2.7.7).
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In `used.flags`: the device needs no notification of available buffers (VIRTIO 1.2, 2.7.10).
pub const USED_F_NO_NOTIFY: u16 = 1;

/// `VIRTIO_F_INDIRECT_DESC`: chains may be in indirect tables (VIRTIO 1.2, 6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: each side says of which entry it wants to be told (VIRTIO 1.2, 6).
pub const F_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: this is no legacy device (VIRTIO 1.2, 6).
pub const F_VERSION_1: u64 = 1 << 32;

/// The largest queue (VIRTIO 1.2, 2.7): 2^15, so that the 16-bit indices tell a full ring from an empty one.
pub const MAX_QUEUE_SIZE: u16 = 1 << 15;

/// An entry of a descriptor table (VIRTIO 1.2, 2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// Where the buffer begins.
    pub addr: Le64,
    /// The buffer's length in bytes.
    pub len: Le32,
    /// `DESC_F_*`.
    pub flags: Le16,
    /// The index of the next descriptor of the chain, with [`DESC_F_NEXT`].
    pub next: Le16,
}

/// An entry of the used ring (VIRTIO 1.2, 2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsedElement {
    /// The index of the chain's first descriptor.
    pub id: Le32,
    /// How many bytes the device has written, from the start of the chain's device-writable buffers on.
    pub len: Le32,
}

const _: () = assert!(size_of::<Descriptor>() == 16, "VIRTIO 1.2, 2.7.5: le64, le32, le16, le16");
const _: () = assert!(size_of::<UsedElement>() == 8, "VIRTIO 1.2, 2.7.8: le32, le32");

/// A part of a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The descriptor table, the descriptor area (VIRTIO 1.2, 2.7.5).
    DescriptorTable,
    /// The available ring, the driver area (VIRTIO 1.2, 2.7.6).
    AvailableRing,
    /// The used ring, the device area (VIRTIO 1.2, 2.7.8).
    UsedRing,
    /// A table of descriptors somewhere in memory (VIRTIO 1.2, 2.7.5.3).
    IndirectTable,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DescriptorTable => "descriptor table",
            Self::AvailableRing => "available ring",
            Self::UsedRing => "used ring",
            Self::IndirectTable => "indirect table",
        })
    }
}

/// Where a virtqueue lies, how large it is, and which of its features were negotiated: what a transport knows when the
/// driver enables the queue.
///
/// ```
/// use memory_model::IoAddress;
/// use memory_model_virtio::QueueConfig;
///
/// let config = QueueConfig::contiguous(IoAddress(0x1000), 256)?;
/// assert_eq!((config.desc, config.avail, config.used), (IoAddress(0x1000), IoAddress(0x2000), IoAddress(0x2208)));
/// assert!(QueueConfig::contiguous(IoAddress(0x1000), 100).is_err()); // not a power of two
/// # Ok::<(), memory_model_virtio::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The number of descriptors, and of entries of either ring: a power of two from 1 to [`MAX_QUEUE_SIZE`].
    pub size: u16,
    /// The descriptor table: 16 bytes for each entry, aligned to 16.
    pub desc: IoAddress,
    /// The available ring: 6 bytes and 2 for each entry, aligned to 2.
    pub avail: IoAddress,
    /// The used ring: 6 bytes and 8 for each entry, aligned to 4.
    pub used: IoAddress,
    /// Whether `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// Whether `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
}

/// Why a virtqueue cannot be where it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The size is no power of two from 1 to 32768 (VIRTIO 1.2, 2.7).
    #[error("a queue of {0} entries: the size must be a power of two from 1 to {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// A part is not aligned (VIRTIO 1.2, 2.7.1).
    #[error("the {part} at {addr} must lie at a multiple of {align}")]
    Misaligned {
        /// Which part.
        part: Part,
        /// Its address.
        addr: IoAddress,
        /// The alignment needed, in bytes.
        align: u64,
    },
    /// A part would go on past the end of the address space.
    #[error("the {part} at {addr} has {len:#x} bytes and does not fit below 2^64")]
    PastEnd {
        /// Which part.
        part: Part,
        /// Its address.
        addr: IoAddress,
        /// Its length in bytes.
        len: u64,
    },
    /// Saved indices say that more buffers are in flight than the queue has entries.
    #[error("saved indices {next_avail} and {next_used} have more buffers in flight than the queue's {size} entries")]
    InFlight {
        /// The saved index of the next available entry.
        next_avail: u16,
        /// The saved index of the next used entry.
        next_used: u16,
        /// The queue's size.
        size: u16,
    },
}

impl QueueConfig {
    /// A queue whose parts follow each other from `base`, in order and as close as their alignment allows; without
    /// event index and indirect tables.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `size` or `base` cannot be a queue's.
    pub fn contiguous(base: IoAddress, size: u16) -> Result<Self, ConfigError> {
        let part = |part, addr: IoAddress, len: u64, align: u64| {
            let end = addr.0.checked_add(len).and_then(|end| end.checked_next_multiple_of(align));
            end.map(IoAddress).ok_or(ConfigError::PastEnd { part, addr, len })
        };
        let avail = part(Part::DescriptorTable, base, Self::desc_len(size), 2)?;
        let used = part(Part::AvailableRing, avail, Self::avail_len(size), 4)?;
        let config = Self { size, desc: base, avail, used, event_idx: false, indirect: false };
        Rings::new(config)?;
        Ok(config)
    }

    /// The same queue with the features that were negotiated: [`F_EVENT_IDX`] and [`F_INDIRECT_DESC`].
    #[must_use]
    pub fn with_features(self, negotiated: u64) -> Self {
        let has = |feature| negotiated & feature != 0;
        Self { event_idx: has(F_EVENT_IDX), indirect: has(F_INDIRECT_DESC), ..self }
    }

    /// The bytes of the descriptor table of a queue with `size` entries (VIRTIO 1.2, 2.7).
    pub(crate) fn desc_len(size: u16) -> u64 {
        u64::from(size) << 4
    }

    /// The bytes of the available ring of a queue with `size` entries, `used_event` included (VIRTIO 1.2, 2.7).
    pub(crate) fn avail_len(size: u16) -> u64 {
        (u64::from(size) << 1).saturating_add(6)
    }

    /// The bytes of the used ring of a queue with `size` entries, `avail_event` included (VIRTIO 1.2, 2.7).
    pub fn used_len(size: u16) -> u64 {
        (u64::from(size) << 3).saturating_add(6)
    }
}

/// A [`QueueConfig`] that has been checked, and the address of each field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    /// # Invariants
    /// 1. `size` is a power of two from 1 to [`MAX_QUEUE_SIZE`].
    /// 2. Each part is aligned, and its last byte lies below 2^64.
    config: QueueConfig,
}

impl Rings {
    pub(crate) fn new(config: QueueConfig) -> Result<Self, ConfigError> {
        let QueueConfig { size, desc, avail, used, .. } = config;
        if !size.is_power_of_two() {
            return Err(ConfigError::Size(size));
        }
        let parts = [
            (Part::DescriptorTable, desc, QueueConfig::desc_len(size), 16),
            (Part::AvailableRing, avail, QueueConfig::avail_len(size), 2),
            (Part::UsedRing, used, QueueConfig::used_len(size), 4),
        ];
        for (part, addr, len, align) in parts {
            if addr.0 != addr.align_down(align).0 {
                return Err(ConfigError::Misaligned { part, addr, align });
            }
            if addr.checked_add(len.saturating_sub(1)).is_none() {
                return Err(ConfigError::PastEnd { part, addr, len });
            }
        }
        Ok(Self { config })
    }

    #[inline]
    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }

    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.config.size
    }

    /// The byte `offset` bytes into a part, `slot` entries of `1 << shift` bytes further. Inside the part, so it does not
    /// wrap (invariant 2).
    #[inline]
    fn at(part: IoAddress, offset: u64, slot: u16, shift: u32) -> IoAddress {
        IoAddress(part.0.wrapping_add(offset).wrapping_add(u64::from(slot) << shift))
    }

    /// The ring slot of a free-running index: `idx % size` (invariant 1).
    #[inline]
    fn slot(&self, index: u16) -> u16 {
        index & self.config.size.wrapping_sub(1)
    }

    /// `desc[slot]`. The caller has checked that `slot` is below the size.
    #[inline]
    pub(crate) fn descriptor(&self, slot: u16) -> IoAddress {
        Self::at(self.config.desc, 0, slot, 4)
    }

    #[inline]
    pub(crate) fn avail_flags(&self) -> IoAddress {
        self.config.avail
    }

    #[inline]
    pub(crate) fn avail_idx(&self) -> IoAddress {
        Self::at(self.config.avail, 2, 0, 0)
    }

    /// `avail.ring[index % size]`.
    #[inline]
    pub(crate) fn avail_entry(&self, index: u16) -> IoAddress {
        Self::at(self.config.avail, 4, self.slot(index), 1)
    }

    /// `avail.used_event`, behind the ring.
    #[inline]
    pub(crate) fn used_event(&self) -> IoAddress {
        Self::at(self.config.avail, 4, self.config.size, 1)
    }

    #[inline]
    pub(crate) fn used_flags(&self) -> IoAddress {
        self.config.used
    }

    #[inline]
    pub(crate) fn used_idx(&self) -> IoAddress {
        Self::at(self.config.used, 2, 0, 0)
    }

    /// `used.ring[index % size]`.
    #[inline]
    pub(crate) fn used_entry(&self, index: u16) -> IoAddress {
        Self::at(self.config.used, 4, self.slot(index), 3)
    }

    /// `used.avail_event`, behind the ring.
    #[inline]
    pub(crate) fn avail_event(&self) -> IoAddress {
        Self::at(self.config.used, 4, self.config.size, 3)
    }
}

/// Whether the other side, which asked to be told when the entry of index `event` is written, is to be told of the
/// `count` entries before `idx` (VIRTIO 1.2, 2.7.7.2 and 2.7.10.1). `count` of 2^16 or more are all entries.
#[inline]
pub(crate) fn crosses(event: u16, idx: u16, count: u32) -> bool {
    u32::from(idx.wrapping_sub(event).wrapping_sub(1)) < count
}
