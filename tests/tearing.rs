//! Naturally aligned values of 2, 4 and 8 bytes are never torn, whatever wraps the memory and whichever operation accesses
//! them: threads write values whose bytes are all the same, and others read them.
//!
//! That the test would see it is shown by memory that is accessed byte by byte: there it must.
//!
//! Settings: `TEARING_SECONDS`, for all of it together (10 if unset, 2 under emulation).

#![cfg(all(feature = "mmap", unix))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memory_model::{Address, AtomicAccess, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap};
use memory_model::{IoAddress, IoMemory, MemoryRegionAddress, VolatileSlice, volatile_memory};

/// How a value is written and read.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// `write_obj` and `read_obj`.
    Object,
    /// `write_slice` and `read_slice`.
    Slice,
    /// `write` and `read`.
    Some,
    /// `store` and `load`.
    Atomic,
}

const ALL: [Form; 4] = [Form::Object, Form::Slice, Form::Some, Form::Atomic];

/// An integer whose bytes may be all the same.
trait Value: AtomicAccess {
    fn all(byte: u8) -> Self;
}

macro_rules! values {
    ($($T:ty),*) => {$(
        impl Value for $T {
            fn all(byte: u8) -> Self {
                Self::from_le_bytes([byte; size_of::<Self>()])
            }
        }
    )*};
}
values!(u16, u32, u64);

/// The bytes of a value, the last of which are not used by short ones.
type Read = [u8; 8];

fn write<A: Address, M: Bytes<A>, T: Value>(mem: &M, at: A, form: Form, byte: u8) {
    let value = T::all(byte);
    let written = match form {
        Form::Object => mem.write_obj(value, at).map(|()| size_of::<T>()),
        Form::Slice => mem.write_slice(value.as_slice(), at).map(|()| size_of::<T>()),
        Form::Some => mem.write(value.as_slice(), at),
        Form::Atomic => mem.store(value, at, Ordering::Relaxed).map(|()| size_of::<T>()),
    };
    assert_eq!(written.ok(), Some(size_of::<T>()));
}

fn read<A: Address, M: Bytes<A>, T: Value>(mem: &M, at: A, form: Form) -> Read {
    let mut bytes = [0; 8];
    let buf = &mut bytes[..size_of::<T>()];
    let read = match form {
        Form::Object => mem.read_obj::<T>(at).map(|value| buf.copy_from_slice(value.as_slice())),
        Form::Slice => mem.read_slice(buf, at),
        Form::Some => mem.read(buf, at).map(|count| assert_eq!(count, size_of::<T>())),
        Form::Atomic => mem.load::<T>(at, Ordering::Relaxed).map(|value| buf.copy_from_slice(value.as_slice())),
    };
    assert!(read.is_ok());
    bytes
}

/// How often a reader has seen another value than before.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Lets two threads write and two read for some time, or until a value is torn, which is the answer.
fn hammer<A, M, T>(mem: &M, at: A, forms: &[Form], time: Duration) -> Option<Read>
where
    A: Address + Send + Sync,
    M: Bytes<A> + Sync,
    T: Value,
{
    /// Between two looks at the clock.
    const BATCH: u8 = 250;
    write::<A, M, T>(mem, at, Form::Object, 0);
    let (begin, over) = (Instant::now(), AtomicBool::new(false));
    let goes_on = || !over.load(Ordering::Relaxed) && begin.elapsed() < time;
    let forms = |first: usize| forms.iter().copied().cycle().skip(first).take_while(|_| goes_on());
    thread::scope(|scope| {
        for first in 0..2 {
            let forms = &forms;
            scope.spawn(move || {
                for form in forms(first) {
                    (0..BATCH).for_each(|byte| write::<A, M, T>(mem, at, form, byte));
                }
            });
        }
        let readers = [2, 3].map(|first| {
            let (forms, over) = (&forms, &over);
            scope.spawn(move || {
                let (mut last, mut changes) = ([0; 8], 0);
                for form in forms(first) {
                    for _ in 0..BATCH {
                        let value = read::<A, M, T>(mem, at, form);
                        if value[..size_of::<T>()] != [value[0]; 8][..size_of::<T>()] {
                            over.store(true, Ordering::Relaxed);
                            return Some(value);
                        }
                        changes += u64::from(value != last);
                        last = value;
                    }
                }
                CHANGES.fetch_add(changes, Ordering::Relaxed);
                None
            })
        });
        let torn = readers.map(|reader| reader.join().unwrap());
        torn.into_iter().flatten().next()
    })
}

/// Values of each width at a place that is aligned for them all.
fn check<A, M>(name: &str, mem: &M, at: A, time: Duration)
where
    A: Address + Send + Sync,
    M: Bytes<A> + Sync,
{
    assert_eq!(hammer::<A, M, u16>(mem, at, &ALL, time / 3), None, "a u16 through {name}");
    assert_eq!(hammer::<A, M, u32>(mem, at, &ALL, time / 3), None, "a u32 through {name}");
    assert_eq!(hammer::<A, M, u64>(mem, at, &ALL, time / 3), None, "a u64 through {name}");
}

/// Two regions. The values lie in the second.
fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)]).unwrap()
}

const AT: u64 = 0x2108;

/// How long all of it takes.
fn time() -> Duration {
    let asked = std::env::var("TEARING_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let usual = if std::env::var_os("CROSS_RUNNER").is_some() { 2.0 } else { 10.0 };
    Duration::from_secs_f64(asked.unwrap_or(usual))
}

#[test]
fn no_aligned_value_is_torn_through_any_wrapper() {
    fn as_device<I: IoMemory + Sync>(name: &str, mem: &I, time: Duration) {
        check(name, mem, IoAddress(AT), time);
    }
    let mem = memory();
    let region: &GuestRegionMmap = mem.find_region(GuestAddress(AT)).unwrap();
    let time = time() / 9;
    let mut own = Own::default();
    check("a volatile slice", &VolatileSlice::from(&mut own.0[..]), 8, time);
    check("a guest slice", &mem.get_slice(GuestAddress(AT - 8), 16).unwrap(), 8, time);
    check("a region by offset", region, MemoryRegionAddress(AT - 0x2000), time);
    check("a region by address", region, GuestAddress(AT), time);
    check("a collection", &mem, GuestAddress(AT), time);
    check("a reference", &&mem, GuestAddress(AT), time);
    check("an Arc", &Arc::new(mem.clone()), GuestAddress(AT), time);
    as_device("a device", &mem, time);
    as_device("a device's Arc", &Arc::new(mem.clone()), time);
    assert!(CHANGES.load(Ordering::Relaxed) > 0, "nothing was written while others read");
}

/// Bytes of our own, aligned for all values: on some targets of 32 bits a `u64` is not.
#[derive(Default)]
#[repr(align(8))]
struct Own([u8; 32]);

/// Memory that is accessed byte by byte.
struct ByByte<'a>(VolatileSlice<'a>);

impl Bytes<usize> for ByByte<'_> {
    type E = volatile_memory::Error;

    fn write(&self, buf: &[u8], addr: usize) -> Result<usize, Self::E> {
        buf.iter().zip(addr..).try_for_each(|(&byte, addr)| self.0.write_obj(byte, addr))?;
        Ok(buf.len())
    }

    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Self::E> {
        buf.iter_mut().zip(addr..).try_for_each(|(byte, addr)| {
            *byte = self.0.read_obj(addr)?;
            Ok::<_, Self::E>(())
        })?;
        Ok(buf.len())
    }
}

#[test]
fn a_value_that_is_accessed_byte_by_byte_is_torn() {
    fn is_torn<T: Value>(mem: &ByByte<'_>) -> bool {
        let torn =
            |_| hammer::<usize, _, T>(mem, 8, &[Form::Object, Form::Slice, Form::Some], Duration::from_millis(100));
        (0..600).find_map(torn).is_some()
    }
    let processors = thread::available_parallelism().unwrap().get();
    if processors < 2 {
        memory_model_test_support::skip!("one processor: a value is hardly ever torn");
        return;
    }
    let mut own = Own::default();
    let mem = ByByte(VolatileSlice::from(&mut own.0[..]));
    assert!(is_torn::<u16>(&mem), "2 bytes");
    assert!(is_torn::<u32>(&mem), "4 bytes");
    assert!(is_torn::<u64>(&mem), "8 bytes");
}
