use std::io;

use crate::GuestAddress;

/// First and last address of a region.
type Ends = (GuestAddress, GuestAddress);

/// Why KVM does not have a region, still has one, or does not say what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are no more slots.
    #[error("all {in_use} memory slots are in use, and {}..={} needs one: make fewer and larger regions", region.0, region.1)]
    NoSlot {
        /// How many are in use.
        in_use: usize,
        /// The region.
        region: Ends,
    },
    /// KVM maps whole pages of the host.
    #[error(
        "KVM maps whole pages: {what} {value:#x} of {}..={} is not a multiple of the host's page size {page_size:#x}",
        region.0, region.1
    )]
    Misaligned {
        /// What it is that does not fit: `the guest address`, `the size`, `the host address`.
        what: &'static str,
        /// Its value, in bytes.
        value: u64,
        /// The host's page size, in bytes.
        page_size: u64,
        /// The region.
        region: Ends,
    },
    /// The guest could write what it must not.
    #[error(
        "KVM has no read-only memory here (KVM_CAP_READONLY_MEM), and {}..={} is: make it writable RAM, or leave it out",
        region.0, region.1
    )]
    ReadOnly {
        /// The region.
        region: Ends,
    },
    /// The guest's private memory would be the host's to read.
    #[error(
        "{}..={} has private memory (a guest_memfd), which these slots do not give to KVM: use slots of your own",
        region.0, region.1
    )]
    GuestMemfd {
        /// The region.
        region: Ends,
    },
    /// KVM refuses a slot, or to log it.
    #[error("KVM_SET_USER_MEMORY_REGION of slot {slot}, {}..={}: {source}{}", region.0, region.1, advice(source))]
    Set {
        /// The slot's number.
        slot: u32,
        /// The region.
        region: Ends,
        /// What KVM says.
        source: io::Error,
    },
    /// KVM keeps a slot whose region is gone from the map.
    #[error(
        "KVM does not delete slot {slot}, {}..={}: {source}; the guest still reaches it, and it stays mapped",
        region.0, region.1
    )]
    Delete {
        /// The slot's number.
        slot: u32,
        /// The region.
        region: Ends,
        /// What KVM says.
        source: io::Error,
    },
    /// KVM does not say which pages of a slot were written. It still knows them.
    #[error("KVM_GET_DIRTY_LOG of slot {slot}, {}..={}: {source}; nothing is lost, try again", region.0, region.1)]
    Fetch {
        /// The slot's number.
        slot: u32,
        /// The region.
        region: Ends,
        /// What KVM says.
        source: io::Error,
    },
}

/// What KVM means by an errno.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EEXIST) => "; another slot of this VM has some of these addresses",
        Some(libc::EINVAL) => {
            "; a slot ends below address 2^64, has fewer than 2^31 pages, and no other memory had its number before"
        }
        Some(libc::EIO) => "; only the process that made the VM can change its slots",
        _ => "",
    }
}
