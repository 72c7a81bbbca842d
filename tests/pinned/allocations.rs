//! What is pinned is accessed, and a queue with pinned rings goes on, without an allocation.

use std::hint::black_box;
use std::sync::atomic::Ordering;

use memory_model::buffers::{PinnedRef, PinnedSlice};
use memory_model::io_memory::Access;
use memory_model::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, IoAddress};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};

#[path = "../counting/mod.rs"]
mod counting;

/// How often it is allocated.
fn allocations(work: impl FnOnce()) -> usize {
    let before = counting::allocations();
    work();
    counting::allocations() - before
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap()
}

#[test]
fn a_view_is_made_and_used_without_an_allocation() {
    let mem = memory();
    // Not left out as it comes to nothing.
    assert_eq!(allocations(|| drop(black_box(Vec::<u8>::with_capacity(black_box(8))))), 1, "it is counted");
    let count = allocations(|| {
        let view = PinnedSlice::new(&mem, IoAddress(8), 0x100, Access::ReadWrite).unwrap();
        let value = view.get_ref::<u32>(8).unwrap();
        value.store(view.read_obj(16).unwrap(), Ordering::Release).unwrap();
        value.clone().load(Ordering::Acquire).unwrap();
        PinnedRef::<u16>::new(&mem, IoAddress(2), Access::Read).unwrap().read().unwrap();
        // Nor is an error.
        drop(PinnedSlice::new(&mem, IoAddress(0x1_fff0), 0x100, Access::Read).unwrap_err());
    });
    assert_eq!(count, 0);
}

/// Of the device's half; also when the map changes, and the rings are pinned again.
#[test]
fn a_pinned_queue_allocates_nothing_once_it_has_had_its_longest_chain() {
    let map = GuestMemoryAtomic::new(memory());
    let mut reader = map.reader();
    let config = QueueConfig::contiguous(IoAddress(0x1000), 16).unwrap();
    let mut queue = Queue::new(config).unwrap();
    let mut driver = DriverQueue::new(&*reader.read(), config).unwrap();
    let buffer: Vec<_> = (0..3).map(|number| Segment { addr: IoAddress(0x1_0000 + number * 64), len: 64 }).collect();
    let mut turn = |queue: &mut Queue| {
        let mem = reader.read();
        let head = driver.add(&*mem, &buffer, &[]).unwrap();
        driver.publish(&*mem).unwrap();
        let count = allocations(|| {
            queue.pin(&*mem);
            queue.disable_notifications(&*mem).unwrap();
            assert_eq!(queue.pop(&*mem).unwrap().unwrap().head(), head);
            queue.add_used(&*mem, head, 0).unwrap();
            queue.enable_notifications(&*mem).unwrap();
            queue.needs_notification(&*mem).unwrap();
        });
        driver.pop_used(&*mem).unwrap().unwrap();
        count
    };
    turn(&mut queue);
    for _ in 0..100 {
        assert_eq!(turn(&mut queue), 0);
    }
    let dimm = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x2_0000), 0x1000)]).unwrap();
    map.insert_region(dimm.arc_regions()[0].clone()).unwrap();
    assert_eq!(turn(&mut queue), 0);
}
