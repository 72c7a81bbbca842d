//! A guest that writes the rings by hand, well or badly, and numbers that only look random.

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress, Le16};
use memory_model_virtio::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElement};
use memory_model_virtio::{Queue, QueueConfig, QueueError, Segment};

/// Where the tests' queue lies.
pub(crate) const QUEUE: u64 = 0x1000;
/// Where there is memory for whatever a test needs, up to `END`.
pub(crate) const DATA: u64 = 0x2_0000;
/// The end of memory.
pub(crate) const END: u64 = 0x8_0000;

/// Memory from 0 to `END`.
pub(crate) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), END as usize)]).unwrap()
}

pub(crate) fn segment(addr: u64, len: u32) -> Segment {
    Segment { addr: IoAddress(addr), len }
}

/// The queue, with its rings pinned if the tests are of that.
pub(crate) fn pinned(mut queue: Queue, mem: &GuestMemoryMmap) -> Queue {
    if crate::PINNED {
        queue.pin(mem);
    }
    queue
}

/// A queue's memory, as a driver writes it that may do anything.
pub(crate) struct Ring {
    pub(crate) mem: GuestMemoryMmap,
    pub(crate) config: QueueConfig,
    /// `avail.idx`.
    pub(crate) idx: u16,
}

impl Ring {
    /// A queue of 8 entries, with indirect tables and without event index.
    pub(crate) fn new() -> Self {
        Self::with(QueueConfig { indirect: true, ..QueueConfig::contiguous(IoAddress(QUEUE), 8).unwrap() })
    }

    pub(crate) fn with(config: QueueConfig) -> Self {
        Self { mem: memory(), config, idx: 0 }
    }

    pub(crate) fn queue(&self) -> Queue {
        pinned(Queue::new(self.config).unwrap(), &self.mem)
    }

    /// Writes a descriptor of the queue's table.
    pub(crate) fn descriptor(&self, slot: u16, segment: Segment, flags: u16, next: u16) {
        self.table_descriptor(self.config.desc.0, slot, segment, flags, next);
    }

    /// Writes a descriptor of any table.
    pub(crate) fn table_descriptor(&self, table: u64, slot: u16, segment: Segment, flags: u16, next: u16) {
        let (addr, len) = (segment.addr.0.into(), segment.len.into());
        let descriptor = Descriptor { addr, len, flags: flags.into(), next: next.into() };
        self.mem.write_obj(descriptor, GuestAddress(table + 16 * u64::from(slot))).unwrap();
    }

    /// Writes a chain of descriptors in the queue's table, from slot 0 on.
    pub(crate) fn chain(&self, readable: &[Segment], writable: &[Segment]) {
        let all = readable.iter().map(|segment| (segment, 0)).chain(writable.iter().map(|s| (s, DESC_F_WRITE)));
        let last = (readable.len() + writable.len() - 1) as u16;
        for ((segment, direction), slot) in all.zip(0..) {
            let next = if slot == last { 0 } else { DESC_F_NEXT };
            self.descriptor(slot, *segment, direction | next, slot + 1);
        }
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.idx % self.config.size);
        self.mem.write_obj(Le16::new(head), GuestAddress(self.config.avail.0 + 4 + 2 * slot)).unwrap();
        self.set_avail_idx(self.idx.wrapping_add(1));
    }

    pub(crate) fn set_avail_idx(&mut self, idx: u16) {
        self.idx = idx;
        self.set(self.config.avail.0 + 2, idx);
    }

    pub(crate) fn set_avail_flags(&self, flags: u16) {
        self.set(self.config.avail.0, flags);
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        self.set(self.config.avail.0 + 4 + 2 * u64::from(self.config.size), event);
    }

    pub(crate) fn avail_event(&self) -> u16 {
        self.get(self.config.used.0 + 4 + 8 * u64::from(self.config.size))
    }

    pub(crate) fn used_flags(&self) -> u16 {
        self.get(self.config.used.0)
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.get(self.config.used.0 + 2)
    }

    /// The `id` and `len` of a used element.
    pub(crate) fn used(&self, slot: u16) -> (u32, u32) {
        let addr = GuestAddress(self.config.used.0 + 4 + 8 * u64::from(slot));
        let element: UsedElement = self.mem.read_obj(addr).unwrap();
        (element.id.to_native(), element.len.to_native())
    }

    fn set(&self, addr: u64, value: u16) {
        self.mem.write_obj(Le16::new(value), GuestAddress(addr)).unwrap();
    }

    fn get(&self, addr: u64) -> u16 {
        self.mem.read_obj::<Le16>(GuestAddress(addr)).unwrap().to_native()
    }

    /// All bytes of the queue.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        self.mem.read_slice(&mut bytes, GuestAddress(QUEUE)).unwrap();
        bytes
    }

    /// Offers the chain at `head` to a new queue, and answers why that breaks.
    pub(crate) fn break_at(&mut self, head: u16) -> QueueError {
        let mut queue = self.queue();
        self.offer(head);
        let reason = queue.pop(&self.mem).map(drop).unwrap_err();
        assert_eq!(queue.broken().unwrap().to_string(), reason.to_string());
        reason
    }
}

/// The segments of the next chain, readable then writable.
pub(crate) fn pop(queue: &mut Queue, mem: &GuestMemoryMmap) -> (Vec<Segment>, Vec<Segment>) {
    let chain = queue.pop(mem).unwrap().unwrap();
    (chain.readable().segments().to_vec(), chain.writable().segments().to_vec())
}

/// Numbers from a seed (`SplitMix64`).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
