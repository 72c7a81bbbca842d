//! Requests allocate nothing, once the engine has had as many as long.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use memory_model::io_memory::Access;

use crate::{both, file, memory, owned};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

// SAFETY: as the system's, to which everything is handed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn requests_of_16_pieces_allocate_nothing() {
    let file = file(0x1_0000);
    for mut engine in both(&file, 8) {
        let mem = memory(&[0x1_0000, 0x1_0000]);
        let log = mem.start_tracking(4096).unwrap();
        let ranges: Vec<_> = (0..16).map(|number| (0xe000 + number * 0x400, 0x200)).collect();
        let mut counts = [0; 3];
        for count in &mut counts {
            let before = ALLOCATIONS.get();
            for token in 0..8 {
                let (read, write) = (owned(&mem, &ranges, Access::Write), owned(&mem, &ranges, Access::Read));
                match token % 3 {
                    0 => engine.read_at(read, 0, token).unwrap(),
                    1 => engine.write_at(write, 0x4000, token).unwrap(),
                    _ => engine.sync_data(token).unwrap(),
                }
            }
            while engine.in_flight() > 0 {
                engine.wait().unwrap();
                while let Some(completion) = engine.next_completion().unwrap() {
                    completion.result.unwrap();
                }
            }
            *count = ALLOCATIONS.get() - before;
        }
        assert!(counts[0] > 0 && counts[1..] == [0, 0], "{counts:?}");
        drop(log);
    }
}
