#![expect(unsafe_code, reason = "mincore(2), for which rustix has no wrapper")]

use std::io;

use crate::VolatileSlice;

/// How many pages are asked for at a time: the kernel wants a byte for each.
const CHUNK_PAGES: usize = 16 << 10;

/// Bytes of the whole pages that hold a mapping's bytes, of those in memory, be it the page cache.
pub(super) fn resident(mapping: VolatileSlice<'_>) -> io::Result<u64> {
    let page_size = rustix::param::page_size();
    // Only memory that somebody else has mapped may begin inside a page.
    let inside = mapping.as_ptr().addr() % page_size;
    let pages = (inside + mapping.len()).div_ceil(page_size);
    let mut states = vec![0u8; pages.min(CHUNK_PAGES)];
    let mut resident = 0;
    for first in (0..pages).step_by(CHUNK_PAGES) {
        let states = &mut states[..(pages - first).min(CHUNK_PAGES)];
        let start = mapping.as_ptr().wrapping_sub(inside).wrapping_add(first * page_size);
        // SAFETY: the kernel reads no byte of the pages asked for, at whichever address they are. It writes one byte for
        // each of them, which is as many as `states` has.
        let answer = unsafe { libc::mincore(start.cast(), states.len() * page_size, states.as_mut_ptr()) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        // The other bits are reserved.
        resident += states.iter().filter(|&&state| state & 1 != 0).count() * page_size;
    }
    Ok(resident as u64)
}
