//! The loader through its public API, on kernels made here, on broken ones, and on a real one where there is one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails is a test that fails")]

mod boot_params;
mod bzimage;
mod corrupt_bzimage;
mod corrupt_elf;
mod elf;
mod format;
mod images;
mod initrd;
mod kinds;
mod mutations;
mod notes;
mod real_kernel;
mod recorder;
mod support;
