//! Every operation of `Bytes`, by position: whatever the addresses and the wrapper are.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

use memory_model::guest_memory::Error;
use memory_model::{Address, AtomicAccess, Be32, Bytes, DataInit, GuestMemory, GuestSlice};
use memory_model::{IoAddress, IoMemory, Le16, Le64, MemoryRegionAddress};

use crate::ground::{BASE, Guest, MADE, at, data, pattern, refused};

/// Memory that a test accesses by position.
struct View<'a, M, At> {
    name: &'a str,
    guest: &'a Guest,
    mem: &'a M,
    /// The address of a position.
    at: At,
}

impl<M, At, A: Address> View<'_, M, At>
where
    M: Bytes<A, E = Error>,
    At: Fn(usize) -> A,
{
    /// Writes and reads ROM in every way.
    fn check(&self) {
        let (start, end) = (self.guest.page, 2 * self.guest.page);
        self.guest.track();
        for position in [start, start + 1, start + 24, start + 333, end - 40] {
            self.check_runs(position);
            self.check_value::<u8>(position);
            self.check_value::<u16>(position);
            self.check_value::<u64>(position);
            self.check_value::<u128>(position);
            self.check_value::<Le64>(position);
            self.check_value::<[u8; 3]>(position);
            self.check_value::<[u8; 40]>(position);
            self.check_streams(position);
        }
        for position in [start, start + 64, end - 16] {
            self.check_atomic::<u8>(position);
            self.check_atomic::<u16>(position);
            self.check_atomic::<u32>(position);
            self.check_atomic::<u64>(position);
            self.check_atomic::<Le16>(position);
            self.check_atomic::<Be32>(position);
        }
        self.check_other_errors();
        self.guest.check_marked(0, 0, self.name);
        self.guest.check(0, &[], self.name);
    }

    fn check_runs(&self, position: usize) {
        let (name, left) = (self.name, 2 * self.guest.page - position);
        let at = || (self.at)(position);
        for len in [1, 2, 3, 4, 8, 15, 16, 32, 33, 300, left].into_iter().filter(|&len| len <= left) {
            let what = format!("{name}: {len} bytes at {position:#x}");
            let expected = (position, 0);
            assert_eq!(refused(self.mem.write(&data(len), at())), expected, "{what}: write");
            assert_eq!(refused(self.mem.write_slice(&data(len), at())), expected, "{what}: write_slice");
            assert_eq!(refused(self.mem.fill(0xab, len, at())), expected, "{what}: fill");
            let mut buf = vec![0; len];
            assert_eq!(self.mem.read(&mut buf, at()).unwrap(), len, "{what}: read");
            assert_eq!(buf, pattern(position..position + len), "{what}: read");
            buf.fill(0);
            self.mem.read_slice(&mut buf, at()).unwrap();
            assert_eq!(buf, pattern(position..position + len), "{what}: read_slice");
        }
        assert_eq!(self.mem.write(&[], at()).unwrap(), 0, "{name}: nothing is written");
        self.mem.write_slice(&[], at()).unwrap();
        self.mem.fill(1, 0, at()).unwrap();
        self.mem.write_obj([0_u8; 0], at()).unwrap();
    }

    fn check_value<T: DataInit + PartialEq + Debug>(&self, position: usize) {
        let (at, len) = (|| (self.at)(position), size_of::<T>());
        let held: T = value(&pattern(position..position + len));
        assert_eq!(refused(self.mem.write_obj(value::<T>(&data(len)), at())), (position, 0), "{}", self.name);
        assert_eq!(self.mem.read_obj::<T>(at()).unwrap(), held, "{}", self.name);
    }

    fn check_atomic<T: AtomicAccess + DataInit + PartialEq + Debug>(&self, position: usize) {
        const STORES: [Ordering; 5] = [Relaxed, Acquire, Release, AcqRel, SeqCst];
        let (at, len) = (|| (self.at)(position), size_of::<T>());
        let (held, new) = (value::<T>(&pattern(position..position + len)), value::<T>(&data(len)));
        for order in STORES {
            assert_eq!(self.mem.load::<T>(at(), order).unwrap(), held, "{}", self.name);
            assert_eq!(refused(self.mem.store(new, at(), order)), (position, 0), "{}", self.name);
            let exchanged = self.mem.compare_exchange(held, new, at(), order, Relaxed);
            assert_eq!(refused(exchanged), (position, 0), "{}", self.name);
            // Where it does not hold what is expected, it need not be written to.
            match self.mem.compare_exchange(new, held, at(), order, Relaxed) {
                Ok(exchanged) => assert_eq!(exchanged, Err(held), "{}", self.name),
                error => assert_eq!(refused(error), (position, 0), "{}", self.name),
            }
        }
    }

    fn check_streams(&self, position: usize) {
        let (at, name) = (|| (self.at)(position), self.name);
        let bytes = data(40);
        let mut source = &bytes[..];
        assert_eq!(refused(self.mem.write_from(at(), &mut source, 40)), (position, 0), "{name}");
        assert_eq!(refused(self.mem.write_all_from(at(), &mut source, 40)), (position, 0), "{name}");
        assert_eq!(self.mem.write_from(at(), &mut source, 0).unwrap(), 0, "{name}");
        self.mem.write_all_from(at(), &mut source, 0).unwrap();
        assert_eq!(source.len(), 40, "{name}: the source was read");
        let mut sink = Vec::new();
        assert_eq!(self.mem.read_into(at(), &mut sink, 20).unwrap(), 20, "{name}");
        self.mem.read_all_into((self.at)(position + 20), &mut sink, 20).unwrap();
        assert_eq!(sink, pattern(position..position + 40), "{name}");
    }

    /// What is wrong anyway is told as in RAM.
    fn check_other_errors(&self) {
        let odd = || (self.at)(self.guest.page + 1);
        let misaligned = |result: Result<(), Error>| match result {
            Err(Error::Misaligned { addr, align: 4 }) => assert_eq!(addr.0, BASE + self.guest.page as u64 + 1),
            other => panic!("{}: {other:?}", self.name),
        };
        misaligned(self.mem.store(1_u32, odd(), SeqCst));
        misaligned(self.mem.compare_exchange(1_u32, 1, odd(), SeqCst, SeqCst).map(|_| ()));
    }
}

/// The value of these bytes.
fn value<T: DataInit>(bytes: &[u8]) -> T {
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(bytes);
    value
}

#[test]
fn regions_by_offset() {
    for guest in MADE.map(Guest::new) {
        let at = |position| MemoryRegionAddress((position - guest.page) as u64);
        View { name: "by offset", guest: &guest, mem: guest.rom(), at }.check();
    }
}

#[test]
fn regions_by_address() {
    for guest in MADE.map(Guest::new) {
        View { name: "by address", guest: &guest, mem: guest.rom(), at }.check();
    }
}

#[test]
fn collections_and_pointers_to_them() {
    for guest in MADE.map(Guest::new) {
        View { name: "the collection", guest: &guest, mem: &guest.mem, at }.check();
        View { name: "a reference", guest: &guest, mem: &&guest.mem, at }.check();
        View { name: "an Arc", guest: &guest, mem: &Arc::new(guest.mem.clone()), at }.check();
    }
}

#[test]
fn memory_as_a_device_sees_it() {
    fn through<I: IoMemory>(name: &str, guest: &Guest, mem: &I) {
        View { name, guest, mem, at: |position| IoAddress(BASE + position as u64) }.check();
    }
    for guest in MADE.map(Guest::new) {
        through("the collection", &guest, &guest.mem);
        through("an Arc", &guest, &Arc::new(guest.mem.clone()));
    }
}

#[test]
fn guest_slices() {
    for guest in MADE.map(Guest::new) {
        let slice = guest.mem.get_slice(at(guest.page), guest.page).unwrap();
        View { name: "GuestSlice", guest: &guest, mem: &slice, at: |position| position - guest.page }.check();
        // A part of one, with more bytes on either side than are accessed.
        guest.track();
        let part = slice.subslice(0, guest.page).unwrap();
        assert!(part.is_read_only());
        guest.check_marked(0, 0, "a part");
        View { name: "a part", guest: &guest, mem: &part, at: |position| position - guest.page }.check();
        let slices: Vec<GuestSlice<'_>> = guest.mem.get_slices(at(0), 3 * guest.page).map(Result::unwrap).collect();
        assert_eq!(slices.iter().map(GuestSlice::is_read_only).collect::<Vec<_>>(), [false, true, false]);
        View { name: "one of several", guest: &guest, mem: &slices[1], at: |position| position - guest.page }.check();
    }
}

#[test]
fn bits_are_not_set() {
    for guest in MADE.map(Guest::new) {
        guest.track();
        let slice = guest.mem.get_slice(at(guest.page), guest.page).unwrap();
        for order in [Relaxed, AcqRel, SeqCst] {
            assert_eq!(refused(slice.fetch_or(0_u8, 3, order)), (guest.page + 3, 0));
            assert_eq!(refused(slice.fetch_or(u64::MAX, 8, order)), (guest.page + 8, 0));
        }
        assert!(matches!(slice.fetch_or(1_u32, 2, SeqCst), Err(Error::Misaligned { align: 4, .. })));
        assert!(matches!(slice.fetch_or(1_u8, guest.page, SeqCst), Err(Error::OutOfBounds { .. })));
        guest.check_marked(0, 0, "fetch_or");
        guest.check(0, &[], "fetch_or");
    }
}

#[test]
fn past_the_end_is_past_the_end() {
    for guest in MADE.map(Guest::new) {
        let end = MemoryRegionAddress(guest.page as u64);
        let (rom, last) = (guest.rom(), MemoryRegionAddress(end.0 - 2));
        assert!(
            matches!(rom.write(&[1], end), Err(Error::OutOfBounds { offset, len }) if offset == end.0 && len == end.0)
        );
        assert!(matches!(rom.write_obj(1_u32, end), Err(Error::OutOfBounds { .. })));
        assert!(matches!(rom.fill(1, 1, end), Err(Error::OutOfBounds { .. })));
        assert!(matches!(rom.store(1_u16, end, SeqCst), Err(Error::OutOfBounds { .. })));
        assert!(matches!(rom.write_from(end, &mut &data(4)[..], 4), Err(Error::OutOfBounds { .. })));
        // A byte that is there and may not be written comes before one that is not there.
        let expected = (2 * guest.page - 2, 0);
        assert_eq!(refused(rom.write(&[1; 4], last)), expected);
        assert_eq!(refused(rom.write_slice(&[1; 4], last)), expected);
        assert_eq!(refused(rom.write_obj([1_u8; 33], last)), expected);
        assert_eq!(refused(rom.fill(1, 400, last)), expected);
        assert_eq!(refused(rom.write_all_from(last, &mut &data(4)[..], 4)), expected);
        guest.check(0, &[], "past the end");
    }
}
