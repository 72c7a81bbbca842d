//! A descriptor that can be read when there are completions.

use std::io::Write;

use memory_model::io_memory::Access;

use crate::raw::{is_readable, pipe};
use crate::{both, file, memory, owned, ring};

#[test]
fn the_descriptor_says_when_there_are_completions() {
    let file = file(0x1000);
    for mut engine in both(&file, 4) {
        let mem = memory(&[0x1000]);
        for _ in 0..3 {
            assert!(!is_readable(&engine, false));
            for token in 0..3 {
                engine.read_at(owned(&mem, &[(0, 10)], Access::Write), 0, token).unwrap();
            }
            engine.submit().unwrap();
            assert!(is_readable(&engine, true));
            let mut count = 0;
            while count < 3 {
                assert!(is_readable(&engine, true));
                while engine.next_completion().unwrap().is_some() {
                    count += 1;
                }
            }
            assert!(!is_readable(&engine, false));
        }
    }
}

/// Also of a request that goes on meanwhile, by itself.
#[test]
fn the_descriptor_says_when_a_request_is_to_go_on() {
    let (reader, mut writer) = pipe(0);
    let Some(mut engine) = ring(reader, 4) else { return };
    let mem = memory(&[0x1000]);
    engine.read_at(owned(&mem, &[(0, 30)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    assert!(!is_readable(&engine, false));
    for part in 0..3 {
        writer.write_all(&[part; 10]).unwrap();
        assert!(is_readable(&engine, true));
        let completion = engine.next_completion().unwrap();
        assert_eq!(completion.is_some(), part == 2);
    }
    assert!(!is_readable(&engine, false));
    // A cancelled one, too.
    engine.read_at(owned(&mem, &[(0, 30)], Access::Write), 0, 1).unwrap();
    engine.submit().unwrap();
    engine.cancel().unwrap();
    assert!(is_readable(&engine, true));
}
