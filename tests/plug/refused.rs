//! System calls that fail: by a seccomp filter, as a sandbox's or an older kernel's would; and by a limit of the host.

use std::fs;

use memory_model::mmap::{Error, Step};
use memory_model::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::child::in_child;
use crate::ground::{has_kernel, offset, page, pages, recovers};

const START: u64 = 0xb000_0000;

#[cfg(target_pointer_width = "64")]
mod filtered {
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc;
    use std::thread;

    use memory_model::mmap::{MmapRegionBuilder, Protection};
    use memory_model::{GuestMemoryMmap, GuestMemoryRegion};

    use super::*;
    use crate::ground::part;
    use crate::marks::Marks;
    use crate::seccomp::{Calls, announce, refuse};

    type Kind = fn(MmapRegionBuilder) -> MmapRegionBuilder;
    const PRIVATE: Kind = |mapping| mapping;
    const MEMFD: Kind = |mapping| mapping.memfd("plug: refused");
    const SHARED: Kind = MmapRegionBuilder::shared;

    const fn with(number: u32, value: i32) -> Calls {
        Calls::With(number, value.unsigned_abs())
    }

    fn memory(kind: Kind) -> GuestMemoryMmap {
        let mapping = kind(MmapRegion::builder(8 * page())).build().unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
        region.fill(7, 8 * page(), offset(0)).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    }

    /// The first byte of each page; `None` where it cannot be read.
    fn bytes(region: &GuestRegionMmap) -> [Option<u8>; 8] {
        std::array::from_fn(|number| region.read_obj(offset(number)).ok())
    }

    /// Does something where some calls fail, in a thread of its own: a filter is for good.
    fn where_fails<T: Send>(filters: &[(libc::c_long, Calls, i32)], what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                for &(call, calls, errno) in filters {
                    refuse(call, calls, errno);
                }
                what()
            });
            filtered.join().unwrap()
        })
    }

    fn ready() -> bool {
        recovers() && has_kernel()
    }

    /// Checks which step failed, and that it is said what to do.
    #[track_caller]
    fn check(error: &Error, wanted: Step, words: &str) {
        let Error::Refused { step, .. } = error else { panic!("{error}") };
        assert_eq!(*step, wanted, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn a_protection_that_stays_leaves_all_as_it_was() {
        if !ready() {
            return;
        }
        let all = [(libc::SYS_mprotect, Calls::All, libc::ENOMEM)];
        for kind in [PRIVATE, MEMFD, SHARED] {
            let mem = memory(kind);
            let (region, marks) = (&mem.arc_regions()[0], Marks::of(&mem));
            let error = where_fails(&all, || region.unplug(offset(1), pages(3)).unwrap_err());
            check(&error, Step::Protect, "raise vm.max_map_count");
            assert_eq!((region.unplugged_ranges(), bytes(region)), (vec![], [Some(7); 8]));
            region.unplug(offset(1), pages(3)).unwrap();
            let before = bytes(region);
            marks.take();
            let error = where_fails(&all, || region.plug(offset(0), pages(3)).unwrap_err());
            check(&error, Step::Protect, "raise vm.max_map_count");
            let error = where_fails(&all, || region.protect(Protection::ReadOnly).unwrap_err());
            check(&error, Step::Protect, "raise vm.max_map_count");
            assert!(!region.is_read_only());
            assert_eq!((region.unplugged_ranges(), bytes(region)), (vec![part(1..4)], before));
            assert_eq!(marks.take(), [None]);
        }
    }

    #[test]
    fn of_parts_all_are_changed_or_none() {
        if !ready() {
            return;
        }
        // Parts of three and four pages: the second one's call fails.
        let second = [(libc::SYS_mprotect, with(1, i32::try_from(pages(4)).unwrap()), libc::ENOMEM)];
        for kind in [PRIVATE, MEMFD] {
            let mem = memory(kind);
            let region = &mem.arc_regions()[0];
            region.unplug(offset(3), pages(1)).unwrap();
            let before = bytes(region);
            where_fails(&second, || region.unplug(offset(0), pages(8)).unwrap_err());
            assert_eq!((region.unplugged_ranges(), bytes(region)), (vec![part(3..4)], before));
            where_fails(&second, || region.protect(Protection::ReadOnly).unwrap_err());
            assert!(!region.is_read_only());
            region.write_obj(7_u8, offset(0)).unwrap();
            region.plug(offset(3), pages(1)).unwrap();
            region.unplug(offset(0), pages(3)).unwrap();
            region.unplug(offset(4), pages(4)).unwrap();
            let before = bytes(region);
            where_fails(&second, || region.plug(offset(0), pages(8)).unwrap_err());
            assert_eq!((region.unplugged_ranges(), bytes(region)), (vec![part(0..3), part(4..8)], before));
        }
    }

    #[test]
    fn pages_that_are_not_given_back_stay_plugged() {
        if !ready() {
            return;
        }
        for (kind, advice) in [(PRIVATE, libc::MADV_DONTNEED), (MEMFD, libc::MADV_REMOVE), (SHARED, libc::MADV_REMOVE)]
        {
            let mem = memory(kind);
            let (region, marks) = (&mem.arc_regions()[0], Marks::of(&mem));
            region.unplug(offset(2), pages(1)).unwrap();
            marks.take();
            let fails = [(libc::SYS_madvise, with(2, advice), libc::EPERM)];
            let error = where_fails(&fails, || region.unplug(offset(1), pages(3)).unwrap_err());
            check(&error, Step::Discard, "(the file is sealed against it)");
            assert_eq!(region.unplugged_ranges(), [part(2..3)]);
            assert_eq!(bytes(region)[1..4], [Some(7), None, Some(7)]);
            // It may have been half done.
            assert_eq!(marks.take(), [Some(START + pages(1)..=START + pages(4) - 1)]);
        }
    }

    #[test]
    fn pages_are_given_back_when_nobody_can_make_them_again() {
        if !ready() {
            return;
        }
        for kind in [PRIVATE, MEMFD] {
            let mem = memory(kind);
            let region = &mem.arc_regions()[0];
            thread::scope(|scope| {
                let (sender, receiver) = mpsc::channel();
                let unplugging = scope.spawn(move || {
                    sender.send(announce(libc::SYS_madvise, Calls::All)).unwrap();
                    region.unplug(offset(1), pages(3))
                });
                let announced = receiver.recv().unwrap();
                announced.next(|_, len| {
                    assert_eq!(len as u64, pages(3));
                    region.write_obj(1_u8, offset(2)).unwrap_err();
                });
                // Other calls of the thread fail from now on.
                drop(announced);
                unplugging.join().unwrap().unwrap();
            });
        }
    }

    #[test]
    fn an_older_kernel_has_holes_punched() {
        if !ready() {
            return;
        }
        // Before Linux 6.7 it takes pages that may be written.
        let fails = [(libc::SYS_madvise, with(2, libc::MADV_REMOVE), libc::EACCES)];
        let mem = memory(MEMFD);
        let region = &mem.arc_regions()[0];
        let blocks = || region.file_offset().unwrap().file().metadata().unwrap().blocks() * 512;
        let before = blocks();
        where_fails(&fails, || region.unplug(offset(1), pages(3)).unwrap());
        assert_eq!(before - blocks(), pages(3));
        region.plug(offset(1), pages(1)).unwrap();
        assert_eq!(bytes(region)[..5], [Some(7), Some(0), None, None, Some(7)]);
        let mem = memory(SHARED);
        let region = &mem.arc_regions()[0];
        let error = where_fails(&fails, || region.unplug(offset(1), pages(3)).unwrap_err());
        check(&error, Step::Discard, "or that has no file and is unplugged, before Linux 6.7");
        assert_eq!((region.unplugged_ranges(), bytes(region)), (vec![], [Some(7); 8]));
    }

    #[test]
    fn what_cannot_be_undone_is_said() {
        if !ready() {
            return;
        }
        let mem = memory(PRIVATE);
        let region = &mem.arc_regions()[0];
        region.unplug(offset(3), pages(1)).unwrap();
        let fails = [
            (libc::SYS_madvise, with(2, libc::MADV_DONTNEED), libc::EPERM),
            (libc::SYS_mprotect, Calls::WithAny(2, libc::PROT_WRITE.unsigned_abs()), libc::ENOMEM),
        ];
        let error = where_fails(&fails, || region.unplug(offset(2), pages(3)).unwrap_err());
        let Error::NotUndone { cause, undo, offset: at, len } = &error else { panic!("{error}") };
        check(cause, Step::Discard, "");
        check(undo, Step::Protect, "");
        assert_eq!((*at, *len), (pages(2), pages(3)));
        let (at, len) = (pages(2), pages(3));
        let words =
            format!("; and of the {len:#x} bytes from offset {at:#x} some stay changed: changing the protection");
        assert!(error.to_string().contains(&words), "{error}");
        // It is as it says.
        assert_eq!(region.unplugged_ranges(), [part(2..5)]);
        assert_eq!(bytes(region)[1..6], [Some(7), None, None, None, Some(7)]);
        region.plug(offset(0), pages(8)).unwrap();
        assert_eq!(bytes(region)[1..6], [Some(7), Some(7), Some(0), Some(7), Some(7)]);
    }
}

#[test]
fn more_mappings_than_the_host_has() {
    if !recovers() || !has_kernel() {
        return;
    }
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let limit = limit.trim().parse::<usize>().unwrap_or(usize::MAX);
    if limit > 100_000 || cfg!(target_pointer_width = "32") {
        memory_model_test_support::skip!("host limit: the limit of {limit} mappings is not reached");
        return;
    }
    in_child!(more_mappings_than_the_host_has, {
        let mapping = MmapRegion::new((limit + 10) * page()).unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
        let refused = |number: usize| region.unplug(offset(2 * number), pages(1)).err();
        let (count, error) = (0..limit).find_map(|number| Some((number, refused(number)?))).unwrap();
        assert!(matches!(&error, Error::Refused { step: Step::Protect, .. }), "{error}");
        assert!(error.to_string().contains("raise vm.max_map_count"), "{error}");
        // It is where it ended, and no worse.
        assert!(count > limit / 2 - 1000, "{count}");
        assert_eq!(region.unplugged_ranges().len(), count);
        let readable = |number: usize| region.read_obj::<u8>(offset(number)).is_ok();
        assert!(readable(2 * count) && readable(2 * count + 1) && readable(2 * count - 1) && !readable(2 * count - 2));
        region.plug(offset(1), pages(2 * count - 1)).unwrap();
        assert_eq!(region.unplugged_ranges().len(), 1);
        region.unplug(offset(0), pages(limit)).unwrap();
    });
}
