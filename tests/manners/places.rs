//! Where recovery works: in any thread, after fork(2). And where it does not: where it was left out, or is blocked.

use libc::{SIGBUS, SIGSEGV};
use memory_model::{Bytes, GuestAddress, fault_recovery};

use crate::child::{all_by, all_well, in_child, install, recovers};
use crate::raw::{self, check_recovers};

#[test]
fn a_thread_without_an_alternate_stack_recovers() {
    if recovers() {
        let ended = in_child!(a_thread_without_an_alternate_stack_recovers, ["with"], |how| {
            install(how);
            raw::in_bare_thread(check_recovers);
            raw::in_bare_thread(|| (0..1000).for_each(|_| check_recovers()));
        });
        all_well(&ended);
    }
}

#[test]
fn a_process_recovers_after_fork() {
    if recovers() {
        let ended = in_child!(a_process_recovers_after_fork, ["with"], |how| {
            install(how);
            assert_eq!(raw::in_fork(check_recovers), 0);
            check_recovers();
        });
        all_well(&ended);
    }
}

#[test]
fn a_thread_that_blocks_the_signals_is_ended_with_the_process() {
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return memory_model_test_support::skip!("emulated: blocked signals do not end the process");
    }
    if recovers() {
        let ended = in_child!(a_thread_that_blocks_the_signals_is_ended_with_the_process, ["with"], |how| {
            install(how);
            check_recovers();
            raw::block([SIGSEGV, SIGBUS]);
            eprintln!("blocked");
            check_recovers();
            eprintln!("survived");
        });
        all_by(&ended, SIGBUS, "blocked");
    }
}

#[test]
fn without_recovery_a_bad_page_ends_the_process() {
    let ended = in_child!(without_recovery_a_bad_page_ends_the_process, ["without"], |_| {
        let mem = raw::empty_memory(false);
        assert!(!fault_recovery::is_installed());
        eprintln!("not installed");
        let read = mem.read_obj::<u64>(GuestAddress(0));
        eprintln!("survived: {read:?}");
    });
    all_by(&ended, SIGBUS, "not installed");
}

/// The handlers are the process's.
#[test]
fn any_mapping_installs_recovery_for_all() {
    if recovers() {
        let ended = in_child!(any_mapping_installs_recovery_for_all, ["with"], |how| {
            let mem = raw::empty_memory(false);
            install(how);
            let read = mem.read_obj::<u64>(GuestAddress(0));
            assert!(read.is_err());
            check_recovers();
        });
        all_well(&ended);
    }
}
