//! Memories and operations out of raw bytes, whoever draws them: a random test, or a fuzzer.
//!
//! Any bytes will do, and all zero is the simplest case. What is chosen is near the places where something happens.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use super::layout::{Kind, Layout, Span};
use super::op::{Current, Op};
use super::stream::{Data, Pace, Then};
use super::value::{Atom, Shape};

/// A memory, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) layout: Layout,
    pub(crate) ops: Vec<Op>,
}

impl Case {
    /// Some regions and operations, each of the first bytes that it is given: 8 are enough for a region, and 24 for an
    /// operation.
    pub(crate) fn new(base: u8, regions: &[Vec<u8>], ops: &[Vec<u8>]) -> Self {
        let layout = layout(base, regions);
        let edges = layout.edges();
        let op = |bytes: &Vec<u8>| Draw { bytes, edges: &edges }.op();
        Self { ops: ops.iter().map(op).collect(), layout }
    }
}

fn layout(base: u8, regions: &[Vec<u8>]) -> Layout {
    // None: regions that end with the last address of all; and, for some of them, the first region at address 0.
    let wraps = base % 6 == 5;
    let base = match base % 6 {
        0 => Some(0x1000),
        1 => Some(0),
        2 => Some(0xffff_f003),
        3 => Some(u64::from(base)),
        _ => None,
    };
    let regions = regions.iter().map(|bytes| {
        let mut draw = Draw { bytes, edges: &[] };
        let gap = match draw.byte() {
            0..112 => 0,
            112..240 => 1 + u64::from(draw.byte() % 20),
            240..250 => 0x1000,
            _ => 1 << 33,
        };
        let len = match draw.byte() {
            0..160 => 1 + usize::from(draw.byte() % 24),
            160..230 => 1 + usize::from(draw.byte()),
            230..250 => draw.of(&[511, 512, 513, 1025]),
            _ => draw.of(&[0x1000, 0x2fff]),
        };
        let kind = draw.of(&[Kind::Ram, Kind::Custom]);
        (gap, Span { start: 0, len, kind, rank: draw.byte() })
    });
    let mut layout = Layout::new(base, &regions.collect::<Vec<_>>());
    if let Some(first) = layout.spans.first_mut().filter(|_| wraps) {
        first.start = 0;
    }
    layout
}

/// Bytes from which choices are made, zeros after their end.
struct Draw<'a> {
    bytes: &'a [u8],
    /// Addresses to be near.
    edges: &'a [u64],
}

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    fn two(&mut self) -> [u8; 2] {
        [self.byte(), self.byte()]
    }

    fn value<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    fn addr(&mut self) -> u64 {
        let edge = self.of(self.edges);
        let (scale, distance) = (self.byte(), i16::from_le_bytes(self.two()));
        edge.wrapping_add_signed(i64::from(match scale {
            0..160 => distance % 10,
            160..240 => distance % 80,
            _ => distance,
        }))
    }

    /// The length of a buffer.
    fn len(&mut self) -> usize {
        let (scale, len) = (self.byte(), usize::from(u16::from_le_bytes(self.two())));
        match scale {
            0..160 => len % 18,
            160..240 => len % 100,
            _ => len % 3000,
        }
    }

    /// A length without a buffer.
    fn count(&mut self) -> usize {
        match self.bytes.first() {
            Some(239) => usize::MAX - usize::from(self.two()[1]),
            Some(238) => isize::MAX.unsigned_abs(),
            _ => self.len(),
        }
    }

    fn data(&mut self) -> Data {
        Data { seed: self.byte(), len: self.len() }
    }

    fn order(&mut self) -> Ordering {
        self.of(&[Ordering::SeqCst, Ordering::Relaxed, Ordering::Acquire, Ordering::Release, Ordering::AcqRel])
    }

    fn pace(&mut self) -> Pace {
        let then = match self.byte() {
            0..112 => Then::End,
            112..168 => Then::Interrupt(1 + self.byte() % 3),
            168..224 => {
                Then::Fail(self.of(&[ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof]))
            }
            _ => Then::Lie(self.of(&[1, 2, 7, 512, usize::MAX / 4])),
        };
        let limit = match self.byte() {
            0..80 => usize::MAX,
            80..210 => usize::from(self.byte() % 25),
            _ => usize::from(u16::from_le_bytes(self.two()) % 1100),
        };
        let per_call = match self.byte() {
            0..128 => None,
            most => Some(1 + most % 7),
        };
        Pace { seed: self.byte(), per_call, interrupted: self.byte() >= 210, limit, then }
    }

    fn op(&mut self) -> Op {
        let kind = self.byte() % 24;
        let addr = self.addr();
        match kind {
            0 => Op::Write { data: self.data(), addr },
            1 => Op::Read { len: self.len(), addr },
            2 => Op::WriteSlice { data: self.data(), addr },
            3 => Op::ReadSlice { len: self.len(), addr },
            4 => Op::Fill { byte: self.byte(), len: self.count(), addr },
            5 => Op::WriteObj { shape: self.of(&Shape::ALL), value: self.value(), addr },
            6 => Op::ReadObj { shape: self.of(&Shape::ALL), addr },
            7 => Op::Load { atom: self.of(&Atom::ALL), order: self.order(), addr },
            8 => Op::Store { atom: self.of(&Atom::ALL), order: self.order(), value: self.value(), addr },
            9 | 10 => {
                let (atom, orders) = (self.of(&Atom::ALL), (self.order(), self.order()));
                let current = if kind == 9 { Current::Held } else { Current::This(self.value()) };
                Op::CompareExchange { addr, atom, current, new: self.value(), orders }
            }
            11 | 12 => Op::WriteFrom { src: self.pace(), count: self.count(), addr },
            13 | 14 => Op::WriteAllFrom { src: self.pace(), count: self.count(), addr },
            15 => Op::ReadInto { dst: self.pace(), count: self.count(), addr },
            16 => Op::ReadAllInto { dst: self.pace(), count: self.count(), addr },
            17 => Op::GetSlice { count: self.count(), addr },
            18 => Op::GetSlices { count: self.count(), addr },
            19 => Op::CheckRange { len: self.count(), addr },
            20 => Op::CheckedOffset { base: addr, offset: self.count() },
            _ => Op::Copy { src: addr, dst: self.addr(), len: self.count() },
        }
    }
}
