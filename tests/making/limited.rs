//! Steps that fail by a limit of the process, or by a file that cannot be mapped.

use std::fs::{self, File};
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;

use libc::{RLIMIT_AS, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_NPROC};
use memory_model::FileOffset;
use memory_model::mmap::{Error, Lock, MmapRegion, MmapRegionBuilder, Prefault, Protection, Step};

use super::child::in_child;
use super::kernel::{leaves_nothing, mapped_bytes};
use super::raw::{self, Limit, set_limit};
use super::{BACKINGS, has_kernel, page};

/// What is mapped: not all of its last page.
const SIZE: usize = 0x12_34f0;

/// Checks what was refused, why, and that this is said, and what to do.
#[track_caller]
pub(crate) fn check(error: &Error, wanted: Step, of: usize, errno: i32, words: &str) {
    let Error::Refused { step, size, source } = error else { panic!("{error}") };
    assert_eq!((*step, *size, source.raw_os_error()), (wanted, of, Some(errno)), "{error}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("{step} of {of:#x} bytes failed: ")), "{message}");
    assert!(message.contains(words), "{message}");
}

/// Makes it under a limit, which is taken back: what counts what is left needs files, too.
fn under(limit: Limit, to: usize, builder: MmapRegionBuilder) -> Result<MmapRegion, Error> {
    let before = set_limit(limit, to);
    let made = builder.build();
    set_limit(limit, before);
    made
}

#[test]
fn too_few_addresses() {
    if !has_kernel() {
        return;
    }
    in_child!(too_few_addresses, {
        for backing in BACKINGS {
            let builder = backing.builder(SIZE).alignment(256 << 20);
            // The stack and the heap, too.
            let limit = mapped_bytes() + (64 << 20);
            let error = leaves_nothing(|| under(RLIMIT_AS, limit, builder.clone()));
            // With its guards, and with what alignment takes.
            let all = SIZE.next_multiple_of(page()) + page() + (256 << 20);
            check(&error, Step::Reserve, all, libc::ENOMEM, "(out of address space: RLIMIT_AS; ");
        }
    });
}

#[test]
fn too_many_open_files() {
    if !has_kernel() {
        return;
    }
    in_child!(too_many_open_files, {
        let builder = MmapRegion::builder(SIZE).memfd("making");
        // The first free number is past the limit.
        let error = leaves_nothing(|| under(RLIMIT_NOFILE, 1, builder.clone()));
        check(&error, Step::Memfd, SIZE, libc::EMFILE, "(raise the limit on open files: RLIMIT_NOFILE)");
    });
}

#[test]
fn a_file_that_is_too_large() {
    if !has_kernel() {
        return;
    }
    in_child!(a_file_that_is_too_large, {
        raw::ignore(libc::SIGXFSZ);
        let builder = MmapRegion::builder(SIZE).memfd("making");
        let error = leaves_nothing(|| under(RLIMIT_FSIZE, SIZE - 1, builder.clone()));
        check(&error, Step::Resize, SIZE, libc::EFBIG, "(raise the limit on file sizes: RLIMIT_FSIZE)");
        assert!(under(RLIMIT_FSIZE, SIZE, builder).is_ok());
    });
}

#[test]
fn too_much_to_lock() {
    if !has_kernel() {
        return;
    }
    in_child!(too_much_to_lock, {
        raw::drop_ipc_lock();
        for (limit, errno) in [(0, libc::EPERM), (SIZE / 2, libc::ENOMEM)] {
            for (lock, backing) in [Lock::Now, Lock::OnFault].iter().flat_map(|lock| BACKINGS.map(|kind| (lock, kind)))
            {
                let builder = backing.builder(SIZE).lock(*lock);
                let error = leaves_nothing(|| under(RLIMIT_MEMLOCK, limit, builder.clone()));
                check(&error, Step::Lock, SIZE, errno, "(raise the limit on locked memory, RLIMIT_MEMLOCK, or give");
            }
        }
        // And no page is made for nothing.
        let builder = MmapRegion::builder(SIZE).lock(Lock::Now).prefault(Prefault::Populate);
        let before = set_limit(RLIMIT_MEMLOCK, 0);
        let made = builder.build_with_progress(|_| panic!("it goes on"));
        set_limit(RLIMIT_MEMLOCK, before);
        assert!(made.is_err());
    });
}

#[test]
fn too_many_threads() {
    if !has_kernel() {
        return;
    }
    in_child!(too_many_threads, {
        if !raw::is_root() {
            return memory_model_test_support::skip!("no root: cannot become a user without processes");
        }
        let prefault = Prefault::Parallel { threads: NonZeroUsize::new(8).unwrap() };
        raw::become_nobody();
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        for more in [0, 3] {
            let builder = MmapRegion::builder(40 << 20).memfd("making: threads").prefault(prefault);
            let error = under(RLIMIT_NPROC, threads + more, builder).unwrap_err();
            let words = "(raise the limit on threads: RLIMIT_NPROC, kernel.threads-max, or pids.max of the cgroup)";
            check(&error, Step::Prefault, 40 << 20, libc::EAGAIN, words);
            // Stacks of threads may be kept, the memory is not.
            assert_eq!(super::kernel::left_of("making: threads"), (0, 0));
        }
    });
}

#[test]
fn names_that_are_none() {
    let names = ["n".repeat(250), "making\0".to_owned()];
    if has_kernel() {
        in_child!(names_that_are_none, {
            for name in &names {
                let error = leaves_nothing(|| MmapRegion::builder(SIZE).memfd(name).build());
                check(&error, Step::Memfd, SIZE, libc::EINVAL, "(a name has at most 249 bytes, none of them 0)");
            }
            assert!(MmapRegion::builder(SIZE).memfd("n".repeat(249)).build().is_ok());
            assert!(MmapRegion::builder(SIZE).memfd("").build().is_ok());
        });
    }
}

/// A file of a size, opened so.
fn opened(options: impl Fn(&mut fs::OpenOptions)) -> FileOffset {
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(SIZE as u64).unwrap();
    let mut how = File::options();
    options(&mut how);
    FileOffset::new(how.open(path.path()).unwrap(), 0)
}

#[test]
fn files_that_cannot_be_mapped_so() {
    if !has_kernel() {
        return;
    }
    in_child!(files_that_cannot_be_mapped_so, {
        let access =
            "(a shared mapping needs a file that is open for reading and writing, a read-only one for reading)";
        let fails = |file: &FileOffset, option: fn(MmapRegionBuilder) -> MmapRegionBuilder, errno, words: &str| {
            let error = leaves_nothing(|| option(MmapRegion::builder(SIZE).file(file.clone())).build());
            check(&error, Step::Map, SIZE, errno, words);
        };
        let to_read = |mapping: MmapRegionBuilder| mapping.protection(Protection::ReadOnly);
        let read_only = opened(|how| _ = how.read(true));
        fails(&read_only, |mapping| mapping, libc::EACCES, access);
        let write_only = opened(|how| _ = how.write(true));
        for option in [|mapping| mapping, MmapRegionBuilder::private, to_read] {
            fails(&write_only, option, libc::EACCES, access);
        }
        // A file that is only a place in the file system.
        let path_only = opened(|how| _ = how.read(true).custom_flags(libc::O_PATH));
        fails(&path_only, |mapping| mapping, libc::EBADF, "Bad file descriptor");
        let unmappable = "(a file of this kind cannot be mapped)";
        let directory = FileOffset::new(File::open("/proc/self").unwrap(), 0);
        fails(&directory, MmapRegionBuilder::private, libc::ENODEV, unmappable);
        // Sealed against writing.
        let memfd =
            MmapRegion::builder(SIZE).memfd("making").seals(memory_model::mmap::Seals::empty()).build().unwrap();
        let sealed = memfd.file_offset().unwrap().clone();
        drop(memfd);
        rustix::fs::fcntl_add_seals(sealed.file(), rustix::fs::SealFlags::WRITE).unwrap();
        fails(&sealed, |mapping| mapping, libc::EPERM, "(the file is sealed or mounted against it)");
    });
}

#[test]
fn a_file_that_is_not_open() {
    if !has_kernel() {
        return;
    }
    in_child!(a_file_that_is_not_open, {
        let file = FileOffset::new(raw::closed(tempfile::tempfile().unwrap()), 0);
        let builder = ManuallyDrop::new(MmapRegion::builder(SIZE).file(file));
        let error = (*builder).clone().build().unwrap_err();
        check(&error, Step::FileLength, SIZE, libc::EBADF, "Bad file descriptor");
    });
}

#[test]
fn a_file_that_is_too_short() {
    in_child!(a_file_that_is_too_short, {
        let file = super::file(SIZE - 1);
        let make = || MmapRegion::builder(SIZE).file(file.clone()).build();
        let error = if has_kernel() { leaves_nothing(make) } else { make().unwrap_err() };
        assert!(matches!(error, Error::PastEndOfFile { start: 0, size: SIZE, .. }), "{error}");
    });
}

/// What comes before the kernel is asked leaves nothing, either.
#[cfg(feature = "fault-recovery")]
#[test]
fn handlers_that_are_missing() {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    in_child!(handlers_that_are_missing, {
        let builder = MmapRegion::builder(SIZE).fault_recovery(false);
        let region = builder.clone().build().unwrap();
        assert!(!memory_model::fault_recovery::is_installed());
        let make = || builder.clone().protection(Protection::ReadOnly).build();
        let error = if has_kernel() { leaves_nothing(make) } else { make().unwrap_err() };
        assert!(matches!(error, Error::NoRecovery), "{error}");
        assert!(matches!(region.protect(Protection::ReadOnly), Err(Error::NoRecovery)));
        assert!(!region.is_read_only());
    });
}
