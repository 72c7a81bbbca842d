//! What an access to a pinned view costs, beside the same by a raw pointer, and by a lookup.
//!
//! ```console
//! cargo bench -p bench --bench pinned
//! ```
//!
//! Rounds of what is compared take turns, and the shortest of each counts. Nothing fails here for being slow.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::cast_precision_loss, reason = "times, as people read them")]
#![expect(clippy::cast_ptr_alignment, reason = "the addresses are chosen to be aligned")]
#![expect(unsafe_code, reason = "what is compared with is a raw pointer")]

use std::error::Error;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use memory_model::buffers::{PinnedRef, PinnedSlice};
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, IoAddress};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Values, how often each is accessed in a round, and rounds.
const VALUES: u64 = 64;
const TIMES: usize = 64;
const ROUNDS: usize = 2000;

/// Where the first value lies, and how far the next.
const AT: u64 = 0x10_0408;
const STEP: u64 = 32;

/// What takes turns: its name and its work.
struct Row<'a> {
    name: &'static str,
    work: Box<dyn FnMut() + 'a>,
    shortest: f64,
}

fn row<'a>(name: &'static str, work: impl FnMut() + 'a) -> Row<'a> {
    Row { name, work: Box::new(work), shortest: f64::MAX }
}

/// Adds up what each of the places answers. Which they are, the compiler does not know.
fn sum<P, T: Into<u64>>(places: &[P], access: impl Fn(&P) -> Option<T>) -> impl FnMut() {
    move || {
        let mut sum = 0_u64;
        for _ in 0..TIMES {
            // Several at a time, so that it is not the loop that is measured.
            for places in black_box(places).chunks_exact(8) {
                let places: &[P; 8] = places.try_into().unwrap_or_else(|_| failed());
                for place in places {
                    let value = access(place).unwrap_or_else(|| failed());
                    sum = sum.wrapping_add(value.into());
                }
            }
        }
        black_box(sum);
    }
}

/// Stores to each of the places.
fn each<P>(places: &[P], access: impl Fn(&P, u16) -> bool) -> impl FnMut() {
    move || {
        for _ in 0..TIMES {
            let value = black_box(7);
            for places in black_box(places).chunks_exact(8) {
                let places: &[P; 8] = places.try_into().unwrap_or_else(|_| failed());
                for place in places {
                    if !access(place, value) {
                        failed();
                    }
                }
            }
        }
    }
}

#[cold]
#[inline(never)]
fn failed() -> ! {
    std::process::abort()
}

fn measure(what: &str, rows: &mut [Row<'_>]) {
    for _ in 0..ROUNDS {
        for row in &mut *rows {
            let start = Instant::now();
            (row.work)();
            row.shortest = row.shortest.min(start.elapsed().as_secs_f64() * 1e9 / (TIMES as f64 * VALUES as f64));
        }
    }
    println!("{what}");
    let raw = rows.first().map_or(f64::NAN, |row| row.shortest);
    for Row { name, shortest, .. } in rows {
        println!("  {name:34} {shortest:6.2} ns {:6.2} times raw", *shortest / raw);
    }
}

fn main() -> Result<()> {
    let ranges: Vec<_> = (0..8).map(|number| (GuestAddress(number << 20), 1 << 20)).collect();
    let mem = GuestMemoryMmap::from_ranges(&ranges)?;
    println!("asked of a pinned access: at most 1 ns, and 2 times raw\n");
    values(&mem)?;
    let log = mem.start_tracking(4096)?;
    println!("\nwhile a log of dirty pages is kept");
    values(&mem)?;
    log.stop_tracking();
    Ok(())
}

fn values(mem: &GuestMemoryMmap) -> Result<()> {
    let at: Vec<_> = (0..VALUES).map(|number| IoAddress(AT + number * STEP)).collect();
    let short: Vec<_> =
        at.iter().map(|&at| PinnedRef::<u16>::new(mem, at, Access::ReadWrite)).collect::<Result<_, _>>()?;
    let long: Vec<_> =
        at.iter().map(|&at| PinnedRef::<u64>::new(mem, at, Access::ReadWrite)).collect::<Result<_, _>>()?;
    let table = &PinnedSlice::new(mem, IoAddress(AT & !0xfff), 0x1000, Access::ReadWrite)?;
    let offsets: Vec<_> = at.iter().map(|at| (at.0 & 0xfff) as usize).collect();
    let raw: Vec<_> = at.iter().map(|at| mem.get_host_address(GuestAddress(at.0))).collect::<Result<_, _>>()?;
    // SAFETY: aligned, mapped as long as `mem`, and nobody has a reference to it. So below.
    let load_u16 = sum(&raw, |&place| Some(unsafe { ptr::read_volatile(place.cast::<u16>()) }));
    // SAFETY: as above.
    let load_u64 = sum(&raw, |&place| Some(unsafe { ptr::read_volatile(place.cast::<u64>()) }));
    let store_u16 = each(&raw, |&place, value| {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(place.cast::<u16>(), value) };
        true
    });
    measure(
        "load u16",
        &mut [
            row("raw, read_volatile", load_u16),
            row("PinnedRef", sum(&short, |place| place.load(Ordering::Acquire).ok())),
            row("PinnedSlice", sum(&offsets, |&at| table.load::<u16>(at, Ordering::Acquire).ok())),
            row("by a lookup", sum(&at, |&at| mem.load::<u16>(at, Ordering::Acquire).ok())),
        ],
    );
    measure(
        "store u16",
        &mut [
            row("raw, write_volatile", store_u16),
            row("PinnedRef", each(&short, |place, value| place.store(value, Ordering::Release).is_ok())),
            row("PinnedSlice", each(&offsets, |&at, value| table.store(value, at, Ordering::Release).is_ok())),
            row("by a lookup", each(&at, |&at, value| mem.store(value, at, Ordering::Release).is_ok())),
        ],
    );
    measure(
        "read_obj u64",
        &mut [
            row("raw, read_volatile", load_u64),
            row("PinnedRef", sum(&long, |place| place.read().ok())),
            row("PinnedRef, if it is current", sum(&long, |place| place.is_current(mem).then(|| place.read().ok())?)),
            row("PinnedSlice", sum(&offsets, |&at| table.read_obj::<u64>(at).ok())),
            row("by a lookup", sum(&at, |&at| mem.read_obj::<u64>(at).ok())),
        ],
    );
    Ok(())
}
