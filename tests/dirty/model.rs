//! Random writes of a memory, by every operation, while logs with pages of all sizes and shared bitmaps begin and end: each
//! has just what was written since it began, whatever the others have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use memory_model::dirty::{DirtyRange, LogBitmap};
use memory_model::guest_memory::DirtyLog;
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, IoAddress, MemoryRegionAddress, MmapRegion,
    VolatileMemory,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{cases, joined, memory};

/// Regions that touch, in the middle of a page, too; then holes; and the end of the address space.
const SPANS: [(u64, usize); 6] = [
    (0x1_0000, 0x3_0000),
    (0x4_0000, 0x2_3801),
    (0x6_3801, 0x4_5000),
    (0x10_0000, 0x1000),
    (0x20_0000, 0x20_0000),
    (0_u64.wrapping_sub(0x1_4000), 0x1_4000),
];

/// The bits that a shared bitmap has, in bytes: not for all of memory.
const BITMAP: usize = 77;

#[derive(Clone, Debug)]
enum Op {
    Write(Way, u64, usize),
    Copy(u64, u64, usize),
    CopySlices(u64, u64, usize),
    Discard(u64, u64),
    Read(u64, usize),
    Start(u32),
    Stop(usize),
    Harvest(usize, bool),
    Attach,
    Detach(usize),
    Replace(usize),
}

/// How bytes are written.
#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    WriteSlice,
    Fill,
    Object,
    Store,
    Exchange,
    ExchangeThatFails,
    FetchOr,
    WriteFrom,
    WriteAllFrom,
    Device,
    Region,
    Slice,
}

fn way() -> impl Strategy<Value = Way> {
    use Way::{
        Device, Exchange, ExchangeThatFails, FetchOr, Fill, Object, Region, Slice, Store, Write, WriteAllFrom,
        WriteFrom, WriteSlice,
    };
    proptest::sample::select(vec![
        Write,
        WriteSlice,
        Fill,
        Object,
        Store,
        Exchange,
        ExchangeThatFails,
        FetchOr,
        WriteFrom,
        WriteAllFrom,
        Device,
        Region,
        Slice,
    ])
}

fn addr() -> impl Strategy<Value = u64> {
    let span = proptest::sample::select(SPANS.to_vec());
    let near = prop_oneof![
        3 => 0..0x20_0000_u64,
        1 => 0..16_u64,
        1 => (0..0x200_u64, 0..16_u64).prop_map(|(page, at)| (page << 12) + at),
        2 => (0..0x200_u64, 0..16_u64).prop_map(|(page, before)| ((page << 12) + 0x1000).wrapping_sub(before)),
    ];
    (span, near, 0..8_u64).prop_map(|((start, len), at, end)| match end {
        0 => start.wrapping_add(len as u64).wrapping_sub(at % 16),
        _ => start + at % len as u64,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![3 => 0..20_usize, 2 => 0..0x3000_usize, 1 => 0..0x6_0000_usize];
    prop_oneof![
        12 => (way(), addr(), len()).prop_map(|(way, addr, len)| Op::Write(way, addr, len)),
        2 => (addr(), addr(), len()).prop_map(|(src, dst, len)| Op::Copy(src, dst, len)),
        1 => (addr(), -0x100..0x100_i64, len()).prop_map(|(src, by, len)| Op::Copy(src, src.wrapping_add_signed(by), len)),
        1 => (addr(), addr(), len()).prop_map(|(src, dst, len)| Op::CopySlices(src, dst, len)),
        1 => (addr(), 0..0x2_0000_u64).prop_map(|(addr, len)| Op::Discard(addr, len)),
        1 => (addr(), len()).prop_map(|(addr, len)| Op::Read(addr, len)),
        2 => (12..22_u32).prop_map(Op::Start),
        1 => any::<usize>().prop_map(Op::Stop),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(log, commit)| Op::Harvest(log, commit)),
        1 => Just(Op::Attach),
        1 => any::<usize>().prop_map(Op::Detach),
        1 => any::<usize>().prop_map(Op::Replace),
    ]
}

/// A log, and which bytes of memory should be in it: whole pages of 4096 bytes, by region and number.
struct Log {
    log: DirtyLog<GuestRegionMmap>,
    dirty: BTreeSet<(usize, u64)>,
}

impl Log {
    fn start(mem: &GuestMemoryMmap, page_size: u64) -> Self {
        Self { log: mem.start_tracking(page_size).unwrap(), dirty: BTreeSet::new() }
    }

    fn expected(&self) -> Vec<DirtyRange> {
        let size = u128::from(self.log.page_size());
        let pages = self.dirty.iter().map(|&(region, page)| {
            let (start, len) = (u128::from(SPANS[region].0), SPANS[region].1 as u128);
            let first = u128::from(page << 12) / size * size;
            start + first..start + len.min(first + size)
        });
        joined(pages.collect())
    }
}

/// A shared bitmap, and which pages should be in it, by their numbers.
struct Shared {
    memory: Arc<MmapRegion>,
    log: Arc<LogBitmap>,
    dirty: BTreeSet<u64>,
}

impl Shared {
    fn new() -> Self {
        let memory = Arc::new(MmapRegion::new(BITMAP).unwrap());
        Self { log: Arc::new(LogBitmap::new(Arc::clone(&memory))), memory, dirty: BTreeSet::new() }
    }

    fn check(&self) {
        let mut expected = [0_u8; BITMAP];
        let mut beyond = false;
        for page in &self.dirty {
            match expected.get_mut(usize::try_from(page / 8).unwrap_or(usize::MAX)) {
                Some(byte) => *byte |= 1 << (page % 8),
                None => beyond = true,
            }
        }
        assert!(self.memory.as_volatile_slice().read_obj::<[u8; BITMAP]>(0).unwrap() == expected);
        assert_eq!(self.log.dropped() > 0, beyond);
        assert_eq!(Arc::strong_count(&self.log), 1, "whoever took it away has the last one");
    }
}

struct World {
    mem: GuestMemoryMmap,
    logs: Vec<Log>,
    attached: Vec<Shared>,
    round: u8,
}

impl World {
    /// How many of `len` bytes at `addr` are memory, up to the first hole.
    fn available(addr: u64, len: usize) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let has = |&&(start, len): &&(u64, usize)| at >= start && at - start < len as u64;
            let Some(&(start, size)) = SPANS.iter().find(has) else { break };
            done += usize::try_from(start.wrapping_add(size as u64).wrapping_sub(at)).unwrap();
        }
        done.min(len)
    }

    /// Where a byte lies.
    fn place(addr: u64) -> Option<(usize, u64)> {
        let has = |&(start, len): &(u64, usize)| addr >= start && addr - start < len as u64;
        SPANS.iter().position(has).map(|region| (region, addr - SPANS[region].0))
    }

    /// What so many bytes at `addr`, which are memory, are to all that listen.
    fn wrote(&mut self, addr: u64, len: usize) {
        let mut done = 0;
        while done < len as u64 {
            let at = addr + done;
            let (region, offset) = Self::place(at).unwrap();
            for log in &mut self.logs {
                log.dirty.insert((region, offset >> 12));
            }
            for shared in &mut self.attached {
                shared.dirty.insert(at >> 12);
            }
            // To where the next page begins, by offset or by address, or the next region.
            let next = (0x1000 - (offset & 0xfff)).min(0x1000 - (at & 0xfff));
            done += next.min(SPANS[region].1 as u64 - offset);
        }
    }

    /// Whether an atomic access of so many bytes is possible at `addr`.
    fn is_unit(addr: u64, size: usize) -> bool {
        Self::place(addr)
            .is_some_and(|(region, offset)| offset % size as u64 == 0 && offset + size as u64 <= SPANS[region].1 as u64)
    }

    /// Exchanges a value of so many bytes, if it holds what is expected.
    fn exchange(&self, addr: u64, size: usize, holds: bool) {
        let at = GuestAddress(addr);
        macro_rules! exchange {
            ($U:ty) => {{
                let held: $U = self.mem.load(at, SeqCst).unwrap();
                let current = if holds { held } else { !held };
                let done = self.mem.compare_exchange(current, !held, at, SeqCst, Relaxed).unwrap();
                assert_eq!(done.is_ok(), holds);
            }};
        }
        match size {
            1 => exchange!(u8),
            2 => exchange!(u16),
            4 => exchange!(u32),
            _ => exchange!(u64),
        }
    }

    /// Writes, and answers how many bytes should have been.
    fn write(&self, way: Way, addr: u64, len: usize) -> usize {
        let (mem, at) = (&self.mem, GuestAddress(addr));
        let available = Self::available(addr, len);
        let data = vec![self.round; len];
        let whole = available == len;
        match way {
            Way::Write => assert_eq!(mem.write(&data, at).unwrap_or(0), available),
            Way::WriteSlice => assert_eq!(mem.write_slice(&data, at).is_ok(), whole),
            Way::Fill => assert_eq!(mem.fill(self.round, len, at).is_ok(), whole),
            Way::Device => assert_eq!(mem.write_slice(&data, IoAddress(addr)).is_ok(), whole),
            Way::WriteFrom => assert_eq!(mem.write_from(at, &mut &data[..], len).unwrap_or(0), available),
            Way::WriteAllFrom => assert_eq!(mem.write_all_from(at, &mut &data[..], len).is_ok(), whole),
            Way::Object => {
                let done = |size: usize| Self::available(addr, size);
                let value = u128::from(self.round) * (u128::MAX / 255);
                let size = match len % 4 {
                    0 => (mem.write_obj(value, at).is_ok(), 16),
                    1 => (mem.write_obj([self.round; 3], at).is_ok(), 3),
                    2 => (mem.write_obj(0xabcd_u16, at).is_ok(), 2),
                    _ => (mem.write_obj(0xabcd_u64, at).is_ok(), 8),
                };
                assert_eq!(size.0, done(size.1) == size.1);
                return done(size.1);
            }
            Way::Store | Way::Exchange | Way::ExchangeThatFails | Way::FetchOr => {
                return self.write_unit(way, addr, 1 << (len % 4));
            }
            Way::Region | Way::Slice => {
                let Some((region, offset)) = Self::place(addr) else { return 0 };
                let reach = (SPANS[region].1 as u64 - offset).min(len as u64);
                let reach = usize::try_from(reach).unwrap();
                let place = mem.regions().nth(region).unwrap();
                if matches!(way, Way::Region) {
                    assert_eq!(place.write(&data, MemoryRegionAddress(offset)).unwrap(), reach);
                } else {
                    let slice = mem.get_slice(at, reach).unwrap();
                    assert_eq!(slice.write(&data, 0).unwrap_or(0), reach);
                }
                return reach;
            }
        }
        available
    }

    /// Writes so many bytes atomically, if that can be, and answers how many.
    fn write_unit(&self, way: Way, addr: u64, size: usize) -> usize {
        let (mem, at) = (&self.mem, GuestAddress(addr));
        let stored = |size| match size {
            1 => mem.store(self.round, at, SeqCst),
            2 => mem.store(0xabcd_u16, at, SeqCst),
            4 => mem.store(0xabcd_u32, at, SeqCst),
            _ => mem.store(0xabcd_u64, at, SeqCst),
        };
        if !Self::is_unit(addr, size) {
            assert!(stored(size).is_err());
            return 0;
        }
        match way {
            Way::Store => stored(size).unwrap(),
            Way::FetchOr => {
                let slice = mem.get_slice(at, size).unwrap();
                match size {
                    1 => assert!(slice.fetch_or(1_u8, 0, SeqCst).is_ok()),
                    2 => assert!(slice.fetch_or(1_u16, 0, SeqCst).is_ok()),
                    4 => assert!(slice.fetch_or(1_u32, 0, SeqCst).is_ok()),
                    _ => assert!(slice.fetch_or(1_u64, 0, SeqCst).is_ok()),
                }
            }
            _ => self.exchange(addr, size, matches!(way, Way::Exchange)),
        }
        if matches!(way, Way::ExchangeThatFails) { 0 } else { size }
    }

    fn play(&mut self, op: &Op) {
        self.round = self.round.wrapping_add(1);
        match *op {
            Op::Write(way, addr, len) => {
                let done = self.write(way, addr, len);
                self.wrote(addr, done);
            }
            Op::Copy(src, dst, len) => {
                let done = Self::available(src, len).min(Self::available(dst, len));
                assert_eq!(self.mem.copy(GuestAddress(src), GuestAddress(dst), len).is_ok(), done == len);
                self.wrote(dst, done);
            }
            Op::CopySlices(src, dst, len) => {
                let get = |at, len| self.mem.get_slice(GuestAddress(at), len);
                if let (Ok(from), Ok(to)) = (get(src, len), get(dst, len / 2)) {
                    assert_eq!(from.copy_to_guest_slice(to).unwrap(), len / 2);
                    self.wrote(dst, len / 2);
                }
            }
            Op::Discard(addr, len) => self.discard(addr, len),
            Op::Read(addr, len) => {
                let read = self.mem.read(&mut vec![0; len], GuestAddress(addr)).unwrap_or(0);
                assert_eq!(read, Self::available(addr, len));
            }
            Op::Start(shift) => self.logs.push(Log::start(&self.mem, 1 << shift)),
            Op::Stop(which) if !self.logs.is_empty() => {
                let log = self.logs.swap_remove(which % self.logs.len());
                assert_eq!(log.log.harvest().ranges().collect::<Vec<_>>(), log.expected());
                log.log.stop_tracking();
            }
            Op::Harvest(which, commit) if !self.logs.is_empty() => {
                let count = self.logs.len();
                let log = &mut self.logs[which % count];
                let harvest = log.log.harvest();
                assert_eq!(harvest.ranges().collect::<Vec<_>>(), log.expected());
                assert_eq!(harvest.is_empty(), log.dirty.is_empty());
                if commit {
                    harvest.commit();
                    log.dirty.clear();
                }
            }
            Op::Attach => {
                let shared = Shared::new();
                self.mem.attach(&shared.log).unwrap();
                self.attached.push(shared);
            }
            Op::Detach(which) if !self.attached.is_empty() => {
                let shared = self.attached.swap_remove(which % self.attached.len());
                self.mem.detach(&shared.log);
                shared.check();
            }
            Op::Replace(which) if !self.attached.is_empty() => {
                let (new, count) = (Shared::new(), self.attached.len());
                let old = &mut self.attached[which % count];
                self.mem.replace(&old.log, &new.log).unwrap();
                std::mem::replace(old, new).check();
            }
            Op::Stop(_) | Op::Harvest(..) | Op::Detach(_) | Op::Replace(_) => {}
        }
    }

    /// Whole pages of the host's, counted from where a region begins.
    fn discard(&mut self, addr: u64, len: u64) {
        let is_memory = Self::available(addr, usize::try_from(len).unwrap()) as u64 == len;
        let given_back = self.mem.discard(GuestAddress(addr), len);
        assert_eq!(given_back.is_ok(), is_memory);
        let page = rustix::param::page_size() as u64;
        let (mut done, mut expected) = (0, 0);
        while is_memory && done < len {
            let (region, offset) = Self::place(addr + done).unwrap();
            let piece = (len - done).min(SPANS[region].1 as u64 - offset);
            let (first, end) = (offset.next_multiple_of(page), (offset + piece) / page * page);
            if first < end {
                self.wrote(SPANS[region].0 + first, usize::try_from(end - first).unwrap());
                expected += end - first;
            }
            done += piece;
        }
        assert_eq!(given_back.unwrap_or(0), expected);
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn each_log_has_what_was_written_since_it_began(ops in vec(op(), 1..60)) {
        let mut world = World { mem: memory(&SPANS), logs: vec![], attached: vec![], round: 0 };
        for op in &ops {
            world.play(op);
        }
        while let Some(shared) = world.attached.pop() {
            world.mem.detach(&shared.log);
            shared.check();
        }
        while !world.logs.is_empty() {
            world.play(&Op::Stop(0));
        }
    }
}
