//! Many threads that write to ROM while others read it.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;

use memory_model::{Bytes, GuestMemory};

use crate::ground::{Guest, Made, at, data, pattern, refused};

#[test]
fn writers_are_refused_and_readers_see_what_is_there() {
    // Each write is a signal, which an emulator takes long for.
    let rounds = if env::var_os("CROSS_RUNNER").is_some() { 50 } else { 2000 };
    let guest = &Guest::new(Made::Region);
    let (page, done) = (guest.page, &AtomicBool::new(false));
    guest.track();
    thread::scope(|scope| {
        let writers = [0, 1, 2, 3].map(|number| {
            scope.spawn(move || {
                let bytes = data(64);
                for round in 0..rounds {
                    let position = page + (number * 8 + round * 24) % (page - 64);
                    let addr = at(position);
                    assert_eq!(refused(guest.mem.write_obj(u64::MAX, addr)), (position, 0));
                    assert_eq!(refused(guest.mem.write_slice(&bytes, addr)), (position, 0));
                    assert_eq!(refused(guest.mem.fill(0xff, 64, addr)), (position, 0));
                    assert_eq!(refused(guest.mem.store(u64::MAX, addr, SeqCst)), (position, 0));
                    assert_eq!(refused(guest.mem.copy(at(0), addr, 64)), (position, 0));
                    assert_eq!(refused(guest.mem.write_from(addr, &mut &bytes[..], 64)), (position, 0));
                }
            })
        });
        for _ in 0..2 {
            scope.spawn(move || {
                let expected = pattern(0..3 * page);
                while !done.load(Relaxed) {
                    assert!(guest.contents() == expected);
                    let read = guest.mem.read_obj::<[u8; 8]>(at(page + 8)).unwrap();
                    assert_eq!(read[..], expected[page + 8..page + 16]);
                }
            });
        }
        let ended = writers.map(thread::ScopedJoinHandle::join);
        done.store(true, Relaxed);
        for writer in ended {
            writer.unwrap();
        }
    });
    guest.check_marked(0, 0, "threads");
    guest.check(0, &[], "threads");
}
