//! Code that has nothing to do with guest memory compiles in a crate that links the library.
//!
//! Each line here has one type that it can mean as long as no crate implements a trait of the standard library between
//! an integer and a type of its own. `u64: PartialOrd<Le64>`, for example, makes `n > u32::MAX.into()` ambiguous in every
//! crate of the program.

use std::io;

// Links the library: without this the compiler does not look at its impls.
use memory_model as _;

macro_rules! operands {
    ($($name:ident: $T:ident from $from:expr;)*) => {$(
        #[test]
        fn $name() {
            let (n, text): ($T, &str) = (7, "7");
            // An operand whose type is only known from the other.
            assert!(n <= $from.into() && n >= $from.into());
            assert!(!(n < $from.into() || n > $from.into()));
            assert!(n == $from.into());
            assert_eq!(n, text.parse().unwrap());
            assert_ne!(n, Default::default());
            assert_eq!(n.partial_cmp(&$from.into()), Some(std::cmp::Ordering::Equal));
            // Elements of a collection, too.
            assert_eq!([n, n], [$from.into(), text.parse().unwrap()]);
            assert_eq!(vec![n], text.split(',').map(|number| number.parse().unwrap()).collect::<Vec<_>>());
            assert!(Some(n) == text.parse().ok());
            assert!((n, n) > (Default::default(), $from.into()));
            // Iterators of a type that is not written down.
            assert!([n].iter().copied().eq([$from].map(Into::into)));
            assert!([n].into_iter().le(text.parse()));
        }
    )*};
}
operands! {
    operands_of_16_bits: u16 from 7_u8;
    operands_of_32_bits: u32 from 7_u16;
    operands_of_64_bits: u64 from 7_u32;
    operands_of_the_hosts_size: usize from 7_u16;
}

#[test]
fn arithmetic_and_bits() {
    // The standard library has both `u64 + u64` and `u64 + &u64`: the type of a literal is known, that of `into` is not.
    let n: u64 = 0xff;
    let flags = [1, 2, 4];
    assert_eq!(n & 0xf | 0x10 << 1, 0x2f);
    assert_eq!(flags.iter().sum::<u64>() + n, 0x106);
    assert_eq!(flags.iter().fold(0, |all, flag| all | flag), 7);
    assert_eq!((n + 1).max(3_u8.into()), 0x100);
    assert_eq!(usize::MAX.checked_add(1), None);
}

#[test]
fn conversions() {
    fn read(text: &str) -> Result<u64, io::Error> {
        let n: u32 = text.parse().map_err(io::Error::other)?;
        Ok(n.into())
    }
    assert_eq!(read("7").unwrap(), 7);
    assert_eq!(u64::from(7_u32) + u64::from(true), 8);
    assert_eq!(u16::try_from(7_u64).unwrap(), 7);
    assert_eq!(usize::try_from(read("7").unwrap()).ok(), Some(7));
    let kind: io::Error = io::ErrorKind::NotFound.into();
    assert_eq!(kind.kind(), io::ErrorKind::NotFound);
}
