//! The requests that are under way, and where each is. No `unsafe`: what others rely on are the invariants.

use std::collections::VecDeque;

use super::super::IoSlice;
use super::super::guest_buffers::INLINE;
use super::engine::Completion;
use super::request::{Kind, Next, Request};
use crate::guest_memory::Error;

/// Requests by number, below the capacity.
///
/// # Invariants
///
/// From [`next_step`](Self::next_step) until [`land`](Self::land), of the same number:
///
/// 1. the iovecs of that step stay where and as they are, on the heap;
/// 2. the request keeps the buffers whose memory they name, which keep it mapped;
///
/// unless the table is dropped.
pub(super) struct Table {
    slots: Vec<Slot>,
    capacity: usize,
    free: Vec<usize>,
    /// Those whose next step is to be begun.
    waiting: VecDeque<usize>,
    /// Those that are done, with their results.
    done: VecDeque<(usize, Result<usize, Error>)>,
    /// How many the kernel has.
    in_kernel: usize,
    /// Whether the engine itself has put one into `waiting` since steps were last begun.
    goes_on: bool,
}

#[derive(Default)]
struct Slot {
    request: Option<Request>,
    /// Of the step that the kernel has. Never given back: the next request needs them, too.
    iovecs: Vec<IoSlice<'static>>,
    is_in_kernel: bool,
    is_cancelled: bool,
}

/// A step for the kernel.
pub(super) struct Step<'a> {
    pub(super) number: usize,
    pub(super) kind: Kind,
    pub(super) iovecs: &'a [IoSlice<'static>],
    pub(super) offset: u64,
}

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            capacity,
            free: Vec::with_capacity(capacity),
            waiting: VecDeque::with_capacity(capacity),
            done: VecDeque::with_capacity(capacity),
            in_kernel: 0,
            goes_on: false,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of requests that were taken and not handed out again.
    pub(super) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether a request is to go on, of which its user does not know that.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// A number for another request; `None` if there are as many as can be.
    pub(super) fn claim(&mut self) -> Option<usize> {
        if self.free.is_empty() && self.slots.len() < self.capacity {
            self.free.push(self.slots.len());
            self.slots.push(Slot { iovecs: Vec::with_capacity(INLINE), ..Slot::default() });
        }
        self.free.pop()
    }

    /// Takes a request for a number that was claimed. It waits for its first step.
    pub(super) fn add(&mut self, number: usize, request: Request) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.request = Some(request);
            slot.is_cancelled = false;
            self.waiting.push_back(number);
        }
    }

    /// The next step that is to be begun. It is the kernel's from now on.
    pub(super) fn next_step(&mut self) -> Option<Step<'_>> {
        self.goes_on = false;
        let number = self.waiting.pop_front()?;
        let slot = self.slots.get_mut(number)?;
        let request = slot.request.as_mut()?;
        request.hand_out(&mut slot.iovecs);
        slot.is_in_kernel = true;
        self.in_kernel = self.in_kernel.saturating_add(1);
        Some(Step { number, kind: request.kind, iovecs: &slot.iovecs, offset: request.offset })
    }

    /// The kernel did not take that step: the request waits, before all others.
    pub(super) fn not_begun(&mut self, number: usize) {
        if self.is_back(number) {
            self.waiting.push_front(number);
        }
    }

    /// The kernel is done with a step, and has answered. It says so once for each.
    pub(super) fn land(&mut self, number: usize, answer: Result<usize, i32>) {
        // Before all else: a panic below leaves a request that nobody has and nobody goes on with.
        if !self.is_back(number) {
            return;
        }
        let Some(slot) = self.slots.get_mut(number) else { return };
        let Some(request) = slot.request.as_mut() else { return };
        match request.answered(answer, slot.is_cancelled) {
            Next::Step => {
                self.waiting.push_back(number);
                self.goes_on = true;
            }
            Next::Done(result) => self.done.push_back((number, result)),
        }
    }

    /// Takes note that the kernel has a request no more; false if it had not.
    fn is_back(&mut self, number: usize) -> bool {
        let Some(slot) = self.slots.get_mut(number).filter(|slot| slot.is_in_kernel) else { return false };
        slot.is_in_kernel = false;
        self.in_kernel = self.in_kernel.saturating_sub(1);
        true
    }

    /// Hands out a request that is done.
    pub(super) fn take_done(&mut self) -> Option<Completion> {
        let (number, result) = self.done.pop_front()?;
        let Request { token, buffers, done, .. } = self.slots.get_mut(number)?.request.take()?;
        self.free.push(number);
        Some(Completion { token, result, transferred: done, buffers })
    }

    /// Cancels all requests: those that wait are done. Answers which the kernel has that it is to be told of.
    pub(super) fn cancel(&mut self) -> Vec<usize> {
        self.goes_on = false;
        while let Some(number) = self.waiting.pop_front() {
            if let Some(request) = self.slots.get_mut(number).and_then(|slot| slot.request.as_mut()) {
                let result = request.cancelled();
                self.done.push_back((number, result));
            }
        }
        let in_kernel = self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_in_kernel && !slot.is_cancelled);
        let number = |(number, slot): (usize, &mut Slot)| {
            slot.is_cancelled = true;
            number
        };
        in_kernel.map(number).collect()
    }
}
