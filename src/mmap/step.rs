use std::{fmt, io};

use rustix::io::Errno;

/// What the kernel is asked for while memory is made, shaped and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The length of the file is looked up: fstat(2), fstatfs(2).
    FileLength,
    /// A memfd is made: `memfd_create(2)`.
    Memfd,
    /// The memfd gets its size: ftruncate(2).
    Resize,
    /// The memfd is sealed: fcntl(2), `F_ADD_SEALS`.
    Seal,
    /// Host addresses are reserved, those of guard pages included: mmap(2) without access.
    Reserve,
    /// The memory is mapped: mmap(2).
    Map,
    /// The NUMA policy is set: mbind(2).
    Bind,
    /// Transparent huge pages are asked for or refused: madvise(2), `MADV_HUGEPAGE`, `MADV_NOHUGEPAGE`.
    HugePages,
    /// The memory is left out of core dumps: madvise(2), `MADV_DONTDUMP`.
    Dump,
    /// The memory is left out of child processes: madvise(2), `MADV_DONTFORK`.
    Fork,
    /// Equal pages may become one: madvise(2), `MADV_MERGEABLE`.
    Merge,
    /// The pages are locked: mlock(2), mlock2(2).
    Lock,
    /// The pages are made: madvise(2), `MADV_POPULATE_WRITE`, `MADV_POPULATE_READ`; or threads for it.
    Prefault,
    /// The protection is changed: mprotect(2).
    Protect,
    /// Pages are given back: madvise(2), `MADV_DONTNEED` or `MADV_REMOVE`; or fallocate(2), `FALLOC_FL_PUNCH_HOLE`.
    Discard,
    /// Pages of a privately mapped file are replaced by zeros: mremap(2), or a write.
    Zero,
}

impl Step {
    /// What to do about what the kernel answered.
    pub(super) fn hint(self, error: &io::Error) -> &'static str {
        let errno = Errno::from_io_error(error);
        match (self, errno) {
            (Self::Memfd, Some(Errno::MFILE | Errno::NFILE)) => " (raise the limit on open files: RLIMIT_NOFILE)",
            (Self::Memfd, Some(Errno::INVAL)) => " (a name has at most 249 bytes, none of them 0)",
            (Self::Memfd, Some(Errno::NODEV | Errno::NOENT | Errno::OPNOTSUPP)) | (Self::Map, Some(Errno::INVAL)) => {
                " (this host has no such memory: see /sys/kernel/mm/hugepages for its huge pages)"
            }
            (Self::Map, Some(Errno::NODEV)) => " (a file of this kind cannot be mapped)",
            (Self::Resize, Some(Errno::FBIG)) => " (raise the limit on file sizes: RLIMIT_FSIZE)",
            (Self::Map, Some(Errno::ACCESS)) => {
                " (a shared mapping needs a file that is open for reading and writing, a read-only one for reading)"
            }
            (Self::Map, Some(Errno::PERM)) => " (the file is sealed or mounted against it)",
            (Self::Reserve | Self::Map, Some(Errno::NOMEM)) => {
                " (out of address space: RLIMIT_AS; of mappings: vm.max_map_count; of memory to promise: \
                 vm.overcommit_memory; or of huge pages: vm.nr_hugepages)"
            }
            (Self::Bind, Some(Errno::PERM)) => " (a seccomp filter or a container's policy forbids mbind)",
            (Self::Bind, Some(Errno::NOSYS)) => " (this kernel has no NUMA support: leave the policy out)",
            (Self::HugePages, Some(Errno::INVAL)) => {
                " (this kernel has no transparent huge pages, or not for this memory)"
            }
            (Self::Merge, Some(Errno::INVAL)) => " (this kernel does not merge pages: CONFIG_KSM)",
            (Self::Lock, Some(Errno::NOMEM | Errno::PERM | Errno::AGAIN)) => {
                " (raise the limit on locked memory, RLIMIT_MEMLOCK, or give CAP_IPC_LOCK)"
            }
            (Self::Prefault, Some(Errno::NOMEM | Errno::FAULT)) => {
                " (the host, its cgroup, or the node that the memory is bound to has not so much memory, or so many huge \
                 pages)"
            }
            (Self::Prefault, Some(Errno::AGAIN)) => {
                " (raise the limit on threads: RLIMIT_NPROC, kernel.threads-max, or pids.max of the cgroup)"
            }
            (Self::Prefault, Some(Errno::HWPOISON)) => " (the hardware has lost a page)",
            (Self::Protect, Some(Errno::NOMEM)) => {
                " (each part that differs from those beside it is a mapping: raise vm.max_map_count)"
            }
            (Self::Protect, Some(Errno::ACCESS)) => " (the file is not open for writing)",
            (Self::Discard, Some(Errno::ACCESS)) => {
                " (shared memory that is not open for writing; or that has no file and is unplugged, before Linux 6.7)"
            }
            (Self::Discard, Some(Errno::OPNOTSUPP)) => " (the file system cannot punch holes)",
            (Self::Discard, Some(Errno::PERM)) => " (the file is sealed against it)",
            (Self::Discard, Some(Errno::INVAL)) => {
                " (private hugetlb pages, and private pages that are locked, need Linux 5.18)"
            }
            (Self::Zero, Some(Errno::FAULT)) => " (a page cannot be written: the file may be shorter than it was)",
            _ => "",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileLength => "looking up the file (fstat)",
            Self::Memfd => "making the memfd (memfd_create)",
            Self::Resize => "sizing the memfd (ftruncate)",
            Self::Seal => "sealing the memfd (F_ADD_SEALS)",
            Self::Reserve => "reserving addresses (mmap)",
            Self::Map => "mapping (mmap)",
            Self::Bind => "setting the NUMA policy (mbind)",
            Self::HugePages => "advising on huge pages (madvise)",
            Self::Dump => "leaving it out of core dumps (MADV_DONTDUMP)",
            Self::Fork => "leaving it out of child processes (MADV_DONTFORK)",
            Self::Merge => "letting equal pages merge (MADV_MERGEABLE)",
            Self::Lock => "locking (mlock)",
            Self::Prefault => "the prefault (MADV_POPULATE)",
            Self::Protect => "changing the protection (mprotect)",
            Self::Discard => "giving back (madvise)",
            Self::Zero => "replacing the file by zeros (mremap)",
        })
    }
}
