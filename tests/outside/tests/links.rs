//! The program of this crate, linked in each way that is at hand: its own accesses recover in all of them.
//!
//! Builds it with the cargo that runs this test, in a target folder of its own. What that needs was fetched for this test.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What rust-lld leaves in what it has linked.
const LLD: &[u8] = b"Linker: LLD";

/// Builds the program, optimized, with further arguments for the compiler, and answers where it is.
fn build(arguments: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("links");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    command.args(["rustc", "--quiet", "--offline", "--release", "--bin", env!("CARGO_PKG_NAME")]);
    command.args(["--message-format", "json", "--target-dir"]).arg(target);
    command.args(["--", "-C", "opt-level=3"]).args(arguments);
    // What others are compiled from is kept for optimization across crates, so that they are compiled once for all; and
    // not optimized much, as what is inlined from them is optimized here.
    command.env("RUSTFLAGS", "-C embed-bitcode=yes").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let (messages, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {errors}{messages}");
    let (_, path) = messages.split_once(r#""executable":""#).unwrap();
    path.split_once('"').unwrap().0.into()
}

/// Runs the program: before the next is built, which takes its place.
fn check(how: &str, program: &Path) {
    let output = Command::new(program).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{how}: {}\n{stderr}", output.status);
    if stderr.contains("skipped") {
        memory_model_test_support::skip!("no fault recovery on this target");
    }
}

#[test]
fn accesses_recover_however_the_program_is_compiled_and_linked() {
    check("as this test is", Path::new(env!("CARGO_BIN_EXE_memory-model-outside")));
    check("optimized", &build(&[]));
    check("thin LTO", &build(&["-C", "lto=thin"]));
    check("fat LTO", &build(&["-C", "lto=fat", "-C", "codegen-units=1"]));
    check("stripped", &build(&["-C", "strip=symbols"]));
    for linker in ["bfd", "lld", "gold", "mold"] {
        if Command::new(format!("ld.{linker}")).arg("--version").output().is_err() {
            memory_model_test_support::skip!("no linker ld.{linker}");
            continue;
        }
        let program = build(&["-C", &format!("link-arg=-fuse-ld={linker}")]);
        let bytes = std::fs::read(&program).unwrap();
        assert_eq!(bytes.windows(LLD.len()).any(|bytes| bytes == LLD), linker == "lld", "not linked by {linker}");
        check(linker, &program);
    }
}
