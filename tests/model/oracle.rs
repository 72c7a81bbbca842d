//! The model: a plain map from address to byte, with holes. It goes a byte at a time, so that it knows no boundaries
//! but the ones that the contract speaks of.

use super::layout::{Kind, Layout};
use super::outcome::Failure;

/// What memory is, by the contract.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    regions: Vec<Region>,
}

#[derive(Clone, Debug)]
struct Region {
    start: u64,
    bytes: Vec<u8>,
    kind: Kind,
    /// How far the host address of the first byte is above a multiple of 8.
    skew: usize,
}

/// What is at an address before anything is written.
pub(crate) fn initial(addr: u64) -> u8 {
    u8::try_from(addr % 241).unwrap_or(0)
}

impl Model {
    /// Memory with [`initial`] contents, whose regions begin at multiples of 8 in host memory.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self::skewed(layout, 0)
    }

    /// Memory with [`initial`] contents, whose regions begin `skew` bytes above multiples of 8 in host memory.
    pub(crate) fn skewed(layout: &Layout, skew: usize) -> Self {
        let regions = layout.spans.iter().map(|span| Region {
            start: span.start,
            bytes: (0..span.len as u64).map(|offset| initial(span.start + offset)).collect(),
            kind: span.kind,
            skew,
        });
        Self { regions: regions.collect() }
    }

    /// All bytes, region by region.
    pub(crate) fn contents(&self) -> Vec<&[u8]> {
        self.regions.iter().map(|region| &region.bytes[..]).collect()
    }

    fn find(&self, addr: u64) -> Option<(&Region, usize)> {
        self.regions.iter().find_map(|region| {
            let offset = usize::try_from(addr.checked_sub(region.start)?).ok()?;
            (offset < region.bytes.len()).then_some((region, offset))
        })
    }

    pub(crate) fn has(&self, addr: u64) -> bool {
        self.find(addr).is_some()
    }

    pub(crate) fn kind(&self, addr: u64) -> Option<Kind> {
        Some(self.find(addr)?.0.kind)
    }

    /// The bytes from `addr` to the first hole, at most `len` of them.
    pub(crate) fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let addrs = (0..len).map_while(|index| addr.checked_add(index as u64));
        addrs.map_while(|addr| self.find(addr).map(|(region, offset)| region.bytes[offset])).collect()
    }

    /// Writes all of `bytes`, which there is room for.
    pub(crate) fn put(&mut self, addr: u64, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            let addr = addr + index as u64;
            let place = self
                .regions
                .iter_mut()
                .find_map(|region| region.bytes.get_mut(usize::try_from(addr.checked_sub(region.start)?).ok()?));
            *place.expect("the model writes only where it found room") = byte;
        }
    }

    /// How many of the `len` bytes at `addr` come before the first hole. None is an error, if some are wanted.
    pub(crate) fn reach(&self, addr: u64, len: usize) -> Result<usize, Failure> {
        match self.get(addr, len).len() {
            0 if len > 0 => Err(Failure::Nowhere(addr)),
            count => Ok(count),
        }
    }

    /// How many of the `len` bytes at `addr` are in the region that has the first.
    pub(crate) fn in_region(&self, addr: Option<u64>, len: usize) -> Option<usize> {
        let (region, offset) = self.find(addr?)?;
        Some((region.bytes.len() - offset).min(len))
    }

    /// Whether an atomic access of `size` bytes can be made at `addr`.
    pub(crate) fn atomic(&self, addr: u64, size: usize) -> Result<(), Failure> {
        let (region, offset) = self.find(addr).ok_or(Failure::Nowhere(addr))?;
        match region.kind {
            Kind::Custom => Err(Failure::Unsupported),
            Kind::Ram if (region.skew + offset) % size != 0 => Err(Failure::Misaligned { addr, align: size }),
            Kind::Ram if region.bytes.len() - offset < size => Err(Failure::Partial { expected: size, completed: 0 }),
            Kind::Ram => Ok(()),
        }
    }
}
