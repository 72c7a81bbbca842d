//! Handlers before ours get what is theirs, and handlers after ours can pass on what is ours.

use std::sync::atomic::Ordering::SeqCst;

use libc::{SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_SIGINFO, SIG_IGN, SIGBUS, SIGSEGV};
use memory_model::fault_recovery;

use crate::child::{BOTH, all_by, all_well, in_child, install, recovers};
use crate::raw::{self, ADDR, CALLS, MASKED, before, check_recovers, repair, repair_at, touch};

/// Installs `handler`, then ours if that is how; the handler's faults are its own, ours are ours.
fn handler_before(how: &str, handler: usize, flags: i32) {
    before(SIGSEGV, handler, flags);
    before(SIGBUS, handler, flags);
    install(how);
    let (page, (empty, file)) = (raw::forbidden_page(), raw::empty_page());
    raw::to_repair(page, &file);
    for (count, byte) in [page.wrapping_add(123), empty.wrapping_add(77)].into_iter().enumerate() {
        assert_eq!(touch(byte), 0);
        assert_eq!((CALLS.load(SeqCst), MASKED.load(SeqCst)), (count + 1, 1));
        if flags & SA_SIGINFO != 0 {
            assert_eq!(ADDR.load(SeqCst), byte.addr());
        }
        if how == "with" {
            check_recovers();
            assert_eq!(CALLS.load(SeqCst), count + 1);
        }
    }
}

#[test]
fn a_handler_before_ours_gets_its_own_faults() {
    if recovers() {
        let ended = in_child!(a_handler_before_ours_gets_its_own_faults, BOTH, |how| {
            handler_before(how, repair_at as *const () as usize, SA_SIGINFO | SA_ONSTACK);
        });
        all_well(&ended);
    }
}

#[test]
fn a_handler_before_ours_may_be_without_siginfo() {
    if recovers() {
        let ended = in_child!(a_handler_before_ours_may_be_without_siginfo, BOTH, |how| {
            handler_before(how, repair as *const () as usize, 0);
        });
        all_well(&ended);
    }
}

#[test]
fn a_handler_before_ours_that_is_for_one_signal_gets_one() {
    if recovers() {
        let ended = in_child!(a_handler_before_ours_that_is_for_one_signal_gets_one, BOTH, |how| {
            handler_before(how, repair as *const () as usize, SA_RESETHAND);
            eprintln!("one each");
            touch(raw::forbidden_page());
            eprintln!("survived");
        });
        all_by(&ended, SIGSEGV, "one each");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_handler_before_ours_may_fault_itself_if_its_flags_allow_it() {
    if recovers() {
        let test = |how: &str| {
            let flags = if how.contains("forbidden") { 0 } else { SA_NODEFER };
            before(SIGSEGV, raw::fault_within as *const () as usize, flags);
            install(how.split_once(' ').unwrap().0);
            let page = raw::two_forbidden_pages();
            raw::to_repair(page, &raw::empty_page().1);
            touch(page);
            assert_eq!(CALLS.load(SeqCst), 2);
        };
        let hows = ["without allowed", "with allowed", "without forbidden", "with forbidden"];
        let ended = in_child!(a_handler_before_ours_may_fault_itself_if_its_flags_allow_it, hows, test);
        all_well(&ended[..2]);
        all_by(&ended[2..], SIGSEGV, "");
    }
}

#[test]
fn signals_that_were_ignored_are_ignored_and_faults_are_not() {
    if recovers() {
        let test = |how: &str| {
            let (how, flags) =
                if how.contains("once") { (how.split_once(' ').unwrap().0, SA_RESETHAND) } else { (how, 0) };
            before(SIGSEGV, SIG_IGN, flags);
            before(SIGBUS, SIG_IGN, flags);
            install(how);
            for signal in [SIGSEGV, SIGBUS, SIGSEGV, SIGBUS] {
                raw::raise(signal);
            }
            if how == "with" {
                check_recovers();
            }
            eprintln!("ignored");
            touch(raw::forbidden_page());
            eprintln!("survived");
        };
        let hows = ["without", "with", "without once", "with once"];
        let ended = in_child!(signals_that_were_ignored_are_ignored_and_faults_are_not, hows, test);
        all_by(&ended, SIGSEGV, "ignored");
    }
}

#[test]
fn a_handler_after_ours_gets_its_own_faults_and_passes_ours_on() {
    if recovers() {
        let ended = in_child!(a_handler_after_ours_gets_its_own_faults_and_passes_ours_on, ["with"], |how| {
            install(how);
            raw::install_chain(SIGSEGV);
            raw::install_chain(SIGBUS);
            check_recovers();
            assert_eq!(CALLS.load(SeqCst), 0);
            let page = raw::forbidden_page();
            raw::to_repair(page, &raw::empty_page().1);
            assert_eq!(touch(page.wrapping_add(5)), 0);
            assert_eq!((CALLS.load(SeqCst), ADDR.load(SeqCst)), (1, page.addr() + 5));
            check_recovers();
            assert_eq!(CALLS.load(SeqCst), 1);
            // What is nobody's goes all the way.
            eprintln!("to all of them");
            touch(raw::null());
        });
        all_by(&ended, SIGSEGV, "to all of them");
    }
}

#[test]
fn installing_twice_is_installing_once() {
    if recovers() {
        let ended = in_child!(installing_twice_is_installing_once, ["with"], |how| {
            before(SIGSEGV, repair as *const () as usize, 0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| fault_recovery::install().unwrap());
                }
            });
            install(how);
            fault_recovery::install().unwrap();
            check_recovers();
            // If it were passed on to ourselves, it would never come to this handler.
            let page = raw::forbidden_page();
            raw::to_repair(page, &raw::empty_page().1);
            assert_eq!(touch(page), 0);
            assert_eq!(CALLS.load(SeqCst), 1);
        });
        all_well(&ended);
    }
}
