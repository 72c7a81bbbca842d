//! A listener that keeps the table that it mirrors, and writes down what it is told.

use std::sync::{Arc, Mutex};

use memory_model::GuestMemoryRegion;
use memory_model::atomic::{ListenerError, MapListener, SlotAllocator};

use crate::ram::Ram;

/// What a listener was told, of the region that begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Added(u64),
    Refused(u64),
    Removed(u64),
}

/// What all recorders share.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// What was told, and to which.
    pub(crate) told: Vec<(usize, Told)>,
    /// How many calls go well before one is refused.
    pub(crate) refuse_after: Option<usize>,
}

/// What one mirrors: first address, length, and the slot that it gave.
pub(crate) type Table = Arc<Mutex<Vec<(u64, u64, u32)>>>;

pub(crate) struct Recorder {
    number: usize,
    log: Arc<Mutex<Log>>,
    table: Table,
    slots: SlotAllocator,
}

impl Recorder {
    pub(crate) fn new(number: usize, log: &Arc<Mutex<Log>>) -> (Box<Self>, Table) {
        let table = Table::default();
        let (log, slots) = (Arc::clone(log), SlotAllocator::new(0..1000));
        (Box::new(Self { number, log, table: Arc::clone(&table), slots }), table)
    }

    fn tell(&self, told: Told) {
        self.log.lock().unwrap().told.push((self.number, told));
    }
}

impl MapListener<Ram> for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn added(&mut self, region: &Arc<Ram>) -> Result<(), ListenerError> {
        let (start, len) = (region.start_addr().0, region.len());
        let mut log = self.log.lock().unwrap();
        let refuse = log.refuse_after == Some(0);
        log.refuse_after = log.refuse_after.and_then(|after| after.checked_sub(1));
        drop(log);
        if refuse {
            self.tell(Told::Refused(start));
            return Err(format!("no room for {start:#x}").into());
        }
        let slot = self.slots.allocate().ok_or("no slot")?;
        let mut table = self.table.lock().unwrap();
        check_row(&table, (start, len, slot));
        table.push((start, len, slot));
        drop(table);
        self.tell(Told::Added(start));
        Ok(())
    }

    fn removed(&mut self, region: &Arc<Ram>) {
        let start = region.start_addr().0;
        let mut table = self.table.lock().unwrap();
        let row = table.iter().position(|row| (row.0, row.1) == (start, region.len())).unwrap();
        assert!(self.slots.free(table.remove(row).2));
        drop(table);
        self.tell(Told::Removed(start));
    }
}

/// A slot is the lowest that is free, and nobody else's; and there are never two regions at one address.
fn check_row(table: &[(u64, u64, u32)], (start, len, slot): (u64, u64, u32)) {
    let lowest = (0..1000).find(|slot| table.iter().all(|row| row.2 != *slot));
    assert_eq!(lowest, Some(slot));
    assert!(table.iter().all(|row| row.0 + row.1 <= start || start + len <= row.0));
}

/// The table, by address.
pub(crate) fn rows(table: &Table) -> Vec<(u64, u64)> {
    let mut rows: Vec<_> = table.lock().unwrap().iter().map(|&(start, len, _)| (start, len)).collect();
    rows.sort_unstable();
    rows
}
