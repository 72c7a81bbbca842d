//! What is offered, and what each request does.

use memory_model::IoAddress;
use memory_model_virtio::QueueConfig;
use memory_model_virtio::blk::{F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_WRITE_ZEROES, S_OK, S_UNSUPP};
use memory_model_virtio::ring::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use zerocopy::IntoBytes;

use crate::harness::daemon::{Daemon, Place, SECTORS, sectors};
use crate::harness::guest::{F_LOG_ALL, F_PROTOCOL_FEATURES, Guest, Wish, protocol};
use crate::harness::ram::{Ram, segment};
use crate::harness::wire::{Config, code};

/// `VIRTIO_BLK_F_SIZE_MAX`.
const F_SIZE_MAX: u64 = 1 << 1;

const ENGINES: [&[&str]; 2] = [&["--engine", "sync"], &["--engine", "io-uring"]];

fn config_space(guest: &Guest) -> Vec<u8> {
    let ask = Config { offset: 0, size: 60, flags: 0 };
    let body = [ask.as_bytes(), &[0; 60]].concat();
    let reply = guest.wire.ask(code::GET_CONFIG, 0, &body, &[]).unwrap();
    assert_eq!(&reply.body[..12], ask.as_bytes());
    reply.body[12..].to_vec()
}

/// The driver is told of each large read, and not only when all are done.
#[test]
fn large_reads_are_notified_one_by_one() {
    const COUNT: u64 = 20;
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, engine);
        let mut guest =
            Guest::boot(&daemon, Ram::small(), Wish { features: !(F_LOG_ALL | F_EVENT_IDX), ..Wish::default() });
        guest.check();
        let Guest { ram, queues, .. } = &mut guest;
        queues[0].call.take();
        for sector in 0..COUNT {
            let request = queues[0].read(sector, 1).at(&[segment(0xa0_0000, 1 << 20)]);
            queues[0].add(ram, request);
        }
        queues[0].publish(ram);
        queues[0].waits = false;
        assert!(queues[0].wait_for_all(ram).iter().all(|done| done.status == S_OK));
        // When the ring has stopped all is told. The kernel may have several done before it is asked.
        guest.stop(0);
        let count = guest.queues[0].call.take();
        let least = if engine[1] == "sync" { COUNT } else { 1 };
        assert!((least..=COUNT + 1).contains(&count), "{count} notifications of {COUNT} reads by {engine:?}");
    }
}

#[test]
fn what_is_offered_is_what_is_promised() {
    let place = Place::new();
    let usual = F_SEG_MAX | F_SIZE_MAX | F_BLK_SIZE | F_FLUSH | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;
    let usual = usual | F_LOG_ALL | F_PROTOCOL_FEATURES;
    let writes = F_DISCARD | F_WRITE_ZEROES;
    for (options, expected) in [
        (&["--queues", "4"][..], usual | writes | F_MQ),
        (&[], usual | writes),
        (&["--read-only", "--queues", "2"], usual | F_RO | F_MQ),
    ] {
        let daemon = Daemon::start(&place, options);
        let guest = Guest::greet(&daemon, Ram::small(), Wish::default());
        let offered = guest.get_u64(code::GET_FEATURES);
        assert_eq!(offered, expected, "{options:?}: {offered:#x}, not {expected:#x}");
        let expected = protocol::MQ
            | protocol::CONFIG
            | protocol::REPLY_ACK
            | protocol::LOG_SHMFD
            | protocol::CONFIGURE_MEM_SLOTS
            | protocol::INFLIGHT_SHMFD
            | protocol::RESET_DEVICE
            | protocol::BACKEND_REQ;
        let offered = guest.get_u64(code::GET_PROTOCOL_FEATURES);
        assert_eq!(offered, expected, "{offered:#x}, not {expected:#x}");
        assert_eq!(offered & protocol::STATUS, 0);
        assert!(guest.get_u64(code::GET_MAX_MEM_SLOTS) >= 509);
    }
}

#[test]
fn features_of_the_protocol_can_be_left_out() {
    let place = Place::new();
    for (option, feature) in [("mem-slots", protocol::CONFIGURE_MEM_SLOTS), ("inflight", protocol::INFLIGHT_SHMFD)] {
        let daemon = Daemon::start(&place, &["--without", option]);
        let mut guest = Guest::usual(&daemon);
        assert_eq!(guest.get_u64(code::GET_PROTOCOL_FEATURES) & feature, 0);
        guest.check();
    }
}

#[test]
fn the_configuration_tells_the_disk_and_its_queues() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--queues", "3"]);
    let guest = Guest::greet(&daemon, Ram::small(), Wish::default());
    assert_eq!(guest.get_u64(code::GET_QUEUE_NUM), 3);
    let space = config_space(&guest);
    let get = |offset: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&space[offset..offset + len]);
        u64::from_le_bytes(bytes)
    };
    // VIRTIO 1.2, 5.2.4.
    assert_eq!(get(0, 8), SECTORS, "capacity");
    assert!(get(8, 4) >= 4096, "size_max");
    assert!(get(12, 4) >= 64, "seg_max");
    assert_eq!(get(20, 4), 512, "blk_size");
    assert_eq!(get(34, 2), 3, "num_queues");
    assert!([36, 40, 44, 48, 52].iter().all(|&limit| get(limit, 4) > 0), "limits of discarding and zeroing");

    // A part of it, and what is behind its end.
    let ask = |offset, size| Config { offset, size, flags: 0 };
    let body = [ask(20, 4).as_bytes(), &[0; 4]].concat();
    let reply = guest.wire.ask(code::GET_CONFIG, 0, &body, &[]).unwrap();
    assert_eq!(reply.body[12..], [0, 2, 0, 0]);
}

#[test]
fn requests_of_each_kind_do_what_they_say() {
    for engine in ENGINES {
        let place = Place::new();
        let daemon = Daemon::start(&place, engine);
        let Guest { wire, ram, mut queues, .. } = Guest::usual(&daemon);
        let queue = &mut queues[0];
        assert!(queue.read_now(&ram, 0, 1) == sectors(0, 1));
        assert!(queue.read_now(&ram, 1000, 40) == sectors(1000, 40));
        assert!(queue.read_now(&ram, SECTORS - 1, 1) == [0; 512]);

        let data: Vec<u8> = (0..4096_u32).map(|byte| (byte % 251) as u8).collect();
        queue.write_now(&ram, 5000, &data);
        let flush = queue.flush();
        assert_eq!(queue.run(&ram, flush).status, S_OK);
        assert!(place.on_disk(5000, 8) == data);
        assert!(queue.read_now(&ram, 5000, 8) == data);
        assert!(place.on_disk(4999, 1) == [0; 512]);

        let zeroes = queue.write_zeroes(10, 3);
        assert_eq!(queue.run(&ram, zeroes).status, S_OK);
        assert!(queue.read_now(&ram, 9, 5) == [sectors(9, 1), vec![0; 3 * 512], sectors(13, 1)].concat());
        let discard = queue.discard(2048, 1024);
        assert_eq!(queue.run(&ram, discard).status, S_OK);

        let get_id = queue.get_id();
        let done = queue.run(&ram, get_id);
        assert_eq!((done.status, done.len), (S_OK, 21));

        // What cannot be done is said to be so, and the queue goes on.
        let beyond = queue.read(SECTORS, 1);
        assert_ne!(queue.run(&ram, beyond).status, S_OK);
        let mut unknown = queue.flush();
        unknown.kind = 77;
        assert_eq!(queue.run(&ram, unknown).status, S_UNSUPP);
        assert!(queue.read_now(&ram, 2, 1) == sectors(2, 1));
        drop(wire);
    }
}

#[test]
fn large_requests_in_many_pieces_are_whole() {
    for engine in ENGINES {
        let place = Place::new();
        let daemon = Daemon::start(&place, engine);
        let Guest { wire, ram, mut queues, .. } = Guest::usual(&daemon);
        let queue = &mut queues[0];
        // Pieces of all sizes, and not aligned.
        let pieces: Vec<_> =
            (0..61).map(|piece| segment(0xa0_0001 + piece * 0x1800, 512 * (1 + piece as u32 % 9))).collect();
        let count: u64 = pieces.iter().map(|piece| u64::from(piece.len) / 512).sum();
        let request = queue.read(100, 1).at(&pieces);
        for request in [request.clone(), request.indirect()] {
            for piece in &pieces {
                ram.set(piece.addr.0, &vec![0; piece.len as usize]);
            }
            let done = queue.run(&ram, request);
            assert_eq!((done.status, u64::from(done.len)), (S_OK, count * 512 + 1));
            assert!(ram.gather(&pieces) == sectors(100, count));
        }
        let data: Vec<u8> = sectors(100, count).iter().map(|byte| !byte).collect();
        let mut rest = &data[..];
        for piece in &pieces {
            let (now, later) = rest.split_at(piece.len as usize);
            ram.set(piece.addr.0, now);
            rest = later;
        }
        let request = queue.write(&ram, 9000, &[]).at(&pieces);
        assert_eq!(queue.run(&ram, request.indirect()).status, S_OK);
        assert!(place.on_disk(9000, count) == data);
        drop(wire);
    }
}

/// Without and with event index, and the features of either engine; so many requests at a time that indices wrap.
#[test]
fn queues_work_with_and_without_features_and_all_at_a_time() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, &[engine, &["--queues", "4"]].concat());
        for without in [0, F_EVENT_IDX, F_INDIRECT_DESC, F_EVENT_IDX | F_INDIRECT_DESC] {
            let features = Wish::default().features & !without;
            let guest = Guest::boot(&daemon, Ram::small(), Wish { features, queues: 4, size: 32, ..Wish::default() });
            let Guest { wire, ram, queues, features, .. } = guest;
            assert_eq!(features & without, 0);
            std::thread::scope(|scope| {
                for mut queue in queues {
                    let ram = &ram;
                    scope.spawn(move || {
                        for round in 0..40 {
                            for number in 0..10 {
                                let first = (u64::from(queue.index) * 1000 + round * 10 + number) % 4000;
                                let request = queue.read(first, 1 + number % 3);
                                let table = without & F_INDIRECT_DESC == 0 && number % 2 == 0;
                                queue.add(ram, if table { request.indirect() } else { request });
                            }
                            queue.publish(ram);
                            for done in queue.wait_for_all(ram) {
                                assert_eq!(done.status, S_OK);
                                let count = u64::from(done.len) / 512;
                                assert!(ram.gather(done.request.data()) == sectors(done.request.sector, count));
                            }
                        }
                    });
                }
            });
            drop(wire);
        }
    }
}

#[test]
fn queues_of_all_sizes_work() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    for size in [4, 8, 128, 256] {
        let mut guest = Guest::boot(&daemon, Ram::small(), Wish { size, ..Wish::default() });
        (0..3).for_each(|_| guest.check());
    }
}

/// As much as a daemon can have: 64 queues, and 509 regions.
#[test]
fn all_queues_and_regions_that_there_can_be() {
    let place = Place::new();
    for engine in ENGINES {
        let daemon = Daemon::start(&place, &[engine, &["--queues", "64"]].concat());
        let mut ranges = vec![(0, 80 << 20)];
        ranges.extend((1..509).map(|number| (number << 32, 0x1000)));
        let mut guest = Guest::greet(&daemon, Ram::new(&ranges), Wish { queues: 64, ..Wish::default() });
        guest.share_memory();
        for index in 0..64 {
            let config = QueueConfig::contiguous(IoAddress(index * 0x1000), 16).unwrap();
            guest.add_queue(config.with_features(guest.features));
        }
        (0..3).for_each(|_| guest.check());
        assert_eq!((0..64).map(|index| guest.stop(index)).sum::<u16>(), 3 * 64);
    }
}
