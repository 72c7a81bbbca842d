#![expect(unsafe_code, reason = "mbind(2) has no safe wrapper")]

use std::io;
use std::ptr::NonNull;

use super::{Error, MmapRegion, Step};

/// The nodes that a kernel can be built for: `CONFIG_NODES_SHIFT` is at most 10.
pub(super) const MAX_NODES: u32 = 1024;

/// On which of the host's NUMA nodes pages are made: mbind(2).
///
/// Each node has memory, and the process may use it (cpuset(7)): the kernel would leave out any other node without an
/// error, so it is refused here ([`Error::UnusableNode`]). The kernel itself is asked: this needs neither /sys nor /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NumaPolicy {
    /// On these, and if they have no memory left, not at all.
    Bind(Vec<u32>),
    /// On this one as long as it has memory.
    Preferred(u32),
    /// In turn on each of these.
    Interleave(Vec<u32>),
}

impl NumaPolicy {
    fn nodes(&self) -> &[u32] {
        match self {
            Self::Bind(nodes) | Self::Interleave(nodes) => nodes,
            Self::Preferred(node) => std::slice::from_ref(node),
        }
    }

    fn mode(&self) -> libc::c_int {
        match self {
            Self::Bind(_) => libc::MPOL_BIND,
            Self::Preferred(_) => libc::MPOL_PREFERRED,
            Self::Interleave(_) => libc::MPOL_INTERLEAVE,
        }
    }

    /// Refuses a policy of `size` bytes without a node, and one with a node that the kernel would leave out.
    pub(super) fn check(&self, size: usize) -> Result<(), Error> {
        if self.nodes().is_empty() {
            return Err(Error::NoNode);
        }
        if let Some(&node) = self.nodes().iter().find(|&&node| node >= MAX_NODES) {
            return Err(Error::Node(node));
        }
        // A page that is never touched, as a policy of a file's would remain.
        let page = MmapRegion::builder(1);
        #[cfg(feature = "fault-recovery")]
        let page = page.fault_recovery(false);
        let page = page.build()?;
        let refused = |source| Error::Refused { step: Step::Bind, size, source };
        self.nodes().iter().try_for_each(|&node| match Self::Bind(vec![node]).apply(page.start, page.size) {
            // The kernel drops what it cannot use from a set of nodes, and refuses a set of none.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(Error::UnusableNode(node)),
            result => result.map_err(refused),
        })
    }

    /// The nodes as a set of bits.
    fn mask(&self) -> [libc::c_ulong; MAX_NODES as usize / libc::c_ulong::BITS as usize] {
        let mut mask = [0; MAX_NODES as usize / libc::c_ulong::BITS as usize];
        for &node in self.nodes() {
            if let Some(word) = mask.get_mut((node / libc::c_ulong::BITS) as usize) {
                *word |= 1 << (node % libc::c_ulong::BITS);
            }
        }
        mask
    }

    /// Sets the policy of whole pages. Pages that exist stay where they are.
    pub(super) fn apply(&self, start: NonNull<u8>, len: usize) -> io::Result<()> {
        let mask = self.mask();
        // The kernel reads one bit less than it is told of (mm/mempolicy.c, `get_nodes`).
        let bits = libc::c_ulong::from(MAX_NODES) + 1;
        // SAFETY: the kernel reads `bits - 1` bits of `mask`, which are all that it has, and no memory of this process is
        // changed: a policy says only where pages come from.
        let result =
            unsafe { libc::syscall(libc::SYS_mbind, start.as_ptr(), len, self.mode(), mask.as_ptr(), bits, 0_u32) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
