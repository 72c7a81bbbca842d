//! The guest: its program, and the thread of its processor.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

/// Where the program lies: its first page.
pub(crate) const PROGRAM_AT: u64 = 0x1000;
/// The pages to be written, as segments of 16 bits (address / 16), ended by 0.
pub(crate) const LIST_AT: u64 = 0x2000;
/// A byte: what the guest is to do. It takes it by writing 0.
pub(crate) const MAILBOX_AT: u64 = 0x3000;
/// To write the pages of the list.
pub(crate) const WRITE: u8 = 1;
/// To halt.
pub(crate) const HALT: u8 = 2;
/// Where in each page the guest writes, and what.
pub(crate) const WRITTEN_AT: u64 = 0x8;
/// What it writes there.
pub(crate) const WRITTEN: u8 = 0x5a;
/// The port by which it says that it has written them.
const DONE_PORT: u16 = 0x10;
/// The errno of a system call that a signal has ended: EINTR.
const INTERRUPTED: i32 = 4;

/// In real mode, with CS = DS = 0. It uses no stack, and no interrupt comes.
#[rustfmt::skip]
pub(crate) const PROGRAM: &[u8] = &[
    0xf3, 0x90,                         // wait: pause
    0xa0, 0x00, 0x30,                   //       mov al, [MAILBOX_AT]
    0x84, 0xc0,                         //       test al, al
    0x74, 0xf7,                         //       jz wait
    0x3c, HALT,                         //       cmp al, HALT
    0x74, 0x1b,                         //       je halt
    0xc6, 0x06, 0x00, 0x30, 0x00,       //       mov byte [MAILBOX_AT], 0
    0xbe, 0x00, 0x20,                   //       mov si, LIST_AT
    0xad,                               // page: lodsw
    0x85, 0xc0,                         //       test ax, ax
    0x74, 0x0a,                         //       jz done
    0x8e, 0xc0,                         //       mov es, ax
    0x26, 0xc6, 0x06, 0x08, 0x00, 0x5a, //       mov byte es:[WRITTEN_AT], WRITTEN
    0xeb, 0xf1,                         //       jmp page
    0xe6, 0x10,                         // done: out DONE_PORT, al
    0xeb, 0xd8,                         //       jmp wait
    0xf4,                               // halt: hlt
];

/// What the processor's thread says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest has written the pages.
    Done,
    /// It has halted, and the thread is at its end.
    Halted,
    /// This host cannot run it.
    CannotRun(String),
    /// It did what its program does not.
    Strange(String),
}

/// The guest at work, in a thread of its own.
pub(crate) struct Guest {
    events: Receiver<Event>,
}

impl Guest {
    /// Starts it.
    pub(crate) fn start(vm: &VmFd) -> Result<Self, kvm_ioctls::Error> {
        let vcpu = vm.create_vcpu(0)?;
        let mut segments = vcpu.get_sregs()?;
        (segments.cs.base, segments.cs.selector) = (0, 0);
        vcpu.set_sregs(&segments)?;
        let mut registers = vcpu.get_regs()?;
        (registers.rip, registers.rflags) = (PROGRAM_AT, 2); // bit 1 is always set
        vcpu.set_regs(&registers)?;
        let (sender, events) = channel();
        std::thread::spawn(move || run(vcpu, &sender));
        Ok(Self { events })
    }

    /// What it says next, for which it has time enough.
    pub(crate) fn next(&self) -> Event {
        const LONG: Duration = Duration::from_secs(20);
        self.events.recv_timeout(LONG).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Event::Strange(format!("nothing was heard of it for {LONG:?}")),
            RecvTimeoutError::Disconnected => Event::Strange("its thread is gone".into()),
        })
    }
}

/// Runs the processor, and tells what it does, until it halts.
fn run(mut vcpu: VcpuFd, events: &Sender<Event>) {
    loop {
        let event = match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => Event::Done,
            Ok(VcpuExit::Hlt) => Event::Halted,
            // A signal, for instance of a debugger.
            Ok(VcpuExit::Intr) => continue,
            Err(error) if error.errno() == INTERRUPTED => continue,
            Ok(exit @ (VcpuExit::FailEntry(..) | VcpuExit::InternalError)) => Event::CannotRun(format!("{exit:?}")),
            Ok(exit) => Event::Strange(format!("{exit:?}")),
            Err(error) => Event::CannotRun(error.to_string()),
        };
        let is_over = !matches!(event, Event::Done);
        if events.send(event).is_err() || is_over {
            return;
        }
    }
}
