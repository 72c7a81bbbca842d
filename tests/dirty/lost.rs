//! Writes that race with harvests. A write that was done when a harvest began is in it, or in one before: with its data.
//!
//! Whoever marks looks at the bit first, and leaves it if it is set. The data may then still be on its way from the
//! processor, while a harvester takes the bit and copies the page as it was before: a lost page, unless the harvester has
//! all threads pass a barrier before it copies.
//!
//! The last test has no barrier, and must lose pages: it shows that the tests above can fail. That takes an optimized program on
//! x86-64 and some rounds, so it is ignored unless it is asked for: `cargo test --release --test dirty -- --ignored --test-threads=1`.

use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::thread;

use memory_model::dirty::{DirtyBitmap, DirtyRange};
use memory_model::guest_memory::DirtyLog;
use memory_model::{Bytes, DataInit, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::ground::{is_emulated, memory, rounds};

pub(crate) const PAGE: u64 = 4096;
/// Pages that are written: in several words, lines of words, and words of the summary; and those behind them are free.
const PAGES: [u64; 7] = [0, 2, 63, 66, 600, 1023, 40_000];
/// How many values each has, in a cache line each.
const VALUES: usize = 2;

/// Where a value lies: the number of its page among those above, and its own.
pub(crate) type Place = (usize, usize);

/// Memory that writes are marked in, one way or another.
pub(crate) trait Marked: Sync {
    /// Writes a value, and marks it.
    fn write(&self, place: Place, value: u64);
    /// Reads it.
    fn read(&self, place: Place) -> u64;
    /// Takes the dirty pages, and calls `copy` with the number of each.
    fn harvest(&self, copy: impl FnMut(usize));

    /// Does it for the first time in a round, at the same time as a write.
    fn harvest_first(&self, copy: impl FnMut(usize)) {
        self.harvest(copy);
    }

    /// How long that takes until it matters, at most: in steps of a loop.
    const DELAY: u64 = 0;
}

/// What races have come to.
#[derive(Debug, Default)]
pub(crate) struct Races {
    pub(crate) rounds: u64,
    /// Pages that the first harvest of a round has found.
    pages: u64,
    pub(crate) lost: u64,
}

/// Waits for a number that is at least as large as `round`.
fn wait(number: &AtomicU64, round: u64) {
    for spins in 1_u64.. {
        if number.load(Ordering::Acquire) >= round {
            break;
        }
        // The other thread may need this processor.
        if spins % 4096 == 0 { thread::yield_now() } else { spin_loop() }
    }
}

/// Does nothing for a while, of up to so many steps.
fn pause(round: u64, most: u64) {
    for _ in 0..(round.wrapping_mul(0x9e37_79b9) >> 8) % most.max(1) {
        std::hint::black_box(round);
    }
}

/// A page is dirty already when one thread writes to it once more, and another harvests at that moment. Whatever the first
/// harvest has found and copied, after another the copy is the page. Counts the rounds in which it is not.
pub(crate) fn race<M: Marked>(memory: &M, most: u64) -> Races {
    let (begin, ready, go, done): (Line, Line, Line, Line) = Default::default();
    let cold: Vec<_> = (0..1 << 22).map(AtomicU64::new).collect();
    let mut races = Races::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                let page = usize::try_from(round).unwrap() % PAGES.len();
                wait(&begin.0, round);
                memory.write((page, 0), round);
                ready.0.store(round, Ordering::Release);
                wait(&go.0, round);
                // Stores that take the processor long: what is stored after them stays with it meanwhile.
                for store in 1..8_u64 {
                    let at = round.wrapping_mul(store).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 42;
                    cold[usize::try_from(at).unwrap()].store(round, Ordering::Relaxed);
                }
                if go.0.load(Ordering::Relaxed) == OVER {
                    break;
                }
                pause(round, M::DELAY);
                memory.write((page, 1), round);
                done.0.store(round, Ordering::Release);
            }
        });
        let mut copies = [[0; VALUES]; PAGES.len()];
        for round in rounds(most) {
            let round = round + 1;
            begin.0.store(round, Ordering::Release);
            wait(&ready.0, round);
            go.0.store(round, Ordering::Release);
            pause(round, 64);
            let mut copy = |page| copies[page] = [memory.read((page, 0)), memory.read((page, 1))];
            memory.harvest_first(|page| {
                races.pages += 1;
                copy(page);
            });
            wait(&done.0, round);
            memory.harvest(copy);
            races.rounds = round;
            if copies[usize::try_from(round).unwrap() % PAGES.len()] != [round; VALUES] {
                races.lost += 1;
            }
        }
        begin.0.store(OVER, Ordering::Release);
        go.0.store(OVER, Ordering::Release);
    });
    races
}

/// The number of no round.
const OVER: u64 = u64::MAX;

/// Cache lines of its own.
#[derive(Default)]
#[repr(align(256))]
struct Line(AtomicU64);

/// The guest address of a place.
fn at((page, place): Place) -> GuestAddress {
    GuestAddress(PAGES[page] * PAGE + 0x200 * place as u64 + 8 * page as u64)
}

/// Calls `copy` with the number of each page that has its first byte in one of these ranges.
fn copy_each(ranges: impl Iterator<Item = DirtyRange>, mut copy: impl FnMut(usize)) {
    for range in ranges {
        let has = |page: u64| page * PAGE >= range.start && page * PAGE - range.start < range.len;
        (0..PAGES.len()).filter(|&page| has(PAGES[page])).for_each(&mut copy);
    }
}

/// How a test writes.
pub(crate) type Write = fn(&GuestMemoryMmap, GuestAddress, u64);

/// A guest's memory under a log.
pub(crate) struct Guest {
    pub(crate) mem: GuestMemoryMmap,
    pub(crate) log: DirtyLog<GuestRegionMmap>,
    pub(crate) write: Write,
}

impl Guest {
    fn new(write: Write) -> Self {
        let mem = memory(&[(0, 50_000 << 12)]);
        let log = mem.start_tracking(PAGE).unwrap();
        Self { mem, log, write }
    }
}

impl Marked for Guest {
    fn write(&self, place: Place, value: u64) {
        (self.write)(&self.mem, at(place), value);
    }

    fn read(&self, place: Place) -> u64 {
        self.mem.load(at(place), Ordering::Relaxed).unwrap()
    }

    fn harvest(&self, copy: impl FnMut(usize)) {
        let harvest = self.log.harvest();
        copy_each(harvest.ranges(), copy);
        harvest.commit();
    }
}

/// How many rounds a test makes, if it has the time.
pub(crate) fn most() -> u64 {
    if is_emulated() { 2_000 } else { 1_000_000 }
}

#[test]
fn no_value_is_lost() {
    let writes: [(&str, Write); 4] = [
        ("write_obj", |mem, at, value| mem.write_obj(value, at).unwrap()),
        ("write_slice", |mem, at, value| mem.write_slice(value.as_slice(), at).unwrap()),
        ("store", |mem, at, value| mem.store(value, at, Ordering::Relaxed).unwrap()),
        ("fill and write", |mem, at, value| {
            // To the next page, which takes another way.
            mem.write_obj(value, at).unwrap();
            mem.fill(0, 0x1000, GuestAddress(at.0 + 0x700)).unwrap();
        }),
    ];
    for (name, write) in writes {
        let races = race(&Guest::new(write), most());
        assert_eq!(races.lost, 0, "{name}: {races:?}");
        assert!(races.pages > 0, "{name}: {races:?}");
    }
}

#[test]
fn no_value_is_lost_where_two_logs_harvest() {
    /// Two logs, of which the second is harvested by another thread.
    struct Two(Guest, DirtyLog<GuestRegionMmap>);
    impl Marked for Two {
        fn write(&self, place: Place, value: u64) {
            self.0.write(place, value);
        }
        fn read(&self, place: Place) -> u64 {
            self.0.read(place)
        }
        fn harvest(&self, mut copy: impl FnMut(usize)) {
            // What is put back comes again, and what the other takes does not matter.
            drop(self.0.log.harvest());
            self.1.harvest().commit();
            self.0.harvest(&mut copy);
        }
    }
    let guest = Guest::new(|mem, at, value| mem.write_obj(value, at).unwrap());
    let second = guest.mem.start_tracking(PAGE).unwrap();
    let races = race(&Two(guest, second), most() / 4);
    assert_eq!(races.lost, 0, "{races:?}");
}

/// Tracking begins at the moment of a write, and then all of memory is copied: the write is in the copy, or marked.
#[test]
fn no_value_is_lost_when_tracking_begins() {
    struct Beginning {
        mem: GuestMemoryMmap,
        log: Mutex<Option<DirtyLog<GuestRegionMmap>>>,
        /// The page that is about to be written, which is copied first.
        page: AtomicUsize,
    }
    impl Marked for Beginning {
        const DELAY: u64 = if cfg!(debug_assertions) { 600 } else { 1000 };

        fn write(&self, place: Place, value: u64) {
            if place.1 == 0 {
                self.page.store(place.0, Ordering::Relaxed);
            }
            self.mem.write_obj(value, at(place)).unwrap();
        }
        fn read(&self, place: Place) -> u64 {
            self.mem.load(at(place), Ordering::Relaxed).unwrap()
        }
        fn harvest_first(&self, copy: impl FnMut(usize)) {
            let first = self.page.load(Ordering::Relaxed);
            let log = self.mem.start_tracking(PAGE).unwrap();
            (first..PAGES.len()).chain(0..first).for_each(copy);
            *self.log.lock().unwrap() = Some(log);
        }
        fn harvest(&self, copy: impl FnMut(usize)) {
            let log = self.log.lock().unwrap().take().unwrap();
            copy_each(log.harvest().ranges(), copy);
        }
    }
    let mem = memory(&[(0, 50_000 << 12)]);
    let races = race(&Beginning { mem, log: Mutex::default(), page: AtomicUsize::new(0) }, most());
    assert_eq!(races.lost, 0, "{races:?}");
}

/// A bitmap of which every word has bits, so that a harvest takes a while, and finds some of them as they are marked again.
#[test]
fn no_value_is_lost_in_a_long_harvest() {
    struct Full(DirtyBitmap, [[Line; VALUES]; PAGES.len()]);
    impl Marked for Full {
        const DELAY: u64 = if cfg!(debug_assertions) { 2000 } else { 6000 };

        fn write(&self, (page, place): Place, value: u64) {
            self.1[page][place].0.store(value, Ordering::Relaxed);
            if place == 0 {
                self.0.mark(0, self.0.len());
            } else {
                self.0.mark(PAGES[page] * PAGE, 1);
            }
        }
        fn read(&self, (page, place): Place) -> u64 {
            self.1[page][place].0.load(Ordering::Relaxed)
        }
        fn harvest(&self, copy: impl FnMut(usize)) {
            let harvest = self.0.harvest();
            copy_each(harvest.ranges(), copy);
            harvest.commit();
        }
    }
    let bitmap = DirtyBitmap::new(50_000 * PAGE, PAGE).unwrap();
    let races = race(&Full(bitmap, Default::default()), most());
    assert_eq!(races.lost, 0, "{races:?}");
}

/// Marks in a bitmap that is attached, which are made out of line.
#[test]
fn no_value_is_lost_in_a_bitmap_of_ones_own() {
    use memory_model::dirty::Sink;
    use memory_model::{GuestMemory, GuestMemoryRegion};
    use std::sync::Arc;

    struct Attached(GuestMemoryMmap, Arc<DirtyBitmap>);
    impl Marked for Attached {
        fn write(&self, place: Place, value: u64) {
            self.0.write_obj(value, at(place)).unwrap();
        }
        fn read(&self, place: Place) -> u64 {
            self.0.read_obj(at(place)).unwrap()
        }
        fn harvest(&self, copy: impl FnMut(usize)) {
            let harvest = self.1.harvest();
            copy_each(harvest.ranges(), copy);
            harvest.commit();
        }
    }
    let mem = memory(&[(0, 50_000 << 12)]);
    let bitmap = Arc::new(DirtyBitmap::new(50_000 << 12, PAGE).unwrap());
    let tracker = mem.find_region(GuestAddress(0)).unwrap().tracker().unwrap();
    tracker.attach(Sink::Bitmap { bitmap: Arc::clone(&bitmap), base: 0 });
    let races = race(&Attached(mem.clone(), bitmap), most());
    assert_eq!(races.lost, 0, "{races:?}");
}

/// The same without a barrier: a bitmap of one word that is looked at before it is set.
struct WithoutBarrier {
    values: [[Line; VALUES]; PAGES.len()],
    bits: Line,
}

impl Marked for WithoutBarrier {
    #[inline(always)]
    fn write(&self, (page, place): Place, value: u64) {
        self.values[page][place].0.store(value, Ordering::Relaxed);
        // For the compiler, as with the barrier.
        compiler_fence(Ordering::SeqCst);
        if self.bits.0.load(Ordering::Acquire) >> page & 1 == 0 {
            self.bits.0.fetch_or(1 << page, Ordering::SeqCst);
        }
    }

    #[inline(always)]
    fn read(&self, (page, place): Place) -> u64 {
        self.values[page][place].0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn harvest(&self, copy: impl FnMut(usize)) {
        let bits = self.bits.0.swap(0, Ordering::SeqCst);
        (0..PAGES.len()).filter(|page| bits >> page & 1 == 1).for_each(copy);
    }
}

/// Whether this program and this machine let a processor be seen to reorder: a program that is not optimized gives it too much
/// else to do.
pub(crate) fn is_litmus() -> bool {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let is_litmus = cfg!(target_arch = "x86_64") && !cfg!(debug_assertions) && processors > 1 && !is_emulated();
    if !is_litmus {
        memory_model_test_support::skip!(
            "one processor: the litmus takes several, of x86-64, and an optimized program"
        );
    }
    is_litmus
}

#[test]
#[ignore = "takes an optimized program, and rounds until a value is lost"]
fn without_a_barrier_values_are_lost() {
    if !is_litmus() {
        return;
    }
    let mut rounds = 0;
    for _ in 0..120 {
        let memory = WithoutBarrier { values: Default::default(), bits: Line::default() };
        let races = race(&memory, most() * 100);
        rounds += races.rounds;
        if races.lost > 0 {
            return eprintln!("without a barrier values were lost in {} of the last {rounds} rounds", races.lost);
        }
    }
    panic!("nothing was lost without a barrier in {rounds} rounds: the tests above show nothing");
}
