//! [`Op`]: one call of one method of a memory.

use std::sync::atomic::Ordering;

use memory_model::{
    Address, Bytes, DataInit, GuestAddress, GuestMemory, GuestSlice, IoAddress, IoMemory, guest_memory,
};

use super::oracle::Model;
use super::outcome::{Answer, Failure, Outcome};
use super::stream::{Data, Pace, Stream};
use super::value::{Atom, Shape, value, with_atom, with_shape};

/// What a buffer holds before it is read into.
pub(crate) const UNREAD: u8 = 0xee;

/// One call of one method: of `Bytes`, or of `GuestMemory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write { addr: u64, data: Data },
    Read { addr: u64, len: usize },
    WriteSlice { addr: u64, data: Data },
    ReadSlice { addr: u64, len: usize },
    WriteObj { addr: u64, shape: Shape, value: [u8; 16] },
    ReadObj { addr: u64, shape: Shape },
    Fill { addr: u64, byte: u8, len: usize },
    Load { addr: u64, atom: Atom, order: Ordering },
    Store { addr: u64, atom: Atom, value: [u8; 8], order: Ordering },
    CompareExchange { addr: u64, atom: Atom, current: Current, new: [u8; 8], orders: (Ordering, Ordering) },
    WriteFrom { addr: u64, src: Pace, count: usize },
    WriteAllFrom { addr: u64, src: Pace, count: usize },
    ReadInto { addr: u64, dst: Pace, count: usize },
    ReadAllInto { addr: u64, dst: Pace, count: usize },
    Copy { src: u64, dst: u64, len: usize },
    GetSlice { addr: u64, count: usize },
    GetSlices { addr: u64, count: usize },
    CheckRange { addr: u64, len: usize },
    CheckedOffset { base: u64, offset: usize },
}

/// The answer, and what the other end of a stream gave or took.
type Transferred<E> = (Result<Answer, E>, Vec<u8>);

/// What a compare-exchange expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    /// What is there.
    Held,
    This([u8; 8]),
}

impl Op {
    /// The same call with other addresses.
    pub(crate) fn map_addrs(mut self, map: impl Fn(u64) -> u64) -> Self {
        match &mut self {
            Self::Write { addr, .. }
            | Self::Read { addr, .. }
            | Self::WriteSlice { addr, .. }
            | Self::ReadSlice { addr, .. }
            | Self::WriteObj { addr, .. }
            | Self::ReadObj { addr, .. }
            | Self::Fill { addr, .. }
            | Self::Load { addr, .. }
            | Self::Store { addr, .. }
            | Self::CompareExchange { addr, .. }
            | Self::WriteFrom { addr, .. }
            | Self::WriteAllFrom { addr, .. }
            | Self::ReadInto { addr, .. }
            | Self::ReadAllInto { addr, .. }
            | Self::GetSlice { addr, .. }
            | Self::GetSlices { addr, .. }
            | Self::CheckRange { addr, .. }
            | Self::CheckedOffset { base: addr, .. } => *addr = map(*addr),
            Self::Copy { src, dst, .. } => (*src, *dst) = (map(*src), map(*dst)),
        }
        self
    }

    pub(crate) fn is_atomic(&self) -> bool {
        matches!(self, Self::Load { .. } | Self::Store { .. } | Self::CompareExchange { .. })
    }

    /// Whether there is memory for all that a source might give.
    pub(crate) fn has_room_for_source(&self, model: &Model) -> bool {
        match *self {
            Self::WriteFrom { addr, count, .. } | Self::WriteAllFrom { addr, count, .. } => {
                model.get(addr, count).len() == count
            }
            _ => true,
        }
    }

    /// Makes the call on a guest's memory.
    pub(crate) fn run<M: GuestMemory>(&self, memory: &M) -> Outcome {
        match self.run_bytes(memory, GuestAddress) {
            Some(outcome) => outcome,
            None => Outcome::of(self.run_guest(memory)),
        }
    }

    /// Makes the call on memory as a device sees it, or on the memory behind it, if a device has no such call.
    pub(crate) fn run_io<I: IoMemory>(&self, memory: &I) -> Outcome {
        match self.run_bytes(memory, IoAddress) {
            Some(outcome) => outcome,
            None => Outcome::of(self.run_guest(memory.physical())),
        }
    }

    /// Makes the call, if it is one of `Bytes`, by the kind of address that `at` makes.
    pub(crate) fn run_bytes<A: Address, M: Bytes<A>>(&self, memory: &M, at: impl Fn(u64) -> A) -> Option<Outcome>
    where
        Failure: From<M::E>,
    {
        let (result, other_end) = match *self {
            Self::Write { addr, data } => (memory.write(&data.bytes(), at(addr)).map(Answer::Count), Vec::new()),
            Self::Read { addr, len } => {
                let mut buf = vec![UNREAD; len];
                (memory.read(&mut buf, at(addr)).map(Answer::Count), buf)
            }
            Self::WriteSlice { addr, data } => {
                (memory.write_slice(&data.bytes(), at(addr)).map(|()| Answer::Done), Vec::new())
            }
            Self::ReadSlice { addr, len } => {
                let mut buf = vec![UNREAD; len];
                (memory.read_slice(&mut buf, at(addr)).map(|()| Answer::Done), buf)
            }
            Self::WriteObj { addr, shape, value: bytes } => {
                let written = with_shape!(shape, T => memory.write_obj::<T>(value(&bytes), at(addr)));
                (written.map(|()| Answer::Done), Vec::new())
            }
            Self::ReadObj { addr, shape } => {
                let read =
                    with_shape!(shape, T => memory.read_obj::<T>(at(addr)).map(|value| value.as_slice().to_vec()));
                (read.map(Answer::Value), Vec::new())
            }
            Self::Fill { addr, byte, len } => (memory.fill(byte, len, at(addr)).map(|()| Answer::Done), Vec::new()),
            _ => match self.run_atomic(memory, &at) {
                Some(result) => (result, Vec::new()),
                None => self.run_stream(memory, at)?,
            },
        };
        Some(Outcome { result: result.map_err(Failure::from), other_end })
    }

    fn run_atomic<A: Address, M: Bytes<A>>(&self, memory: &M, at: impl Fn(u64) -> A) -> Option<Result<Answer, M::E>> {
        Some(match *self {
            Self::Load { addr, atom, order } => with_atom!(atom, T => {
                memory.load::<T>(at(addr), order).map(|value| Answer::Value(value.as_slice().to_vec()))
            }),
            Self::Store { addr, atom, value: bytes, order } => with_atom!(atom, T => {
                memory.store::<T>(value(&bytes), at(addr), order).map(|()| Answer::Done)
            }),
            Self::CompareExchange { addr, atom, current, new, orders: (success, failure) } => with_atom!(atom, T => {
                let current = match current {
                    // Where there is nothing to be loaded, the exchange is to say so.
                    Current::Held => memory.load(at(addr), Ordering::SeqCst).unwrap_or(T::zeroed()),
                    Current::This(bytes) => value::<T>(&bytes),
                };
                let bytes = |value: T| value.as_slice().to_vec();
                let found = memory.compare_exchange(current, value(&new), at(addr), success, failure);
                found.map(|found| Answer::Found(found.map(bytes).map_err(bytes)))
            }),
            _ => return None,
        })
    }

    fn run_stream<A: Address, M: Bytes<A>>(&self, memory: &M, at: impl Fn(u64) -> A) -> Option<Transferred<M::E>> {
        let (Self::WriteFrom { addr, src: pace, count }
        | Self::WriteAllFrom { addr, src: pace, count }
        | Self::ReadInto { addr, dst: pace, count }
        | Self::ReadAllInto { addr, dst: pace, count }) = *self
        else {
            return None;
        };
        let (mut stream, addr) = (Stream::new(pace), at(addr));
        let result = match self {
            Self::WriteFrom { .. } => memory.write_from(addr, &mut stream, count).map(Answer::Count),
            Self::WriteAllFrom { .. } => memory.write_all_from(addr, &mut stream, count).map(|()| Answer::Done),
            Self::ReadInto { .. } => memory.read_into(addr, &mut stream, count).map(Answer::Count),
            _ => memory.read_all_into(addr, &mut stream, count).map(|()| Answer::Done),
        };
        Some((result, stream.moved))
    }

    /// Makes the call, which is one of `GuestMemory`.
    fn run_guest<M: GuestMemory>(&self, memory: &M) -> Result<Answer, Failure> {
        Ok(match *self {
            Self::Copy { src, dst, len } => {
                memory.copy(GuestAddress(src), GuestAddress(dst), len)?;
                Answer::Done
            }
            Self::GetSlice { addr, count } => {
                Answer::Slices(vec![seen(memory.get_slice(GuestAddress(addr), count)?)?], None)
            }
            Self::GetSlices { addr, count } => all_seen(memory.get_slices(GuestAddress(addr), count)),
            Self::CheckRange { addr, len } => Answer::Is(memory.check_range(GuestAddress(addr), len)),
            Self::CheckedOffset { base, offset } => {
                Answer::Address(memory.checked_offset(GuestAddress(base), offset).map(|addr| addr.0))
            }
            _ => unreachable!("{self:?} is a call of `Bytes`"),
        })
    }
}

/// Where a slice is, and what it holds.
fn seen(slice: GuestSlice<'_>) -> Result<(u64, Vec<u8>), guest_memory::Error> {
    let mut bytes = vec![UNREAD; slice.len()];
    slice.read_slice(&mut bytes, 0)?;
    Ok((slice.addr().0, bytes))
}

/// What all of some slices hold, and the error after them.
fn all_seen<'a>(slices: impl Iterator<Item = Result<GuestSlice<'a>, guest_memory::Error>>) -> Answer {
    let (mut bytes, mut error) = (Vec::new(), None);
    for slice in slices {
        assert!(error.is_none(), "an error is the last item");
        match slice.and_then(seen) {
            Ok(slice) => bytes.push(slice),
            Err(found) => error = Some(found.into()),
        }
    }
    Answer::Slices(bytes, error)
}
