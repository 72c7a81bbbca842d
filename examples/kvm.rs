//! A guest in KVM whose memory is ours: it runs, memory comes and goes meanwhile, and one log says which pages were written.
//!
//! ```console
//! cargo run --release --features kvm --example kvm
//! ```
//!
//! A guest of 64 KiB in real mode waits in a loop for orders, and writes into the pages that it is told to. The host writes,
//! too. Then KVM's dirty log and ours together must say exactly which pages were written, and nothing when asked once more.
//! Without stopping the guest, memory is plugged in, written by both, and removed; what is plugged in next has its slot.
//!
//! Where /dev/kvm does not open, or does not run the guest, it says so, and that is no failure.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "kvm/guest.rs"]
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "kvm/run.rs"]
mod run;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    match run::run()? {
        run::Ended::Pass => println!("PASS"),
        run::Ended::NotHere(why) => println!("SKIPPED: {why}"),
    }
    Ok(())
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("SKIPPED: the guest's program is for x86-64");
}
