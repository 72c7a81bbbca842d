//! A bitmap does what a plain list of pages does: by every operation, with pages of every size, up to ends that cut a page,
//! a word and a line of words.

use memory_model::dirty::{DirtyBitmap, DirtyRange, Error};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ground::{cases, joined, range};

/// What is done to a bitmap.
#[derive(Clone, Debug)]
enum Op {
    Mark(u64, u64),
    Clear(u64, u64),
    IsDirty(u64, u64),
    Merge { start: u64, words: Vec<u64>, page_size: u64 },
    Harvest { meanwhile: Vec<(u64, u64)>, commit: bool },
}

/// A size, and what is done.
#[derive(Clone, Debug)]
struct Case {
    len: u64,
    page_size: u64,
    ops: Vec<Op>,
}

/// How many pages: of one word, of one line of words, of one word of the summary, of several.
fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..70_u64, 6 => 500..1100_u64, 1 => 32700..33400_u64]
}

/// A place: near a boundary of pages, words, lines or summary words, near the end, beyond it, and anywhere.
fn place(pages: u64, page_size: u64) -> impl Strategy<Value = u64> {
    let page = prop_oneof![
        3 => 0..=pages,
        2 => (0..=pages / 64, 0..2_u64).prop_map(|(word, near)| (word * 64).saturating_sub(near)),
        1 => (0..=pages / 512, 0..2_u64).prop_map(|(line, near)| (line * 512).saturating_sub(near)),
        2 => (0..3_u64).prop_map(move |near| pages.saturating_sub(near)),
    ];
    let in_page = prop_oneof![Just(0), Just(1), Just(page_size - 1), any::<u64>()];
    let near = (page, in_page).prop_map(move |(page, at)| page * page_size + at % page_size);
    prop_oneof![15 => near, 1 => any::<u64>(), 1 => (0..5_u64).prop_map(|below| u64::MAX - below)]
}

fn length(pages: u64, page_size: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..4_u64,
        4 => (0..4_u64, 0..3_u64).prop_map(move |(count, less)| (count * page_size).saturating_sub(less)),
        3 => (0..=pages, 0..3_u64).prop_map(move |(count, less)| (count * page_size).saturating_sub(less)),
        1 => any::<u64>(),
        1 => (0..5_u64).prop_map(|below| u64::MAX - below),
    ]
}

/// What a source has, of which words and lines may be all ones.
fn words() -> impl Strategy<Value = Vec<u64>> {
    let word =
        prop_oneof![2 => Just(0), 2 => Just(u64::MAX), 2 => any::<u64>(), 1 => (0..64_u32).prop_map(|bit| 1 << bit)];
    prop_oneof![4 => vec(word.clone(), 0..4), 1 => vec(word, 0..24)]
}

fn case() -> impl Strategy<Value = Case> {
    (pages(), 0..=21_u32, any::<u64>()).prop_flat_map(|(pages, shift, cut)| {
        let page_size = 1 << shift;
        let span = move || (place(pages, page_size), length(pages, page_size));
        let aligned = (0..=pages / 64).prop_map(move |word| word * 64 * page_size);
        let sizes = prop_oneof![3 => Just(page_size), 2 => (0..=24_u32).prop_map(|shift| 1 << shift)];
        let merge = (prop_oneof![aligned, place(pages, page_size)], words(), sizes);
        let op = prop_oneof![
            4 => span().prop_map(|(start, len)| Op::Mark(start, len)),
            1 => span().prop_map(|(start, len)| Op::Clear(start, len)),
            2 => span().prop_map(|(start, len)| Op::IsDirty(start, len)),
            1 => merge.prop_map(|(start, words, page_size)| Op::Merge { start, words, page_size }),
            1 => (vec(span(), 0..3), any::<bool>()).prop_map(|(meanwhile, commit)| Op::Harvest { meanwhile, commit }),
        ];
        let len = (pages * page_size).saturating_sub(cut % page_size);
        vec(op, 1..30).prop_map(move |ops| Case { len, page_size, ops })
    })
}

/// Which pages are dirty.
struct Model {
    len: u64,
    page_size: u64,
    dirty: Vec<bool>,
}

impl Model {
    fn new(len: u64, page_size: u64) -> Self {
        let pages = usize::try_from(len.div_ceil(page_size)).unwrap();
        Self { len, page_size, dirty: vec![false; pages] }
    }

    /// The pages that are `wanted` by their first byte and the one behind their last, and whether each is dirty.
    fn pages(&mut self, wanted: impl Fn(u128, u128) -> bool) -> impl Iterator<Item = &mut bool> {
        let (size, len) = (u128::from(self.page_size), u128::from(self.len));
        let mut start = 0;
        self.dirty.iter_mut().filter(move |_| {
            let (first, end) = (start, len.min(start + size));
            start += size;
            wanted(first, end)
        })
    }

    /// The pages with any of these bytes.
    fn touched(&mut self, start: u128, len: u128) -> impl Iterator<Item = &mut bool> {
        self.pages(move |first, end| len > 0 && first < start + len && start < end)
    }

    fn mark(&mut self, start: u128, len: u128) {
        self.touched(start, len).for_each(|dirty| *dirty = true);
    }

    fn merge(&mut self, start: u64, words: &[u64], page_size: u64) {
        for (word, bit) in (0..words.len()).flat_map(|word| (0..64).map(move |bit| (word, bit))) {
            if words[word] >> bit & 1 == 1 {
                let at = u128::from(start) + (word * 64 + bit) as u128 * u128::from(page_size);
                if at < u128::from(self.len) {
                    self.mark(at, u128::from(page_size));
                }
            }
        }
    }

    fn ranges(&self) -> Vec<DirtyRange> {
        let (size, len) = (u128::from(self.page_size), u128::from(self.len));
        let dirty = (0_u32..).zip(&self.dirty).filter(|(_, dirty)| **dirty).map(|(page, _)| u128::from(page) * size);
        joined(dirty.map(|start| start..len.min(start + size)).collect())
    }

    fn play(&mut self, bitmap: &DirtyBitmap, op: &Op) {
        let wide = |(start, len): (u64, u64)| (u128::from(start), u128::from(len));
        match op {
            &Op::Mark(start, len) => {
                bitmap.mark(start, len);
                self.mark(start.into(), len.into());
            }
            &Op::Clear(start, len) => {
                bitmap.clear(start, len);
                let (start, len) = wide((start, len));
                self.pages(|first, end| start <= first && end <= start + len).for_each(|dirty| *dirty = false);
            }
            &Op::IsDirty(start, len) => {
                let expected = self.touched(start.into(), len.into()).any(|dirty| *dirty);
                assert_eq!(bitmap.is_dirty(start, len), expected);
            }
            Op::Merge { start, words, page_size } => {
                bitmap.merge(*start, words, *page_size).unwrap();
                self.merge(*start, words, *page_size);
            }
            Op::Harvest { meanwhile, commit } => {
                let harvest = bitmap.harvest();
                let before = std::mem::replace(self, Self::new(self.len, self.page_size));
                for &(start, len) in meanwhile {
                    bitmap.mark(start, len);
                    self.mark(start.into(), len.into());
                }
                assert_eq!(harvest.ranges().collect::<Vec<_>>(), before.ranges());
                assert_eq!(harvest.pages(), before.dirty.iter().filter(|dirty| **dirty).count() as u64);
                assert_eq!(harvest.is_empty(), harvest.pages() == 0);
                if *commit {
                    harvest.commit();
                } else {
                    drop(harvest);
                    self.dirty.iter_mut().zip(&before.dirty).for_each(|(now, before)| *now |= before);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_bitmap_is_a_list_of_pages(case in case()) {
        let bitmap = DirtyBitmap::new(case.len, case.page_size).unwrap();
        prop_assert_eq!((bitmap.len(), bitmap.page_size(), bitmap.is_empty()), (case.len, case.page_size, case.len == 0));
        let mut model = Model::new(case.len, case.page_size);
        for op in &case.ops {
            model.play(&bitmap, op);
        }
        model.play(&bitmap, &Op::Harvest { meanwhile: vec![], commit: true });
        prop_assert!(bitmap.harvest().is_empty());
    }
}

#[test]
fn a_page_is_a_power_of_two() {
    for page_size in [0, 3, 4095, u64::MAX] {
        assert_eq!(DirtyBitmap::new(1, page_size).unwrap_err(), Error::PageSize(page_size));
        assert_eq!(DirtyBitmap::new(1, 1).unwrap().merge(0, &[], page_size).unwrap_err(), Error::PageSize(page_size));
    }
}

#[test]
fn a_bitmap_that_no_host_has_memory_for() {
    // The bits, and one above for each cache line of them.
    assert_eq!(DirtyBitmap::new(u64::MAX, 1).unwrap_err(), Error::OutOfMemory((1 << 61) + (1 << 52)));
}

/// The largest pages there are, and memory up to the last byte but one.
#[test]
fn all_of_the_address_space() {
    let bitmap = DirtyBitmap::new(u64::MAX, 1 << 63).unwrap();
    bitmap.mark(u64::MAX - 1, 1);
    assert_eq!(bitmap.harvest().ranges().collect::<Vec<_>>(), [range(1 << 63, (1 << 63) - 1)]);
    bitmap.mark(u64::MAX, 1); // beyond the end
    bitmap.mark(0, u64::MAX);
    assert_eq!(bitmap.harvest().ranges().collect::<Vec<_>>(), [range(0, u64::MAX)]);
    bitmap.clear(1, u64::MAX);
    assert_eq!(bitmap.harvest().ranges().collect::<Vec<_>>(), [range(0, 1 << 63)]);
    bitmap.clear(0, 1 << 63);
    assert!(bitmap.harvest().is_empty());
    bitmap.merge(u64::MAX - 1, &[u64::MAX; 2], 1 << 63).unwrap();
    assert_eq!(bitmap.harvest().pages(), 1);
}

/// What is clean costs nothing to look at, or this would take a while.
#[test]
fn little_is_dirty_in_much() {
    let tebibytes = if cfg!(target_pointer_width = "64") { 12 } else { 1 };
    let bitmap = DirtyBitmap::new(tebibytes << 40, 4096).unwrap();
    let harvests = if cfg!(debug_assertions) { 20 } else { 200 };
    for round in 0..harvests {
        let (low, high) = (round << 30, (tebibytes << 40) - ((round + 1) << 12));
        bitmap.mark(low, 1);
        bitmap.mark(high, 1);
        let harvest = bitmap.harvest();
        assert_eq!(harvest.ranges().collect::<Vec<_>>(), [range(low, 4096), range(high, 4096)]);
        harvest.commit();
    }
}

/// A word that is only partly in the bitmap, by the fast way and the slow one.
#[test]
fn what_is_merged_beyond_the_end_is_left_out() {
    let bitmap = DirtyBitmap::new((64 + 3) * 4096 - 1, 4096).unwrap();
    for (start, page_size) in [(0, 4096), (1, 4096), (0, 2048), (0, 1 << 20)] {
        bitmap.merge(start, &[u64::MAX; 5], page_size).unwrap();
        let harvest = bitmap.harvest();
        assert_eq!((harvest.pages(), harvest.ranges().collect::<Vec<_>>()), (67, vec![range(0, 67 * 4096 - 1)]));
        harvest.commit();
    }
}
