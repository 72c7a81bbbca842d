//! Kernels made by hand, field by field, so that each can be broken.

use crate::support::Random;

/// Writes a number's bytes into an image.
pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;
pub(crate) const RX: u32 = 5;
pub(crate) const RW: u32 = 6;

/// A program header, of either class.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) virtual_addr: u64,
    pub(crate) addr: u64,
    pub(crate) file_len: u64,
    pub(crate) memory_len: u64,
    pub(crate) align: u64,
}

/// The tests' kernel: text and data that end in one region and go on in the next, a `.bss`, and a note.
pub(crate) struct Elf {
    pub(crate) is_64: bool,
    pub(crate) entry: u64,
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Vec<u8>,
}

/// Where the bodies of the segments begin in the file.
pub(crate) const BODY: u64 = 0x200;
pub(crate) const TEXT: Header = Header {
    kind: PT_LOAD,
    flags: RX,
    offset: BODY,
    virtual_addr: 0xffff_ffff_8000_0000,
    addr: 0x4000,
    file_len: 0x1234,
    memory_len: 0x1234,
    align: 0x1000,
};
pub(crate) const DATA: Header = Header {
    kind: PT_LOAD,
    flags: RW,
    offset: BODY + 0x1300,
    virtual_addr: 0xffff_ffff_8000_2000,
    addr: 0x7f00,
    file_len: 0x321,
    memory_len: 0x1500,
    align: 0x1000,
};
const NOTE_OFFSET: u64 = BODY + 0x1800;
pub(crate) const PVH: u64 = 0x4100;

impl Elf {
    pub(crate) fn new() -> Self {
        let mut body = Random(1).bytes(0x1900);
        let at = usize::try_from(NOTE_OFFSET - BODY).unwrap();
        // One of another owner with the same type; one of Xen's with another type; the one that counts.
        let notes =
            [note(b"GNU\0", 18, &[1; 4]), note(b"Xen\0", 6, b"linux\0"), note(b"Xen\0", 18, &PVH.to_le_bytes())];
        let notes = notes.concat();
        put(&mut body, at, &notes);
        let (offset, len) = (NOTE_OFFSET, notes.len() as u64);
        let note = Header {
            kind: PT_NOTE,
            flags: 4,
            offset,
            file_len: len,
            memory_len: len,
            align: 4,
            virtual_addr: 0,
            addr: 0,
        };
        // Not by ascending address, as in no file of a linker's.
        Self { is_64: true, entry: TEXT.virtual_addr + 0x40, headers: vec![DATA, note, TEXT], body }
    }

    /// The same for 32 bits: only the addresses that fit.
    pub(crate) fn new_32() -> Self {
        let mut elf = Self::new();
        elf.is_64 = false;
        elf.entry = 0xc000_0040;
        elf.headers[0].virtual_addr = 0xc000_2000;
        elf.headers[2].virtual_addr = 0xc000_0000;
        elf
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(BODY).unwrap()];
        let count = u16::try_from(self.headers.len()).unwrap();
        put(&mut image, 0, b"\x7fELF");
        put(&mut image, 4, &[if self.is_64 { 2 } else { 1 }, 1, 1]);
        put(&mut image, 16, &2_u16.to_le_bytes()); // ET_EXEC
        put(&mut image, 18, &if self.is_64 { 62_u16 } else { 3 }.to_le_bytes());
        put(&mut image, 20, &1_u32.to_le_bytes());
        let sizes: [u16; 3] = if self.is_64 { [64, 56, count] } else { [52, 32, count] };
        if self.is_64 {
            put(&mut image, 24, &self.entry.to_le_bytes());
            put(&mut image, 32, &64_u64.to_le_bytes());
        } else {
            put(&mut image, 24, &low(self.entry));
            put(&mut image, 28, &52_u32.to_le_bytes());
        }
        for (number, size) in sizes.iter().enumerate() {
            put(&mut image, if self.is_64 { 52 } else { 40 } + 2 * number, &size.to_le_bytes());
        }
        for (number, header) in self.headers.iter().enumerate() {
            let bytes = if self.is_64 { header.bytes_64() } else { header.bytes_32() };
            put(&mut image, usize::from(sizes[0]) + number * bytes.len(), &bytes);
        }
        image.extend(&self.body);
        image
    }
}

fn low(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}

impl Header {
    fn bytes_64(&self) -> Vec<u8> {
        let words = [self.offset, self.virtual_addr, self.addr, self.file_len, self.memory_len, self.align];
        [self.kind, self.flags]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .chain(words.iter().flat_map(|word| word.to_le_bytes()))
            .collect()
    }

    fn bytes_32(&self) -> Vec<u8> {
        let first = [self.offset, self.virtual_addr, self.addr, self.file_len, self.memory_len];
        let words = [u64::from(self.kind)].into_iter().chain(first).chain([self.flags.into(), self.align]);
        words.flat_map(low).collect()
    }
}

/// A note, padded to 4 bytes.
pub(crate) fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let sizes = [name.len(), desc.len()].map(|len| u32::try_from(len).unwrap().to_le_bytes());
    let mut bytes = [sizes[0], sizes[1], kind.to_le_bytes()].concat();
    for part in [name, desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

pub(crate) const SETUP_SECTS: u8 = 3;
/// Where the protected-mode code begins in the file.
pub(crate) const CODE: usize = (SETUP_SECTS as usize + 1) * 512;
pub(crate) const CODE_LEN: usize = 0x1f00;
pub(crate) const PREF_ADDRESS: u64 = 0x10_4000;
pub(crate) const INIT_SIZE: u32 = 0x9000;

/// The tests' bzImage: protocol 2.15, relocatable, 64-bit, with a signature after the code.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut image = Random(2).bytes(CODE + CODE_LEN + 77);
    put(&mut image, 0x1f1, &[SETUP_SECTS]);
    put(&mut image, 0x1f4, &u32::try_from(CODE_LEN / 16).unwrap().to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut image, 0x210, &[0, 1]);
    put(&mut image, 0x214, &0x10_0000_u32.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut image, 0x230, &0x1000_u32.to_le_bytes());
    put(&mut image, 0x234, &[1, 12, 3, 0]);
    put(&mut image, 0x238, &63_u32.to_le_bytes());
    put(&mut image, 0x258, &PREF_ADDRESS.to_le_bytes());
    put(&mut image, 0x260, &INIT_SIZE.to_le_bytes());
    image
}

/// [`bzimage`] with a few bytes replaced.
pub(crate) fn bzimage_with(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = bzimage();
    for (at, bytes) in changes {
        put(&mut image, *at, bytes);
    }
    image
}
