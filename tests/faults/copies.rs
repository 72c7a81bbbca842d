//! Copies inside memory: the source bad, the destination, or both; apart, and overlapping upwards and downwards.

use memory_model::GuestMemory;

use crate::ground::told_by_guest;
use crate::ground::{
    Bad, Ground, Guest, LONGEST, UNREADABLE, UNWRITABLE, around, at, exact, offset, page, pattern, told,
};
use crate::recovers;

/// Copies between two grounds, and checks the answer and all of both.
fn check_copy(src: (&Ground, usize), dst: (&Ground, usize), len: usize) {
    let good = src.0.readable(src.1, len).min(dst.0.good(dst.1, len));
    let answered = src.0.part(src.1, len).copy_to_volatile_slice(dst.0.part(dst.1, len)).map_err(told);
    let place = |(ground, start): (&Ground, usize)| format!("{:?} edge {:+}", ground.bad, offset(start, ground.edge));
    let what = || format!("{len} bytes from {} to {}", place(src), place(dst));
    assert_eq!(answered, exact(0, len, good), "{}", what());
    src.0.check(src.0.window(), 0, &[], &what);
    dst.0.check(dst.0.window(), dst.1, pattern(src.1..src.1 + good), &what);
    dst.0.reset(dst.1..dst.1 + good);
}

/// A start from which no copy reaches the edge.
const CLEAR: usize = 64;

#[test]
fn a_copy_stops_where_the_source_is_bad() {
    if recovers() {
        let dst = Ground::new(Bad::Hole);
        for src in UNREADABLE.map(Ground::new) {
            for (start, len) in around(src.edge) {
                // Other alignments, other bytes: no start of the pattern is the same.
                check_copy((&src, start), (&dst, dst.edge - LONGEST - 1 - start % 16), len);
            }
        }
    }
}

#[test]
fn a_copy_stops_where_the_destination_is_bad() {
    if recovers() {
        let src = Ground::new(Bad::Hole);
        for dst in UNWRITABLE.map(Ground::new) {
            for (start, len) in around(dst.edge) {
                check_copy((&src, CLEAR + start % 16), (&dst, start), len);
            }
            dst.check_beyond();
        }
    }
}

#[test]
fn a_copy_stops_at_the_first_of_two_bad_sides() {
    if recovers() {
        let (sources, targets) = (UNREADABLE.map(Ground::new), UNWRITABLE.map(Ground::new));
        for (src, dst) in sources.iter().flat_map(|src| targets.iter().map(move |dst| (src, dst))) {
            // Where the destination ends, seen from where the source does.
            for later in [-33, -8, -1, 0, 1, 7, 16, 40] {
                for (start, len) in around(src.edge).filter(|(start, len)| (start + len) % 17 == 0) {
                    let to = dst.edge.checked_add_signed(offset(start, src.edge) - later).unwrap();
                    check_copy((src, start), (dst, to), len);
                }
            }
        }
    }
}

/// Copies over itself, and checks the answer and all bytes.
fn check_overlapping(ground: &Ground, src: usize, dst: usize, len: usize) {
    let good = ground.readable(src, len).min(ground.good(dst, len));
    let answered = ground.part(src, len).copy_to_volatile_slice(ground.part(dst, len)).map_err(told);
    let edge = ground.edge;
    let what = || format!("{len} bytes, edge {:+} to {:+}, {:?}", offset(src, edge), offset(dst, edge), ground.bad);
    assert_eq!(answered, exact(0, len, good), "{}", what());
    ground.check(ground.window(), dst, pattern(src..src + good), &what);
    ground.reset(dst..dst + good);
}

/// Lengths, and starts of which the lower one is tried around the edge, as far as either side reaches it.
fn overlaps(edge: usize, distance: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=LONGEST).flat_map(move |len| {
        let step = 1 + len / 16;
        (edge - len - distance - 1..=edge + 1).step_by(step).map(move |lower| (lower, len))
    })
}

const DISTANCES: [usize; 8] = [0, 1, 3, 8, 15, 16, 17, 100];

#[test]
fn an_overlapping_copy_upwards_does_what_comes_before_the_edge() {
    if recovers() {
        for ground in UNWRITABLE.map(Ground::new) {
            for distance in DISTANCES {
                for (lower, len) in overlaps(ground.edge, distance) {
                    check_overlapping(&ground, lower + distance, lower, len);
                }
            }
            ground.check_beyond();
        }
    }
}

#[test]
fn an_overlapping_copy_downwards_does_what_comes_before_the_edge() {
    if recovers() {
        for ground in UNWRITABLE.map(Ground::new) {
            for distance in DISTANCES {
                for (lower, len) in overlaps(ground.edge, distance) {
                    check_overlapping(&ground, lower, lower + distance, len);
                }
            }
            ground.check_beyond();
        }
    }
}

/// Copies `len` bytes between positions of a guest, and checks the answer and all of memory.
fn check_guest(guest: &Guest, src: usize, dst: usize, len: usize) {
    let completed = guest.good(src, len).min(guest.good(dst, len));
    let first_bad = if guest.good(src, len) <= guest.good(dst, len) { src } else { dst } + completed;
    let what = || format!("{len} bytes, edge {:+} to {:+}", offset(src, guest.edge), offset(dst, guest.edge));
    let expected = if completed == len { Ok(()) } else { Err((first_bad, completed)) };
    assert_eq!(guest.mem.copy(at(src), at(dst), len).map_err(told_by_guest), expected, "{}", what());
    guest.check(guest.all(), dst, pattern(src..src + completed), &what);
    guest.reset(dst..dst + completed);
}

/// Three regions that touch; the bad page is in the middle of the second.
fn guest() -> Guest {
    Guest::new(Bad::Hole, &[2, 3, 2], 3)
}

#[test]
fn a_copy_inside_the_guest_names_the_address_and_counts_from_its_start() {
    if !recovers() {
        return;
    }
    let (guest, page) = (guest(), page());
    for len in [1, 8, 33, 200, page, page + 77] {
        for short in [0, 1, 9, len / 2, len] {
            let start = 3 * page - short;
            check_guest(&guest, start, 16, len);
            check_guest(&guest, 16, start, len);
            for distance in [1, 16, len / 2] {
                check_guest(&guest, start, start + distance, len);
                check_guest(&guest, start + distance, start, len);
                check_guest(&guest, start - distance, start, len);
                check_guest(&guest, start, start - distance, len);
            }
        }
    }
}

#[test]
fn a_copy_over_seams_stops_at_the_edge_all_the_same() {
    if !recovers() {
        return;
    }
    let (guest, page) = (guest(), page());
    // From the first region over the second's good page: source and destination cross seams at different bytes.
    for (src, dst) in [(page + 10, 8), (8, page + 10), (2 * page - 5, 2 * page - 300), (2 * page - 300, 2 * page - 5)] {
        for len in [page - 40, page, 2 * page - 11, 2 * page] {
            check_guest(&guest, src, dst, len);
        }
    }
}

#[test]
fn a_copy_between_guest_slices_names_the_side_that_is_bad() {
    if !recovers() {
        return;
    }
    let guest = guest();
    let slice = |position| guest.mem.get_slice(at(position), 64).unwrap();
    let (good, bad) = (slice(0), slice(guest.edge - 24));
    for result in [good.copy_to_guest_slice(bad), bad.copy_to_guest_slice(good)] {
        assert_eq!(result.map_err(told_by_guest), Err((guest.edge, 24)));
    }
}
