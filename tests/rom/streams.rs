//! Streams into ROM: nothing is taken from the source but what was stored.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::os::unix::net::UnixStream;

use memory_model::stream::FileAt;
use memory_model::{Bytes, GuestMemory, ReadVolatile, VolatileSlice};

use crate::ground::{Guest, MADE, at, data, exact, pattern, refused, told};

const LEN: usize = 300;

/// Takes from a source of [`LEN`] bytes into ROM, and into RAM that ends before ROM; `rest` says what it has left.
fn check<S: ReadVolatile>(what: &str, source: impl Fn() -> S, rest: impl Fn(S) -> Vec<u8>) {
    for guest in MADE.map(Guest::new) {
        for done in [0, 1, 17, 150, LEN - 1, LEN] {
            let position = guest.page - done;
            let mut src = source();
            guest.track();
            let answered = guest.mem.write_from(at(position), &mut src, LEN);
            if done > 0 {
                assert_eq!(answered.unwrap(), done, "{what}");
            } else {
                assert_eq!(refused(answered), (position, 0), "{what}");
            }
            guest.check_marked(position, done, what);
            guest.check(position, &data(done), what);
            assert_eq!(rest(src), data(LEN)[done..], "{what}");
            let mut src = source();
            guest.track();
            let answered = told(guest.mem.write_all_from(at(position), &mut src, LEN));
            assert_eq!(answered, exact(position, LEN, done), "{what}");
            guest.check_marked(position, done, what);
            guest.check(position, &data(done), what);
            assert_eq!(rest(src), data(LEN)[done..], "{what}");
        }
    }
}

fn to_end(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

fn file() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&data(LEN)).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn files() {
    check("a file", file, to_end);
    let file = file();
    let behind = |rest: FileAt<'_>| data(LEN)[usize::try_from(rest.position()).unwrap()..].to_vec();
    check("a file from a position on", || FileAt::new(&file, 0), behind);
}

#[test]
fn sockets() {
    let filled = || {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&data(LEN)).unwrap();
        far
    };
    check("a socket", filled, to_end);
}

#[test]
fn buffers() {
    let bytes = data(LEN);
    check("a buffer", || &bytes[..], <[u8]>::to_vec);
    check("a cursor", || Cursor::new(&bytes[..]), to_end);
}

/// A source that counts how often it is asked.
struct Asked(usize);

impl ReadVolatile for Asked {
    fn read_volatile(&mut self, _: &VolatileSlice<'_>) -> io::Result<usize> {
        self.0 += 1;
        Ok(0)
    }
}

#[test]
fn a_source_for_rom_is_not_read_at_all() {
    for guest in MADE.map(Guest::new) {
        let (slice, mut src) = (guest.mem.get_slice(at(guest.page + 4), 100).unwrap(), Asked(0));
        assert_eq!(refused(slice.write_from(2, &mut src, 10)), (guest.page + 6, 0));
        assert_eq!(refused(slice.write_all_from(2, &mut src, 1000)), (guest.page + 6, 0));
        assert_eq!(refused(guest.rom().write_from(at(guest.page), &mut src, 10)), (guest.page, 0));
        assert_eq!(refused(guest.mem.write_all_from(at(guest.page), &mut src, 10)), (guest.page, 0));
        assert_eq!(src.0, 0);
    }
}

#[test]
fn rom_is_a_source() {
    for guest in MADE.map(Guest::new) {
        let (position, mut file) = (2 * guest.page - 100, tempfile::tempfile().unwrap());
        guest.mem.read_all_into(at(position), &mut file, 200).unwrap();
        file.rewind().unwrap();
        assert_eq!(to_end(file), pattern(position..position + 200));
    }
}
