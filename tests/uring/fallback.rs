//! Systems that have no `io_uring`, or forbid it: the same, one by one, and the reason.

use std::io::ErrorKind;

use memory_model::buffers::uring::FileEngine;
use memory_model::io_memory::Access;

use crate::child::{all_well, in_child};
use crate::raw::lock_limit;
use crate::seccomp::{Calls, refuse};
use crate::{bytes, file, memory, next, owned, pattern};

/// Checks that an engine without `io_uring` does what it is to.
fn works(mut engine: FileEngine) {
    let mem = memory(&[0x1000]);
    for token in 0..4 {
        engine.read_at(owned(&mem, &[(token * 0x100, 0x80)], Access::Write), token * 0x80, token).unwrap();
    }
    engine.submit().unwrap();
    assert_eq!(engine.in_flight(), 4);
    for token in 0..4 {
        let completion = engine.next_completion().unwrap().unwrap();
        assert_eq!((completion.token, completion.result.unwrap()), (token, 0x80), "it is done when it is submitted");
    }
    let all: Vec<_> = (0..4).flat_map(|part| bytes(&mem, part * 0x100, 0x80)).collect();
    assert_eq!(all, pattern(0x200));
    engine.sync_all(9).unwrap();
    assert_eq!((next(&mut engine).token, engine.in_flight()), (9, 0));
}

#[test]
fn where_it_is_refused_each_is_a_system_call() {
    let hows = ["ENOSYS", "EPERM", "ENOMEM", "register", "use"];
    let ended = in_child!(where_it_is_refused_each_is_a_system_call, &hows, |how| {
        let (call, errno) = match how {
            "ENOSYS" => (libc::SYS_io_uring_setup, libc::ENOSYS),
            "EPERM" => (libc::SYS_io_uring_setup, libc::EPERM),
            "ENOMEM" => (libc::SYS_io_uring_setup, libc::ENOMEM),
            // Its event cannot be had.
            "register" => (libc::SYS_io_uring_register, libc::EACCES),
            // It may be made, and not used.
            _ => (libc::SYS_io_uring_enter, libc::EACCES),
        };
        refuse(call, Calls::All, errno);
        let engine = FileEngine::new(file(0x1000), 8).unwrap();
        assert_eq!(engine.fallback_reason().unwrap().raw_os_error(), Some(errno));
        assert_eq!(engine.capacity(), 8);
        works(engine);
    });
    all_well(&ended);
}

#[test]
fn it_may_be_chosen() {
    let engine = FileEngine::without_io_uring(file(0x1000), 8).unwrap();
    assert_eq!(engine.fallback_reason().unwrap().kind(), ErrorKind::Unsupported);
    works(engine);
}

/// What a sandbox forbids afterwards is an error of each call, and nothing is lost.
#[test]
fn what_is_forbidden_later_is_an_error() {
    in_child!(what_is_forbidden_later_is_an_error, {
        let mut engine = FileEngine::new(file(0x1000), 8).unwrap();
        if engine.fallback_reason().is_some() {
            return memory_model_test_support::skip!("no io_uring");
        }
        let mem = memory(&[0x1000]);
        refuse(libc::SYS_io_uring_enter, Calls::All, libc::EPERM);
        engine.read_at(owned(&mem, &[(0, 1)], Access::Write), 0, 1).unwrap();
        for _ in 0..2 {
            assert_eq!(engine.submit().unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(engine.next_completion().unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(engine.wait().unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        assert_eq!(engine.in_flight(), 1);
        // It cannot be waited for: what belongs to it is never freed.
        let region = std::sync::Arc::downgrade(mem.arc_regions().first().unwrap());
        drop((engine, mem));
        assert!(region.upgrade().is_some());
    });
}

/// Kernels before 5.12 count the queues as locked memory.
#[test]
fn no_memory_that_may_be_locked_is_no_error() {
    in_child!(no_memory_that_may_be_locked_is_no_error, {
        lock_limit(0);
        let mut engine = FileEngine::new(file(0x1000), 64).unwrap();
        let mem = memory(&[0x1000]);
        engine.read_at(owned(&mem, &[(0, 0x800)], Access::Write), 0, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 0x800);
    });
}
