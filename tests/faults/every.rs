//! Every operation of `Bytes` on memory with an edge, by position: whatever the addresses, the errors and the wrapper are.

use std::fmt::Debug;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

use memory_model::{Address, AtomicAccess, Bytes, DataInit, Le16, Le32, Le64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::ground::{Backing, Bad, LONGEST, data, exact, offset, pattern, some};

/// Lengths on either side of each that is done in another way.
const LENGTHS: [usize; 20] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 129, 255, 257, LONGEST];

/// Memory that a test accesses by position.
pub(crate) struct View<'a, M, At, Told> {
    /// What it is, for messages.
    pub(crate) name: &'a str,
    pub(crate) backing: &'a Backing,
    pub(crate) mem: &'a M,
    /// The address of a position.
    pub(crate) at: At,
    /// The position and the count in a fault.
    pub(crate) told: Told,
}

impl<M, At, Told, A: Address> View<'_, M, At, Told>
where
    M: Bytes<A>,
    At: Fn(usize) -> A,
    Told: Fn(M::E) -> (usize, usize),
{
    /// Does everything around the edge, as a bad page of this kind allows it.
    pub(crate) fn check(&self) {
        for len in LENGTHS {
            for start in self.starts(len).step_by(1 + len / 32) {
                self.check_reads(start, len);
                self.check_writes(start, len);
            }
        }
        self.check_value::<u8>();
        self.check_value::<u16>();
        self.check_value::<i32>();
        self.check_value::<u64>();
        self.check_value::<u128>();
        self.check_value::<Descriptor>();
        self.check_value::<[u8; 3]>();
        self.check_value::<[u16; 6]>();
        self.check_value::<[u64; 3]>();
        self.check_value::<[u8; 33]>();
        self.check_value::<[u8; LONGEST]>();
        self.check_atomic::<u8>();
        self.check_atomic::<u16>();
        self.check_atomic::<u32>();
        self.check_atomic::<u64>();
        self.check_atomic::<Le16>();
        self.check_atomic::<isize>();
        self.backing.check_beyond();
    }

    /// From ending just before the edge to beginning just behind it.
    fn starts(&self, len: usize) -> impl Iterator<Item = usize> + use<M, At, Told, A> {
        self.backing.edge - len - 1..=self.backing.edge + 1
    }

    fn what(&self, does: &str, start: usize, len: usize) -> String {
        let Backing { bad, edge, .. } = *self.backing;
        format!("{}: {does}, {len} bytes at edge {:+}, {bad:?}", self.name, offset(start, edge))
    }

    fn check_reads(&self, start: usize, len: usize) {
        let (mem, good) = (self.mem, self.backing.readable(start, len));
        let expected = [pattern(start..start + good), &[0xff; LONGEST][good..]].concat();
        let mut buf = [0xff; LONGEST];
        let read = mem.read(&mut buf[..len], (self.at)(start)).map_err(&self.told);
        assert_eq!(read, some(start, good), "{}", self.what("read", start, len));
        assert!(buf == *expected, "{}", self.what("read", start, len));
        buf.fill(0xff);
        let read = mem.read_slice(&mut buf[..len], (self.at)(start)).map_err(&self.told);
        assert_eq!(read.map(|()| len), exact(start, len, good), "{}", self.what("read_slice", start, len));
        assert!(buf == *expected, "{}", self.what("read_slice", start, len));
    }

    fn check_writes(&self, start: usize, len: usize) {
        let (mem, good) = (self.mem, self.backing.good(start, len));
        let written = mem.write(data(len), (self.at)(start)).map_err(&self.told);
        assert_eq!(written, some(start, good), "{}", self.what("write", start, len));
        self.check_written("write", start, &data(len)[..good]);
        let written = mem.write_slice(data(len), (self.at)(start)).map_err(&self.told);
        assert_eq!(written.map(|()| len), exact(start, len, good), "{}", self.what("write_slice", start, len));
        self.check_written("write_slice", start, &data(len)[..good]);
        let filled = mem.fill(0xab, len, (self.at)(start)).map_err(&self.told);
        assert_eq!(filled.map(|()| len), exact(start, len, good), "{}", self.what("fill", start, len));
        self.check_written("fill", start, &[0xab; LONGEST][..good]);
    }

    /// Checks that just that was written, and undoes it.
    fn check_written(&self, does: &str, start: usize, written: &[u8]) {
        self.backing.check(self.backing.window(), start, written, &|| self.what(does, start, written.len()));
        self.backing.reset(start..start + written.len());
    }

    fn check_value<T: DataInit + FromZeros + PartialEq + Debug>(&self) {
        let len = size_of::<T>();
        for start in self.starts(len) {
            let readable = self.backing.readable(start, len);
            let read = self.mem.read_obj::<T>((self.at)(start)).map_err(&self.told);
            let expected = exact(start, len, readable).map(|len| value::<T>(pattern(start..start + len)));
            assert_eq!(read, expected, "{}", self.what("read_obj", start, len));
            let good = self.backing.good(start, len);
            let written = self.mem.write_obj(value::<T>(data(len)), (self.at)(start)).map_err(&self.told);
            assert_eq!(written.map(|()| len), exact(start, len, good), "{}", self.what("write_obj", start, len));
            self.check_written("write_obj", start, &data(len)[..good]);
        }
    }

    /// Atomics are aligned, so none reaches over the edge.
    fn check_atomic<T: AtomicAccess + FromZeros + PartialEq + Debug>(&self) {
        const ORDERS: [Ordering; 4] = [Relaxed, Acquire, Release, SeqCst];
        let len = size_of::<T>();
        let edge = self.backing.edge;
        for start in [edge - 2 * len, edge - len, edge, edge + len] {
            let at = || (self.at)(start);
            let readable = self.backing.readable(start, len) == len;
            let (held, new) = (value::<T>(pattern(start..start + len)), value::<T>(data(len)));
            let good = self.backing.good(start, len);
            for order in ORDERS {
                let loaded = self.mem.load::<T>(at(), order).map_err(&self.told);
                let expected = if readable { Ok(held) } else { Err((start, 0)) };
                assert_eq!(loaded, expected, "{}", self.what("load", start, len));
                let stored = self.mem.store(new, at(), order).map_err(&self.told);
                assert_eq!(stored.map(|()| len), exact(start, len, good), "{}", self.what("store", start, len));
                self.check_written("store", start, &data(len)[..good]);
                let exchanged = self.mem.compare_exchange(held, new, at(), order, Relaxed).map_err(&self.told);
                let expected = exact(start, len, good).map(|_| Ok(held));
                assert_eq!(exchanged, expected, "{}", self.what("compare_exchange", start, len));
                self.check_written("compare_exchange", start, &data(len)[..good]);
                // Where it does not hold what is expected, it need not be written to.
                if self.backing.bad != Bad::ReadOnly || good == len {
                    let exchanged = self.mem.compare_exchange(new, new, at(), order, Relaxed).map_err(&self.told);
                    let expected = exact(start, len, good).map(|_| Err(held));
                    assert_eq!(exchanged, expected, "{}", self.what("compare_exchange that fails", start, len));
                    self.check_written("compare_exchange that fails", start, &[]);
                }
            }
        }
    }
}

/// 16 bytes of several fields.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    addr: Le64,
    len: Le32,
    flags: Le16,
    next: Le16,
}

/// The value of these bytes.
pub(crate) fn value<T: DataInit + FromZeros>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    DataInit::as_mut_slice(&mut value).copy_from_slice(bytes);
    value
}
