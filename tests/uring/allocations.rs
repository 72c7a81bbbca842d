//! Requests allocate nothing, once the engine has had as many as long.

use memory_model::io_memory::Access;

use crate::{both, file, memory, owned};

#[path = "../counting/mod.rs"]
mod counting;

#[test]
fn requests_of_16_pieces_allocate_nothing() {
    let file = file(0x1_0000);
    for mut engine in both(&file, 8) {
        let mem = memory(&[0x1_0000, 0x1_0000]);
        let log = mem.start_tracking(4096).unwrap();
        let ranges: Vec<_> = (0..16).map(|number| (0xe000 + number * 0x400, 0x200)).collect();
        let mut counts = [0; 3];
        for count in &mut counts {
            let before = counting::allocations();
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
            *count = counting::allocations() - before;
        }
        assert!(counts[0] > 0 && counts[1..] == [0, 0], "{counts:?}");
        drop(log);
    }
}
