//! What is to come of an access: a list of bytes, each of which is in memory or is not.

use std::collections::BTreeMap;

use memory_model::buffers::Segment;
use memory_model::guest_memory::Error;

/// All memory: each address with its byte.
pub(crate) type Contents = BTreeMap<u64, u8>;

/// A reader or a writer.
#[derive(Clone)]
pub(crate) struct Model {
    /// The address of each byte of the segments; `None` past the end of the address space.
    places: Vec<Option<u64>>,
    /// Where the reader or writer is.
    at: usize,
    /// Where it began.
    start: usize,
}

/// How an access ends that has not moved all bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Nowhere(u64),
    Partial { expected: u64, completed: u64 },
    Outside { offset: u64, len: u64 },
    Stream,
    NoHost,
    Other(String),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidGuestAddress(addr) => Self::Nowhere(addr.0),
            Error::PartialBuffer { expected, completed } => {
                Self::Partial { expected: expected as u64, completed: completed as u64 }
            }
            Error::OutOfBounds { offset, len } => Self::Outside { offset, len },
            Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Self::Stream,
            Error::NoHostMemory(_) => Self::NoHost,
            other => Self::Other(other.to_string()),
        }
    }
}

impl Model {
    pub(crate) fn new(segments: &[Segment]) -> Self {
        let places = segments
            .iter()
            .flat_map(|segment| (0..u64::from(segment.len)).map(|offset| segment.addr.0.checked_add(offset)));
        Self { places: places.collect(), at: 0, start: 0 }
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.places.len() - self.at) as u64
    }

    pub(crate) fn done(&self) -> u64 {
        (self.at - self.start) as u64
    }

    /// The addresses of the next bytes that an exact access of `count` moves, and how it ends.
    pub(crate) fn exact(&mut self, contents: &Contents, count: u64) -> (Vec<u64>, Option<End>) {
        self.stream(contents, count, usize::MAX, false)
    }

    /// The same where the other end has `limit` bytes, and fails after these, or ends there.
    pub(crate) fn stream(
        &mut self,
        contents: &Contents,
        count: u64,
        limit: usize,
        fails: bool,
    ) -> (Vec<u64>, Option<End>) {
        if count > self.remaining() {
            return (vec![], Some(End::Partial { expected: count, completed: 0 }));
        }
        let wanted = &self.places[self.at..self.at + usize::try_from(count).unwrap()];
        let good: Vec<_> = wanted.iter().map_while(|place| place.filter(|at| contents.contains_key(at))).collect();
        let stops = wanted.get(good.len()).copied();
        let partial = |completed: usize| Some(End::Partial { expected: count, completed: completed as u64 });
        let (moved, end) = if limit < good.len() {
            (good[..limit].to_vec(), if fails { Some(End::Stream) } else { partial(limit) })
        } else {
            let end = match stops {
                None => None,
                Some(Some(addr)) if good.is_empty() => Some(End::Nowhere(addr)),
                Some(_) => partial(good.len()),
            };
            (good, end)
        };
        self.at += moved.len();
        (moved, end)
    }

    /// The same of an access that does what it can: `None` if it is an error.
    pub(crate) fn some(&mut self, contents: &Contents, count: usize) -> Option<Vec<u64>> {
        let count = self.remaining().min(count as u64);
        let (moved, end) = self.exact(contents, count);
        if matches!(end, Some(End::Nowhere(_))) { None } else { Some(moved) }
    }

    /// The same of an access that does all or nothing.
    pub(crate) fn whole(&mut self, contents: &Contents, count: u64) -> Option<Vec<u64>> {
        let before = self.at;
        let (moved, end) = self.exact(contents, count);
        if end.is_some() {
            self.at = before;
        }
        end.is_none().then_some(moved)
    }

    pub(crate) fn skip(&mut self, count: u64) -> Option<End> {
        if count > self.remaining() {
            return Some(End::Partial { expected: count, completed: 0 });
        }
        self.at += usize::try_from(count).unwrap();
        None
    }

    /// Goes on with the next `mid` bytes, or with what follows them.
    pub(crate) fn split(&mut self, mid: u64, second: bool) {
        let mid = self.at + usize::try_from(mid).unwrap();
        if second {
            (self.at, self.start) = (mid, mid);
        } else {
            self.places.truncate(mid);
        }
    }
}
