//! A process that dies after any store, and the next, and the one after that.

use memory_model_vhost_user_blk::inflight::QueueInflight;
use memory_model_virtio::blk::Journal;

use crate::fused::{Fused, OUTCOME};

const SIZE: u16 = 4;

/// What outlives the processes: the region, and the driver's rings.
struct Machine {
    region: Fused,
    /// The heads that the driver makes available, one after the other.
    available: Vec<u16>,
    /// The used ring: an entry, and its index, are one store of another memory each.
    used: Vec<u16>,
    /// The used ring's index.
    used_idx: u16,
}

/// What a process does: takes, or uses the request that it has had for the longest, or the shortest, time.
#[derive(Clone, Copy, Debug)]
enum Op {
    Take,
    UseFirst,
    UseLast,
}

/// Why a process ends.
struct Dead;

impl Machine {
    fn new() -> Self {
        // Heads come again when they were used; the driver keeps to what is free.
        Self { region: Fused::zeros(SIZE), available: Vec::new(), used: Vec::new(), used_idx: 0 }
    }

    /// Runs a process, which resumes from what is there; answers how it ended, and how many requests it had then.
    fn run(&mut self, ops: &[Op], start: u16) -> Result<usize, Dead> {
        let used_idx = start.wrapping_add(self.used_idx);
        let mut part = QueueInflight::new(self.region.clone(), SIZE);
        let Ok(heads) = part.recover(SIZE, used_idx) else { return Err(Dead) };
        self.check(&heads);
        // As `Queue::resume` is told.
        let mut next_avail = usize::from(self.used_idx) + heads.len();
        let mut under_way = Vec::new();
        for head in heads {
            part.taken(head);
            alive(&part)?;
            under_way.push(head);
        }
        for op in ops {
            match op {
                Op::Take => {
                    let Some(head) = self.free() else { continue };
                    if next_avail == self.available.len() {
                        self.available.push(head);
                    }
                    let head = self.available[next_avail];
                    next_avail += 1;
                    part.taken(head);
                    alive(&part)?;
                    under_way.push(head);
                }
                Op::UseFirst | Op::UseLast if under_way.is_empty() => {}
                Op::UseFirst | Op::UseLast => {
                    let head = if matches!(op, Op::UseFirst) { under_way.remove(0) } else { under_way.pop().unwrap() };
                    part.done(head);
                    alive(&part)?;
                    // The entry, and then the index.
                    if !self.region.burn() || !self.region.burn() {
                        return Err(Dead);
                    }
                    self.used.push(head);
                    self.used_idx += 1;
                    part.used(head, start.wrapping_add(self.used_idx), &OUTCOME);
                    alive(&part)?;
                }
            }
        }
        Ok(under_way.len())
    }

    /// A head that is neither under way nor available.
    fn free(&self) -> Option<u16> {
        let mut open = self.available.clone();
        for head in &self.used {
            let at = open.iter().position(|it| it == head).expect("used once for each time that it was made available");
            open.remove(at);
        }
        (0..SIZE).find(|head| !open.contains(head))
    }

    /// What is recovered is what was made available, from the first on, less what is in the used ring: nothing is lost, as
    /// what follows is taken from the available ring; and nothing that the driver has seen is done again.
    fn check(&self, heads: &[u16]) {
        let taken = usize::from(self.used_idx) + heads.len();
        let mut open = self.available[..taken].to_vec();
        for head in &self.used {
            let at = open.iter().position(|it| it == head).expect("no request is used before it is written down");
            open.remove(at);
        }
        assert_eq!(heads, open, "in the order in which they were taken");
    }
}

fn alive(part: &QueueInflight<Fused>) -> Result<(), Dead> {
    part.failed().map_or(Ok(()), |_| Err(Dead))
}

const OPS: [Op; 16] = [
    Op::Take,
    Op::Take,
    Op::UseFirst,
    Op::Take,
    Op::Take,
    Op::UseLast,
    Op::UseFirst,
    Op::Take,
    Op::UseLast,
    Op::UseLast,
    Op::Take,
    Op::Take,
    Op::Take,
    Op::UseFirst,
    Op::UseFirst,
    Op::UseFirst,
];

/// The first process dies after `first` stores, the second after `second`, the third lives; answers which of them died.
fn history(first: usize, second: usize, start: u16) -> (bool, bool) {
    let mut machine = Machine::new();
    machine.region.set_left(first);
    let died = machine.run(&OPS, start).is_err();
    machine.region.set_left(second);
    let died_again = machine.run(&OPS, start).is_err();
    machine.region.set_left(usize::MAX);
    let Ok(under_way) = machine.run(&[Op::UseFirst; SIZE as usize], start) else { panic!("nothing ends it") };
    assert_eq!(under_way, 0);
    // Whatever was made available and taken is used, each time once.
    machine.check(&[]);
    assert_eq!(machine.region.in_flight(), [0_u16; 0]);
    assert_eq!(machine.region.u16_at(14), start.wrapping_add(machine.used_idx));
    // Those that were not written down as taken are in the available ring.
    let left = machine.available.len() - machine.used.len();
    assert!(left <= 1 + usize::from(died_again), "{left} are left");
    (died, died_again)
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    for start in [0, 0xfffd] {
        let mut first = 0;
        while history(first, usize::MAX, start).0 {
            let mut second = 0;
            while history(first, second, start).1 {
                second += 1;
            }
            assert!(second > 40, "the second does as much as the first, and what was left");
            first += 1;
        }
        // 9 stores make the part ready, 8 are of a request.
        assert!(first > 70, "{first} stores");
    }
}
