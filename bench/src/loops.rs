//! The loops that are timed: one operation for each address.
//!
//! Each is compiled for one contender and one type, by itself. Nothing of what is read is left out, as all of it ends
//! in the result; whoever calls passes that, and what goes in, through `black_box`.

use std::fs::File;
use std::hint::black_box;

use crate::{Contender, Ends, Pair, Plain};

/// What is done at each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads a value.
    Read(Type),
    /// Writes a value.
    Write(Type),
    /// Loads a `u16` atomically.
    Load,
    /// Stores a `u16` atomically.
    Store,
    /// Reads so many bytes into a buffer.
    ReadSlice(usize),
    /// Writes so many bytes from a buffer.
    WriteSlice(usize),
    /// Takes so many bytes from a file, which is rewound before the first.
    FromFile(usize),
    /// Puts so many bytes into a pipe, and takes them from there.
    FromPipe(usize),
}

/// A value's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// [`Pair`], a struct of 16 bytes.
    Pair,
}

impl Work {
    /// How many bytes are accessed at an address.
    pub fn size(self) -> usize {
        match self {
            Self::Read(of) | Self::Write(of) => match of {
                Type::U8 => 1,
                Type::U16 => 2,
                Type::U32 => 4,
                Type::U64 => 8,
                Type::Pair => 16,
            },
            Self::Load | Self::Store => 2,
            Self::ReadSlice(size) | Self::WriteSlice(size) | Self::FromFile(size) | Self::FromPipe(size) => size,
        }
    }
}

/// An address in a list of them.
///
/// It lies in the last of the four words, and the typed work is done in the first three of four: a load of an address
/// must not have the low 12 bits of a store that is just under way. Some processors then take the one to depend on
/// the other, wait, and learn to wait: 1 ns became 3, or not, as the list happened to lie in memory.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct At {
    unused: [u64; 3],
    addr: u64,
}

impl From<u64> for At {
    fn from(addr: u64) -> Self {
        Self { unused: [0; 3], addr }
    }
}

/// Does `work` once at each address. The answer depends on what was read.
///
/// # Panics
///
/// If an access fails.
#[inline(always)]
pub fn run<C: Contender>(memory: &C, work: Work, addrs: &[At], ends: &mut Ends) -> u64 {
    let (memory, addrs) = (black_box(memory), black_box(addrs));
    let answer = match work {
        Work::Read(Type::U8) => read_obj::<C, u8>(memory, addrs),
        Work::Read(Type::U16) => read_obj::<C, u16>(memory, addrs),
        Work::Read(Type::U32) => read_obj::<C, u32>(memory, addrs),
        Work::Read(Type::U64) => read_obj::<C, u64>(memory, addrs),
        Work::Read(Type::Pair) => read_obj::<C, Pair>(memory, addrs),
        Work::Write(Type::U8) => write_obj::<C, u8>(memory, addrs),
        Work::Write(Type::U16) => write_obj::<C, u16>(memory, addrs),
        Work::Write(Type::U32) => write_obj::<C, u32>(memory, addrs),
        Work::Write(Type::U64) => write_obj::<C, u64>(memory, addrs),
        Work::Write(Type::Pair) => write_obj::<C, Pair>(memory, addrs),
        Work::Load => load(memory, addrs),
        Work::Store => store(memory, addrs),
        Work::ReadSlice(size) => read_slice(memory, addrs, ends.buffer(size)),
        Work::WriteSlice(size) => write_slice(memory, addrs, ends.buffer(size)),
        Work::FromFile(size) => from_file(memory, addrs, ends.file(), size),
        Work::FromPipe(size) => from_pipe(memory, addrs, ends, size),
    };
    black_box(answer.expect("all addresses are valid"))
}

#[inline(never)]
fn read_obj<C: Contender, T: Plain>(memory: &C, addrs: &[At]) -> Result<u64, C::E> {
    let mut sum = 0_u64;
    for &At { addr, .. } in addrs {
        sum = sum.wrapping_add(memory.read_obj::<T>(addr)?.digest());
    }
    Ok(sum)
}

#[inline(never)]
fn write_obj<C: Contender, T: Plain>(memory: &C, addrs: &[At]) -> Result<u64, C::E> {
    let mut number = 0_u64;
    for &At { addr, .. } in addrs {
        memory.write_obj(T::make(number), addr)?;
        number += 1;
    }
    Ok(number)
}

#[inline(never)]
fn load<C: Contender>(memory: &C, addrs: &[At]) -> Result<u64, C::E> {
    let mut sum = 0_u64;
    for &At { addr, .. } in addrs {
        sum = sum.wrapping_add(memory.load(addr)?.into());
    }
    Ok(sum)
}

#[inline(never)]
fn store<C: Contender>(memory: &C, addrs: &[At]) -> Result<u64, C::E> {
    let mut number = 0_u16;
    for &At { addr, .. } in addrs {
        memory.store(number, addr)?;
        number = number.wrapping_add(1);
    }
    Ok(number.into())
}

#[inline(never)]
fn read_slice<C: Contender>(memory: &C, addrs: &[At], buf: &mut [u8]) -> Result<u64, C::E> {
    for &At { addr, .. } in addrs {
        memory.read_slice(buf, addr)?;
        black_box(&mut *buf);
    }
    Ok(buf.first().zip(buf.last()).map_or(0, |(&first, &last)| u64::from_le_bytes([first, last, 0, 0, 0, 0, 0, 0])))
}

#[inline(never)]
fn write_slice<C: Contender>(memory: &C, addrs: &[At], buf: &[u8]) -> Result<u64, C::E> {
    for &At { addr, .. } in addrs {
        memory.write_slice(black_box(buf), addr)?;
    }
    Ok(0)
}

#[inline(never)]
fn from_file<C: Contender>(memory: &C, addrs: &[At], file: &File, count: usize) -> Result<u64, C::E> {
    let mut sum = 0;
    for &At { addr, .. } in addrs {
        sum += memory.write_from(addr, file, count)? as u64;
    }
    Ok(sum)
}

#[inline(never)]
fn from_pipe<C: Contender>(memory: &C, addrs: &[At], ends: &Ends, count: usize) -> Result<u64, C::E> {
    let mut sum = 0;
    for &At { addr, .. } in addrs {
        sum += memory.write_from(addr, ends.pipe(count), count)? as u64;
    }
    Ok(sum)
}
