//! A whole session, in the order in which QEMU does it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memory_model_virtio::QueueConfig;
use memory_model_virtio::ring::F_VERSION_1;
use zerocopy::IntoBytes;

use super::daemon::{Daemon, sectors};
use super::queue::GuestQueue;
use super::ram::Ram;
use super::wire::{Answer, Extent, Inflight, Region, VringAddr, VringState, Wire, code};

pub(crate) const F_LOG_ALL: u64 = 1 << 26;
pub(crate) const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Features of the protocol.
pub(crate) mod protocol {
    pub(crate) const MQ: u64 = 1 << 0;
    pub(crate) const LOG_SHMFD: u64 = 1 << 1;
    pub(crate) const REPLY_ACK: u64 = 1 << 3;
    pub(crate) const BACKEND_REQ: u64 = 1 << 5;
    pub(crate) const CONFIG: u64 = 1 << 9;
    pub(crate) const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub(crate) const RESET_DEVICE: u64 = 1 << 13;
    pub(crate) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub(crate) const STATUS: u64 = 1 << 16;
}

/// What a session is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    /// Features that are accepted if they are offered.
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    pub(crate) queues: u32,
    pub(crate) size: u16,
    /// Whether requests under way are recorded.
    pub(crate) inflight: bool,
}

impl Default for Wish {
    /// All that is offered, but for the log; one queue.
    fn default() -> Self {
        Self { features: !F_LOG_ALL, protocol: u64::MAX, queues: 1, size: 64, inflight: false }
    }
}

/// The front-end, and the guest in it.
pub(crate) struct Guest {
    pub(crate) wire: Wire,
    pub(crate) ram: Ram,
    /// What was negotiated.
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    pub(crate) queues: Vec<GuestQueue>,
    pub(crate) inflight: Option<(Inflight, OwnedFd)>,
}

impl Guest {
    /// A connection on which nothing but features was negotiated.
    pub(crate) fn greet(daemon: &Daemon, ram: Ram, wish: Wish) -> Self {
        let wire = Wire::new(daemon.connect());
        let mut guest = Self { wire, ram, features: 0, protocol: 0, queues: vec![], inflight: None };
        let offered = guest.get_u64(code::GET_FEATURES);
        guest.protocol = guest.get_u64(code::GET_PROTOCOL_FEATURES) & wish.protocol;
        assert!(guest.wire.send(code::SET_PROTOCOL_FEATURES, 0, guest.protocol.as_bytes(), &[]));
        guest.must(code::SET_OWNER, &[], &[]);
        if guest.has(protocol::MQ) {
            assert!(guest.get_u64(code::GET_QUEUE_NUM) >= u64::from(wish.queues));
        }
        guest.features = offered & wish.features | F_PROTOCOL_FEATURES | F_VERSION_1;
        guest.must(code::SET_FEATURES, guest.features.as_bytes(), &[]);
        guest
    }

    /// A session with all of its queues at work.
    pub(crate) fn boot(daemon: &Daemon, ram: Ram, wish: Wish) -> Self {
        let mut guest = Self::greet(daemon, ram, wish);
        if wish.inflight {
            guest.get_inflight(wish.queues as u16, wish.size);
        }
        guest.share_memory();
        for index in 0..wish.queues {
            let config = GuestQueue::config(index, wish.size, guest.features);
            guest.add_queue(config);
        }
        guest
    }

    /// A session as most tests need it.
    pub(crate) fn usual(daemon: &Daemon) -> Self {
        Self::boot(daemon, Ram::small(), Wish::default())
    }

    pub(crate) fn has(&self, feature: u64) -> bool {
        self.protocol & feature != 0
    }

    pub(crate) fn get_u64(&self, code: u32) -> u64 {
        self.wire.ask(code, 0, &[], &[]).expect("the connection has ended").get()
    }

    /// Sends a message that is to be accepted.
    #[track_caller]
    pub(crate) fn must(&self, code: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        if self.has(protocol::REPLY_ACK) {
            assert_eq!(self.wire.tell(code, body, fds), Answer::Ack(0), "message {code}");
        } else {
            assert!(self.wire.send(code, 0, body, fds), "message {code}");
        }
    }

    /// Shares all memory: region by region if the daemon can, else as a table.
    #[track_caller]
    pub(crate) fn share_memory(&self) {
        if self.has(protocol::CONFIGURE_MEM_SLOTS) {
            (0..self.ram.regions.len()).for_each(|number| self.add_region(number));
        } else {
            self.set_table();
        }
    }

    #[track_caller]
    pub(crate) fn set_table(&self) {
        let regions: Vec<_> = self.ram.regions.iter().map(|(region, _)| *region).collect();
        let fds: Vec<_> = self.ram.regions.iter().map(|(_, file)| file.as_fd()).collect();
        self.must(code::SET_MEM_TABLE, &table(&regions), &fds);
    }

    #[track_caller]
    pub(crate) fn add_region(&self, number: usize) {
        self.must(code::ADD_MEM_REG, &slot(self.ram.regions[number].0), &[self.ram.file(number)]);
    }

    #[track_caller]
    pub(crate) fn remove_region(&self, number: usize) {
        self.must(code::REM_MEM_REG, &slot(self.ram.regions[number].0), &[]);
    }

    /// Starts the next queue.
    #[track_caller]
    pub(crate) fn add_queue(&mut self, config: QueueConfig) -> &mut GuestQueue {
        let index = self.queues.len() as u32;
        self.queues.push(GuestQueue::new(&self.ram, index, config));
        self.start(index, 0);
        &mut self.queues[index as usize]
    }

    /// Sends all that a queue needs to work, as QEMU does it.
    #[track_caller]
    pub(crate) fn start(&self, index: u32, base: u16) {
        self.place(index, base);
        let queue = &self.queues[index as usize];
        self.set_fd(code::SET_VRING_KICK, index, Some(queue.kick.fd()));
        self.set_fd(code::SET_VRING_CALL, index, Some(queue.call.fd()));
        self.set_fd(code::SET_VRING_ERR, index, Some(queue.err.fd()));
        self.enable(index, true);
    }

    /// Says where a queue is.
    #[track_caller]
    pub(crate) fn place(&self, index: u32, base: u16) {
        let size = self.queues[index as usize].driver.config().size;
        self.state(code::SET_VRING_NUM, index, size.into());
        self.state(code::SET_VRING_BASE, index, base.into());
        self.set_addr(index, None);
    }

    #[track_caller]
    pub(crate) fn state(&self, code: u32, index: u32, num: u32) {
        self.must(code, VringState { index, num }.as_bytes(), &[]);
    }

    #[track_caller]
    pub(crate) fn enable(&self, index: u32, on: bool) {
        self.state(code::SET_VRING_ENABLE, index, on.into());
    }

    /// Says where a queue's parts are; and, if there is a `log`, that writes of the used ring are logged as if they were
    /// at that guest address.
    #[track_caller]
    pub(crate) fn set_addr(&self, index: u32, log: Option<u64>) {
        self.must(code::SET_VRING_ADDR, self.addr(index, log).as_bytes(), &[]);
    }

    pub(crate) fn addr(&self, index: u32, log: Option<u64>) -> VringAddr {
        let config = self.queues[index as usize].driver.config();
        VringAddr {
            index,
            flags: log.is_some().into(),
            desc: self.ram.user(config.desc.0),
            used: self.ram.user(config.used.0),
            avail: self.ram.user(config.avail.0),
            log: log.unwrap_or_default(),
        }
    }

    #[track_caller]
    pub(crate) fn set_fd(&self, code: u32, index: u32, fd: Option<BorrowedFd<'_>>) {
        let none = if fd.is_none() { 1 << 8 } else { 0 };
        let fds: Vec<_> = fd.into_iter().collect();
        self.must(code, (u64::from(index) | none).as_bytes(), &fds);
    }

    /// Stops a queue, and answers where it was.
    #[track_caller]
    pub(crate) fn stop(&self, index: u32) -> u16 {
        let body = VringState { index, num: 0 };
        let reply = self.wire.ask(code::GET_VRING_BASE, 0, body.as_bytes(), &[]).expect("the connection has ended");
        let state: VringState = reply.get();
        assert_eq!(state.index, index);
        state.num.try_into().unwrap()
    }

    /// Says where changed pages are marked. The reply is none of the usual acknowledgements; `None` if the connection
    /// was ended instead.
    pub(crate) fn set_log(&self, file: BorrowedFd<'_>, size: u64, offset: u64) -> Option<Vec<u8>> {
        let reply = self.wire.ask(code::SET_LOG_BASE, 0, Extent { size, offset }.as_bytes(), &[file]);
        reply.map(|reply| reply.body)
    }

    /// Switches logging, while queues are at work.
    #[track_caller]
    pub(crate) fn log_all(&mut self, on: bool) {
        self.features = if on { self.features | F_LOG_ALL } else { self.features & !F_LOG_ALL };
        self.must(code::SET_FEATURES, self.features.as_bytes(), &[]);
    }

    /// Asks for memory that records requests under way, and gives it to the daemon.
    pub(crate) fn get_inflight(&mut self, queues: u16, queue_size: u16) {
        let wish = Inflight { size: 0, offset: 0, queues, queue_size, padding: 0 };
        let mut reply = self.wire.ask(code::GET_INFLIGHT_FD, 0, wish.bytes(), &[]).expect("the connection has ended");
        let inflight: Inflight = reply.get();
        assert_eq!(reply.fds.len(), 1, "{reply:?}");
        self.inflight = reply.fds.pop().map(|fd| (inflight, fd));
        self.set_inflight();
    }

    /// Gives the daemon the memory that records requests under way.
    #[track_caller]
    pub(crate) fn set_inflight(&self) {
        let (inflight, fd) = self.inflight.as_ref().unwrap();
        self.must(code::SET_INFLIGHT_FD, inflight.bytes(), &[fd.as_fd()]);
    }

    /// Checks that the first queue works: reads sectors that nobody writes.
    #[track_caller]
    pub(crate) fn check(&mut self) {
        for (queue, first) in self.queues.iter_mut().zip((3..).step_by(7)) {
            assert!(queue.read_now(&self.ram, first, 5) == sectors(first, 5), "queue {} reads others", queue.index);
        }
    }
}

/// Checks that the daemon serves whoever comes next.
#[track_caller]
pub(crate) fn check_next(daemon: &Daemon) {
    Guest::usual(daemon).check();
}

/// The body of a memory table.
pub(crate) fn table(regions: &[Region]) -> Vec<u8> {
    [[regions.len() as u32, 0].as_bytes(), regions.as_bytes()].concat()
}

/// The body of a message of one region.
pub(crate) fn slot(region: Region) -> Vec<u8> {
    [0_u64.as_bytes(), region.as_bytes()].concat()
}
