//! Files that are open with `O_DIRECT`: any memory, any length, any position; and each other's bytes are left alone.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use memory_model::buffers::{DirectFile, TransferError};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{BASE, Bad, Guest, Marks, Plan, cases, data, disjoint, page, pattern, recovers};
use crate::raw::memfd;

/// A file of these bytes, open with `O_DIRECT`, and again without it; nothing where the file system has no such thing.
fn direct(bytes: &[u8]) -> Option<(DirectFile, File)> {
    // Beside the build, as a temporary directory is often memory.
    let near = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = tempfile::NamedTempFile::new_in(near).unwrap();
    file.as_file().write_all_at(bytes, 0).unwrap();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(file.path());
    let disk = match opened {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            memory_model_test_support::skip!("file system without O_DIRECT");
            return None;
        }
        opened => DirectFile::new(opened.unwrap()).unwrap(),
    };
    assert!(disk.is_direct());
    assert!(disk.block_size().is_power_of_two() && disk.memory_align().is_power_of_two());
    Some((disk, file.into_file()))
}

/// A file of these bytes that is open with `O_DIRECT` only.
pub(crate) fn direct_file(bytes: &[u8]) -> Option<File> {
    direct(bytes).map(|(disk, _)| disk.file().try_clone().unwrap())
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// One that is open as usual does the same.
fn both(bytes: &[u8]) -> impl Iterator<Item = (DirectFile, File)> {
    let plain = memfd(0);
    plain.write_all_at(bytes, 0).unwrap();
    let opened = DirectFile::new(plain.try_clone().unwrap()).unwrap();
    assert!(!opened.is_direct() && opened.block_size() == 1);
    direct(bytes).into_iter().chain([(opened, plain)])
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read,
    Write,
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    offset: usize,
    ranges: Vec<(usize, usize)>,
}

const MEMORY: usize = 8 * 4096;

fn step() -> impl Strategy<Value = Step> {
    // Whole blocks, parts of them, and what is just beside.
    let near = |most: usize| {
        prop_oneof![
            2 => (0..=most / 512).prop_map(|sector| sector * 512),
            1 => (0..=most / 4096).prop_map(|block| block * 4096),
            1 => (0..=most / 512, 0..3_usize).prop_map(|(sector, beside)| (sector * 512 + beside).saturating_sub(1)),
            1 => 0..most,
        ]
    };
    let range = (near(MEMORY - 1), near(9000)).prop_map(|(at, len)| (at, len.min(MEMORY - at)));
    let op = prop_oneof![Just(Op::Read), Just(Op::Write)];
    (op, near(20_000), vec(range, 0..7)).prop_map(|(op, offset, ranges)| Step { op, offset, ranges })
}

fn run(len: usize, steps: &[Step]) {
    let first: Vec<_> = (0..len).map(|at| pattern(at * 3)).collect();
    for (disk, file) in both(&first) {
        let mut guest = Guest::of(&[MEMORY.div_ceil(page()) / 2, MEMORY.div_ceil(page())]);
        let marks = Marks::of(&guest.mem);
        let mut model = first.clone();
        for step in steps {
            let ranges = match step.op {
                Op::Read => disjoint(&step.ranges),
                Op::Write => step.ranges.clone(),
            };
            let positions: Vec<_> = ranges.iter().flat_map(|&(at, len)| at..at + len).collect();
            match step.op {
                Op::Read => {
                    let mut buffers = guest.buffers(&ranges, Access::Write);
                    let there = model.len().saturating_sub(step.offset).min(positions.len());
                    match disk.read_at(&mut buffers, step.offset as u64) {
                        Ok(()) => assert_eq!(there, positions.len()),
                        Err(TransferError { completed, cause, .. }) => {
                            assert!(
                                matches!(cause, Error::PartialBuffer { expected, completed: told }
                                if expected == positions.len() && told == completed),
                                "{cause}"
                            );
                            assert_eq!(completed, there);
                        }
                    }
                    assert_eq!(buffers.len(), positions.len() - there);
                    drop(buffers);
                    let mut must = vec![false; guest.bytes.len()];
                    for (&at, &byte) in positions.iter().zip(model.get(step.offset..).unwrap_or_default()) {
                        guest.bytes[at] = byte;
                        must[at] = true;
                    }
                    let mut marked = vec![false; guest.bytes.len()];
                    marks.take().iter().for_each(|&(at, len)| marked[at..at + len].fill(true));
                    assert!(marked == must, "marked is just what has landed");
                }
                Op::Write => {
                    let mut buffers = guest.buffers(&ranges, Access::Read);
                    disk.write_at(&mut buffers, step.offset as u64).unwrap();
                    assert!(buffers.is_empty());
                    if !positions.is_empty() {
                        model.resize(model.len().max(step.offset + positions.len()), 0);
                    }
                    for (at, &position) in (step.offset..).zip(&positions) {
                        model[at] = guest.bytes[position];
                    }
                    assert_eq!(marks.take(), []);
                }
            }
            guest.check();
            assert!(contents(&file) == model, "{step:?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn as_a_list_of_bytes(len in prop_oneof![0..5_usize, 0..20_000_usize], steps in vec(step(), 1..6)) {
        run(len, &steps);
    }
}

/// More than is copied at once, from a position and to places that are aligned to nothing.
#[test]
fn long_copies() {
    let len = (5 << 20) / 2 + 77;
    let bytes: Vec<_> = (0..len + 100).map(|at| pattern(at * 5 + at / 1000)).collect();
    for (disk, file) in both(&bytes) {
        let mut guest = Guest::of(&[len.div_ceil(page()) + 1]);
        disk.read_at(&mut guest.buffers(&[(1, len)], Access::Write), 99).unwrap();
        guest.bytes[1..=len].copy_from_slice(&bytes[99..99 + len]);
        guest.check();
        disk.write_at(&mut guest.buffers(&[(1, len)], Access::Read), 3).unwrap();
        let mut expected = bytes.clone();
        expected[3..3 + len].copy_from_slice(&bytes[99..99 + len]);
        assert!(contents(&file) == expected);
    }
}

/// More pieces than a system call takes.
#[test]
fn many_pieces() {
    let bytes: Vec<_> = (0..1100 * 512).map(|at| pattern(at * 5 + at / 1000)).collect();
    for (disk, file) in both(&bytes) {
        let mut guest = Guest::of(&[2 * 1100 * 512 / page() + 1]);
        let ranges: Vec<_> = (0..1100).map(|number| (number * 1024, 512)).collect();
        disk.read_at(&mut guest.buffers(&ranges, Access::Write), 0).unwrap();
        for (number, sector) in bytes.chunks(512).enumerate() {
            guest.bytes[number * 1024..number * 1024 + 512].copy_from_slice(sector);
        }
        guest.check();
        disk.write_at(&mut guest.buffers(&ranges, Access::Read), 512).unwrap();
        assert!(contents(&file) == [&bytes[..512], &bytes].concat());
    }
}

/// Threads that write the parts of each block, all at once: none undoes what another has written. Also where the file ends.
#[test]
fn parts_of_one_block_by_several_threads() {
    const THREADS: usize = 4;
    const PART: usize = 100;
    const ROUNDS: usize = 60;
    for (disk, file) in both(&[0; 300]) {
        let guests: Vec<_> = (0..THREADS).map(|_| Guest::of(&[2])).collect();
        let block = disk.block_size().max(512);
        thread::scope(|scope| {
            for (thread, guest) in guests.iter().enumerate() {
                let disk = &disk;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let ranges = [(thread * 7 + 1, PART)];
                        let at = round * THREADS * PART + thread * PART;
                        disk.write_at(&mut guest.buffers(&ranges, Access::Read), at as u64).unwrap();
                        // Whole blocks elsewhere, which do not wait for each other.
                        let at = 100 * block + (round * THREADS + thread) * block;
                        disk.write_at(&mut guest.buffers(&[(0, block)], Access::Read), at as u64).unwrap();
                    }
                });
            }
        });
        let found = contents(&file);
        for (number, part) in found.chunks(PART).take(ROUNDS * THREADS).enumerate() {
            let expected: Vec<_> = (0..PART).map(|at| pattern(number % THREADS * 7 + 1 + at)).collect();
            assert!(part == expected, "part {number}");
        }
        let whole: Vec<_> = (0..block).map(pattern).collect();
        for (number, part) in found[100 * block..].chunks(block).enumerate() {
            assert!(part == whole, "block {number}");
        }
        assert_eq!(found.len(), 100 * block + ROUNDS * THREADS * block);
    }
}

/// Whoever extends the file by parts of its last block, and others who do so behind it: the length is what was written.
#[test]
fn the_file_is_as_long_as_was_written() {
    for (disk, file) in both(b"abc") {
        let guest = Guest::of(&[2]);
        for (at, len) in [(3, 10), (13, 600), (5000, 1), (5000, 513), (9000, 0)] {
            disk.write_at(&mut guest.buffers(&[(1, len)], Access::Read), at).unwrap();
        }
        let found = contents(&file);
        assert_eq!(found.len(), 5513);
        assert_eq!((&found[..3], found[3], found[613]), (&b"abc"[..], pattern(1), 0));
        assert!(found[613..5000].iter().all(|&byte| byte == 0));
        assert!(found[5000..] == (1..514).map(pattern).collect::<Vec<_>>());
    }
}

/// By the system call alone, the kernel fills the rest of a block with zeros where the file ends: what was written is marked.
#[test]
fn what_the_kernel_does_not_count_is_marked() {
    let Some((disk, _)) = direct(&data(700)) else { return };
    let guest = Guest::of(&[2]);
    let marks = Marks::of(&guest.mem);
    // Which alignment it wants does not matter here.
    let count = guest.buffers(&[(0, 2 * page())], Access::Write).preadv(disk.file(), 0).unwrap();
    assert_eq!(count, 700);
    let mut found = vec![0; 2 * page()];
    guest.buffers(&[(0, 2 * page())], Access::Read).read_slice(&mut found, 0).unwrap();
    let changed = (0..found.len()).rfind(|&at| found[at] != pattern(at)).unwrap();
    let marked = marks.take();
    assert!(marked[0].0 == 0 && marked[0].1 > changed, "{changed:#x} was written, marked is {marked:x?}");
}

#[test]
fn pages_that_are_bad() {
    if !recovers() {
        return;
    }
    let bytes = data(4 * page());
    for (disk, file) in both(&bytes) {
        // By parts, and by whole pages that go directly.
        for start in [100, 0] {
            let mut guest = Guest::new(&[Plan { gap: 0, pages: 4, bad: Some(Bad::Unplugged(2)) }]);
            let good = 2 * page() - start;
            let marks = Marks::of(&guest.mem);
            let mut buffers = guest.buffers(&[(start, 3 * page())], Access::Write);
            let TransferError { completed, cause, .. } = disk.read_at(&mut buffers, 0).unwrap_err();
            let told = matches!(cause, Error::Fault { addr, completed }
                if addr.0 == BASE + 2 * page() as u64 && completed == good);
            assert!(told && completed == good, "{start}: {cause}, {completed}");
            assert_eq!(buffers.len(), 3 * page() - good);
            drop(buffers);
            assert!(marks.take()[0].1 >= good);
            guest.bytes[start..2 * page()].copy_from_slice(&bytes[..good]);
            guest.check();
            let error = disk.write_at(&mut guest.buffers(&[(start, 3 * page())], Access::Read), 7).unwrap_err();
            assert_eq!(error.completed, good, "{error}");
            assert!(matches!(error.cause, Error::Fault { completed, .. } if completed == good), "{error}");
            let found = contents(&file);
            assert!(found[7..7 + good] == bytes[..good] && found[7 + good..] == bytes[7 + good..]);
            file.write_all_at(&bytes, 0).unwrap();
        }
    }
}

#[test]
fn what_is_refused() {
    let guest = Guest::of(&[1]);
    for (disk, _) in both(&[1; 600]) {
        let refused = disk.read_at(&mut guest.buffers(&[(1, 3)], Access::Read), 0).unwrap_err();
        assert!(refused.completed == 0 && matches!(refused.cause, Error::Unsupported));
        let refused = disk.write_at(&mut guest.buffers(&[(1, 3)], Access::Write), 0).unwrap_err();
        assert!(refused.completed == 0 && matches!(refused.cause, Error::Unsupported));
        for at in [u64::MAX, u64::MAX - 1, 1 << 63] {
            let mut buffers = guest.buffers(&[(1, 3)], Access::ReadWrite);
            assert!(matches!(disk.read_at(&mut buffers, at).unwrap_err().cause, Error::Io(_)), "{at:#x}");
            assert!(matches!(disk.write_at(&mut buffers, at).unwrap_err().cause, Error::Io(_)), "{at:#x}");
        }
    }
    guest.check();
    let appending = tempfile::NamedTempFile::new().unwrap();
    let file = OpenOptions::new().append(true).open(appending.path()).unwrap();
    assert_eq!(DirectFile::new(file).unwrap_err().kind(), ErrorKind::InvalidInput);
    let file = File::open(appending.path()).unwrap();
    let fd = file.as_raw_fd();
    assert_eq!(DirectFile::new(file).unwrap().file().as_raw_fd(), fd);
}
