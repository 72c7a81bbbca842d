//! What a page costs that cannot be accessed: the one thing that the peers cannot do.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contenders::memory_file;
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::measure::ROUNDS;

/// The time of a `read_obj::<u64>` that meets a page of a truncated file, in the fastest of the rounds.
pub(crate) fn recovered() -> Duration {
    const READS: u32 = 100;
    let file = Arc::new(memory_file("truncated", 0x2000));
    let place = FileOffset::from_arc(Arc::clone(&file), 0);
    let memory = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), 0x2000, Some(place))]);
    let memory = memory.expect("the file can be mapped");
    file.set_len(0x1000).expect("the file can be truncated");
    let round = |_| {
        let begin = Instant::now();
        for _ in 0..READS {
            let read = black_box(&memory).read_obj::<u64>(black_box(GuestAddress(0x1000)));
            assert!(read.is_err(), "the page is gone");
        }
        begin.elapsed() / READS
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}
