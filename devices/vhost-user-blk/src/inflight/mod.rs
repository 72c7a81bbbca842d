//! Which requests are under way, in memory that outlives the process: vhost-user's inflight region, of split rings.
//!
//! | type              | what it is                                                                              |
//! |-------------------|-----------------------------------------------------------------------------------------|
//! | [`Inflight`]      | the region: made here, kept by the front-end, and given to the next process             |
//! | [`QueueInflight`] | one queue's part of it, a [`Journal`](memory_model_virtio::blk::Journal) of its requests |
//! | [`Part`]          | the bytes of such a part                                                                |
//! | [`Error`]         | why a region cannot be used                                                             |
//!
//! A request that was taken and not used when the process died is nowhere else: the driver may have overwritten its entry in the
//! available ring. So it is written down when it is taken, and crossed out when it is in the used ring. From wherever it was cut
//! off between the two, [`QueueInflight::recover`] finds what is to be done again: no request is lost, and none is done
//! again that the driver has seen in the used ring.
//!
//! The region is shared with the front-end, which may write to it, or truncate it, at any time: nothing that is read from it is
//! believed before it is checked, and an access that fails is an error.
//!
//! Source: the vhost-user specification (QEMU, `docs/interop/vhost-user.rst`), "Inflight I/O tracking". Numbers in the region
//! are in the host's byte order, as those of the protocol are; the parts are aligned to 64 bytes, as other back-ends have them.

mod error;
mod layout;
mod queue;
mod region;

pub use error::Error;
pub use queue::QueueInflight;
pub use region::{Inflight, MAX_QUEUES, Part};
