//! Who has the memory while a request is under way.

use std::io::Write;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;

use memory_model::buffers::GuestBuffers;
use memory_model::buffers::uring::FileEngine;
use memory_model::guest_memory::Error;
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap, IoAddress};

use crate::child::in_child;
use crate::raw::{in_fork, is_mapped, is_readable, pipe};
use crate::{file, memory, next, owned, pattern, ring};

const SIZE: usize = 0x20_0000;

/// A region that is removed from its map as soon as `buffers` of it are under way.
struct Removed {
    map: GuestMemoryAtomic<GuestMemoryMmap>,
    region: Weak<GuestRegionMmap>,
    /// Where it is in the host.
    addr: usize,
}

impl Removed {
    /// A request that is under way, of a region that is in no map any more.
    fn under_way(engine: &mut FileEngine) -> Self {
        let map = GuestMemoryAtomic::new(memory(&[SIZE, SIZE]));
        let mem = map.memory();
        let ranges = [(IoAddress(SIZE as u64 - 100), 200), (IoAddress(SIZE as u64 + 0x10_0000), 400)];
        let mut buffers = GuestBuffers::owned(&*mem, ranges, Access::Write).unwrap();
        let addr = buffers.as_iovecs().last().unwrap().as_ptr().addr() & !0xfff;
        engine.read_at(buffers, 0, 5).unwrap();
        engine.submit().unwrap();
        drop(mem);
        let region = map.remove_region(GuestAddress(SIZE as u64), SIZE as u64).unwrap();
        let removed = Self { region: Arc::downgrade(&region), map, addr };
        drop(region);
        assert!(removed.is_there());
        assert!(removed.map.memory().read_obj::<u8>(GuestAddress(SIZE as u64)).is_err());
        removed
    }

    fn is_there(&self) -> bool {
        let is = self.region.upgrade().is_some();
        assert_eq!(is, is_mapped(self.addr));
        is
    }
}

#[test]
fn memory_that_is_removed_meanwhile_stays_until_the_request_is_done() {
    in_child!(memory_that_is_removed_meanwhile_stays_until_the_request_is_done, {
        let (reader, mut writer) = pipe(0);
        let Some(mut engine) = ring(reader, 4) else { return };
        let removed = Removed::under_way(&mut engine);
        writer.write_all(&pattern(250)).unwrap();
        assert!(engine.next_completion().unwrap().is_none());
        assert!(removed.is_there());
        writer.write_all(&pattern(600)[250..]).unwrap();
        let completion = next(&mut engine);
        assert_eq!((completion.token, completion.result.as_ref().unwrap()), (5, &600));
        // The buffers keep it, also when they are used up.
        assert!(removed.is_there());
        drop(completion);
        assert!(!removed.is_there());
        // What was not removed has its bytes.
        let mut bytes = [0; 100];
        removed.map.memory().read_slice(&mut bytes, GuestAddress(SIZE as u64 - 100)).unwrap();
        assert_eq!(bytes, *pattern(100));
        // And what of the memory is gone is no place for a request.
        let mem = removed.map.memory();
        assert!(GuestBuffers::owned(&*mem, [(IoAddress(SIZE as u64), 1)], Access::Write).is_err());
    });
}

#[test]
fn an_engine_that_is_dropped_ends_what_is_under_way() {
    in_child!(an_engine_that_is_dropped_ends_what_is_under_way, {
        let (reader, writer) = pipe(0);
        let Some(mut engine) = ring(reader.try_clone().unwrap(), 8) else { return };
        let removed = Removed::under_way(&mut engine);
        // Others: made and not begun; done and not handed out.
        engine.read_at(owned(&removed.map.memory(), &[(0, 10)], Access::Write), 0, 1).unwrap();
        drop(engine);
        assert!(!removed.is_there());
        // Nobody reads any more.
        (&writer).write_all(&pattern(1000)).unwrap();
        let mut rest = [0; 1000];
        std::io::Read::read_exact(&mut &reader, &mut rest).unwrap();
        assert_eq!(rest, *pattern(1000));
        assert_eq!(removed.map.memory().read_obj::<u8>(GuestAddress(SIZE as u64 - 100)).unwrap(), 0);
    });
}

#[test]
fn a_full_engine_that_is_dropped_ends_what_is_under_way() {
    let (reader, _writer) = pipe(0);
    let mem = memory(&[0x1000]);
    let Some(mut engine) = ring(reader, 64) else { return };
    let region = mem.arc_regions().first().unwrap();
    let before = Arc::strong_count(region);
    for token in 0..64 {
        engine.read_at(owned(&mem, &[(token, 1)], Access::Write), 0, token).unwrap();
    }
    engine.submit().unwrap();
    assert_eq!(Arc::strong_count(region), before + 64);
    drop(engine);
    assert_eq!(Arc::strong_count(region), before);
}

/// What is on its way from a disk cannot be cancelled, and is waited for.
#[test]
fn what_cannot_be_cancelled_is_waited_for() {
    let Some(file) = crate::transfers::direct(0x10_0000) else { return };
    for _ in 0..20 {
        let mem = memory(&[0x20_0000]);
        let Some(mut engine) = ring(file.try_clone().unwrap(), 16) else { return };
        for token in 0..16 {
            let at = token * 0x1_0000;
            engine.read_at(owned(&mem, &[(at, 0x1_0000)], Access::Write), at, token).unwrap();
        }
        engine.submit().unwrap();
        drop(engine);
        // Nothing arrives any more.
        mem.fill(0xee, 0x10_0000, GuestAddress(0)).unwrap();
        assert!(crate::bytes(&mem, 0, 0x10_0000).iter().all(|&byte| byte == 0xee));
    }
}

#[test]
fn an_engine_that_is_forgotten_leaves_memory_that_is_there() {
    in_child!(an_engine_that_is_forgotten_leaves_memory_that_is_there, {
        let (reader, mut writer) = pipe(0);
        let Some(mut engine) = ring(reader, 4) else { return };
        let removed = Removed::under_way(&mut engine);
        let fd = engine.as_fd().try_clone_to_owned().unwrap();
        std::mem::forget(engine);
        writer.write_all(&pattern(600)).unwrap();
        // The kernel is done with a step.
        assert!(is_readable(&fd, true));
        assert!(removed.is_there());
        // In the memory, as ever.
        let mut bytes = [0; 100];
        removed.map.memory().read_slice(&mut bytes, GuestAddress(SIZE as u64 - 100)).unwrap();
        assert_eq!(bytes, *pattern(100));
    });
}

#[test]
fn a_panic_is_as_a_drop() {
    in_child!(a_panic_is_as_a_drop, {
        let (reader, _writer) = pipe(0);
        let Some(mut engine) = ring(reader, 4) else { return };
        let mut removed = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = std::mem::replace(&mut engine, FileEngine::new(file(1), 1).unwrap());
            removed = Some(Removed::under_way(&mut engine));
            panic!("with a request under way");
        }));
        assert!(panicked.is_err());
        assert!(!removed.unwrap().is_there());
    });
}

/// The kernel cancels what a thread has begun when the thread ends. The request goes on nevertheless.
#[test]
fn a_request_outlives_the_thread_that_has_begun_it() {
    let (reader, mut writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[0x1000]);
    let buffers = owned(&mem, &[(0, 100)], Access::Write);
    let mut engine = thread::spawn(move || {
        engine.read_at(buffers, 0, 1).unwrap();
        engine.submit().unwrap();
        engine
    })
    .join()
    .unwrap();
    writer.write_all(&pattern(60)).unwrap();
    let writer = thread::spawn(move || writer.write_all(&pattern(100)[60..]).unwrap());
    assert_eq!(next(&mut engine).result.unwrap(), 100);
    assert_eq!(crate::bytes(&mem, 0, 100), pattern(100));
    writer.join().unwrap();
}

#[test]
fn cancelled_requests_are_done_and_the_engine_goes_on() {
    let (reader, mut writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[0x1000]);
    for (token, submit) in [(1, true), (2, true), (3, false)] {
        engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, token).unwrap();
        if submit {
            engine.submit().unwrap();
        }
    }
    engine.cancel().unwrap();
    engine.cancel().unwrap();
    let mut tokens: Vec<_> = (0..3)
        .map(|_| {
            let completion = next(&mut engine);
            let Err(Error::Io(error)) = &completion.result else { panic!("{completion:?}") };
            assert_eq!((error.raw_os_error(), completion.buffers.unwrap().len()), (Some(libc::ECANCELED), 10));
            completion.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!((tokens, engine.in_flight()), (vec![1, 2, 3], 0));
    writer.write_all(&[5; 10]).unwrap();
    engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, 4).unwrap();
    assert_eq!((next(&mut engine).result.unwrap(), crate::bytes(&mem, 0, 10)), (10, vec![5; 10]));
}

/// A child's copy does nothing to its parent's, and ends the child if it is used.
#[test]
fn an_engine_stays_with_its_process() {
    in_child!(an_engine_stays_with_its_process, {
        let (reader, mut writer) = pipe(0);
        let Some(engine) = ring(reader, 4) else { return };
        let mut engine = Some(engine);
        let mem = memory(&[0x1000]);
        engine.as_mut().unwrap().read_at(owned(&mem, &[(0, 10)], Access::Write), 0, 1).unwrap();
        engine.as_mut().unwrap().submit().unwrap();
        assert_eq!(in_fork(|| drop(engine.take())), 0);
        let used = in_fork(|| {
            engine.as_mut().unwrap().submit().ok();
        });
        assert!(libc::WIFSIGNALED(used) && libc::WTERMSIG(used) == libc::SIGSEGV, "{used:#x}");
        writer.write_all(&[5; 10]).unwrap();
        assert_eq!(next(engine.as_mut().unwrap()).result.unwrap(), 10);
    });
}
