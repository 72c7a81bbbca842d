//! The other end of slices and streams, and reproducible noise.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::pipe;

/// A buffer, a file and a pipe, the same for all contenders.
pub struct Ends {
    bytes: Vec<u8>,
    /// Where in `bytes` a page begins.
    start: usize,
    file: File,
    pipe: (File, File),
}

impl Ends {
    /// With so many bytes in buffer and file.
    pub fn new(len: usize) -> Self {
        let bytes = noise(len + 4096);
        let (read, write) = pipe().expect("there are descriptors left");
        Self {
            start: bytes.as_ptr().align_offset(4096),
            bytes,
            file: memory_file("source", len),
            pipe: (read.into(), write.into()),
        }
    }

    /// The first bytes of the buffer, which is aligned to a page.
    pub(crate) fn buffer(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..len]
    }

    /// The file, from its start on.
    pub(crate) fn file(&self) -> &File {
        (&self.file).rewind().expect("a file has a start");
        &self.file
    }

    /// The end of a pipe that has just so many bytes to be read.
    pub(crate) fn pipe(&self, len: usize) -> &File {
        let (read, mut write) = (&self.pipe.0, &self.pipe.1);
        write.write_all(&self.bytes[self.start..][..len]).expect("a pipe takes 64 KiB");
        read
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

/// A file of `len` bytes of noise, in memory.
pub fn memory_file(name: &str, len: usize) -> File {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).expect("the kernel has memfd_create"));
    file.write_all(&noise(len)).expect("there is memory for it");
    file
}

/// Bytes that differ from each other.
pub fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(len as u64);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// xorshift64*: the same numbers in each run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is below 2^32.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.next() >> 32) * end) >> 32
    }
}
