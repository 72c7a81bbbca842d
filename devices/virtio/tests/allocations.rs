//! A disk allocates nothing for a request, once its queue has seen one as long: from the available ring to the used ring.

use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, IoAddress};
use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_OK, T_FLUSH, T_GET_ID, T_IN, T_OUT};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};

#[path = "../../../tests/counting/mod.rs"]
mod counting;

/// Where the guest's data, header, status and table are: data in two regions.
const FAR: u64 = 0x10_0000;
const HEADER: u64 = 0x1_0000;
const STATUS: u64 = 0x1_0010;
const TABLE: u64 = 0x1_0100;

fn segment(addr: u64, len: u32) -> Segment {
    Segment { addr: IoAddress(addr), len }
}

#[test]
fn a_request_of_16_fragments_needs_none() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4_0000), (GuestAddress(FAR), 0x4_0000)]).unwrap();
    let log = mem.start_tracking(4096).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let mut disk = Block::new(file, BlockOptions::default()).unwrap();
    disk.set_features(disk.features());
    let config = QueueConfig::contiguous(IoAddress(0x1000), 64).unwrap().with_features(disk.features());
    let (mut driver, mut queue) = (DriverQueue::new(&mem, config).unwrap(), Queue::new(config).unwrap());
    let mut request = |kind: u32, pieces: u64, indirect: bool| {
        // None follows another.
        let data: Vec<_> = (0..pieces).map(|n| segment((n % 2) * FAR + 0x2_0000 + n * 0x800, 0x400)).collect();
        let (header, status) = ([segment(HEADER, 16)], [segment(STATUS, 1)]);
        let (readable, writable) = match kind {
            T_OUT => ([&header[..], &data].concat(), status.to_vec()),
            _ => (header.to_vec(), [&data[..], &status].concat()),
        };
        mem.write_obj(RequestHeader::new(kind, 8), GuestAddress(HEADER)).unwrap();
        if indirect {
            driver.add_indirect(&mem, IoAddress(TABLE), &readable, &writable).unwrap();
        } else {
            driver.add(&mem, &readable, &writable).unwrap();
        }
        driver.publish(&mem).unwrap();
        let before = counting::allocations();
        let processed = disk.process_queue(&mut queue, &mem).unwrap();
        let allocated = counting::allocations() - before;
        assert_eq!((processed.requests, processed.failed), (1, 0));
        assert_eq!(mem.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), S_OK);
        driver.pop_used(&mem).unwrap().unwrap();
        allocated
    };
    assert!(request(T_IN, 17, false) > 0, "or nothing is counted");
    for indirect in [false, true] {
        for kind in [T_IN, T_OUT] {
            for pieces in [1, 2, 15, 16] {
                assert_eq!(request(kind, pieces, indirect), 0, "type {kind}, {pieces} pieces");
            }
        }
        assert_eq!((request(T_GET_ID, 1, indirect), request(T_FLUSH, 0, indirect)), (0, 0));
    }
    log.stop_tracking();
}
