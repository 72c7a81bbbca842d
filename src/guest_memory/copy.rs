//! Copies inside the guest.

use super::memory::{piece, pieces};
use super::region::wrong_length;
use super::{Error, GuestAddress, GuestMemory, GuestMemoryRegion, GuestSlice, MemoryRegionAddress};
use crate::Address;
use crate::access::Probe;
use crate::bytes::advance;

/// What a copy from or to a region without host memory goes through.
const CHUNK: usize = 512;

/// See [`GuestMemory::copy`].
pub(super) fn copy<M: GuestMemory + ?Sized>(
    memory: &M,
    src: GuestAddress,
    dst: GuestAddress,
    len: usize,
) -> Result<(), Error> {
    if len == 0 {
        return Ok(());
    }
    let available = |addr| match pieces(memory, addr, len).map(|(_, _, piece)| piece).sum::<usize>() {
        0 => Err(Error::InvalidGuestAddress(addr)),
        available => Ok(available),
    };
    let count = available(src)?.min(available(dst)?);
    let inside_source = dst.checked_offset_from(src).is_some_and(|distance| distance < count as u64);
    if inside_source && src != dst {
        // It does first what is last. So that it does nothing beyond a bad address, these are looked for before.
        let (count, bad) = match probe(memory, src, count, Probe::Read)? {
            (count, None) => probe(memory, dst, count, Probe::Write)?,
            (count, unreadable) => match probe(memory, dst, count, Probe::Write)? {
                (_, None) => (count, unreadable),
                lower => lower,
            },
        };
        downwards(memory, src, dst, count).map_err(|error| match error {
            Error::Fault { addr, .. } => Error::Fault { addr, completed: 0 },
            Error::ReadOnly { addr, .. } => Error::ReadOnly { addr, completed: 0 },
            other => other,
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
    } else {
        upwards(memory, src, dst, count)?;
    }
    if count == len { Ok(()) } else { Err(Error::PartialBuffer { expected: len, completed: count }) }
}

/// How many of `count` bytes at `addr` come before the first that cannot be accessed, and the error of a copy that is done
/// as far as that. Fails where an implementation is wrong.
fn probe<M: GuestMemory + ?Sized>(
    memory: &M,
    addr: GuestAddress,
    count: usize,
    access: Probe,
) -> Result<(usize, Option<Error>), Error> {
    let mut done: usize = 0;
    for (region, offset, len) in pieces(memory, addr, count) {
        // Where there is no host memory, whoever provides it reports what is wrong.
        if let Some(Err(error)) = host_slice(region, offset, len)?.map(|slice| slice.probe(access)) {
            if let Error::Fault { completed, .. } | Error::ReadOnly { completed, .. } = error {
                return Ok((done.saturating_add(completed), Some(error.of_whole(done, count))));
            }
        }
        done = done.saturating_add(len);
    }
    Ok((count, None))
}

/// The `len` bytes from `offset` of a region, if there is host memory behind them. Fails if the region returns more or fewer.
fn host_slice<R: GuestMemoryRegion>(
    region: &R,
    offset: MemoryRegionAddress,
    len: usize,
) -> Result<Option<GuestSlice<'_>>, Error> {
    match region.get_slice(offset, len) {
        Ok(slice) if slice.len() == len => Ok(Some(slice)),
        Ok(slice) => Err(wrong_length(len, slice.len())),
        Err(_) => Ok(None),
    }
}

fn upwards<M: GuestMemory + ?Sized>(
    memory: &M,
    src: GuestAddress,
    dst: GuestAddress,
    count: usize,
) -> Result<(), Error> {
    let mut done: usize = 0;
    while let Some(left) = count.checked_sub(done).filter(|&left| left > 0) {
        let ends = (advance(src, done), advance(dst, done));
        let (Some(from), Some(to)) = ends else { return gone(count, done) };
        let Some(from) = piece(memory, from, left) else { return gone(count, done) };
        let Some(to) = piece(memory, to, from.2) else { return gone(count, done) };
        let moved = copy_piece((from.0, from.1), (to.0, to.1), to.2).map_err(|error| error.of_whole(done, count))?;
        done = done.saturating_add(moved);
    }
    Ok(())
}

fn downwards<M: GuestMemory + ?Sized>(
    memory: &M,
    src: GuestAddress,
    dst: GuestAddress,
    count: usize,
) -> Result<(), Error> {
    let mut left = count;
    while let Some(last) = left.checked_sub(1) {
        let Some(from) = piece_below(memory, src, last) else { return gone(count, 0) };
        let Some(to) = piece_below(memory, dst, last) else { return gone(count, 0) };
        // Both pieces end with the same byte of the copy; the shorter one says how far down they go together.
        let len = from.2.min(to.2);
        let (Some(from_start), Some(to_start)) = (top(&from, len), top(&to, len)) else { return gone(count, 0) };
        let slices = (host_slice(from.0, from_start, len)?, host_slice(to.0, to_start, len)?);
        let moved = if let (Some(from), Some(to)) = slices {
            from.copy_to_guest_slice(to)?
        } else {
            let len = len.min(CHUNK);
            let (Some(from_start), Some(to_start)) = (top(&from, len), top(&to, len)) else { return gone(count, 0) };
            bounce((from.0, from_start), (to.0, to_start), len)?
        };
        left = left.saturating_sub(moved);
    }
    Ok(())
}

/// A part of a copy that lies in one region: the region, the offset of the part, and its length.
type Piece<'a, R> = (&'a R, MemoryRegionAddress, usize);

/// The offset of the last `len` bytes of a piece.
fn top<R>(&(_, offset, piece): &Piece<'_, R>, len: usize) -> Option<MemoryRegionAddress> {
    offset.checked_add(piece.checked_sub(len)? as u64)
}

/// The part of the bytes `start..=start + last` that lies in the region of the last of them.
fn piece_below<M: GuestMemory + ?Sized>(memory: &M, start: GuestAddress, last: usize) -> Option<Piece<'_, M::Region>> {
    let (region, offset) = memory.to_region_addr(advance(start, last)?)?;
    let below = usize::try_from(offset.0).unwrap_or(usize::MAX).min(last);
    Some((region, offset.checked_sub(below as u64)?, below.checked_add(1)?))
}

/// Copies up to `len` bytes from one region to another, or within one, upwards: at least one.
fn copy_piece<R: GuestMemoryRegion>(
    src: (&R, MemoryRegionAddress),
    dst: (&R, MemoryRegionAddress),
    len: usize,
) -> Result<usize, Error> {
    match (host_slice(src.0, src.1, len)?, host_slice(dst.0, dst.1, len)?) {
        (Some(from), Some(to)) => from.copy_to_guest_slice(to),
        _ => bounce(src, dst, len.min(CHUNK)),
    }
}

/// Copies `len` bytes, at most a chunk, by the regions' own methods.
fn bounce<R: GuestMemoryRegion>(
    src: (&R, MemoryRegionAddress),
    dst: (&R, MemoryRegionAddress),
    len: usize,
) -> Result<usize, Error> {
    let mut chunk = [0; CHUNK];
    let buf = chunk.get_mut(..len).unwrap_or_default();
    src.0.read_slice(buf, src.1)?;
    dst.0.write_slice(buf, dst.1)?;
    Ok(len)
}

/// The answer where memory that was there a moment ago is not: an implementation of `GuestMemory` that changes.
fn gone(expected: usize, completed: usize) -> Result<(), Error> {
    Err(Error::PartialBuffer { expected, completed })
}
