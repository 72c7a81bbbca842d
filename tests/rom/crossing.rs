//! Writes that begin in RAM and run into ROM: the part in RAM is done, told and marked; nothing else is.

use std::sync::Arc;

use memory_model::guest_memory::Error;
use memory_model::{Address, Bytes, DataInit, GuestMemory, IoAddress, IoMemory};

use crate::ground::{BASE, Guest, Made, at, data, exact, pattern, refused, told};

/// A write of `len` bytes of which `done` are before the ROM, and what came of it.
struct Write<'a> {
    guest: &'a Guest,
    len: usize,
    done: usize,
}

impl Write<'_> {
    fn position(&self) -> usize {
        self.guest.page - self.done
    }

    /// Does it, and checks that just its part in RAM was done.
    fn check(&self, what: &str, written: &[u8], write: impl FnOnce()) {
        let what = format!("{what}: {} of {} bytes", self.done, self.len);
        self.guest.track();
        write();
        self.guest.check_marked(self.position(), self.done, &what);
        self.guest.check(self.position(), &written[..self.done], &what);
    }
}

fn check<A: Address, M: Bytes<A, E = Error>>(guest: &Guest, mem: &M, at: impl Fn(usize) -> A) {
    let lens = [1, 2, 3, 8, 16, 31, 64, 300, guest.page];
    for (len, done) in lens.into_iter().flat_map(|len| [0, 1, 2, 7, 8, 17, 100, 299].map(|done| (len, done))) {
        // More than all of the ROM, and some of what is behind it.
        let len = if done % 2 == 0 { len } else { len + guest.page + 50 };
        if done > len {
            continue;
        }
        let write = Write { guest, len, done };
        let (position, bytes) = (write.position(), data(len));
        let addr = || at(position);
        write.check("write", &bytes, || {
            let answered = mem.write(&bytes, addr());
            if done > 0 {
                assert_eq!(answered.unwrap(), done);
            } else {
                assert_eq!(refused(answered), (position, 0));
            }
        });
        write.check("write_slice", &bytes, || {
            assert_eq!(told(mem.write_slice(&bytes, addr())), exact(position, len, done));
        });
        write.check("fill", &vec![0xab; len], || {
            assert_eq!(told(mem.fill(0xab, len, addr())), exact(position, len, done));
        });
        let mut source = &bytes[..];
        write.check("write_from", &bytes, || {
            let answered = mem.write_from(addr(), &mut source, len);
            if done > 0 {
                assert_eq!(answered.unwrap(), done);
            } else {
                assert_eq!(refused(answered), (position, 0));
            }
        });
        assert_eq!(source, &bytes[done..], "the source keeps the rest");
        let mut source = &bytes[..];
        write.check("write_all_from", &bytes, || {
            assert_eq!(told(mem.write_all_from(addr(), &mut source, len)), exact(position, len, done));
        });
        assert_eq!(source, &bytes[done..], "the source keeps the rest");
    }
    check_value::<u16, _, _>(guest, mem, &at);
    check_value::<u64, _, _>(guest, mem, &at);
    check_value::<u128, _, _>(guest, mem, &at);
    check_value::<[u8; 5], _, _>(guest, mem, &at);
    check_value::<[u8; 100], _, _>(guest, mem, &at);
}

fn check_value<T: DataInit, A: Address, M: Bytes<A, E = Error>>(guest: &Guest, mem: &M, at: impl Fn(usize) -> A) {
    let len = size_of::<T>();
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(&data(len));
    for done in 0..=len {
        let write = Write { guest, len, done };
        write.check("write_obj", &data(len), || {
            let answered = mem.write_obj(value, at(write.position()));
            assert_eq!(told(answered), exact(write.position(), len, done));
        });
    }
}

#[test]
fn collections_and_pointers_to_them() {
    let guest = Guest::new(Made::Region);
    check(&guest, &guest.mem, at);
    check(&guest, &&guest.mem, at);
    check(&guest, &Arc::new(guest.mem.clone()), at);
}

#[test]
fn memory_as_a_device_sees_it() {
    fn through<I: IoMemory>(guest: &Guest, mem: &I) {
        check(guest, mem, |position| IoAddress(BASE + position as u64));
    }
    let guest = Guest::new(Made::Mapped);
    through(&guest, &guest.mem);
}

#[test]
fn out_of_rom_nothing_is_done_and_reads_cross_both_ways() {
    let guest = Guest::new(Made::Mapping);
    guest.track();
    let position = 2 * guest.page - 10;
    assert_eq!(refused(guest.mem.write(&data(20), at(position))), (position, 0));
    assert_eq!(refused(guest.mem.write_slice(&data(20), at(position))), (position, 0));
    assert_eq!(refused(guest.mem.fill(1, 20, at(position))), (position, 0));
    assert_eq!(refused(guest.mem.write_obj(1_u128, at(position))), (position, 0));
    guest.check_marked(0, 0, "out of ROM");
    guest.check(0, &[], "out of ROM");
    for position in [guest.page - 10, position] {
        let mut buf = [0; 20];
        assert_eq!(guest.mem.read(&mut buf, at(position)).unwrap(), 20);
        assert_eq!(buf[..], pattern(position..position + 20));
        assert_eq!(guest.mem.read_obj::<[u8; 20]>(at(position)).unwrap(), buf);
    }
    assert!(guest.mem.check_range(at(0), 3 * guest.page));
}
