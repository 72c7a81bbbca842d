//! Every length from 1 to 300 bytes at every offset around the edge.

use memory_model::{Bytes, DataInit, VolatileSlice};

use crate::ground::{Bad, Ground, LONGEST, Outcome, UNREADABLE, UNWRITABLE, around, data, exact, offset, page};
use crate::ground::{pattern, some, told};
use crate::recovers;

/// What a destination holds where nothing was read to.
const CANARY: u8 = 0xff;
/// How much of it there is before and behind.
const GUARD: usize = 32;

/// Reads every length at every offset. `answer(start, len, good)` is what `read` of the bytes from `start` must answer.
fn check_reads(
    read: impl Fn(VolatileSlice<'_>, &mut [u8], usize) -> Outcome,
    answer: impl Fn(usize, usize, usize) -> Outcome,
) {
    for ground in UNREADABLE.map(Ground::new) {
        let mut to = [CANARY; LONGEST + 3 * GUARD];
        let mut expected = to;
        for (start, len) in around(ground.edge) {
            let good = ground.good(start, len);
            // The destination is not always aligned as the source is.
            let at = GUARD + (start + len) % 16;
            to.fill(CANARY);
            expected.fill(CANARY);
            expected[at..at + good].copy_from_slice(pattern(start..start + good));
            let answered = read(ground.slice(), &mut to[at..at + len], start);
            let what = || format!("{len} bytes from edge {:+}, {:?}", offset(start, ground.edge), ground.bad);
            assert_eq!(answered, answer(start, len, good), "{}", what());
            assert!(to == expected, "{}: {to:?}", what());
        }
    }
}

/// Writes every length at every offset.
fn check_writes(
    source: impl Fn(usize) -> Vec<u8>,
    write: impl Fn(VolatileSlice<'_>, &[u8], usize) -> Outcome,
    answer: impl Fn(usize, usize, usize) -> Outcome,
) {
    for ground in UNWRITABLE.map(Ground::new) {
        let window = ground.window();
        for (start, len) in around(ground.edge) {
            let good = ground.good(start, len);
            let from = source(len);
            let answered = write(ground.slice(), &from, start);
            let what = || format!("{len} bytes at edge {:+}, {:?}", offset(start, ground.edge), ground.bad);
            assert_eq!(answered, answer(start, len, good), "{}", what());
            ground.check(window.clone(), start, &from[..good], &what);
            ground.reset(start..start + good);
        }
        ground.check_beyond();
    }
}

#[test]
fn an_exact_read_fills_what_comes_before_the_edge_and_no_more() {
    if recovers() {
        check_reads(|slice, buf, start| slice.read_slice(buf, start).map(|()| buf.len()).map_err(told), exact);
    }
}

#[test]
fn a_read_answers_what_comes_before_the_edge() {
    if recovers() {
        check_reads(|slice, buf, start| slice.read(buf, start).map_err(told), |start, _, good| some(start, good));
    }
}

#[test]
fn a_copy_out_of_a_slice_counts_from_its_start() {
    if recovers() {
        check_reads(
            |slice, buf, start| slice.subslice(start, buf.len()).unwrap().copy_to(buf).map_err(told),
            |_, len, good| exact(0, len, good),
        );
        // Elements of several bytes: bytes are counted all the same.
        let ground = Ground::new(Bad::Hole);
        for start in ground.edge - 42..=ground.edge + 1 {
            let (mut to, good) = ([u32::MAX; 10], ground.good(start, 40));
            assert_eq!(
                ground.part(start, 40).copy_to(&mut to).map_err(told),
                exact(0, 40, good).map(|bytes| bytes / 4)
            );
            let expected = [pattern(start..start + good), &[CANARY; 40][good..]].concat();
            assert_eq!(DataInit::as_slice(&to), expected, "from edge {:+}", offset(start, ground.edge));
        }
    }
}

#[test]
fn an_exact_write_stores_what_comes_before_the_edge_and_no_more() {
    if recovers() {
        let write = |slice: VolatileSlice<'_>, buf: &[u8], start| slice.write_slice(buf, start);
        check_writes(
            |len| data(len).to_vec(),
            |slice, buf, start| write(slice, buf, start).map(|()| buf.len()).map_err(told),
            exact,
        );
    }
}

#[test]
fn a_write_answers_what_comes_before_the_edge() {
    if recovers() {
        check_writes(
            |len| data(len).to_vec(),
            |slice, buf, start| slice.write(buf, start).map_err(told),
            |start, _, good| some(start, good),
        );
    }
}

#[test]
fn a_copy_into_a_slice_counts_from_its_start() {
    if recovers() {
        check_writes(
            |len| data(len).to_vec(),
            |slice, buf, start| slice.subslice(start, buf.len()).unwrap().copy_from(buf).map_err(told),
            |_, len, good| exact(0, len, good),
        );
    }
}

#[test]
fn a_fill_stores_what_comes_before_the_edge_and_no_more() {
    if recovers() {
        check_writes(
            |len| vec![0xab; len],
            |slice, buf, start| slice.fill(0xab, buf.len(), start).map(|()| buf.len()).map_err(told),
            exact,
        );
    }
}

#[test]
fn a_read_only_page_can_be_read() {
    if recovers() {
        let ground = Ground::new(Bad::ReadOnly);
        for start in ground.edge - LONGEST..=ground.edge + page() {
            let mut to = [0; LONGEST];
            ground.slice().read_slice(&mut to, start).unwrap();
            assert_eq!(to, pattern(start..start + LONGEST));
        }
        assert!(!ground.part(ground.edge - 10, 20).is_zero().unwrap());
    }
}

/// All is zero before the edge, but for one byte, or none.
#[test]
fn a_zero_test_finds_the_fault_only_if_all_before_it_is_zero() {
    if !recovers() {
        return;
    }
    for ground in UNREADABLE.map(Ground::new) {
        ground.slice().fill(0, ground.edge, 0).unwrap();
        for (start, len) in around(ground.edge) {
            let what = || format!("{len} bytes from edge {:+}, {:?}", offset(start, ground.edge), ground.bad);
            let good = ground.good(start, len);
            let part = ground.part(start, len);
            let expected = if good == len { Ok(true) } else { Err((good, good)) };
            assert_eq!(part.is_zero().map_err(told), expected, "{}", what());
            // A byte that is not zero at the start, in the middle, or just before the edge.
            for one in [0, good / 2, good.saturating_sub(1)].into_iter().filter(|&one| one < good) {
                ground.slice().write_obj(1_u8, start + one).unwrap();
                assert_eq!(part.is_zero().map_err(told), Ok(false), "{}: 1 at {one}", what());
                ground.slice().write_obj(0_u8, start + one).unwrap();
            }
        }
    }
}
