//! The types that are read and written as a whole, by name.

use memory_model::DataInit;

/// A type for `read_obj` and `write_obj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    U8,
    U16,
    U32,
    U64,
    Empty,
    Three,
    Sixteen,
}

impl Shape {
    pub(crate) const ALL: [Self; 7] =
        [Self::U8, Self::U16, Self::U32, Self::U64, Self::Empty, Self::Three, Self::Sixteen];

    pub(crate) fn size(self) -> usize {
        with_shape!(self, T => size_of::<T>())
    }
}

/// Evaluates `$body`, in which `$T` is the type that a [`Shape`] names.
macro_rules! with_shape {
    ($shape:expr, $T:ident => $body:expr) => {
        with_shape!(@ $crate::model::value::Shape, $shape, $T => $body;
            U8: u8, U16: u16, U32: u32, U64: u64, Empty: [u8; 0], Three: [u8; 3], Sixteen: [u8; 16])
    };
    (@ $Enum:ty, $value:expr, $T:ident => $body:expr; $($Variant:ident: $Type:ty),*) => {
        match $value {
            $(<$Enum>::$Variant => {
                type $T = $Type;
                $body
            })*
        }
    };
}
pub(crate) use with_shape;

/// A type for the atomic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atom {
    U8,
    U16,
    U32,
    U64,
    I32,
    Usize,
    Le16,
    Le32,
    Le64,
    Be16,
    Be32,
    Be64,
}

impl Atom {
    pub(crate) const ALL: [Self; 12] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I32,
        Self::Usize,
        Self::Le16,
        Self::Le32,
        Self::Le64,
        Self::Be16,
        Self::Be32,
        Self::Be64,
    ];

    pub(crate) fn size(self) -> usize {
        with_atom!(self, T => size_of::<T>())
    }
}

/// Evaluates `$body`, in which `$T` is the type that an [`Atom`] names.
macro_rules! with_atom {
    ($atom:expr, $T:ident => $body:expr) => {
        $crate::model::value::with_shape!(@ $crate::model::value::Atom, $atom, $T => $body;
            U8: u8, U16: u16, U32: u32, U64: u64, I32: i32, Usize: usize,
            Le16: memory_model::Le16, Le32: memory_model::Le32, Le64: memory_model::Le64,
            Be16: memory_model::Be16, Be32: memory_model::Be32, Be64: memory_model::Be64)
    };
}
pub(crate) use with_atom;

/// The value whose bytes are the first of `bytes`.
pub(crate) fn value<T: DataInit>(bytes: &[u8]) -> T {
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(&bytes[..size_of::<T>()]);
    value
}
