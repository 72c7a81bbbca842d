//! VIRTIO 1.2, 2.7.7 and 2.7.10: who is told of what; and that indices wrap without a wake-up being lost.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use memory_model::{GuestMemoryMmap, IoAddress};
use memory_model_virtio::ring::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY};
use memory_model_virtio::{DriverQueue, Queue, QueueConfig};

use crate::common::{DATA, QUEUE, Random, Ring, memory, pinned, segment};

fn config(size: u16, event_idx: bool) -> QueueConfig {
    QueueConfig { event_idx, ..QueueConfig::contiguous(IoAddress(QUEUE), size).unwrap() }
}

/// Uses `count` buffers, and answers whether the driver is to be told.
fn use_buffers(queue: &mut Queue, ring: &mut Ring, count: u32) -> bool {
    for _ in 0..count {
        ring.offer(0);
        queue.pop(&ring.mem).unwrap().unwrap();
        queue.add_used(&ring.mem, 0, 0).unwrap();
    }
    queue.needs_notification(&ring.mem).unwrap()
}

fn ring(event_idx: bool) -> Ring {
    let ring = Ring::with(config(4, event_idx));
    ring.chain(&[segment(DATA, 1)], &[]);
    ring
}

/// 2.7.7.2, without the feature: "The device MUST ignore the used_event value. If flags is 1, the device SHOULD NOT send a
/// notification. If flags is 0, the device MUST send a notification."
#[test]
fn without_event_idx_the_drivers_flag_decides() {
    let mut ring = ring(false);
    let mut queue = ring.queue();
    ring.set_used_event(1000);
    assert!(use_buffers(&mut queue, &mut ring, 1));
    ring.set_avail_flags(AVAIL_F_NO_INTERRUPT);
    ring.set_used_event(1);
    assert!(!use_buffers(&mut queue, &mut ring, 1));
    ring.set_avail_flags(0);
    assert!(use_buffers(&mut queue, &mut ring, 3));
    assert!(!queue.needs_notification(&ring.mem).unwrap(), "nothing was used since");
}

/// 2.7.7.2, with the feature: "The device MUST ignore the lower bit of flags. If the idx field in the used ring (which
/// determined where that descriptor index was placed) was equal to used_event, the device MUST send a notification.
/// Otherwise the device SHOULD NOT send a notification."
#[test]
fn with_event_idx_the_entry_of_that_index_decides() {
    for flags in [0, AVAIL_F_NO_INTERRUPT] {
        let mut ring = ring(true);
        let mut queue = ring.queue();
        ring.set_avail_flags(flags);
        ring.set_used_event(2);
        let told = [(); 5].map(|()| use_buffers(&mut queue, &mut ring, 1));
        assert_eq!(told, [false, false, true, false, false]);
        // Of a batch, any entry: those of index 5, 6 and 7; then 8, 9 and 10.
        for (event, expected) in [(4, false), (5, true), (6, true), (7, true), (8, false)] {
            let mut queue = pinned(Queue::resume(ring.config, 5, 5).unwrap(), &ring.mem);
            queue.needs_notification(&ring.mem).unwrap();
            ring.set_avail_idx(5);
            ring.set_used_event(event);
            assert_eq!(use_buffers(&mut queue, &mut ring, 3), expected, "used_event {event}");
        }
    }
}

/// 2.7.7.2: "if used_event is 0, then a device using VIRTIO_F_EVENT_IDX would send a used buffer notification to the
/// driver after the first buffer is used (and again after the 65536th buffer, etc)." The first again has index 0.
#[test]
fn used_event_comes_round_after_65536_buffers() {
    let mut ring = ring(true);
    let mut queue = ring.queue();
    let told: Vec<_> = (0..=2 * 65536).filter(|_| use_buffers(&mut queue, &mut ring, 1)).collect();
    assert_eq!(told, [0, 65536, 2 * 65536]);
}

/// A batch of as many buffers as there are indices has the one that the driver waits for, whichever it is.
#[test]
fn a_batch_may_go_round() {
    for event in [0, 1, 7, 65535] {
        let mut ring = ring(true);
        let mut queue = ring.queue();
        ring.set_used_event(event);
        assert!(use_buffers(&mut queue, &mut ring, 65536));
        assert!(use_buffers(&mut queue, &mut ring, 65536 + 1));
        assert_eq!(use_buffers(&mut queue, &mut ring, 65535), event != 0, "all indices but 0");
    }
}

#[test]
fn after_a_resume_the_driver_is_told_once_too_often_rather_than_never() {
    for event_idx in [false, true] {
        let ring = ring(event_idx);
        ring.set_used_event(100);
        let mut queue = pinned(Queue::resume(ring.config, 5, 5).unwrap(), &ring.mem);
        assert!(queue.needs_notification(&ring.mem).unwrap());
        assert!(!queue.needs_notification(&ring.mem).unwrap());
    }
}

/// 2.7.10.2, without the feature: "The device MUST set flags to 0 or 1. The device MAY set flags to 1 to advise the driver
/// that notifications are not needed."
#[test]
fn without_event_idx_the_devices_flag_is_set_and_cleared() {
    let ring = ring(false);
    let mut queue = ring.queue();
    queue.disable_notifications(&ring.mem).unwrap();
    assert_eq!((ring.used_flags(), ring.avail_event()), (USED_F_NO_NOTIFY, 0));
    assert!(!queue.enable_notifications(&ring.mem).unwrap());
    assert_eq!((ring.used_flags(), ring.avail_event()), (0, 0));
}

/// 2.7.10.2, with the feature: "The device MUST set flags to 0. The device MAY use avail_event to advise the driver that
/// notifications are unnecessary until the driver writes entry with an index specified by avail_event".
#[test]
fn with_event_idx_avail_event_names_the_next_entry() {
    let mut ring = ring(true);
    let mut queue = ring.queue();
    for next in 0..10 {
        queue.disable_notifications(&ring.mem).unwrap();
        assert!(!queue.enable_notifications(&ring.mem).unwrap());
        assert_eq!((ring.used_flags(), ring.avail_event()), (0, next));
        use_buffers(&mut queue, &mut ring, 1);
    }
}

/// What came before the driver saw that it should notify: it does not, so the device has to look.
#[test]
fn enabling_notifications_looks_again() {
    for event_idx in [false, true] {
        let mut ring = ring(event_idx);
        let mut queue = ring.queue();
        queue.disable_notifications(&ring.mem).unwrap();
        assert!(queue.pop(&ring.mem).unwrap().is_none());
        ring.offer(0);
        assert!(queue.enable_notifications(&ring.mem).unwrap());
        queue.pop(&ring.mem).unwrap().unwrap();
        assert!(!queue.enable_notifications(&ring.mem).unwrap());
    }
}

/// A guest and a device that only do something when told; whoever is not told, waits for ever.
struct World {
    mem: GuestMemoryMmap,
    driver: DriverQueue,
    queue: Queue,
    random: Random,
    made: u32,
    done: u32,
    tell_device: bool,
    tell_driver: bool,
}

impl World {
    /// The guest makes some buffers available.
    fn make(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.driver.free() == 0 {
                break;
            }
            self.driver.add(&self.mem, &[segment(DATA, 1)], &[]).unwrap();
            self.made += 1;
        }
        self.tell_device |= self.driver.publish(&self.mem).unwrap();
    }

    /// The guest takes back what was used.
    fn take(&mut self) {
        loop {
            self.driver.disable_notifications(&self.mem).unwrap();
            while self.driver.pop_used(&self.mem).unwrap().is_some() {
                self.done += 1;
            }
            let wait_for = self.random.below(u64::from(self.driver.in_flight()) + 1) as u16;
            if !self.driver.enable_notifications(&self.mem, wait_for).unwrap() {
                return;
            }
        }
    }

    /// What the guest may do between any two steps of the device.
    fn meanwhile(&mut self) {
        if self.random.once_in(3) {
            self.make();
        }
        if std::mem::take(&mut self.tell_driver) {
            self.take();
        }
    }

    /// The device.
    fn process(&mut self) {
        loop {
            self.queue.disable_notifications(&self.mem).unwrap();
            self.meanwhile();
            while let Some(chain) = self.queue.pop(&self.mem).unwrap() {
                let head = chain.head();
                self.meanwhile();
                self.queue.add_used(&self.mem, head, 0).unwrap();
                if self.random.once_in(2) {
                    self.tell_driver |= self.queue.needs_notification(&self.mem).unwrap();
                }
            }
            self.meanwhile();
            if !self.queue.enable_notifications(&self.mem).unwrap() {
                break;
            }
        }
        self.meanwhile();
        self.tell_driver |= self.queue.needs_notification(&self.mem).unwrap();
    }
}

/// More than 65,536 * 2 requests through a small queue: both indices wrap, and nobody waits for ever.
#[test]
fn no_wake_up_is_lost_while_the_indices_wrap() {
    for (size, event_idx) in [(1, true), (4, false), (4, true)] {
        let (mem, config) = (memory(), config(size, event_idx));
        let driver = DriverQueue::new(&mem, config).unwrap();
        let queue = pinned(Queue::new(config).unwrap(), &mem);
        let random = Random(u64::from(size));
        let mut world = World { mem, driver, queue, random, made: 0, done: 0, tell_device: false, tell_driver: false };
        while world.done < 2 * 65536 + 1000 {
            world.make();
            if std::mem::take(&mut world.tell_device) {
                world.process();
            }
            if std::mem::take(&mut world.tell_driver) {
                world.take();
            }
            let stuck = world.driver.free() == 0 && !world.tell_device && !world.tell_driver;
            assert!(!stuck, "size {size}, event_idx {event_idx}: all waiting after {} requests", world.done);
        }
        assert_eq!(world.made - world.done, u32::from(world.driver.in_flight()));
    }
}

/// An event that one thread waits for, and another sets.
#[derive(Default)]
struct Event(Mutex<bool>, Condvar);

impl Event {
    fn set(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    /// Waits, for much longer than anything takes here: after that, a wake-up was lost.
    fn wait(&self, who: &str) {
        let limit = Duration::from_secs(60);
        let (mut set, timeout) = self.1.wait_timeout_while(self.0.lock().unwrap(), limit, |set| !*set).unwrap();
        assert!(!timeout.timed_out(), "the {who} was not woken");
        *set = false;
    }
}

/// The same with a thread on each side, so that the fences matter.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const REQUESTS: u32 = 2 * 65536 + 1000;
    for event_idx in [false, true] {
        let (mem, config) = (memory(), config(4, event_idx));
        let mut driver = DriverQueue::new(&mem, config).unwrap();
        let mut queue = pinned(Queue::new(config).unwrap(), &mem);
        let (to_device, to_driver) = (Arc::new(Event::default()), Arc::new(Event::default()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut done = 0;
                while done < REQUESTS {
                    to_device.wait("device");
                    loop {
                        queue.disable_notifications(&mem).unwrap();
                        while let Some(chain) = queue.pop(&mem).unwrap() {
                            let head = chain.head();
                            queue.add_used(&mem, head, 0).unwrap();
                            done += 1;
                        }
                        if !queue.enable_notifications(&mem).unwrap() {
                            break;
                        }
                    }
                    if queue.needs_notification(&mem).unwrap() {
                        to_driver.set();
                    }
                }
            });
            let (mut made, mut done) = (0, 0);
            while done < REQUESTS {
                while driver.free() > 0 && made < REQUESTS {
                    driver.add(&mem, &[segment(DATA, 1)], &[]).unwrap();
                    made += 1;
                }
                if driver.publish(&mem).unwrap() {
                    to_device.set();
                }
                let before = done;
                while driver.pop_used(&mem).unwrap().is_some() {
                    done += 1;
                }
                if done == before && !driver.enable_notifications(&mem, 1).unwrap() {
                    to_driver.wait("driver");
                }
            }
        });
    }
}
