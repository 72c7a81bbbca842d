//! virtio-queue, on vm-memory, as a contender.

use std::hint::black_box;

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::GuestMemoryMmap;

/// Takes all chains that are available, looks at their descriptors, and puts them into the used ring.
///
/// Compiled here for the reason that vm-memory is (see [`run_vm_memory`](crate::run_vm_memory)): it took from 147 to 327 ns
/// for a chain of three where it was compiled with the benchmark, and 130 here.
#[inline(never)]
pub fn run_virtio_queue(queue: &mut Queue, mem: &GuestMemoryMmap) -> Result<(), Error> {
    while let Some(chain) = queue.pop_descriptor_chain(mem) {
        let head = chain.head_index();
        for descriptor in chain {
            black_box((descriptor.addr(), descriptor.len()));
        }
        queue.add_used(mem, head, 0)?;
    }
    Ok(())
}
