//! Pages that are made before they are touched.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use memory_model::FileOffset;
use memory_model::mmap::{Error, HugePages, MmapRegion, MmapRegionBuilder, Prefault, Protection};

use super::areas::Areas;
use super::child::in_child;
use super::kernel::{leaves_nothing, left_of};
use super::{BACKINGS, contents, files_bytes, has_kernel, is_zero, page};

/// More than one of the chunks that are made at once, and not all of the last page.
const SIZE: usize = (20 << 20) + 5;

fn parallel(threads: usize) -> Prefault {
    Prefault::Parallel { threads: NonZeroUsize::new(threads).unwrap() }
}

fn ways() -> [Prefault; 4] {
    [Prefault::Populate, parallel(1), parallel(2), parallel(8)]
}

fn resident(region: &MmapRegion) -> usize {
    Areas::of(region).bytes("Rss")
}

#[test]
fn all_pages_are_there_and_all_zero() {
    for backing in BACKINGS.iter().filter(|backing| !backing.file) {
        let builder = || backing.builder(SIZE).huge_pages(HugePages::Never);
        if has_kernel() {
            assert_eq!(resident(&builder().build().unwrap()), 0, "{}", backing.name);
        }
        for way in ways() {
            let region = builder().prefault(way).build().unwrap();
            if has_kernel() {
                assert_eq!(resident(&region), SIZE.next_multiple_of(page()), "{}: {way:?}", backing.name);
            }
            // For all who map it, where that is what was asked for.
            if let Some(at) = region.file_offset().filter(|_| backing.shared && has_kernel()) {
                let blocks = at.file().metadata().unwrap().blocks() * 512;
                assert_eq!(blocks, SIZE.next_multiple_of(page()) as u64, "{}: {way:?}", backing.name);
            }
            assert!(is_zero(&region), "{}: {way:?}", backing.name);
        }
    }
}

#[test]
fn a_file_is_read_and_not_changed() {
    const SIZE: usize = (17 << 20) + 5;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&files_bytes(SIZE), 0).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
    file.set_modified(long_ago).unwrap();
    let options: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
        |mapping| mapping,
        MmapRegionBuilder::private,
        |mapping| mapping.protection(Protection::ReadOnly),
        |mapping| mapping.private().protection(Protection::ReadOnly),
    ];
    for (number, option) in options.into_iter().enumerate() {
        for way in [Prefault::Populate, parallel(2)] {
            let at = FileOffset::new(file.try_clone().unwrap(), 0);
            let region = option(MmapRegion::builder(SIZE).file(at)).prefault(way).build().unwrap();
            if has_kernel() {
                assert_eq!(resident(&region), SIZE.next_multiple_of(page()), "{number}: {way:?}");
            }
            assert!(contents(&region) == files_bytes(SIZE), "{number}: {way:?}");
        }
    }
    assert_eq!(file.metadata().unwrap().modified().unwrap(), long_ago);
    let mut bytes = vec![0; SIZE];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == files_bytes(SIZE));
}

/// Holes stay, where a file has holes and is not itself memory.
#[test]
fn a_file_does_not_grow() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let before = file.metadata().unwrap().blocks();
    let is_memory = rustix::fs::fstatfs(&file).is_ok_and(|fs| i128::from(fs.f_type) == i128::from(libc::TMPFS_MAGIC));
    if is_memory {
        return memory_model_test_support::skip!("file system in memory: temporary files have no page cache");
    }
    for way in ways() {
        let at = FileOffset::new(file.try_clone().unwrap(), 0);
        let region = MmapRegion::builder(SIZE).file(at).prefault(way).build().unwrap();
        assert!(is_zero(&region), "{way:?}");
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), before, "{way:?}");
    }
}

#[test]
fn read_only_memory_is_made_too() {
    for way in ways() {
        let region = MmapRegion::builder(SIZE).protection(Protection::ReadOnly).prefault(way).build().unwrap();
        assert!(is_zero(&region), "{way:?}");
        let memfd = MmapRegion::builder(SIZE).memfd("making").protection(Protection::ReadOnly).prefault(way).build();
        if has_kernel() {
            assert_eq!(resident(&memfd.unwrap()), SIZE.next_multiple_of(page()), "{way:?}");
        }
    }
}

/// What the callback is told when it goes on.
fn progress(builder: MmapRegionBuilder) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    let built = builder.build_with_progress(|now| {
        told.push((now.done, now.total));
        ControlFlow::Continue(())
    });
    assert!(built.is_ok(), "{built:?}");
    told
}

#[test]
fn progress_goes_from_nothing_to_all() {
    for size in [1, page(), SIZE] {
        for way in ways() {
            let told = progress(MmapRegion::builder(size).prefault(way));
            assert_eq!((told[0].0, told[told.len() - 1].0), (0, size as u64), "{way:?}");
            assert!(told.iter().all(|now| now.1 == size as u64), "{way:?}: {told:?}");
            assert!(told.windows(2).all(|two| two[0].0 < two[1].0), "{way:?}: {told:?}");
            assert!(told.windows(2).all(|two| two[1].0 - two[0].0 <= 16 << 20), "{way:?}: {told:?}");
        }
    }
    assert_eq!(progress(MmapRegion::builder(SIZE)), [], "nothing is made beforehand");
}

#[test]
fn whoever_breaks_off_gets_nothing_and_nothing_is_left() {
    let name = "making: cancelled";
    for way in ways() {
        // Chunks end at multiples of their size, and so are the same in all.
        let builder = || MmapRegion::builder(SIZE).alignment(16 << 20).memfd(name).prefault(way);
        let calls = progress(builder()).len();
        for stop in 0..calls {
            let mut told = vec![];
            let built = builder().build_with_progress(|now| {
                told.push((now.done, now.total));
                if told.len() > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let error = built.unwrap_err();
            let Error::Cancelled { done, total } = error else { panic!("{error}") };
            // It is not called again, and the error says what it was told last.
            assert_eq!((told.len(), told.last()), (stop + 1, Some(&(done, total))), "{way:?}");
            let message = format!("the prefault was cancelled after {done:#x} of {total:#x} bytes");
            assert_eq!(error.to_string(), message);
            assert_eq!(left_of(name), (0, 0), "{way:?}");
        }
    }
}

#[test]
fn a_cancelled_prefault_leaves_its_process_as_it_was() {
    if has_kernel() {
        in_child!(a_cancelled_prefault_leaves_its_process_as_it_was, {
            for stop in [0, 16 << 20] {
                let error = leaves_nothing(|| {
                    MmapRegion::builder(SIZE).prefault(Prefault::Populate).build_with_progress(|now| {
                        if now.done > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    })
                });
                assert!(matches!(error, Error::Cancelled { .. }), "{error}");
            }
        });
    }
}

/// The threads of this process that are called so.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // One that ends meanwhile has no name.
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|comm| comm.trim() == name).count()
}

/// Waits for as long as that takes; the child has a limit.
fn wait_for_threads(count: usize) {
    while threads("prefault") != count {
        std::thread::yield_now();
    }
}

#[test]
fn a_callback_that_panics_leaves_neither_memory_nor_threads() {
    in_child!(a_callback_that_panics_leaves_neither_memory_nor_threads, {
        for way in ways() {
            for when in [0, 1, SIZE as u64] {
                let name = "making: panicked";
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    MmapRegion::builder(SIZE).memfd(name).prefault(way).build_with_progress(|now| {
                        assert!(now.done < when, "at {}", now.done);
                        ControlFlow::Continue(())
                    })
                }));
                let words = panicked.unwrap_err();
                assert!(words.downcast_ref::<String>().is_some_and(|words| words.starts_with("at ")));
                assert_eq!(left_of(name), (0, 0));
                if has_kernel() {
                    wait_for_threads(0);
                }
            }
        }
    });
}

/// While they wait for the kernel, they are there to be counted.
#[cfg(target_pointer_width = "64")]
#[test]
fn as_many_threads_as_were_asked_for_have_a_name() {
    use super::seccomp::{Calls, announce};
    if !has_kernel() {
        return;
    }
    let ended = in_child!(as_many_threads_as_were_asked_for_have_a_name, &["1", "2", "8"], |count| {
        let count = count.parse().unwrap();
        let (sender, announced) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let populate = Calls::With(2, libc::MADV_POPULATE_WRITE.unsigned_abs());
            sender.send(announce(libc::SYS_madvise, populate)).unwrap();
            drop(MmapRegion::builder(256 << 20).prefault(parallel(count)).build());
        });
        // Nobody lets them go on.
        let _announced = announced.recv().unwrap();
        wait_for_threads(count);
        // No more come.
        (0..10).for_each(|_| std::thread::yield_now());
        assert_eq!(threads("prefault"), count);
    });
    super::child::all_well(&ended);
}

/// As before Linux 5.14, or where it lacks what it needs to make many at once.
#[cfg(target_pointer_width = "64")]
#[test]
fn where_the_kernel_makes_none_at_once_pages_are_touched() {
    use super::seccomp::{Calls, refuse};
    if !has_kernel() {
        return;
    }
    let ended = in_child!(where_the_kernel_makes_none_at_once_pages_are_touched, &["unknown", "lacking"], |how| {
        let errno = if how == "unknown" { libc::EINVAL } else { libc::EAGAIN };
        for advice in [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE] {
            refuse(libc::SYS_madvise, Calls::With(2, advice.unsigned_abs()), errno);
        }
        for backing in BACKINGS {
            const SIZE: usize = (17 << 20) + 5;
            for way in [Prefault::Populate, parallel(2)] {
                let region = backing.builder(SIZE).huge_pages(HugePages::Never).prefault(way).build().unwrap();
                assert_eq!(resident(&region), SIZE.next_multiple_of(page()), "{}", backing.name);
                let expected = if backing.file { files_bytes(SIZE) } else { vec![0; SIZE] };
                assert!(contents(&region) == expected, "{}", backing.name);
            }
        }
    });
    super::child::all_well(&ended);
}
