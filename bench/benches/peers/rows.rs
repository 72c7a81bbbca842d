//! The table's rows: each the same work for all contenders, and what is asked of it.

use contenders::{At, Ends, Random, Type, Work, run, run_vm_memory};

use crate::memory::{Layout, Place, World, spots, starts};
use crate::raw::Raw;

/// How many regions typed accesses are spread over.
const REGIONS: [usize; 4] = [1, 8, 64, 1024];

/// Sizes of slices, in bytes.
const SIZES: [usize; 16] = [16, 32, 64, 100, 128, 200, 256, 512, 1000, 1024, 1500, 2048, 4096, 9000, 64 << 10, 1 << 20];

/// Addresses of a typed row: too many for a branch predictor to learn the way to each of them.
const ADDRESSES: usize = 4096;

const TYPES: [Type; 5] = [Type::U8, Type::U16, Type::U32, Type::U64, Type::Pair];

/// Work for all contenders.
pub(crate) struct Row<'a> {
    /// What is done, for people.
    pub(crate) name: String,
    /// In which memory, for people.
    pub(crate) place_name: String,
    pub(crate) work: Work,
    pub(crate) asked: Asked,
    /// Where the memory's file is accessed.
    pub(crate) offsets: Vec<u64>,
    /// The same, for those who go by guest addresses, and for those who do not.
    guest: Vec<At>,
    raw_at: Vec<At>,
    place: &'a Place,
    raw: &'a Raw,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    MemoryModel,
    VmMemory,
    Raw,
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [Self::MemoryModel, Self::VmMemory, Self::Raw];
}

/// What is asked of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Nothing,
    /// So many times vm-memory's speed.
    Speedup(f64),
    /// At most 1.10 times raw's time and 2 ns.
    NearRaw,
}

/// Rows that are measured in turns.
pub(crate) type Group<'a> = Vec<Row<'a>>;

/// The figures that are asked depend on the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `[profile.release]` as it is by default.
    Release,
    /// Fat LTO, one codegen unit.
    Fat,
}

impl Row<'_> {
    /// Does one operation at each address. The answer must be the same for all contenders.
    pub(crate) fn pass(&self, who: Who, ends: &mut Ends) -> u64 {
        match who {
            Who::MemoryModel => run(&self.place.memory_model, self.work, &self.guest, ends),
            Who::VmMemory => run_vm_memory(&self.place.vm_memory, self.work, &self.guest, ends),
            Who::Raw => run(self.raw, self.work, &self.raw_at, ends),
        }
    }

    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.name, self.place_name)
    }
}

/// All memories that rows need.
pub(crate) struct Places<'a> {
    raw: &'a Raw,
    apart: Vec<Place>,
    adjacent: Vec<Place>,
    scattered: Vec<Place>,
    _padding: Vec<u8>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let places = |layout, regions: &[usize]| regions.iter().map(|&count| world.place(count, layout)).collect();
        Self {
            raw: &world.raw,
            apart: places(Layout::Apart, &REGIONS),
            adjacent: places(Layout::Adjacent, &[64, 1024]),
            scattered: places(Layout::Scattered, &[8, 1024]),
            _padding: Vec::new(),
        }
    }

    /// The same several times. Where in its page a contender has its own data makes for differences of up to half of
    /// its time (see [`At`]), and is nothing that it chose: so each has several chances.
    pub(crate) fn copies(world: &'a World) -> Vec<Self> {
        // Sizes by which an allocator's addresses differ.
        let copy = |number: usize| Self { _padding: vec![0; 24 + 1040 * number], ..Self::new(world) };
        (0..4).map(copy).collect()
    }

    /// All rows.
    pub(crate) fn groups(&self, profile: Profile) -> [Group<'_>; 5] {
        [self.typed(profile), self.atomic(profile), self.slices(), self.boundary(), self.streams()]
    }

    fn row(&'a self, place: &'a Place, work: Work, offsets: Vec<u64>) -> Row<'a> {
        Row {
            name: name(work),
            place_name: match place.layout {
                Layout::Apart => place.regions.to_string(),
                Layout::Adjacent => format!("{} adjacent", place.regions),
                Layout::Scattered => format!("{} scattered", place.regions),
            },
            work,
            asked: Asked::Nothing,
            guest: offsets.iter().map(|&offset| place.guest(offset).into()).collect(),
            raw_at: offsets.iter().map(|&offset| offset.into()).collect(),
            offsets,
            place,
            raw: self.raw,
        }
    }

    fn typed(&self, profile: Profile) -> Group<'_> {
        let mut rows = Vec::new();
        for (index, place) in self.apart.iter().enumerate() {
            let (read, write) = match profile {
                Profile::Release => ([2.7, 4.5, 7.0, 9.0][index], [2.2, 4.0, 6.0, 8.0][index]),
                Profile::Fat => (10.0, 10.0),
            };
            for of in TYPES {
                for (work, asked) in [(Work::Read(of), read), (Work::Write(of), write)] {
                    rows.push(Row { asked: Asked::Speedup(asked), ..self.row(place, work, spots(ADDRESSES)) });
                }
            }
            for work in [Work::Read(Type::U64), Work::Write(Type::U64)] {
                let offsets = spots(ADDRESSES).into_iter().map(|offset| offset + 1).collect();
                rows.push(Row { name: format!("{} + 1", name(work)), ..self.row(place, work, offsets) });
            }
        }
        for place in self.adjacent.iter().skip(1).chain(&self.scattered) {
            for work in [Work::Read(Type::U64), Work::Write(Type::U64)] {
                rows.push(self.row(place, work, spots(ADDRESSES)));
            }
        }
        rows
    }

    fn atomic(&self, profile: Profile) -> Group<'_> {
        let mut rows = Vec::new();
        for place in &self.apart {
            let asked = match (profile, place.regions) {
                (Profile::Release, 1) => Asked::Speedup(2.6),
                (Profile::Release, 1024) => Asked::Speedup(9.0),
                (Profile::Fat, 1) => Asked::Speedup(1.7),
                (Profile::Fat, 1024) => Asked::Speedup(8.0),
                _ => Asked::Nothing,
            };
            for work in [Work::Load, Work::Store] {
                rows.push(Row { asked, ..self.row(place, work, spots(ADDRESSES)) });
            }
        }
        rows
    }

    fn slices(&self) -> Group<'_> {
        let mut rows = Vec::new();
        for size in SIZES {
            for work in [Work::ReadSlice(size), Work::WriteSlice(size)] {
                let offsets = starts(((4 << 20) / size).clamp(4, 1024));
                rows.push(Row { asked: Asked::NearRaw, ..self.row(&self.apart[0], work, offsets) });
            }
        }
        rows
    }

    /// Accesses that begin in one region and end in the next.
    fn boundary(&self) -> Group<'_> {
        let place = &self.adjacent[0];
        let row = |work: Work| {
            let size = work.size() as u64;
            let mut random = Random::new(size);
            let offset = |_| {
                let boundary = (1 + random.below(place.regions as u64 - 1)) * place.region_size();
                boundary - 1 - random.below(size - 1)
            };
            let offsets = (0..1024).map(offset).collect();
            Row { place_name: "boundary".into(), ..self.row(place, work, offsets) }
        };
        [Work::Read(Type::U64), Work::Write(Type::U64), Work::ReadSlice(4096), Work::WriteSlice(4096)].map(row).into()
    }

    fn streams(&self) -> Group<'_> {
        let row = |work: Work| self.row(&self.apart[0], work, starts((1 << 20) / work.size()));
        [Work::FromFile(4 << 10), Work::FromFile(64 << 10), Work::FromPipe(4 << 10), Work::FromPipe(64 << 10)]
            .map(row)
            .into()
    }
}

fn name(work: Work) -> String {
    let of_type = |of| match of {
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::Pair => "16 B",
    };
    match work {
        Work::Read(of) => format!("read_obj {}", of_type(of)),
        Work::Write(of) => format!("write_obj {}", of_type(of)),
        Work::Load => "load u16".into(),
        Work::Store => "store u16".into(),
        Work::ReadSlice(size) => format!("read_slice {}", bytes(size)),
        Work::WriteSlice(size) => format!("write_slice {}", bytes(size)),
        Work::FromFile(size) => format!("write_from file {}", bytes(size)),
        Work::FromPipe(size) => format!("write_from pipe {}", bytes(size)),
    }
}

fn bytes(size: usize) -> String {
    match size {
        0x10_0000.. => format!("{} MiB", size >> 20),
        0x1_0000.. => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}
