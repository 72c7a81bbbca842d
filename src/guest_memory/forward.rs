//! Forwarding of all of a region's methods at once, so that no combination or wrapper forgets one.

/// Implements [`GuestMemoryRegion`](crate::GuestMemoryRegion) and
/// [`Bytes<MemoryRegionAddress>`](crate::Bytes) for a type by calling the same method of the region inside.
///
/// Every method is forwarded, also those that have a default: an access to RAM keeps its type and its atomics, the RAM keeps its
/// [`kind`](crate::GuestMemoryRegion::kind), and its writes stay [tracked](crate::GuestMemoryRegion::tracker).
///
/// The arms are those of a `match` on `&self`. Each names the region by an expression of type `&R`. Generic parameters stand in
/// brackets.
///
/// ```
/// use memory_model::{
///     Bytes, GuestAddress, GuestMemoryRegion, GuestRegionCollection, GuestUsize, MemoryRegionAddress, forward_region,
///     guest_memory,
/// };
/// # #[cfg(all(feature = "mmap", target_os = "linux"))] {
/// use memory_model::{GuestMemory, GuestRegionMmap, MmapRegion, RegionKind};
///
/// /// A register that reads as its own offset and ignores what is written.
/// struct Register(GuestAddress);
///
/// impl Bytes<MemoryRegionAddress> for Register {
///     type E = guest_memory::Error;
///     fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize, Self::E> {
///         buf.iter_mut().zip(addr.0.to_le_bytes()).for_each(|(to, from)| *to = from);
///         Ok(buf.len())
///     }
///     fn write(&self, buf: &[u8], _: MemoryRegionAddress) -> Result<usize, Self::E> {
///         Ok(buf.len())
///     }
/// }
///
/// impl GuestMemoryRegion for Register {
///     fn len(&self) -> GuestUsize {
///         8
///     }
///     fn start_addr(&self) -> GuestAddress {
///         self.0
///     }
///     fn is_untracked(&self) -> bool {
///         true // it has no bytes that a migration copies
///     }
/// }
///
/// enum Region {
///     Ram(GuestRegionMmap),
///     Register(Register),
/// }
/// forward_region! {
///     impl for Region {
///         Self::Ram(region) => region,
///         Self::Register(region) => region,
///     }
/// }
///
/// /// A region with a name, whichever region that is.
/// struct Named<R> {
///     name: &'static str,
///     region: Box<R>,
/// }
/// forward_region! {
///     impl [R: GuestMemoryRegion] for Named<R> {
///         Self { region, .. } => &**region,
///     }
/// }
///
/// let ram = Region::Ram(GuestRegionMmap::new(MmapRegion::new(0x1000)?, GuestAddress(0))?);
/// let register = Region::Register(Register(GuestAddress(0x1000)));
/// let names = [("RAM", ram), ("register", register)];
/// let regions = names.map(|(name, region)| Named { name, region: Box::new(region) });
/// let mem = GuestRegionCollection::from_regions(regions.into())?;
/// let log = mem.start_tracking(4096)?;
/// mem.write_obj(7_u64, GuestAddress(0xffc))?; // in both
/// assert_eq!(mem.read_obj::<u64>(GuestAddress(0x1000))?, 0);
/// assert_eq!(mem.regions().map(|region| (region.name, region.kind())).collect::<Vec<_>>(), [
///     ("RAM", RegionKind::Ram),
///     ("register", RegionKind::Device),
/// ]);
/// assert_eq!(log.harvest().ranges().count(), 1);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[macro_export]
macro_rules! forward_region {
    (impl $([$($generics:tt)*])? for $T:ty { $($pattern:pat => $region:expr),+ $(,)? }) => {
        impl $(<$($generics)*>)? $crate::Bytes<$crate::MemoryRegionAddress> for $T {
            type E = $crate::guest_memory::Error;

            #[inline]
            fn write(
                &self,
                buf: &[u8],
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<usize, Self::E> {
                match self { $($pattern => $crate::Bytes::write($region, buf, addr)),+ }
            }
            #[inline]
            fn read(
                &self,
                buf: &mut [u8],
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<usize, Self::E> {
                match self { $($pattern => $crate::Bytes::read($region, buf, addr)),+ }
            }
            #[inline]
            fn write_slice(
                &self,
                buf: &[u8],
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<(), Self::E> {
                match self { $($pattern => $crate::Bytes::write_slice($region, buf, addr)),+ }
            }
            #[inline]
            fn read_slice(
                &self,
                buf: &mut [u8],
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<(), Self::E> {
                match self { $($pattern => $crate::Bytes::read_slice($region, buf, addr)),+ }
            }
            #[inline]
            fn write_obj<ForwardedT: $crate::DataInit>(
                &self,
                val: ForwardedT,
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<(), Self::E> {
                match self { $($pattern => $crate::Bytes::write_obj($region, val, addr)),+ }
            }
            #[inline]
            fn read_obj<ForwardedT: $crate::DataInit>(
                &self,
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<ForwardedT, Self::E> {
                match self { $($pattern => $crate::Bytes::read_obj($region, addr)),+ }
            }
            #[inline]
            fn fill(
                &self,
                byte: u8,
                len: usize,
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<(), Self::E> {
                match self { $($pattern => $crate::Bytes::fill($region, byte, len, addr)),+ }
            }
            #[inline]
            fn load<ForwardedT: $crate::AtomicAccess>(
                &self,
                addr: $crate::MemoryRegionAddress,
                order: ::core::sync::atomic::Ordering,
            ) -> ::core::result::Result<ForwardedT, Self::E> {
                match self { $($pattern => $crate::Bytes::load($region, addr, order)),+ }
            }
            #[inline]
            fn store<ForwardedT: $crate::AtomicAccess>(
                &self,
                val: ForwardedT,
                addr: $crate::MemoryRegionAddress,
                order: ::core::sync::atomic::Ordering,
            ) -> ::core::result::Result<(), Self::E> {
                match self { $($pattern => $crate::Bytes::store($region, val, addr, order)),+ }
            }
            #[inline]
            fn compare_exchange<ForwardedT: $crate::AtomicAccess>(
                &self,
                current: ForwardedT,
                new: ForwardedT,
                addr: $crate::MemoryRegionAddress,
                success: ::core::sync::atomic::Ordering,
                failure: ::core::sync::atomic::Ordering,
            ) -> ::core::result::Result<::core::result::Result<ForwardedT, ForwardedT>, Self::E> {
                match self {
                    $($pattern => $crate::Bytes::compare_exchange($region, current, new, addr, success, failure)),+
                }
            }
            $crate::__forward_streams! { $($pattern => $region),+ }
        }

        impl $(<$($generics)*>)? $crate::GuestMemoryRegion for $T {
            #[inline]
            fn len(&self) -> $crate::GuestUsize {
                match self { $($pattern => $crate::GuestMemoryRegion::len($region)),+ }
            }
            #[inline]
            fn start_addr(&self) -> $crate::GuestAddress {
                match self { $($pattern => $crate::GuestMemoryRegion::start_addr($region)),+ }
            }
            fn kind(&self) -> $crate::RegionKind {
                match self { $($pattern => $crate::GuestMemoryRegion::kind($region)),+ }
            }
            #[inline]
            fn tracker(&self) -> ::core::option::Option<&$crate::dirty::Tracker> {
                match self { $($pattern => $crate::GuestMemoryRegion::tracker($region)),+ }
            }
            fn is_untracked(&self) -> bool {
                match self { $($pattern => $crate::GuestMemoryRegion::is_untracked($region)),+ }
            }
            #[inline]
            fn is_empty(&self) -> bool {
                match self { $($pattern => $crate::GuestMemoryRegion::is_empty($region)),+ }
            }
            #[inline]
            fn last_addr(&self) -> $crate::GuestAddress {
                match self { $($pattern => $crate::GuestMemoryRegion::last_addr($region)),+ }
            }
            #[inline]
            fn address_in_range(&self, addr: $crate::MemoryRegionAddress) -> bool {
                match self { $($pattern => $crate::GuestMemoryRegion::address_in_range($region, addr)),+ }
            }
            #[inline]
            fn check_address(
                &self,
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::option::Option<$crate::MemoryRegionAddress> {
                match self { $($pattern => $crate::GuestMemoryRegion::check_address($region, addr)),+ }
            }
            #[inline]
            fn checked_offset(
                &self,
                base: $crate::MemoryRegionAddress,
                offset: usize,
            ) -> ::core::option::Option<$crate::MemoryRegionAddress> {
                match self { $($pattern => $crate::GuestMemoryRegion::checked_offset($region, base, offset)),+ }
            }
            #[inline]
            fn to_region_addr(
                &self,
                addr: $crate::GuestAddress,
            ) -> ::core::option::Option<$crate::MemoryRegionAddress> {
                match self { $($pattern => $crate::GuestMemoryRegion::to_region_addr($region, addr)),+ }
            }
            #[inline]
            fn get_slice(
                &self,
                offset: $crate::MemoryRegionAddress,
                count: usize,
            ) -> ::core::result::Result<$crate::GuestSlice<'_>, $crate::guest_memory::Error> {
                match self { $($pattern => $crate::GuestMemoryRegion::get_slice($region, offset, count)),+ }
            }
            #[inline]
            fn find_slice(
                &self,
                offset: $crate::MemoryRegionAddress,
                count: usize,
            ) -> ::core::option::Option<$crate::GuestSlice<'_>> {
                match self { $($pattern => $crate::GuestMemoryRegion::find_slice($region, offset, count)),+ }
            }
            #[inline]
            fn get_host_address(
                &self,
                addr: $crate::MemoryRegionAddress,
            ) -> ::core::result::Result<*mut u8, $crate::guest_memory::Error> {
                match self { $($pattern => $crate::GuestMemoryRegion::get_host_address($region, addr)),+ }
            }
            $crate::__forward_file_offset! { $($pattern => $region),+ }
        }
    };
}

/// The part of [`forward_region!`] that `Bytes` has only with this crate's feature `std`. A `cfg` in the macro would ask for a
/// feature of the crate that uses it.
#[cfg(feature = "std")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_streams {
    ($($pattern:pat => $region:expr),+) => {
        fn write_from<ForwardedS: $crate::ReadVolatile>(
            &self,
            addr: $crate::MemoryRegionAddress,
            src: &mut ForwardedS,
            count: usize,
        ) -> ::core::result::Result<usize, Self::E> {
            match self { $($pattern => $crate::Bytes::write_from($region, addr, src, count)),+ }
        }
        fn write_all_from<ForwardedS: $crate::ReadVolatile>(
            &self,
            addr: $crate::MemoryRegionAddress,
            src: &mut ForwardedS,
            count: usize,
        ) -> ::core::result::Result<(), Self::E> {
            match self { $($pattern => $crate::Bytes::write_all_from($region, addr, src, count)),+ }
        }
        fn read_into<ForwardedD: $crate::WriteVolatile>(
            &self,
            addr: $crate::MemoryRegionAddress,
            dst: &mut ForwardedD,
            count: usize,
        ) -> ::core::result::Result<usize, Self::E> {
            match self { $($pattern => $crate::Bytes::read_into($region, addr, dst, count)),+ }
        }
        fn read_all_into<ForwardedD: $crate::WriteVolatile>(
            &self,
            addr: $crate::MemoryRegionAddress,
            dst: &mut ForwardedD,
            count: usize,
        ) -> ::core::result::Result<(), Self::E> {
            match self { $($pattern => $crate::Bytes::read_all_into($region, addr, dst, count)),+ }
        }
    };
}

/// See the other.
#[cfg(not(feature = "std"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_streams {
    ($($pattern:pat => $region:expr),+) => {};
}

/// The part of [`forward_region!`] that regions have only with this crate's feature `std`.
#[cfg(feature = "std")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_file_offset {
    ($($pattern:pat => $region:expr),+) => {
        fn file_offset(&self) -> ::core::option::Option<&$crate::FileOffset> {
            match self { $($pattern => $crate::GuestMemoryRegion::file_offset($region)),+ }
        }
    };
}

/// See the other.
#[cfg(not(feature = "std"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_file_offset {
    ($($pattern:pat => $region:expr),+) => {};
}
