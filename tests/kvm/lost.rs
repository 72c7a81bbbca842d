//! Writes of a guest that runs are in one of the harvests, while memory comes and goes.

use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use memory_model::{Bytes, GuestAddress};

use crate::ground::{Machine, PAGE, region};

const FIRST: u64 = 0x1_0000;
const PAGES: u64 = 64;

/// Counts up in each of the pages, over and over, until the host writes to `STOP`.
///
/// ```text
///   again:  mov ax, 0x1000         ; the first page, as a segment
///   page:   mov es, ax
///           inc dword es:[0]
///           add ax, 0x100          ; the next
///           cmp ax, 0x5000
///           jne page
///           cmp byte [STOP], 0
///           je again
///           hlt
/// ```
const PROGRAM: &[u8] = &[
    0xb8, 0x00, 0x10, 0x8e, 0xc0, 0x66, 0x26, 0xff, 0x06, 0x00, 0x00, 0x05, 0x00, 0x01, 0x3d, 0x00, 0x50, 0x75, 0xf0,
    0x80, 0x3e, 0x00, 0x0f, 0x00, 0x74, 0xe6, 0xf4,
];
const PROGRAM_AT: u64 = 0x100;
const STOP: u64 = 0xf00;

#[test]
fn a_copy_that_follows_the_log_is_at_last_the_memory() {
    let Some(Machine { map, slots, mut vcpu }) = Machine::new() else { return };
    map.insert_region(region(FIRST, usize::try_from(PAGES * PAGE).unwrap())).unwrap();
    map.memory().write_slice(PROGRAM, GuestAddress(PROGRAM_AT)).unwrap();
    let mut registers = vcpu.get_regs().unwrap();
    (registers.rip, registers.rflags) = (PROGRAM_AT, 2);
    vcpu.set_regs(&registers).unwrap();
    let kvm_log = slots.start_logging().unwrap();
    let log = map.memory().start_tracking(PAGE).unwrap();
    let vcpu = thread::spawn(move || {
        loop {
            match vcpu.run() {
                Ok(VcpuExit::Hlt) => return,
                Ok(VcpuExit::Intr) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    let counters = || -> Vec<u32> {
        (0..PAGES).map(|page| map.memory().read_obj(GuestAddress(FIRST + page * PAGE)).unwrap()).collect()
    };
    let mut copy = counters();
    let mut copied = 0_usize;
    let mut follow = || {
        kvm_log.sync().unwrap();
        let harvest = log.harvest();
        for range in harvest.ranges() {
            for at in (range.start..range.start + range.len).step_by(0x1000).filter(|at| *at >= FIRST) {
                copy[usize::try_from((at - FIRST) / PAGE).unwrap()] = map.memory().read_obj(GuestAddress(at)).unwrap();
                copied += 1;
            }
        }
        harvest.commit();
        (copy == counters(), copied)
    };
    let end = Instant::now() + Duration::from_secs(60);
    for round in 0_u64.. {
        let (_, copied) = follow();
        if round >= 300 && (copied > 1000 || Instant::now() > end) {
            break;
        }
        // Meanwhile, another comes and goes.
        let at = GuestAddress(0x8_0000 + round % 4 * 0x1_0000);
        map.insert_region(region(at.0, 0x1000)).unwrap();
        map.remove_region(at, 0x1000).unwrap();
    }
    map.memory().write_obj(1_u8, GuestAddress(STOP)).unwrap();
    vcpu.join().unwrap();
    let (is_same, copied) = follow();
    assert!(is_same, "writes of the guest are in no harvest");
    assert!(copied > 1000, "the guest hardly ran: {copied} pages");
}
