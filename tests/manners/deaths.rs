//! What ends a process without us ends it with us, by the same signal and with the same words.

use std::process::Command;

use libc::{SIG_DFL, SIGABRT, SIGBUS, SIGSEGV};
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::child::{BOTH, all_by, in_child, install, recovers};
use crate::raw::{self, before, check_recovers, touch};

/// Installs ours, if that is how, and sees it at work.
fn install_and_check(how: &str) {
    install(how);
    if how == "with" {
        check_recovers();
    }
}

#[test]
fn a_stack_overflow_of_a_thread_is_reported_by_the_runtime() {
    if recovers() {
        let ended = in_child!(a_stack_overflow_of_a_thread_is_reported_by_the_runtime, BOTH, |how| {
            install_and_check(how);
            let thread = std::thread::Builder::new().name("deep".to_owned()).stack_size(1 << 16);
            thread.spawn(|| raw::overflow(0)).unwrap().join().unwrap();
        });
        all_by(&ended, SIGABRT, "thread 'deep'");
        all_by(&ended, SIGABRT, "has overflowed its stack");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_stack_overflow_of_the_main_thread_is_reported_by_the_runtime() {
    if recovers() {
        let ended = in_child!(a_stack_overflow_of_the_main_thread_is_reported_by_the_runtime, BOTH, |how| {
            install_and_check(how);
            raw::overflow_main();
        });
        all_by(&ended, SIGABRT, "thread 'main'");
        all_by(&ended, SIGABRT, "has overflowed its stack");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_null_pointer_ends_the_process() {
    if recovers() {
        let ended = in_child!(a_null_pointer_ends_the_process, BOTH, |how| {
            install_and_check(how);
            eprintln!("to be read");
            touch(raw::null());
            eprintln!("survived");
        });
        all_by(&ended, SIGSEGV, "to be read");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_bad_page_of_somebody_else_ends_the_process() {
    if recovers() {
        let ended = in_child!(a_bad_page_of_somebody_else_ends_the_process, BOTH, |how| {
            install_and_check(how);
            eprintln!("to be read");
            touch(raw::empty_page().0);
            eprintln!("survived");
        });
        all_by(&ended, SIGBUS, "to be read");
        assert_eq!(ended[0], ended[1]);
    }
}

/// Has another process send this one a signal.
fn kill(signal: &str) {
    let command = format!("kill -{signal} {}", std::process::id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

#[test]
fn a_signal_from_outside_has_its_default_effect() {
    if recovers() {
        let hows = ["without BUS", "with BUS", "without SEGV", "with SEGV"];
        let ended = in_child!(a_signal_from_outside_has_its_default_effect, hows, |how| {
            let (how, signal) = how.split_once(' ').unwrap();
            before(SIGBUS, SIG_DFL, 0);
            before(SIGSEGV, SIG_DFL, 0);
            install_and_check(how);
            eprintln!("to be killed");
            kill(signal);
            // Another thread may get it, and this one see the end of it.
            std::thread::sleep(std::time::Duration::from_secs(60));
            eprintln!("survived");
        });
        all_by(&ended[..2], SIGBUS, "to be killed");
        all_by(&ended[2..], SIGSEGV, "to be killed");
        assert_eq!((&ended[0], &ended[2]), (&ended[1], &ended[3]));
    }
}

/// The runtime's own handler takes the first for a fault that will come again, and has no effect but to remove itself.
#[test]
fn a_signal_from_outside_has_the_effect_that_the_runtime_gives_it() {
    if recovers() {
        let ended = in_child!(a_signal_from_outside_has_the_effect_that_the_runtime_gives_it, BOTH, |how| {
            install_and_check(how);
            for time in ["first", "second", "third"] {
                eprintln!("{time}");
                kill("BUS");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        all_by(&ended, SIGBUS, "first");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_fault_of_the_other_end_of_a_copy_is_not_ours() {
    if recovers() {
        let hows = ["read", "write", "read more", "write more"];
        let ended = in_child!(a_fault_of_the_other_end_of_a_copy_is_not_ours, hows, |how| {
            install_and_check("with");
            let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), raw::SIZE)]).unwrap();
            let other = raw::forbidden_slice();
            let other = if how.contains("more") { other } else { &mut other[..8] };
            eprintln!("to be accessed");
            let accessed = if how.contains("read") {
                mem.read_slice(other, GuestAddress(0))
            } else {
                mem.write_slice(other, GuestAddress(0))
            };
            eprintln!("survived: {accessed:?}");
        });
        all_by(&ended, SIGSEGV, "to be accessed");
    }
}
