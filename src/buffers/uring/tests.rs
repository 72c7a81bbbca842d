//! What a kernel may answer, also what one cannot be made to.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::super::{GuestBuffers, IoSlice};
use super::request::{Kind, Request};
use super::table::Table;
#[cfg(feature = "fault-recovery")]
use crate::FileOffset;
use crate::guest_memory::Error;
use crate::io_memory::Access;
use crate::{GuestAddress, GuestMemoryMmap, IoAddress};

const LEN: usize = 100;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()
}

/// A table with a request that the kernel has.
fn begun(kind: Kind) -> Table {
    begun_in(&memory(), kind)
}

fn begun_in(mem: &GuestMemoryMmap, kind: Kind) -> Table {
    let access = if kind == Kind::Read { Access::Write } else { Access::Read };
    let buffers = GuestBuffers::owned(mem, [(IoAddress(0), 60), (IoAddress(80), 40)], access).unwrap();
    let mut table = Table::new(1);
    let number = table.claim().unwrap();
    table.add(number, Request::new(7, kind, Some(buffers), 1000));
    assert_eq!((step(&mut table), table.claim(), table.in_kernel()), (Some((LEN, 1000)), None, 1));
    table
}

/// The bytes of the next step, and where in the file it begins.
fn step(table: &mut Table) -> Option<(usize, u64)> {
    table.next_step().map(|step| (step.iovecs.iter().map(IoSlice::len).sum(), step.offset))
}

/// The `errno` that a request is done with.
fn errno(table: &mut Table) -> Option<i32> {
    match table.take_done()?.result {
        Err(Error::Io(error)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interrupted_step_is_repeated_for_ever() {
    for errno in [libc::EINTR, libc::ECANCELED] {
        let mut table = begun(Kind::Write);
        for _ in 0..1000 {
            table.land(0, Err(errno));
            assert!(table.goes_on() && !table.has_done());
            assert_eq!(step(&mut table), Some((LEN, 1000)));
            assert!(!table.goes_on());
        }
    }
}

#[test]
fn a_step_that_gets_no_further_is_repeated_a_few_times() {
    let mut table = begun(Kind::Read);
    for _ in 0..8 {
        table.land(0, Err(libc::EAGAIN));
        assert_eq!(step(&mut table), Some((LEN, 1000)));
    }
    // It gets further.
    table.land(0, Ok(70));
    for _ in 0..8 {
        assert_eq!(step(&mut table), Some((30, 1070)));
        table.land(0, Err(libc::EAGAIN));
    }
    assert_eq!(step(&mut table), Some((30, 1070)));
    table.land(0, Err(libc::EAGAIN));
    let done = table.take_done().unwrap();
    assert_eq!((done.token, done.transferred, done.buffers.as_ref().unwrap().len()), (7, 70, 30));
    assert!(matches!(done.result, Err(Error::Io(error)) if error.raw_os_error() == Some(libc::EAGAIN)));
    assert!(table.claim().is_some());
}

/// Nor does it repeat a fault for ever whose page cannot be found.
#[test]
fn a_fault_in_no_page_is_an_error() {
    let mut table = begun(Kind::Read);
    let mut steps = 0;
    while !table.has_done() {
        table.land(0, Err(libc::EFAULT));
        steps += i32::from(step(&mut table).is_some());
    }
    assert!(steps <= 8);
    assert_eq!(errno(&mut table), Some(libc::EFAULT));
}

#[test]
fn a_cancelled_request_does_not_go_on() {
    for answer in [Err(libc::EINTR), Err(libc::ECANCELED), Err(libc::EAGAIN), Ok(60)] {
        let mut table = begun(Kind::Read);
        assert_eq!((table.cancel(), table.cancel()), (vec![0], vec![]), "told once");
        table.land(0, answer);
        assert!(step(&mut table).is_none());
        assert_eq!(errno(&mut table), Some(libc::ECANCELED));
    }
    // It was too late.
    let mut table = begun(Kind::Read);
    table.cancel();
    table.land(0, Ok(LEN));
    assert_eq!(table.take_done().unwrap().result.unwrap(), LEN);
    // It was not begun.
    let mut table = begun(Kind::Read);
    table.not_begun(0);
    assert_eq!((table.cancel(), table.in_kernel()), (vec![], 0));
    assert_eq!(errno(&mut table), Some(libc::ECANCELED));
}

#[test]
fn a_kernel_that_claims_too_much_is_not_believed() {
    let mut table = begun(Kind::Read);
    table.land(0, Ok(LEN + 1));
    let done = table.take_done().unwrap();
    assert!(matches!(done.result, Err(Error::Overrun { expected: LEN, claimed: 101 })), "{done:?}");
    assert_eq!(done.transferred, 0);
}

/// What is left of a direct transfer that the file's end has cut is not aligned.
#[test]
fn a_rest_that_is_not_aligned_is_a_short_transfer() {
    let mut table = begun(Kind::Read);
    table.land(0, Ok(60));
    assert_eq!(step(&mut table), Some((40, 1060)));
    table.land(0, Err(libc::EINVAL));
    assert_eq!(table.take_done().unwrap().result.unwrap(), 60);
    let mut table = begun(Kind::Read);
    table.land(0, Err(libc::EINVAL));
    assert_eq!(errno(&mut table), Some(libc::EINVAL));
}

/// What lies before a bad page cannot be transferred by itself.
#[cfg(feature = "fault-recovery")]
#[test]
fn a_rest_before_a_bad_page_that_is_not_aligned_is_a_fault() {
    const PAGE: usize = 0x1_0000;
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * PAGE as u64).unwrap();
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), 2 * PAGE, Some(at))]).unwrap();
    file.set_len(PAGE as u64).unwrap();
    let buffers = GuestBuffers::owned(&mem, [(IoAddress(PAGE as u64 - 60), LEN)], Access::Write).unwrap();
    let mut table = Table::new(1);
    let number = table.claim().unwrap();
    table.add(number, Request::new(7, Kind::Read, Some(buffers), 1000));
    assert_eq!(step(&mut table), Some((LEN, 1000)));
    table.land(number, Err(libc::EFAULT));
    assert_eq!(step(&mut table), Some((60, 1000)));
    table.land(number, Ok(20));
    assert_eq!(step(&mut table), Some((40, 1020)));
    table.land(number, Err(libc::EINVAL));
    let result = table.take_done().unwrap().result;
    let Err(Error::Fault { addr, completed: 20 }) = result else { panic!("{result:?}") };
    assert_eq!(addr.0, PAGE as u64);
}

/// The second answer would be another request's.
#[test]
fn a_step_is_answered_once() {
    let mut table = begun(Kind::Read);
    table.land(0, Ok(60));
    table.land(0, Ok(40));
    table.land(17, Ok(40));
    assert_eq!((table.in_kernel(), table.has_done()), (0, false));
    assert_eq!(step(&mut table), Some((40, 1060)));
    table.not_begun(0);
    table.not_begun(0);
    assert_eq!((step(&mut table), step(&mut table)), (Some((40, 1060)), None));
    table.land(0, Ok(0));
    assert_eq!(table.take_done().unwrap().result.unwrap(), 60);
    table.land(0, Ok(40));
    assert!(!table.has_done());
}

/// What the kernel had is marked before that is known to be over, and nothing else.
#[test]
fn a_request_that_waits_to_go_on_is_marked_when_it_is_cancelled() {
    let mem = memory();
    let mut table = begun_in(&mem, Kind::Read);
    table.land(0, Ok(60));
    let log = mem.start_tracking(4096).unwrap();
    table.cancel();
    assert_eq!(log.harvest().ranges().count(), 1);
    log.harvest().commit();
    drop(table.take_done());
    assert!(log.harvest().is_empty());
    let mut table = begun_in(&mem, Kind::Write);
    table.land(0, Ok(60));
    table.cancel();
    drop(table);
    assert!(log.harvest().is_empty());
}

/// The page of a fault is there again when it is looked for, and the end of the file cuts the next step of a direct transfer.
#[cfg(feature = "fault-recovery")]
#[test]
fn the_files_end_after_a_fault_that_has_passed_is_a_short_transfer() {
    crate::fault_recovery::install().unwrap();
    let mut table = begun(Kind::Read);
    table.land(0, Err(libc::EFAULT));
    assert_eq!(step(&mut table), Some((LEN, 1000)));
    table.land(0, Ok(71));
    assert_eq!(step(&mut table), Some((29, 1071)));
    table.land(0, Err(libc::EINVAL));
    assert_eq!(step(&mut table), Some((29, 1071)));
    table.land(0, Err(libc::EINVAL));
    assert_eq!(table.take_done().unwrap().result.unwrap(), 71);
}
