//! Streams to and from memory with an edge: a system call that meets it answers EFAULT, the copy of a buffer faults; both
//! are told as any other fault. Nothing is lost: what did not come to memory is still to be had from the source, and a
//! sink has got just what is told.

use std::io;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, IoAddress, ReadVolatile, VolatileSlice, WriteVolatile};

use crate::ends::{At, Bound, Full, Pipe, Sink, Socket, Source, Tcp};
use crate::ground::{BASE, Bad, Ground, Guest, Outcome, UNREADABLE, UNWRITABLE, at, data, exact, page, pattern, some};
use crate::ground::{told, told_by_guest};
use crate::recovers;

/// What comes before the edge of so many bytes: none, some, all but one, all.
const LEN: usize = 300;
const GOOD: [usize; 7] = [0, 1, 17, 100, 150, LEN - 1, LEN];

/// A transfer by position: `exact` or not.
trait Memory {
    fn take<S: ReadVolatile>(&self, exact: bool, start: usize, src: &mut S, len: usize) -> Outcome;
    fn give<D: WriteVolatile>(&self, exact: bool, start: usize, dst: &mut D, len: usize) -> Outcome;
}

macro_rules! memory {
    ($($T:ty: |$self:ident, $start:ident| $mem:expr, $at:expr, $told:path;)*) => {$(
        impl Memory for $T {
            fn take<S: ReadVolatile>(&$self, exact: bool, $start: usize, src: &mut S, len: usize) -> Outcome {
                if exact {
                    $mem.write_all_from($at, src, len).map(|()| len).map_err($told)
                } else {
                    $mem.write_from($at, src, len).map_err($told)
                }
            }
            fn give<D: WriteVolatile>(&$self, exact: bool, $start: usize, dst: &mut D, len: usize) -> Outcome {
                if exact {
                    $mem.read_all_into($at, dst, len).map(|()| len).map_err($told)
                } else {
                    $mem.read_into($at, dst, len).map_err($told)
                }
            }
        }
    )*};
}

/// Guest memory as a device sees it.
struct Device<'a>(&'a Guest);

memory! {
    Ground: |self, start| self.slice(), start, told;
    Guest: |self, start| self.mem, at(start), told_by_guest;
    Device<'_>: |self, start| self.0.mem, IoAddress(BASE + start as u64), told_by_guest;
}

/// What a transfer must answer.
fn answer(is_exact: bool, start: usize, len: usize, good: usize) -> Outcome {
    if is_exact { exact(start, len, good) } else { some(start, good) }
}

/// Takes from a source of this kind, into each memory.
fn check_source<S: Source>() {
    for (bad, is_exact) in UNWRITABLE.into_iter().flat_map(|bad| [(bad, false), (bad, true)]) {
        let (ground, guest) = (Ground::new(bad), Guest::new(bad, &[1, 3], 2));
        for good in GOOD {
            let start = guest.edge - good;
            let what = || format!("{}, {bad:?}, {good} of {LEN} bytes, exact: {is_exact}", std::any::type_name::<S>());
            let expected = answer(is_exact, start, LEN, good);
            let check = |answered: Outcome, source: S| {
                assert_eq!(answered, expected, "{}", what());
                assert!(source.rest() == data(LEN)[good..], "{}: bytes were lost", what());
            };
            let mut source = S::full();
            check(ground.take(is_exact, start, &mut source, LEN), source);
            ground.check(ground.window(), start, &data(good)[..good], &what);
            ground.reset(start..ground.edge);
            for by_device in [false, true] {
                let mut source = S::full();
                let answered = if by_device {
                    Device(&guest).take(is_exact, start, &mut source, LEN)
                } else {
                    guest.take(is_exact, start, &mut source, LEN)
                };
                check(answered, source);
                guest.check(guest.window(), start, &data(good)[..good], &what);
                guest.reset(start..guest.edge);
            }
        }
        ground.check_beyond();
    }
}

/// Gives to a sink of this kind, from each memory.
fn check_sink<D: Sink>() {
    for (bad, is_exact) in UNREADABLE.into_iter().flat_map(|bad| [(bad, false), (bad, true)]) {
        let (ground, guest) = (Ground::new(bad), Guest::new(bad, &[1, 3], 2));
        for good in GOOD {
            let start = guest.edge - good;
            let what = || format!("{}, {bad:?}, {good} of {LEN} bytes, exact: {is_exact}", std::any::type_name::<D>());
            let check = |give: &dyn Fn(&mut D) -> Outcome| {
                let mut sink = D::empty();
                assert_eq!(give(&mut sink), answer(is_exact, start, LEN, good), "{}", what());
                assert_eq!(sink.got(), pattern(start..start + good), "{}", what());
            };
            check(&|sink| ground.give(is_exact, start, sink, LEN));
            check(&|sink| guest.give(is_exact, start, sink, LEN));
            check(&|sink| Device(&guest).give(is_exact, start, sink, LEN));
        }
    }
}

#[test]
fn files() {
    if recovers() {
        check_source::<std::fs::File>();
        check_source::<At>();
        check_sink::<std::fs::File>();
        check_sink::<At>();
    }
}

#[test]
fn pipes() {
    if recovers() {
        check_source::<Pipe>();
        check_sink::<Pipe>();
    }
}

#[test]
fn sockets() {
    if recovers() {
        check_source::<Socket>();
        check_sink::<Socket>();
        check_source::<Tcp>();
        check_sink::<Tcp>();
    }
}

#[test]
fn buffers() {
    if recovers() {
        check_source::<&[u8]>();
        check_source::<io::Cursor<&[u8]>>();
        check_sink::<Vec<u8>>();
        check_sink::<io::Cursor<Vec<u8>>>();
        check_sink::<Full>();
        check_sink::<Bound>();
    }
}

/// Over three regions and into the fourth, whose second page is bad.
#[test]
fn transfers_over_seams_count_from_the_start_of_the_whole() {
    fn check<S: Source, D: Sink>(guest: &Guest, start: usize) {
        let (len, good) = (5 * page(), guest.edge - start);
        for is_exact in [false, true] {
            let mut source = S::with(data(len));
            let what = || format!("{}, {good} of {len} bytes, exact: {is_exact}", std::any::type_name::<S>());
            let taken = guest.take(is_exact, start, &mut source, len);
            // The kernel takes a pipe's bytes by the page, so that a read which meets the edge may be shorter.
            let done = taken.ok().filter(|&done| !is_exact && done > 0 && done < good).unwrap_or(good);
            assert_eq!(taken, answer(is_exact, start, len, done), "{}", what());
            assert!(source.rest() == data(len)[done..], "{}: bytes were lost", what());
            let written = if done == good { guest.all() } else { 0..start + done };
            guest.check(written, start, &data(len)[..done], &what);
            guest.reset(start..guest.edge);
            let mut sink = D::empty();
            assert_eq!(guest.give(is_exact, start, &mut sink, len), answer(is_exact, start, len, good));
            assert!(sink.got() == pattern(start..start + good));
        }
    }
    if !recovers() {
        return;
    }
    for guest in UNREADABLE.map(|bad| Guest::new(bad, &[1, 1, 1, 3], 4)) {
        for start in [0, 3, page() - 1] {
            check::<std::fs::File, std::fs::File>(&guest, start);
            check::<Pipe, Pipe>(&guest, start);
            check::<Socket, Socket>(&guest, start);
            check::<&[u8], Vec<u8>>(&guest, start);
        }
    }
}

#[test]
fn a_source_that_ends_before_the_edge_has_ended() {
    if recovers() {
        let guest = Guest::new(Bad::Truncated, &[4], 2);
        let start = guest.edge - 100;
        let file = <std::fs::File as Source>::with(data(50));
        for source in [&mut data(50) as &mut dyn ReadVolatile, &mut &file] {
            let taken = guest.mem.write_all_from(at(start), &mut { source }, LEN);
            assert!(matches!(taken, Err(Error::PartialBuffer { expected: LEN, completed: 50 })), "{taken:?}");
        }
    }
}

/// A source that reports EFAULT of memory of its own, whatever it is given.
struct BadElsewhere;

impl ReadVolatile for BadElsewhere {
    fn read_volatile(&mut self, _: &VolatileSlice<'_>) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EFAULT))
    }
}

#[test]
fn an_efault_of_other_memory_is_the_stream_s_error() {
    if recovers() {
        let guest = Guest::new(Bad::Truncated, &[4], 2);
        for (start, len) in [(0, 10), (guest.edge - 10, 10), (guest.edge - 10, 20)] {
            let taken = guest.mem.write_from(at(start), &mut BadElsewhere, len);
            let Err(Error::Io(error)) = &taken else { panic!("{taken:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        }
        guest.check(guest.window(), 0, &[], &|| "nothing came".to_owned());
    }
}
