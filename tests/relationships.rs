//! The contract's relations, asserted when this is compiled: which type has which trait, what a trait brings with it,
//! errors, signatures, what may be sent and shared, and what must not be. And, in [`spies`], that every wrapper forwards
//! every method, which no signature shows.
//!
//! That a `GuestAddress` is refused where an `IoAddress` is wanted is shown in the documentation of `io_memory`.
#![cfg(feature = "std")]
#![expect(clippy::type_complexity, reason = "signatures are spelled out: they are what is asserted")]

use std::any::type_name;
use std::io;
use std::ops::{Add, BitAnd, BitOr, Deref, Not, Sub};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use memory_model::dirty::Tracker;
use memory_model::guest_memory::{self, RegionError};
use memory_model::{
    Address, AddressValue, AtomicAccess, Be16, Be32, Be64, BeSize, Bytes, DataInit, FileOffset, GuestAddress,
    GuestMemory, GuestMemoryRegion, GuestRegionCollection, GuestSlice, GuestUsize, IoAddress, IoMemory, Le16, Le32,
    Le64, LeSize, MemoryRegionAddress, ReadVolatile, VolatileArrayRef, VolatileMemory, VolatileRef, VolatileSlice,
    WriteVolatile, bytes, impl_address_ops, volatile_memory,
};

/// Asserts that types have all of some traits.
macro_rules! all_have {
    ([$($Bound:tt)+] $($T:ty),+ $(,)?) => {{
        fn check<T: ?Sized + $($Bound)+>() {}
        $(check::<$T>();)+
    }};
}

/// Asserts that no type has a trait: else it would be ambiguous whose `item` is meant.
macro_rules! none_has {
    ([$($Trait:tt)+] $($T:ty),+ $(,)?) => {{
        trait Ambiguous<A> {
            fn item() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        struct IfImplemented;
        impl<T: ?Sized + $($Trait)+> Ambiguous<IfImplemented> for T {}
        $(<$T as Ambiguous<_>>::item();)+
    }};
}

/// All of the traits of an address, spelled out.
fn addresses<A, V>()
where
    A: Address<V = V> + AddressValue<V = V> + BitAnd<V, Output = A> + BitOr<V, Output = A>,
    A: Default + Copy + Eq + Ord + Send + Sync + 'static,
    V: Copy + Ord + TryFrom<usize> + Add<Output = V> + Sub<Output = V> + Not<Output = V>,
    V: BitAnd<Output = V> + BitOr<Output = V>,
{
    let _: [fn(&A, V) -> Option<A>; 3] = [A::checked_add, A::checked_sub, A::checked_align_up];
    let _: [fn(&A, V) -> (A, bool); 2] = [A::overflowing_add, A::overflowing_sub];
    let _: [fn(&A, V) -> A; 3] = [A::unchecked_add, A::unchecked_sub, A::align_down];
    let _: fn(&A, A) -> Option<V> = A::checked_offset_from;
    let _: (fn(V) -> A, fn(&A) -> V, fn(&A, V) -> V, fn(&A, A) -> V) =
        (A::new, A::raw_value, A::mask, A::unchecked_offset_from);
}

/// A trait brings what its supertraits have: no bound but the one.
fn brought_by_address<A: Address>() {
    all_have!([Default + Copy + Eq + Ord + AddressValue] A);
}

#[test]
fn addresses_are_newtypes_that_do_not_mix() {
    addresses::<GuestAddress, u64>();
    addresses::<MemoryRegionAddress, GuestUsize>();
    addresses::<IoAddress, u64>();
    addresses::<usize, usize>();
    none_has!([Add<u64>] GuestAddress, MemoryRegionAddress, IoAddress);
    none_has!([From<GuestAddress>] IoAddress, MemoryRegionAddress, u64);
    none_has!([From<IoAddress>] GuestAddress, u64);
    none_has!([PartialEq<IoAddress>] GuestAddress);
    none_has!([Bytes<GuestAddress>] GuestSlice<'static>, VolatileSlice<'static>);
    all_have!([std::fmt::Debug + std::hash::Hash] GuestAddress, MemoryRegionAddress, IoAddress);
    assert_eq!(size_of::<GuestAddress>(), size_of::<u64>());
}

macro_rules! own_address {
    ($T:ident, $V:ident) => {{
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        struct $T($V);
        impl_address_ops!($T, $V);

        addresses::<$T, $V>();
        brought_by_address::<$T>();
        let last = $T($V::MAX);
        assert_eq!(last.checked_add(0), Some(last));
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.overflowing_add(2), ($T(1), true));
        assert_eq!(last.checked_offset_from($T(1)), Some($V::MAX - 1));
        assert_eq!($T(1).checked_offset_from(last), None);
        assert_eq!($T(0).checked_sub(1), None);
        assert_eq!($T(0).overflowing_sub(1), (last, true));
        assert_eq!($T(7).unchecked_sub(5).unchecked_add(1).unchecked_offset_from($T(1)), 2);
        assert_eq!($T(0x13).align_down(8), $T(0x10));
        assert_eq!($T(0x13).checked_align_up(8), Some($T(0x18)));
        assert_eq!(last.checked_align_up(2), None);
        assert_eq!($T(0x13).checked_align_up(3), None);
        assert_eq!(($T(0x13).mask(0xf), $T(0x13) & 0xf0, $T(0x13) | 0xc), (3, $T(0x10), $T(0x1f)));
        assert_eq!(($T::new(9).raw_value(), $T::default()), (9, $T(0)));
    }};
}

#[test]
fn another_crates_addresses() {
    own_address!(Short, u16);
    own_address!(Bus, u32);
    own_address!(Wide, u64);
    own_address!(Index, usize);
}

#[test]
fn values_are_no_more_than_their_bytes() {
    /// VIRTIO 1.2, 5.2.6.
    #[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
    #[repr(C)]
    struct Header {
        kind: Le32,
        reserved: Be32,
        sector: Le64,
    }
    fn brought<T: DataInit>() {
        all_have!([Copy + Send + Sync] T);
    }
    fn brought_by_atomics<T: AtomicAccess>() {
        all_have!([DataInit] T);
    }
    brought::<Header>();
    all_have!([DataInit] u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, ());
    all_have!([DataInit] Le16, Le32, Le64, LeSize, Be16, Be32, Be64, BeSize);
    all_have!([DataInit] [u8; 0], [u8; 3], [u64; 1000], [[Le16; 3]; 7], Header, [Header; 33]);
    none_has!([DataInit] bool, char, &'static u8, *const u8, Option<u8>, String, std::cell::Cell<u8>, [bool; 1]);
    none_has!([DataInit] std::num::NonZeroU8, GuestAddress);

    brought_by_atomics::<u8>();
    all_have!([AtomicAccess] u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
    all_have!([AtomicAccess] Le16, Le32, Le64, LeSize, Be16, Be32, Be64, BeSize);
    none_has!([AtomicAccess] u128, f32, f64, (), [u8; 4], Header);

    let _: fn(&[u8]) -> Option<&Header> = Header::from_slice;
    let _: fn(&mut [u8]) -> Option<&mut Header> = Header::from_mut_slice;
    let _: fn(&Header) -> &[u8] = Header::as_slice;
    let _: fn(&mut Header) -> &mut [u8] = Header::as_mut_slice;

    macro_rules! endian {
        ($($T:ty = $Native:ty),*) => {$(
            all_have!([From<$Native> + PartialEq<$Native> + Ord + Default + std::hash::Hash] $T);
            all_have!([From<$T>] $Native);
            none_has!([PartialEq<$T>] $Native);
            none_has!([PartialOrd<$T>] $Native);
            none_has!([Deref] $T);
            assert_eq!(size_of::<$T>(), size_of::<$Native>());
        )*};
    }
    endian!(Le16 = u16, Le32 = u32, Le64 = u64, LeSize = usize, Be16 = u16, Be32 = u32, Be64 = u64, BeSize = usize);
}

/// The signatures of all of `Bytes`.
fn methods_of_bytes<A: Address, M: Bytes<A>>() {
    all_have!([From<bytes::Error>] M::E);
    let _: fn(&M, &[u8], A) -> Result<usize, M::E> = M::write;
    let _: fn(&M, &mut [u8], A) -> Result<usize, M::E> = M::read;
    let _: fn(&M, &[u8], A) -> Result<(), M::E> = M::write_slice;
    let _: fn(&M, &mut [u8], A) -> Result<(), M::E> = M::read_slice;
    let _: fn(&M, [u8; 3], A) -> Result<(), M::E> = M::write_obj;
    let _: fn(&M, A) -> Result<[u8; 3], M::E> = M::read_obj;
    let _: fn(&M, u8, usize, A) -> Result<(), M::E> = M::fill;
    let _: fn(&M, A, Ordering) -> Result<Le16, M::E> = M::load;
    let _: fn(&M, Le16, A, Ordering) -> Result<(), M::E> = M::store;
    let _: fn(&M, i64, i64, A, Ordering, Ordering) -> Result<Result<i64, i64>, M::E> = M::compare_exchange;
    let _: fn(&M, A, &mut std::fs::File, usize) -> Result<usize, M::E> = M::write_from;
    let _: fn(&M, A, &mut &'static [u8], usize) -> Result<(), M::E> = M::write_all_from;
    let _: fn(&M, A, &mut std::fs::File, usize) -> Result<usize, M::E> = M::read_into;
    let _: fn(&M, A, &mut Vec<u8>, usize) -> Result<(), M::E> = M::read_all_into;
}

/// Of `GuestMemory` alone: `Bytes` is no supertrait, and every memory has it by both kinds of address.
fn brought_by_guest_memory<M: GuestMemory>() {
    fn in_order<M: GuestMemory>(memory: &M) -> impl Iterator<Item = &M::Region> {
        memory.regions()
    }
    fn slices<M: GuestMemory>(memory: &M) -> impl Iterator<Item = Result<GuestSlice<'_>, guest_memory::Error>> {
        memory.get_slices(GuestAddress(0), 1)
    }
    all_have!([Bytes<GuestAddress, E = guest_memory::Error> + Bytes<IoAddress, E = guest_memory::Error>] M);
    io_memory_on::<M, M>();
    memory_of::<M::Region, &M>();
    memory_of::<M::Region, Arc<M>>();
    memory_of::<M::Region, Box<M>>();
    brought_by_region::<M::Region>();
    methods_of_bytes::<GuestAddress, M>();
    methods_of_bytes::<IoAddress, M>();

    let _: fn(&M) -> usize = M::num_regions;
    let _: for<'a> fn(&'a M, GuestAddress) -> Option<&'a M::Region> = M::find_region;
    let _: fn(&M) -> Option<u64> = M::generation;
    let _: fn(&M) -> Option<GuestAddress> = M::last_addr;
    let _: fn(&M) -> GuestUsize = M::total_len;
    let _: fn(&M, GuestAddress) -> bool = M::address_in_range;
    let _: fn(&M, GuestAddress) -> Option<GuestAddress> = M::check_address;
    let _: fn(&M, GuestAddress, usize) -> bool = M::check_range;
    let _: fn(&M, GuestAddress, usize) -> Option<GuestAddress> = M::checked_offset;
    let _: for<'a> fn(&'a M, GuestAddress) -> Option<(&'a M::Region, MemoryRegionAddress)> = M::to_region_addr;
    let _: for<'a> fn(&'a M, GuestAddress, usize) -> Result<GuestSlice<'a>, guest_memory::Error> = M::get_slice;
    let _: fn(&M, GuestAddress) -> Result<*mut u8, guest_memory::Error> = M::get_host_address;
    let _: fn(&M, GuestAddress, GuestAddress, usize) -> Result<(), guest_memory::Error> = M::copy;
    let _ = (in_order::<M>, slices::<M>);
}

fn memory_of<R: GuestMemoryRegion, M: GuestMemory<Region = R>>() {}

fn io_memory_on<P: GuestMemory, I: IoMemory<Physical = P>>() {}

fn brought_by_region<R: GuestMemoryRegion>() {
    all_have!([Bytes<MemoryRegionAddress, E = guest_memory::Error>] R);
    methods_of_bytes::<MemoryRegionAddress, R>();
    let _: fn(&R) -> GuestUsize = R::len;
    let _: [fn(&R) -> GuestAddress; 2] = [R::start_addr, R::last_addr];
    let _: fn(&R, MemoryRegionAddress) -> bool = R::address_in_range;
    let _: fn(&R, MemoryRegionAddress) -> Option<MemoryRegionAddress> = R::check_address;
    let _: fn(&R, MemoryRegionAddress, usize) -> Option<MemoryRegionAddress> = R::checked_offset;
    let _: fn(&R, GuestAddress) -> Option<MemoryRegionAddress> = R::to_region_addr;
    let _: for<'a> fn(&'a R, MemoryRegionAddress, usize) -> Result<GuestSlice<'a>, guest_memory::Error> = R::get_slice;
    let _: fn(&R, MemoryRegionAddress) -> Result<*mut u8, guest_memory::Error> = R::get_host_address;
    let _: for<'a> fn(&'a R) -> Option<&'a FileOffset> = R::file_offset;
}

/// A device knows this bound alone.
fn brought_by_io_memory<I: IoMemory>() {
    all_have!([Bytes<IoAddress, E = guest_memory::Error>] I);
    brought_by_guest_memory::<I::Physical>();
    let _: for<'a> fn(&'a I) -> &'a I::Physical = I::physical;
    let _: fn(&I) -> Option<u64> = I::io_generation;
}

#[test]
fn slices_of_memory() {
    methods_of_bytes::<usize, VolatileSlice<'_>>();
    methods_of_bytes::<usize, GuestSlice<'_>>();
    all_have!([Bytes<usize, E = volatile_memory::Error> + VolatileMemory] VolatileSlice<'static>);
    all_have!([Bytes<usize, E = guest_memory::Error>] GuestSlice<'static>);
    all_have!([VolatileMemory] &VolatileSlice<'static>, VolatileRef<'static, u32>);
    all_have!([Copy + Send + Sync] VolatileSlice<'static>, GuestSlice<'static>);
    all_have!([Copy + Send + Sync] VolatileRef<'static, u32>, VolatileArrayRef<'static, u32>);
    all_have!([From<&'static mut [u8]> + Default] VolatileSlice<'static>);

    // Bytes that were written through a volatile slice would not be marked.
    none_has!([Deref] GuestSlice<'static>);
    none_has!([VolatileMemory] GuestSlice<'static>);
    none_has!([AsRef<VolatileSlice<'static>>] GuestSlice<'static>);
    none_has!([std::borrow::Borrow<VolatileSlice<'static>>] GuestSlice<'static>);
    none_has!([Into<VolatileSlice<'static>>] GuestSlice<'static>);
    none_has!([AsRef<[u8]>] GuestSlice<'static>, VolatileSlice<'static>);
    none_has!([Deref] VolatileSlice<'static>);

    methods_of_slices(&());
}

/// The results of narrower slices live as long as the memory, not as the slice.
fn methods_of_slices<'a>(_memory: &'a ()) {
    type Of<T> = Result<T, volatile_memory::Error>;
    type Slice<'a> = VolatileSlice<'a>;
    fn provided<M: VolatileMemory>() {
        let _: (fn(&M) -> usize, fn(&M) -> bool) = (M::len, M::is_empty);
        let _: for<'m> fn(&'m M) -> Slice<'m> = M::as_volatile_slice;
        let _: for<'m> fn(&'m M, usize, usize) -> Of<Slice<'m>> = M::get_slice;
        let _: for<'m> fn(&'m M, usize) -> Of<VolatileRef<'m, u32>> = M::get_ref;
        let _: for<'m> fn(&'m M, usize, usize) -> Of<VolatileArrayRef<'m, u32>> = M::get_array_ref;
    }
    let _: unsafe fn(*mut u8, usize) -> Slice<'a> = Slice::new;
    let _: fn(Slice<'a>, Option<&'a Tracker>, GuestAddress) -> GuestSlice<'a> = GuestSlice::new;
    let _: fn(&Slice<'a>, usize, usize) -> Of<Slice<'a>> = Slice::subslice;
    let _: fn(&Slice<'a>, usize) -> Of<Slice<'a>> = Slice::offset;
    let _: fn(&Slice<'a>, usize) -> Of<(Slice<'a>, Slice<'a>)> = Slice::split_at;
    let _: fn(&Slice<'a>, &mut [u32]) -> Of<usize> = Slice::copy_to;
    let _: fn(&Slice<'a>, &[u32]) -> Of<usize> = Slice::copy_from;
    let _: fn(&Slice<'a>, Slice<'_>) -> Of<usize> = Slice::copy_to_volatile_slice;
    let _: fn(&GuestSlice<'a>, usize, usize) -> Result<GuestSlice<'a>, guest_memory::Error> = GuestSlice::subslice;
    provided::<Slice<'a>>();
}

#[cfg(unix)]
#[test]
fn a_volatile_slice_is_an_iovec() {
    let mut buffer = [0_u8; 24];
    let slice = VolatileSlice::from(&mut buffer[..]);
    assert_eq!(size_of::<VolatileSlice<'_>>(), size_of::<libc::iovec>());
    assert_eq!(align_of::<VolatileSlice<'_>>(), align_of::<libc::iovec>());
    #[expect(unsafe_code, reason = "looks at the slice as a system call does")]
    // SAFETY: as large (else this does not compile), and any pointer and any length are an `iovec`.
    let iovec = unsafe { std::mem::transmute::<VolatileSlice<'_>, libc::iovec>(slice) };
    assert_eq!((iovec.iov_base.cast(), iovec.iov_len), (slice.as_ptr(), 24));
}

#[test]
fn streams() {
    fn methods<S: ReadVolatile + WriteVolatile + ?Sized>() {
        let _: [fn(&mut S, &VolatileSlice<'_>) -> io::Result<usize>; 2] = [S::read_volatile, S::write_volatile];
        let _: [fn(&mut S, &VolatileSlice<'_>) -> io::Result<()>; 2] = [S::read_exact_volatile, S::write_all_volatile];
    }
    #[cfg(unix)]
    {
        use std::fs::File;
        use std::net::TcpStream;
        use std::os::fd::{BorrowedFd, OwnedFd};
        use std::os::unix::net::UnixStream;
        use std::process::{ChildStderr, ChildStdin, ChildStdout};
        all_have!([ReadVolatile + WriteVolatile] File, &File, OwnedFd, BorrowedFd<'static>);
        all_have!([ReadVolatile + WriteVolatile] UnixStream, &UnixStream, TcpStream, &TcpStream);
        all_have!([ReadVolatile] ChildStdout, ChildStderr);
        all_have!([WriteVolatile] ChildStdin, io::Stdout, io::StdoutLock<'static>);
        none_has!([WriteVolatile] ChildStdout, ChildStderr);
        none_has!([ReadVolatile] ChildStdin, io::Stdout);
    }
    all_have!([ReadVolatile] & [u8], io::Cursor<Vec<u8>>, io::Cursor<&'static [u8]>, io::Cursor<[u8; 4]>);
    all_have!([WriteVolatile] &mut [u8], Vec<u8>, io::Cursor<Vec<u8>>, io::Cursor<&'static mut [u8]>);
    none_has!([WriteVolatile] & [u8], io::Cursor<&'static [u8]>);
    all_have!([ReadVolatile] &mut &[u8], &mut dyn ReadVolatile, dyn ReadVolatile);
    all_have!([WriteVolatile] &mut Vec<u8>, &mut dyn WriteVolatile, dyn WriteVolatile);
    methods::<io::Cursor<Vec<u8>>>();
}

#[test]
fn errors() {
    all_have!([std::error::Error + Send + Sync + 'static] bytes::Error, volatile_memory::Error, guest_memory::Error);
    all_have!([std::error::Error + Send + Sync + Copy + Eq + 'static] RegionError);
    all_have!([From<bytes::Error>] volatile_memory::Error, guest_memory::Error);
    all_have!([From<volatile_memory::Error>] io::Error);
}

#[cfg(all(feature = "mmap", unix))]
mod mapped {
    use std::fs::File;

    use memory_model::mmap::{self, MmapRegionBuilder};
    use memory_model::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};

    use super::*;

    #[test]
    fn the_default_backend() {
        all_have!([GuestMemoryRegion + Bytes<MemoryRegionAddress, E = guest_memory::Error>] GuestRegionMmap);
        all_have!([Bytes<GuestAddress, E = guest_memory::Error>] GuestRegionMmap, GuestMemoryMmap);
        all_have!([GuestMemory<Region = GuestRegionMmap>] GuestMemoryMmap, &'static GuestMemoryMmap);
        all_have!([GuestMemory<Region = GuestRegionMmap>] Arc<GuestMemoryMmap>, Box<GuestMemoryMmap>);
        all_have!([IoMemory<Physical = GuestMemoryMmap>] GuestMemoryMmap);
        all_have!([VolatileMemory] MmapRegion, &'static MmapRegion);
        all_have!([Send + Sync + 'static] MmapRegion, GuestRegionMmap, GuestMemoryMmap, FileOffset, mmap::Error);
        all_have!([Clone + Default + std::fmt::Debug] GuestMemoryMmap);
        all_have!([std::error::Error + From<RegionError>] mmap::Error);
        brought_by_guest_memory::<GuestMemoryMmap>();
        brought_by_io_memory::<GuestMemoryMmap>();
        methods_of_bytes::<GuestAddress, GuestRegionMmap>();

        // Memory is not its mapping: what is written there would not be marked.
        none_has!([VolatileMemory] GuestRegionMmap, GuestMemoryMmap);
        none_has!([AsRef<MmapRegion>] GuestRegionMmap);
        none_has!([Deref] GuestRegionMmap, GuestMemoryMmap, MmapRegion);
        none_has!([Clone] MmapRegion, GuestRegionMmap);
        none_has!([GuestMemory] GuestRegionMmap, MmapRegion);
        none_has!([Bytes<IoAddress>] GuestRegionMmap);
    }

    type Made<T> = Result<T, mmap::Error>;

    #[test]
    fn how_it_is_made() {
        fn same<T>(_: fn() -> T, _: fn() -> T) {}
        same(|| -> GuestMemoryMmap { unreachable!() }, || -> GuestRegionCollection<GuestRegionMmap> { unreachable!() });
        let _: fn(&[(GuestAddress, usize)]) -> Made<GuestMemoryMmap> = GuestMemoryMmap::from_ranges;
        let _: fn(&[(GuestAddress, usize, Option<FileOffset>)]) -> Made<GuestMemoryMmap> =
            GuestMemoryMmap::from_ranges_with_files;
        let _: fn(usize) -> Made<MmapRegion> = MmapRegion::new;
        let _: fn(FileOffset, usize) -> Made<MmapRegion> = MmapRegion::from_file;
        let _: fn(usize) -> MmapRegionBuilder = MmapRegion::builder;
        let _: fn(MmapRegionBuilder) -> Made<MmapRegion> = MmapRegionBuilder::build;
        let _: fn(MmapRegion, GuestAddress) -> Result<GuestRegionMmap, RegionError> = GuestRegionMmap::new;
        let _: fn(File, u64) -> FileOffset = FileOffset::new;
        let _: for<'a> fn(&'a GuestMemoryMmap, GuestAddress) -> Option<&'a GuestRegionMmap> = GuestMemory::find_region;
    }

    #[test]
    fn both_patterns_of_use() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)]);
        let (mem, addr) = (mem.unwrap(), GuestAddress(0x1ffe));
        mem.write_slice(b"crosses", addr).unwrap();
        let alone = mem.find_region(addr).unwrap().write_slice(b"CROSSES", addr);
        let Err(guest_memory::Error::PartialBuffer { expected: 7, completed: 2 }) = alone else {
            panic!("a region ends where it ends: {alone:?}")
        };
        assert_eq!(mem.read_obj::<[u8; 7]>(addr).unwrap(), *b"CRosses");
        assert_eq!(mem.read_obj::<[u8; 7]>(IoAddress(addr.0)).unwrap(), *b"CRosses");
    }
}

/// Regions and memories that note which of their methods are called.
mod spies {
    use super::*;

    /// A method's name, and what it was called with.
    type Call = (&'static str, String);

    #[derive(Default)]
    struct Log(Mutex<Vec<Call>>);

    impl Log {
        fn note(&self, method: &'static str, with: impl std::fmt::Debug) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((method, format!("{with:?}")));
        }

        fn take(&self) -> Vec<Call> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    /// A region of 0x100 bytes at 0x1000 with methods of its own, all of them. Its answers are its own, too: none that
    /// a provided method would give.
    #[derive(Default)]
    struct Region {
        log: Log,
        fails: bool,
    }

    impl Region {
        fn answer<T>(&self, value: T) -> Result<T, guest_memory::Error> {
            if self.fails {
                Err(guest_memory::Error::Misaligned { addr: GuestAddress(0xbad), align: 3 })
            } else {
                Ok(value)
            }
        }
    }

    type Answer<T> = Result<T, guest_memory::Error>;
    type At = MemoryRegionAddress;

    impl Bytes<At> for Region {
        type E = guest_memory::Error;

        fn write(&self, buf: &[u8], addr: At) -> Answer<usize> {
            self.log.note("write", (buf, addr));
            self.answer(3)
        }
        fn read(&self, buf: &mut [u8], addr: At) -> Answer<usize> {
            self.log.note("read", (buf.len(), addr));
            self.answer(3)
        }
        fn write_slice(&self, buf: &[u8], addr: At) -> Answer<()> {
            self.log.note("write_slice", (buf, addr));
            self.answer(())
        }
        fn read_slice(&self, buf: &mut [u8], addr: At) -> Answer<()> {
            self.log.note("read_slice", (buf.len(), addr));
            buf.fill(7);
            self.answer(())
        }
        fn write_obj<T: DataInit>(&self, val: T, addr: At) -> Answer<()> {
            self.log.note("write_obj", (type_name::<T>(), val.as_slice(), addr));
            self.answer(())
        }
        fn read_obj<T: DataInit>(&self, addr: At) -> Answer<T> {
            self.log.note("read_obj", (type_name::<T>(), addr));
            self.answer(sevens())
        }
        fn fill(&self, byte: u8, len: usize, addr: At) -> Answer<()> {
            self.log.note("fill", (byte, len, addr));
            self.answer(())
        }
        fn load<T: AtomicAccess>(&self, addr: At, order: Ordering) -> Answer<T> {
            self.log.note("load", (type_name::<T>(), addr, order));
            self.answer(sevens())
        }
        fn store<T: AtomicAccess>(&self, val: T, addr: At, order: Ordering) -> Answer<()> {
            self.log.note("store", (type_name::<T>(), val.as_slice(), addr, order));
            self.answer(())
        }
        fn compare_exchange<T: AtomicAccess>(
            &self,
            current: T,
            new: T,
            addr: At,
            success: Ordering,
            failure: Ordering,
        ) -> Answer<Result<T, T>> {
            let with = (type_name::<T>(), current.as_slice(), new.as_slice(), addr, success, failure);
            self.log.note("compare_exchange", with);
            self.answer(Err(sevens()))
        }
        fn write_from<S: ReadVolatile>(&self, addr: At, _src: &mut S, count: usize) -> Answer<usize> {
            self.log.note("write_from", (addr, count));
            self.answer(3)
        }
        fn write_all_from<S: ReadVolatile>(&self, addr: At, _src: &mut S, count: usize) -> Answer<()> {
            self.log.note("write_all_from", (addr, count));
            self.answer(())
        }
        fn read_into<D: WriteVolatile>(&self, addr: At, _dst: &mut D, count: usize) -> Answer<usize> {
            self.log.note("read_into", (addr, count));
            self.answer(3)
        }
        fn read_all_into<D: WriteVolatile>(&self, addr: At, _dst: &mut D, count: usize) -> Answer<()> {
            self.log.note("read_all_into", (addr, count));
            self.answer(())
        }
    }

    fn sevens<T: DataInit>() -> T {
        let mut value = T::zeroed();
        value.as_mut_slice().fill(7);
        value
    }

    impl GuestMemoryRegion for Region {
        fn len(&self) -> GuestUsize {
            0x100
        }
        fn start_addr(&self) -> GuestAddress {
            GuestAddress(0x1000)
        }
        fn get_slice(&self, offset: At, count: usize) -> Answer<GuestSlice<'_>> {
            self.log.note("get_slice", (offset, count));
            Err(guest_memory::Error::NoHostMemory(GuestAddress(0x5e1f)))
        }
        fn get_host_address(&self, addr: At) -> Answer<*mut u8> {
            self.log.note("get_host_address", addr);
            Err(guest_memory::Error::NoHostMemory(GuestAddress(0x5e1f)))
        }
    }

    /// Calls each method of `Bytes` once, at offset 0x20 of the region, and answers what came of it.
    fn call_all<A: Address, M: Bytes<A, E = guest_memory::Error>>(memory: &M, addr: A) -> Vec<String> {
        const OTHER: Ordering = Ordering::Relaxed;
        const ORDER: Ordering = Ordering::Acquire;
        let (mut buf, mut sink, mut source) = ([0; 5], Vec::new(), &[1_u8, 2, 3, 4, 5, 6][..]);
        vec![
            format!("{:?}", memory.write(&[1, 2, 3, 4], addr)),
            format!("{:?}", memory.read(&mut [0; 4], addr)),
            format!("{:?}", memory.write_slice(&[1, 2, 3, 4, 5], addr)),
            format!("{:?}, {buf:?}", memory.read_slice(&mut buf, addr)),
            format!("{:?}", memory.write_obj([1_u8, 2, 3], addr)),
            format!("{:?}", memory.read_obj::<[u8; 3]>(addr)),
            format!("{:?}", memory.write_obj(Le16::from(0x201), addr)),
            format!("{:?}", memory.read_obj::<u64>(addr)),
            format!("{:?}", memory.fill(9, 6, addr)),
            format!("{:?}", memory.load::<Be32>(addr, ORDER)),
            format!("{:?}", memory.store(Le64::from(1), addr, ORDER)),
            format!("{:?}", memory.compare_exchange(1_u8, 2, addr, ORDER, OTHER)),
            format!("{:?}", memory.write_from(addr, &mut source, 4)),
            format!("{:?}", memory.write_all_from(addr, &mut source, 5)),
            format!("{:?}", memory.read_into(addr, &mut sink, 4)),
            format!("{:?}", memory.read_all_into(addr, &mut sink, 5)),
        ]
    }

    /// Asserts that calls on `memory` are the same calls on its only region, and have the same answers.
    fn compare<A: Address, M: Bytes<A, E = guest_memory::Error>>(memory: &M, region: &Region, addr: A) {
        let answers = call_all(region, MemoryRegionAddress(0x20));
        let calls = region.log.take();
        assert_eq!(calls.len(), answers.len(), "the region itself is called once for each");
        assert_eq!(call_all(memory, addr), answers, "{}", type_name::<M>());
        assert_eq!(region.log.take(), calls, "{}", type_name::<M>());
    }

    fn only_region<M: GuestMemory<Region = Region>>(memory: &M) -> &Region {
        memory.regions().next().expect("there is one")
    }

    /// By the bound that a device writes.
    fn compare_device<I: IoMemory<Physical: GuestMemory<Region = Region>>>(memory: &I) {
        compare(memory, only_region(memory.physical()), IoAddress(0x1020));
    }

    fn compare_memory<M: GuestMemory<Region = Region>>(memory: &M) {
        let region = only_region(memory);
        compare(memory, region, GuestAddress(0x1020));
        compare(memory, region, IoAddress(0x1020));
        compare_device(memory);
        assert!(memory.get_slice(GuestAddress(0x1020), 4).is_err());
        assert!(memory.get_slices(GuestAddress(0x1021), 5).next().is_some_and(|slice| slice.is_err()));
        assert!(memory.get_host_address(GuestAddress(0x1022)).is_err());
        let at = |offset| MemoryRegionAddress(offset);
        let calls = [("get_slice", format!("{:?}", (at(0x20), 4))), ("get_slice", format!("{:?}", (at(0x21), 5)))];
        let calls = calls.into_iter().chain([("get_host_address", format!("{:?}", at(0x22)))]);
        let mut called = region.log.take();
        // By `find_slice`, which fails, and again for the error.
        called.dedup();
        assert!(called.into_iter().eq(calls), "{}", type_name::<M>());
    }

    #[test]
    fn every_wrapper_forwards_every_method_to_the_region() {
        for fails in [false, true] {
            let region = Region { log: Log::default(), fails };
            let memory = GuestRegionCollection::from_regions(vec![region]).unwrap();
            compare_memory(&memory);
            compare_memory(&&memory);
            compare_memory(&&&memory);
            compare_memory(&Arc::new(memory.clone()));
            compare_memory(&Box::new(memory.clone()));
            compare_memory(&Arc::new(Box::new(&memory)));
            compare_memory(&Alone::new(fails));
            compare_memory(&Arc::new(Alone::new(fails)));
        }
    }

    /// A region of two kinds, of which one is in a box.
    enum Either {
        First(Region),
        Second(Box<Region>),
    }
    memory_model::forward_region! {
        impl for Either {
            Self::First(region) => region,
            Self::Second(region) => &**region,
        }
    }

    /// Parameters of a type do not collide with those of the methods, also if they have the shortest names.
    struct Wrapper<T, S, D>(T, std::marker::PhantomData<(S, D)>);

    memory_model::forward_region! {
        impl [T: GuestMemoryRegion, S, D] for Wrapper<T, S, D> { Self(region, _) => region }
    }

    #[test]
    fn forward_region_takes_parameters_of_any_name() {
        let wrapper = Wrapper(Region { log: Log::default(), fails: false }, std::marker::PhantomData::<(u8, u16)>);
        compare(&wrapper, &wrapper.0, MemoryRegionAddress(0x20));
    }

    #[test]
    fn forward_region_forwards_every_access() {
        let region = |fails| Region { log: Log::default(), fails };
        for fails in [false, true] {
            for either in [Either::First(region(fails)), Either::Second(Box::new(region(fails)))] {
                let inside = match &either {
                    Either::First(region) => region,
                    Either::Second(region) => region,
                };
                compare(&either, inside, MemoryRegionAddress(0x20));
                assert_eq!((either.len(), either.start_addr()), (0x100, GuestAddress(0x1000)));
                assert!(either.get_slice(MemoryRegionAddress(1), 2).is_err());
                assert!(either.get_host_address(MemoryRegionAddress(3)).is_err());
                let calls: Vec<_> = inside.log.take().into_iter().map(|(method, _)| method).collect();
                assert_eq!(calls, ["get_slice", "get_host_address"]);
            }
        }
    }

    /// A memory of one region that notes which of its own methods are called.
    struct Alone {
        region: Region,
        log: Log,
    }

    impl Alone {
        fn new(fails: bool) -> Self {
            Self { region: Region { log: Log::default(), fails }, log: Log::default() }
        }
    }

    impl GuestMemory for Alone {
        type Region = Region;

        fn num_regions(&self) -> usize {
            self.log.note("num_regions", ());
            1
        }
        fn find_region(&self, addr: GuestAddress) -> Option<&Region> {
            self.log.note("find_region", addr);
            self.region.to_region_addr(addr).map(|_| &self.region)
        }
        fn regions(&self) -> impl Iterator<Item = &Region> {
            self.log.note("regions", ());
            [&self.region].into_iter()
        }
        fn generation(&self) -> Option<u64> {
            self.log.note("generation", ());
            Some(5)
        }
        fn last_addr(&self) -> Option<GuestAddress> {
            self.log.note("last_addr", ());
            Some(GuestAddress(1))
        }
        fn total_len(&self) -> GuestUsize {
            self.log.note("total_len", ());
            2
        }
        fn address_in_range(&self, addr: GuestAddress) -> bool {
            self.log.note("address_in_range", addr);
            true
        }
        fn check_address(&self, addr: GuestAddress) -> Option<GuestAddress> {
            self.log.note("check_address", addr);
            Some(GuestAddress(3))
        }
        fn check_range(&self, addr: GuestAddress, len: usize) -> bool {
            self.log.note("check_range", (addr, len));
            true
        }
        fn checked_offset(&self, base: GuestAddress, offset: usize) -> Option<GuestAddress> {
            self.log.note("checked_offset", (base, offset));
            Some(GuestAddress(4))
        }
        fn to_region_addr(&self, addr: GuestAddress) -> Option<(&Region, MemoryRegionAddress)> {
            self.log.note("to_region_addr", addr);
            Some((&self.region, self.region.to_region_addr(addr)?))
        }
        fn get_slice(&self, addr: GuestAddress, count: usize) -> Answer<GuestSlice<'_>> {
            self.log.note("get_slice", (addr, count));
            let (region, offset) = self.to_region_addr(addr).ok_or(guest_memory::Error::InvalidGuestAddress(addr))?;
            region.get_slice(offset, count)
        }
        fn get_host_address(&self, addr: GuestAddress) -> Answer<*mut u8> {
            self.log.note("get_host_address", addr);
            let (region, offset) = self.to_region_addr(addr).ok_or(guest_memory::Error::InvalidGuestAddress(addr))?;
            region.get_host_address(offset)
        }
        fn copy(&self, src: GuestAddress, dst: GuestAddress, len: usize) -> Answer<()> {
            self.log.note("copy", (src, dst, len));
            Err(guest_memory::Error::Unsupported)
        }
    }

    /// Calls each method of `GuestMemory` once, and answers what came of it. (All but `get_slices`, whose type names
    /// the memory it is called on; it asks `to_region_addr`.)
    fn ask_all<M: GuestMemory<Region = Region>>(memory: &M) -> Vec<String> {
        let addr = GuestAddress(0x1010);
        vec![
            format!("{:?}", memory.num_regions()),
            format!("{:?}", memory.find_region(addr).map(|region| &raw const *region)),
            format!("{:?}", memory.regions().map(|region| &raw const *region).collect::<Vec<_>>()),
            format!("{:?}", memory.generation()),
            format!("{:?}", memory.io_generation()),
            format!("{:?}", memory.last_addr()),
            format!("{:?}", memory.total_len()),
            format!("{:?}", memory.address_in_range(addr)),
            format!("{:?}", memory.check_address(addr)),
            format!("{:?}", memory.check_range(addr, 5)),
            format!("{:?}", memory.checked_offset(addr, 6)),
            format!("{:?}", memory.to_region_addr(addr).map(|(region, offset)| (&raw const *region, offset))),
            format!("{:?}", memory.get_slice(addr, 7)),
            format!("{:?}", memory.get_host_address(addr)),
            format!("{:?}", memory.copy(addr, GuestAddress(8), 9)),
        ]
    }

    #[test]
    fn every_pointer_forwards_every_method_to_the_memory() {
        fn compare<M: GuestMemory<Region = Region>>(pointer: &M, memory: &Alone) {
            let answers = ask_all(memory);
            let calls = memory.log.take();
            assert_eq!(ask_all(pointer), answers, "{}", type_name::<M>());
            assert_eq!(memory.log.take(), calls, "{}", type_name::<M>());
            assert!(pointer.get_slices(GuestAddress(0x1010), 1).next().is_some_and(|slice| slice.is_err()));
            assert_eq!(memory.log.take(), [("to_region_addr", format!("{:?}", GuestAddress(0x1010)))]);
        }
        let (memory, boxed) = (Arc::new(Alone::new(false)), Box::new(Alone::new(false)));
        compare(&&*memory, &memory);
        compare(&memory, &memory);
        compare(&&memory, &memory);
        compare(&boxed, &boxed);
        compare(&Arc::new(&boxed), &boxed);
    }

    #[test]
    fn a_borrowed_stream_forwards_both_methods() {
        #[derive(Default)]
        struct Stream(Log);
        impl ReadVolatile for Stream {
            fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                self.0.note("read_volatile", buf.len());
                Ok(1)
            }
            fn read_exact_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
                self.0.note("read_exact_volatile", buf.len());
                Ok(())
            }
        }
        impl WriteVolatile for Stream {
            fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                self.0.note("write_volatile", buf.len());
                Ok(1)
            }
            fn write_all_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<()> {
                self.0.note("write_all_volatile", buf.len());
                Ok(())
            }
        }
        fn use_all<S: ReadVolatile + WriteVolatile>(mut stream: S, buf: &VolatileSlice<'_>) {
            assert_eq!(stream.read_volatile(buf).unwrap(), 1);
            stream.read_exact_volatile(buf).unwrap();
            assert_eq!(stream.write_volatile(buf).unwrap(), 1);
            stream.write_all_volatile(buf).unwrap();
        }
        let (mut stream, mut buffer) = (Stream::default(), [0; 4]);
        use_all(&mut stream, &VolatileSlice::from(&mut buffer[..]));
        let called = ["read_volatile", "read_exact_volatile", "write_volatile", "write_all_volatile"];
        assert_eq!(stream.0.take(), called.map(|method| (method, "4".to_owned())));
    }

    /// A type of the user's own may have `Bytes` by any kind of address, and an IOMMU be an `IoMemory`: the library's
    /// own implementations, for every `GuestMemory`, do not stand in the way.
    #[test]
    fn an_io_memory_of_ones_own() {
        use memory_model::io_memory::{Access, Fragment};

        struct Iommu(GuestRegionCollection<Region>);
        impl Bytes<IoAddress> for Iommu {
            type E = guest_memory::Error;
            fn write(&self, buf: &[u8], addr: IoAddress) -> Answer<usize> {
                self.0.write(buf, GuestAddress(addr.0 + 0x1000))
            }
            fn read(&self, buf: &mut [u8], addr: IoAddress) -> Answer<usize> {
                self.0.read(buf, GuestAddress(addr.0 + 0x1000))
            }
        }
        impl IoMemory for Iommu {
            type Physical = GuestRegionCollection<Region>;
            fn physical(&self) -> &Self::Physical {
                &self.0
            }
            fn translate(&self, addr: IoAddress, len: usize, _: Access) -> impl Iterator<Item = Answer<Fragment>> {
                [Ok(Fragment { addr: GuestAddress(addr.0 + 0x1000), len })].into_iter()
            }
        }
        impl Bytes<GuestAddress> for Iommu {
            type E = bytes::Error;
            fn write(&self, _: &[u8], _: GuestAddress) -> Result<usize, bytes::Error> {
                Err(bytes::Error::Unsupported)
            }
            fn read(&self, _: &mut [u8], _: GuestAddress) -> Result<usize, bytes::Error> {
                Err(bytes::Error::Unsupported)
            }
        }
        brought_by_io_memory::<Iommu>();
        none_has!([IoMemory] &'static Iommu, Arc<Iommu>, Box<Iommu>);
        let memory = Iommu(GuestRegionCollection::from_regions(vec![Region::default()]).unwrap());
        assert!(memory.io_slices(IoAddress(0x20), 4, Access::Read).next().is_some_and(|slice| slice.is_err()));
        let calls = only_region(&memory.0).log.take();
        let call = ("get_slice", format!("{:?}", (MemoryRegionAddress(0x20), 4)));
        assert_eq!(calls, [call.clone(), call]);
    }
}
