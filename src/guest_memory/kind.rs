use core::fmt;

/// What a range of guest-physical addresses is to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// Memory that the guest may use as it likes.
    #[default]
    Ram,
    /// Memory that is read and never written: firmware.
    Rom,
    /// Not memory: a device answers each access, or its memory is mapped there.
    Device,
    /// Memory with a purpose of its own, which the guest is told not to use as RAM: tables of the firmware, a log.
    Reserved,
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ram => "RAM",
            Self::Rom => "ROM",
            Self::Device => "device",
            Self::Reserved => "reserved",
        })
    }
}
