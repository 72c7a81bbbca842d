//! Tells `benches/instructions.rs` which compiler it was built by: the counts depend on it.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("Cargo says which compiler it uses");
    let answer = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(answer.stdout).expect("the compiler's version is text");
    // "rustc 1.95.0 (59807616e 2026-04-14)": patch releases generate the same code.
    let number = version.split(' ').nth(1).unwrap_or("unknown");
    let minor = number.match_indices('.').nth(1).map_or(number, |(end, _)| &number[..end]);
    println!("cargo::rustc-env=BENCH_COMPILER={minor}");
}
