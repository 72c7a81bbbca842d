//! Sources whose rest can be looked at, and sinks whose contents can: a file, a pipe, sockets, and buffers.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use memory_model::stream::FileAt;
use memory_model::{ReadVolatile, VolatileSlice, WriteVolatile};

use crate::ground::{data, memfd, pipe};

/// A source, and what is left of it.
pub(crate) trait Source: ReadVolatile + Sized {
    /// One that has these bytes.
    fn with(bytes: &'static [u8]) -> Self;

    /// One that has the data's first 300 bytes.
    fn full() -> Self {
        Self::with(data(300))
    }

    /// What it has left.
    fn rest(self) -> Vec<u8>;
}

/// A sink, and what has come to it.
pub(crate) trait Sink: WriteVolatile {
    fn empty() -> Self;

    /// What it has got.
    fn got(self) -> Vec<u8>;
}

fn to_end(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

impl Source for File {
    fn with(bytes: &'static [u8]) -> Self {
        let mut file = memfd(0);
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }
    fn rest(self) -> Vec<u8> {
        to_end(self)
    }
}

impl Sink for File {
    fn empty() -> Self {
        memfd(0)
    }
    fn got(mut self) -> Vec<u8> {
        self.rewind().unwrap();
        to_end(self)
    }
}

/// A file from a position on.
pub(crate) struct At {
    file: File,
    position: u64,
}

const POSITION: u64 = 5;

impl At {
    /// Does a step, and keeps the position.
    fn step(&mut self, step: impl FnOnce(&mut FileAt<'_>) -> io::Result<usize>) -> io::Result<usize> {
        let mut at = FileAt::new(&self.file, self.position);
        let moved = step(&mut at);
        self.position = at.position();
        moved
    }

    fn bytes_from(mut self, position: u64) -> Vec<u8> {
        self.file.seek(io::SeekFrom::Start(position)).unwrap();
        to_end(self.file)
    }
}

impl ReadVolatile for At {
    fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.step(|at| at.read_volatile(buf))
    }
}

impl WriteVolatile for At {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        self.step(|at| at.write_volatile(buf))
    }
}

impl Source for At {
    fn with(bytes: &'static [u8]) -> Self {
        let mut file = memfd(0);
        file.seek(io::SeekFrom::Start(POSITION)).unwrap();
        file.write_all(bytes).unwrap();
        Self { file, position: POSITION }
    }
    fn rest(self) -> Vec<u8> {
        let position = self.position;
        self.bytes_from(position)
    }
}

impl Sink for At {
    fn empty() -> Self {
        Self { file: memfd(0), position: POSITION }
    }
    fn got(self) -> Vec<u8> {
        self.bytes_from(POSITION)
    }
}

macro_rules! ends {
    ($($(#[$doc:meta])* $Name:ident($R:ty, $W:ty): $new:expr, |$writer:ident| $close:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $Name($R, $W);

        impl ReadVolatile for $Name {
            fn read_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                self.0.read_volatile(buf)
            }
        }

        impl WriteVolatile for $Name {
            fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
                self.1.write_volatile(buf)
            }
        }

        impl Source for $Name {
            fn with(bytes: &'static [u8]) -> Self {
                let (read, mut write) = $new;
                write.write_all(bytes).unwrap();
                Self(read, write)
            }
            fn rest(self) -> Vec<u8> {
                let Self(read, $writer) = self;
                $close;
                to_end(read)
            }
        }

        impl Sink for $Name {
            fn empty() -> Self {
                let (read, write) = $new;
                Self(read, write)
            }
            fn got(self) -> Vec<u8> {
                self.rest()
            }
        }
    )*};
}

ends! {
    /// A pipe's ends.
    Pipe(File, File): pipe(), |writer| drop(writer);
    /// The ends of a socket in this system.
    Socket(UnixStream, UnixStream): UnixStream::pair().unwrap(), |writer| writer.shutdown(Shutdown::Write).unwrap();
    /// The ends of a connection.
    Tcp(TcpStream, TcpStream): connection(), |writer| writer.shutdown(Shutdown::Write).unwrap();
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

impl Source for &[u8] {
    fn with(bytes: &'static [u8]) -> Self {
        bytes
    }
    fn rest(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Source for Cursor<&[u8]> {
    fn with(bytes: &'static [u8]) -> Self {
        Cursor::new(bytes)
    }
    fn rest(self) -> Vec<u8> {
        to_end(self)
    }
}

impl Sink for Vec<u8> {
    fn empty() -> Self {
        Self::new()
    }
    fn got(self) -> Vec<u8> {
        self
    }
}

impl Sink for Cursor<Vec<u8>> {
    fn empty() -> Self {
        Self::default()
    }
    /// All that there is, which is to be no more than what the position says.
    fn got(self) -> Vec<u8> {
        assert_eq!(self.position(), self.get_ref().len() as u64);
        self.into_inner()
    }
}

/// What a buffer without end holds where nothing was written.
const CANARY: u8 = 0xfe;

/// A buffer that is written to from its start, of a fixed length.
pub(crate) struct Full {
    buf: [u8; 400],
    done: usize,
}

impl WriteVolatile for Full {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let mut rest = &mut self.buf[self.done..];
        let before = rest.len();
        let written = rest.write_volatile(buf);
        self.done += before - rest.len();
        written
    }
}

impl Sink for Full {
    fn empty() -> Self {
        Self { buf: [CANARY; 400], done: 0 }
    }
    fn got(self) -> Vec<u8> {
        assert!(self.buf[self.done..].iter().all(|&byte| byte == CANARY), "more was written");
        self.buf[..self.done].to_vec()
    }
}

/// The same by a cursor.
pub(crate) struct Bound {
    buf: [u8; 400],
    position: u64,
}

impl WriteVolatile for Bound {
    fn write_volatile(&mut self, buf: &VolatileSlice<'_>) -> io::Result<usize> {
        let mut cursor = Cursor::new(&mut self.buf[..]);
        cursor.set_position(self.position);
        let written = cursor.write_volatile(buf);
        self.position = cursor.position();
        written
    }
}

impl Sink for Bound {
    fn empty() -> Self {
        Self { buf: [CANARY; 400], position: 0 }
    }
    fn got(self) -> Vec<u8> {
        Full { buf: self.buf, done: usize::try_from(self.position).unwrap() }.got()
    }
}
