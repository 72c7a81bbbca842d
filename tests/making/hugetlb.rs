//! Pages of the hugetlb pool, which gets some for these tests where it may.

use std::ffi::CString;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;

use memory_model::mmap::{
    Error, HugePageSize, HugePages, Lock, MmapRegion, MmapRegionBuilder, NumaPolicy, Prefault, Step,
};
use memory_model::{Bytes, FileOffset, VolatileMemory};
use rustix::fs::{FlockOperation, SealFlags};

use super::areas::Areas;
use super::child::in_child;
use super::kernel::{left_of, mapping_at, numa_map};
use super::raw::Mount;
use super::{has_kernel, is_zero, page, start};

const HUGE: usize = 2 << 20;
const MIB_2: HugePages = HugePages::Hugetlb(HugePageSize::MIB_2);

/// So many free pages in a pool, as long as it lives. Nobody else who asks has them meanwhile.
struct Pool {
    dir: String,
    before: usize,
    _lock: File,
}

impl Pool {
    fn of(size: HugePageSize, pages: usize) -> Option<Self> {
        if !has_kernel() {
            return None;
        }
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes() / 1024);
        let Ok(lock) = File::open(format!("{dir}/nr_hugepages")) else {
            memory_model_test_support::skip!("no hugetlb pages: no {dir}");
            return None;
        };
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        let mut pool = Self { dir, before: 0, _lock: lock };
        pool.before = pool.count("nr_hugepages");
        let wanted = pool.before - pool.available() + pages;
        if pool.resize(wanted).is_err() || pool.available() != pages || pool.count("nr_overcommit_hugepages") != 0 {
            memory_model_test_support::skip!("no hugetlb pages: {pages} wanted in {}", pool.dir);
            return None;
        }
        Some(pool)
    }

    fn count(&self, what: &str) -> usize {
        fs::read_to_string(format!("{}/{what}", self.dir)).unwrap().trim().parse().unwrap()
    }

    fn resize(&self, pages: usize) -> std::io::Result<()> {
        fs::write(format!("{}/nr_hugepages", self.dir), pages.to_string())
    }

    /// Those that are free, and those of them that have been promised.
    fn free(&self) -> (usize, usize) {
        (self.count("free_hugepages"), self.count("resv_hugepages"))
    }

    fn available(&self) -> usize {
        let (free, reserved) = self.free();
        free - reserved
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.resize(self.before) {
            eprintln!("{} had {} pages before: {error}", self.dir, self.before);
        }
    }
}

fn huge(pages: usize) -> MmapRegionBuilder {
    MmapRegion::builder(pages * HUGE).huge_pages(MIB_2)
}

const KINDS: [fn(MmapRegionBuilder) -> MmapRegionBuilder; 4] = [
    |mapping| mapping,
    MmapRegionBuilder::shared,
    |mapping| mapping.memfd("making: huge"),
    |mapping| mapping.memfd("making: huge").private(),
];

/// Bytes of a mapping that are on pages of the pool.
fn resident(region: &MmapRegion) -> usize {
    let areas = Areas::of(region);
    areas.bytes("Private_Hugetlb") + areas.bytes("Shared_Hugetlb")
}

#[test]
fn memory_is_made_of_pages_of_the_pool() {
    let Some(pool) = Pool::of(HugePageSize::MIB_2, 4) else { return };
    let before = pool.free();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let region = kind(huge(3)).build().unwrap();
        assert_eq!(region.hugetlb(), Some(HugePageSize::MIB_2));
        assert_eq!(start(&region) % HUGE, 0);
        let areas = Areas::of(&region);
        assert_eq!((areas.count(), areas.bytes("KernelPageSize")), (1, HUGE), "{number}");
        assert!(areas.flags().iter().any(|flag| flag == "ht"));
        for guard in [start(&region) - 1, start(&region) + 3 * HUGE] {
            assert_eq!(mapping_at(guard).unwrap().access, "---p", "{number}");
        }
        // Reserved, and made when they are touched.
        assert_eq!(pool.free(), (before.0, before.1 + 3), "{number}");
        region.as_volatile_slice().write_obj(7_u8, 2 * HUGE - 1).unwrap();
        assert_eq!((resident(&region), pool.free()), (HUGE, (before.0 - 1, before.1 + 2)), "{number}");
        if let Some(at) = region.file_offset() {
            assert_eq!(at.file().metadata().unwrap().len(), 3 * HUGE as u64);
            assert_eq!(super::backing::seals(at.file()), SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
        }
        drop(region);
        assert_eq!(pool.free(), before, "{number}");

        let region = kind(huge(3)).reserve(false).build().unwrap();
        assert_eq!(pool.free(), before, "{number}");
        drop(region);
    }
}

#[test]
fn pages_of_the_pool_are_made_and_locked_beforehand() {
    let Some(pool) = Pool::of(HugePageSize::MIB_2, 12) else { return };
    let before = pool.free();
    let parallel = Prefault::Parallel { threads: NonZeroUsize::new(3).unwrap() };
    for (number, kind) in KINDS.into_iter().enumerate() {
        for prefault in [Prefault::Populate, parallel] {
            for reserve in [true, false] {
                let region = kind(huge(10)).reserve(reserve).prefault(prefault).build().unwrap();
                assert_eq!((resident(&region), pool.free()), (10 * HUGE, (before.0 - 10, before.1)), "{number}");
                assert!(is_zero(&region), "{number}");
            }
        }
        match kind(huge(2)).lock(Lock::Now).build() {
            Ok(region) => assert_eq!(resident(&region), 2 * HUGE, "{number}"),
            Err(error) => memory_model_test_support::skip!("host limit: {error}"),
        }
        if let Ok(region) = kind(huge(2)).numa(NumaPolicy::Bind(vec![0])).build() {
            let map = numa_map(start(&region)).unwrap();
            assert!(map.contains(" bind:0 ") && map.contains(" huge"), "{map}");
        }
    }
    assert_eq!(pool.free(), before);
}

#[test]
fn a_pool_that_is_empty_is_an_error_when_it_is_mapped_or_made() {
    let Some(pool) = Pool::of(HugePageSize::MIB_2, 2) else { return };
    let before = pool.free();
    let parallel = Prefault::Parallel { threads: NonZeroUsize::new(2).unwrap() };
    for (number, kind) in KINDS.into_iter().enumerate() {
        let unreserved = || kind(huge(3)).reserve(false);
        let cases = [
            (kind(huge(3)), Step::Map, libc::ENOMEM, "vm.nr_hugepages"),
            (unreserved().prefault(Prefault::Populate), Step::Prefault, libc::EFAULT, "or so many huge pages"),
            (unreserved().prefault(parallel), Step::Prefault, libc::EFAULT, "or so many huge pages"),
        ];
        for (builder, wanted, errno, words) in cases {
            let error = builder.build().unwrap_err();
            let Error::Refused { step, size, source } = &error else { panic!("{number}: {error}") };
            assert_eq!((*step, *size, source.raw_os_error()), (wanted, 3 * HUGE, Some(errno)), "{number}: {error}");
            assert!(error.to_string().contains(words), "{number}: {error}");
            assert_eq!((pool.free(), left_of("making: huge")), (before, (0, 0)), "{number}");
        }
    }
}

#[test]
fn pages_of_a_size_that_the_host_has_not_are_an_error() {
    if !has_kernel() {
        return;
    }
    let size = HugePageSize::new(1 << 22).unwrap();
    if fs::exists("/sys/kernel/mm/hugepages/hugepages-4096kB").unwrap() {
        return memory_model_test_support::skip!("no hugetlb pages: pages of 4 MiB exist");
    }
    for (kind, wanted) in KINDS.into_iter().zip([Step::Map, Step::Map, Step::Memfd, Step::Memfd]) {
        let error = kind(MmapRegion::builder(1 << 22).huge_pages(HugePages::Hugetlb(size))).build().unwrap_err();
        assert!(matches!(error, Error::Refused { step, size: 0x40_0000, .. } if step == wanted), "{error}");
        assert!(error.to_string().contains("this host has no such memory: see /sys/kernel/mm/hugepages"), "{error}");
    }
}

/// Checks what is mapped of a file on hugetlbfs that has two pages.
fn check_file(file: &File) {
    let at = |start| FileOffset::new(file.try_clone().unwrap(), start);
    let of_file = |pages: usize| MmapRegion::builder(pages * HUGE).file(at(0));
    let region = of_file(2).build().unwrap();
    assert_eq!((region.hugetlb(), start(&region) % HUGE), (Some(HugePageSize::MIB_2), 0));
    assert_eq!(Areas::of(&region).bytes("KernelPageSize"), HUGE);
    region.as_volatile_slice().write_slice(b"huge", HUGE + 100).unwrap();
    // It may be said what they are, if it is true; and it may begin later.
    let second = MmapRegion::builder(HUGE).file(at(HUGE as u64)).huge_pages(MIB_2).build().unwrap();
    assert_eq!(second.as_volatile_slice().read_obj::<[u8; 4]>(100).unwrap(), *b"huge");
    let wrong = of_file(2).huge_pages(HugePages::Hugetlb(HugePageSize::GIB_1)).build().unwrap_err();
    assert!(matches!(wrong, Error::HugetlbFile), "{wrong}");
    let small = MmapRegion::builder(page()).file(at(0)).build().unwrap_err();
    assert!(matches!(small, Error::HugePages { what: "the size", page_size: 0x20_0000, .. }), "{small}");
    let odd = MmapRegion::builder(HUGE).file(at(page() as u64)).build().unwrap_err();
    assert!(matches!(odd, Error::HugePages { what: "the file offset", page_size: 0x20_0000, .. }), "{odd}");
    let past = of_file(3).build().unwrap_err();
    assert!(matches!(past, Error::PastEndOfFile { file_len: 0x40_0000, .. }), "{past}");
    let private = of_file(2).private().prefault(Prefault::Populate).build();
    assert!(private.is_ok_and(|region| resident(&region) == 2 * HUGE));
}

#[test]
fn a_memfd_of_huge_pages_is_a_file_of_huge_pages() {
    let Some(_pool) = Pool::of(HugePageSize::MIB_2, 4) else { return };
    let memfd = huge(2).memfd("making: huge").build().unwrap();
    check_file(memfd.file_offset().unwrap().file());
}

#[test]
fn a_file_on_hugetlbfs_is_of_huge_pages() {
    if !has_kernel() {
        return;
    }
    in_child!(a_file_on_hugetlbfs_is_of_huge_pages, {
        let Some(_pool) = Pool::of(HugePageSize::MIB_2, 4) else { return };
        let dir = tempfile::tempdir().unwrap();
        let at = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        match Mount::new(c"hugetlbfs", &at, c"pagesize=2M") {
            Err(error) => memory_model_test_support::skip!("no mount: hugetlbfs: {error}"),
            Ok(_mount) => {
                let path = dir.path().join("memory");
                let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
                file.set_len(2 * HUGE as u64).unwrap();
                check_file(&file);
            }
        }
    });
}

#[test]
fn pages_may_have_1_gib() {
    if cfg!(target_pointer_width = "32") {
        return memory_model_test_support::skip!("32 bits: too few addresses");
    }
    let Some(pool) = Pool::of(HugePageSize::GIB_1, 1) else { return };
    let before = pool.free();
    for kind in KINDS {
        let builder = kind(MmapRegion::builder(1 << 30).huge_pages(HugePages::Hugetlb(HugePageSize::GIB_1)));
        let region = builder.build().unwrap();
        assert_eq!((region.hugetlb(), start(&region) % (1 << 30)), (Some(HugePageSize::GIB_1), 0));
        assert_eq!(Areas::of(&region).bytes("KernelPageSize"), 1 << 30);
        assert_eq!(pool.free(), (before.0, before.1 + 1));
    }
    assert_eq!(pool.free(), before);
}
