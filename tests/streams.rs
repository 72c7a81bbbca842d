//! Every kind of stream, in both directions, against real files, sockets and pipes.

#![cfg(all(feature = "mmap", unix))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use memory_model::stream::FileAt;
use memory_model::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile, VolatileSlice, WriteVolatile};

const TEXT: &[u8] = b"from a stream to the guest and back";

/// Memory whose first region ends inside the text, and the text's address.
fn memory() -> (GuestMemoryMmap, GuestAddress) {
    let ranges = [(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)];
    (GuestMemoryMmap::from_ranges(&ranges).unwrap(), GuestAddress(0x2000 - 7))
}

/// Reads the text from `src` into guest memory.
fn arrives(mut src: impl ReadVolatile) {
    let (mem, addr) = memory();
    mem.write_all_from(addr, &mut src, TEXT.len()).unwrap();
    let mut back = vec![0; TEXT.len()];
    mem.read_slice(&mut back, addr).unwrap();
    assert_eq!(back, TEXT);
}

/// Writes the text from guest memory to `dst`.
fn leaves(dst: &mut impl WriteVolatile) {
    let (mem, addr) = memory();
    mem.write_slice(TEXT, addr).unwrap();
    mem.read_all_into(addr, dst, TEXT.len()).unwrap();
}

fn file() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(TEXT).unwrap();
    file.rewind().unwrap();
    file
}

fn contents(mut file: File) -> Vec<u8> {
    let mut contents = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut contents).unwrap();
    contents
}

#[test]
fn files_by_value_by_reference_and_by_descriptor() {
    arrives(file());
    arrives(&file());
    arrives(&mut file());
    arrives(OwnedFd::from(file()));
    arrives(file().as_fd());

    let out = tempfile::tempfile().unwrap();
    leaves(&mut out.try_clone().unwrap());
    leaves(&mut &out);
    leaves(&mut out.as_fd());
    leaves(&mut OwnedFd::from(out.try_clone().unwrap()));
    assert_eq!(contents(out), TEXT.repeat(4));
}

#[test]
fn positioned_files_leave_the_cursor_alone_and_reach_past_4_gib() {
    let mut file = file();
    file.seek(io::SeekFrom::Start(3)).unwrap();
    arrives(FileAt::new(&file, 0));
    let far = (5 << 30) + 123;
    let mut out = FileAt::new(&file, far);
    leaves(&mut out);
    assert_eq!(out.position(), far + TEXT.len() as u64);
    arrives(FileAt::new(&file, far));
    assert_eq!(file.stream_position().unwrap(), 3);

    let mut byte = [0];
    let past = FileAt::new(&file, u64::MAX).read_volatile(&VolatileSlice::from(&mut byte[..]));
    assert_eq!(past.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn sockets() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(TEXT).unwrap();
    arrives(&ours);
    leaves(&mut ours);
    drop(ours);
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).unwrap();
    assert_eq!(received, TEXT);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    theirs.write_all(TEXT).unwrap();
    arrives(&ours);
    leaves(&mut ours);
    let mut received = vec![0; TEXT.len()];
    theirs.read_exact(&mut received).unwrap();
    assert_eq!(received, TEXT);
}

#[test]
fn pipes_and_short_reads() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    leaves(&mut stdin);
    drop(stdin);
    arrives(child.stdout.take().unwrap());
    assert!(child.wait().unwrap().success());

    // A writer that dribbles: `write_from` stops at what there is, `write_all_from` goes on.
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (mem, addr) = memory();
    theirs.write_all(&TEXT[..5]).unwrap();
    assert_eq!(mem.write_from(addr, &mut &ours, TEXT.len()).unwrap(), 5);
    thread::scope(|scope| {
        scope.spawn(|| TEXT[5..].iter().for_each(|byte| theirs.write_all(&[*byte]).unwrap()));
        mem.write_all_from(GuestAddress(addr.0 + 5), &mut &ours, TEXT.len() - 5).unwrap();
    });
    let mut back = vec![0; TEXT.len()];
    mem.read_slice(&mut back, addr).unwrap();
    assert_eq!(back, TEXT);
}

#[test]
fn stdout_keeps_the_order_with_what_was_printed_before() {
    // This test runs itself in a child process, whose output it reads.
    if std::env::var_os("WRITE_TO_STDOUT").is_some() {
        let mut out = io::stdout();
        out.write_all(b"<before>").unwrap();
        leaves(&mut out);
        leaves(&mut out.lock());
        out.write_all(b"<after>").unwrap();
        return;
    }
    let name = "stdout_keeps_the_order_with_what_was_printed_before";
    // Under emulation (scripts/cross.sh) the child needs the emulator, too.
    let runner = std::env::var("CROSS_RUNNER").unwrap_or_default();
    let mut command = runner.split_whitespace().map(OsString::from).chain([std::env::current_exe().unwrap().into()]);
    let child = Command::new(command.next().unwrap())
        .args(command)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("WRITE_TO_STDOUT", "1")
        .output()
        .unwrap();
    let text = std::str::from_utf8(TEXT).unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    assert!(output.contains(&format!("<before>{text}{text}<after>")), "{output}");
}

#[test]
fn buffers() {
    arrives(TEXT);
    arrives(Cursor::new(TEXT));
    let mut cursor = Cursor::new([b"skipped ", TEXT].concat());
    cursor.set_position(8);
    arrives(&mut cursor);
    assert_eq!(cursor.position(), 8 + TEXT.len() as u64);

    let mut grown = b"before ".to_vec();
    leaves(&mut grown);
    assert_eq!(grown, [b"before ", TEXT].concat());

    let mut array = [0; 64];
    let mut rest = &mut array[..];
    leaves(&mut rest);
    assert_eq!(rest.len(), 64 - TEXT.len());
    assert_eq!(&array[..TEXT.len()], TEXT);

    let mut cursor = Cursor::new(&mut array[..]);
    cursor.set_position(10);
    leaves(&mut cursor);
    assert_eq!(&array[10..10 + TEXT.len()], TEXT);

    let mut cursor = Cursor::new(b"01234567".to_vec());
    cursor.set_position(4);
    leaves(&mut cursor);
    assert_eq!(cursor.into_inner(), [b"0123", TEXT].concat());
    let mut cursor = Cursor::new(Vec::new());
    cursor.set_position(2);
    leaves(&mut cursor);
    assert_eq!(cursor.into_inner(), [b"\0\0", TEXT].concat());
}

/// A source that is interrupted every other time.
struct Interrupted(u32);

impl ReadVolatile for Interrupted {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.0 += 1;
        if self.0 % 2 == 1 { Err(ErrorKind::Interrupted.into()) } else { (&b"x"[..]).read_volatile(buf) }
    }
}

#[test]
fn exact_transfers_of_a_slice_go_on_until_the_end() {
    let mut buffer = [0; 8];
    let slice = VolatileSlice::from(&mut buffer[..]);
    (&b"12345678"[..]).read_exact_volatile(&slice).unwrap();
    let short = (&b"1234"[..]).read_exact_volatile(&slice);
    assert_eq!(short.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let mut small = [0; 5];
    let full = (&mut small[..]).write_all_volatile(&slice);
    assert_eq!(full.unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(&small, b"12345");

    Interrupted(0).read_exact_volatile(&slice).unwrap();
    assert_eq!(&buffer, b"xxxxxxxx");
    let (mem, addr) = memory();
    mem.write_all_from(addr, &mut Interrupted(0), 20).unwrap();
    assert_eq!(mem.read_obj::<[u8; 20]>(addr).unwrap(), [b'x'; 20]);
}

#[test]
fn an_error_of_the_stream_arrives() {
    let (mem, addr) = memory();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let error = mem.write_from(addr, &mut &ours, 8).unwrap_err();
    let memory_model::guest_memory::Error::Io(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}
