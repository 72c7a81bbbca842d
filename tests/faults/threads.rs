//! Faults in many threads at once, and of pages that come and go meanwhile.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, DataInit, GuestMemory, IoAddress};

use crate::ground::{BASE, Bad, Guest, UNREADABLE, at, data, page, pattern, told_by_guest};
use crate::recovers;

#[test]
fn sixteen_threads_fault_at_once_and_none_disturbs_another() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 1000;
    if !recovers() {
        return;
    }
    for guest in UNREADABLE.map(|bad| Guest::new(bad, &[2, 2], 2)) {
        let (guest, edge) = (&guest, guest.edge);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let mem = guest.mem.clone();
                // Good memory of the thread's own, and an aligned place behind the edge.
                let (own, bad) = (64 * thread, edge + 64 * thread);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let number = (thread as u64) << 32 | round as u64;
                        mem.write_obj(number, at(own)).unwrap();
                        let fault = Err((bad, 0));
                        assert_eq!(mem.read_obj::<u64>(at(bad)).map_err(told_by_guest), fault);
                        assert_eq!(mem.write_obj(number, at(bad)).map_err(told_by_guest), fault.map(drop));
                        assert_eq!(mem.read_obj::<u64>(at(own)).unwrap(), number);
                        let load = mem.load::<u16>(IoAddress(BASE + bad as u64), Ordering::Acquire);
                        assert_eq!(load.map_err(told_by_guest), Err((bad, 0)));
                        let (good, mut buf) = (1 + (thread * 37 + round) % 299, [0; 300]);
                        let read = mem.read_slice(&mut buf, at(edge - good));
                        assert_eq!(read.map_err(told_by_guest), Err((edge, good)));
                        assert_eq!(buf[..good], *pattern(edge - good..edge));
                        assert!(buf[good..].iter().all(|&byte| byte == 0));
                        mem.store(number, at(own + 8), Ordering::Release).unwrap();
                        assert_eq!(mem.load::<u64>(at(own + 8), Ordering::Acquire).unwrap(), number);
                        let filled = mem.fill(1, 64, at(bad)).map_err(told_by_guest);
                        assert_eq!(filled, Err((bad, 0)));
                    }
                });
            }
        });
    }
}

/// Numbers that only look random (xorshift).
struct Random(Cell<u64>);

impl Random {
    fn below(&self, end: usize) -> usize {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        usize::try_from(state >> 16).unwrap() % end
    }
}

/// Runs `step(start, len)`, which answers whether it met a fault, while the file of the guest loses what lies behind the
/// edge and gets it back, as zeros, over and over.
fn while_pages_come_and_go(guest: &Guest, seed: u64, step: impl Fn(usize, usize) -> bool) {
    const ROUNDS: u32 = 5_000;
    const PATIENCE: u32 = 200;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                guest.file.set_len(guest.len as u64).unwrap();
                guest.file.set_len(guest.edge as u64).unwrap();
            }
        });
        // Ends the other thread when this one panics, too.
        let _end = End(&over);
        let (random, mut met) = (Random(Cell::new(seed)), [false; 2]);
        for round in 0..ROUNDS * PATIENCE {
            let longest = [16, 300, 2 * page()][random.below(3)];
            let start = guest.edge - random.below(longest);
            let len = 1 + random.below(longest);
            let faulted = step(start, len);
            if guest.good(start, len) < len {
                met[usize::from(faulted)] = true;
            }
            if round >= ROUNDS && met == [true; 2] {
                break;
            }
        }
        assert_eq!(met, [true; 2], "pages were always there, or never");
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many bytes an access of `len` from `start` has done. If it met a fault, that is behind the edge.
fn done(guest: &Guest, start: usize, len: usize, result: Result<(), Error>) -> usize {
    match result.map_err(told_by_guest) {
        Ok(()) => len,
        Err((addr, completed)) => {
            assert_eq!(addr, start + completed);
            assert!((guest.good(start, len)..len).contains(&completed), "{completed} of {len} at {start}");
            completed
        }
    }
}

/// A guest whose pages come and go: six pages, two of which stay.
fn guest() -> Guest {
    Guest::new(Bad::Truncated, &[6], 2)
}

#[test]
fn reads_of_pages_that_come_and_go_are_right_as_far_as_they_say() {
    if !recovers() {
        return;
    }
    let guest = guest();
    let expected = |start: usize, len: usize| {
        let good = guest.good(start, len);
        [pattern(start..start + good), &vec![0; len - good]].concat()
    };
    while_pages_come_and_go(&guest, 1, |start, len| {
        let mut buf = vec![0xff; len];
        let done = done(&guest, start, len, guest.mem.read_slice(&mut buf, at(start)));
        assert!(buf[..done] == expected(start, done));
        // What was there for a moment may have been read, too.
        assert!(buf[done..].iter().all(|&byte| byte == 0xff || byte == 0));
        done < len
    });
    while_pages_come_and_go(&guest, 2, |start, _| {
        let mut faulted = false;
        let mut check = |read: Result<Vec<u8>, Error>, len| {
            let bytes = read.as_ref().ok().cloned();
            faulted |= done(&guest, start, len, read.map(drop)) < len;
            assert!(bytes.is_none_or(|bytes| bytes == expected(start, len)));
        };
        check(guest.mem.read_obj::<u64>(at(start)).map(|value| value.as_slice().to_vec()), 8);
        check(guest.mem.read_obj::<u128>(at(start)).map(|value| value.as_slice().to_vec()), 16);
        check(guest.mem.read_obj::<[u8; 24]>(at(start)).map(|value| value.as_slice().to_vec()), 24);
        check(guest.mem.read_obj::<[u8; 33]>(at(start)).map(|value| value.as_slice().to_vec()), 33);
        faulted
    });
}

#[test]
fn writes_to_pages_that_come_and_go_are_right_before_the_edge() {
    if !recovers() {
        return;
    }
    let guest = guest();
    while_pages_come_and_go(&guest, 3, |start, len| {
        let wrote = done(&guest, start, len, guest.mem.write_slice(data(len), at(start)));
        let good = guest.good(start, len);
        guest.check(0..guest.edge, start, &data(len)[..good], &|| format!("{len} bytes at {start}"));
        guest.reset(start..guest.edge);
        let filled = done(&guest, start, len, guest.mem.fill(0xab, len, at(start)));
        guest.check(0..guest.edge, start, &vec![0xab; good], &|| format!("{len} bytes at {start}"));
        guest.reset(start..guest.edge);
        let value: [u8; 24] = data(24).try_into().unwrap();
        done(&guest, start, 24, guest.mem.write_obj(value, at(start)));
        guest.check(0..guest.edge, start, &value[..guest.good(start, 24)], &|| format!("a value at {start}"));
        guest.reset(start..guest.edge);
        wrote < len || filled < len
    });
}

#[test]
fn copies_from_pages_that_come_and_go_are_right_as_far_as_they_say() {
    if !recovers() {
        return;
    }
    let (guest, to) = (guest(), Arc::new(Guest::new(Bad::Hole, &[5], 4)));
    let target = to.mem.get_slice(at(0), 4 * page()).unwrap();
    while_pages_come_and_go(&guest, 4, |start, len| {
        let source = guest.mem.get_slice(at(start), len).unwrap();
        let copied = source.copy_to_guest_slice(target).map(drop);
        let done = done(&guest, start, len, copied);
        let good = guest.good(start, len);
        let mut found = vec![1; done];
        target.read_slice(&mut found, 0).unwrap();
        assert!(found == [pattern(start..start + good), &vec![0; done - good]].concat());
        done < len
    });
}

#[test]
fn streams_to_pages_that_come_and_go_lose_nothing() {
    if !recovers() {
        return;
    }
    let guest = guest();
    while_pages_come_and_go(&guest, 5, |start, len| {
        let mut source = data(len);
        let taken = guest.mem.write_all_from(at(start), &mut source, len);
        let taken = done(&guest, start, len, taken);
        assert!(source == &data(len)[taken..]);
        let file = crate::ground::memfd(len);
        // A page that is there again when it is looked for leaves the system call's own answer.
        match guest.mem.read_into(at(start), &mut &file, len) {
            Ok(given) => {
                assert!(given >= guest.good(start, len).min(1));
                assert_eq!(std::io::Seek::stream_position(&mut &file).unwrap(), given as u64);
            }
            Err(Error::Io(error)) => assert_eq!(error.raw_os_error(), Some(libc::EFAULT)),
            Err(error) => assert_eq!(told_by_guest(error), (start, 0)),
        }
        guest.reset(start..guest.edge);
        taken < len
    });
}
