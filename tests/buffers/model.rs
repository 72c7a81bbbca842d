//! Random buffers over random memories, some pages of which are bad: whatever is done with them, in whichever order, the
//! bytes, the counts, what is left and what is marked are as in a model that has a list of bytes.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

use memory_model::buffers::{GuestBuffers, TransferError};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestMemory};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{BASE, Bad, Guest, Marks, Plan, at, cases, data, disjoint, io, page, recovers};
use crate::raw::{memfd, pipe};

/// What is done. Numbers of bytes are shares of those that are left, and may be a few more.
#[derive(Clone, Copy, Debug)]
enum Op {
    HandOut,
    Advance(u16),
    Complete(u16),
    Truncate(u16),
    Split { mid: u16, is_first_kept: bool },
    Preadv { there: u16, skip: u8, is_exact: bool },
    Readv { there: u16, is_exact: bool },
    Pwritev { is_all: bool },
    WriteSlice { offset: u16, len: u16 },
    ReadSlice { offset: u16, len: u16 },
}

#[derive(Clone, Debug)]
struct Case {
    plans: Vec<Plan>,
    /// Positions and lengths, as shares of the memory and of three pages.
    ranges: Vec<(u16, u16)>,
    access: Access,
    is_owned: bool,
    log_page: u64,
    ops: Vec<Op>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let bad = prop_oneof![4 => Just(None), 1 => (0..4_usize).prop_map(|at| Some(Bad::Unplugged(at))),
        1 => (0..4_usize).prop_map(|at| Some(Bad::Truncated(at)))];
    (prop_oneof![2 => Just(0), 1 => 1..3_usize], 1..5_usize, bad).prop_map(|(gap, pages, bad)| {
        let bad = bad.map(|bad| match bad {
            Bad::Unplugged(at) => Bad::Unplugged(at % pages),
            Bad::Truncated(at) => Bad::Truncated(at % pages),
        });
        Plan { gap, pages, bad }
    })
}

fn op() -> impl Strategy<Value = Op> {
    // Often all, or a little more.
    let share = || prop_oneof![3 => any::<u16>(), 1 => Just(u16::MAX), 1 => Just(u16::MAX - 1), 1 => Just(0)];
    prop_oneof![
        2 => Just(Op::HandOut),
        2 => share().prop_map(Op::Advance),
        2 => share().prop_map(Op::Complete),
        1 => share().prop_map(Op::Truncate),
        1 => (share(), any::<bool>()).prop_map(|(mid, is_first_kept)| Op::Split { mid, is_first_kept }),
        4 => (share(), any::<u8>(), any::<bool>())
            .prop_map(|(there, skip, is_exact)| Op::Preadv { there, skip, is_exact }),
        4 => (share(), any::<bool>()).prop_map(|(there, is_exact)| Op::Readv { there, is_exact }),
        4 => any::<bool>().prop_map(|is_all| Op::Pwritev { is_all }),
        2 => (any::<u16>(), share()).prop_map(|(offset, len)| Op::WriteSlice { offset, len }),
        2 => (any::<u16>(), share()).prop_map(|(offset, len)| Op::ReadSlice { offset, len }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let access = prop_oneof![4 => Just(Access::Write), 2 => Just(Access::Read), 2 => Just(Access::ReadWrite)];
    let log_page = prop_oneof![Just(4096), Just(8192), Just(1 << 16)];
    let range = (any::<u16>(), prop_oneof![3 => any::<u16>(), 3 => 0..400_u16]);
    (vec(plan(), 1..5), vec(range, 0..40), access, any::<bool>(), log_page, vec(op(), 1..12)).prop_map(
        |(plans, ranges, access, is_owned, log_page, ops)| Case { plans, ranges, access, is_owned, log_page, ops },
    )
}

fn part(of: usize, share: u16) -> usize {
    usize::try_from(of as u64 * u64::from(share) / u64::from(u16::MAX - 1)).unwrap()
}

/// A share of a number of bytes; the largest is a few more.
fn share(of: usize, share: u16) -> usize {
    match share {
        u16::MAX => of + 3,
        share => part(of, share),
    }
}

/// The buffers as they should be.
struct Model {
    guest: Guest,
    access: Access,
    /// The positions of the bytes that are not done with.
    left: Vec<usize>,
    is_handed_out: bool,
    /// Which bytes must be marked, and which may.
    must: Vec<bool>,
    may: Vec<bool>,
}

impl Model {
    fn is_written(&self) -> bool {
        self.access != Access::Read
    }

    fn is_read(&self) -> bool {
        self.access != Access::Write
    }

    fn mark(&mut self, from: usize, to: usize) {
        for &position in &self.left[from..to] {
            self.must[position] = true;
        }
        self.allow(from, to);
    }

    fn allow(&mut self, from: usize, to: usize) {
        for &position in &self.left[from..to] {
            self.may[position] = true;
        }
    }

    /// How many bytes from `start` come before a bad one.
    fn good(&self, start: usize) -> usize {
        self.left[start..].iter().take_while(|&&position| self.guest.is_good(position)).count()
    }

    /// Bytes that land from `start` on.
    fn write(&mut self, start: usize, bytes: &[u8]) {
        for (&position, &byte) in self.left[start..].iter().zip(bytes) {
            self.guest.bytes[position] = byte;
        }
        self.mark(start, start + bytes.len());
    }

    fn read(&self, start: usize, len: usize) -> Vec<u8> {
        self.left[start..start + len].iter().map(|&position| self.guest.bytes[position]).collect()
    }

    /// What has landed without being counted, which it may.
    fn adopt(&mut self, from: usize, to: usize, bytes: &[u8]) {
        for &position in &self.left[from..to] {
            let found: u8 = self.guest.mem.read_obj(at(position)).unwrap();
            let could = (from..to).any(|index| self.left[index] == position && bytes[index - from] == found);
            if found != self.guest.bytes[position] {
                assert!(could, "{found:#x} at {position:#x} comes from nowhere");
                self.guest.bytes[position] = found;
                self.must[position] = true;
            }
        }
        self.allow(from, to);
    }

    /// A transfer of `bytes`, which are all that there is, into memory, by its answer.
    fn transfer_in(&mut self, bytes: &[u8], is_exact: bool, answer: &Answer) {
        if !self.is_written() {
            assert!(matches!(answer, Answer::Refused), "{answer:?}");
            return;
        }
        let (len, good) = (self.left.len(), self.good(0));
        let want = bytes.len().min(len);
        if good < len {
            self.allow(0, len);
        }
        let moved = match *answer {
            Answer::Moved(count) if is_exact => {
                assert!(count == len && want == len && good == len, "all {len} of {good} that are good: {count}");
                count
            }
            Answer::Moved(count) if want <= good => {
                assert_eq!(count, want);
                count
            }
            Answer::Moved(count) => {
                assert!(count >= 1 && count <= good, "{count} of {good}");
                count
            }
            Answer::AtEnd { completed } => {
                assert!(len > 0 && want <= good && (if is_exact { want < len } else { want == 0 }), "{want} of {len}");
                assert_eq!(completed, want);
                completed
            }
            Answer::Fault { position, completed } => {
                assert!(good < want, "a fault, though {good} of {want} are good");
                assert_eq!(position, self.left[good]);
                assert_eq!(completed, if is_exact { good } else { 0 });
                assert!(is_exact || good == 0, "{good} bytes could be had");
                completed
            }
            Answer::Refused => panic!("may be written"),
        };
        self.write(0, &bytes[..moved]);
        self.adopt(moved, want.min(good).max(moved), &bytes[moved..want.min(good).max(moved)]);
        self.left.drain(..moved);
    }

    /// A transfer out of memory, of which `found` has arrived.
    fn transfer_out(&mut self, found: &[u8], is_all: bool, answer: &Answer) {
        if !self.is_read() {
            assert!(matches!(answer, Answer::Refused), "{answer:?}");
            return;
        }
        let (len, good) = (self.left.len(), self.good(0));
        let moved = match *answer {
            Answer::Moved(count) => {
                assert!(if is_all || good == len { count == len && good == len } else { count >= 1 && count <= good });
                count
            }
            Answer::Fault { position, completed } => {
                assert!(good < len && (is_all || good == 0));
                assert_eq!((position, completed), (self.left[good], if is_all { good } else { 0 }));
                completed
            }
            ref other => panic!("{other:?}"),
        };
        assert!(found.len() >= moved && found[..moved] == self.read(0, moved), "other bytes were written to the file");
        // Their count may be less than has arrived.
        assert!(found.len() <= good.max(moved));
        self.left.drain(..moved);
    }
}

/// What a transfer has answered.
#[derive(Debug)]
enum Answer {
    Moved(usize),
    AtEnd { completed: usize },
    Fault { position: usize, completed: usize },
    Refused,
}

impl Answer {
    fn of(error: Error, completed: Option<usize>) -> Self {
        match error {
            Error::Unsupported => Self::Refused,
            Error::Io(error) if error.kind() == ErrorKind::WouldBlock => {
                Self::AtEnd { completed: completed.unwrap_or(0) }
            }
            Error::PartialBuffer { completed: told, .. } => {
                assert_eq!(completed, Some(told));
                Self::AtEnd { completed: told }
            }
            Error::Fault { addr, completed: told } => {
                assert_eq!(told, completed.unwrap_or(0));
                Self::Fault { position: usize::try_from(addr.0 - BASE).unwrap(), completed: told }
            }
            error => panic!("{error}"),
        }
    }

    fn some(result: Result<usize, Error>) -> Self {
        result.map_or_else(|error| Self::of(error, None), Self::Moved)
    }

    fn all(result: Result<(), TransferError>, len: usize) -> Self {
        match result {
            Ok(()) => Self::Moved(len),
            Err(TransferError { completed, cause, .. }) => Self::of(cause, Some(completed)),
        }
    }
}

/// Does what is to be done to both; answers the buffers, if they are not dropped.
fn play<'a>(model: &mut Model, mut buffers: GuestBuffers<'a>, op: Op) -> Option<GuestBuffers<'a>> {
    let len = model.left.len();
    match op {
        Op::HandOut => {
            check_iovecs(model, &mut buffers);
            model.is_handed_out |= model.is_written();
        }
        Op::Advance(by) => {
            let count = share(len, by);
            buffers.advance(count);
            if model.is_handed_out {
                model.mark(0, count.min(len));
            }
            model.left.drain(..count.min(len));
        }
        Op::Complete(by) => {
            let count = share(len, by);
            let completed = buffers.complete(count);
            if count > len {
                assert!(matches!(completed, Err(Error::Overrun { expected, claimed })
                    if expected == len && claimed == count));
            } else {
                completed.unwrap();
            }
            if model.is_written() {
                model.mark(0, count.min(len));
            }
            model.is_handed_out = false;
            model.left.drain(..count.min(len));
        }
        Op::Truncate(to) => {
            let count = share(len, to);
            buffers.truncate(count);
            if model.is_handed_out {
                model.mark(count.min(len), len);
            }
            model.left.truncate(count);
        }
        Op::Split { mid, is_first_kept } => return split(model, buffers, share(len, mid), is_first_kept),
        other => access(model, &mut buffers, other),
    }
    Some(buffers)
}

/// Does what moves bytes.
fn access(model: &mut Model, buffers: &mut GuestBuffers<'_>, op: Op) {
    let len = model.left.len();
    match op {
        Op::HandOut | Op::Advance(_) | Op::Complete(_) | Op::Truncate(_) | Op::Split { .. } => {}
        Op::Preadv { there, skip, is_exact } => {
            let (file, bytes) = (memfd(0), data(share(len, there)));
            file.write_all_at(&vec![1; skip.into()], 0).unwrap();
            file.write_all_at(&bytes, skip.into()).unwrap();
            let answer = if is_exact {
                Answer::all(buffers.preadv_exact(&file, skip.into()), len)
            } else {
                Answer::some(buffers.preadv(&file, skip.into()))
            };
            model.transfer_in(&bytes, is_exact, &answer);
        }
        Op::Readv { there, is_exact } => {
            let (read, mut write) = pipe(libc::O_NONBLOCK);
            // No more than a pipe holds, in parts that it keeps apart.
            let bytes = data(share(len, there).min(16 * 1024));
            bytes.chunks(1500).for_each(|bytes| write.write_all(bytes).unwrap());
            let answer = if is_exact {
                Answer::all(buffers.readv_exact(&read), len)
            } else {
                Answer::some(buffers.readv(&read))
            };
            // The rest of a packet may be marked, too.
            if model.is_written() && bytes.len() < len {
                model.allow(0, len);
            }
            model.transfer_in(&bytes, is_exact, &answer);
        }
        Op::Pwritev { is_all } => {
            let file = memfd(0);
            let answer = if is_all {
                Answer::all(buffers.pwritev_all(&file, 7), len)
            } else {
                Answer::some(buffers.pwritev(&file, 7))
            };
            let mut found = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap().saturating_sub(7)];
            file.read_exact_at(&mut found, 7).unwrap();
            model.transfer_out(&found, is_all, &answer);
        }
        Op::WriteSlice { offset, len: count } => {
            let (offset, bytes) = (share(len, offset), data(share(len, count) / 2));
            let result = buffers.write_slice(&bytes, offset);
            if let Some(good) = check_slice(model, model.is_written(), offset, bytes.len(), result) {
                model.write(offset, &bytes[..good]);
            }
        }
        Op::ReadSlice { offset, len: count } => {
            let (offset, mut found) = (share(len, offset), vec![0; share(len, count) / 2]);
            let result = buffers.read_slice(&mut found, offset);
            if let Some(good) = check_slice(model, model.is_read(), offset, found.len(), result) {
                assert!(found[..good] == model.read(offset, good));
            }
        }
    }
}

fn split<'a>(
    model: &mut Model,
    buffers: GuestBuffers<'a>,
    mid: usize,
    is_first_kept: bool,
) -> Option<GuestBuffers<'a>> {
    let len = model.left.len();
    let (gone, kept) = match buffers.split_at(mid) {
        Err(error) => {
            assert!(matches!(error, Error::OutOfBounds { .. }) && mid > len, "{error}");
            (0..len, None)
        }
        Ok((first, rest)) => {
            assert_eq!((first.len(), rest.len()), (mid, len - mid));
            assert!(first.access() == rest.access());
            if is_first_kept { (mid..len, Some(first)) } else { (0..mid, Some(rest)) }
        }
    };
    if model.is_handed_out {
        model.mark(gone.start, gone.end);
    }
    model.left.drain(gone);
    kept
}

/// Checks the answer of an access by the processor, and says how many bytes were done.
fn check_slice(model: &Model, may: bool, offset: usize, len: usize, result: Result<(), Error>) -> Option<usize> {
    match result {
        Err(Error::Unsupported) => {
            assert!(!may);
            None
        }
        Err(Error::PartialBuffer { expected, completed: 0 }) => {
            assert!(may && expected == len && offset + len > model.left.len());
            None
        }
        Err(Error::Fault { addr, completed }) => {
            assert!(may && completed == model.good(offset) && completed < len);
            assert_eq!(addr, at(model.left[offset + completed]));
            Some(completed)
        }
        Ok(()) => {
            assert!(may && offset + len <= model.left.len() && (len == 0 || model.good(offset) >= len));
            Some(len)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Checks that the iovecs are the bytes that are left, and that none of them follows the one before it.
fn check_iovecs(model: &Model, buffers: &mut GuestBuffers<'_>) {
    let mut done = 0;
    let mut last_end = None;
    for iovec in buffers.as_iovecs() {
        assert!(!iovec.is_empty());
        assert_ne!(last_end, Some(iovec.as_ptr().addr()), "two that are one");
        last_end = Some(iovec.as_ptr().addr() + iovec.len());
        for index in (0..iovec.len()).step_by(509).chain([iovec.len() - 1]) {
            let host = model.guest.mem.get_host_address(at(model.left[done + index])).unwrap();
            assert_eq!(iovec.as_ptr().wrapping_add(index), host);
        }
        done += iovec.len();
    }
    assert_eq!(done, model.left.len());
}

/// The ranges that lie in memory, up to where they leave it.
fn clip(guest: &Guest, ranges: &[(u16, u16)]) -> Vec<(usize, usize)> {
    let clip = |&(position, len): &(u16, u16)| {
        let position = part(guest.bytes.len() - 1, position.min(u16::MAX - 1));
        let len = part(3 * page(), len);
        let end = (position + len).min(guest.bytes.len());
        let pages = position / page()..end.div_ceil(page());
        match pages.into_iter().find(|&number| guest.pages[number].is_none()) {
            Some(hole) => (position, (hole * page()).saturating_sub(position)),
            None => (position, end - position),
        }
    };
    ranges.iter().map(clip).collect()
}

fn check_marks(model: &Model, marks: &Marks) {
    let mut marked = vec![false; model.must.len()];
    for (start, len) in marks.take() {
        marked[start..start + len].fill(true);
    }
    for (position, is_marked) in marked.into_iter().enumerate() {
        assert!(is_marked || !model.must[position], "{position:#x} was written and not marked");
        assert!(model.may[position] || !is_marked, "{position:#x} was not written and marked");
    }
}

fn play_all(model: &mut Model, buffers: GuestBuffers<'_>, ops: &[Op]) {
    let mut buffers = Some(buffers);
    for &op in ops {
        let Some(present) = buffers.take() else { return };
        assert_eq!((present.len(), present.is_empty()), (model.left.len(), model.left.is_empty()));
        buffers = play(model, present, op);
        model.guest.check();
    }
    if let Some(buffers) = buffers {
        assert_eq!(buffers.len(), model.left.len());
        if model.is_handed_out {
            model.mark(0, model.left.len());
        }
    }
}

fn run(case: &Case) {
    let guest = Guest::new(&case.plans);
    let ranges = clip(&guest, &case.ranges);
    let ranges = if case.access == Access::Read { ranges } else { disjoint(&ranges) };
    let mem = guest.mem.clone();
    let (marks, log) = (Marks::of(&mem), mem.start_tracking(case.log_page).unwrap());
    let io_ranges = ranges.iter().map(|&(position, len)| (io(position), len));
    let left: Vec<_> = ranges.iter().flat_map(|&(position, len)| position..position + len).collect();
    let none = vec![false; guest.bytes.len()];
    let mut model = Model { guest, access: case.access, left, is_handed_out: false, must: none.clone(), may: none };
    if case.is_owned {
        play_all(&mut model, GuestBuffers::owned(&mem, io_ranges, case.access).unwrap(), &case.ops);
    } else {
        play_all(&mut model, GuestBuffers::new(&mem, io_ranges, case.access).unwrap(), &case.ops);
    }
    check_marks(&model, &marks);
    let harvest = log.harvest();
    let size = usize::try_from(case.log_page).unwrap();
    for (position, _) in model.must.iter().enumerate().filter(|(_, must)| **must) {
        let addr = at(position).0;
        assert!(harvest.ranges().any(|range| (range.start..range.start + range.len).contains(&addr)));
    }
    // Larger ones begin with the region.
    for range in harvest.ranges().filter(|_| size == 4096) {
        for start in (range.start..range.start + range.len).step_by(size) {
            let from = usize::try_from(start - BASE).unwrap();
            assert!(model.may[from..from + size].iter().any(|&may| may));
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn as_a_list_of_bytes(mut case in case()) {
        if !recovers() {
            case.plans.iter_mut().for_each(|plan| plan.bad = None);
        }
        run(&case);
    }
}
