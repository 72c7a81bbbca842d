//! bzImages that are well made.

use memory_model::GuestAddress;
use memory_model_loader::{Error, KernelFormat, LoadOptions, RangeKind, load_bzimage, load_kernel};

use crate::images::{CODE, CODE_LEN, INIT_SIZE, PREF_ADDRESS, bzimage, bzimage_with};
use crate::recorder::Recorder;
use crate::support::{bytes_at, file_of, is_untouched_outside, memory, range};

#[test]
fn code_crosses_regions_and_the_workspace_is_left_alone() {
    let image = bzimage();
    let memory = memory(&[(0, 0x1000), (0x10_0000, 0x1001), (0x10_1001, 0xf000)]);
    let kernel = load_kernel(&memory, &file_of(&image), LoadOptions::default()).unwrap();
    assert!(bytes_at(&memory, 0x10_0000, CODE_LEN) == image[CODE..][..CODE_LEN], "the code");
    let code = range(RangeKind::ProtectedMode, 0x10_0000, CODE_LEN as u64);
    assert!(is_untouched_outside(&memory, &[code]), "neither the setup code nor the signature");
    assert_eq!(kernel.ranges, [code, range(RangeKind::Workspace, PREF_ADDRESS, INIT_SIZE.into())]);
    assert_eq!(kernel.entry, GuestAddress(0x10_0000));
    let KernelFormat::BzImage { header, entry_64 } = &kernel.format else { panic!("{kernel}") };
    assert_eq!(*entry_64, Some(GuestAddress(0x10_0200)));
    assert_eq!(header.as_bytes(), &image[0x1f1..0x26c]);
    assert_eq!((header.version(), header.setup_len(), header.code_len()), (0x20f, 0x800, Some(0x1f00)));
    assert!(header.is_relocatable() && header.is_loadable_above_4g() && header.has_entry_64());
    assert_eq!(
        (header.kernel_alignment(), header.pref_address(), header.init_size()),
        (0x1000, PREF_ADDRESS, INIT_SIZE)
    );
    assert_eq!((kernel.command_line_max(), kernel.initrd_last()), (63, GuestAddress(0x7fff_ffff)));
    assert_eq!(
        kernel.to_string(),
        "bzImage of protocol 2.15, entry 0x100000, 64-bit entry 0x100200\n\
         \x20 0x0000000000100000..=0x0000000000101eff      0x1f00 protected-mode kernel\n\
         \x20 0x0000000000104000..=0x000000000010cfff      0x9000 workspace to unpack the kernel (keep free)\n"
    );
}

#[test]
fn a_relocatable_kernel_goes_where_it_is_told() {
    let image = bzimage();
    let memory = memory(&[(0x20_0000, 0x1_0000), (0x1_0000_0000, 0x1_0000)]);
    for addr in [0x20_0800, 0x1_0000_0800] {
        let kernel = load_bzimage(&memory, &file_of(&image), Some(GuestAddress(addr))).unwrap();
        assert!(bytes_at(&memory, addr, CODE_LEN) == image[CODE..][..CODE_LEN], "the code");
        let workspace = range(RangeKind::Workspace, addr + 0x800, INIT_SIZE.into());
        assert_eq!(kernel.ranges.last(), Some(&workspace), "aligned up, as the kernel does");
    }
    // The same without XLF_CAN_BE_LOADED_ABOVE_4G.
    let image = bzimage_with(&[(0x236, &[1])]);
    let result = load_bzimage(&memory, &file_of(&image), Some(GuestAddress(0x1_0000_0000)));
    assert!(matches!(result, Err(Error::TooHigh { last: GuestAddress(0xffff_ffff), .. })), "{result:?}");
}

#[test]
fn a_kernel_that_is_not_relocatable_runs_where_it_prefers() {
    let image = bzimage_with(&[(0x234, &[0]), (0x230, &[0; 4])]);
    let memory = memory(&[(0x10_0000, 0x1_0000), (0x20_0000, 0x1_0000)]);
    let kernel = load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert_eq!(kernel.ranges.last(), Some(&range(RangeKind::Workspace, PREF_ADDRESS, INIT_SIZE.into())));
    let result = load_bzimage(&memory, &file_of(&image), Some(GuestAddress(0x20_0000)));
    let (wanted, fixed) = (GuestAddress(0x20_0000), GuestAddress(0x10_0000));
    assert!(matches!(result, Err(Error::NotRelocatable { wanted: w, fixed: f }) if w == wanted && f == fixed));
    // One that does not say where it prefers runs where it is loaded.
    let image = bzimage_with(&[(0x234, &[0]), (0x258, &[0; 8])]);
    let kernel = load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert!(kernel.ranges.contains(&range(RangeKind::Workspace, 0x10_0000, INIT_SIZE.into())));
}

#[test]
fn setup_sects_of_0_means_4() {
    let mut image = bzimage_with(&[(0x1f1, &[0])]);
    image.resize(5 * 512 + CODE_LEN, 0x77);
    let memory = memory(&[(0x10_0000, 0x1_0000)]);
    load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert!(bytes_at(&memory, 0x10_0000, CODE_LEN) == image[5 * 512..]);
}

#[test]
fn last_paragraph_may_be_cut_off() {
    let image = bzimage();
    for missing in [1, 8, 15] {
        let memory = memory(&[(0x10_0000, 0x1_0000)]);
        let len = CODE_LEN - missing;
        let kernel = load_kernel(&memory, &file_of(&image[..CODE + len]), LoadOptions::default()).unwrap();
        let code = range(RangeKind::ProtectedMode, 0x10_0000, len as u64);
        assert_eq!(kernel.ranges.first(), Some(&code), "only what the file has");
        assert!(bytes_at(&memory, 0x10_0000, len) == image[CODE..][..len], "the code");
        assert!(is_untouched_outside(&memory, &[code]));
    }
}

#[test]
fn entry_64_must_lie_in_the_bytes_of_the_file() {
    // 0x21 paragraphs by the header. The 64-bit entry is at 0x200.
    let image = bzimage_with(&[(0x1f4, &0x21_u32.to_le_bytes())]);
    let memory = memory(&[(0x10_0000, 0x1_0000)]);
    load_bzimage(&memory, &file_of(&image[..CODE + 0x201]), None).unwrap();
    let result = load_bzimage(&memory, &file_of(&image[..CODE + 0x200]), None);
    assert!(matches!(result, Err(Error::Truncated { .. })), "16 bytes are missing: {result:?}");
}

#[test]
fn alignment_matters_only_to_a_workspace() {
    let image = bzimage_with(&[(0x230, &[0; 4]), (0x260, &[0; 4])]);
    let kernel = load_bzimage(&memory(&[(0x10_0000, 0x1_0000)]), &file_of(&image), None).unwrap();
    assert_eq!(kernel.ranges, [range(RangeKind::ProtectedMode, 0x10_0000, CODE_LEN as u64)]);
}

#[test]
fn older_protocols_have_fewer_fields() {
    let memory = memory(&[(0x10_0000, 0x1_0000)]);
    // 2.03: the code goes on to the file's end, the limits are the old ones, and nothing is known of the rest.
    let image = bzimage_with(&[(0x206, &[3, 2]), (0x201, &[0x2e])]);
    let kernel = load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert_eq!(kernel.ranges, [range(RangeKind::ProtectedMode, 0x10_0000, CODE_LEN as u64 + 77)]);
    assert!(bytes_at(&memory, 0x10_0000, CODE_LEN + 77) == image[CODE..]);
    let header = kernel.setup_header().unwrap();
    assert_eq!(header.as_bytes(), &image[0x1f1..0x230]);
    assert_eq!((header.init_size(), header.pref_address(), header.payload()), (0, 0, (0, 0)));
    assert!(!header.is_relocatable() && !header.has_entry_64() && !header.is_loadable_above_4g());
    assert_eq!((header.cmdline_size(), header.initrd_addr_max()), (255, 0x7fff_ffff));
    // 2.02.
    let image = bzimage_with(&[(0x206, &[2, 2]), (0x201, &[0x2a])]);
    let kernel = load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert_eq!(kernel.initrd_last(), GuestAddress(0x37ff_ffff));
}

#[test]
fn memory_of_another_kind_will_do() {
    let image = bzimage();
    let memory = Recorder::memory(&[(0x10_0000, 0x123), (0x10_0123, 1 << 32)]);
    load_bzimage(&memory, &file_of(&image), None).unwrap();
    assert!(bytes_at(&memory, 0x10_0000, CODE_LEN) == image[CODE..][..CODE_LEN]);
    let written: Vec<_> = memory.arc_regions().iter().flat_map(|region| region.written()).collect();
    assert_eq!(written, [(0x10_0000, 0x10_0122), (0x10_0123, 0x10_1eff)]);
}
