use std::sync::atomic::Ordering;

use memory_model::buffers::{GuestBuffers, PinnedSlice};
use memory_model::guest_memory::Error;
use memory_model::io_memory::{Access, Fragment};
use memory_model::{AtomicAccess, Bytes, GuestAddress, GuestMemoryMmap, IoAddress, IoMemory};
use memory_model_virtio::blk::{Block, BlockOptions};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};

use crate::ground::{AT, Count, LEN, SIZE, START, access_all, ends, use_device};

/// How a translation is wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// Fragments without bytes, for ever.
    Empty,
    /// The right one, and then such for ever.
    EmptyAfter,
    /// One fragment of another length.
    One(Count),
    /// Nothing.
    Nothing,
    /// The right fragment, for ever.
    Again,
    /// One byte after the other, for ever.
    Bytes,
    /// Errors, for ever.
    Errors,
}

const WRONG: [Wrong; 10] = [
    Wrong::Empty,
    Wrong::EmptyAfter,
    Wrong::One(Count::Zero),
    Wrong::One(Count::Shorter),
    Wrong::One(Count::Longer),
    Wrong::One(Count::Most),
    Wrong::Nothing,
    Wrong::Again,
    Wrong::Bytes,
    Wrong::Errors,
];

struct Iommu {
    mem: GuestMemoryMmap,
    wrong: Wrong,
}

impl Iommu {
    fn new(wrong: Wrong) -> Self {
        Self { mem: GuestMemoryMmap::from_ranges(&[(GuestAddress(START), LEN)]).unwrap(), wrong }
    }
}

/// One to one: what is broken is the translation.
impl Bytes<IoAddress> for Iommu {
    type E = Error;
    fn write(&self, buf: &[u8], addr: IoAddress) -> Result<usize, Error> {
        self.mem.write(buf, addr)
    }
    fn read(&self, buf: &mut [u8], addr: IoAddress) -> Result<usize, Error> {
        self.mem.read(buf, addr)
    }
    fn load<T: AtomicAccess>(&self, addr: IoAddress, order: Ordering) -> Result<T, Error> {
        self.mem.load(addr, order)
    }
    fn store<T: AtomicAccess>(&self, val: T, addr: IoAddress, order: Ordering) -> Result<(), Error> {
        self.mem.store(val, addr, order)
    }
}

impl IoMemory for Iommu {
    type Physical = GuestMemoryMmap;
    fn physical(&self) -> &GuestMemoryMmap {
        &self.mem
    }
    fn translate(&self, addr: IoAddress, len: usize, _: Access) -> impl Iterator<Item = Result<Fragment, Error>> {
        let wrong = self.wrong;
        let mut next = 0;
        std::iter::from_fn(move || {
            let (first, number) = (next == 0, next);
            next += 1;
            let fragment = |len| Some(Ok(Fragment { addr: GuestAddress(addr.0), len }));
            match wrong {
                Wrong::EmptyAfter if first => fragment(len),
                Wrong::Empty | Wrong::EmptyAfter => fragment(0),
                Wrong::One(count) if first => fragment(count.of(len)),
                Wrong::One(_) | Wrong::Nothing => None,
                Wrong::Again => fragment(len),
                Wrong::Bytes => Some(Ok(Fragment { addr: GuestAddress(addr.0.wrapping_add(number)), len: 1 })),
                Wrong::Errors => Some(Err(Error::InvalidGuestAddress(GuestAddress(addr.0)))),
            }
        })
    }
}

#[test]
fn a_translation_of_another_length_is_an_error() {
    for wrong in WRONG {
        ends(format!("{wrong:?}"), move || {
            let mem = Iommu::new(wrong);
            let ranges = [(IoAddress(AT.0), SIZE)];
            assert!(GuestBuffers::new(&mem, ranges, Access::Write).is_err(), "new, {wrong:?}");
            assert!(GuestBuffers::owned(&mem, ranges, Access::Write).is_err(), "owned, {wrong:?}");
            assert!(PinnedSlice::new(&mem, IoAddress(AT.0), SIZE, Access::Read).is_err(), "pinned, {wrong:?}");
            assert!(mem.io_slices(IoAddress(AT.0), SIZE, Access::Read).last().unwrap().is_err(), "slices, {wrong:?}");
            // No bytes need no translation.
            let none = GuestBuffers::new(&mem, [(IoAddress(u64::MAX), 0)], Access::Write).unwrap();
            assert!(none.is_empty() && mem.io_slices(IoAddress(0), 0, Access::Read).next().is_none());
            assert!(PinnedSlice::new(&mem, IoAddress(u64::MAX), 0, Access::Read).unwrap().is_empty());
        });
    }
}

#[test]
fn everything_ends_over_a_wrong_translation() {
    for wrong in WRONG {
        ends(format!("{wrong:?}"), move || {
            let mem = Iommu::new(wrong);
            for addr in [AT.0, START, START + LEN as u64 - 1, 0, u64::MAX] {
                access_all(&mem, IoAddress(addr));
                use_device(&mem, IoAddress(addr));
            }
        });
    }
}

/// A disk's requests go through `Reader`, `Writer` and their buffers: to the driver they fail.
#[test]
fn a_disk_ends_over_a_wrong_translation() {
    for wrong in WRONG {
        ends(format!("{wrong:?}"), move || {
            let mem = &Iommu::new(wrong);
            let file = tempfile::tempfile().unwrap();
            file.set_len(0x1000).unwrap();
            let disk = Block::new(file, BlockOptions::default()).unwrap();
            let config = QueueConfig::contiguous(IoAddress(START), 16).unwrap();
            let (mut driver, mut queue) = (DriverQueue::new(mem, config).unwrap(), Queue::new(config).unwrap());
            let segment = |at, len| Segment { addr: IoAddress(START + at), len };
            driver.add(mem, &[segment(0x3000, 16)], &[segment(0x4000, 512), segment(0x3010, 1)]).unwrap();
            driver.publish(mem).unwrap();
            mem.write_obj(0xff_u8, IoAddress(START + 0x3010)).unwrap();
            assert_eq!(disk.process_queue(&mut queue, mem).unwrap().requests, 1);
            assert_ne!(mem.read_obj::<u8>(IoAddress(START + 0x3010)).unwrap(), 0xff, "a status");
        });
    }
}
