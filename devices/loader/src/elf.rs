//! ELF kernels (gABI 4.1, chapter 5 "Program Loading"): all checks first, then the segments.

use std::cell::Cell;
use std::fs::File;
use std::io;

use memory_model::{Address, Bytes, GuestAddress, GuestMemory};
use object::LittleEndian;
use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ET_DYN, ET_EXEC, EV_CURRENT, FileHeader32, FileHeader64, Ident, PF_X, PT_LOAD,
};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};

use crate::bzimage::LAST_BELOW_4G;
use crate::notes::find_pvh_entry;
use crate::source::{Reader, Source};
use crate::{ElfClass, Error, Found, KernelFormat, LoadedKernel, LoadedRange, RangeKind};

/// Kernels have about five. The bound keeps a file from making the loader allocate much.
const MAX_PROGRAM_HEADERS: u16 = 256;

/// Loads an ELF kernel, of 32 or 64 bits, little-endian, for any machine.
///
/// Each `PT_LOAD` segment goes to its physical address (`p_paddr`) plus `bias` bytes; what it has in memory beyond the
/// file is set to zero. `bias` is for kernels that run at any address; it moves the entries, too. Nothing is relocated.
///
/// `e_entry` is a virtual address by the specification: if it lies in an executable segment, it is translated. Else, as
/// in Linux for x86-64, it is taken as a physical one.
///
/// Notes are optional: the contents and the position of a `PT_NOTE` segment never prevent loading. The PVH entry
/// is looked for in the first 64 KiB of each such segment, as far as they lie in the file. A note that names an address
/// outside of the loaded bytes, or (with `bias`) at 4 GiB or above, is ignored.
///
/// # Errors
///
/// [`Error::UnknownFormat`], [`Error::Truncated`], [`Error::BadField`]: the file.
/// [`Error::NothingToLoad`], [`Error::SegmentTooLong`], [`Error::OutsideMemory`], [`Error::NotRam`], [`Error::Overlap`],
/// [`Error::AddressOverflow`]: a segment. [`Error::EntryOutside`]: an entry that is in no segment's bytes of the file.
/// Memory is untouched then. [`Error::Io`], also before; [`Error::Copy`], when part of memory was written.
pub fn load_elf<M>(memory: &M, file: &File, bias: u64) -> Result<LoadedKernel, Error>
where
    M: GuestMemory + ?Sized,
{
    let source = Source::new(file)?;
    let plan = match check_ident(&source)? {
        ElfClass::Elf32 => Plan::new::<FileHeader32<LittleEndian>>(&source, bias),
        ElfClass::Elf64 => Plan::new::<FileHeader64<LittleEndian>>(&source, bias),
    }?;
    plan.check_in(memory)?;

    let mut ranges = Vec::new();
    for segment in &plan.segments {
        let loaded = segment.loaded();
        if loaded.len > 0 {
            source.load(memory, loaded, segment.file_offset)?;
            ranges.push(loaded);
        }
        let zeroes = segment.zeroes();
        if zeroes.len > 0 {
            memory
                .fill(0, zeroes.access_len()?, zeroes.addr)
                .map_err(|source| Error::Copy { range: zeroes, source })?;
            ranges.push(zeroes);
        }
    }
    Ok(LoadedKernel { format: plan.format, entry: plan.entry, ranges })
}

/// The file's first 16 bytes, which say how to read the rest.
fn check_ident(source: &Source<'_>) -> Result<ElfClass, Error> {
    let found = Found::in_file(source)?;
    if found != Found::Elf {
        return Err(Error::UnknownFormat { wanted: "an ELF file", found });
    }
    source.check("ELF identification", 0, size_of::<Ident>() as u64)?;
    let [_, _, _, _, class, data, version, ..]: [u8; size_of::<Ident>()] = source.head()?;
    let bad = |field, value: u8, wanted| Err(Error::BadField { field, value: value.into(), wanted });
    if data != ELFDATA2LSB.0 {
        return bad("EI_DATA", data, "1: only little-endian kernels are loaded");
    }
    if version != EV_CURRENT.0 {
        return bad("EI_VERSION", version, "1");
    }
    match class {
        _ if class == ELFCLASS32.0 => Ok(ElfClass::Elf32),
        _ if class == ELFCLASS64.0 => Ok(ElfClass::Elf64),
        _ => bad("EI_CLASS", class, "1 (32 bits) or 2 (64 bits)"),
    }
}

/// A `PT_LOAD` segment with at least one byte in memory.
struct Segment {
    number: u16,
    file_offset: u64,
    /// At most `memory_len`.
    file_len: u64,
    memory_len: u64,
    addr: GuestAddress,
    virtual_addr: u64,
    executable: bool,
}

impl Segment {
    fn whole(&self) -> LoadedRange {
        LoadedRange::new(RangeKind::Segment(self.number), self.addr, self.memory_len)
    }

    fn loaded(&self) -> LoadedRange {
        LoadedRange { len: self.file_len, ..self.whole() }
    }

    fn zeroes(&self) -> LoadedRange {
        // Once the whole is known to lie in memory, neither saturates; a segment without zeroes may end at 2^64.
        let addr = GuestAddress(self.addr.0.saturating_add(self.file_len));
        LoadedRange::new(RangeKind::Zeroes(self.number), addr, self.memory_len.saturating_sub(self.file_len))
    }
}

/// What is to be done, from the headers alone.
struct Plan {
    format: KernelFormat,
    entry: GuestAddress,
    /// By ascending address.
    segments: Vec<Segment>,
}

impl Plan {
    fn new<Elf: FileHeader<Endian = LittleEndian>>(source: &Source<'_>, bias: u64) -> Result<Self, Error> {
        let trouble = Cell::new(None);
        let cache = ReadCache::new(Reader::new(source, &trouble));
        Self::read::<Elf>(&cache, source, bias).map_err(|error| trouble.take().map_or(error, Error::Io))
    }

    fn read<Elf: FileHeader<Endian = LittleEndian>>(
        cache: &ReadCache<Reader<'_>>,
        source: &Source<'_>,
        bias: u64,
    ) -> Result<Self, Error> {
        source.check("ELF header", 0, size_of::<Elf>() as u64)?;
        let header = Elf::parse(cache).or(Err(unreadable()))?;
        let headers = program_headers(header, cache, source)?;

        let mut segments = Vec::new();
        for (number, header) in (0..).zip(headers).filter(|(_, header)| header.p_type(LittleEndian) == PT_LOAD) {
            segments.extend(segment(number, header, source, bias)?);
        }
        if segments.is_empty() {
            return Err(Error::NothingToLoad);
        }
        segments.sort_by_key(|segment| segment.addr);

        let entry = header.e_entry(LittleEndian).into();
        let entry =
            find_entry(&segments, entry, bias).ok_or(Error::EntryOutside { what: "entry point", addr: entry })?;
        let pvh_entry = find_pvh_entry(headers, source, |addr| find_pvh(&segments, addr, bias))?;
        let class = if header.is_type_64() { ElfClass::Elf64 } else { ElfClass::Elf32 };
        let format = KernelFormat::Elf { class, machine: header.e_machine(LittleEndian).0, pvh_entry };
        Ok(Self { format, entry, segments })
    }

    /// Each segment lies in RAM, and no two at the same place.
    fn check_in<M: GuestMemory + ?Sized>(&self, memory: &M) -> Result<(), Error> {
        for segment in &self.segments {
            segment.whole().check_in(memory)?;
        }
        // Neighbours are enough: they are sorted.
        for (lower, upper) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            upper.whole().check_apart_from(&[lower.whole()])?;
        }
        Ok(())
    }
}

/// For what `object` refuses though it was checked here: the file cannot be read, or changed meanwhile.
fn unreadable() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidData, "the ELF headers changed while they were read"))
}

/// The program headers, if there are some.
fn program_headers<'data, Elf: FileHeader<Endian = LittleEndian>>(
    header: &Elf,
    cache: &'data ReadCache<Reader<'_>>,
    source: &Source<'_>,
) -> Result<&'data [Elf::ProgramHeader], Error> {
    let bad = |field, value: u16, wanted| Err(Error::BadField { field, value: value.into(), wanted });
    let kind = header.e_type(LittleEndian);
    if kind != ET_EXEC && kind != ET_DYN {
        return bad("e_type", kind.0, "2 (executable) or 3 (position-independent)");
    }
    let (offset, count) = (header.e_phoff(LittleEndian).into(), header.e_phnum(LittleEndian));
    if offset == 0 || count == 0 {
        return Err(Error::NothingToLoad);
    }
    if count > MAX_PROGRAM_HEADERS {
        return bad("e_phnum", count, "at most 256");
    }
    let size = header.e_phentsize(LittleEndian);
    if usize::from(size) != size_of::<Elf::ProgramHeader>() {
        return bad("e_phentsize", size, "56 for 64 bits, 32 for 32 bits");
    }
    source.check("program header table", offset, u64::from(size).saturating_mul(count.into()))?;
    header.program_headers(LittleEndian, cache).or(Err(unreadable()))
}

/// A `PT_LOAD` segment, checked by itself; `None` if it has no byte in memory.
fn segment<P: ProgramHeader<Endian = LittleEndian>>(
    number: u16,
    header: &P,
    source: &Source<'_>,
    bias: u64,
) -> Result<Option<Segment>, Error> {
    let (file_len, memory_len): (u64, u64) =
        (header.p_filesz(LittleEndian).into(), header.p_memsz(LittleEndian).into());
    if file_len > memory_len {
        return Err(Error::SegmentTooLong { segment: number, file_len, memory_len });
    }
    let file_offset = header.p_offset(LittleEndian).into();
    if file_len > 0 {
        source.check("segment", file_offset, file_len)?;
    }
    let addr = header.p_paddr(LittleEndian).into();
    let segment = Segment {
        number,
        file_offset,
        file_len,
        memory_len,
        addr: GuestAddress(addr).checked_add(bias).ok_or(Error::AddressOverflow { addr, offset: bias })?,
        virtual_addr: header.p_vaddr(LittleEndian).into(),
        executable: header.p_flags(LittleEndian).0 & PF_X.0 != 0,
    };
    Ok((memory_len > 0).then_some(segment))
}

/// The guest-physical address of the entry; `None` if it is not among the loaded bytes.
fn find_entry(segments: &[Segment], entry: u64, bias: u64) -> Option<GuestAddress> {
    let translated = segments.iter().filter(|segment| segment.executable).find_map(|segment| {
        let offset = entry.checked_sub(segment.virtual_addr).filter(|&offset| offset < segment.file_len)?;
        segment.addr.checked_add(offset)
    });
    translated.or_else(|| find_physical(segments, entry, bias))
}

/// A physical address of the file, where it lies now; `None` if it is not among the loaded bytes.
fn find_physical(segments: &[Segment], addr: u64, bias: u64) -> Option<GuestAddress> {
    let addr = GuestAddress(addr).checked_add(bias)?;
    segments.iter().any(|segment| segment.loaded().contains(addr)).then_some(addr)
}

/// The PVH entry, where it lies now; `None` unless it is among the loaded bytes and 32-bit mode reaches it.
fn find_pvh(segments: &[Segment], addr: u64, bias: u64) -> Option<GuestAddress> {
    find_physical(segments, addr, bias).filter(|&entry| entry <= LAST_BELOW_4G)
}
