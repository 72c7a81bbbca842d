//! Meets a bad page in each kind of access, and checks the answers. A program whose entries in the recovery table are lost
//! is ended by SIGBUS.

#![forbid(unsafe_code)]

use std::fs::File;
use std::process::ExitCode;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::thread;

use memory_model::guest_memory::Error;
use memory_model::{Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, IoAddress, Le32, fault_recovery};
use memory_model_outside::{exchange, fetch, index, read, sum};

/// Good memory ends here, and mapped memory goes on.
const EDGE: u64 = 0x2_0000;
const SIZE: u64 = 2 * EDGE;

/// Memory whose file was shrunk after it was mapped.
fn memory() -> Result<GuestMemoryMmap, Box<dyn std::error::Error>> {
    let file = File::from(rustix::fs::memfd_create("outside", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(SIZE)?;
    let at = FileOffset::new(file.try_clone()?, 0);
    let mem = GuestMemoryMmap::from_ranges_with_files(&[(GuestAddress(0), usize::try_from(SIZE)?, Some(at))])?;
    file.set_len(EDGE)?;
    Ok(mem)
}

/// Checks that an access met the edge after `completed` bytes, or began behind it.
#[inline(never)]
fn check<T>(what: &str, result: Result<T, Error>, first_bad: u64, completed: usize) -> usize {
    match result {
        Err(Error::Fault { addr, completed: told }) if (addr, told) == (GuestAddress(first_bad), completed) => 0,
        Err(error) => {
            eprintln!("{what}: {error}");
            1
        }
        Ok(_) => {
            eprintln!("{what}: no fault");
            1
        }
    }
}

/// Accesses of this crate's own, which are not generic.
#[inline(never)]
fn own(mem: &GuestMemoryMmap) -> usize {
    let (at, before) = (GuestAddress(EDGE), GuestAddress(EDGE - 3));
    let mut wrong = check("read of 1 byte", mem.read_obj::<u8>(at), EDGE, 0);
    wrong += check("read of 8 bytes", mem.read_obj::<u64>(at), EDGE, 0);
    wrong += check("read of 8 bytes over the edge", mem.read_obj::<u64>(before), EDGE, 3);
    wrong += check("read of 16 bytes over the edge", mem.read_obj::<u128>(before), EDGE, 3);
    wrong += check("write of 2 bytes", mem.write_obj(1_u16, at), EDGE, 0);
    wrong += check("write of 24 bytes over the edge", mem.write_obj([7_u64; 3], before), EDGE, 3);
    wrong += check("store", mem.store(1_u32, at, Release), EDGE, 0);
    wrong += check("ordered store", mem.store(1_u64, at, SeqCst), EDGE, 0);
    wrong += check("exchange", mem.compare_exchange(0_u32, 1, at, AcqRel, Acquire), EDGE, 0);
    wrong += check("copy", mem.copy(GuestAddress(0), GuestAddress(EDGE - 10), 20), EDGE, 10);
    wrong += check("fill", mem.fill(1, 5000, GuestAddress(EDGE - 4000)), EDGE, 4000);
    wrong += check("write of a slice", mem.write_slice(&[1; 300], GuestAddress(EDGE - 100)), EDGE, 100);
    let slice = mem.get_slice(GuestAddress(EDGE - 8), 16);
    wrong += check("bits", slice.and_then(|slice| slice.fetch_or(1_u8, 8, SeqCst)), EDGE, 0);
    wrong + usize::from(mem.read_obj::<[u8; 3]>(before).ok() != Some([1; 3]))
}

/// Accesses that came from the library by way of another crate.
fn by_way_of_another(mem: &GuestMemoryMmap) -> usize {
    let (at, before) = (GuestAddress(EDGE), GuestAddress(EDGE - 1));
    let mut wrong = check("read", read::<u16, _>(mem, at), EDGE, 0);
    wrong += check("read over the edge", read::<Le32, _>(&mem, before), EDGE, 1);
    wrong += check("exchange", exchange(mem, 3_u32, before), EDGE, 1);
    wrong += check("exchange of an array", exchange(mem, [3_u8; 40], before), EDGE, 1);
    wrong += check("index", index(mem, IoAddress(EDGE)), EDGE, 0);
    wrong += check("sum", sum(mem, GuestAddress(EDGE - 40), 10), EDGE, 0);
    wrong += check("fetch", fetch(mem, &mut [0; 100], GuestAddress(EDGE - 60)), EDGE, 60);
    let calls: [Box<dyn Fn() -> Result<u64, Error>>; 2] =
        [Box::new(|| read(mem, at)), Box::new(|| exchange(mem, 9_u64, at))];
    wrong + calls.iter().map(|call| check("call", call(), EDGE, 0)).sum::<usize>()
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mem = memory()?;
    if !fault_recovery::is_installed() {
        eprintln!("skipped: no fault recovery on this target");
        return Ok(ExitCode::SUCCESS);
    }
    let mut wrong = own(&mem) + by_way_of_another(&mem);
    let in_thread =
        || (0..100).map(|_| check("read in a thread", mem.read_obj::<u32>(GuestAddress(EDGE)), EDGE, 0)).sum();
    wrong += thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(in_thread));
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum::<usize>()
    });
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
