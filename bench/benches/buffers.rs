//! A chain of 16 fragments of 4 KiB, in two regions, filled from a file in the page cache: made into buffers and read by one
//! system call, beside the system call alone with an array of iovecs that was made before. And a packet of 64 bytes, received
//! into 1 MiB and 1 GiB, while writes are tracked and while not: what it costs, and how much memory it makes resident.
//!
//! ```console
//! cargo bench -p bench --bench buffers
//! ```
//!
//! Rounds of what is compared take turns, and the shortest of each counts. Nothing fails here for being slow.

#![expect(unsafe_code, reason = "the system call on raw memory, and a count of allocations")]
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::cast_precision_loss, reason = "times, as people read them")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use memory_model::buffers::{GuestBuffers, IoSlice};
use memory_model::io_memory::Access;
use memory_model::mmap::HugePages;
use memory_model::stream::FileAt;
use memory_model::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, IoAddress, MmapRegion};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FRAGMENTS: usize = 16;
const FRAGMENT: usize = 4096;
const LEN: usize = FRAGMENTS * FRAGMENT;
/// From one fragment to the next: no two lie together.
const STRIDE: usize = 3 * FRAGMENT;
const REGION: usize = FRAGMENTS / 2 * STRIDE;
const ROUNDS: usize = 2000;
/// Transfers in a round.
const TRANSFERS: u32 = 20;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: as the system's, to which everything is handed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The shortest round of something, and what it has allocated in one.
#[derive(Default)]
struct Measured {
    ns: Option<f64>,
    allocations: u64,
}

impl Measured {
    fn round(&mut self, mut transfer: impl FnMut() -> Result<usize>) -> Result<()> {
        let (before, start) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        for _ in 0..TRANSFERS {
            if transfer()? != LEN {
                return Err("a short transfer".into());
            }
        }
        let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(TRANSFERS);
        self.allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        self.ns = Some(self.ns.map_or(ns, |shortest| shortest.min(ns)));
        Ok(())
    }

    fn report(&self, what: &str, base: &Self, asked: &str) {
        let (Some(ns), Some(base)) = (self.ns, base.ns) else { return };
        let allocations = self.allocations as f64 / f64::from(TRANSFERS);
        println!("{what:52} {ns:9.0} ns {:6.3} times {allocations:5.1} allocations  {asked}", ns / base);
    }
}

fn main() -> Result<()> {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), REGION), (GuestAddress(1 << 32), REGION)])?;
    let half = FRAGMENTS / 2;
    let place = |number: usize| ((number / half) << 32) + number % half * STRIDE;
    let addrs: [GuestAddress; FRAGMENTS] = std::array::from_fn(|number| GuestAddress(place(number) as u64));
    for addr in addrs {
        mem.fill(1, FRAGMENT, addr)?;
    }
    let chain = addrs.map(|addr| (IoAddress(addr.0), FRAGMENT));
    let file = file()?;
    let mut iovecs = Vec::new();
    for addr in addrs {
        iovecs.push(libc::iovec { iov_base: mem.get_host_address(addr)?.cast(), iov_len: FRAGMENT });
    }

    let [mut raw, mut again, mut made, mut extended, mut tracked, mut owned, mut each] =
        [(); 7].map(|()| Measured::default());
    for _ in 0..ROUNDS {
        raw.round(|| preadv(&file, &iovecs))?;
        made.round(|| {
            let mut buffers = GuestBuffers::new(black_box(&mem), chain.iter().copied(), Access::Write)?;
            Ok(buffers.preadv(&file, 0)?)
        })?;
        extended.round(|| {
            let mut buffers = GuestBuffers::empty(Access::Write);
            buffers.extend(black_box(&mem), chain.iter().copied())?;
            Ok(buffers.preadv(&file, 0)?)
        })?;
        owned.round(|| {
            let mut buffers = GuestBuffers::owned(black_box(&mem), chain.iter().copied(), Access::Write)?;
            Ok(buffers.preadv(&file, 0)?)
        })?;
        let log = mem.start_tracking(4096)?;
        tracked.round(|| {
            let mut buffers = GuestBuffers::new(black_box(&mem), chain.iter().copied(), Access::Write)?;
            Ok(buffers.preadv(&file, 0)?)
        })?;
        log.stop_tracking();
        each.round(|| {
            let mut at = FileAt::new(&file, 0);
            for addr in addrs {
                black_box(&mem).write_all_from(addr, &mut at, FRAGMENT)?;
            }
            Ok(LEN)
        })?;
        again.round(|| preadv(&file, &iovecs))?;
    }
    raw.report("preadv, iovecs made before", &raw, "");
    again.report("  the same once more", &raw, "");
    made.report("GuestBuffers::new, preadv", &raw, "asked: 1.05, 0");
    extended.report("GuestBuffers::empty, extend, preadv", &raw, "asked: 1.05, 0");
    tracked.report("  while writes are tracked", &raw, "");
    owned.report("GuestBuffers::owned, preadv", &raw, "");
    each.report("write_all_from, for each fragment", &raw, "");
    making(&mem, &chain)?;
    packets()
}

/// The bytes of a packet.
const PACKET: usize = 64;

/// Memory that is offered for a packet. The cost of the transfer must not depend on its size.
struct Receiver {
    what: &'static str,
    mem: GuestMemoryMmap,
    len: usize,
    is_tracked: bool,
    is_stream: bool,
    ns: Option<f64>,
    populated: u64,
}

impl Receiver {
    fn new(what: &'static str, len: usize, [is_tracked, is_stream]: [bool; 2]) -> Result<Self> {
        let mapping = MmapRegion::builder(len).reserve(false).huge_pages(HugePages::Never).build()?;
        let mem = GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(mapping, GuestAddress(0))?])?;
        Ok(Self { what, mem, len, is_tracked, is_stream, ns: None, populated: 0 })
    }

    fn resident(&self) -> Result<u64> {
        let mut resident = 0;
        for usage in self.mem.usage()? {
            resident += usage.resident();
        }
        Ok(resident)
    }

    /// A round of packets from one end of a pair to the other, and into memory.
    fn round(&mut self, (near, far): (&UnixStream, &UnixStream)) -> Result<()> {
        // The page that is written.
        self.mem.fill(1, PACKET, GuestAddress(0))?;
        let log = if self.is_tracked { Some(self.mem.start_tracking(4096)?) } else { None };
        let before = self.resident()?;
        let mut sum = 0;
        let start = Instant::now();
        for _ in 0..TRANSFERS {
            (&mut &*near).write_all(&[7; PACKET])?;
            sum += if self.is_stream {
                self.mem.write_from(GuestAddress(0), &mut &*far, self.len)?
            } else {
                GuestBuffers::new(black_box(&self.mem), [(IoAddress(0), self.len)], Access::Write)?.readv(far)?
            };
        }
        let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(TRANSFERS);
        if sum != PACKET * usize::try_from(TRANSFERS)? {
            return Err("not just a packet".into());
        }
        self.populated += self.resident()? - before;
        self.ns = Some(self.ns.map_or(ns, |shortest| shortest.min(ns)));
        if let Some(log) = log {
            log.stop_tracking();
        }
        Ok(())
    }
}

/// Packets of 64 bytes into much memory.
fn packets() -> Result<()> {
    let (near, far) = UnixStream::pair()?;
    let mut receivers = Vec::new();
    for (what, is_stream) in [("readv", false), ("write_from", true)] {
        for (size, len) in [("1 MiB", 1 << 20), ("1 GiB", 1 << 30)] {
            for is_tracked in [false, true] {
                let name = format!("{what}, 64 bytes into {size}{}", if is_tracked { ", tracked" } else { "" });
                receivers.push(Receiver::new(name.leak(), len, [is_tracked, is_stream])?);
            }
        }
    }
    for _ in 0..ROUNDS {
        for receiver in &mut receivers {
            receiver.round((&near, &far))?;
        }
    }
    for Receiver { what, ns, populated, is_stream, .. } in &receivers {
        let same = receivers.iter().filter(|receiver| receiver.is_stream == *is_stream);
        let base = same.filter_map(|receiver| receiver.ns).fold(f64::INFINITY, f64::min);
        let ns = ns.unwrap_or_default();
        println!("{what:52} {ns:9.0} ns {:6.3} times {populated:5} bytes populated  asked: 1.2, 0", ns / base);
    }
    Ok(())
}

/// What is not the system call.
fn making(mem: &GuestMemoryMmap, chain: &[(IoAddress, usize)]) -> Result<()> {
    let [mut borrowed, mut owned] = [(); 2].map(|()| Measured::default());
    for _ in 0..ROUNDS {
        borrowed.round(|| {
            let mut buffers = GuestBuffers::new(black_box(mem), chain.iter().copied(), Access::Write)?;
            let len = black_box(buffers.as_iovecs()).iter().map(IoSlice::len).sum();
            buffers.complete(len)?;
            Ok(len)
        })?;
        owned.round(|| {
            let mut buffers = GuestBuffers::owned(black_box(mem), chain.iter().copied(), Access::Write)?;
            let len = black_box(buffers.as_iovecs()).iter().map(IoSlice::len).sum();
            buffers.complete(len)?;
            Ok(len)
        })?;
    }
    borrowed.report("GuestBuffers::new, as_iovecs, complete", &borrowed, "");
    owned.report("GuestBuffers::owned, as_iovecs, complete", &borrowed, "");
    Ok(())
}

/// A file of known length without a name, in the page cache.
fn file() -> Result<File> {
    let path = std::env::temp_dir().join(format!("memory-model-bench-{}", std::process::id()));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    file.write_all(&vec![7; LEN])?;
    Ok(file)
}

fn preadv(file: &File, iovecs: &[libc::iovec]) -> Result<usize> {
    let count = libc::c_int::try_from(iovecs.len())?;
    // SAFETY: the iovecs describe memory of the guest's, which is mapped, and to which there are no references.
    let read = unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count, 0) };
    if read < 0 { Err(io::Error::last_os_error().into()) } else { Ok(read.unsigned_abs()) }
}
