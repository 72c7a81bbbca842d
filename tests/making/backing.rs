//! What memory is made of, and who sees what is written to it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use memory_model::mmap::{MmapRegion, Seals};
use memory_model::{Bytes, VolatileMemory};
use rustix::fs::SealFlags;

use super::areas::Areas;
use super::kernel::{link, link_of, mapping_at, mapping_of};
use super::{BACKINGS, contents, file, files_bytes, has_kernel, page, raw, start};

fn made_of(region: &MmapRegion) -> &File {
    region.file_offset().unwrap().file()
}

#[test]
fn a_memfd_has_its_name_and_its_size() {
    let name = "making: a guest's";
    let region = MmapRegion::builder(5 * page() - 5).memfd(name).build().unwrap();
    let at = region.file_offset().unwrap();
    assert_eq!((at.start(), at.file().metadata().unwrap().len()), (0, 5 * page() as u64 - 5));
    if has_kernel() {
        assert_eq!(link_of(at.file()), link(name));
        let mapping = mapping_of(name);
        assert_eq!((mapping.range, mapping.access.as_str()), (start(&region)..start(&region) + 5 * page(), "rw-s"));
    }
}

/// Nobody who is executed gets the guest's memory, and nobody executes it.
#[test]
fn a_memfd_closes_on_exec_and_is_not_executable() {
    let region = MmapRegion::new(page()).unwrap();
    assert!(region.file_offset().is_none());
    let region = MmapRegion::builder(page()).memfd("making").build().unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", made_of(&region).as_raw_fd())).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert_ne!(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC, 0, "{flags}");
    // Since Linux 6.3.
    let seals = rustix::fs::fcntl_get_seals(made_of(&region)).unwrap();
    if seals.contains(SealFlags::from_bits_retain(0x20)) {
        assert_eq!(made_of(&region).metadata().unwrap().permissions().mode() & 0o111, 0);
    } else {
        memory_model_test_support::skip!("old kernel: no seal against execution");
    }
}

#[test]
fn each_build_makes_a_memfd() {
    let builder = MmapRegion::builder(page()).memfd("making");
    let (one, two) = (builder.clone().build().unwrap(), builder.build().unwrap());
    one.as_volatile_slice().fill(1, page(), 0).unwrap();
    assert_eq!(contents(&two), vec![0; page()]);
    let number = |region| made_of(region).metadata().unwrap().ino();
    assert_ne!(number(&one), number(&two));
}

/// The seals of a memfd, but for the one against execution, which it gets by itself.
pub(crate) fn seals(file: &File) -> SealFlags {
    rustix::fs::fcntl_get_seals(file).unwrap() - SealFlags::from_bits_retain(0x20)
}

#[test]
fn a_memfd_has_the_seals_that_were_asked_for_and_no_others() {
    let of_each = [(Seals::SHRINK, SealFlags::SHRINK), (Seals::GROW, SealFlags::GROW), (Seals::SEAL, SealFlags::SEAL)];
    for bits in 0..8 {
        let asked = Seals::from_bits(bits).unwrap();
        let region = MmapRegion::builder(3 * page()).memfd("making").seals(asked).build().unwrap();
        let file = made_of(&region);
        let wanted = of_each.iter().filter(|(seal, _)| asked.contains(*seal)).map(|(_, flag)| *flag).collect();
        assert_eq!(seals(file), wanted, "{asked:?}");
        // And what they do.
        let refused =
            |answer: std::io::Result<()>| answer.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
        let size = 3 * page() as u64;
        assert_eq!(refused(file.set_len(size + 1)), asked.contains(Seals::GROW), "{asked:?}");
        assert_eq!(refused(file.set_len(size - 1)), asked.contains(Seals::SHRINK), "{asked:?}");
        let sealed = rustix::fs::fcntl_add_seals(file, SealFlags::FUTURE_WRITE);
        assert_eq!(refused(sealed.map_err(Into::into)), asked.contains(Seals::SEAL), "{asked:?}");
    }
    let usual = MmapRegion::builder(page()).memfd("making").build().unwrap();
    assert_eq!(seals(made_of(&usual)), SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
}

#[test]
fn a_memfd_of_somebody_else_is_not_sealed() {
    let memfd = MmapRegion::builder(page()).memfd("making").seals(Seals::empty()).build().unwrap();
    let at = memfd.file_offset().unwrap().clone();
    let region = MmapRegion::builder(page()).file(at).seals(Seals::all()).build().unwrap();
    assert_eq!(seals(made_of(&region)), SealFlags::empty());
}

#[test]
fn who_shares_memory_sees_what_is_written() {
    for backing in BACKINGS {
        let size = 2 * page();
        let region = backing.builder(size).build().unwrap();
        let before = if backing.file { files_bytes(size) } else { vec![0; size] };
        assert_eq!(contents(&region), before, "{}", backing.name);
        region.as_volatile_slice().write_slice(b"written", 100).unwrap();
        if let Some(at) = region.file_offset() {
            let mut in_file = vec![0; size];
            at.file().read_exact_at(&mut in_file, 0).unwrap();
            let seen = if backing.shared { contents(&region) } else { before };
            assert_eq!(in_file, seen, "{}", backing.name);
            // And who maps the same file privately has a copy of its own.
            let copy = MmapRegion::builder(size).file(at.clone()).private().build().unwrap();
            assert_eq!(contents(&copy), seen, "{}", backing.name);
            copy.as_volatile_slice().write_slice(b"copied", 100).unwrap();
            assert_eq!(&contents(&region)[100..107], b"written", "{}", backing.name);
        }
        // A child's writes are seen, or not.
        let slice = region.as_volatile_slice();
        let child = raw::in_fork(|| u8::from(slice.write_obj(7_u8, 5).is_err()));
        assert_eq!(child, 0, "{}", backing.name);
        assert_eq!(contents(&region)[5] == 7, backing.shared, "{}", backing.name);
        if has_kernel() {
            assert_eq!(Areas::of(&region).are_shared(), backing.shared, "{}", backing.name);
            let access = mapping_at(start(&region)).unwrap().access;
            assert_eq!(access, if backing.shared { "rw-s" } else { "rw-p" }, "{}", backing.name);
        }
    }
}

#[test]
fn what_is_asked_for_last_counts() {
    let shared = MmapRegion::builder(page()).memfd("making").private().shared().build().unwrap();
    shared.as_volatile_slice().write_obj(1_u8, 0).unwrap();
    let mut byte = [0];
    made_of(&shared).read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    let of_file = MmapRegion::builder(page()).memfd("making").file(file(page())).build().unwrap();
    assert_eq!(contents(&of_file), files_bytes(page()));
}

#[test]
fn a_part_of_a_file_is_mapped() {
    let at = file(4 * page()).file().try_clone().unwrap();
    let region = MmapRegion::from_file(memory_model::FileOffset::new(at, page() as u64), 2 * page() + 3).unwrap();
    assert_eq!(contents(&region), files_bytes(4 * page())[page()..3 * page() + 3]);
    assert_eq!((region.len(), region.file_offset().unwrap().start()), (2 * page() + 3, page() as u64));
}
