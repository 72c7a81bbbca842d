//! Looks that a change overtakes, at the very place: what threads meet too rarely to be tested.

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;

use super::*;

thread_local! {
    static OVERTAKING: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

/// What happens in this thread's next look between finding a map and naming it.
pub(super) fn overtake() {
    if let Some(change) = OVERTAKING.take() {
        change();
    }
}

/// A map that counts itself among the living.
struct Map(u32, Arc<AtomicUsize>);

impl Map {
    fn new(number: u32, living: &Arc<AtomicUsize>) -> Self {
        living.fetch_add(1, Ordering::SeqCst);
        Self(number, Arc::clone(living))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

fn publish(published: &Published<Map>, number: u32, living: &Arc<AtomicUsize>) {
    published.publish(number.into(), Map::new(number, living));
}

#[test]
fn a_look_that_changes_overtake_holds_what_it_has_found() {
    for overtaken_by in 1..4 {
        let living = Arc::default();
        let published = Arc::new(Published::new(0, Map::new(0, &living)));
        let mut reader = Reader::new(&published);
        let (others, counted) = (Arc::clone(&published), Arc::clone(&living));
        OVERTAKING.set(Some(Box::new(move || {
            for number in 1..=overtaken_by {
                publish(&others, number, &counted);
                drop(others.take_unused());
            }
        })));
        let guard = reader.read();
        assert_eq!((guard.0, living.load(Ordering::SeqCst)), (overtaken_by, 1));
        publish(&published, 10, &living);
        drop(published.take_unused());
        assert_eq!((guard.0, living.load(Ordering::SeqCst)), (overtaken_by, 2), "used after its end");
        drop(guard);
        published.give_up();
        assert_eq!(living.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn what_nobody_uses_is_to_be_had_unless_there_is_a_snapshot() {
    let living = Arc::default();
    let published = Arc::new(Published::new(0, Map::new(0, &living)));
    let mut reader = Reader::new(&published);
    drop(reader.read());
    publish(&published, 1, &living);
    assert_eq!(published.take_unused().map(|map| map.0), Some(0));
    assert_eq!(reader.read().0, 1);
    let snapshot = published.snapshot();
    publish(&published, 2, &living);
    // Somebody has it: it is not to be had.
    assert!(published.take_unused().is_none());
    assert_eq!(((*snapshot).0, living.load(Ordering::SeqCst)), (1, 2));
    drop(snapshot);
    assert_eq!(living.load(Ordering::SeqCst), 1);
}
