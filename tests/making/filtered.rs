//! Each system call made to fail, by a seccomp filter: as a sandbox would, or a kernel that does not know it.

use std::num::NonZeroUsize;

use libc::{MADV_DONTDUMP, MADV_DONTFORK, MADV_HUGEPAGE, MADV_MERGEABLE, MADV_NOHUGEPAGE};
use libc::{MADV_POPULATE_READ, MADV_POPULATE_WRITE};
use memory_model::mmap::{HugePages, Lock, MmapRegion, MmapRegionBuilder, NumaPolicy, Prefault, Protection, Step};
use memory_model::{Bytes, VolatileMemory};
use rustix::fs::SealFlags;

use super::child::{all_well, in_child};
use super::kernel::{leaves_nothing, left_of, mapping_at};
use super::limited::check;
use super::raw::Somebodys;
use super::seccomp::{Announced, Calls, announce, refuse};
use super::{BACKINGS, contents, files_bytes, has_kernel};

/// What is mapped: not all of its last page.
const SIZE: usize = 0x123_4ff0;

/// A call that fails, and what is then said of which step.
struct Case {
    call: libc::c_long,
    calls: Calls,
    errno: i32,
    option: fn(MmapRegionBuilder) -> MmapRegionBuilder,
    step: Step,
    words: &'static str,
}

const fn argument(number: u32, value: i32) -> Calls {
    Calls::With(number, value.unsigned_abs())
}

/// Where new memory replaces the reservation.
const FIXED: Calls = Calls::WithAny(3, (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE).unsigned_abs());

const TWO: Prefault = Prefault::Parallel { threads: NonZeroUsize::MIN.saturating_add(1) };

fn memfd(mapping: MmapRegionBuilder) -> MmapRegionBuilder {
    mapping.memfd("making: filtered")
}

/// A case of a piece of advice.
const fn advice(
    advice: i32,
    errno: i32,
    option: fn(MmapRegionBuilder) -> MmapRegionBuilder,
    step: Step,
    words: &'static str,
) -> Case {
    Case { call: libc::SYS_madvise, calls: argument(2, advice), errno, option, step, words }
}

/// A case of any other call.
const fn call(
    call: libc::c_long,
    calls: Calls,
    errno: i32,
    option: fn(MmapRegionBuilder) -> MmapRegionBuilder,
    step: Step,
    words: &'static str,
) -> Case {
    Case { call, calls, errno, option, step, words }
}

const BIND: fn(MmapRegionBuilder) -> MmapRegionBuilder = |mapping| memfd(mapping).numa(NumaPolicy::Bind(vec![0]));
const NO_THP: &str = "(this kernel has no transparent huge pages, or not for this memory)";
const NO_MEMORY: &str = "(the host, its cgroup, or the node that the memory is bound to has not so much memory";

const CASES: &[Case] = &[
    call(
        libc::SYS_fstatfs,
        Calls::All,
        libc::EIO,
        |mapping| mapping.file(super::file(SIZE)),
        Step::FileLength,
        "(fstat)",
    ),
    call(
        libc::SYS_statx,
        Calls::All,
        libc::EIO,
        |mapping| mapping.file(super::file(SIZE)),
        Step::FileLength,
        "(fstat)",
    ),
    call(libc::SYS_memfd_create, Calls::All, libc::ENOSYS, memfd, Step::Memfd, "making the memfd (memfd_create)"),
    call(libc::SYS_memfd_create, Calls::All, libc::ENFILE, memfd, Step::Memfd, "RLIMIT_NOFILE"),
    call(libc::SYS_ftruncate, Calls::All, libc::ENOSPC, memfd, Step::Resize, "sizing the memfd (ftruncate)"),
    call(libc::SYS_fcntl, argument(1, libc::F_ADD_SEALS), libc::EPERM, memfd, Step::Seal, "sealing the memfd"),
    call(libc::SYS_mmap, FIXED, libc::ENOMEM, memfd, Step::Map, "vm.overcommit_memory"),
    call(libc::SYS_mmap, FIXED, libc::ENOMEM, |mapping| mapping, Step::Map, "vm.max_map_count"),
    call(libc::SYS_mmap, FIXED, libc::EPERM, memfd, Step::Map, "(the file is sealed or mounted against it)"),
    call(
        libc::SYS_mbind,
        Calls::All,
        libc::EPERM,
        BIND,
        Step::Bind,
        "(a seccomp filter or a container's policy forbids mbind)",
    ),
    call(
        libc::SYS_mbind,
        Calls::All,
        libc::ENOSYS,
        BIND,
        Step::Bind,
        "(this kernel has no NUMA support: leave the policy out)",
    ),
    advice(
        MADV_HUGEPAGE,
        libc::EINVAL,
        |mapping| memfd(mapping).huge_pages(HugePages::Transparent),
        Step::HugePages,
        NO_THP,
    ),
    advice(MADV_NOHUGEPAGE, libc::EINVAL, |mapping| mapping.huge_pages(HugePages::Never), Step::HugePages, NO_THP),
    advice(MADV_DONTDUMP, libc::EINVAL, memfd, Step::Dump, "leaving it out of core dumps (MADV_DONTDUMP)"),
    advice(MADV_DONTFORK, libc::ENOSYS, |mapping| memfd(mapping).fork(false), Step::Fork, "(MADV_DONTFORK)"),
    advice(MADV_MERGEABLE, libc::EINVAL, |mapping| memfd(mapping).mergeable(true), Step::Merge, "CONFIG_KSM"),
    advice(
        MADV_POPULATE_WRITE,
        libc::ENOMEM,
        |mapping| mapping.prefault(Prefault::Populate),
        Step::Prefault,
        NO_MEMORY,
    ),
    advice(MADV_POPULATE_READ, libc::ENOMEM, |mapping| memfd(mapping).prefault(TWO), Step::Prefault, NO_MEMORY),
    advice(
        MADV_POPULATE_READ,
        libc::EFAULT,
        |mapping| memfd(mapping).prefault(Prefault::Populate),
        Step::Prefault,
        NO_MEMORY,
    ),
    advice(
        MADV_POPULATE_READ,
        libc::EHWPOISON,
        |mapping| memfd(mapping).prefault(TWO),
        Step::Prefault,
        "(the hardware has lost a page)",
    ),
    call(
        libc::SYS_mlock2,
        Calls::All,
        libc::EAGAIN,
        |mapping| memfd(mapping).lock(Lock::OnFault),
        Step::Lock,
        "CAP_IPC_LOCK",
    ),
    call(libc::SYS_mlock2, Calls::All, libc::EPERM, |mapping| mapping.lock(Lock::Now), Step::Lock, "CAP_IPC_LOCK"),
    // The last step of all.
    call(
        libc::SYS_mlock,
        Calls::All,
        libc::ENOMEM,
        |mapping| memfd(mapping).prefault(Prefault::Populate).lock(Lock::Now),
        Step::Lock,
        "RLIMIT_MEMLOCK",
    ),
];

#[test]
fn each_step_names_itself_and_leaves_nothing() {
    if !has_kernel() {
        return;
    }
    let numbers: Vec<_> = (0..CASES.len()).map(|number| number.to_string()).collect();
    let hows: Vec<_> = numbers.iter().map(String::as_str).collect();
    let ended = in_child!(each_step_names_itself_and_leaves_nothing, &hows, |how| {
        let case = &CASES[how.parse::<usize>().unwrap()];
        let builder = (case.option)(MmapRegion::builder(SIZE));
        if let Err(error) = builder.clone().build() {
            return memory_model_test_support::skip!("host limit: {error}");
        }
        refuse(case.call, case.calls, case.errno);
        let threads = format!("{builder:?}").contains("Parallel");
        // Stacks of threads may be kept, more of them or fewer.
        let make = || builder.clone().build();
        let error = if threads { make().unwrap_err() } else { leaves_nothing(make) };
        check(&error, case.step, SIZE, case.errno, case.words);
        drop(builder);
        assert_eq!(left_of("making: filtered"), (0, 0));
    });
    all_well(&ended);
}

#[test]
fn addresses_that_are_not_to_be_had() {
    if has_kernel() {
        in_child!(addresses_that_are_not_to_be_had, {
            refuse(libc::SYS_mmap, argument(2, libc::PROT_NONE), libc::ENOMEM);
            let error = leaves_nothing(|| memfd(MmapRegion::builder(SIZE)).build());
            let all = SIZE.next_multiple_of(super::page()) + 2 * super::page() + (2 << 20) - super::page();
            check(&error, Step::Reserve, all, libc::ENOMEM, "vm.max_map_count");
        });
    }
}

#[test]
fn threads_that_are_not_to_be_had() {
    if has_kernel() {
        in_child!(threads_that_are_not_to_be_had, {
            let builder = memfd(MmapRegion::builder(SIZE)).prefault(TWO);
            for number in [libc::SYS_clone, libc::SYS_clone3] {
                refuse(number, Calls::All, libc::EAGAIN);
            }
            let error = leaves_nothing(|| builder.clone().build());
            check(&error, Step::Prefault, SIZE, libc::EAGAIN, "(raise the limit on threads: RLIMIT_NPROC,");
        });
    }
}

/// Where memory is to lie, there is nothing for a moment. Whoever comes there first stays there.
#[test]
fn another_threads_mapping_is_not_replaced() {
    if !has_kernel() {
        return;
    }
    in_child!(another_threads_mapping_is_not_replaced, {
        for backing in BACKINGS {
            let (sender, announced) = std::sync::mpsc::channel::<Announced>();
            let builder = backing.builder(SIZE);
            let maker = std::thread::spawn(move || {
                sender.send(announce(libc::SYS_mmap, FIXED)).unwrap();
                builder.build().unwrap()
            });
            let (announced, mut others) = (announced.recv().unwrap(), vec![]);
            for _ in 0..3 {
                announced.next(|start, len| others.push(Somebodys::at(start, len)));
            }
            announced.next(|_, _| {});
            let region = maker.join().unwrap();
            let fill =
                |other: &Somebodys| other.lend_bytes(SIZE).unwrap().as_volatile_slice().fill(7, SIZE, 0).unwrap();
            others.iter().for_each(fill);
            let expected = if backing.file { files_bytes(SIZE) } else { vec![0; SIZE] };
            assert!(contents(&region) == expected, "{}", backing.name);
            drop(region);
            for other in others {
                assert!(contents(&other.lend_bytes(SIZE).unwrap()) == vec![7; SIZE], "{}", backing.name);
            }
        }
    });
}

/// Kernels before 6.3 have no memfds that cannot be made executable.
#[test]
fn an_old_kernel_makes_memfds_too() {
    if has_kernel() {
        in_child!(an_old_kernel_makes_memfds_too, {
            const MFD_NOEXEC_SEAL: u32 = 8;
            refuse(libc::SYS_memfd_create, Calls::WithAny(1, MFD_NOEXEC_SEAL), libc::EINVAL);
            let region = memfd(MmapRegion::builder(SIZE)).build().unwrap();
            let seals = rustix::fs::fcntl_get_seals(region.file_offset().unwrap().file()).unwrap();
            assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
            region.as_volatile_slice().write_obj(1_u8, SIZE - 1).unwrap();
        });
    }
}

#[cfg(feature = "fault-recovery")]
#[test]
fn handlers_that_cannot_be_installed() {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return memory_model_test_support::skip!("no fault recovery on this target");
    }
    if has_kernel() {
        in_child!(handlers_that_cannot_be_installed, {
            refuse(libc::SYS_rt_sigaction, Calls::All, libc::EPERM);
            let error = leaves_nothing(|| memfd(MmapRegion::builder(SIZE)).build());
            assert!(
                matches!(&error, memory_model::mmap::Error::FaultRecovery(why) if why.raw_os_error() == Some(libc::EPERM)),
                "{error}"
            );
            assert!(error.to_string().contains("(do it before a seccomp filter, or do without)"), "{error}");
            assert!(memfd(MmapRegion::builder(SIZE)).fault_recovery(false).build().is_ok());
        });
    }
}

/// What it was before, not the contrary of what was asked for.
#[test]
fn a_protection_that_is_refused_stays_as_it_was() {
    if !has_kernel() {
        return;
    }
    let hows = ["writable", "read-only"];
    let ended = in_child!(a_protection_that_is_refused_stays_as_it_was, &hows, |how| {
        let region = MmapRegion::builder(SIZE).build().unwrap();
        if how == "read-only" {
            region.protect(Protection::ReadOnly).unwrap();
        }
        let start = super::start(&region);
        // The allocator may go on.
        refuse(libc::SYS_mprotect, Calls::With(0, (start & 0xffff_ffff).try_into().unwrap()), libc::EACCES);
        for protection in [Protection::ReadOnly, Protection::ReadWrite, Protection::ReadOnly] {
            let error = region.protect(protection).unwrap_err();
            check(&error, Step::Protect, SIZE, libc::EACCES, "changing the protection (mprotect)");
            assert_eq!(region.is_read_only(), how == "read-only");
            let access = if how == "read-only" { "r--p" } else { "rw-p" };
            assert_eq!(mapping_at(start).unwrap().access, access);
        }
    });
    all_well(&ended);
}
