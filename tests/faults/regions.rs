//! Accesses that cross from region to region: what was done is counted from the start of the whole.

use memory_model::{Bytes, GuestMemory, GuestSlice, IoAddress};

use crate::every::View;
use crate::ground::told_by_guest;
use crate::ground::{BASE, Bad, Guest, UNREADABLE, UNWRITABLE, at, data, exact, offset, page, pattern, some};
use crate::recovers;

#[test]
fn a_bad_page_may_be_the_first_of_the_second_region() {
    if recovers() {
        for bad in UNWRITABLE {
            // All of the second region is gone, or its first page is bad.
            let guest = &Guest::new(bad, &[2, 2], 2);
            View { name: "two regions", backing: guest, mem: &guest.mem, at, told: told_by_guest }.check();
            let at = |position| IoAddress(BASE + position as u64);
            View { name: "two regions", backing: guest, mem: &guest.mem, at, told: told_by_guest }.check();
        }
    }
}

#[test]
fn seams_before_the_edge_and_behind_it_do_not_matter() {
    if !recovers() {
        return;
    }
    for (bad, regions) in UNREADABLE.into_iter().flat_map(|bad| [[1, 1, 2, 1], [1, 2, 1, 1]].map(|at| (bad, at))) {
        let (guest, page) = (Guest::new(bad, &regions, 3), page());
        for start in [0, 1, page - 1, page, page + 7, 2 * page - 3, 2 * page, 3 * page - 1, 3 * page] {
            for len in
                [page, page + 1, 2 * page, 2 * page + 33, 3 * page, 4 * page].map(|len| len.min(5 * page - start))
            {
                let good = guest.good(start, len);
                let what = || format!("{len} bytes at edge {:+}, {bad:?}, {regions:?}", offset(start, guest.edge));
                let mut buf = vec![0xff; len];
                let read = guest.mem.read_slice(&mut buf, at(start)).map_err(told_by_guest);
                assert_eq!(read.map(|()| len), exact(start, len, good), "{}", what());
                assert!(buf[..good] == *pattern(start..start + good) && buf[good..] == vec![0xff; len - good]);
                let read = guest.mem.read(&mut buf, at(start)).map_err(told_by_guest);
                assert_eq!(read, some(start, good), "{}", what());
                let written = guest.mem.write_slice(data(len), at(start)).map_err(told_by_guest);
                assert_eq!(written.map(|()| len), exact(start, len, good), "{}", what());
                guest.check(guest.all(), start, &data(len)[..good], &what);
                let filled = guest.mem.fill(0xab, len, at(start)).map_err(told_by_guest);
                assert_eq!(filled.map(|()| len), exact(start, len, good), "{}", what());
                guest.check(guest.all(), start, &vec![0xab; good], &what);
                let written = guest.mem.write(data(len), at(start)).map_err(told_by_guest);
                assert_eq!(written, some(start, good), "{}", what());
                guest.check(guest.all(), start, &data(len)[..good], &what);
                guest.reset(start..start + good);
            }
        }
        guest.check_beyond();
    }
}

#[test]
fn a_slice_may_have_a_bad_page_and_its_access_tells() {
    if !recovers() {
        return;
    }
    let guest = Guest::new(Bad::Truncated, &[1, 2], 2);
    let slices: Vec<_> = guest.mem.get_slices(at(10), 2 * page()).map(Result::unwrap).collect();
    let zero = |slice: &GuestSlice<'_>| slice.is_zero().map_err(told_by_guest);
    assert_eq!(slices.iter().map(zero).collect::<Vec<_>>(), [Ok(false), Ok(false)]);
    guest.mem.fill(0, 2 * page(), at(0)).unwrap();
    assert_eq!(slices.iter().map(zero).collect::<Vec<_>>(), [Ok(true), Err((guest.edge, page()))]);
}
