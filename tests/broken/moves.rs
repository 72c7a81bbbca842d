use memory_model::guest_memory::Error;
use memory_model::{Bytes, GuestMemory};

use crate::ground::{APART, AT, Count, SIZE, Way, ends, memory, use_map, use_memory};

/// Without host memory, so that everything goes through `read` and `write`.
fn way(moves: Count) -> Way {
    Way { slices: None, moves, ..Way::RIGHT }
}

#[test]
fn a_region_that_moves_nothing_is_the_end_of_memory() {
    ends("nothing", || {
        let mem = memory(way(Count::Zero));
        let short = |result: Result<(), Error>| {
            let result = result.unwrap_err();
            assert!(matches!(result, Error::PartialBuffer { completed: 0, .. }), "{result:?}");
        };
        assert_eq!((mem.write(&[1; SIZE], AT).unwrap(), mem.read(&mut [1; SIZE], AT).unwrap()), (0, 0));
        short(mem.write_slice(&[1; SIZE], AT));
        short(mem.read_slice(&mut [1; SIZE], AT));
        short(mem.write_obj(1_u64, AT));
        short(mem.read_obj::<u64>(AT).map(drop));
        short(mem.fill(1, SIZE, AT));
        short(mem.write_all_from(AT, &mut &[1; SIZE][..], SIZE));
        short(mem.read_all_into(AT, &mut Vec::new(), SIZE));
        short(mem.copy(AT, APART, SIZE));
    });
}

#[test]
fn a_region_that_moves_more_than_asked_is_an_overrun() {
    for moves in [Count::Longer, Count::Most] {
        ends(format!("{moves:?}"), move || {
            let mem = memory(way(moves));
            let overrun = |result: Result<(), Error>| {
                let result = result.unwrap_err();
                assert!(matches!(result, Error::Overrun { .. }), "{moves:?}: {result:?}");
            };
            overrun(mem.write(&[1; SIZE], AT).map(drop));
            overrun(mem.read(&mut [1; SIZE], AT).map(drop));
            overrun(mem.write_slice(&[1; SIZE], AT));
            overrun(mem.read_slice(&mut [1; SIZE], AT));
            overrun(mem.write_obj(1_u64, AT));
            overrun(mem.read_obj::<u64>(AT).map(drop));
            overrun(mem.fill(1, SIZE, AT));
            overrun(mem.write_from(AT, &mut &[1; SIZE][..], SIZE).map(drop));
            overrun(mem.write_all_from(AT, &mut &[1; SIZE][..], SIZE));
            overrun(mem.read_into(AT, &mut Vec::new(), SIZE).map(drop));
            overrun(mem.read_all_into(AT, &mut Vec::new(), SIZE));
            overrun(mem.copy(AT, APART, SIZE));
        });
    }
}

/// Halves: an exact form goes on with the rest, down to the last byte, of which it gets nothing.
#[test]
fn a_region_that_moves_less_than_asked_ends() {
    ends("half", || {
        let mem = memory(way(Count::Shorter));
        assert_eq!(mem.write(&[1; SIZE], AT).unwrap(), SIZE / 2);
        let result = mem.write_slice(&[1; SIZE], AT).unwrap_err();
        assert!(
            matches!(result, Error::PartialBuffer { expected: SIZE, completed } if completed == SIZE - 1),
            "{result:?}"
        );
    });
}

#[test]
fn everything_ends_over_wrong_moves() {
    for moves in Count::WRONG {
        for slices in [None, Some(Count::Right), Some(Count::Zero)] {
            ends(format!("{moves:?}, slices {slices:?}"), move || {
                let mem = memory(Way { slices, ..way(moves) });
                use_memory(&mem);
                use_map(&mem);
            });
        }
    }
}
