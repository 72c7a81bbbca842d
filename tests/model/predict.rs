//! What the contract says that comes of a call.

use std::io::ErrorKind;

use super::layout::Kind;
use super::op::{Current, Op, UNREAD};
use super::oracle::Model;
use super::outcome::{Answer, Failure, Outcome};
use super::stream::{Pace, Script};

impl Op {
    /// What comes of the call, and what it does to the model.
    pub(crate) fn predict(&self, model: &mut Model) -> Outcome {
        match *self {
            Self::Write { addr, data } => Outcome::of(write(model, addr, &data.bytes()).map(Answer::Count)),
            Self::WriteSlice { addr, data } => {
                let bytes = data.bytes();
                Outcome::of(write(model, addr, &bytes).and_then(|count| whole(count, bytes.len())))
            }
            Self::WriteObj { addr, shape, value } => {
                let bytes = &value[..shape.size()];
                Outcome::of(write(model, addr, bytes).and_then(|count| whole(count, bytes.len())))
            }
            Self::Fill { addr, byte, len } => Outcome::of(model.reach(addr, len).and_then(|count| {
                model.put(addr, &vec![byte; count]);
                whole(count, len)
            })),
            Self::Read { addr, len } => {
                Outcome { result: model.reach(addr, len).map(Answer::Count), other_end: read(model, addr, len) }
            }
            Self::ReadSlice { addr, len } => Outcome {
                result: model.reach(addr, len).and_then(|count| whole(count, len)),
                other_end: read(model, addr, len),
            },
            Self::ReadObj { addr, shape } => Outcome::of(model.reach(addr, shape.size()).and_then(|count| {
                whole(count, shape.size())?;
                Ok(Answer::Value(read(model, addr, shape.size())))
            })),
            Self::WriteFrom { addr, src, count } => {
                transfer(model, addr, src, count, Direction::ToMemory, Until::Short)
            }
            Self::WriteAllFrom { addr, src, count } => {
                transfer(model, addr, src, count, Direction::ToMemory, Until::All)
            }
            Self::ReadInto { addr, dst, count } => {
                transfer(model, addr, dst, count, Direction::FromMemory, Until::Short)
            }
            Self::ReadAllInto { addr, dst, count } => {
                transfer(model, addr, dst, count, Direction::FromMemory, Until::All)
            }
            Self::Load { .. } | Self::Store { .. } | Self::CompareExchange { .. } => {
                Outcome::of(self.predict_atomic(model))
            }
            _ => Outcome::of(self.predict_guest(model)),
        }
    }

    fn predict_atomic(&self, model: &mut Model) -> Result<Answer, Failure> {
        match *self {
            Self::Load { addr, atom, .. } => {
                model.atomic(addr, atom.size())?;
                Ok(Answer::Value(model.get(addr, atom.size())))
            }
            Self::Store { addr, atom, value, .. } => {
                model.atomic(addr, atom.size())?;
                model.put(addr, &value[..atom.size()]);
                Ok(Answer::Done)
            }
            Self::CompareExchange { addr, atom, current, new, .. } => {
                model.atomic(addr, atom.size())?;
                let held = model.get(addr, atom.size());
                match current {
                    Current::This(current) if held != current[..atom.size()] => Ok(Answer::Found(Err(held))),
                    _ => {
                        model.put(addr, &new[..atom.size()]);
                        Ok(Answer::Found(Ok(held)))
                    }
                }
            }
            _ => unreachable!("{self:?} is not atomic"),
        }
    }

    fn predict_guest(&self, model: &mut Model) -> Result<Answer, Failure> {
        match *self {
            Self::Copy { src, dst, len } => {
                let count = model.reach(src, len)?.min(model.reach(dst, len)?);
                let bytes = model.get(src, count);
                model.put(dst, &bytes);
                whole(count, len)
            }
            Self::GetSlice { addr, count: 0 } => Ok(Answer::Slices(vec![(addr, Vec::new())], None)),
            Self::GetSlice { addr, count } => {
                let here = model.in_region(Some(addr), count).ok_or(Failure::Nowhere(addr))?;
                if model.kind(addr) == Some(Kind::Custom) {
                    return Err(Failure::NoHostMemory(addr));
                }
                whole(here, count)?;
                Ok(Answer::Slices(vec![(addr, model.get(addr, count))], None))
            }
            Self::GetSlices { addr, count } => {
                let (mut slices, mut done) = (Vec::new(), 0);
                while done < count {
                    let at = addr.checked_add(done as u64);
                    let error = match (model.in_region(at, count - done), at) {
                        (Some(here), Some(at)) if model.kind(at) == Some(Kind::Ram) => {
                            slices.push((at, model.get(at, here)));
                            done += here;
                            continue;
                        }
                        (Some(_), Some(at)) => Failure::NoHostMemory(at),
                        _ => ends(addr, done, count),
                    };
                    return Ok(Answer::Slices(slices, Some(error)));
                }
                Ok(Answer::Slices(slices, None))
            }
            Self::CheckRange { addr, len } => Ok(Answer::Is(model.get(addr, len).len() == len)),
            Self::CheckedOffset { base, offset } => {
                Ok(Answer::Address(base.checked_add(offset as u64).filter(|&addr| model.has(addr))))
            }
            _ => unreachable!("{self:?} is a call of `Bytes`"),
        }
    }
}

/// Writes as far as memory goes.
fn write(model: &mut Model, addr: u64, bytes: &[u8]) -> Result<usize, Failure> {
    let count = model.reach(addr, bytes.len())?;
    model.put(addr, &bytes[..count]);
    Ok(count)
}

/// What is in a buffer of `len` bytes that is read as far as memory goes.
fn read(model: &Model, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = model.get(addr, len);
    bytes.resize(len, UNREAD);
    bytes
}

/// The answer of a call that must do all of `expected` bytes, and has done `completed`.
fn whole(completed: usize, expected: usize) -> Result<Answer, Failure> {
    if completed == expected { Ok(Answer::Done) } else { Err(Failure::Partial { expected, completed }) }
}

/// The error where memory ends `done` bytes after `addr`.
fn ends(addr: u64, done: usize, expected: usize) -> Failure {
    if done == 0 { Failure::Nowhere(addr) } else { Failure::Partial { expected, completed: done } }
}

/// Where the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToMemory,
    FromMemory,
}

/// How long a transfer goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until the first short step, or an error, which only tells if nothing was moved before.
    Short,
    /// Until all is moved, over short steps and interruptions.
    All,
}

impl Until {
    /// The answer at the end of memory, or of the stream.
    fn answer(self, completed: usize, expected: usize) -> Result<Answer, Failure> {
        match self {
            Self::Short => Ok(Answer::Count(completed)),
            Self::All => whole(completed, expected),
        }
    }
}

/// A transfer of `count` bytes, which are asked for region by region.
fn transfer(model: &mut Model, addr: u64, pace: Pace, count: usize, direction: Direction, until: Until) -> Outcome {
    let mut script = Script::new(pace);
    let mut moved = Vec::new();
    let result = loop {
        let done = moved.len();
        if done == count {
            break until.answer(done, count);
        }
        let at = addr.checked_add(done as u64);
        let (Some(at), Some(wanted)) = (at, model.in_region(at, count - done)) else {
            break if done == 0 { Err(Failure::Nowhere(addr)) } else { until.answer(done, count) };
        };
        match script.step(wanted) {
            Ok(claimed) if claimed > wanted => break Err(Failure::Overrun(claimed - wanted)),
            Ok(step) => {
                match direction {
                    Direction::ToMemory => {
                        moved.extend(script.bytes(step));
                        model.put(at, &moved[done..]);
                    }
                    Direction::FromMemory => moved.extend(model.get(at, step)),
                }
                if step == 0 || (step < wanted && until == Until::Short) {
                    break until.answer(done + step, count);
                }
            }
            Err(ErrorKind::Interrupted) if until == Until::All => {}
            Err(kind) if until == Until::All || done == 0 => break Err(Failure::Io(kind)),
            Err(_) => break until.answer(done, count),
        }
    };
    Outcome { result, other_end: moved }
}
