//! Every length and alignment of every operation, against the same on a plain array.

use core::ops::BitOr;
use std::vec;
use std::vec::Vec;

use super::*;

/// The bytes of an array in which all lengths have room, and what surrounds them.
const SIZE: usize = 2 * 5000 + 256;

/// Bytes of shared memory, aligned for every unit.
#[repr(align(64))]
struct Shared([u8; SIZE]);

/// Bytes of which each differs from its neighbours.
fn pattern(seed: usize) -> Vec<u8> {
    (0..SIZE).map(|i| u8::try_from((i * 7 + seed * 13 + 1) % 251).unwrap()).collect()
}

/// All lengths up to some hundred, and a few around which there is something to be got wrong.
fn lengths() -> impl Iterator<Item = usize> {
    let long = [511, 512, 513, 1000, 1023, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 5000];
    (0..=300).chain(long).step_by(if cfg!(miri) { 13 } else { 1 })
}

/// The distances from alignment that make a difference to some engine.
const SHIFTS: core::ops::Range<usize> = 0..17;

#[test]
fn copies_move_just_their_bytes_at_every_alignment() {
    let (theirs, ours) = (pattern(1), pattern(2));
    let mut shared = Shared([0; SIZE]);
    let mut own = vec![0; SIZE];
    for len in lengths() {
        for (guest_at, own_at) in SHIFTS.flat_map(|g| [0, 1, 6, 8, 15].map(|o| (g, o))) {
            let all = ..len + 32;
            shared.0[all].copy_from_slice(&theirs[all]);
            own[all].copy_from_slice(&ours[all]);
            let base = shared.0.as_mut_ptr();
            // SAFETY: inside both arrays.
            unsafe { copy_out(base.wrapping_add(guest_at), own.as_mut_ptr().wrapping_add(own_at), len) }.unwrap();
            let what = || std::format!("out of {guest_at} to {own_at}, {len} bytes");
            assert_written(&own[all], &ours, own_at, &theirs[guest_at..][..len], what);
            assert!(shared.0[all] == theirs[all]);

            own[all].copy_from_slice(&ours[all]);
            let base = shared.0.as_mut_ptr();
            // SAFETY: inside both arrays.
            unsafe { copy_in(base.wrapping_add(guest_at), own.as_ptr().wrapping_add(own_at), len) }.unwrap();
            let what = || std::format!("into {guest_at} from {own_at}, {len} bytes");
            assert_written(&shared.0[all], &theirs, guest_at, &ours[own_at..][..len], what);
        }
    }
}

/// Asserts that `found` is as `before`, but for `written` from `at`.
fn assert_written(found: &[u8], before: &[u8], at: usize, written: &[u8], what: impl Fn() -> std::string::String) {
    let end = at + written.len();
    assert!(found[..at] == before[..at], "{}: bytes before", what());
    assert!(found[at..end] == *written, "{}: bytes written", what());
    assert!(found[end..] == before[end..found.len()], "{}: bytes after", what());
}

#[test]
fn copies_within_shared_memory_may_overlap_either_way() {
    let before = pattern(1);
    let mut shared = Shared([0; SIZE]);
    for len in lengths() {
        // From a few places to all that are near, and to those just behind; and the other way.
        let near = |from: usize| (0..50).chain(SHIFTS.map(move |shift| from + len + shift));
        let there = [20, 35].into_iter().flat_map(|from| near(from).map(move |to| (from, to)));
        for (src, dst) in there.flat_map(|(from, to)| [(from, to), (to, from)]) {
            let all = ..src.max(dst) + len + 32;
            shared.0[all].copy_from_slice(&before[all]);
            let base = shared.0.as_mut_ptr();
            // SAFETY: inside the array.
            unsafe { copy(base.wrapping_add(src), base.wrapping_add(dst), len) }.unwrap();
            let what = || std::format!("{src} to {dst}, {len} bytes");
            assert_written(&shared.0[all], &before, dst, &before[src..][..len], what);
        }
    }
}

#[test]
fn fills_write_just_their_bytes_at_every_alignment() {
    let before = pattern(1);
    let mut shared = Shared([0; SIZE]);
    for (len, at) in lengths().flat_map(|len| SHIFTS.map(move |at| (len, at))) {
        let all = ..len + 32;
        shared.0[all].copy_from_slice(&before[all]);
        // SAFETY: inside the array.
        unsafe { fill(shared.0.as_mut_ptr().wrapping_add(at), 0xa5, len) }.unwrap();
        assert_written(&shared.0[all], &before, at, &vec![0xa5; len], || std::format!("{len} bytes at {at}"));
    }
}

#[test]
fn a_test_for_zeroes_looks_at_all_of_its_bytes_and_at_no_other() {
    let mut shared = Shared([0xff; SIZE]);
    for (len, at) in lengths().flat_map(|len| [16, 17, 24, 31].map(|at| (len, at))) {
        let base = shared.0.as_mut_ptr().wrapping_add(at);
        // SAFETY: inside the array.
        let is_zero = || unsafe { is_zero(base, len) }.unwrap();
        // SAFETY: as above.
        let set = |offset, byte| unsafe { u8::store(base.wrapping_add(offset), byte, Ordering::Relaxed) }.unwrap();
        (0..len).for_each(|offset| set(offset, 0));
        assert!(is_zero(), "{len} bytes at {at}");
        let every = if len <= 300 { 1 } else { 61 };
        for offset in (0..len).step_by(every).chain(len.checked_sub(1)) {
            set(offset, 1 << (offset % 8));
            assert!(!is_zero(), "{len} bytes at {at}, of which the one at {offset} is not zero");
            set(offset, 0);
        }
        (0..len).for_each(|offset| set(offset, 0xff));
    }
}

#[test]
fn values_are_read_and_written_whole_at_every_alignment() {
    fn check<T: DataInit + PartialEq + core::fmt::Debug>() {
        let (before, ours) = (pattern(1), pattern(2));
        for at in 0..20 {
            let mut shared = Shared([0; SIZE]);
            shared.0.copy_from_slice(&before);
            let base = shared.0.as_mut_ptr();
            let mut value = T::zeroed();
            value.as_mut_slice().copy_from_slice(&ours[..size_of::<T>()]);
            // SAFETY: inside the array.
            unsafe { write(base.wrapping_add(at), value) }.unwrap();
            // SAFETY: inside the array.
            assert_eq!(unsafe { read::<T>(base.wrapping_add(at)) }, Ok(value), "{} bytes at {at}", size_of::<T>());
            assert_written(&shared.0, &before, at, value.as_slice(), || std::format!("at {at}"));
        }
    }
    check::<u8>();
    check::<u16>();
    check::<u32>();
    check::<u64>();
    check::<u128>();
    check::<[u8; 0]>();
    check::<[u8; 3]>();
    check::<[u16; 4]>();
    check::<[u8; 11]>();
    check::<[u8; 31]>();
    check::<[u64; 4]>();
    check::<[u8; 33]>();
}

const ORDERS: [Ordering; 5] =
    [Ordering::Relaxed, Ordering::Acquire, Ordering::Release, Ordering::AcqRel, Ordering::SeqCst];

/// Calls `$check::<U>` with some values of each unit: each with other bits, and all with the highest set.
macro_rules! for_units {
    ($check:ident) => {
        $check::<u8>([0x81, 0xf0, 0x8e]);
        $check::<u16>([0x8001, 0xff00, 0x80fe]);
        $check::<u32>([0x8000_0001, 0xffff_0000, 0x8000_fffe]);
        $check::<u64>([0x8000_0000_0000_0001, 0xffff_ffff_0000_0000, 0x8000_0000_ffff_fffe]);
    };
}

#[test]
fn atomic_accesses_of_each_width_and_order_touch_just_their_unit() {
    fn check<U: Unit + PartialEq + core::fmt::Debug>([first, second, third]: [U; 3]) {
        for order in ORDERS {
            let mut units = [third, first, third];
            let place = (&raw mut units).cast::<U>().wrapping_add(1);
            // SAFETY: an aligned unit of our own.
            assert_eq!(unsafe { U::load(place, order) }, Ok(first));
            // SAFETY: as above.
            assert_eq!(unsafe { U::store(place, second, order) }, Ok(()));
            assert_eq!(units, [third, second, third]);
        }
    }
    for_units!(check);
}

#[test]
fn an_exchange_stores_if_all_bits_are_equal_and_answers_what_was_there() {
    fn check<U: Unit + PartialEq + core::fmt::Debug>([first, second, third]: [U; 3]) {
        for (success, failure) in ORDERS.into_iter().flat_map(|s| ORDERS.map(|f| (s, f))) {
            let mut units = [third, first, third];
            let place = (&raw mut units).cast::<U>().wrapping_add(1);
            // SAFETY: an aligned unit of our own.
            assert_eq!(unsafe { U::compare_exchange(place, first, second, success, failure) }, Ok(Ok(first)));
            assert_eq!(units, [third, second, third]);
            let place = (&raw mut units).cast::<U>().wrapping_add(1);
            // SAFETY: as above.
            assert_eq!(unsafe { U::compare_exchange(place, third, first, success, failure) }, Ok(Err(second)));
            assert_eq!(units, [third, second, third]);
        }
    }
    for_units!(check);
}

#[test]
fn fetch_or_sets_bits_and_answers_what_was_there() {
    fn check<U: Unit + BitOr<Output = U> + PartialEq + core::fmt::Debug>([first, second, third]: [U; 3]) {
        for order in ORDERS {
            let mut units = [third, first, third];
            let place = (&raw mut units).cast::<U>().wrapping_add(1);
            // SAFETY: an aligned unit of our own.
            assert_eq!(unsafe { U::fetch_or(place, second, order) }, Ok(first));
            assert_eq!(units, [third, first | second, third]);
        }
    }
    for_units!(check);
}

#[test]
fn set_bits_sets_bits_and_no_others() {
    fn check<U: Unit + BitOr<Output = U> + PartialEq + core::fmt::Debug>([first, second, third]: [U; 3]) {
        for order in ORDERS {
            let mut units = [third, first, third];
            let place = (&raw mut units).cast::<U>().wrapping_add(1);
            // SAFETY: an aligned unit of our own.
            assert_eq!(unsafe { U::set_bits(place, second, order) }, Ok(()));
            assert_eq!(units, [third, first | second, third]);
        }
    }
    for_units!(check);
}

/// The first instruction of a function of ours that has an entry in the recovery table is a `lock or`: no loop, which
/// begins with a load.
#[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "fault-recovery", not(any(miri, loom))))]
#[test]
fn set_bits_is_one_instruction() {
    #[inline(never)]
    fn set<U: Unit>(place: &mut U, bits: U) -> bool {
        // SAFETY: an aligned unit of our own.
        unsafe { U::set_bits(place, bits, Ordering::Release) }.is_ok()
    }
    fn check<U: Unit>(mut place: U, bits: U, opcodes: &[&[u8]]) {
        let function = set::<U> as fn(&mut U, U) -> bool;
        assert!(core::hint::black_box(function)(&mut place, bits));
        let (mut entry, end) = arch::table();
        let mut first = usize::MAX;
        while entry < end {
            // SAFETY: between the bounds of the table.
            let start = entry.addr().wrapping_add_signed(unsafe { (*entry).start } as isize);
            if start >= function as usize {
                first = first.min(start);
            }
            entry = entry.wrapping_add(1);
        }
        assert!(first - function as usize <= 256, "an entry within the function");
        let code = core::ptr::with_exposed_provenance::<[u8; 3]>(first);
        // SAFETY: instructions of this program, which can be read.
        let code = unsafe { code.read_unaligned() };
        assert!(opcodes.iter().any(|opcode| code.starts_with(opcode)), "{code:02x?}");
    }
    // `lock`, a prefix for the size or registers, `or`.
    check(1_u8, 2, &[&[0xf0, 0x08], &[0xf0, 0x40, 0x08], &[0xf0, 0x44, 0x08]]);
    check(1_u16, 2, &[&[0xf0, 0x66, 0x09], &[0xf0, 0x66, 0x44], &[0x66, 0xf0, 0x09], &[0x66, 0xf0, 0x44]]);
    check(1_u32, 2, &[&[0xf0, 0x09], &[0xf0, 0x44, 0x09]]);
    check(1_u64, 2, &[&[0xf0, 0x48, 0x09], &[0xf0, 0x4c, 0x09]]);
}

#[test]
fn of_bits_that_many_threads_set_at_once_none_is_lost() {
    let mut words = [0_u64; 16];
    let base = (&raw mut words).expose_provenance();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for bit in (thread..1024).step_by(8) {
                    let place = core::ptr::with_exposed_provenance_mut::<u64>(base).wrapping_add(bit / 64);
                    // SAFETY: inside the array.
                    let held = unsafe { u64::fetch_or(place, 1 << (bit % 64), Ordering::AcqRel) }.unwrap();
                    assert_eq!(held & (1 << (bit % 64)), 0, "it was set by nobody else");
                }
            });
        }
    });
    assert_eq!(words, [u64::MAX; 16]);
}

#[test]
fn an_order_that_does_not_fit_acts_as_seq_cst() {
    use Ordering::{Acquire, Relaxed, Release, SeqCst};
    assert_eq!(ORDERS.map(load_order), [Relaxed, Acquire, SeqCst, SeqCst, SeqCst]);
    assert_eq!(ORDERS.map(store_order), [Relaxed, SeqCst, Release, SeqCst, SeqCst]);
}

#[test]
fn a_probe_of_good_memory_changes_nothing() {
    let before = pattern(1);
    let mut shared = Shared([0; SIZE]);
    shared.0.copy_from_slice(&before);
    for (at, len) in [(0, 0), (1, 1), (63, 4096), (64, 4097), (0, SIZE)] {
        for access in [Probe::Read, Probe::Write] {
            // SAFETY: inside the array.
            assert_eq!(unsafe { probe(shared.0.as_mut_ptr().wrapping_add(at), len, access) }, Ok(()));
            assert!(shared.0[..] == before);
        }
    }
}

/// Three pages, of which the middle one has other permissions.
#[cfg(all(feature = "fault-recovery", target_os = "linux"))]
struct Pages {
    base: *mut u8,
    page: usize,
}

#[cfg(all(feature = "fault-recovery", target_os = "linux"))]
impl Pages {
    fn new(permissions: core::ffi::c_int) -> Self {
        // SAFETY: asks only.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let (all, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of its own.
        let base = unsafe { libc::mmap(core::ptr::null_mut(), 3 * page, all, private, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        // SAFETY: a page of the mapping.
        assert_eq!(unsafe { libc::mprotect(base.wrapping_add(page).cast(), page, permissions) }, 0);
        Self { base, page }
    }
}

#[cfg(all(feature = "fault-recovery", target_os = "linux"))]
impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` has made.
        unsafe { libc::munmap(self.base.cast(), 3 * self.page) };
    }
}

#[cfg(all(feature = "fault-recovery", target_os = "linux", not(miri)))]
#[test]
fn a_probe_finds_the_first_bad_byte() {
    install().unwrap();
    if !is_installed() {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    let both = [(libc::PROT_NONE, true), (libc::PROT_READ, false)];
    for (permissions, unreadable) in both {
        let Pages { base, page } = &Pages::new(permissions);
        let (base, page) = (*base, *page);
        // SAFETY: inside the mapping.
        let probe = |at: usize, len, access| unsafe { probe(base.wrapping_add(at), len, access) };
        // From the page before, to its last byte and beyond; from the bad page; and from the one after.
        for (at, len, completed) in [
            (0, page, None),
            (0, page + 1, Some(page)),
            (7, 3 * page - 7, Some(page - 7)),
            (page - 1, 2, Some(1)),
            (page, 1, Some(0)),
            (2 * page - 1, 2, Some(0)),
            (2 * page, page, None),
        ] {
            let fault = completed.map(|completed| Fault::new(base.addr() + at + completed));
            assert_eq!(probe(at, len, Probe::Write).err(), fault, "{len} bytes at {at}");
            assert_eq!(probe(at, len, Probe::Read).err(), fault.filter(|_| unreadable), "{len} bytes at {at}");
        }
    }
}

#[cfg(all(feature = "fault-recovery", target_os = "linux", not(miri)))]
#[test]
fn a_value_across_two_bad_pages_is_bad_from_its_start() {
    install().unwrap();
    if !is_installed() {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    let pages = Pages::new(libc::PROT_NONE);
    let last = pages.base.wrapping_add(2 * pages.page);
    // SAFETY: a page of the mapping.
    assert_eq!(unsafe { libc::mprotect(last.cast(), pages.page, libc::PROT_NONE) }, 0);
    for before in 1..8 {
        let at = last.wrapping_sub(before);
        let fault = Some(Fault::new(at.addr()));
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { read::<u64>(at) }.err(), fault);
        // SAFETY: as above.
        assert_eq!(unsafe { write::<u64>(at, 0) }.err(), fault);
        // SAFETY: as above.
        assert_eq!(unsafe { read::<u128>(at) }.err(), fault);
        // SAFETY: as above.
        assert_eq!(unsafe { fill(at, 1, 100) }.err(), fault);
        // SAFETY: as above.
        assert_eq!(unsafe { is_zero(at, 100) }.err(), fault);
    }
}
