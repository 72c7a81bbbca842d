//! How many requests there were, of how many bytes, and how long they took.
//!
//! | type         | what it is                                                                  |
//! |--------------|-----------------------------------------------------------------------------|
//! | [`Stats`]    | what all rings have done, since the start and since somebody last asked     |
//! | [`Recorder`] | one ring's, a [`Journal`] of its requests                                   |
//! | [`Summary`]  | the numbers, and as a line                                                  |

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memory_model_virtio::blk::{Journal, Outcome, T_FLUSH, T_IN, T_OUT};
use memory_model_virtio::ring::MAX_QUEUE_SIZE;

/// The longest time that is told from longer ones, in nanoseconds: ten minutes.
const LONGEST: u64 = 600_000_000_000;
/// The decimal digits of a time that are kept.
const DIGITS: u8 = 2;

/// What all rings have done. A clone is the same statistics.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Those of the recorders; also of ones that are gone, until they are collected.
    rings: Vec<Arc<Mutex<Counts>>>,
    /// What was collected since an interval was last asked for.
    interval: Counts,
    /// What was collected since the start.
    total: Counts,
}

impl Shared {
    /// Collects what the recorders have.
    fn collect(&mut self) {
        let Self { rings, interval, total } = self;
        rings.retain(|ring| {
            // Looked at first: what is recorded afterwards is collected the next time.
            let is_used = Arc::strong_count(ring) > 1;
            let mut counts = lock(ring);
            interval.add(&counts);
            total.add(&counts);
            counts.reset();
            is_used
        });
    }
}

impl Stats {
    /// Nothing has been done.
    pub fn new() -> Self {
        Self::default()
    }

    /// For one ring, whose thread shares it with nobody but whoever asks for a summary.
    pub fn recorder(&self) -> Recorder {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let mut shared = lock(&self.shared);
        shared.collect(); // so that recorders that are gone do not add up
        shared.rings.push(Arc::clone(&counts));
        Recorder { counts, begun: Vec::new() }
    }

    /// What was done since this was last called, or else since the start.
    pub fn interval(&self) -> Summary {
        let mut shared = lock(&self.shared);
        shared.collect();
        let summary = shared.interval.summary();
        shared.interval.reset();
        summary
    }

    /// What was done since the start.
    pub fn total(&self) -> Summary {
        let mut shared = lock(&self.shared);
        shared.collect();
        shared.total.summary()
    }
}

/// Nothing that is counted gets worse by a thread that panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one ring's requests, and measures them: from when they are taken until they are used.
#[derive(Debug)]
pub struct Recorder {
    /// Locked by the ring's thread, and by who collects: seldom, and for some microseconds.
    counts: Arc<Mutex<Counts>>,
    /// By heads, up to the greatest that has come.
    begun: Vec<Option<Instant>>,
}

impl Recorder {
    /// The request at `head` was taken. Ignored for a head that no ring has.
    pub fn begin(&mut self, head: u16) {
        let index = usize::from(head);
        if head < MAX_QUEUE_SIZE && index >= self.begun.len() {
            self.begun.resize(index.saturating_add(1), None);
        }
        if let Some(begun) = self.begun.get_mut(index) {
            *begun = Some(Instant::now());
        }
    }

    /// The request at `head` was answered. Without a [`begin`](Self::begin) it is counted, and not measured.
    pub fn end(&mut self, head: u16, outcome: &Outcome) {
        let begun = self.begun.get_mut(usize::from(head)).and_then(Option::take);
        let time = begun.map(|begun| begun.elapsed());
        lock(&self.counts).count(outcome, time);
    }
}

impl Journal for Recorder {
    fn taken(&mut self, head: u16) {
        self.begin(head);
    }

    fn used(&mut self, head: u16, _next_used: u16, outcome: &Outcome) {
        self.end(head, outcome);
    }
}

/// Numbers that add up.
#[derive(Debug, Default)]
struct Counts {
    /// Without times.
    numbers: Summary,
    /// In nanoseconds. There is none before the first.
    times: Option<Histogram<u64>>,
}

impl Counts {
    fn count(&mut self, outcome: &Outcome, time: Option<Duration>) {
        let numbers = &mut self.numbers;
        increase(&mut numbers.requests, 1);
        increase(&mut numbers.failed, u64::from(!outcome.is_ok()));
        match outcome.kind {
            T_IN => {
                increase(&mut numbers.reads, 1);
                increase(&mut numbers.read_bytes, outcome.bytes);
            }
            T_OUT => {
                increase(&mut numbers.writes, 1);
                increase(&mut numbers.written_bytes, outcome.bytes);
            }
            T_FLUSH => increase(&mut numbers.flushes, 1),
            _ => increase(&mut numbers.other, 1),
        }
        if let (Some(time), Some(times)) = (time, self.times()) {
            times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn add(&mut self, more: &Self) {
        let (numbers, more_numbers) = (&mut self.numbers, more.numbers);
        increase(&mut numbers.requests, more_numbers.requests);
        increase(&mut numbers.reads, more_numbers.reads);
        increase(&mut numbers.writes, more_numbers.writes);
        increase(&mut numbers.flushes, more_numbers.flushes);
        increase(&mut numbers.other, more_numbers.other);
        increase(&mut numbers.failed, more_numbers.failed);
        increase(&mut numbers.read_bytes, more_numbers.read_bytes);
        increase(&mut numbers.written_bytes, more_numbers.written_bytes);
        if let (Some(more), Some(times)) = (more.times.as_ref().filter(|more| !more.is_empty()), self.times()) {
            // Never fails: both have the same bounds.
            times.add(more).unwrap_or(());
        }
    }

    /// Keeps the histogram's memory.
    fn reset(&mut self) {
        self.numbers = Summary::default();
        if let Some(times) = &mut self.times {
            times.reset();
        }
    }

    fn times(&mut self) -> Option<&mut Histogram<u64>> {
        if self.times.is_none() {
            self.times = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        self.times.as_mut()
    }

    fn summary(&self) -> Summary {
        let quantile = |quantile| {
            let nanos = self.times.as_ref().map_or(0, |times| times.value_at_quantile(quantile));
            Duration::from_nanos(nanos)
        };
        Summary { p50: quantile(0.5), p99: quantile(0.99), ..self.numbers }
    }
}

fn increase(number: &mut u64, by: u64) {
    *number = number.saturating_add(by);
}

/// Numbers of requests that were answered.
///
/// As text it is one line of names and whole numbers, all of them always and in this order, with single spaces in between:
///
/// ```
/// let stats = memory_model_vhost_user_blk::stats::Stats::new();
/// assert_eq!(
///     stats.total().to_string(),
///     "requests 0 reads 0 writes 0 flushes 0 other 0 failed 0 read_bytes 0 written_bytes 0 p50_us 0 p99_us 0"
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All of them: reads, writes, flushes and others.
    pub requests: u64,
    /// Those that were to read.
    pub reads: u64,
    /// Those that were to write.
    pub writes: u64,
    /// Those that were to make writes stable.
    pub flushes: u64,
    /// Those of other types, or without one.
    pub other: u64,
    /// Those of any type that did not succeed.
    pub failed: u64,
    /// Bytes read from the disk, by reads that succeeded.
    pub read_bytes: u64,
    /// Bytes written to the disk, by writes that succeeded.
    pub written_bytes: u64,
    /// How long half of the requests took at most, to two digits; 0 if there were none.
    pub p50: Duration,
    /// How long 99 of 100 requests took at most, to two digits; 0 if there were none.
    pub p99: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, reads, writes, flushes, other, failed, read_bytes, written_bytes, p50, p99 } = self;
        write!(
            f,
            "requests {requests} reads {reads} writes {writes} flushes {flushes} other {other} failed {failed} "
        )?;
        write!(f, "read_bytes {read_bytes} written_bytes {written_bytes} ")?;
        write!(f, "p50_us {} p99_us {}", micros(*p50), micros(*p99))
    }
}

/// Rounded up: what took some time is not 0.
fn micros(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1000)
}
