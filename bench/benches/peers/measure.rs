//! The short mode: rounds in which all rows of a group and all contenders take turns, and the fastest round of each.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use contenders::{Contender, Ends, noise};

use crate::raw::Raw;
use crate::rows::{Asked, Group, Row, Who};

/// Rounds in which each contender does the work of each row once. The fastest counts: all others were disturbed.
pub(crate) const ROUNDS: usize = 64;

/// How long a contender's turn lasts, about: short enough that some are not disturbed, long enough for the clock.
const TURN: Duration = Duration::from_micros(500);

/// A row's result.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) place: String,
    pub(crate) asked: Asked,
    /// Nanoseconds for one operation, for each of [`Who::ALL`].
    pub(crate) ns: [f64; 3],
}

/// Measures all rows of a group. It comes as several copies; see [`Places::copies`](crate::rows::Places::copies).
///
/// The rounds go through the copies, and for the same reason through places on the stack.
pub(crate) fn measure(copies: &[Group<'_>], raw: &Raw, ends: &mut Ends) -> Vec<Measured> {
    let first = &copies[0];
    for row in first {
        check(row, raw, ends);
    }
    let passes: Vec<[u32; 3]> = first.iter().map(|row| passes_in_a_turn(row, ends)).collect();
    let mut fastest = vec![[Duration::MAX; 3]; first.len()];
    for round in 0..ROUNDS {
        let group = &copies[round % copies.len()];
        for ((row, passes), fastest) in group.iter().zip(&passes).zip(&mut fastest) {
            for turn in 0..3 {
                // Who comes after whom changes, too.
                let index = (round + turn) % 3;
                let mut pass = || {
                    row.pass(Who::ALL[index], ends);
                };
                let elapsed = match round / copies.len() % 4 {
                    0 => turn_below::<16>(passes[index], &mut pass),
                    1 => turn_below::<32>(passes[index], &mut pass),
                    2 => turn_below::<48>(passes[index], &mut pass),
                    _ => turn_below::<64>(passes[index], &mut pass),
                };
                fastest[index] = fastest[index].min(elapsed / passes[index]);
            }
        }
    }
    let result = |(row, fastest): (&Row<'_>, [Duration; 3])| {
        let operations = u32::try_from(row.offsets.len()).expect("thousands");
        Measured {
            ns: fastest.map(|pass| pass.as_secs_f64() * 1e9 / f64::from(operations)),
            name: row.name.clone(),
            place: row.place_name.clone(),
            asked: row.asked,
        }
    };
    first.iter().zip(fastest).map(result).collect()
}

/// A contender's turn, below so many bytes of the stack.
#[inline(never)]
fn turn_below<const BYTES: usize>(passes: u32, pass: &mut dyn FnMut()) -> Duration {
    let bytes = black_box([0_u8; BYTES]);
    // Into the caches and predictors, from which the others have driven it.
    pass();
    let start = Instant::now();
    for _ in 0..passes {
        pass();
    }
    let elapsed = start.elapsed();
    black_box(&bytes);
    elapsed
}

/// Each contender's answer, and what it leaves in memory, must be the same.
fn check(row: &Row<'_>, raw: &Raw, ends: &mut Ends) {
    let size = row.work.size();
    let noise = noise(size + row.offsets.len());
    let outcomes = Who::ALL.map(|who| {
        for (noise, &offset) in noise.windows(size).zip(&row.offsets) {
            raw.write_slice(noise, offset).expect("offsets are valid");
        }
        let answer = row.pass(who, ends);
        let mut left = vec![0; size];
        let mut hasher = DefaultHasher::new();
        for &offset in &row.offsets {
            raw.read_slice(&mut left, offset).expect("offsets are valid");
            left.hash(&mut hasher);
        }
        (answer, hasher.finish())
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{}: not the same for all", row.title());
}

/// As many passes as fit into a turn, for each contender.
fn passes_in_a_turn(row: &Row<'_>, ends: &mut Ends) -> [u32; 3] {
    Who::ALL.map(|who| {
        let mut timed = || {
            let start = Instant::now();
            row.pass(who, ends);
            start.elapsed()
        };
        let pass = timed().min(timed()).min(timed()).min(timed());
        u32::try_from(TURN.as_nanos() / pass.as_nanos().max(1)).map_or(u32::MAX, |passes| passes.max(1))
    })
}
