//! Long runs, up to 1 MiB, which end or begin at the edge, or reach over it.

use memory_model::Bytes;

use crate::ground::{Bad, Ground, Outcome, UNREADABLE, UNWRITABLE, data, exact, offset, page, pattern, some, told};
use crate::recovers;

const MIB: usize = 1 << 20;

/// With the edge at 1 MiB, and half a MiB behind it.
fn ground(bad: Bad) -> Ground {
    Ground::with(bad, 3 * MIB / 2 / page(), MIB / page())
}

/// Lengths, and how many bytes of them come before the edge: none, few, all but few, all, and some in between, at
/// each distance from the boundaries of vectors and blocks.
fn runs() -> impl Iterator<Item = (usize, usize)> {
    [4096, 4097, 9000, 65_536, 262_144 + 33, MIB].into_iter().flat_map(|len| {
        let near = [0, 1, 15, 32, 33, 64, 65, 127, 128, 129, 257, 1000];
        let from_end = near.into_iter().map(move |near| len - near);
        let middle = [len / 2, len / 3, len - len / 3 + 5];
        near.into_iter().chain(from_end).chain(middle).filter(move |&good| good <= len).map(move |good| (len, good))
    })
}

#[test]
fn long_reads_end_at_the_edge() {
    if !recovers() {
        return;
    }
    let canary = vec![0xff; MIB + 64];
    let mut to = canary.clone();
    for ground in UNREADABLE.map(ground) {
        for (len, good) in runs() {
            let start = ground.edge - good;
            // Reads beyond the mapping are none.
            let len = len.min(ground.slice().len() - start);
            let what = format!("{len} bytes from edge {:+}, {:?}", offset(start, ground.edge), ground.bad);
            let at = 7 + start % 32;
            let read = |buf: &mut [u8]| ground.slice().read_slice(buf, start).map(|()| len).map_err(told);
            assert_eq!(read(&mut to[at..at + len]), exact(start, len, good.min(len)), "{what}");
            assert!(to[at..at + good] == *pattern(start..start + good), "{what}: not the memory's bytes");
            to[at..at + good].fill(0xff);
            assert!(to == canary, "{what}: more was written");
        }
    }
}

/// Runs `write` for each length, and checks all of the file.
fn check_writes(bytes: impl Fn(usize) -> Vec<u8>, write: impl Fn(&Ground, &[u8], usize) -> Outcome, is_exact: bool) {
    for ground in UNWRITABLE.map(ground) {
        for (len, good) in runs() {
            let start = ground.edge - good;
            let from = bytes(len.min(ground.slice().len() - start));
            let what = || format!("{} bytes at edge {:+}, {:?}", from.len(), offset(start, ground.edge), ground.bad);
            let expected = if is_exact { exact(start, from.len(), good) } else { some(start, good) };
            assert_eq!(write(&ground, &from, start), expected, "{}", what());
            ground.check(ground.all(), start, &from[..good], &what);
            ground.reset(start..ground.edge);
        }
        ground.check_beyond();
    }
}

#[test]
fn long_writes_end_at_the_edge() {
    if recovers() {
        let data = |len| data(len).to_vec();
        let all = |ground: &Ground, from: &[u8], start| ground.slice().write_slice(from, start).map(|()| from.len());
        check_writes(data, |ground, from, start| all(ground, from, start).map_err(told), true);
        check_writes(data, |ground, from, start| ground.slice().write(from, start).map_err(told), false);
    }
}

#[test]
fn long_fills_end_at_the_edge() {
    if recovers() {
        let fill = |ground: &Ground, len, start| ground.slice().fill(0xab, len, start).map(|()| len).map_err(told);
        check_writes(|len| vec![0xab; len], |ground, from, start| fill(ground, from.len(), start), true);
    }
}

#[test]
fn long_zero_tests_end_at_the_edge() {
    if !recovers() {
        return;
    }
    for ground in UNREADABLE.map(ground) {
        ground.slice().fill(0, ground.edge, 0).unwrap();
        for (len, good) in runs().filter(|&(len, good)| good < len) {
            let start = ground.edge - good;
            let part = ground.part(start, len.min(ground.slice().len() - start));
            let what = format!("{len} bytes from edge {:+}, {:?}", offset(start, ground.edge), ground.bad);
            assert_eq!(part.is_zero().map_err(told), Err((good, good)), "{what}");
            if let Some(last) = good.checked_sub(1) {
                part.write_obj(1_u8, last).unwrap();
                assert_eq!(part.is_zero().map_err(told), Ok(false), "{what}, and a byte that is not zero");
                part.write_obj(0_u8, last).unwrap();
            }
        }
    }
}

#[test]
fn long_copies_inside_memory_end_at_the_edge() {
    if !recovers() {
        return;
    }
    let source = ground(Bad::Hole);
    for target in UNWRITABLE.map(ground) {
        for (len, good) in runs().filter(|&(len, good)| len <= MIB / 2 && good < len) {
            // Apart: the destination is bad, or the source is.
            let start = target.edge - good;
            let what = || format!("{len} bytes, {good} before the edge, {:?}", target.bad);
            for (from, to) in [(3, start), (source.edge - good, 5)] {
                let copied = source.part(from, len).copy_to_volatile_slice(target.part(to, len)).map_err(told);
                assert_eq!(copied, Err((good, good)), "{}", what());
                target.check(target.all(), to, pattern(from..from + good), &what);
                target.reset(to..to + good);
            }
        }
    }
}
