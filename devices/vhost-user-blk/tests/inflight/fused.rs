//! Bytes that can be stored to so many times, as by a process that dies then.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use memory_model::volatile_memory::Error;
use memory_model::{AtomicAccess, Bytes};
use memory_model_virtio::blk::Outcome;

/// What the specification's steps do not look at.
pub(crate) const OUTCOME: Outcome = Outcome { kind: 0, bytes: 0, status: 0 };

/// Memory that outlives who stores to it. A clone is the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Fused {
    bytes: Rc<RefCell<Vec<u8>>>,
    /// How many more stores there are before the end.
    left: Rc<Cell<usize>>,
    /// Where each store went, and how many bytes it had.
    stores: Rc<RefCell<Vec<(usize, usize)>>>,
}

impl Fused {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Rc::new(bytes.into()), left: Rc::new(Cell::new(usize::MAX)), stores: Rc::default() }
    }

    /// The part of a queue with so many descriptors.
    pub(crate) fn zeros(queue_size: u16) -> Self {
        Self::new(vec![0; 16 + 16 * usize::from(queue_size)])
    }

    /// Lets so many stores happen from now on.
    pub(crate) fn set_left(&self, stores: usize) {
        self.left.set(stores);
    }

    /// One store, of any memory, happens; false if it does not any more.
    pub(crate) fn burn(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// The stores since the last call.
    pub(crate) fn stores(&self) -> Vec<(usize, usize)> {
        self.stores.take()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    pub(crate) fn u16_at(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes.borrow()[at..at + 2].try_into().unwrap())
    }

    pub(crate) fn u64_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes.borrow()[at..at + 8].try_into().unwrap())
    }

    /// The heads whose `inflight` is set.
    pub(crate) fn in_flight(&self) -> Vec<u16> {
        let bytes = self.bytes.borrow();
        (0..).zip(bytes[16..].chunks(16)).filter(|(_, desc)| desc[0] != 0).map(|(head, _)| head).collect()
    }
}

impl Bytes<usize> for Fused {
    type E = Error;

    fn write(&self, _buf: &[u8], _addr: usize) -> Result<usize, Error> {
        Err(Error::Unsupported) // each of the specification's stores is one of a whole field
    }

    fn read(&self, buf: &mut [u8], addr: usize) -> Result<usize, Error> {
        let bytes = self.bytes.borrow();
        let error = Error::OutOfBounds { offset: addr, count: buf.len(), len: bytes.len() };
        buf.copy_from_slice(bytes.get(addr..addr + buf.len()).ok_or(error)?);
        Ok(buf.len())
    }

    fn load<T: AtomicAccess>(&self, addr: usize, _order: Ordering) -> Result<T, Error> {
        check_aligned::<T>(addr)?;
        self.read_obj(addr)
    }

    fn store<T: AtomicAccess>(&self, val: T, addr: usize, _order: Ordering) -> Result<(), Error> {
        check_aligned::<T>(addr)?;
        let mut bytes = self.bytes.borrow_mut();
        let (count, len) = (size_of::<T>(), bytes.len());
        let place = bytes.get_mut(addr..addr + count).ok_or(Error::OutOfBounds { offset: addr, count, len })?;
        if !self.burn() {
            return Err(Error::Fault { addr, completed: 0 });
        }
        place.copy_from_slice(val.as_slice());
        self.stores.borrow_mut().push((addr, count));
        Ok(())
    }
}

fn check_aligned<T>(addr: usize) -> Result<(), Error> {
    let align = size_of::<T>();
    if addr % align == 0 { Ok(()) } else { Err(Error::Misaligned { addr, align }) }
}
