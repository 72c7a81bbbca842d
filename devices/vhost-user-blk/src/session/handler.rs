//! The messages of a front-end, one by one: vhost-user, "Front-end message types".
//!
//! A message that changes what a ring sees returns, and so is acknowledged, when every running ring uses the new state:
//!
//! | message                                    | how a running ring comes to use the new state                           |
//! |--------------------------------------------|-------------------------------------------------------------------------|
//! | memory tables and regions                  | its thread takes the new map between two batches, and confirms that     |
//! | a table that replaces regions              | its thread ends, and another is started                                 |
//! | addresses, kick, enable                    | its thread ends, and another is started; not if nothing has changed     |
//! | log, features (`LOG_ALL`)                  | a region's tracker and the ring's log are switched, also for what is under way |
//! | call, error                                | what was told by the old event is told by the new one again             |
//! | other features, inflight region            | not at all: they are for rings that are started later                   |
//!
//! The wait for a thread ends when its batch does, or its transfer from the image. A thread that an event of the front-end's
//! blocks is freed. A message that asks for no reply takes the same time: the reply to any later message confirms it, too.

use std::fs::File;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::memory::MAX_SLOTS;
use super::refusal::Refusal;
use super::{MAX_RING_SIZE, Session};
use crate::inflight::Inflight;
use crate::ring::{Addresses, Ring};

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// "No longer used"; it stops all rings.
    fn reset_owner(&mut self) -> Result<()> {
        self.rings.iter_mut().for_each(Ring::stop);
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.rings.iter_mut().for_each(Ring::reset);
        self.update_log()?;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered_features())
    }

    /// Logging is switched at once; all else is for rings that are started later.
    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.offered_features();
        if unknown != 0 {
            return Err(Refusal::Features { what: "feature", bits: unknown }.into());
        }
        if features != self.features {
            let disk = self.device.disk(features).map_err(|error| Refusal::Fatal(error.to_string()))?;
            self.disk = disk.into();
        }
        self.features = features;
        self.update_log()?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.device.protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let offered = self.device.protocol_features();
        let unknown = features & !offered.bits();
        if unknown != 0 {
            return Err(Refusal::Features { what: "protocol feature", bits: unknown }.into());
        }
        self.protocol_features = VhostUserProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // No more than a message has, as the framing has checked.
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.disk.read_config(offset.into(), &mut bytes);
        Ok(bytes)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Refusal::Unsupported("to have its configuration space written").into())
    }

    fn set_mem_table(
        &mut self,
        ctx: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let table = self.memory.prepare(ctx, files, self.marked.as_ref())?;
        let removed = if table.replaces {
            self.paused(|session| session.memory.replace(table))?
        } else {
            self.memory.replace(table)?
        };
        self.refresh_rings();
        removed.wait();
        tracing::info!(regions = ctx.len(), "the memory table is set");
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.memory.add(region, fd, self.marked.as_ref())?;
        self.refresh_rings();
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let removed = self.memory.remove(region)?;
        self.refresh_rings();
        removed.wait();
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let ring = self.stopped_ring(index, "size")?;
        match u16::try_from(num) {
            Ok(size) if size.is_power_of_two() && size <= MAX_RING_SIZE => ring.size = size,
            _ => return Err(Refusal::RingSize { index, size: num, max: MAX_RING_SIZE }.into()),
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let addresses = Addresses { desc: descriptor, avail: available, used };
        let _lease = self.device.image.hold();
        let is_logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        let ring = self.ring(index)?;
        let (old, was_running) = (ring.addresses, ring.is_running());
        let old_log = ring.log().set_used(is_logged.then_some(log));
        if old != Some(addresses) {
            ring.pause();
            ring.addresses = Some(addresses);
        }
        let outcome = self.start_if_ready(index);
        if outcome.is_err() && was_running {
            let ring = self.ring(index)?;
            ring.addresses = old;
            ring.log().set_used(old_log);
            self.start_if_ready(index)?;
        }
        Ok(outcome?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let ring = self.stopped_ring(index, "base")?;
        ring.base = u16::try_from(base).ok().ok_or(Refusal::RingBase { index, base })?;
        Ok(())
    }

    /// Stops the ring, when all that is under way is answered.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        ring.stop();
        tracing::info!(ring = index, base = ring.base, "the ring is stopped");
        Ok(VhostUserVringState::new(index, ring.base.into()))
    }

    /// Starts the ring. Without the protocol's features it is enabled by that, too.
    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = u32::from(index);
        let _lease = self.device.image.hold();
        let has_enable = self.features & PROTOCOL_FEATURES != 0;
        let ring = self.ring(index)?;
        ring.set_kick(fd).map_err(event_refused(index, "its kick"))?;
        ring.enabled |= !has_enable;
        Ok(self.start_if_ready(index)?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = u32::from(index);
        Ok(self.ring(index)?.set_call(fd).map_err(event_refused(index, "its call"))?)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = u32::from(index);
        Ok(self.ring(index)?.set_error(fd).map_err(event_refused(index, "its error event"))?)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let ring = self.ring(index)?;
        ring.enabled = enable;
        if !enable {
            ring.pause();
        }
        Ok(self.start_if_ready(index)?)
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.channel = Some(backend);
    }

    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let count = u16::try_from(self.rings.len()).unwrap_or(u16::MAX);
        if inflight.num_queues > count || inflight.queue_size > MAX_RING_SIZE {
            return Err(Refusal::Unsupported("to have so many rings, or so large ones").into());
        }
        let (inflight, description, file) =
            Inflight::create(inflight.num_queues, inflight.queue_size).map_err(Refusal::from)?;
        self.inflight = Some(inflight);
        Ok((description, file))
    }

    /// For rings that are started later.
    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        let count = u16::try_from(self.rings.len()).unwrap_or(u16::MAX);
        let inflight = Inflight::open(inflight, file, count, MAX_RING_SIZE).map_err(Refusal::from)?;
        self.inflight = Some(inflight);
        Ok(())
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        self.set_log(log.mmap_size, log.mmap_offset, file)?;
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Refusal::Unsupported("graphics").into())
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Refusal::Unsupported("shared objects").into())
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Refusal::Unsupported("to transfer its state").into())
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Refusal::Unsupported("to transfer its state").into())
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Refusal::Unsupported("shared memory of its own").into())
    }
}

/// `VHOST_USER_F_PROTOCOL_FEATURES`: rings are enabled by a message of their own.
const PROTOCOL_FEATURES: u64 = 1 << 30;

fn event_refused(index: u32, what: &'static str) -> impl FnOnce(std::io::Error) -> Refusal {
    move |source| Refusal::RingSystem { index, what, source }
}
