//! What becomes of [turns](super::grace) in a child process, where only the thread exists that has called fork(2).

#[cfg(all(target_os = "linux", not(any(miri, loom))))]
mod system {
    #![expect(unsafe_code, reason = "pthread_atfork(3) has no safe wrapper")]

    use std::sync::atomic::{AtomicBool, Ordering};

    /// Has children end the turns of threads that they do not have. To be called before a turn begins for the first time.
    pub(in super::super) fn prepare() {
        static IS_PREPARED: AtomicBool = AtomicBool::new(false);
        // Twice, by threads that come here at once, does no harm; and no thread goes on before it is done.
        if !IS_PREPARED.load(Ordering::Acquire) {
            // SAFETY: the handler takes no lock, allocates nothing, and cannot unwind. The C library forgets it if it unloads
            // the library that this is in.
            let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            // Else (no memory) the next thread tries again.
            IS_PREPARED.store(result == 0, Ordering::Release);
        }
    }

    unsafe extern "C" fn in_child() {
        super::super::grace::end_turns_of_others();
    }
}

#[cfg(not(all(target_os = "linux", not(any(miri, loom)))))]
mod system {
    pub(in super::super) fn prepare() {}
}

pub(super) use system::prepare;
