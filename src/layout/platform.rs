use crate::GuestAddress;

/// The conventions that a guest's addresses follow: where memory begins, where it must not be, how far addresses go.
///
/// | platform            | memory from   | hole, where no memory is laid                           | bits |
/// |---------------------|---------------|---------------------------------------------------------|------|
/// | [`X86_64`][x]       | `0x0`         | `32-bit MMIO`: `0xc000_0000..=0xffff_ffff`              | 46   |
/// |                     |               | `64-bit MMIO`: `0x40_0000_0000..=0x7f_ffff_ffff`        |      |
/// |                     |               | `HyperTransport`: `0xfd_0000_0000..=0xff_ffff_ffff`     |      |
/// | [`Aarch64`][a]      | `0x4000_0000` | `32-bit MMIO`: `0x1000_0000..=0x3fff_ffff`              | 48   |
/// | [`Riscv64`][r]      | `0x8000_0000` | `32-bit MMIO`: `0x4000_0000..=0x7fff_ffff`              | 56   |
/// | [`Bare`](Self::Bare)| `0x0`         | none                                                    | 64   |
///
/// | platform            | reservation, where nothing is allocated                                             |
/// |---------------------|-------------------------------------------------------------------------------------|
/// | [`X86_64`][x]       | `VGA and BIOS`: `0xa_0000..=0xf_ffff`, in RAM                                       |
/// |                     | `I/O APIC`: `0xfec0_0000..=0xfec0_0fff`                                             |
/// |                     | `local APIC and MSI`: `0xfee0_0000..=0xfeef_ffff`                                   |
/// |                     | `HyperTransport`: `0xfd_0000_0000..=0xff_ffff_ffff`                                 |
///
/// Each is removed by its name ([`without_hole`], [`without_reservation`]); what goes past the addresses that a guest
/// has is cut off. Where they come from:
///
/// * Devices want addresses below 4 GiB, and do not move when there is more memory: microVMs keep 3 to 4 GiB and 256 to
///   512 GiB for them (Firecracker). QEMU's `q35` begins the low gap at 2 GiB or 2.75 GiB: a hole of one's own.
/// * The 12 GiB below 1 TiB are `HyperTransport`'s: AMD's IOMMU does not translate them (its specification, 2.1.2), so
///   Linux refuses to map them for a passed-through device. QEMU moves all memory above 4 GiB to 1 TiB for a guest that
///   would reach them; here memory goes on behind them. An Intel host has no such range.
/// * What a device writes to `0xfeex_xxxx` is an interrupt, not memory (Intel SDM, volume 3, "Message Signalled
///   Interrupts"). The APICs' own addresses are those after reset.
/// * A PC's first MiB has the VGA's memory and the BIOS from 640 KiB on. Here RAM lies behind it, which the guest is told
///   not to use.
/// * The bases, and the windows for devices, are those of QEMU's `virt` machines. Below the windows these have their
///   interrupt controllers, serial lines and flash, which is where [`allocate_at`] puts such.
/// * The number of bits is that of current servers (x86-64), of the architecture without its extension to 52 bits
///   (aarch64), and of the page tables (riscv64). A host's processor may have fewer: [`address_bits`] says so.
///
/// [x]: Self::X86_64
/// [a]: Self::Aarch64
/// [r]: Self::Riscv64
/// [`without_hole`]: super::GuestLayoutBuilder::without_hole
/// [`without_reservation`]: super::GuestLayoutBuilder::without_reservation
/// [`address_bits`]: super::GuestLayoutBuilder::address_bits
/// [`allocate_at`]: super::GuestLayout::allocate_at
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// A PC.
    X86_64,
    /// A machine of Arm's 64-bit architecture.
    Aarch64,
    /// A machine of the 64-bit RISC-V architecture.
    Riscv64,
    /// No conventions: memory from 0 on, without holes, reservations or an end below 2^64.
    Bare,
}

/// A range with a name: first address, length in bytes.
pub(super) type Convention = (&'static str, GuestAddress, u64);

const HYPER_TRANSPORT: Convention = ("HyperTransport", GuestAddress(0xfd_0000_0000), 0x3_0000_0000);

impl Platform {
    /// The lowest address that memory is laid at, unless it has a fixed place.
    pub fn base(self) -> GuestAddress {
        GuestAddress(match self {
            Self::X86_64 | Self::Bare => 0,
            Self::Aarch64 => 0x4000_0000,
            Self::Riscv64 => 0x8000_0000,
        })
    }

    /// How many bits an address has.
    pub fn address_bits(self) -> u32 {
        match self {
            Self::X86_64 => 46,
            Self::Aarch64 => 48,
            Self::Riscv64 => 56,
            Self::Bare => 64,
        }
    }

    pub(super) fn holes(self) -> &'static [Convention] {
        match self {
            Self::X86_64 => &[
                ("32-bit MMIO", GuestAddress(0xc000_0000), 0x4000_0000),
                ("64-bit MMIO", GuestAddress(0x40_0000_0000), 0x40_0000_0000),
                HYPER_TRANSPORT,
            ],
            Self::Aarch64 => &[("32-bit MMIO", GuestAddress(0x1000_0000), 0x3000_0000)],
            Self::Riscv64 => &[("32-bit MMIO", GuestAddress(0x4000_0000), 0x4000_0000)],
            Self::Bare => &[],
        }
    }

    pub(super) fn reservations(self) -> &'static [Convention] {
        match self {
            Self::X86_64 => &[
                ("VGA and BIOS", GuestAddress(0xa_0000), 0x6_0000),
                ("I/O APIC", GuestAddress(0xfec0_0000), 0x1000),
                ("local APIC and MSI", GuestAddress(0xfee0_0000), 0x10_0000),
                HYPER_TRANSPORT,
            ],
            Self::Aarch64 | Self::Riscv64 | Self::Bare => &[],
        }
    }
}
