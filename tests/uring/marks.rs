//! What is marked as dirty, and when.

use std::io::Write;

use memory_model::dirty::DirtyRange;
use memory_model::guest_memory::DirtyLog;
use memory_model::io_memory::Access;
use memory_model::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, fault_recovery};

use crate::raw::pipe;
use crate::{both, file, memory, next, owned, ring};

const PAGE: usize = 0x1000;

/// The numbers of the pages that were marked since it was asked last.
fn marked(log: &DirtyLog<GuestRegionMmap>) -> Vec<u64> {
    let harvest = log.harvest();
    let pages = harvest.ranges().flat_map(|DirtyRange { start, len }| (start..start + len).step_by(PAGE));
    let pages = pages.map(|page| page / PAGE as u64).collect();
    harvest.commit();
    pages
}

#[test]
fn a_read_marks_what_it_was_to_fill_and_a_write_nothing() {
    let file = file(4 * PAGE);
    for mut engine in both(&file, 4) {
        let mem = memory(&[4 * PAGE, 4 * PAGE]);
        let log = mem.start_tracking(PAGE as u64).unwrap();
        let ranges = [(PAGE as u64 - 1, 2), (4 * PAGE as u64 - 5, 10), (7 * PAGE as u64, 1)];
        engine.read_at(owned(&mem, &ranges, Access::Write), 0, 1).unwrap();
        assert!(marked(&log).is_empty(), "nothing is there yet");
        engine.wait().unwrap();
        assert_eq!(engine.next_completion().unwrap().unwrap().result.unwrap(), 13);
        assert_eq!(marked(&log), [0, 1, 3, 4, 7]);
        engine.write_at(owned(&mem, &ranges, Access::Read), 0, 1).unwrap();
        let written = next(&mut engine);
        drop(written);
        assert!(marked(&log).is_empty());
        // Not a second time, when the buffers are dropped.
        engine.read_at(owned(&mem, &[(0, 1)], Access::Write), 0, 1).unwrap();
        let read = next(&mut engine);
        assert_eq!(marked(&log), [0]);
        drop(read);
        assert!(marked(&log).is_empty());
    }
}

#[test]
fn a_read_that_ends_short_marks_all_that_the_kernel_had() {
    let file = file(PAGE + 1);
    for mut engine in both(&file, 4) {
        let mem = memory(&[8 * PAGE]);
        let log = mem.start_tracking(PAGE as u64).unwrap();
        engine.read_at(owned(&mem, &[(0, 4 * PAGE)], Access::Write), 0, 1).unwrap();
        let read = next(&mut engine);
        // Before the buffers are dropped.
        assert_eq!(marked(&log), [0, 1, 2, 3]);
        assert_eq!((read.result.as_ref().unwrap(), read.buffers.as_ref().unwrap().len()), (&(PAGE + 1), 3 * PAGE - 1));
        drop(read);
        assert!(marked(&log).is_empty());
    }
}

#[test]
fn a_read_that_fails_marks_all_that_the_kernel_had() {
    fault_recovery::install().unwrap();
    let file = file(8 * PAGE);
    let backing = tempfile::tempfile().unwrap();
    for mut engine in both(&file, 4) {
        backing.set_len(0x2_0000).unwrap();
        let at = FileOffset::new(backing.try_clone().unwrap(), 0);
        let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), 0x2_0000, Some(at))]).unwrap();
        let log = mem.start_tracking(PAGE as u64).unwrap();
        backing.set_len(0x1_0000).unwrap();
        engine.read_at(owned(&mem, &[(0xf000, 0x2000), (0, 1)], Access::Write), 0, 1).unwrap();
        let read = next(&mut engine);
        assert!(read.result.is_err());
        assert_eq!(marked(&log), [0, 15, 16]);
    }
    // What was never begun has touched nothing.
    let (reader, _writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[8 * PAGE]);
    let log = mem.start_tracking(PAGE as u64).unwrap();
    engine.read_at(owned(&mem, &[(0, PAGE)], Access::Write), 0, 1).unwrap();
    engine.cancel().unwrap();
    assert!(next(&mut engine).result.is_err());
    assert!(marked(&log).is_empty());
    engine.read_at(owned(&mem, &[(0, PAGE)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    engine.cancel().unwrap();
    assert!(next(&mut engine).result.is_err());
    assert_eq!(marked(&log), [0]);
}

/// An engine that is dropped has marked, too, when what it had is freed.
#[test]
fn what_is_dropped_is_marked() {
    let (reader, mut writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[8 * PAGE]);
    let log = mem.start_tracking(PAGE as u64).unwrap();
    engine.read_at(owned(&mem, &[(0, 2 * PAGE)], Access::Write), 0, 1).unwrap();
    engine.read_at(owned(&mem, &[(4 * PAGE as u64, 1)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    // Some of it arrives.
    writer.write_all(&[1; 10]).unwrap();
    drop(engine);
    assert_eq!(marked(&log), [0, 1, 4]);
}
