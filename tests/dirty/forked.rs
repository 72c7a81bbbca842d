//! A child process that was forked while another thread was marking: it attaches, detaches and replaces logs.

#![expect(unsafe_code, reason = "forks, and provides memory")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use memory_model::dirty::{LogBitmap, Sink};
use memory_model::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, MmapRegion, VolatileMemory, VolatileSlice, volatile_memory,
};

use crate::ground::{is_emulated, memory};

/// Memory of a log in which the first mark waits, until it is told to go on.
struct Slow {
    memory: MmapRegion,
    wait: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

// SAFETY: as of the memory in it.
unsafe impl VolatileMemory for Slow {
    fn len(&self) -> usize {
        self.memory.len()
    }

    fn get_slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_>, volatile_memory::Error> {
        let first = self.wait.lock().unwrap().take();
        if let Some((is_marking, go_on)) = first {
            is_marking.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.memory.get_slice(offset, count)
    }
}

/// Runs `body` in a child of this very process; panics if it does not end. The child has one thread.
fn fork(body: impl FnOnce() -> bool) {
    // SAFETY: the child calls the library, the allocator and _exit: neither needs another thread of this process.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: has no effect on memory. It ends a child that hangs.
        unsafe { libc::alarm(20) };
        let code = if body() { 42 } else { 1 };
        // SAFETY: ends the child without destructors.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: writes the status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "the child hangs or fails: {status:#x}");
}

#[test]
fn a_child_changes_logs_though_another_thread_was_marking_at_the_fork() {
    if is_emulated() {
        return memory_model_test_support::skip!("emulated: signals and fork are the emulator's");
    }
    let mem = memory(&[(0, 0x10_0000)]);
    let tracker = || mem.find_region(GuestAddress(0)).unwrap().tracker().unwrap();
    let sink = |memory| Sink::Log(Arc::new(LogBitmap::new(Arc::new(memory))));
    let (is_marking, marking) = channel();
    let (go_on, wait) = channel();
    let slow = Slow { memory: MmapRegion::new(0x1000).unwrap(), wait: Mutex::new(Some((is_marking, wait))) };
    let [slow, other] = [sink(slow), Sink::Log(Arc::new(LogBitmap::new(Arc::new(MmapRegion::new(0x1000).unwrap()))))];
    tracker().attach(slow.clone());
    thread::scope(|scope| {
        scope.spawn(|| mem.write_obj(1_u8, GuestAddress(0)).unwrap());
        marking.recv().unwrap();
        fork(|| {
            tracker().replace(&slow, other.clone());
            mem.write_obj(1_u8, GuestAddress(0x1000)).unwrap();
            tracker().detach(&other);
            tracker().attach(other.clone());
            mem.write_obj(1_u8, GuestAddress(0x2000)).is_ok()
        });
        go_on.send(()).unwrap();
    });
    tracker().detach(&slow);
}
