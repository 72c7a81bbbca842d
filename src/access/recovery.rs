//! The recovery table, as the engines write it: one entry for each run of instructions that touches guest bytes.
//!
//! An entry is made where the instructions are, in the linker section `memory_model_MAJOR_MINOR`, also where they were
//! inlined into another crate. It names the run, the place to go on at after a fault, and how many bytes the run may
//! touch; where they are, the engine's fixed registers tell.

/// An entry, as it lies in the section. Each of the first three is relative to its own address.
#[cfg(feature = "fault-recovery")]
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawEntry {
    /// The first instruction.
    pub(super) start: i32,
    /// The one after the last.
    pub(super) end: i32,
    /// Where to go on.
    pub(super) landing: i32,
    /// The bytes of a single access; 0 for a bulk operation.
    pub(super) width: u32,
}

/// The entry of the run between the labels 2 and 3, which accesses `$width` bytes, or as many as a register says.
///
/// The section is retained ("R"): else the linkers' collection of unused sections drops entries without a word, as no
/// code refers to them.
macro_rules! entry {
    ($width:literal) => {
        concat!(
            ".pushsection ",
            $crate::access::recovery::section!(),
            ",\"aR\",%progbits\n.balign 4\n.4byte 2b - .\n.4byte 3b - .\n.4byte 3b - .\n.4byte ",
            $width,
            "\n.popsection"
        )
    };
}
pub(super) use entry;

/// The section's name has the version, so that two versions of this crate in one program keep to their own entries.
macro_rules! section {
    () => {
        concat!("memory_model_", env!("CARGO_PKG_VERSION_MAJOR"), "_", env!("CARGO_PKG_VERSION_MINOR"))
    };
}
pub(super) use section;

/// A thread that a signal has interrupted, with the registers that the engine has fixed.
#[cfg(feature = "fault-recovery")]
pub(super) trait Interrupted {
    /// The address of the instruction that faulted.
    fn instruction(&self) -> usize;
    /// The address of a single access.
    fn pointer(&self) -> usize;
    /// Where a bulk operation's guest bytes begin, in two places that may be the same, and how many there are.
    fn bulk(&self) -> ([usize; 2], usize);
    /// Continues at `landing`, and tells it the bad address.
    fn go_on(&mut self, landing: usize, bad: usize);
}
