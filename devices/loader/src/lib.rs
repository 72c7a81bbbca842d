//! A boot loader over any guest memory.
