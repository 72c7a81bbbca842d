//! How many instructions the commonest operations take, counted by Valgrind's callgrind: the same on a noisy machine.
//!
//! * `cargo bench -p bench --bench instructions` prints the counts, and fails if one grew over the baseline;
//! * `cargo bench -p bench --bench instructions -- --bless` makes the counts the new baseline.
//!
//! A count is that of one call of a function that does one operation, the call included, on average over some
//! addresses. The program runs itself under callgrind once for each operation, and has callgrind collect inside of
//! that function alone, so that nothing needs to be subtracted.
//!
//! The baseline is for x86-64, and for one version of the compiler and one set of the processor's extensions, by
//! which code is chosen when it runs. It names them; where they differ, the bound is looser.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::process::{Command, ExitCode};
use std::{env, io};

#[path = "instructions/baseline.rs"]
mod baseline;
#[path = "instructions/callgrind.rs"]
mod callgrind;
#[path = "instructions/operations.rs"]
mod operations;

use baseline::{Baseline, Verdict};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let [callgrind::CHILD, name] = args[..] {
        callgrind::child(name);
        return ExitCode::SUCCESS;
    }
    if !args.contains(&"--bench") {
        return skip("`cargo bench` counts, `cargo test` does not");
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return skip("the baseline is for Linux on x86-64");
    }
    let exe = env::current_exe().expect("this program is a file");
    if !exe.components().any(|folder| folder.as_os_str() == "release") {
        return skip("the baseline is for the default profile");
    }
    match Command::new("valgrind").arg("--version").output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return skip("valgrind is not installed"),
        found => found.expect("valgrind can be run"),
    };
    let run = callgrind::count();
    if args.contains(&"--bless") {
        baseline::write(&run);
    }
    report(&run, &Baseline::read())
}

fn skip(reason: &str) -> ExitCode {
    println!("no instructions counted: {reason}");
    ExitCode::SUCCESS
}

/// Prints the table. It is a failure if an operation takes too many instructions more than it did.
fn report(run: &callgrind::Run, baseline: &Baseline) -> ExitCode {
    println!("{:<30} {:>12} {:>10} {:>8}", "operation", "instructions", "baseline", "change");
    let mut failed = false;
    for &(name, count) in &run.counts {
        let (before, change) = match baseline.count(name) {
            Some(before) => (before.to_string(), format!("{:+.1} %", percent(before, count))),
            None => ("none".into(), String::new()),
        };
        let verdict = baseline.judge(run, name, count);
        failed |= matches!(verdict, Verdict::Grown | Verdict::Unknown);
        println!("{name:<30} {count:>12} {before:>10} {change:>8} {verdict}");
    }
    if let Some(difference) = baseline.difference(run) {
        println!("{difference}");
    }
    if failed {
        println!("If the change is meant: cargo bench -p bench --bench instructions -- --bless");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn percent(before: u32, after: u32) -> f64 {
    (f64::from(after) / f64::from(before) - 1.0) * 100.0
}
