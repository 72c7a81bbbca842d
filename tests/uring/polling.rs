//! A descriptor that can be read when there are completions.

use std::fs::{File, read_link};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use memory_model::MmapRegion;
use memory_model::buffers::uring::FileEngine;
use memory_model::io_memory::Access;
use memory_model::mmap::FileOffset;

use crate::raw::{is_readable, pipe};
use crate::{both, file, memory, owned, ring};

/// Waits until the descriptor cannot be read, as nothing is done. The kernel may wake for what was handed out already.
fn falls_silent(engine: &mut FileEngine) {
    for _ in 0..1000 {
        if !is_readable(engine, false) {
            return;
        }
        assert!(engine.next_completion().unwrap().is_none());
    }
    panic!("it can be read all the time");
}

/// Whoever has the ring's own descriptor can map the queues, and change what the kernel has not read yet.
#[test]
fn descriptor_is_an_eventfd_and_cannot_be_mapped() {
    for engine in both(&file(0x1000), 4) {
        let name = read_link(format!("/proc/self/fd/{}", engine.as_fd().as_raw_fd())).unwrap();
        assert_eq!(name.to_str(), Some("anon_inode:[eventfd]"));
        // The queues of an io_uring, and its entries: io_uring_setup(2).
        for offset in [0, 0x800_0000, 0x1000_0000] {
            let file = File::from(engine.as_fd().try_clone_to_owned().unwrap());
            assert!(MmapRegion::from_file(FileOffset::new(file, offset), 0x1000).is_err());
        }
    }
}

/// Safe code may use it up: that costs wake-ups, and nothing else.
#[test]
fn descriptor_that_is_read_and_written_by_others_breaks_nothing() {
    let file = file(0x1000);
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x1000]);
        let mut event = File::from(engine.as_fd().try_clone_to_owned().unwrap());
        for round in 0..3 {
            engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, round).unwrap();
            engine.submit().unwrap();
            engine.wait().unwrap();
            // Empty, or nearly full.
            let used_up = if round == 0 { event.read(&mut [0; 8]) } else { event.write(&[0xf0; 8]) };
            used_up.unwrap_or_default();
            assert_eq!(engine.next_completion().unwrap().unwrap().token, round);
            assert!(engine.next_completion().unwrap().is_none());
        }
        falls_silent(&mut engine);
    }
}

#[test]
fn the_descriptor_says_when_there_are_completions() {
    let file = file(0x1000);
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x1000]);
        for _ in 0..3 {
            assert!(!is_readable(&engine, false));
            for token in 0..3 {
                engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, token).unwrap();
            }
            engine.submit().unwrap();
            assert!(is_readable(&engine, true));
            let mut count = 0;
            while count < 3 {
                assert!(is_readable(&engine, true));
                while engine.next_completion().unwrap().is_some() {
                    count += 1;
                }
            }
            falls_silent(&mut engine);
        }
    }
}

/// Also of a request that goes on meanwhile, by itself.
#[test]
fn the_descriptor_says_when_a_request_is_to_go_on() {
    let (reader, mut writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[0x1000]);
    engine.read_at(owned(&mem, &[(0, 30)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    assert!(!is_readable(&engine, false));
    for part in 0..3 {
        writer.write_all(&[part; 10]).unwrap();
        assert!(is_readable(&engine, true));
        let completion = engine.next_completion().unwrap();
        assert_eq!(completion.is_some(), part == 2);
    }
    falls_silent(&mut engine);
    // A cancelled one, too.
    engine.read_at(owned(&mem, &[(0, 30)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    engine.cancel().unwrap();
    assert!(is_readable(&engine, true));
}

/// The kernel does not know these requests, and raises nothing for them.
#[test]
fn the_descriptor_says_that_requests_were_cancelled_before_they_were_submitted() {
    for mut engine in both(&file(0x1000), 4) {
        let mem = memory(&[0x1000]);
        engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, 1).unwrap();
        engine.cancel().unwrap();
        assert!(is_readable(&engine, false));
        assert_eq!(engine.next_completion().unwrap().unwrap().token, 1);
        assert!(engine.next_completion().unwrap().is_none());
        falls_silent(&mut engine);
    }
}
