//! Signals that are no faults, and handlers that replace ours: recovery goes on, or can be installed again.

use std::sync::atomic::Ordering::SeqCst;

use libc::{SA_ONSTACK, SA_RESETHAND, SA_SIGINFO, SIG_DFL, SIGABRT, SIGBUS, SIGSEGV};
use memory_model::{MmapRegion, fault_recovery};

use crate::child::{BOTH, all_by, all_well, in_child, install, recovers};
use crate::raw::{self, CALLS, before, check_recovers, touch};

/// Recovery as it has to be after each event.
#[track_caller]
fn check_installed() {
    assert!(fault_recovery::is_installed());
    check_recovers();
}

#[test]
fn recovery_survives_a_signal_that_the_runtimes_handler_takes() {
    if recovers() {
        let hows = ["BUS", "SEGV", "both", "lost memory"];
        let ended = in_child!(recovery_survives_a_signal_that_the_runtimes_handler_takes, hows, |how| {
            install("with");
            match how {
                "BUS" => raw::raise(SIGBUS),
                "SEGV" => raw::raise(SIGSEGV),
                "both" => [SIGBUS, SIGSEGV].into_iter().for_each(raw::raise),
                // Emulators in user mode take it for a fault of their own.
                _ if std::env::var_os("CROSS_RUNNER").is_some() => {
                    memory_model_test_support::skip!("emulated: lost memory is taken for a fault of the emulator");
                }
                _ => raw::raise_lost_memory(),
            }
            check_installed();
            drop(MmapRegion::new(1).unwrap());
            check_installed();
        });
        all_well(&ended);
    }
}

#[test]
fn a_fault_that_is_not_ours_ends_the_process_after_a_signal_that_was_survived() {
    if recovers() {
        let hows = BOTH;
        let ended =
            in_child!(a_fault_that_is_not_ours_ends_the_process_after_a_signal_that_was_survived, hows, |how| {
                install(how);
                raw::raise(SIGSEGV);
                if how == "with" {
                    check_installed();
                }
                eprintln!("to be read");
                touch(raw::null());
                eprintln!("survived");
            });
        all_by(&ended, SIGSEGV, "to be read");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_stack_overflow_is_reported_after_a_signal_of_the_other_kind() {
    if recovers() {
        let ended = in_child!(a_stack_overflow_is_reported_after_a_signal_of_the_other_kind, BOTH, |how| {
            install(how);
            raw::raise(SIGBUS);
            let thread = std::thread::Builder::new().name("deep".to_owned()).stack_size(1 << 16);
            thread.spawn(|| raw::overflow(0)).unwrap().join().unwrap();
        });
        all_by(&ended, SIGABRT, "has overflowed its stack");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn recovery_survives_signals_that_come_to_many_threads_at_once() {
    if recovers() {
        let ended = in_child!(recovery_survives_signals_that_come_to_many_threads_at_once, ["with"], |how| {
            for signal in [SIGBUS, SIGSEGV] {
                before(signal, raw::count as *const () as usize, SA_ONSTACK);
            }
            install(how);
            std::thread::scope(|scope| {
                for number in 0..8 {
                    scope.spawn(move || {
                        for round in 0..50 {
                            raw::raise([SIGBUS, SIGSEGV][(number + round) % 2]);
                            check_recovers();
                        }
                    });
                }
            });
            assert_eq!(CALLS.load(SeqCst), 400);
            check_installed();
        });
        all_well(&ended);
    }
}

#[test]
fn a_handler_for_one_signal_is_called_once_and_recovery_survives_it() {
    if recovers() {
        let ended = in_child!(a_handler_for_one_signal_is_called_once_and_recovery_survives_it, BOTH, |how| {
            before(SIGBUS, raw::count as *const () as usize, SA_RESETHAND);
            install(how);
            raw::raise(SIGBUS);
            assert_eq!(CALLS.load(SeqCst), 1);
            if how == "with" {
                check_installed();
            }
            eprintln!("once");
            raw::raise(SIGBUS);
            eprintln!("survived");
        });
        all_by(&ended, SIGBUS, "once");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn a_handler_that_ends_the_process_by_sending_the_signal_again_does_so() {
    if recovers() {
        let ended = in_child!(a_handler_that_ends_the_process_by_sending_the_signal_again_does_so, BOTH, |how| {
            before(SIGSEGV, raw::report as *const () as usize, 0);
            install(how);
            eprintln!("to be reported");
            raw::raise(SIGSEGV);
            eprintln!("survived {}", CALLS.load(SeqCst));
        });
        all_by(&ended, SIGSEGV, "to be reported");
        assert_eq!(ended[0], ended[1]);
    }
}

#[test]
fn recovery_that_was_replaced_says_so_and_can_be_installed_again() {
    if recovers() {
        let ended = in_child!(recovery_that_was_replaced_says_so_and_can_be_installed_again, ["with"], |how| {
            install(how);
            for signal in [SIGBUS, SIGSEGV] {
                for handler in [SIG_DFL, raw::count as *const () as usize] {
                    // More often than there are handlers of ours.
                    for _ in 0..50 {
                        before(signal, handler, 0);
                        assert!(!fault_recovery::is_installed());
                        fault_recovery::install().unwrap();
                        check_installed();
                    }
                }
            }
            raw::raise(SIGBUS);
            assert_eq!(CALLS.load(SeqCst), 1);
        });
        all_well(&ended);
    }
}

#[test]
fn recovery_installed_before_a_handler_that_passes_on_to_it_makes_no_circle() {
    if recovers() {
        let ended =
            in_child!(recovery_installed_before_a_handler_that_passes_on_to_it_makes_no_circle, ["with"], |how| {
                for signal in [SIGBUS, SIGSEGV] {
                    before(signal, raw::count as *const () as usize, SA_ONSTACK);
                }
                install(how);
                for signal in [SIGBUS, SIGSEGV] {
                    raw::install_pass_round(signal);
                }
                check_recovers();
                assert!(!fault_recovery::is_installed());
                fault_recovery::install().unwrap();
                CALLS.store(0, SeqCst);
                check_installed();
                assert_eq!(CALLS.load(SeqCst), 0);
                // The one that passes on, and the first.
                for signal in [SIGBUS, SIGSEGV] {
                    raw::raise(signal);
                }
                assert_eq!(CALLS.load(SeqCst), 4);
                check_installed();
            });
        all_well(&ended);
    }
}

/// The handler is installed before ours, and once more after it: its own previous handler is then ours.
#[test]
fn a_circle_that_another_handler_makes_ends_by_the_signal() {
    if recovers() {
        let hows = ["BUS", "SEGV", "fault"];
        let ended = in_child!(a_circle_that_another_handler_makes_ends_by_the_signal, hows, |how| {
            for signal in [SIGBUS, SIGSEGV] {
                raw::install_pass_round(signal);
            }
            install("with");
            for signal in [SIGBUS, SIGSEGV] {
                raw::install_pass_round(signal);
            }
            check_recovers();
            fault_recovery::install().unwrap();
            check_installed();
            eprintln!("round");
            match how {
                "BUS" => raw::raise(SIGBUS),
                "SEGV" => raw::raise(SIGSEGV),
                _ => drop(touch(raw::null())),
            }
            eprintln!("survived");
        });
        all_by(&ended[..1], SIGBUS, "round");
        all_by(&ended[1..], SIGSEGV, "round");
    }
}

#[test]
fn a_handler_that_installs_another_leaves_ours_before_it() {
    if recovers() {
        let ended = in_child!(a_handler_that_installs_another_leaves_ours_before_it, ["with"], |how| {
            before(SIGBUS, raw::hand_over as *const () as usize, SA_SIGINFO);
            install(how);
            raw::raise(SIGBUS);
            check_installed();
            raw::raise(SIGBUS);
            check_installed();
            assert_eq!(CALLS.load(SeqCst), 11);
        });
        all_well(&ended);
    }
}
