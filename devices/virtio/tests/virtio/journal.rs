//! Who is told of requests, and when.

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, Le16};
use memory_model_virtio::QueueConfig;
use memory_model_virtio::blk::{
    Journal, Outcome, Range, RequestHeader, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT,
};
use memory_model_virtio::ring::{DESC_F_NEXT, Descriptor};

use crate::common::{DATA, END, segment};
use crate::server::{Machine, Step, Steps, each};

/// Writes the steps down, and checks what there is to be seen in memory at each.
struct Witness {
    mem: GuestMemoryMmap,
    config: QueueConfig,
    /// The used ring's index before the first step.
    before: u16,
    steps: Vec<Step>,
}

impl Witness {
    fn new(machine: &Machine, before: u16) -> Self {
        Self { mem: machine.mem.clone(), config: machine.config, before, steps: Vec::new() }
    }

    fn used_idx(&self) -> u16 {
        self.mem.read_obj::<Le16>(GuestAddress(self.config.used.0 + 2)).unwrap().to_native()
    }

    /// The status of the request at `head`, which is where [`Machine::add`] has it.
    fn status(&self, head: u16) -> u8 {
        let table = self.config.desc.0;
        let mut at = head;
        loop {
            let descriptor: Descriptor = self.mem.read_obj(GuestAddress(table + 16 * u64::from(at))).unwrap();
            if descriptor.flags.to_native() & DESC_F_NEXT == 0 {
                let last = descriptor.addr.to_native() + u64::from(descriptor.len.to_native()) - 1;
                return self.mem.read_obj(GuestAddress(last)).unwrap();
            }
            at = descriptor.next.to_native();
        }
    }

    /// How many were used, as the journal was told.
    fn published(&self) -> u16 {
        self.before + self.steps.iter().filter(|step| matches!(step, Step::Used(..))).count() as u16
    }
}

impl Journal for Witness {
    fn taken(&mut self, head: u16) {
        assert_eq!(self.status(head), 0xee, "nothing is done yet");
        self.steps.push(Step::Taken(head));
    }

    fn done(&mut self, head: u16) {
        assert_ne!(self.status(head), 0xee, "the status is written");
        assert!(self.steps.contains(&Step::Taken(head)));
        assert_eq!(self.used_idx(), self.published(), "and not published");
        self.steps.push(Step::Done(head));
    }

    fn used(&mut self, head: u16, next_used: u16, outcome: &Outcome) {
        assert_eq!(self.steps.last(), Some(&Step::Done(head)), "the step before");
        assert_eq!(next_used, self.published() + 1);
        assert_eq!(self.used_idx(), next_used, "published");
        assert_eq!(self.status(head), outcome.status);
        self.steps.push(Step::Used(head, next_used, *outcome));
    }
}

#[test]
fn each_request_goes_its_way_in_three_steps() {
    each(|machine, mut server| {
        let far = segment(END, 512);
        let data = segment(DATA + 0x4000, 1024);
        machine.mem.write_obj(Range::new(4, 2, 0), GuestAddress(DATA + 0x3000)).unwrap();
        let ok = |kind, bytes| Outcome { kind, bytes, status: S_OK };
        let failed = |kind, status| Outcome { kind, bytes: 0, status };
        let mut expected = vec![
            (machine.read(3), ok(T_IN, 512)),
            (machine.add(RequestHeader::new(T_OUT, 7), &[data], &[]), ok(T_OUT, 1024)),
            (machine.add(RequestHeader::new(T_FLUSH, 0), &[], &[]), ok(T_FLUSH, 0)),
            (machine.add(RequestHeader::new(T_GET_ID, 0), &[], &[segment(DATA + 0x5000, 20)]), ok(T_GET_ID, 20)),
            (machine.add(RequestHeader::new(99, 0), &[], &[]), failed(99, S_UNSUPP)),
        ];
        let mut queue = machine.queue();
        let mut witness = Witness::new(machine, 0);
        assert_eq!(server.process(&mut queue, &machine.mem, &mut witness), 5);
        check(&witness.steps, &expected);
        machine.used();

        expected = vec![
            (machine.add(RequestHeader::new(T_DISCARD, 0), &[segment(DATA + 0x3000, 16)], &[]), ok(T_DISCARD, 0)),
            (machine.add(RequestHeader::new(T_IN, 64), &[], &[data]), failed(T_IN, S_IOERR)),
            (machine.add(RequestHeader::new(T_IN, 0), &[], &[far]), failed(T_IN, S_IOERR)),
            (machine.add(RequestHeader::new(T_OUT, 0), &[far], &[]), failed(T_OUT, S_IOERR)),
        ];
        let mut witness = Witness::new(machine, 5);
        assert_eq!(server.process(&mut queue, &machine.mem, &mut witness), 4);
        check(&witness.steps, &expected);
    });
}

/// That each request was taken in order, and has the outcome.
fn check(steps: &[Step], expected: &[(u16, Outcome)]) {
    let taken: Vec<u16> =
        steps.iter().filter_map(|step| if let Step::Taken(head) = step { Some(*head) } else { None }).collect();
    assert_eq!(taken, expected.iter().map(|(head, _)| *head).collect::<Vec<_>>());
    for (head, outcome) in expected {
        let found: Vec<_> = steps.iter().filter(|step| matches!(step, Step::Used(h, ..) if h == head)).collect();
        assert!(matches!(found[..], [Step::Used(_, _, it)] if it == outcome), "{found:?} is not {outcome:?}");
    }
    assert_eq!(steps.len(), 3 * expected.len());
}

#[test]
fn a_header_that_cannot_be_read_has_no_type() {
    each(|machine, mut server| {
        let status = segment(DATA, 1);
        machine.mem.write_obj(0xee_u8, GuestAddress(DATA)).unwrap();
        let head = machine.driver.add(&machine.mem, &[segment(DATA + 8, 15)], &[status]).unwrap();
        machine.driver.publish(&machine.mem).unwrap();
        let (mut queue, mut witness) = (machine.queue(), Witness::new(machine, 0));
        assert_eq!(server.process(&mut queue, &machine.mem, &mut witness), 1);
        let outcome = Outcome { kind: u32::MAX, bytes: 0, status: S_IOERR };
        assert_eq!(witness.steps, [Step::Taken(head), Step::Done(head), Step::Used(head, 1, outcome)]);
        assert!(!outcome.is_ok());
    });
}

/// What cannot be answered is under way for ever.
#[test]
fn a_request_that_breaks_the_queue_was_taken_and_no_more() {
    each(|machine, mut server| {
        machine.mem.write_obj(RequestHeader::new(T_IN, 0), GuestAddress(DATA)).unwrap();
        machine.mem.write_obj(0xee_u8, GuestAddress(DATA + 15)).unwrap(); // where the witness looks
        let head = machine.driver.add(&machine.mem, &[segment(DATA, 16)], &[]).unwrap();
        machine.driver.publish(&machine.mem).unwrap();
        let (mut queue, mut witness) = (machine.queue(), Witness::new(machine, 0));
        assert!(server.process_once(&mut queue, &machine.mem, &mut witness).is_err());
        assert!(queue.broken().is_some());
        assert_eq!(witness.steps, [Step::Taken(head)]);
    });
}

#[test]
fn journals_are_put_together() {
    let outcome = Outcome { kind: T_IN, bytes: 1, status: S_OK };
    let (mut first, mut second) = (Steps::default(), Steps::default());
    {
        let mut both = ((&mut first, ()), (Some(&mut second), None::<Steps>));
        both.taken(3);
        both.done(3);
        both.used(3, 4, &outcome);
    }
    let steps = [Step::Taken(3), Step::Done(3), Step::Used(3, 4, outcome)];
    assert_eq!((first.0, second.0), (steps.to_vec(), steps.to_vec()));
}
