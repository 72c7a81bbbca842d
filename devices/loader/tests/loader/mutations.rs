//! Kernels with random bytes in random places: never a panic, and memory changes only where the report says.

use std::fs::File;
use std::os::unix::fs::FileExt;

use memory_model::GuestMemoryMmap;
use memory_model_loader::{LoadOptions, load_kernel};

use crate::images::{Elf, bzimage};
use crate::support::{Random, file_of, is_untouched_outside, memory, reset};

/// Changes one to eight bytes of what the file has before `end`: to anything, or to what breaks arithmetic.
pub(crate) fn mutate(random: &mut Random, file: &File, original: &[u8], end: usize) {
    for _ in 0..=random.below(3) {
        let at = random.below(end);
        let word =
            [random.next(), u64::MAX, u64::MAX << 12, 1 << 63, 1 << 32, 0x4000, 0x10_0000, 1, 0][random.below(9)];
        let len = [1, 1, 2, 4, 8][random.below(5)].min(original.len() - at);
        file.write_all_at(&word.to_le_bytes()[..len], at as u64).unwrap();
    }
}

/// Loads `rounds` mutations, and counts those that were loaded.
fn run(memory: &GuestMemoryMmap, image: &[u8], places: &[usize], rounds: usize, seed: u64) -> usize {
    let (mut random, file) = (Random(seed), file_of(image));
    let mut loaded = 0;
    for round in 0..rounds {
        let end = places[random.below(places.len())];
        mutate(&mut random, &file, image, end);
        if random.below(16) == 0 {
            file.set_len(random.below(image.len()) as u64).unwrap();
        }
        match load_kernel(memory, &file, LoadOptions::default()) {
            Ok(kernel) => {
                assert!(is_untouched_outside(memory, &kernel.ranges), "round {round}: beyond\n{kernel}");
                loaded += 1;
                reset(memory);
            }
            Err(error) => assert!(is_untouched_outside(memory, &[]), "round {round}: written before {error}"),
        }
        file.write_all_at(image, 0).unwrap();
        file.set_len(image.len() as u64).unwrap();
    }
    loaded
}

#[test]
fn of_elf_files() {
    let memory = memory(&[(0x3000, 0x2000), (0x5000, 0x5000), (0x10_0000, 0x1000)]);
    for (number, elf) in [Elf::new(), Elf::new_32()].into_iter().enumerate() {
        // The headers above all; the notes at the end, too.
        let image = elf.bytes();
        let loaded = run(&memory, &image, &[64, 0xe8, 0xe8, image.len()], 4000, number as u64);
        assert!((400..3600).contains(&loaded), "{loaded} of 4000 were loaded: both must happen often");
    }
}

#[test]
fn of_bzimages() {
    let memory = memory(&[(0x10_0000, 0x2000), (0x10_2000, 0xe000)]);
    let image = bzimage();
    let loaded = run(&memory, &image, &[0x26c, 0x290], 4000, 7);
    assert!((400..3900).contains(&loaded), "{loaded} of 4000 were loaded: both must happen often");
}

#[test]
fn of_bzimage_header_bytes_each() {
    let memory = memory(&[(0x10_0000, 0x1_0000)]);
    let image = bzimage();
    let file = file_of(&image);
    for at in 0x1f1..0x26c_u64 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            file.write_all_at(&[value], at).unwrap();
            let result = load_kernel(&memory, &file, LoadOptions::default());
            let ranges = result.as_ref().map_or(&[][..], |kernel| &kernel.ranges);
            assert!(is_untouched_outside(&memory, ranges), "{value:#x} at {at:#x}: {result:?}");
            if result.is_ok() {
                reset(&memory);
            }
        }
        file.write_all_at(&image[usize::try_from(at).unwrap()..][..1], at).unwrap();
    }
}
