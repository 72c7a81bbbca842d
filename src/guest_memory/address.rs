macro_rules! address {
    ($(#[$doc:meta])* $T:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $T(pub u64);

        crate::impl_address_ops!($T, u64);

        impl ::core::fmt::Debug for $T {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, concat!(stringify!($T), "({:#x})"), self.0)
            }
        }

        impl ::core::fmt::Display for $T {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl ::core::fmt::LowerHex for $T {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}
pub(crate) use address;

address! {
    /// A guest-physical address, in bytes. 64 bits on every host: a host of 32 bits may run a guest of 64.
    GuestAddress
}

address! {
    /// An offset inside one region, in bytes from its start.
    MemoryRegionAddress
}

/// A length or an offset in guest memory, in bytes. 64 bits on every host.
pub type GuestUsize = u64;
