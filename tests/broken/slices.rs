use memory_model::buffers::{GuestBuffers, PinnedSlice, Writer};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, IoAddress, IoMemory, MemoryRegionAddress, VolatileMemory,
};

use crate::ground::{APART, AT, Broken, Count, LEN, SIZE, SIZE_U32, START, Way, ends, memory, use_map, use_memory};

fn way(slices: Count) -> Way {
    Way { slices: Some(slices), ..Way::RIGHT }
}

/// Whether the error is that of a result that is too short, or too long.
fn is_of(error: &Error, slices: Count) -> bool {
    match slices {
        Count::Longer | Count::Most => matches!(error, Error::Overrun { .. }),
        _ => matches!(error, Error::PartialBuffer { .. }),
    }
}

#[test]
fn a_copy_of_slices_of_another_length_is_an_error() {
    for slices in Count::WRONG {
        // Apart, upwards over itself, downwards over itself.
        for (src, dst) in [(AT, APART), (GuestAddress(AT.0 + 0x10), AT), (AT, GuestAddress(AT.0 + 0x10))] {
            ends(format!("{slices:?} from {src} to {dst}"), move || {
                let mem = memory(way(slices));
                let region: &Broken = mem.regions().next().unwrap();
                let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
                let all = region.mapping.as_volatile_slice();
                all.write_slice(&bytes, 0).unwrap();
                let error = mem.copy(src, dst, SIZE).unwrap_err();
                assert!(is_of(&error, slices), "{error:?}");
                let at = usize::try_from(dst.0 - START).unwrap();
                let mut now = vec![0; LEN];
                all.read_slice(&mut now, 0).unwrap();
                assert!(now[..at] == bytes[..at] && now[at + SIZE..] == bytes[at + SIZE..], "outside of the copy");
            });
        }
    }
}

#[test]
fn slices_of_another_length_are_not_handed_on() {
    for slices in Count::WRONG {
        ends(format!("{slices:?}"), move || {
            let mem = memory(way(slices));
            let check = |what: &str, error: Option<Error>| match error {
                Some(error) => assert!(is_of(&error, slices), "{what}, {slices:?}: {error:?}"),
                None => panic!("{what}, {slices:?}: no error"),
            };
            check("get_slice", mem.get_slice(AT, SIZE).err());
            check("get_slices", mem.get_slices(AT, SIZE).last().unwrap().err());
            check("io_slices", mem.io_slices(IoAddress(AT.0), SIZE, Access::Read).last().unwrap().err());
            let ranges = [(IoAddress(AT.0), SIZE)];
            check("GuestBuffers::new", GuestBuffers::new(&mem, ranges, Access::Write).err());
            check("GuestBuffers::owned", GuestBuffers::owned(&mem, ranges, Access::Write).err());
            check("GuestBuffers::physical", GuestBuffers::physical(&mem, [(AT, SIZE)], Access::Write).err());
            let segments = [memory_model::buffers::Segment { addr: IoAddress(AT.0), len: SIZE_U32 }];
            check("Writer::buffers", Writer::new(&mem, &segments).buffers(SIZE as u64).err());
            check("PinnedSlice::new", PinnedSlice::new(&mem, IoAddress(AT.0), SIZE, Access::Read).err());
            check("PinnedSlice::physical", PinnedSlice::physical(&mem, AT, SIZE, Access::Read).err());
        });
    }
    // Of one byte, half is none.
    for slices in [Count::Zero, Count::Shorter] {
        let mem = memory(way(slices));
        assert!(mem.get_host_address(AT).is_err());
        assert!(mem.regions().next().unwrap().get_host_address(MemoryRegionAddress(0)).is_err());
    }
}

#[test]
fn everything_ends_over_wrong_slices() {
    for slices in Count::WRONG {
        for shift in [0, 1, 0x1000, LEN] {
            ends(format!("{slices:?}, {shift:#x} off"), move || {
                let mem = memory(Way { shift, ..way(slices) });
                use_memory(&mem);
                use_map(&mem);
            });
        }
    }
    // In another place, which cannot be told from the right one.
    for shift in [1, 0x1000, LEN] {
        ends(format!("{shift:#x} off"), move || {
            let mem = memory(Way { shift, ..Way::RIGHT });
            use_memory(&mem);
            use_map(&mem);
        });
    }
}
