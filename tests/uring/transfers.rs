//! What is read and written, beside a model; what is refused.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use memory_model::buffers::uring::{FileEngine, Refusal};
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, fault_recovery};

use crate::raw::pipe;
use crate::{both, bytes, file, memory, next, owned, pattern, ring};

/// Numbers from a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

/// A part of the file, and of memory, for each of the requests that are under way.
const PARTS: usize = 32;
const PART: usize = 5000;
const ROOM: usize = 0x8000;

struct Pending {
    write: bool,
    offset: usize,
    ranges: Vec<(u64, usize)>,
    len: usize,
}

/// A request on a part: pieces with gaps between them, some of them in the wrong order.
fn request(random: &mut Random, part: usize) -> Pending {
    let offset = random.below(PART);
    let len = random.below(PART - offset + 1);
    let (mut ranges, mut addr, mut left) = (Vec::new(), part * ROOM, len);
    while left > 0 {
        let most = [5, 700, 3000][random.below(3)];
        let piece = (1 + random.below(most)).min(left);
        ranges.push((addr as u64, piece));
        addr += piece + [0, 0, 1, 4][random.below(4)];
        left -= piece;
    }
    if random.below(3) == 0 {
        ranges.reverse();
    }
    Pending { write: random.below(2) == 0, offset: part * PART + offset, ranges, len }
}

fn any_order(engine: &mut FileEngine, file: &File, seed: u64) {
    let mem = memory(&[0x1_2345 * 4, ROOM * PARTS]);
    let mut model = pattern(PARTS * PART);
    file.write_all_at(&model, 0).unwrap();
    let mut random = Random(seed);
    let mut pending: Vec<Option<Pending>> = (0..PARTS).map(|_| None).collect();
    let (mut left, mut is_syncing) = (3000, false);
    while left > 0 || engine.in_flight() > 0 {
        let part = random.below(PARTS);
        if left > 0 && pending[part].is_none() {
            left -= 1;
            let request = request(&mut random, part);
            let (offset, token) = (request.offset as u64, part as u64);
            if request.write {
                let (mut at, byte) = (request.offset, u8::try_from(random.below(256)).unwrap());
                for &(addr, len) in &request.ranges {
                    mem.fill(byte, len, GuestAddress(addr)).unwrap();
                    model[at..at + len].fill(byte);
                    at += len;
                }
                engine.write_at(owned(&mem, &request.ranges, Access::Read), offset, token).unwrap();
            } else {
                engine.read_at(owned(&mem, &request.ranges, Access::Write), offset, token).unwrap();
            }
            pending[part] = Some(request);
            if random.below(4) > 0 {
                continue;
            }
        }
        if random.below(8) == 0 && !is_syncing {
            engine.sync_data(u64::MAX).unwrap();
            is_syncing = true;
        }
        engine.submit().unwrap();
        if random.below(2) == 0 {
            engine.wait().unwrap();
        }
        while let Some(completion) = engine.next_completion().unwrap() {
            if completion.token == u64::MAX {
                assert_eq!((completion.result.unwrap(), completion.buffers.is_none()), (0, true));
                is_syncing = false;
                continue;
            }
            let request = pending[usize::try_from(completion.token).unwrap()].take().unwrap();
            assert_eq!((completion.result.unwrap(), completion.transferred), (request.len, request.len));
            assert!(completion.buffers.unwrap().is_empty());
            let mut at = request.offset;
            for (addr, len) in request.ranges {
                assert_eq!(bytes(&mem, addr, len), model[at..at + len], "write: {}", request.write);
                at += len;
            }
        }
    }
    let mut content = vec![0; model.len()];
    file.read_exact_at(&mut content, 0).unwrap();
    assert!(content == model);
}

#[test]
fn many_at_a_time_in_any_order() {
    let file = file(0);
    for mut engine in both(&file, u16::try_from(PARTS + 1).unwrap()) {
        assert!(engine.capacity() > PARTS);
        for seed in 1..=3 {
            any_order(&mut engine, &file, seed);
        }
    }
}

#[test]
fn more_pieces_than_a_system_call_takes() {
    let file = file(20_000);
    for mut engine in both(&file, 2) {
        let mem = memory(&[0x1_0000]);
        let ranges: Vec<_> = (0..5000).map(|number| (number * 7, 3)).collect();
        engine.read_at(owned(&mem, &ranges, Access::Write), 10, 1).unwrap();
        let completion = next(&mut engine);
        assert_eq!((completion.result.unwrap(), completion.token), (15_000, 1));
        for ((addr, len), expected) in ranges.iter().zip(pattern(20_000)[10..].chunks(3)) {
            assert_eq!(bytes(&mem, *addr, *len), expected);
            assert_eq!(bytes(&mem, addr + 3, 4), [0; 4]);
        }
        engine.write_at(owned(&mem, &ranges, Access::Read), 0, 2).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 15_000);
        let mut content = vec![0; 15_000];
        file.read_exact_at(&mut content, 0).unwrap();
        assert!(content == pattern(20_000)[10..15_010]);
        file.write_all_at(&pattern(20_000), 0).unwrap();
    }
}

#[test]
fn no_bytes_are_a_request_too() {
    let file = file(10);
    for mut engine in both(&file, 2) {
        let mem = memory(&[0x1000]);
        engine.read_at(owned(&mem, &[], Access::Write), 5, 1).unwrap();
        engine.write_at(owned(&mem, &[(0x800, 0)], Access::Read), 1 << 40, 2).unwrap();
        assert_eq!((next(&mut engine).result.unwrap(), next(&mut engine).result.unwrap()), (0, 0));
        assert_eq!((engine.in_flight(), file.metadata().unwrap().len()), (0, 10));
        // Nothing is under way: nothing is waited for.
        engine.wait().unwrap();
        assert!(engine.next_completion().unwrap().is_none());
    }
}

#[test]
fn a_read_ends_where_the_file_does() {
    let file = file(1000);
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x1000]);
        for (offset, expected) in [(0, 1000), (900, 100), (1000, 0), (1 << 62, 0)] {
            engine.read_at(owned(&mem, &[(0, 600), (0x400, 600)], Access::Write), offset, 1).unwrap();
            let completion = next(&mut engine);
            assert_eq!((completion.result.unwrap(), completion.transferred), (expected, expected));
            // What was not read is left of them.
            assert_eq!(completion.buffers.unwrap().len(), 1200 - expected);
        }
        engine.write_at(owned(&mem, &[(0, 10)], Access::Read), 2000, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 10);
        assert_eq!(file.metadata().unwrap().len(), 2010);
        file.set_len(1000).unwrap();
    }
}

/// A file that is read and written past the page cache; `None`, and says so, if the file system has no such.
pub(crate) fn direct(len: usize) -> Option<File> {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    named.as_file().write_all_at(&pattern(len), 0).unwrap();
    let open = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(named.path());
    if open.is_err() {
        memory_model_test_support::skip!("file system without O_DIRECT");
    }
    open.ok()
}

/// The rest of a direct read that the file's end has cut is not aligned, and is not asked for.
#[test]
fn a_direct_read_ends_where_the_file_does() {
    let Some(file) = direct(0x1801) else { return };
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x4000]);
        engine.read_at(owned(&mem, &[(0x1000, 0x3000)], Access::Write), 0, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 0x1801);
        assert_eq!(bytes(&mem, 0x1000, 0x1801), pattern(0x1801));
    }
}

/// A direct transfer that meets a bad page moves nothing, and is repeated with what lies before.
#[test]
fn a_direct_transfer_ends_before_a_bad_page() {
    const PAGE: usize = 0x1_0000;
    fault_recovery::install().unwrap();
    let Some(file) = direct(4 * PAGE) else { return };
    for mut engine in both(&file, 4) {
        let backing = tempfile::tempfile().unwrap();
        backing.set_len(4 * PAGE as u64).unwrap();
        let at = FileOffset::new(backing.try_clone().unwrap(), 0);
        let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), 4 * PAGE, Some(at))]).unwrap();
        backing.set_len(2 * PAGE as u64).unwrap();
        let ranges = [(PAGE as u64, 0x1000), (PAGE as u64 + 0x4000, 2 * PAGE)];
        engine.read_at(owned(&mem, &ranges, Access::Write), 0, 1).unwrap();
        let read = next(&mut engine);
        let good = 0x1000 + PAGE - 0x4000;
        let Err(Error::Fault { addr, completed }) = read.result else { panic!("{read:?}") };
        assert_eq!((addr.0, completed, read.transferred), (2 * PAGE as u64, good, good));
        assert_eq!(bytes(&mem, PAGE as u64 + 0x4000, PAGE - 0x4000), pattern(PAGE)[0x1000..PAGE - 0x3000]);
        engine.write_at(owned(&mem, &ranges, Access::Read), 2 * PAGE as u64, 2).unwrap();
        let write = next(&mut engine);
        let Err(Error::Fault { addr, completed }) = write.result else { panic!("{write:?}") };
        assert_eq!((addr.0, completed, write.transferred), (2 * PAGE as u64, good, good));
    }
}

#[test]
fn what_the_file_refuses_is_its_error() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let file = File::open(path.path()).unwrap();
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x1000]);
        engine.write_at(owned(&mem, &[(0, 100)], Access::Read), 0, 7).unwrap();
        let completion = next(&mut engine);
        let Err(Error::Io(error)) = &completion.result else { panic!("{completion:?}") };
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert_eq!((completion.token, completion.transferred, completion.buffers.unwrap().len()), (7, 0, 100));
    }
}

#[test]
fn refused_requests_give_their_buffers_back() {
    let file = file(0x1000);
    for mut engine in both(&file, 3) {
        let mem = memory(&[0x1000]);
        let read = || owned(&mem, &[(0, 10), (0x100, 20)], Access::Write);
        let write = || owned(&mem, &[(0, 10), (0x100, 20)], Access::Read);
        let refused = engine.read_at(write(), 0, 1).unwrap_err();
        assert_eq!((refused.reason, refused.buffers.len()), (Refusal::Access, 30));
        let refused = engine.write_at(read(), 0, 1).unwrap_err();
        assert_eq!((refused.reason, refused.buffers.len()), (Refusal::Access, 30));
        let last = i64::MAX as u64;
        for offset in [u64::MAX, u64::MAX - 29, last, last - 29] {
            let refused = engine.read_at(read(), offset, 1).unwrap_err();
            assert_eq!((refused.reason, refused.buffers.len()), (Refusal::Offset, 30));
        }
        engine.read_at(read(), last - 30, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 0);
        assert_eq!(engine.in_flight(), 0, "nothing of what was refused is");

        for token in 0..3 {
            engine.read_at(read(), 0, token).unwrap();
        }
        assert_eq!(engine.write_at(write(), 0, 1).unwrap_err().reason, Refusal::Full);
        assert_eq!((engine.sync_data(1).unwrap_err(), engine.sync_all(1).unwrap_err()), (Refusal::Full, Refusal::Full));
        engine.submit().unwrap();
        let refused = engine.read_at(read(), 0, 1).unwrap_err();
        assert_eq!((refused.reason, refused.buffers.len(), engine.in_flight()), (Refusal::Full, 30, 3));
        // There is room again when one was taken.
        assert_eq!(next(&mut engine).result.unwrap(), 30);
        engine.read_at(refused.buffers, 5, 3).unwrap();
        for _ in 0..3 {
            assert_eq!(next(&mut engine).result.unwrap(), 30);
        }
        assert_eq!(bytes(&mem, 0, 1).len(), 1);
    }
    assert!(FileEngine::new(file.try_clone().unwrap(), 0).is_err());
    assert!(FileEngine::without_io_uring(file, 0).is_err());
}

#[test]
fn both_ways_with_the_same_buffers() {
    let file = file(0x100);
    for mut engine in both(&file, 2) {
        let mem = memory(&[0x1000]);
        engine.read_at(owned(&mem, &[(0, 0x80)], Access::ReadWrite), 0, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 0x80);
        engine.write_at(owned(&mem, &[(0, 0x80)], Access::ReadWrite), 0x200, 1).unwrap();
        assert_eq!(next(&mut engine).result.unwrap(), 0x80);
        engine.sync_all(2).unwrap();
        assert_eq!((next(&mut engine).token, file.metadata().unwrap().len()), (2, 0x280));
    }
}

/// What comes in parts is one request.
#[test]
fn a_request_goes_on_until_it_is_done() {
    let (reader, writer) = pipe(0);
    let Some(mut engine) = ring(reader, 2) else { return };
    let mem = memory(&[0x1000]);
    engine.read_at(owned(&mem, &[(0, 300), (0x800, 300)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    for part in pattern(600).chunks(100) {
        assert!(engine.next_completion().unwrap().is_none());
        std::io::Write::write_all(&mut &writer, part).unwrap();
    }
    assert_eq!(next(&mut engine).result.unwrap(), 600);
    assert_eq!([bytes(&mem, 0, 300), bytes(&mem, 0x800, 300)].concat(), pattern(600));
    // And one that the other end ends is shorter.
    engine.read_at(owned(&mem, &[(0, 300)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    std::io::Write::write_all(&mut &writer, &[7; 10]).unwrap();
    drop(writer);
    assert_eq!(next(&mut engine).result.unwrap(), 10);
}
