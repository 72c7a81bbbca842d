//! Pages of guest memory that cannot be accessed: a request that meets one gets an error, and the queue goes on; a queue
//! that lies in one is broken, and says so.

use std::fs::File;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, IoAddress, fault_recovery};
use memory_model_virtio::blk::{
    BlockOptions, RequestHeader, S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES,
};
use memory_model_virtio::ring::Part;
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, QueueError};

use crate::common::{DATA, END, QUEUE, segment};
use crate::requests::{BUFFER, HEADER, Machine, STATUS};

/// Behind the usual memory lies a file's, as much as a page of any host has before the edge and behind it.
const EDGE: u64 = END + HALF;
const HALF: u64 = 0x1_0000;

/// A machine whose memory has a file's last, and that file. `None` if faults end the process on this target.
fn machine() -> Option<(Machine, File)> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * HALF).unwrap();
    let at = FileOffset::new(file.try_clone().unwrap(), 0);
    let ranges = [(GuestAddress(0), END as usize, None), (GuestAddress(END), 2 * HALF as usize, Some(at))];
    let mem = GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap();
    if !fault_recovery::is_installed() {
        memory_model_test_support::skip!("no fault recovery on this target");
        return None;
    }
    let content: Vec<u8> = (0..64).flat_map(|sector| [sector; 512]).collect();
    Some((Machine::with(mem, &content, BlockOptions::default()), file))
}

/// The file loses what lies behind the edge.
fn shrink(file: &File) {
    file.set_len(HALF).unwrap();
}

/// Checks that a request succeeds.
fn check_goes_on(machine: &mut Machine) {
    let answer = machine.request(RequestHeader::new(T_IN, 7), &[], &[segment(BUFFER, 512)]);
    assert_eq!(answer, (S_OK, 513));
    assert_eq!(machine.buffer(BUFFER, 512), [7; 512]);
}

#[test]
fn data_in_a_bad_page_is_an_error_of_that_request_alone() {
    let Some((mut machine, file)) = machine() else { return };
    shrink(&file);
    // All of the data, the end of it, and its last byte.
    for place in [EDGE, EDGE + 100, EDGE - 100, EDGE - 511, EDGE - 512, EDGE - 1023] {
        let data = [segment(place, 1024)];
        assert_eq!(machine.request(RequestHeader::new(T_IN, 5), &[], &data), (S_IOERR, 0), "to {place:#x}");
        check_goes_on(&mut machine);
        assert_eq!(machine.request(RequestHeader::new(T_OUT, 50), &data, &[]), (S_IOERR, 1), "from {place:#x}");
        check_goes_on(&mut machine);
    }
    // What lies before the edge is good.
    assert_eq!(machine.request(RequestHeader::new(T_IN, 9), &[], &[segment(EDGE - 512, 512)]), (S_OK, 513));
    assert_eq!(machine.buffer(EDGE - 512, 512), [9; 512]);
    let answer = machine.request(RequestHeader::new(T_IN, 9), &[], &[segment(BUFFER, 512), segment(EDGE, 512)]);
    assert_eq!(answer, (S_IOERR, 0));
    check_goes_on(&mut machine);
}

#[test]
fn other_requests_with_data_in_a_bad_page_are_errors_too() {
    let Some((mut machine, file)) = machine() else { return };
    shrink(&file);
    let before = machine.content();
    let answer = machine.request(RequestHeader::new(T_GET_ID, 0), &[], &[segment(EDGE - 7, 20)]);
    assert_eq!(answer, (S_IOERR, 0));
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        let answer = machine.request(RequestHeader::new(kind, 0), &[segment(EDGE - 8, 16)], &[]);
        assert_eq!(answer, (S_IOERR, 1));
    }
    assert_eq!(machine.request(RequestHeader::new(T_FLUSH, 0), &[], &[]), (S_OK, 1));
    assert_eq!(machine.content(), before);
}

#[test]
fn a_header_in_a_bad_page_is_an_error_of_that_request_alone() {
    let Some((mut machine, file)) = machine() else { return };
    shrink(&file);
    for place in [EDGE, EDGE - 1, EDGE - 15] {
        machine.mem.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        assert_eq!(machine.submit(&[segment(place, 16)], &[segment(BUFFER, 512), segment(STATUS, 1)]), 0);
        assert_eq!(machine.buffer(STATUS, 1), [S_IOERR]);
        check_goes_on(&mut machine);
    }
}

#[test]
fn good_requests_among_bad_ones_are_answered() {
    let Some((mut machine, file)) = machine() else { return };
    shrink(&file);
    let (mem, driver) = (&machine.mem, &mut machine.driver);
    let place = |number: u64| DATA + 0x1000 * number;
    for number in 0..5 {
        mem.write_obj(RequestHeader::new(T_IN, number), GuestAddress(place(number))).unwrap();
        let data = if number % 2 == 0 { place(number) + 0x200 } else { EDGE - 256 };
        let writable = [segment(data, 512), segment(place(number) + 0x100, 1)];
        driver.add(mem, &[segment(place(number), 16)], &writable).unwrap();
    }
    driver.publish(mem).unwrap();
    let processed = machine.disk.process_queue(&mut machine.queue, mem).unwrap();
    assert_eq!((processed.requests, processed.failed, processed.notify), (5, 2, true));
    for number in 0..5_u8 {
        let (status, data) = (place(number.into()) + 0x100, place(number.into()) + 0x200);
        let expected = if number % 2 == 0 { (S_OK, [number; 512]) } else { (S_IOERR, [0; 512]) };
        assert_eq!((machine.buffer(status, 1)[0], machine.buffer(data, 512)), (expected.0, expected.1.to_vec()));
    }
}

#[test]
fn a_status_in_a_bad_page_breaks_the_queue_until_it_is_reset() {
    let Some((mut machine, file)) = machine() else { return };
    shrink(&file);
    machine.mem.write_obj(RequestHeader::new(T_IN, 1), GuestAddress(HEADER)).unwrap();
    let head = machine.driver.add(&machine.mem, &[segment(HEADER, 16)], &[segment(EDGE - 512, 513)]).unwrap();
    machine.driver.publish(&machine.mem).unwrap();
    let reason = machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
    let QueueError::AnswerLost { head: told, source } = &reason else { panic!("{reason}") };
    assert_eq!(*told, head);
    assert!(matches!(**source, Error::Fault { addr: GuestAddress(EDGE), .. }), "{source}");
    assert_eq!(machine.queue.broken().unwrap().to_string(), reason.to_string());
    assert!(machine.disk.process_queue(&mut machine.queue, &machine.mem).is_err());
    machine.queue.reset();
    machine.driver = DriverQueue::new(&machine.mem, *machine.queue.config()).unwrap();
    check_goes_on(&mut machine);
}

#[test]
fn a_queue_in_a_bad_page_is_broken_and_names_the_part() {
    let Some((mut machine, file)) = machine() else { return };
    let usual = QueueConfig { indirect: true, ..QueueConfig::contiguous(IoAddress(QUEUE), 16).unwrap() };
    // Where each part begins if it is the bad one; its first access is told.
    let (bad, table) = (IoAddress(EDGE), IoAddress(EDGE + 0x100));
    for (part, config, indirect, addr) in [
        (Part::DescriptorTable, QueueConfig { desc: bad, ..usual }, false, bad),
        (Part::AvailableRing, QueueConfig { avail: bad, ..usual }, false, IoAddress(EDGE + 2)),
        (Part::UsedRing, QueueConfig { used: bad, ..usual }, false, bad),
        (Part::IndirectTable, usual, true, table),
    ] {
        file.set_len(2 * HALF).unwrap();
        machine.queue = Queue::new(config).unwrap();
        machine.driver = DriverQueue::new(&machine.mem, config).unwrap();
        machine.mem.write_obj(RequestHeader::new(T_IN, 1), GuestAddress(HEADER)).unwrap();
        let (readable, writable) = ([segment(HEADER, 16)], [segment(BUFFER, 513)]);
        let added = if indirect {
            machine.driver.add_indirect(&machine.mem, table, &readable, &writable)
        } else {
            machine.driver.add(&machine.mem, &readable, &writable)
        };
        added.unwrap();
        machine.driver.publish(&machine.mem).unwrap();
        shrink(&file);
        let reason = machine.disk.process_queue(&mut machine.queue, &machine.mem).unwrap_err();
        let QueueError::Memory { part: told, addr: at, source } = &reason else { panic!("{part}: {reason}") };
        assert_eq!((*told, *at), (part, addr));
        assert!(matches!(**source, Error::Fault { addr, completed: 0 } if addr.0 == at.0), "{part}: {source}");
        assert_eq!(machine.queue.broken().unwrap().to_string(), reason.to_string());
        // It is touched no more, also if the page is there again; a reset helps.
        file.set_len(2 * HALF).unwrap();
        assert!(machine.disk.process_queue(&mut machine.queue, &machine.mem).is_err());
        machine.queue.reset();
        machine.driver = DriverQueue::new(&machine.mem, config).unwrap();
        check_goes_on(&mut machine);
    }
}
